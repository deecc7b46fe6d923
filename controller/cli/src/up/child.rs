//! A process of the fleet as its parent sees it: `fairlead` itself with a hidden command.

use std::{fs::File, path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// `fairlead COMMAND`, its log in `FOLDER/logs/NAME.log`, in a process group of its own: Ctrl-C is
/// for the parent, which ends the others in order.
pub(super) fn command(folder: &Path, name: &str, command: &str) -> anyhow::Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log_of(folder, name))
        .context("cannot write the log")?;
    let mut made = Command::new(std::env::current_exe()?);
    made.arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    Ok(made)
}

/// Where a process logs.
pub(super) fn log_of(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("logs/{name}.log"))
}

/// Called first by each of them: dies with its parent, however that ends.
pub(super) fn die_with_parent() {
    // Where the kernel can't, the end of standard input still tells.
    let _supported = set_parent_process_death_signal(Some(Signal::KILL));
}

/// Sends a signal to a process that wasn't waited for yet.
pub(super) fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw)
        .context("it is gone")?;
    Ok(kill_process(pid, signal)?)
}

/// Waits for the end of a process that was told to end, and kills it when it takes too long.
pub(super) async fn end(child: &mut Child) {
    if timeout(PATIENCE, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
