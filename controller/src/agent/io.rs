//! The agent's shells: watches, the writer, the heartbeat and the report.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use fairlead_api::{export::ExportRecord, labels, mcs::v1beta1::ServiceExport};
use fairlead_runtime::{
    clock::Clock,
    tasks::{Exit, Tasks},
};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::Service,
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{Api, Client, runtime::events::Reporter};
use tokio::sync::{mpsc, watch as watch_value};

use super::{
    local::Kind, local::Object, received::Received, restored::HubStore, workloads::Workload,
};
use crate::hub::events::{self, Announcer};

mod certificate;
pub mod credentials;
mod disk;
mod heartbeat;
mod imports;
mod port;
mod relay;
mod reports;
pub mod secret;
mod status;
#[cfg(test)]
mod tests;
mod uplink;
mod watch;
mod write;

pub use credentials::Credentials;
pub use port::Port;
use reports::Upward;
pub use status::Status;
use uplink::Shared;
pub use uplink::Uplink;
use watch::Watch;

type Change = watch::Change<Kind, Object>;

/// How an agent is set up.
#[derive(Clone)]
pub struct AgentConfig {
    /// The member's name.
    pub member: String,
    /// The member's own API server.
    pub local: Client,
    /// The hub's API server, with the rights of this member's agent.
    pub hub: Client,
    /// Whether pods are listed, for the capacity that is left. Needs rights of its own.
    pub properties_pods: bool,
    /// Reported to the hub.
    pub version: String,
    /// Monotonic time, and the wall clock beside it.
    pub clock: Clock,
    /// What comes down from the hub; without it the agent only exports.
    pub downward: Option<Downward>,
}

/// How an agent takes in what its hub decides.
#[derive(Debug, Clone)]
pub struct Downward {
    /// The hub's streams.
    pub uplink: Uplink,
    /// The folder where what came down is kept; made when missing.
    pub data: PathBuf,
    /// Where the member's own proxies connect; nowhere if absent.
    pub port: Option<Port>,
}

/// A running agent; it stops when dropped.
pub struct AgentHandle {
    tasks: Tasks,
    addr: watch_value::Receiver<Option<SocketAddr>>,
    status: Option<Status>,
}

/// Starts an agent. It never gives up: what fails is tried again.
pub fn run(config: AgentConfig) -> AgentHandle {
    let mut tasks = Tasks::new(config.clock.clone());
    let config = Arc::new(config);
    let (announcer, queue) = events::new();
    let reporter = Reporter {
        controller: "fairlead-agent".to_owned(),
        instance: Some(config.member.clone()),
    };
    let teller = events::run(config.local.clone(), reporter, queue);
    tasks.spawn("events", async move {
        teller.await;
        Ok(())
    });
    let (bound, addr) = watch_value::channel(None);
    let status = config
        .downward
        .as_ref()
        .map(|downward| take_in(&config, downward, (bound, &announcer), &mut tasks));
    let (changes, inbox) = mpsc::channel(CHANGES_MAX);
    let (store, store_seen) = watch_value::channel(HubStore::default());
    let (mirrored, mirrored_seen) = watch_value::channel(None);
    watch_member(&config, &changes, &mut tasks);
    let namespace = labels::member_namespace(&config.member);
    let records = Api::<ExportRecord>::namespaced(config.hub.clone(), &namespace);
    let record = |object| Object::Record(Box::new(object));
    let watch = Watch {
        api: records,
        kind: Kind::Record,
        selector: None,
        store: Some(store_seen.clone()),
        wrap: record,
    };
    tasks.spawn("watch export records", watch.run(changes.clone()));
    let mirrors = Api::<EndpointSlice>::namespaced(config.hub.clone(), &namespace);
    let mirror = |object| Object::Mirror(Box::new(object));
    let watch = Watch {
        api: mirrors,
        kind: Kind::Mirror,
        selector: None,
        store: Some(store_seen.clone()),
        wrap: mirror,
    };
    tasks.spawn("watch mirrors", watch.run(changes));
    let exports = write::run(config.clone(), announcer, inbox, mirrored);
    tasks.spawn("exports", exports);
    tasks.spawn("heartbeat", heartbeat::renew(config.clone(), store));
    let mirrored = heartbeat::Mirrored {
        store: store_seen,
        generation: mirrored_seen,
    };
    tasks.spawn("report", heartbeat::report(config, mirrored));
    AgentHandle {
        tasks,
        addr,
        status,
    }
}

/// The downward half: stream and disk, imports, and the port for proxies.
fn take_in(
    config: &Arc<AgentConfig>,
    downward: &Downward,
    (bound, announcer): (watch_value::Sender<Option<SocketAddr>>, &Announcer),
    tasks: &mut Tasks,
) -> Status {
    let mut received = Received::new(&config.member, &config.version);
    let folder = downward.data.display();
    if let Err(error) = disk::load(&downward.data, &mut received) {
        let failure = format!("what came down cannot be kept in {folder}: {error}");
        tasks.spawn("disk", async move { Err(failure.into()) });
    }
    let shared = Shared::new(received);
    let saver = disk::saver(&downward.data);
    let uplink = downward.uplink.clone();
    let link = uplink::run(uplink, shared.clone(), saver, config.clock.clone());
    tasks.spawn("stream from the hub", link);
    imports::start(config, &shared, announcer, tasks);
    let upward = Upward::new(config.clock.clone());
    let status = Status {
        member: config.member.clone(),
        shared: shared.clone(),
        port: downward.port.as_ref().map(|_| bound.subscribe()),
        tasks: tasks.board(),
        proxies: upward.fleet.clone(),
    };
    let reports = reports::run(
        downward.uplink.clone(),
        config.member.clone(),
        shared.clone(),
        upward.clone(),
        config.clock.clone(),
    );
    tasks.spawn("reports to the hub", reports);
    if let Some(port) = downward.port.clone() {
        let at = (port, downward.data.clone());
        let streams = (shared, upward, announcer.clone());
        tasks.spawn(
            "port for proxies",
            port::run(config.clone(), at, streams, bound),
        );
    }
    status
}

fn watch_member(config: &AgentConfig, changes: &mpsc::Sender<Change>, tasks: &mut Tasks) {
    let client = || config.local.clone();
    let service = |object| Object::Service(Box::new(object));
    let watch = Watch {
        api: Api::<Service>::all(client()),
        kind: Kind::Service,
        selector: None,
        store: None,
        wrap: service,
    };
    tasks.spawn("watch services", watch.run(changes.clone()));
    let export = |object| Object::Export(Box::new(object));
    let watch = Watch {
        api: Api::<ServiceExport>::all(client()),
        kind: Kind::Export,
        selector: None,
        store: None,
        wrap: export,
    };
    tasks.spawn("watch exports", watch.run(changes.clone()));
    let slice = |object| Object::Slice(Box::new(object));
    let watch = Watch {
        api: Api::<EndpointSlice>::all(client()),
        kind: Kind::Slice,
        // Ours are what we made of other members' slices.
        selector: Some(format!("{}!={}", labels::MANAGED_BY, labels::MANAGER)),
        store: None,
        wrap: slice,
    };
    tasks.spawn("watch endpoint slices", watch.run(changes.clone()));
    watch_workloads(config, changes, tasks);
}

/// One kind of workload: they differ in type only.
macro_rules! watch_workload {
    ($config:expr, $changes:expr, $tasks:expr, $type:ident, $name:literal) => {{
        let wrap = |object: $type| {
            let workload = Workload::read($name, &object.metadata, &object.spec.template);
            Object::Workload(Box::new(workload))
        };
        let watch = Watch {
            api: Api::<$type>::all($config.local.clone()),
            kind: Kind::Workload($name),
            selector: None,
            store: None,
            wrap,
        };
        $tasks.spawn(concat!("watch ", $name), watch.run($changes.clone()));
    }};
}

fn watch_workloads(config: &AgentConfig, changes: &mpsc::Sender<Change>, tasks: &mut Tasks) {
    watch_workload!(config, changes, tasks, Deployment, "Deployment");
    watch_workload!(config, changes, tasks, StatefulSet, "StatefulSet");
    watch_workload!(config, changes, tasks, DaemonSet, "DaemonSet");
}

impl AgentHandle {
    /// Waits until a background task ends: the reason to end the process.
    pub async fn ended(&mut self) -> Exit {
        self.tasks.next_exit().await
    }

    /// Where the member's proxies connect, once the port is open; `None` where there is none.
    pub async fn proxies_addr(&self) -> Option<SocketAddr> {
        let mut addr = self.addr.clone();
        let bound = addr.wait_for(Option::is_some).await;
        bound.ok().and_then(|bound| *bound)
    }

    /// What the admin pages show; `None` without the downward half.
    pub fn status(&self) -> Option<Status> {
        self.status.clone()
    }

    /// Stops everything and waits until it has.
    pub async fn stop(self) {
        self.tasks.stop().await;
    }
}

/// Up to a quarter more or less, so that a fleet doesn't come back as one.
fn jittered(delay: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8) % 512;
    delay * (768 + u32::try_from(random).expect("below 512")) / 1024
}

impl AgentConfig {
    /// The wall clock's time.
    fn now(&self) -> Time {
        let now = self.clock.wall(self.clock.now());
        Time(Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

/// Changes under way between watches and writer; a watch that finds no room waits.
const CHANGES_MAX: usize = 1024;
/// A request to an API server that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
