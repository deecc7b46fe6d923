//! `fairlead up`: a whole fleet on one machine.
//!
//! | module | what it is |
//! |---|---|
//! | [`hub`] | the hub's API server and the hub, in this process |
//! | [`member`] | a member: API server, agent and sample servers, in a process of its own |
//! | [`members`] | those processes as seen from here |
//! | [`samples`] | the sample servers |
//! | [`objects`] | what is put into the API servers |
//! | [`proxy`] | the proxy, in a process of its own |
//! | [`ready`] | the ready file, and what is printed |

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    signal::unix::{SignalKind, signal},
};

mod hub;
pub(crate) mod member;
mod members;
mod objects;
mod proxy;
mod ready;
mod samples;

use members::Members;

/// How the fleet is set up.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many members.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    members: u8,
    /// Sample servers in each member.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    pods: u8,
    /// Keep everything here across restarts; without it a temporary folder goes with the fleet.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where clients connect; TCP and UDP get the same port if both are free.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    address: Ipv4Addr,
    /// The first port for clients.
    #[arg(long, default_value_t = 17000)]
    port: u16,
    /// Once all is serving, write the addresses here as JSON.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Make this member stop answering right after the start (as `blackhole MEMBER` does).
    #[arg(long, value_name = "MEMBER")]
    blackhole: Vec<String>,
    /// What is logged to FOLDER/logs: error, warn, info, debug, trace or a filter.
    #[arg(long, default_value = "info", env = "FAIRLEAD_LOG")]
    log_level: String,
}

/// Runs the fleet until it is told to end.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let temporary = match &options.data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("fairlead-up-").tempdir()?),
        };
        let folder = match (&options.data, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => bail!("no folder"),
        };
        std::fs::create_dir_all(folder.join("logs"))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        log_to(&folder, &options.log_level)?;
        fleet(options, folder).await
    })
}

async fn fleet(options: &Options, folder: PathBuf) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hub = hub::Hub::start(options, &folder).await?;
    let started = async {
        let mut members = Members::start(options, &folder, &hub).await?;
        let mut proxy = proxy::Proxy::start(options, &folder, &hub).await?;
        let endpoint = hub.endpoint().await?;
        proxy.serving(&endpoint, options.members).await?;
        let ready = ready::Ready::new(&hub, &members, &proxy, &endpoint);
        print!("{}", ready.text(&folder));
        if let Some(path) = &options.ready_file {
            ready.write(path)?;
        }
        for name in &options.blackhole {
            println!("{}", members.blackhole(name).await?);
        }
        anyhow::Ok((members, proxy))
    };
    let (mut members, mut proxy) = tokio::select! {
        started = started => started?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let mut commands = Some(BufReader::new(tokio::io::stdin()).lines());
    let outcome = loop {
        tokio::select! {
            line = next_line(&mut commands) => match line {
                Some(line) => println!("{}", obey(&mut members, &line).await),
                None => commands = None,
            },
            gone = members.next_exit() => println!("member {gone} is gone"),
            reason = proxy.exit() => break Err(anyhow::anyhow!("the proxy ended: {reason}")),
            reason = hub.exit() => break Err(anyhow::anyhow!("the hub ended: {reason}")),
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
        }
    };
    println!("ending");
    proxy.stop().await;
    members.stop().await;
    hub.stop().await;
    outcome
}

/// The next command; never, once standard input has ended.
async fn next_line(commands: &mut Option<Lines<BufReader<Stdin>>>) -> Option<String> {
    match commands {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

async fn obey(members: &mut Members, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = match words[..] {
        ["blackhole", name] => members.blackhole(name).await,
        ["heal", name] => members.heal(name).await,
        [] => return String::new(),
        _ => return "commands: blackhole MEMBER, heal MEMBER; Ctrl-C ends the fleet".to_owned(),
    };
    done.unwrap_or_else(|error| format!("{error:#}"))
}

fn log_to(folder: &std::path::Path, filter: &str) -> anyhow::Result<()> {
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("logs/hub.log"))
        .context("cannot write the log")?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(filter)?)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .init();
    Ok(())
}

/// Something of the fleet that takes longer to come up has failed.
const START_PATIENCE: Duration = Duration::from_secs(30);
