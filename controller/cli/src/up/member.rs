//! A member of `up`: API server, agent and sample servers, in a process of its own, so that `kill -9`
//! is a dead cluster.
//!
//! It is told what to do on standard input (`blackhole`, `heal`) and answers on standard output; when
//! standard input ends, its parent is gone and so it goes too.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use fairlead_apiserver::{ApiServer, Security};
use fairlead_controller::{
    agent::{self, AgentConfig, Credentials, invitation::Invitation},
    manifests,
};
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    signal::unix::{SignalKind, signal},
};

use super::{objects, samples::Samples};

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
    #[arg(long)]
    subnet: u8,
    #[arg(long)]
    pods: u8,
    /// Keep objects on disk.
    #[arg(long)]
    durable: bool,
    #[arg(long, default_value = "info")]
    log_level: String,
}

/// Runs until its parent is gone.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&options.log_level)?)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(options))
}

async fn serve(options: Options) -> anyhow::Result<()> {
    // Ctrl-C goes to the whole group; the parent ends its members in order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut samples = Samples::start(&options.name, options.subnet, options.pods).await?;
    let server = ApiServer::builder()
        .allow_loopback_endpoints(true)
        .data_dir(options.folder.join("api"))
        .durable(options.durable)
        .build()
        .await
        .context("the member's API server")?;
    let listener = server
        .serve(([127, 0, 0, 1], 0).into(), Security::Tls)
        .await?;
    std::fs::write(options.folder.join("kubeconfig"), listener.kubeconfig())?;
    objects::install_crds(&server.client()).await?;
    objects::put_all(&server.client(), &objects::of_member(&samples)).await?;
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let credentials = join(&options, &server.client(), &mut commands).await?;
    let mut agent = agent::run(AgentConfig {
        member: options.name.clone(),
        local: server.client_as(
            &manifests::user(manifests::AGENT_ACCOUNT),
            ["system:serviceaccounts"],
        ),
        hub: credentials.client().await?,
        properties_pods: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        clock: Clock::system(),
    });
    let keeper = tokio::spawn(credentials.keep());
    println!("ready");
    let outcome = loop {
        tokio::select! {
            line = commands.next_line() => match line?.as_deref() {
                Some("blackhole") => {
                    samples.fall_silent()?;
                    println!("silent");
                }
                Some("heal") => {
                    samples.speak()?;
                    println!("speaking");
                }
                Some(other) => println!("unknown: {other}"),
                None => break Ok(()),
            },
            exit = agent.ended() => {
                break Err(anyhow::anyhow!("{}: {}", exit.name, exit.failure.unwrap_or_default()));
            }
            () = samples.ended() => break Err(anyhow::anyhow!("a sample server ended")),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => break Ok(()),
        }
    };
    keeper.abort();
    agent.stop().await;
    server.shutdown().await;
    outcome
}

/// The standing of an earlier run; else one by the invitation that the parent sends.
async fn join(
    options: &Options,
    client: &Client,
    commands: &mut tokio::io::Lines<BufReader<tokio::io::Stdin>>,
) -> anyhow::Result<Credentials> {
    let folder = options.folder.join("hub-credentials");
    println!("up");
    let line = commands.next_line().await?.context("the parent is gone")?;
    let invitation = Invitation::decode(&line)?;
    let system = Api::<Namespace>::all(client.clone())
        .get("kube-system")
        .await?;
    let uid = system.metadata.uid.unwrap_or_default();
    let credentials = Credentials::join(&folder, &invitation, &uid).await?;
    credentials.exchange_first(super::START_PATIENCE).await?;
    Ok(credentials)
}
