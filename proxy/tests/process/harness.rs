//! The proxy's binary, seen from outside.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::support::{PATIENCE, exchange, free_addr, wait};

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) front: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

impl Process {
    pub(crate) fn start(text: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let front = free_addr();
        let mut process = Self {
            child: Command::new("true").spawn().unwrap(),
            front,
            folder,
        };
        process.write(text);
        process.child.wait().unwrap();
        process.child = process.spawn(Path::new(PROGRAM), arguments);
        wait("the frontend", || TcpStream::connect(front).is_ok());
        process
    }

    /// Starts another process with the same file.
    pub(crate) fn spawn(&self, program: &Path, arguments: &[&str]) -> Child {
        let path = self.path();
        let config = ["--config", path.to_str().unwrap()];
        self.run(program, &[&config, arguments].concat())
    }

    /// Runs any program, which tells what it does where the others do.
    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) -> Child {
        Command::new(program)
            .args(arguments)
            .stderr(Stdio::from(self.log()))
            .spawn()
            .unwrap()
    }

    /// Where all processes of this file tell what they do; shown when the test fails.
    fn log(&self) -> std::fs::File {
        let path = self.folder.path().join("stderr");
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).open(path).unwrap()
    }

    /// What they told so far.
    pub(crate) fn told(&self) -> String {
        let path = self.folder.path().join("stderr");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("proxy.yaml")
    }

    /// Replaces the file in one step.
    pub(crate) fn write(&self, text: &str) {
        let log = self.folder.path().join("log");
        let text = text
            .replace("$FRONT", &self.front.to_string())
            .replace("$LOG", &log.display().to_string());
        let next = self.folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.path()).unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.front).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        // It may have ended meanwhile.
        sent.unwrap();
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait("the process to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Processes that run with this file and are no children of this one.
    fn end_successors(&self) {
        let path = self.path();
        let needle = path.as_os_str().as_encoded_bytes();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if line.windows(needle.len()).any(|part| part == needle) {
                Command::new("kill")
                    .arg("-KILL")
                    .arg(process.file_name())
                    .status()
                    .ok();
            }
        }
    }

    /// Resident memory that belongs to no file, in bytes.
    pub(crate) fn anonymous(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.unwrap().split_whitespace().next().unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn fds(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(Path::new(&folder)).unwrap().count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = std::fs::read_to_string(self.folder.path().join("stderr"));
            eprintln!("{}", told.unwrap_or_default());
        }
        self.child.kill().ok();
        self.child.wait().ok();
        self.end_successors();
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections under way all the time, each of which must be served.
pub(crate) struct Load {
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Runs `work` under load at `front` and returns how many connections failed.
    pub(crate) fn during(front: SocketAddr, work: impl FnOnce(&Self)) -> u64 {
        let load = Self {
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| load.run(front));
            }
            // Also when the work fails: the load would go on for ever.
            let _stop = StopAtEnd(&load.stop);
            work(&load);
        });
        load.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many more were served.
    pub(crate) fn wait_for(&self, more: u64) {
        let before = self.done.load(Ordering::Relaxed);
        wait("load to be served", || {
            self.done.load(Ordering::Relaxed) >= before + more
        });
    }

    fn run(&self, front: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let client = TcpStream::connect(front);
            let answer = client.and_then(|mut client| {
                client.set_read_timeout(Some(PATIENCE))?;
                exchange(&mut client, b"load")
            });
            let counter = match answer {
                Ok(_) => &self.done,
                Err(_) => &self.failed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fairlead-proxy");
