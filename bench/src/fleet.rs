//! How long a change of an endpoint takes from a member to a proxy: a whole fleet in one process,
//! embedded API servers, real agents, hub and proxy core.
//!
//! Measured is the time from the acknowledgement of the write in the member until the new endpoint
//! takes sessions in the proxy's view. Changes come at a fixed rate whatever becomes of those before.
//!
//! | module | what it is |
//! |---|---|
//! | [`hub`] | the hub's API server and the hub |
//! | [`member`] | a member's API server, its services and its agent |
//! | [`proxy`] | the xDS client and the view of one proxy that imports everything |
//! | [`record`] | what is printed and kept |

mod hub;
mod member;
mod proxy;
mod record;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use fairlead_runtime::clock::Clock;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use hub::Hub;
use member::Member;
use proxy::Proxy;
use record::Record;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Members of the fleet.
    #[arg(long, default_value_t = 100)]
    pub(crate) members: usize,
    /// Services that every member exports.
    #[arg(long, default_value_t = 10)]
    pub(crate) services: usize,
    /// Endpoints of each service in each member.
    #[arg(long, default_value_t = 10)]
    pub(crate) endpoints: usize,
    /// Proxies that import everything; a change has arrived when the last of them has it.
    #[arg(long, default_value_t = 1)]
    pub(crate) proxies: usize,
    /// Changes a second, over the whole fleet.
    #[arg(long, default_value_t = 50)]
    pub(crate) rate: u32,
    /// How long changes come, in seconds.
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u32,
    /// Adds the result to this JSON file, in place of an earlier one of as many members.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// What to log on stderr.
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    pub(crate) log: String,
}

/// Runs the measurement and prints it.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.members > 60_000 || options.endpoints > 200 || options.services > 250 {
        bail!("at most 60000 members of 250 services of 200 endpoints: addresses run out");
    }
    fairlead_runtime::logging::start(&options.log, fairlead_runtime::logging::Format::Text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let record = runtime.block_on(measure(options))?;
    print!("{record}");
    match &options.record {
        Some(path) => record.keep(path),
        None => Ok(()),
    }
}

async fn measure(options: &Options) -> anyhow::Result<Record> {
    let clock = Clock::system();
    let started = clock.now();
    let hub = Hub::start(options, &clock).await.context("the hub")?;
    let numbers = stream::iter(0..options.members).map(|number| {
        let (hub, clock) = (&hub, &clock);
        async move { Member::start(options, number, hub, clock).await }
    });
    let members: Vec<Member> = numbers
        .buffered(16)
        .try_collect()
        .await
        .context("a member")?;
    let members: Vec<Arc<Member>> = members.into_iter().map(Arc::new).collect();
    let proxies = (0..options.proxies).map(|number| Proxy::start(number, hub.addr(), &clock));
    let proxies: Vec<Proxy> = proxies.collect();
    let all = options.members * options.services * options.endpoints;
    for proxy in &proxies {
        proxy.has(all).await?;
    }
    let sent_first = hub.sent_bytes();
    eprintln!(
        "{all} endpoints at the proxy after {:.1?}",
        clock.now().since(started)
    );
    // What the fleet's start has left to do is not what is measured.
    tokio::time::sleep(SETTLE).await;

    let before = record::Usage::now()?;
    tokio::time::sleep(IDLE).await;
    let idle = record::Usage::now()?.since(&before);
    let (before, sent) = (record::Usage::now()?, hub.sent_bytes());
    let latencies = change(options, &members, &proxies, &clock).await?;
    let found = record::Found {
        latencies,
        usage: record::Usage::now()?.since(&before),
        idle_cores: idle.cpu.as_secs_f64() / IDLE.as_secs_f64(),
        bytes_at_first: sent_first,
        bytes: hub.sent_bytes() - sent,
        plan_seconds: hub.plan_seconds(),
    };
    let record = Record::new(options, found);
    hub.stop().await;
    Ok(record)
}

/// Makes changes at a fixed rate; how long each took.
async fn change(
    options: &Options,
    members: &[Arc<Member>],
    proxies: &[Proxy],
    clock: &Clock,
) -> anyhow::Result<Vec<Duration>> {
    let count = options.rate * options.seconds;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / options.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut changes = JoinSet::new();
    for number in 0..count {
        ticks.tick().await;
        // Spread over members first, services second; no endpoint twice in a row.
        let number = number as usize;
        let member = Arc::clone(&members[(number * 7919) % members.len()]);
        let service = number % options.services;
        let addr = member.fresh_addr(number);
        let seen: Vec<_> = proxies.iter().map(|proxy| proxy.expect(addr)).collect();
        let clock = clock.clone();
        changes.spawn(async move {
            let seen = futures::future::try_join_all(seen);
            member.replace(service, addr).await?;
            let acknowledged = clock.now();
            let seen = tokio::time::timeout(PATIENCE, seen).await;
            let seen = seen.with_context(|| format!("change {number} did not arrive"))??;
            let last = seen.into_iter().max().context("no proxy")?;
            anyhow::Ok(last.since(acknowledged))
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = changes.join_next().await {
        latencies.push(done??);
    }
    Ok(latencies)
}

/// Reports, statuses, leases: what follows a start.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a fleet is looked at in which nothing changes.
const IDLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
