//! What a large configuration costs the whole process: a control plane here, a real `fairlead-proxy` in
//! a process of its own, real sockets between them.
//!
//! Measured are the load of everything at once, one endpoint's change, the peak of the proxy's memory,
//! and what live sessions notice meanwhile. "In effect" is seen from outside: a change counts once a
//! connection arrives at the endpoint that it made ready, the load once the frontend that was sent last
//! answers. Beside it: what a YAML file of the same services costs, and what a frontend costs in files.
//!
//! | module | what it is |
//! |---|---|
//! | [`world`] | the services, their endpoints and frontends, and their addresses |
//! | [`plane`] | the control plane: incremental ADS, encoded before the clock starts |
//! | [`proxy`] | the process, its memory and its files |
//! | [`live`] | the endpoints, and clients whose latencies count from the intended start |
//! | [`yaml`] | the same services from a file |
//! | [`record`] | what is printed and kept |

mod live;
mod plane;
mod proxy;
mod record;
mod world;
mod yaml;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use live::{Endpoints, Load};
use plane::Plane;
use proxy::Proxy;
use record::{Latencies, Record, Spread};
use world::World;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Services, each with a frontend.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) services: u32,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 100)]
    pub(crate) endpoints: u32,
    /// Changes of one endpoint, one after the other.
    #[arg(long, default_value_t = 500)]
    pub(crate) changes: u32,
    /// Keep the last good state on disk, as a proxy of a fleet does.
    #[arg(long)]
    pub(crate) state: bool,
    /// Writes the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// Runs the measurement and prints it.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !(2..=60_000).contains(&options.services) || !(2..=1000).contains(&options.endpoints) {
        bail!("2 to 60000 services of 2 to 1000 endpoints: addresses run out");
    }
    let folder = tempfile::tempdir()?;
    let endpoints = Endpoints::start()?;
    let world = World::new(options, endpoints.port());
    let plane = Plane::start(&world)?;
    let state = options.state.then(|| folder.path().join("state"));
    let proxy = Proxy::under(&plane, state.as_deref())?;
    proxy.wait_for(world.front(0))?;
    let small = proxy.usage()?;
    let calm = watch(&world, |_| {
        pause(CALM);
        Ok(())
    })?
    .0;

    let (loading, load) = watch(&world, |_| load_all(&plane, &proxy, &world))?;
    let loaded = proxy.usage()?;
    // What follows a load, such as the state on disk, is no part of what a change costs.
    pause(SETTLE);
    let (changing, effects) = watch(&world, |_| change(options, &plane, &world))?;
    let after = proxy.usage()?;
    let bound = proxy.metric("fairlead_frontends{state=\"bound\"} ")?;
    ensure!(
        bound == f64::from(options.services),
        "{bound} of {} frontends are bound",
        options.services
    );
    let scraped = proxy.usage()?;
    let files = f64::from(loaded.files.saturating_sub(small.files));
    drop(proxy);
    let record = Record {
        machine: crate::report::machine(),
        services: options.services,
        endpoints: options.endpoints,
        state_on_disk: options.state,
        load_seconds: load.as_secs_f64(),
        change_milliseconds: Spread::of(&effects),
        peak_megabytes_loaded: loaded.peak,
        peak_megabytes: after.peak,
        peak_megabytes_scraped: scraped.peak,
        resident_megabytes: after.resident,
        calm,
        loading,
        changing,
        files_per_frontend: files / f64::from(options.services - 1),
        yaml: yaml::measure(options, folder.path(), endpoints.port())?,
        reload_milliseconds: yaml::reloads(options, folder.path(), endpoints.port())?,
    };
    print!("{record}");
    match &options.record {
        Some(path) => record.keep(path),
        None => Ok(()),
    }
}

/// Keeps sessions of the first service going while `work` runs; what they noticed.
fn watch<T>(
    world: &World,
    work: impl FnOnce(&Load) -> anyhow::Result<T>,
) -> anyhow::Result<(Latencies, T)> {
    let load = Load::start(world.front(0))?;
    let done = work(&load);
    let latencies = load.stop()?;
    Ok((latencies, done?))
}

/// Sends everything but the first service; how long until the last frontend answers.
fn load_all(plane: &Plane, proxy: &Proxy, world: &World) -> anyhow::Result<Duration> {
    let began = Instant::now();
    plane.send_all();
    proxy.wait_for(world.front(world.services - 1))?;
    let took = began.elapsed();
    for number in (0..world.services).step_by(97) {
        live::ask(world.front(number)).with_context(|| format!("service {number}"))?;
    }
    Ok(took)
}

/// Makes one endpoint ready at a time, each of another service, and takes it back.
fn change(options: &Options, plane: &Plane, world: &World) -> anyhow::Result<Vec<Duration>> {
    let mut effects = Vec::new();
    for round in 0..options.changes {
        let number = 1 + round * 7 % (world.services - 1);
        let wanted = world.endpoint_ip(number, 0);
        let update = plane.encode_ready(world, number, true);
        let back = plane.encode_ready(world, number, false);
        let began = Instant::now();
        plane.send(update);
        let effect = loop {
            if live::ask(world.front(number))? == wanted {
                break began.elapsed();
            }
            ensure!(began.elapsed() < PATIENCE, "change {round} took no effect");
        };
        effects.push(effect);
        plane.send(back);
        plane.wait_for_acknowledgements()?;
        pause(BETWEEN);
    }
    Ok(effects)
}

fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// How long live sessions are watched before anything happens.
const CALM: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_secs(3);
const BETWEEN: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(60);
