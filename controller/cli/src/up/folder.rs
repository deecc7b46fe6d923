//! The fleet's folder: one `up` at a time, and what is to be the same after a restart.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::sleep;

use super::Options;

/// The folder, locked.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    temporary: Option<TempDir>,
    /// Held until the end; the kernel gives it back even when this process is killed.
    _lock: File,
}

/// How a fleet is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shape {
    pub(super) members: u8,
    pub(super) pods: u8,
    pub(super) address: Ipv4Addr,
    /// The first port of its block; unknown before the first start.
    pub(super) port: Option<u16>,
}

/// The ports that a process listened at, by what for.
pub(super) struct Ports {
    path: PathBuf,
    kept: BTreeMap<String, u16>,
}

// === impl Folder ===

impl Folder {
    /// Opens the folder of `--data`, or a temporary one.
    pub(super) fn open(data: Option<&Path>) -> anyhow::Result<Self> {
        let temporary = match data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("fairlead-up-").tempdir()?),
        };
        let path = match (data, &temporary) {
            (Some(path), _) => path,
            (None, Some(temporary)) => temporary.path(),
            (None, None) => bail!("no folder"),
        };
        let cannot = || format!("cannot keep the fleet in {}", path.display());
        std::fs::create_dir_all(path.join("logs")).with_context(cannot)?;
        // Kubeconfigs name files here; whoever reads them may be elsewhere.
        let path = path.canonicalize().with_context(cannot)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .with_context(cannot)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another `fairlead up` runs on {}; end it first, or name another folder with --data",
                path.display()
            );
        }
        Ok(Self {
            path,
            temporary,
            _lock: lock,
        })
    }

    /// Whether the fleet outlives this process.
    pub(super) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// What an earlier fleet here looked like.
    pub(super) fn shape(&self) -> anyhow::Result<Option<Shape>> {
        read(&self.path.join(SHAPE))
    }

    /// Keeps the shape for the next start.
    pub(super) fn keep(&self, shape: Shape) -> anyhow::Result<()> {
        write(&self.path.join(SHAPE), &shape)
    }

    /// Leaves a temporary folder where it is: something failed, and its logs say what.
    pub(super) fn leave(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let path = temporary.keep();
            eprintln!("fairlead: the logs stay in {}", path.join("logs").display());
        }
    }

    /// Removes a temporary folder. A process that was killed may write to it for a moment still.
    pub(super) async fn remove(&mut self) {
        let Some(temporary) = self.temporary.take() else {
            return;
        };
        let path = temporary.keep();
        for _ in 0..REMOVALS {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => sleep(AGAIN).await,
                _ => return,
            }
        }
        eprintln!("fairlead: {} could not be removed", path.display());
    }
}

// === impl Shape ===

impl Shape {
    /// What is asked for; else what it was; else the defaults.
    pub(super) fn new(options: &Options, earlier: Option<Self>) -> Self {
        let earlier = earlier.unwrap_or(Self {
            members: 3,
            pods: 2,
            address: Ipv4Addr::LOCALHOST,
            port: None,
        });
        Self {
            members: options.members.unwrap_or(earlier.members),
            pods: options.pods.unwrap_or(earlier.pods),
            address: options.address.unwrap_or(earlier.address),
            port: options.port.or(earlier.port),
        }
    }
}

// === impl Ports ===

impl Ports {
    /// Those that are kept in `folder`.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("ports.json");
        Ok(Self {
            kept: read(&path)?.unwrap_or_default(),
            path,
        })
    }

    /// The port of the last time; 0 before the first.
    pub(super) fn last(&self, what: &str) -> u16 {
        self.kept.get(what).copied().unwrap_or_default()
    }

    /// Keeps a port for the next start.
    pub(super) fn keep(&mut self, what: &str, port: u16) -> anyhow::Result<()> {
        if self.kept.insert(what.to_owned(), port) == Some(port) {
            return Ok(());
        }
        write(&self.path, &self.kept)
    }

    /// Opens something at the port of the last time, or at any where that is taken by now.
    pub(super) async fn open<T, E: std::fmt::Display>(
        &mut self,
        what: &str,
        open: impl AsyncFn(u16) -> Result<T, E>,
        port: impl Fn(&T) -> u16,
    ) -> anyhow::Result<T> {
        let last = self.last(what);
        let opened = match open(last).await {
            Err(error) if last != 0 => {
                tracing::warn!(%error, what, "the port of the last time cannot be had; taking another");
                open(0).await
            }
            opened => opened,
        };
        let opened = opened.map_err(|error| anyhow::anyhow!("{error}"))?;
        self.keep(what, port(&opened))?;
        Ok(opened)
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let read = serde_json::from_slice(&text);
    read.map(Some).with_context(|| {
        format!(
            "{} is not what an earlier `fairlead up` wrote; remove the file to start with new values",
            path.display()
        )
    })
}

/// Whole or not at all.
fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, serde_json::to_vec_pretty(value)?)
        .and_then(|()| std::fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

const SHAPE: &str = "fleet.json";
/// Two seconds in all.
const REMOVALS: usize = 40;
const AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &[&str]) -> Options {
        let words = ["up"].iter().chain(line);
        Line::parse_from(words).options
    }

    #[test]
    fn a_restart_keeps_the_shape_but_for_what_is_asked_for() {
        let first = Shape::new(&options(&["--members", "5"]), None);
        assert_eq!((first.members, first.pods, first.port), (5, 2, None));
        let kept = Shape {
            port: Some(17_200),
            ..first
        };
        assert_eq!(Shape::new(&options(&[]), Some(kept)), kept);
        let wider = Shape::new(&options(&["--pods", "4"]), Some(kept));
        assert_eq!(
            (wider.members, wider.pods, wider.port),
            (5, 4, Some(17_200))
        );
    }

    #[test]
    fn a_folder_is_for_one_fleet_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = Folder::open(Some(folder.path())).unwrap();
        let refused = Folder::open(Some(folder.path())).err().unwrap();
        assert!(
            refused
                .to_string()
                .contains("another `fairlead up` runs on")
        );
        drop(held);
        Folder::open(Some(folder.path())).unwrap();
    }

    #[tokio::test]
    async fn a_port_is_the_same_again_unless_it_was_taken() {
        let folder = tempfile::tempdir().unwrap();
        let listen = async |port| tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
        let port = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap().port();
        let mut ports = Ports::read(folder.path()).unwrap();
        let first = ports.open("api", listen, port).await.unwrap();
        let (taken, number) = (port(&first), port(&first));
        let mut ports = Ports::read(folder.path()).unwrap();
        assert_eq!(ports.last("api"), number);
        let other = ports.open("api", listen, port).await.unwrap();
        assert_ne!(port(&other), taken);
        let number = port(&other);
        drop((first, other));
        let mut ports = Ports::read(folder.path()).unwrap();
        assert_eq!(
            port(&ports.open("api", listen, port).await.unwrap()),
            number
        );
    }
}
