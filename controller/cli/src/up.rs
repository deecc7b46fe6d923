//! `fairlead up`: a whole fleet on one machine, or the controllers, agents and proxy of real clusters.
//!
//! | module | what it is |
//! |---|---|
//! | [`folder`] | its folder, locked, and what is the same after a restart |
//! | [`block`] | its ports for clients |
//! | [`cluster`] | an API server: embedded, or a real one |
//! | [`hub`] | the hub, in this process |
//! | [`child`] | processes of the fleet |
//! | [`member`] | a member: API server, agent and sample servers, in a process of its own |
//! | [`members`] | those processes as seen from here |
//! | [`samples`] | the sample servers |
//! | [`objects`] | what is put into the API servers |
//! | [`proxy`] | the proxy, in a process of its own |
//! | [`served`] | waiting until real clusters serve |
//! | [`ready`] | the ready file, and what is printed |
//! | [`wait`] | waiting for something that is coming up |

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use fairlead_config::name::MemberName;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, interval_at},
};

mod block;
mod child;
mod cluster;
mod folder;
mod hub;
pub(crate) mod member;
mod members;
mod objects;
pub(crate) mod proxy;
mod ready;
mod samples;
mod served;
mod wait;

use block::Block;
use folder::{Folder, Shape};
use hub::Hub;
use members::Members;
use objects::ServiceName;
use proxy::Proxy;

/// How the fleet is set up.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many members [default: as before with --data, else 3].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    members: Option<u8>,
    /// Sample servers in each member [default: as before with --data, else 2].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=50))]
    pods: Option<u8>,
    /// Keep everything here across restarts: objects, identities, ports. Without it a temporary
    /// folder goes with the fleet.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Where clients connect [default: as before with --data, else 127.0.0.1].
    #[arg(long, value_name = "IP")]
    address: Option<Ipv4Addr>,
    /// The first of 100 ports that the fleet takes on that address [default: as before with
    /// --data, else the first hundred from 17000 that are free].
    #[arg(long)]
    port: Option<u16>,
    /// Once all is serving, write the addresses here as JSON. With --hub-kubeconfig that is once each member
    /// named is joined and healthy, and what --export names is served by each member that has it.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Make this member stop answering right after the start (as `blackhole MEMBER` does).
    #[arg(long, value_name = "MEMBER")]
    blackhole: Vec<String>,
    /// Run the hub on this real cluster, with the kubeconfig's rights to set it up.
    #[arg(
        long,
        value_name = "FILE",
        requires_all = ["member_kubeconfig", "export"],
        conflicts_with_all = ["members", "pods", "blackhole"]
    )]
    hub_kubeconfig: Option<PathBuf>,
    /// Run an agent for this real cluster, a member of that name; may be repeated.
    #[arg(long, value_name = "NAME=FILE", requires = "hub_kubeconfig", value_parser = named_file)]
    member_kubeconfig: Vec<(MemberName, PathBuf)>,
    /// Export this service of the real members and serve it; may be repeated.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "hub_kubeconfig", value_parser = ServiceName::parse)]
    export: Vec<ServiceName>,
    /// What is logged to FOLDER/logs: error, warn, info, debug, trace or a filter.
    #[arg(long, default_value = "info", env = "FAIRLEAD_LOG")]
    log_level: String,
}

impl Options {
    /// The services of the fleet.
    fn services(&self) -> Vec<ServiceName> {
        match self.export.as_slice() {
            [] => vec![ServiceName::sample()],
            named => named.to_vec(),
        }
    }
}

/// Runs the fleet until it is told to end.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut folder = Folder::open(options.data.as_deref())?;
    log_to(&folder.path, &options.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let outcome = fleet(options, &folder).await;
        match &outcome {
            Ok(()) => folder.remove().await,
            Err(_) => folder.leave(),
        }
        outcome
    });
    // Reading standard input blocks a thread until the next line.
    runtime.shutdown_background();
    outcome
}

async fn fleet(options: &Options, folder: &Folder) -> anyhow::Result<()> {
    let mut end = End::listen()?;
    if let Some(path) = &options.ready_file {
        forget(path)?;
    }
    let mut shape = Shape::new(options, folder.shape()?);
    let block = Block::take(shape.address, shape.port).await?;
    shape.port = Some(block.first);
    folder.keep(shape)?;
    let started = tokio::select! {
        biased;
        () = end.asked() => return Ok(()),
        started = Fleet::start(options, folder, shape, &block) => started,
    };
    let mut fleet = started?;
    let outcome = fleet.run(&mut end).await;
    println!("ending");
    fleet.stop().await;
    outcome
}

/// All parts of a running fleet.
struct Fleet {
    hub: Hub,
    members: Members,
    proxy: Proxy,
}

impl Fleet {
    /// Starts all and waits until it serves.
    async fn start(
        options: &Options,
        folder: &Folder,
        shape: Shape,
        block: &Block,
    ) -> anyhow::Result<Self> {
        let hub = Hub::start(options, folder, shape, block).await?;
        let (mut members, mut proxy) = tokio::try_join!(
            Members::start(options, folder, shape, &hub),
            Proxy::start(options, folder, &hub, block.admin()),
        )?;
        let mut services = Vec::new();
        for service in options.services() {
            let endpoint = hub.endpoint(&service).await?;
            match endpoint.tcp {
                Some(addr) if hub.cluster.is_real() => proxy.listening(addr).await?,
                Some(addr) => proxy.serving(addr, shape.members).await?,
                None => {}
            }
            services.push((service, endpoint));
        }
        let left_out = match hub.cluster.is_real() {
            true => all_serve(options, &hub, &members, &proxy).await?,
            false => Vec::new(),
        };
        let ready = ready::Ready::new(&hub, &members, &proxy, &services)?;
        print!("{}", ready.text(&folder.path));
        for one in left_out {
            println!("not waited for: {one}");
        }
        for name in &options.blackhole {
            println!("{}", members.blackhole(name).await?);
        }
        if let Some(path) = &options.ready_file {
            ready.write(path)?;
        }
        Ok(Self {
            hub,
            members,
            proxy,
        })
    }

    /// Obeys commands until it is to end.
    async fn run(&mut self, end: &mut End) -> anyhow::Result<()> {
        let mut commands = Some(BufReader::new(tokio::io::stdin()).lines());
        let mut renewals = interval_at(Instant::now() + TOKEN_RENEWAL, TOKEN_RENEWAL);
        loop {
            tokio::select! {
                biased;
                () = end.asked() => return Ok(()),
                line = next_line(&mut commands) => match line {
                    Some(line) => println!("{}", self.obey(&line).await),
                    None => commands = None,
                },
                gone = self.members.next_exit() => println!("member {gone} is gone"),
                reason = self.proxy.exit() => anyhow::bail!("the proxy ended: {reason}"),
                reason = self.hub.exit() => anyhow::bail!("the hub ended: {reason}"),
                _ = renewals.tick() => {
                    if let Err(error) = self.proxy.renew(&self.hub).await {
                        tracing::warn!(%error, "the proxy's token is not renewed");
                    }
                }
            }
        }
    }

    async fn obey(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = match words[..] {
            ["blackhole", name] => self.members.blackhole(name).await,
            ["heal", name] => self.members.heal(name).await,
            ["restart", "hub"] => {
                let restarted = self.hub.restart().await;
                restarted.map(|()| "the hub runs again".to_owned())
            }
            [] => return String::new(),
            _ => return COMMANDS.to_owned(),
        };
        done.unwrap_or_else(|error| format!("{error:#}"))
    }

    async fn stop(self) {
        self.proxy.stop().await;
        self.members.stop().await;
        self.hub.stop().await;
    }
}

/// Waits until real members serve; who was not waited for.
async fn all_serve(
    options: &Options,
    hub: &Hub,
    members: &Members,
    proxy: &Proxy,
) -> anyhow::Result<Vec<String>> {
    let mut clients = Vec::new();
    for member in members.iter() {
        let config = fairlead_controller::app::kube_config(Some(&member.kubeconfig)).await?;
        clients.push((member.name.clone(), kube::Client::try_from(config)?));
    }
    let wait = served::Wait {
        hub: hub.cluster.client.clone(),
        members: clients,
        services: options.services(),
        proxy,
    };
    println!("{}", wait.text());
    wait.over().await
}

/// The signals that end a fleet.
struct End {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl End {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The next command; never, once standard input has ended.
async fn next_line(commands: &mut Option<Lines<BufReader<Stdin>>>) -> Option<String> {
    match commands {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Who waits for the file must not read that of an earlier run.
fn forget(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn log_to(folder: &Path, filter: &str) -> anyhow::Result<()> {
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(child::log_of(folder, "hub"))
        .context("cannot write the log")?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(filter)?)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .init();
    Ok(())
}

fn named_file(text: &str) -> Result<(MemberName, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=FILE")?;
    let name = MemberName::parse(name).map_err(|error| error.to_string())?;
    Ok((name, PathBuf::from(file)))
}

const COMMANDS: &str =
    "commands: blackhole MEMBER, heal MEMBER, restart hub; Ctrl-C ends the fleet";
/// Well within a token's day.
const TOKEN_RENEWAL: Duration = Duration::from_secs(6 * 3600);
