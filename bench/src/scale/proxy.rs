//! The proxy's process.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::{live, plane::Plane};

/// A running proxy with one worker; dropping it ends it.
pub(crate) struct Proxy {
    child: Child,
    admin: SocketAddr,
}

/// What it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// The most memory it ever had resident, megabytes of a million bytes.
    pub(crate) peak: f64,
    /// What it has now.
    pub(crate) resident: f64,
    /// Open files.
    pub(crate) files: u32,
}

impl Proxy {
    /// Takes its configuration from a control plane.
    pub(crate) fn under(plane: &Plane, state: Option<&Path>) -> anyhow::Result<Self> {
        let server = format!("http://{}", plane.addr());
        let mut command = Self::command()?;
        command.args(["--xds", &server, "--node", "scale"]);
        if let Some(state) = state {
            command.arg("--xds-state").arg(state);
        }
        Self::spawn(command)
    }

    /// Takes its configuration from a file.
    pub(crate) fn of_file(path: &Path) -> anyhow::Result<Self> {
        let mut command = Self::command()?;
        command.arg("--config").arg(path);
        Self::spawn(command)
    }

    fn command() -> anyhow::Result<Command> {
        let beside = std::env::current_exe()?.with_file_name("fairlead-proxy");
        let program = std::env::var_os("FAIRLEAD_BENCH_FAIRLEAD").map_or(beside, Into::into);
        ensure!(
            program.exists(),
            "{} is missing: build fairlead-proxy first, or set FAIRLEAD_BENCH_FAIRLEAD",
            program.display()
        );
        Ok(Command::new(program))
    }

    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        command.args(["--workers", "1", "--log-level", "warn"]);
        command.args(["--admin", &admin.to_string()]);
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.context("starting the proxy")?;
        Ok(Self { child, admin })
    }

    /// Waits until a frontend has somebody answer.
    pub(crate) fn wait_for(&self, front: SocketAddr) -> anyhow::Result<()> {
        let began = Instant::now();
        while live::ask(front).is_err() {
            if began.elapsed() > PATIENCE {
                bail!("{front} doesn't answer");
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Memory and files.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let folder = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{folder}/status")).context("the proxy ended")?;
        let megabytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let value = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            value.unwrap_or(0.0) * 1024.0 / 1e6
        };
        Ok(Usage {
            peak: megabytes("VmHWM:"),
            resident: megabytes("VmRSS:"),
            files: u32::try_from(fs::read_dir(format!("{folder}/fd"))?.count())?,
        })
    }

    /// A value of `/metrics`, by the start of its line.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut client = TcpStream::connect(self.admin)?;
        client.write_all(b"GET /metrics HTTP/1.0\r\nHost: bench\r\n\r\n")?;
        let mut page = String::new();
        client.read_to_string(&mut page)?;
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.with_context(|| format!("no {name} in the metrics"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const PATIENCE: Duration = Duration::from_secs(120);
