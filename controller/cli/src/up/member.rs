//! A member of `up`: API server, agent and sample servers, in a process of its own, so that `kill -9`
//! is a dead cluster. On a real cluster it is the agent alone.
//!
//! It says on standard output how far it is (`new` or `joined`, then `ready`), is told on standard
//! input where the hub is and what to do (`blackhole`, `heal`), and goes when standard input ends:
//! then its parent is gone.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use fairlead_controller::{
    agent::{self, AgentConfig, Credentials, invitation::Invitation},
    manifests,
};
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use super::{
    child,
    cluster::Cluster,
    folder::Ports,
    objects::{self, ServiceName},
    samples::{self, Samples},
    wait,
};

/// What its parent tells it.
#[derive(Args)]
pub(crate) struct Options {
    /// Its name.
    #[arg(long)]
    name: String,
    /// Its folder.
    #[arg(long)]
    folder: PathBuf,
    /// The second byte of its pods' addresses.
    #[arg(long, default_value_t = 0)]
    subnet: u8,
    #[arg(long, default_value_t = 0)]
    pods: u8,
    /// Where its pods listen.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Keep objects on disk.
    #[arg(long)]
    durable: bool,
    /// The real cluster, instead of a sample one.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// What it exports.
    #[arg(long, value_parser = ServiceName::parse)]
    export: Vec<ServiceName>,
    #[arg(long, default_value = "info")]
    log_level: String,
}

/// Runs until its parent is gone.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    child::die_with_parent();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&options.log_level)?)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(options));
    // Reading standard input blocks a thread until the next line.
    runtime.shutdown_background();
    outcome
}

type Orders = Lines<BufReader<Stdin>>;

async fn serve(options: &Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (mut cluster, mut samples) = start(options).await?;
    objects::install_crds(&cluster.client).await?;
    objects::put_member(&cluster.client, samples.as_ref(), &options.export).await?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let credentials = join(options, &cluster.client, &mut orders).await?;
    let mut agent = agent::run(AgentConfig {
        member: options.name.clone(),
        local: cluster.client_as(manifests::AGENT_ACCOUNT).await?,
        hub: credentials.client().await?,
        properties_pods: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        clock: Clock::system(),
        downward: Some(credentials.downward(&options.folder)),
    });
    let mut keeper = JoinSet::new();
    keeper.spawn(credentials.keep());
    println!("ready");
    let outcome = loop {
        tokio::select! {
            line = orders.next_line() => match line? {
                Some(line) => println!("{}", obey(samples.as_mut(), &line)?),
                None => break Ok(()),
            },
            exit = agent.ended() => {
                break Err(anyhow::anyhow!("{}: {}", exit.name, exit.failure.unwrap_or_default()));
            }
            () = ended(samples.as_mut()) => break Err(anyhow::anyhow!("a sample server ended")),
            _ = terminate.recv() => break Ok(()),
        }
    };
    keeper.shutdown().await;
    agent.stop().await;
    cluster.stop().await;
    outcome
}

async fn start(options: &Options) -> anyhow::Result<(Cluster, Option<Samples>)> {
    if let Some(real) = &options.kubeconfig {
        let cluster = Cluster::real(&options.folder, real).await?;
        return Ok((cluster, None));
    }
    let mut ports = Ports::read(&options.folder)?;
    let addresses = samples::addresses(options.subnet, options.pods);
    let samples = Samples::start(&options.name, addresses, options.port).await?;
    let (folder, kubeconfig) = (
        options.folder.join("api"),
        options.folder.join("kubeconfig"),
    );
    let cluster = Cluster::embedded(&folder, kubeconfig, options.durable, &mut ports)
        .await
        .context("the member's API server")?;
    Ok((cluster, Some(samples)))
}

fn obey(samples: Option<&mut Samples>, line: &str) -> anyhow::Result<&'static str> {
    Ok(match (line, samples) {
        ("blackhole", Some(samples)) => {
            samples.fall_silent()?;
            "silent"
        }
        ("heal", Some(samples)) => {
            samples.speak()?;
            "speaking"
        }
        _ => "unknown",
    })
}

async fn ended(samples: Option<&mut Samples>) {
    match samples {
        Some(samples) => samples.ended().await,
        None => std::future::pending().await,
    }
}

/// The standing of an earlier run, if the hub still knows it; else one by an invitation that the
/// parent is asked for.
async fn join(
    options: &Options,
    client: &Client,
    orders: &mut Orders,
) -> anyhow::Result<Credentials> {
    let folder = options.folder.join("hub-credentials");
    if let Some(credentials) = Credentials::open(&folder).await? {
        println!("joined");
        let Some(hub) = order(orders, "hub ").await? else {
            bail!("the parent does not say where the hub is");
        };
        let credentials = credentials.moved_to(&hub).await?;
        match credentials.exchange().await {
            Ok(_) => return Ok(credentials),
            Err(error) => tracing::warn!(%error, "the earlier membership is void; joining anew"),
        }
    }
    println!("new");
    let Some(line) = order(orders, "").await? else {
        bail!("the parent sends no invitation");
    };
    let invitation = Invitation::decode(&line)?;
    let system = Api::<Namespace>::all(client.clone())
        .get("kube-system")
        .await?;
    let uid = system.uid().unwrap_or_default();
    let credentials = Credentials::join(&folder, &invitation, &uid).await?;
    credentials.exchange_first(wait::PATIENCE).await?;
    Ok(credentials)
}

async fn order(orders: &mut Orders, prefix: &str) -> anyhow::Result<Option<String>> {
    let line = orders.next_line().await?.context("the parent is gone")?;
    Ok(line.strip_prefix(prefix).map(str::to_owned))
}
