//! The real etcd, kube-apiserver and kube-controller-manager, as child processes on loopback.
//!
//! They come from the folder that `KUBEBUILDER_ASSETS` names (the convention of controller-runtime);
//! `tests/kube/build.sh` makes one. Everything they write goes into a temporary folder; they end with
//! the value that owns them.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, bail};
use kube::{Client, Config, config::AuthInfo};

use crate::wait;

/// How the processes are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where their files go (a folder of their own in it); `None` for the system's.
    pub folder: Option<PathBuf>,
    /// etcd makes each write safe before it answers. Tests can do without; comparisons can't.
    pub fsync: bool,
    /// Run kube-controller-manager too, where there is one.
    pub controllers: bool,
}

/// The three processes.
pub struct RealServer {
    children: Vec<Child>,
    programs: PathBuf,
    files: Files,
    ports: Ports,
    fsync: bool,
    managed: bool,
    folder: tempfile::TempDir,
    config: Config,
    client: Client,
}

impl Default for Setup {
    /// As tests need it: quick, and complete.
    fn default() -> Self {
        Self {
            folder: None,
            fsync: false,
            controllers: true,
        }
    }
}

impl RealServer {
    /// Starts them where `KUBEBUILDER_ASSETS` is set; `None` where it isn't.
    pub async fn start_from_environment() -> anyhow::Result<Option<Self>> {
        match std::env::var_os("KUBEBUILDER_ASSETS") {
            Some(folder) => Ok(Some(Self::start(Path::new(&folder)).await?)),
            None => Ok(None),
        }
    }

    /// Starts etcd, kube-apiserver and, where the folder has it, kube-controller-manager, and waits
    /// until they serve.
    pub async fn start(programs: &Path) -> anyhow::Result<Self> {
        Self::start_with(programs, &Setup::default()).await
    }

    /// The same, set up in another way than tests need it.
    pub async fn start_with(programs: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let folder = match &setup.folder {
            Some(folder) => tempfile::tempdir_in(folder)?,
            None => tempfile::tempdir()?,
        };
        let manager = programs.join("kube-controller-manager");
        let managed = setup.controllers && manager.is_file();
        let ports = Ports {
            etcd: free_port()?,
            peer: free_port()?,
            api: free_port()?,
        };
        let config = admin_config(ports.api)?;
        let mut server = Self {
            children: Vec::new(),
            programs: programs.to_owned(),
            files: Files::write(folder.path())?,
            ports,
            fsync: setup.fsync,
            managed,
            client: Client::try_from(config.clone())?,
            folder,
            config,
        };
        server.spawn_all().await?;
        Ok(server)
    }

    async fn spawn_all(&mut self) -> anyhow::Result<()> {
        let Ports { etcd, peer, api } = self.ports;
        let mut store = etcd_command(&self.programs, self.folder.path(), (etcd, peer));
        if !self.fsync {
            store.arg("--unsafe-no-fsync");
        }
        let log = self.folder.path().join("etcd.log");
        self.children.push(spawn(store, &log)?);
        let mut server = apiserver(&self.programs, &self.files, (etcd, api));
        if !self.managed {
            server.arg("--disable-admission-plugins=ServiceAccount");
        }
        let log = self.files.folder.join("kube-apiserver.log");
        self.children.push(spawn(server, &log)?);
        self.wait_ready().await?;
        if self.managed {
            let manager = controller_manager(&self.programs, &self.files)?;
            self.children.push(manager);
        }
        Ok(())
    }

    /// Whether the programs that take and restore back-ups of etcd are there.
    pub fn can_restore(&self) -> bool {
        self.programs.join("etcdutl").is_file()
    }

    /// Takes a back-up of etcd while everything serves.
    pub fn back_up(&self, to: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(self.programs.join("etcdctl"));
        command
            .arg(format!("--endpoints=http://127.0.0.1:{}", self.ports.etcd))
            .args(["snapshot", "save"])
            .arg(to);
        run(command)
    }

    /// Stops everything, restores etcd from a back-up with these further options of `etcdutl`, and
    /// starts everything again.
    pub async fn restore(&mut self, backup: &Path, options: &[&str]) -> anyhow::Result<()> {
        self.end_all();
        let data = self.folder.path().join("etcd");
        fs::remove_dir_all(&data)?;
        let peer = format!("http://127.0.0.1:{}", self.ports.peer);
        let mut command = Command::new(self.programs.join("etcdutl"));
        command
            .args(["snapshot", "restore"])
            .arg(backup)
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--initial-cluster=default={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .args(options);
        run(command)?;
        self.spawn_all().await
    }

    fn end_all(&mut self) {
        for mut child in self.children.drain(..).rev() {
            // One that has ended already needs no killing.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client that impersonates `user` and `groups`.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> anyhow::Result<Client> {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups =
            Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Ok(Client::try_from(config)?)
    }

    /// The processes.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let kubeconfig = kubeconfig(&self.config.cluster_url.to_string());
        fs::write(self.kubeconfig(), kubeconfig)?;
        let client = self.client.clone();
        let log = self.folder.path().join("kube-apiserver.log");
        let children = &mut self.children;
        wait::until("kube-apiserver to be ready", async || {
            for child in children.iter_mut() {
                if let Some(status) = child.try_wait()? {
                    bail!("a process ended with {status}: {}", tail(&log));
                }
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(client.request_text(request).await.map(drop))
        })
        .await
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.end_all();
    }
}

#[derive(Clone, Copy)]
struct Ports {
    etcd: u16,
    peer: u16,
    api: u16,
}

/// Keys and tokens that the processes read.
struct Files {
    folder: PathBuf,
    signing_key: PathBuf,
    public_key: PathBuf,
    tokens: PathBuf,
}

impl Files {
    fn write(folder: &Path) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let files = Self {
            folder: folder.to_owned(),
            signing_key: folder.join("signing.key"),
            public_key: folder.join("signing.pub"),
            tokens: folder.join("tokens.csv"),
        };
        fs::write(&files.signing_key, key.serialize_pem())?;
        fs::write(&files.public_key, key.public_key_pem())?;
        fs::write(
            &files.tokens,
            format!("{TOKEN},admin,admin,system:masters\n"),
        )?;
        Ok(files)
    }
}

fn etcd_command(programs: &Path, folder: &Path, (client, peer): (u16, u16)) -> Command {
    let client_url = format!("http://127.0.0.1:{client}");
    let peer_url = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new(programs.join("etcd"));
    command
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg(format!("--listen-client-urls={client_url}"))
        .arg(format!("--advertise-client-urls={client_url}"))
        .arg(format!("--listen-peer-urls={peer_url}"))
        .arg(format!("--initial-advertise-peer-urls={peer_url}"))
        .arg(format!("--initial-cluster=default={peer_url}"));
    command
}

fn apiserver(programs: &Path, files: &Files, (etcd, port): (u16, u16)) -> Command {
    let mut command = Command::new(programs.join("kube-apiserver"));
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .arg("--bind-address=127.0.0.1")
        .arg(format!("--secure-port={port}"))
        .arg(format!(
            "--cert-dir={}",
            files.folder.join("certs").display()
        ))
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        .arg(format!(
            "--service-account-key-file={}",
            files.public_key.display()
        ))
        .arg(format!(
            "--service-account-signing-key-file={}",
            files.signing_key.display()
        ))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg("--api-audiences=https://kubernetes.default.svc")
        .arg(format!("--token-auth-file={}", files.tokens.display()))
        .arg("--authorization-mode=RBAC")
        .arg("--allow-privileged=true");
    command
}

fn controller_manager(programs: &Path, files: &Files) -> anyhow::Result<Child> {
    let certificate = files.folder.join("certs/apiserver.crt");
    let mut command = Command::new(programs.join("kube-controller-manager"));
    command
        .arg(format!(
            "--kubeconfig={}",
            files.folder.join("kubeconfig").display()
        ))
        .arg(format!("--secure-port={}", free_port()?))
        .arg("--bind-address=127.0.0.1")
        .arg(format!(
            "--cert-dir={}",
            files.folder.join("manager-certs").display()
        ))
        .arg(format!("--root-ca-file={}", certificate.display()))
        .arg(format!(
            "--service-account-private-key-file={}",
            files.signing_key.display()
        ))
        .arg("--use-service-account-credentials=false")
        .arg("--leader-elect=false")
        .arg("--controllers=*,-node-ipam-controller,-node-lifecycle-controller");
    spawn(command, &files.folder.join("kube-controller-manager.log"))
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} ended with {}: {said}", done.status);
    }
    Ok(())
}

fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Child> {
    let file = fs::File::create(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("{command:?}"))
}

fn admin_config(port: u16) -> anyhow::Result<Config> {
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse()?);
    config.accept_invalid_certs = true;
    // A refusal is an answer, 504 too: a test wants it, not a client that asks for minutes.
    config.default_retry = false;
    config.auth_info = AuthInfo {
        token: Some(TOKEN.to_owned().into()),
        ..AuthInfo::default()
    };
    Ok(config)
}

fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: admin\n\
         clusters: [ {{ name: real, cluster: {{ server: \"{server}\", insecure-skip-tls-verify: true }} }} ]\n\
         users: [ {{ name: admin, user: {{ token: {TOKEN} }} }} ]\n\
         contexts: [ {{ name: admin, context: {{ cluster: real, user: admin }} }} ]\n"
    )
}

/// A port that is free now, and that no connection gets meanwhile: below those that the kernel gives
/// to clients.
fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS.len() {
        // Test processes begin at different ones.
        let place = NEXT
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(std::process::id().wrapping_mul(37));
        let port = PORTS.start + u16::try_from(place % PORTS.len() as u32)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

const PORTS: std::ops::Range<u16> = 22_000..32_000;

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

/// The administrator's bearer token; the server lives on loopback, for one test run.
const TOKEN: &str = "admin-of-a-test";
