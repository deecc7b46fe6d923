//! The members' processes as seen from the parent.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use fairlead_config::name::MemberName;
use futures::{FutureExt, future::select_all};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

use super::{
    Options, child,
    folder::{Folder, Shape},
    hub::Hub,
    wait,
};

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
    real: bool,
    gone: bool,
    stopped: bool,
}

/// How a member is started.
struct Start {
    name: MemberName,
    kubeconfig: PathBuf,
    arguments: Vec<String>,
    real: bool,
}

impl Members {
    /// Starts all of them at once and waits until each has joined.
    pub(super) async fn start(
        options: &Options,
        folder: &Folder,
        shape: Shape,
        hub: &Hub,
    ) -> anyhow::Result<Self> {
        let starts = starts(options, folder, shape)?;
        let starts = starts
            .into_iter()
            .map(|start| Member::start(start, options, folder, hub));
        let started = futures::future::try_join_all(starts);
        Ok(Self(started.await?))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// Makes a member stop answering: SYNs and datagrams go unanswered, live connections stall.
    pub(super) async fn blackhole(&mut self, name: &str) -> anyhow::Result<String> {
        let member = self.sample(name)?;
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
        let member = self.sample(name)?;
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

    /// Ends them all, at once.
    pub(super) async fn stop(self) {
        let stops = self.0.into_iter().map(|mut member| async move {
            if member.stopped {
                drop(member.signal(Signal::CONT));
            }
            // Its end of input is its order to end.
            drop(member.stdin);
            child::end(&mut member.child).await;
        });
        futures::future::join_all(stops).await;
    }

    /// A live member of samples.
    fn sample(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        let names: Vec<String> = self.0.iter().map(|member| member.name.clone()).collect();
        match self.0.iter_mut().find(|member| member.name == name) {
            Some(member) if member.gone => bail!("{name} is gone"),
            Some(member) if member.real => {
                bail!("{name} is a real cluster; make it stop answering there")
            }
            Some(member) => Ok(member),
            None => bail!("there is no member {name}; there are {}", names.join(", ")),
        }
    }
}

/// Real clusters where they are named; else samples.
fn starts(options: &Options, folder: &Folder, shape: Shape) -> anyhow::Result<Vec<Start>> {
    let real = options.member_kubeconfig.iter().map(|(name, file)| Start {
        name: name.clone(),
        kubeconfig: file.clone(),
        arguments: vec!["--kubeconfig".to_owned(), file.display().to_string()],
        real: true,
    });
    let real: Vec<_> = real.collect();
    if !real.is_empty() {
        return Ok(real);
    }
    let sample = |index: u8| {
        let name = MemberName::parse(&format!("member-{index}"))?;
        let subnet = (SUBNET + index).to_string();
        let pods = shape.pods.to_string();
        // One number in all members, and no other fleet's: so flows can be probed by the TCP port.
        let port = shape.port.unwrap_or_default().to_string();
        let arguments = ["--subnet", &subnet, "--pods", &pods, "--port", &port].map(str::to_owned);
        Ok(Start {
            kubeconfig: folder.path.join(name.as_str()).join("kubeconfig"),
            arguments: arguments
                .into_iter()
                .chain(folder.is_kept().then(|| "--durable".to_owned()))
                .collect(),
            name,
            real: false,
        })
    };
    (1..=shape.members).map(sample).collect()
}

impl Member {
    async fn start(
        start: Start,
        options: &Options,
        folder: &Folder,
        hub: &Hub,
    ) -> anyhow::Result<Self> {
        let name = start.name.to_string();
        let own = folder.path.join(&name);
        std::fs::create_dir_all(&own)?;
        let mut command = child::command(&folder.path, &name, "up-member")?;
        command.args(["--name", &name, "--log-level", &options.log_level]);
        command.arg("--folder").arg(&own).args(&start.arguments);
        for service in options.services() {
            command.args(["--export", &service.to_string()]);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take().context("its input")?;
        let stdout = child.stdout.take().context("its output")?;
        let mut member = Self {
            kubeconfig: start.kubeconfig,
            pid: child.id().context("its pid")?,
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            real: start.real,
            gone: false,
            stopped: false,
            name,
        };
        let logs = child::log_of(&folder.path, &member.name);
        let joined = member.join(&start.name, hub).await;
        joined.with_context(|| last_lines(&logs))?;
        Ok(member)
    }

    /// Brings it to the hub: by its earlier membership, else by an invitation.
    async fn join(&mut self, name: &MemberName, hub: &Hub) -> anyhow::Result<()> {
        loop {
            match self.answer().await?.as_str() {
                "joined" => self.say(&format!("hub {}", hub.address())).await?,
                "new" => self.say(&hub.invite(name).await?.encode()).await?,
                "ready" => return Ok(()),
                other => bail!("{} says {other:?}", self.name),
            }
        }
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let said = self.stdin.write_all(line.as_bytes()).await;
        said.with_context(|| format!("{} does not listen", self.name))
    }

    async fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        let answer = self.answer().await?;
        ensure!(
            answer == word,
            "{} says {answer:?} instead of {word:?}",
            self.name
        );
        Ok(())
    }

    async fn answer(&mut self) -> anyhow::Result<String> {
        let answer = timeout(wait::PATIENCE, self.stdout.next_line()).await;
        let answer = answer.with_context(|| format!("{} does not answer", self.name))??;
        answer.with_context(|| format!("{} ended", self.name))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        child::signal(&self.child, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

/// What a log says in the end.
fn last_lines(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(3)..].join("\n  ");
    format!("{} ends with:\n  {last}\n", log.display())
}

/// Pods live in 127.20.0.0/16 and the networks after it, one a member.
const SUBNET: u8 = 20;
