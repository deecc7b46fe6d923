//! The proxy of `up`, in a process of its own.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    Options, START_PATIENCE,
    hub::{Endpoint, Hub},
    objects::{GROUP, POLL},
};

/// The running proxy.
pub(super) struct Proxy {
    child: Child,
    /// Where its admin pages are.
    pub(super) admin: SocketAddr,
}

impl Proxy {
    /// Starts it with a token of its group.
    pub(super) async fn start(options: &Options, folder: &Path, hub: &Hub) -> anyhow::Result<Self> {
        let own = folder.join("proxy");
        std::fs::create_dir_all(&own)?;
        let token = own.join("xds.token");
        let bundle = own.join("bundle.pem");
        write_secret(&token, &hub.proxy_token().await?.token)?;
        std::fs::write(&bundle, hub.bundle())?;
        let admin = free_address().await?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("logs/proxy.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        let xds = format!("https://{}", hub.address());
        command.args(["up-proxy", "--xds", &xds, "--node", "up", "--group", GROUP]);
        command.args(["--admin", &admin.to_string()]);
        command.arg("--xds-token").arg(&token);
        command.arg("--xds-ca").arg(&bundle);
        command.arg("--xds-state").arg(own.join("state"));
        command.args(["--drain-timeout", "1s", "--log-level", &options.log_level]);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the proxy")?;
        Ok(Self { child, admin })
    }

    /// Waits until each member has answered through it.
    pub(super) async fn serving(&mut self, endpoint: &Endpoint, members: u8) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < usize::from(members) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy ended with {status}; its log is in logs/proxy.log");
            }
            match timeout(START_PATIENCE, ask(endpoint.tcp)).await {
                Ok(Ok(member)) => drop(seen.insert(member)),
                _ => sleep(POLL).await,
            }
            if Instant::now() > deadline {
                bail!(
                    "only {seen:?} answered through {}; see the folder logs",
                    endpoint.tcp
                );
            }
        }
        Ok(())
    }

    /// Waits for its end.
    pub(super) async fn exit(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) {
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that is gone already needs no telling.
            let _: Result<(), _> = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            drop(self.child.kill().await);
        }
    }
}

/// The member that answers a line.
async fn ask(addr: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"ready?\n").await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    let member = line.split(' ').next().filter(|word| !word.is_empty());
    Ok(member.context("no answer")?.to_owned())
}

async fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

fn write_secret(path: &PathBuf, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
