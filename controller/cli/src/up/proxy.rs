//! The proxy of `up`, in a process of its own.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, process::Stdio};

use anyhow::{Context, bail, ensure};
use fairlead_proxy::{app::process, settings::Flags};
use fairlead_runtime::clock::Clock;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Child,
    time::timeout,
};

use super::{
    Options, child, cluster::write_secret, folder::Folder, hub::Hub, objects::GROUP, wait,
};

/// Is the proxy until its parent is gone.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    child::die_with_parent();
    process::run(flags, Clock::system())
}

/// The running proxy.
pub(super) struct Proxy {
    child: Child,
    token: PathBuf,
    /// Where its admin pages are.
    pub(super) admin: SocketAddr,
}

impl Proxy {
    /// Starts it with a token of its group.
    pub(super) async fn start(
        options: &Options,
        folder: &Folder,
        hub: &Hub,
        admin: SocketAddr,
    ) -> anyhow::Result<Self> {
        let own = folder.path.join("proxy");
        std::fs::create_dir_all(&own)?;
        let token = own.join("xds.token");
        let bundle = own.join("bundle.pem");
        write_secret(&token, &hub.proxy_token().await?.token)?;
        std::fs::write(&bundle, hub.bundle())?;
        let mut command = child::command(&folder.path, "proxy", "up-proxy")?;
        let xds = format!("https://{}", hub.address());
        command.args(["--xds", &xds, "--node", "up", "--group", GROUP]);
        command.args(["--admin", &admin.to_string()]);
        command.arg("--xds-token").arg(&token);
        command.arg("--xds-ca").arg(&bundle);
        command.arg("--xds-state").arg(own.join("state"));
        command.args(["--drain-timeout", "1s", "--log-level", &options.log_level]);
        let log = std::fs::File::options()
            .append(true)
            .open(child::log_of(&folder.path, "proxy"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .context("cannot start the proxy")?;
        Ok(Self {
            child,
            token,
            admin,
        })
    }

    /// Gives it a fresh token; it reads the file at its next connect.
    pub(super) async fn renew(&self, hub: &Hub) -> anyhow::Result<()> {
        write_secret(&self.token, &hub.proxy_token().await?.token)
    }

    /// Waits until each sample member has answered through it.
    pub(super) async fn serving(&mut self, addr: SocketAddr, members: u8) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        let child = &mut self.child;
        let what = format!("{members} members to answer through {addr}");
        let all = wait::until(&what, async || {
            if let Some(status) = child.try_wait()? {
                bail!("the proxy ended with {status}");
            }
            while seen.len() < usize::from(members) {
                match timeout(ANSWER, ask(addr)).await {
                    Ok(Ok(member)) => drop(seen.insert(member)),
                    Ok(Err(error)) => return Ok(Err(format!("{seen:?} did; now: {error}"))),
                    Err(_) => return Ok(Err(format!("{seen:?} did; now there is no answer"))),
                }
            }
            Ok(Ok(()))
        });
        all.await.context("the logs may say why")
    }

    /// Waits until something accepts connections there.
    pub(super) async fn listening(&mut self, addr: SocketAddr) -> anyhow::Result<()> {
        let child = &mut self.child;
        wait::until(&format!("the proxy to listen on {addr}"), async || {
            if let Some(status) = child.try_wait()? {
                bail!("the proxy ended with {status}");
            }
            let connected = TcpStream::connect(addr).await;
            Ok(connected.map(drop).map_err(|error| error.to_string()))
        })
        .await
    }

    /// One of its admin pages, as JSON.
    pub(super) async fn page(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let asked = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let admin = self.admin;
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = timeout(ANSWER, asked)
            .await
            .context("the proxy's admin page")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        Ok(serde_json::from_str(body)?)
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
        // One that is gone already needs no telling.
        let _told = child::signal(&self.child, Signal::TERM);
        child::end(&mut self.child).await;
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

const ANSWER: std::time::Duration = std::time::Duration::from_secs(5);
