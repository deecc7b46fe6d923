//! A program of this workspace as a child process: what it logs, its admin pages, signals, its end.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{fleet, wait};

/// A running program; it ends with this value.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

/// The program `name` of package `package`, built as `beside` was. A run of the whole workspace has
/// built it already; one of a single package may not have.
pub fn sibling(beside: &Path, package: &str, name: &str) -> anyhow::Result<PathBuf> {
    let program = beside.with_file_name(name);
    if program.is_file() {
        return Ok(program);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = beside.parent().and_then(Path::parent);
    let built = std::process::Command::new(cargo)
        .args(["build", "-p", package, "--bin", name, "--target-dir"])
        .arg(folder.context("a target folder")?)
        .status()?;
    ensure!(built.success() && program.is_file(), "{name} is not built");
    Ok(program)
}

impl Process {
    /// Starts it, as `name` in what goes wrong.
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_remove("RUST_LOG")
            .env_remove("FAIRLEAD_LOG")
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let log = Arc::<Mutex<String>>::default();
        let stderr = child.stderr.take().context("its log")?;
        let kept = log.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = kept.lock();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits for a line of its log with `words`; the value of its field `field`, such as `addr=`.
    pub async fn says<T: std::str::FromStr>(
        &mut self,
        words: &str,
        field: &str,
    ) -> anyhow::Result<T> {
        let what = format!("{} to say {words:?} and {field}", self.name);
        wait::until(&what, async || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log());
            }
            let log = self.log();
            let mut lines = log.lines().filter(|line| line.contains(words));
            let value = lines.find_map(|line| {
                let (_, rest) = line.split_once(field)?;
                rest.split_whitespace().next()?.parse().ok()
            });
            Ok(value.ok_or(log))
        })
        .await
    }

    /// Waits until its page `/readyz` at `admin` says that it is ready.
    pub async fn is_ready(&mut self, admin: &str) -> anyhow::Result<()> {
        let what = format!("{} to be ready", self.name);
        wait::until(&what, async || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log());
            }
            Ok(match fleet::page(admin, "/readyz").await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = self.child.id();
        fleet::kill(
            pid.with_context(|| format!("{} is gone", self.name))?,
            signal,
        )
    }

    /// Waits for its end: the exit code, unless it was killed.
    pub async fn ended(&mut self) -> anyhow::Result<Option<i32>> {
        let ended = timeout(wait::PATIENCE, self.child.wait()).await;
        Ok(ended
            .with_context(|| format!("{} does not end", self.name))??
            .code())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }
}
