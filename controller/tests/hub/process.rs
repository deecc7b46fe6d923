//! The hub as a child process.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::store::{Store, eventually};

/// A running hub.
pub(crate) struct Hub {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Its TLS port.
    pub(crate) addr: SocketAddr,
    admin: SocketAddr,
}

impl Hub {
    /// Starts one and waits until it listens.
    pub(crate) async fn start(store: &Store, replica: &str, flags: &[&str]) -> Self {
        let kubeconfig = store.kubeconfig().display().to_string();
        let mut command = command(&kubeconfig, flags);
        command.args(["--replica", replica]);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let (addr, admin) = eventually("the hub to listen", async || {
            let ended = child.try_wait().unwrap();
            let text = log.lock().unwrap().clone();
            assert!(ended.is_none(), "it ended: {text}");
            let line = text.lines().find(|line| line.contains("the hub listens"))?;
            Some((field(line, "addr=")?, field(line, "admin=")?))
        })
        .await;
        Self {
            child,
            log,
            addr,
            admin,
        }
    }

    /// Waits until it serves.
    pub(crate) async fn is_ready(&self) {
        eventually("the hub to be ready", async || {
            (self.page("/readyz").await == "ready\n").then_some(())
        })
        .await;
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self) {
        eventually("the hub to lead", async || {
            let metrics = self.page("/metrics").await;
            metrics.contains("fairlead_hub_leads 1").then_some(())
        })
        .await;
    }

    /// An admin page.
    pub(crate) async fn page(&self, path: &str) -> String {
        let socket = TcpStream::connect(self.admin).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "hub");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        driver.abort();
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end: the exit code, if it was not killed.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the hub ends").unwrap().code()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

/// Runs a hub that cannot start: its exit code, and what it says.
pub(crate) async fn mistake(kubeconfig: &str, flags: &[&str]) -> (Option<i32>, String) {
    let output = command(kubeconfig, flags).output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    let output = output.expect("it ends").unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn command(kubeconfig: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead-controller"));
    command.args(["hub", "--kubeconfig", kubeconfig]);
    let given = |flag: &str| flags.contains(&flag);
    if !given("--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    if !given("--admin") {
        command.args(["--admin", "127.0.0.1:0"]);
    }
    command
        .args(flags)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn field<T: std::str::FromStr>(line: &str, name: &str) -> Option<T> {
    let (_, rest) = line.split_once(name)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Far more than ever needed.
const PATIENCE: Duration = Duration::from_secs(60);
