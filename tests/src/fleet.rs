//! A whole fleet, as `fairlead up` runs it, seen from outside: its ready file, its endpoint, its API
//! servers, its standard input, and the command line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    task::JoinSet,
    time::timeout,
};

use crate::wait;

/// A running `fairlead up`; whatever it started ends with it.
pub struct Fleet {
    program: PathBuf,
    /// What the ready file says.
    pub ready: Ready,
    /// What it printed so far.
    pub output: Output,
    child: Child,
    stdin: Option<ChildStdin>,
    folder: TempDir,
    _readers: JoinSet<()>,
}

/// The ready file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ready {
    /// `namespace/name`.
    pub service: String,
    /// Where clients connect.
    pub endpoint: Addresses,
    /// The hub's API server.
    pub hub: ClusterFile,
    /// The members.
    pub members: Vec<MemberFile>,
    /// `http://IP:PORT`.
    pub proxy_admin: String,
}

/// One address a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Addresses {
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
}

/// A cluster by its administrator's kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ClusterFile {
    pub kubeconfig: PathBuf,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct MemberFile {
    pub name: String,
    pub kubeconfig: PathBuf,
    pub pid: u32,
}

/// Lines of standard output and error, in the order they came.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<String>>>);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Fleet {
    /// Starts `program up` with these arguments and waits until it serves.
    pub async fn start(program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("ready.json");
        let mut command = command(program);
        command
            .args(["up", "--ready-file"])
            .arg(&file)
            .args(arguments)
            // What it leaves behind when it is killed goes with the test.
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("fairlead up")?;
        let output = Output::default();
        let mut readers = JoinSet::new();
        readers.spawn(output.clone().collect(child.stdout.take()));
        readers.spawn(output.clone().collect(child.stderr.take()));
        let stdin = child.stdin.take();
        let ready = wait::until("the ready file", async || {
            if let Some(status) = child.try_wait()? {
                bail!("fairlead up ended with {status}: {}", output.text());
            }
            Ok(std::fs::read(&file).map_err(|_| output.text()))
        })
        .await
        .with_context(|| format!("the fleet's logs end with:\n{}", logs(folder.path())))?;
        let ready = serde_json::from_slice(&ready)
            .with_context(|| format!("the ready file says {}", String::from_utf8_lossy(&ready)))?;
        Ok(Self {
            program: program.to_owned(),
            ready,
            output,
            child,
            stdin,
            folder,
            _readers: readers,
        })
    }

    /// The hub's administrator.
    pub async fn hub(&self) -> anyhow::Result<Client> {
        client(&self.ready.hub.kubeconfig).await
    }

    /// A member's administrator.
    pub async fn member(&self, name: &str) -> anyhow::Result<Client> {
        client(&self.member_file(name)?.kubeconfig).await
    }

    /// What the ready file says of a member.
    pub fn member_file(&self, name: &str) -> anyhow::Result<&MemberFile> {
        let mut members = self.ready.members.iter();
        let found = members.find(|member| member.name == name);
        found.with_context(|| format!("there is no member {name}"))
    }

    /// Ends a member's process as a power cut would.
    pub fn kill(&self, member: &str) -> anyhow::Result<()> {
        kill(self.member_file(member)?.pid, "KILL")
    }

    /// Types a line and waits for the answer that begins so.
    pub async fn say(&mut self, line: &str, answer: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("standard input was closed")?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        self.output.wait_for(answer).await
    }

    /// Runs a command of the CLI against the hub to its end.
    pub async fn fairlead(&self, arguments: &[&str]) -> anyhow::Result<Finished> {
        let finished = self.command(arguments).output();
        let output = timeout(wait::PATIENCE, finished)
            .await
            .with_context(|| format!("{arguments:?} does not end"))??;
        Ok(Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Like [`Self::fairlead`], but fails unless it succeeds; its standard output.
    pub async fn must(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let done = self.fairlead(arguments).await?;
        ensure!(done.code == Some(0), "{arguments:?}: {done:?}");
        Ok(done.stdout)
    }

    /// A command of the CLI against the hub.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.ready.hub.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A place for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it as Ctrl-C does, with standard input still open, and waits for its end.
    pub async fn interrupt(mut self) -> anyhow::Result<(Option<i32>, TempDir)> {
        let pid = self.child.id().context("fairlead up is gone")?;
        kill(pid, "INT")?;
        let status = timeout(wait::PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("it does not end: {}", self.output.text()))??;
        Ok((status.code(), self.folder))
    }
}

impl Output {
    /// All of it.
    pub fn text(&self) -> String {
        self.0.lock().join("\n")
    }

    /// Waits for a line that begins so, and takes it and all before it.
    pub async fn wait_for(&self, start: &str) -> anyhow::Result<()> {
        wait::until(&format!("a line {start:?}…"), async || {
            let mut lines = self.0.lock();
            match lines.iter().position(|line| line.starts_with(start)) {
                Some(at) => {
                    lines.drain(..=at);
                    Ok(Ok(()))
                }
                None => Ok(Err(lines.clone())),
            }
        })
        .await
    }

    async fn collect(self, from: Option<impl AsyncRead + Unpin>) {
        let Some(from) = from else { return };
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.0.lock().push(line);
        }
    }
}

/// Runs a program to its end.
pub async fn run(program: &Path, arguments: &[&str]) -> anyhow::Result<Finished> {
    let output = timeout(wait::PATIENCE, command(program).args(arguments).output())
        .await
        .with_context(|| format!("{arguments:?} does not end"))??;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Sends a signal to a process.
pub fn kill(pid: u32, signal: &str) -> anyhow::Result<()> {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -{signal} {pid}: {status}");
    Ok(())
}

/// A client by a kubeconfig.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// A page of the proxy's admin server.
pub async fn page(admin: &str, path: &str) -> anyhow::Result<String> {
    let addr = admin
        .strip_prefix("http://")
        .context("no http:// address")?;
    let mut stream = tokio::net::TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer);
    timeout(Duration::from_secs(30), read)
        .await
        .context(path.to_owned())??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// The last lines of each log below the folder of a fleet.
pub fn logs(folder: &Path) -> String {
    let list = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let logs = list(folder)
        .into_iter()
        .flat_map(|fleet| list(&fleet.join("logs")));
    let tails = logs.map(|log| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        format!("{}:\n{last}\n", log.display())
    });
    tails.collect()
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).env_remove("FAIRLEAD_LOG");
    command
}
