//! Starting the servers, and what they take from the machine.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use fairlead_tests::real::{RealServer, Setup};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Deserialize, Serialize};

use super::Options;
use crate::usage::{self, Usage};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Contestant {
    /// kube-apiserver and etcd, which syncs.
    Real,
    /// The embedded server with its store on disk, which syncs.
    Durable,
    /// The embedded server with its store in memory.
    Memory,
}

/// A server that answers.
pub(crate) struct Running {
    pub(crate) client: Client,
    /// From the start of its first process to its first answer that it is ready.
    pub(crate) started: Duration,
    processes: Processes,
    _folder: tempfile::TempDir,
}

enum Processes {
    Real(Box<RealServer>),
    Embedded(Host),
}

/// An embedded server as a process of its own, which ends when its input does.
pub(crate) struct Host {
    child: Child,
    input: Option<ChildStdin>,
}

// === impl Contestant ===

impl Contestant {
    pub(crate) const ALL: [Self; 3] = [Self::Real, Self::Durable, Self::Memory];

    pub(crate) fn with(real: bool) -> Vec<Self> {
        let wanted = |one: &Self| real || *one != Self::Real;
        Self::ALL.into_iter().filter(wanted).collect()
    }

    pub(crate) async fn start(self, options: &Options, folder: &Path) -> anyhow::Result<Running> {
        let folder = tempfile::tempdir_in(folder)?;
        let begin = Instant::now();
        if self == Self::Real {
            let programs = options
                .programs
                .as_deref()
                .context("no programs to start")?;
            let setup = Setup {
                folder: Some(folder.path().to_owned()),
                fsync: true,
                controllers: false,
            };
            let server = RealServer::start_with(programs, &setup).await?;
            return Ok(Running {
                started: begin.elapsed(),
                client: server.client(),
                processes: Processes::Real(Box::new(server)),
                _folder: folder,
            });
        }
        let mut arguments = Vec::new();
        let data = folder.path().join("data");
        if self == Self::Durable {
            arguments = vec!["--data".as_ref(), data.as_os_str()];
        }
        let (host, client) = Host::start(folder.path(), &arguments).await?;
        Ok(Running {
            started: begin.elapsed(),
            client,
            processes: Processes::Embedded(host),
            _folder: folder,
        })
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Real => "kube-apiserver + etcd",
            Self::Durable => "durable",
            Self::Memory => "memory",
        })
    }
}

// === impl Running ===

impl Running {
    /// CPU time and memory of all its processes.
    pub(crate) fn usage(&self) -> Usage {
        let pids = match &self.processes {
            Processes::Real(server) => server.pids(),
            Processes::Embedded(host) => vec![host.child.id()],
        };
        pids.into_iter()
            .map(usage::of_tree)
            .fold(Usage::default(), |sum, one| Usage {
                cpu_nanos: sum.cpu_nanos + one.cpu_nanos,
                memory: sum.memory + one.memory,
            })
    }
}

// === impl Host ===

impl Host {
    /// Starts a server with its kubeconfig in `folder`, and waits for its first answer.
    pub(crate) async fn start(
        folder: &Path,
        arguments: &[&std::ffi::OsStr],
    ) -> anyhow::Result<(Self, Client)> {
        let kubeconfig = folder.join("kubeconfig");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["apiserver-host", "--kubeconfig"])
            .arg(&kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("the server's output")?);
        let host = Self {
            input: child.stdin.take(),
            child,
        };
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.trim() == "listening", "the server says {line:?}");
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        client
            .request_text(http::Request::get("/readyz").body(Vec::new())?)
            .await?;
        Ok((host, client))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}
