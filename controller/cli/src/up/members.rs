//! The members' processes as seen from the parent.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use fairlead_config::name::MemberName;
use futures::{FutureExt, future::select_all};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{Options, START_PATIENCE, hub::Hub};

/// All members.
pub(super) struct Members(Vec<Member>);

/// One member's process.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kubeconfig: PathBuf,
    pub(super) pid: u32,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    gone: bool,
    stopped: bool,
}

impl Members {
    /// Starts all of them at once and waits until each has joined.
    pub(super) async fn start(options: &Options, folder: &Path, hub: &Hub) -> anyhow::Result<Self> {
        let starts = (1..=options.members).map(|index| Member::start(options, folder, hub, index));
        let started = futures::future::try_join_all(starts);
        let members = timeout(START_PATIENCE, started)
            .await
            .context("the members took too long")??;
        Ok(Self(members))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// Makes a member stop answering: SYNs and datagrams go unanswered, live connections stall.
    pub(super) async fn blackhole(&mut self, name: &str) -> anyhow::Result<String> {
        let member = self.live(name)?;
        if member.stopped {
            return Ok(format!("{name} is a black hole already"));
        }
        member.say("blackhole").await?;
        member.expect("silent").await?;
        member.signal(Signal::STOP)?;
        member.stopped = true;
        Ok(format!(
            "{name} answers nothing any more; `heal {name}` brings it back"
        ))
    }

    /// Makes it answer again.
    pub(super) async fn heal(&mut self, name: &str) -> anyhow::Result<String> {
        let member = self.live(name)?;
        if !member.stopped {
            return Ok(format!("{name} is no black hole"));
        }
        member.signal(Signal::CONT)?;
        member.stopped = false;
        member.say("heal").await?;
        member.expect("speaking").await?;
        Ok(format!("{name} answers again"))
    }

    /// Waits until one of them ends, by whatever cause.
    pub(super) async fn next_exit(&mut self) -> String {
        let live: Vec<_> = self
            .0
            .iter_mut()
            .filter(|member| !member.gone)
            .map(|member| {
                async {
                    // It is gone either way.
                    drop(member.child.wait().await);
                    member.gone = true;
                    member.name.clone()
                }
                .boxed()
            })
            .collect();
        if live.is_empty() {
            return std::future::pending().await;
        }
        select_all(live).await.0
    }

    /// Ends them all.
    pub(super) async fn stop(self) {
        for mut member in self.0 {
            if member.stopped {
                drop(member.signal(Signal::CONT));
            }
            // Its end of input is its order to end.
            drop(member.stdin);
            if timeout(STOP_PATIENCE, member.child.wait()).await.is_err() {
                drop(member.child.kill().await);
            }
        }
    }

    fn live(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        let names: Vec<String> = self.0.iter().map(|member| member.name.clone()).collect();
        match self.0.iter_mut().find(|member| member.name == name) {
            Some(member) if member.gone => bail!("{name} is gone"),
            Some(member) => Ok(member),
            None => bail!("there is no member {name}; there are {}", names.join(", ")),
        }
    }
}

impl Member {
    async fn start(options: &Options, folder: &Path, hub: &Hub, index: u8) -> anyhow::Result<Self> {
        let name = format!("member-{index}");
        let parsed = MemberName::parse(&name)?;
        let own = folder.join(&name);
        std::fs::create_dir_all(&own)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("logs/{name}.log")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "up-member",
            "--name",
            &name,
            "--log-level",
            &options.log_level,
        ]);
        command.arg("--folder").arg(&own);
        command.args(["--subnet", &(SUBNET + index).to_string()]);
        command.args(["--pods", &options.pods.to_string()]);
        if options.data.is_some() {
            command.arg("--durable");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take().context("its input")?;
        let stdout = child.stdout.take().context("its output")?;
        let mut member = Self {
            kubeconfig: own.join("kubeconfig"),
            pid: child.id().context("its pid")?,
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            gone: false,
            stopped: false,
            name,
        };
        member.expect("up").await?;
        let invitation = hub.invite(&parsed).await?;
        member.say(&invitation.encode()).await?;
        member.expect("ready").await?;
        Ok(member)
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let said = self.stdin.write_all(line.as_bytes()).await;
        said.with_context(|| format!("{} does not listen", self.name))
    }

    async fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        let answer = timeout(START_PATIENCE, self.stdout.next_line()).await;
        let answer = answer.with_context(|| format!("{} does not answer", self.name))??;
        match answer {
            Some(line) if line == word => Ok(()),
            Some(line) => bail!("{} says {line:?} instead of {word:?}", self.name),
            None => bail!("{} ended; its log is in logs/{}.log", self.name, self.name),
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("its pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

/// Pods live in 127.20.0.0/16 and the networks after it, one a member.
const SUBNET: u8 = 20;
const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
