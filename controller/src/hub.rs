//! The hub as one handle: watches, plans, writes, streams and joining, wired together.
//!
//! ```text
//! watches ─▶ engine (World ─▶ plan) ─▶ board ─▶ streams ─▶ proxies, agents
//!              ▲       │                           │
//!              │       └─▶ writer (the leader's)   └─ reports ─▶ fleet ─▶ engine
//! ```
//!
//! Everything in this folder is a shell. What it decides, it decides by the pure modules beside it.

pub(crate) mod access;
mod engine;
mod epoch;
pub(crate) mod events;
mod forward;
mod identities;
mod metrics;
mod news;
mod pages;
mod relayed;
pub mod reports;
mod server;
mod streams;
#[cfg(test)]
mod tests;
mod watches;
mod writer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fairlead_api::labels;
use fairlead_runtime::{
    clock::Clock,
    tasks::{Exit, TaskError, Tasks},
};
use kube::{Client, runtime::events::Reporter};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use engine::{Phase, Shared};
pub use identities::apply as apply_manifest;
pub use metrics::Metrics;
pub use pages::View;

use crate::{
    authority::{self, Authority},
    board::Board,
    epoch::{Epoch, Life},
    fleet::{Fleet, Gathered},
    join::{ApiServer, io::Registrar},
    leader,
    plan::Report,
    stream::io::port::{Tls, tls_config},
    world::Settings,
};
use engine::{Command, Engine, Outputs};
use events::Announcer;
use forward::Forwarder;
use reports::Reports;
use server::Server;
use streams::Streams;

/// How a hub is run.
#[derive(Clone)]
pub struct HubConfig {
    /// A client of the hub's API server with the rights of `ClusterRole/fairlead-hub`.
    pub client: Client,
    /// Where agents and standalone proxies connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where other replicas reach this port: `host:port`; the listening address where absent.
    pub advertise: Option<String>,
    /// Names and addresses that clients know this port by, for its certificate.
    pub names: Vec<String>,
    /// Off: plain, nobody can join, and a stream without a token is taken for what it claims.
    pub tls: bool,
    /// This replica's name in the leader's Lease.
    pub replica: String,
    /// What members are told of the hub's Kubernetes API.
    pub api_server: Option<ApiServer>,
    /// What the operator set.
    pub settings: Settings,
    /// Where time comes from.
    pub clock: Clock,
}

impl HubConfig {
    /// Where other replicas find this one.
    fn url(&self, addr: SocketAddr) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let at = self.advertise.clone().unwrap_or_else(|| addr.to_string());
        format!("{scheme}://{at}")
    }

    fn advertised_host(&self) -> Option<String> {
        let (host, _) = self.advertise.as_deref()?.rsplit_once(':')?;
        Some(host.trim_matches(['[', ']']).to_owned())
    }
}

/// A running hub. Dropping it stops it.
pub struct Handle {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it decided, for `explain` and tests.
    pub shared: Shared,
    /// Proxies and their reports.
    pub fleet: Arc<Mutex<Fleet>>,
    /// Everything it counts.
    pub metrics: Metrics,
    leadership: leader::io::Leadership,
    authority: Option<Arc<RwLock<Authority>>>,
    tasks: Tasks,
    connections: TaskTracker,
    stop: CancellationToken,
    client: Client,
    replica: String,
}

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The port.
    #[error("cannot listen on {addr}; choose another --listen address")]
    Listen {
        /// The address.
        addr: SocketAddr,
        #[allow(missing_docs, reason = "the reason")]
        source: std::io::Error,
    },
    /// The namespace of the hub.
    #[error(
        "namespace fairlead-system cannot be made on the hub's API server; is it there, and does this identity have the rights of ClusterRole fairlead-hub?"
    )]
    Namespace(#[source] kube::Error),
    /// The kinds that a hub lives by.
    #[error(
        "the hub's API server does not know MemberCluster; install the CRDs first: fairlead crds | kubectl apply --server-side -f -"
    )]
    Definitions,
    /// The epoch.
    #[error(
        "the hub's epoch, ConfigMap fairlead-hub-epoch in namespace fairlead-system, cannot be read or made"
    )]
    Epoch(#[source] kube::Error),
    /// The authority.
    #[error("the hub's certificate authority cannot be had: {0}")]
    Authority(#[from] authority::io::AuthorityError),
    /// Its certificate.
    #[error("the hub's certificate cannot be made: {0}")]
    Certificate(String),
}

/// Starts a hub. Its tasks belong to the handle.
pub async fn run(config: HubConfig) -> Result<Handle, HubError> {
    let addr = config.listen;
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|source| HubError::Listen { addr, source })?;
    let addr = listener
        .local_addr()
        .map_err(|source| HubError::Listen { addr, source })?;
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": labels::SYSTEM_NAMESPACE },
    });
    apply_manifest(&config.client, &namespace)
        .await
        .map_err(HubError::Namespace)?;
    let base = match epoch::revision(&config.client).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(HubError::Definitions),
        found => found.map_err(HubError::Epoch)?,
    };
    let (epoch, made) = epoch::load(&config.client).await.map_err(HubError::Epoch)?;
    let identity = match config.tls {
        true => Some(Identity::load(&config, addr).await?),
        false => None,
    };
    let begin = Begin {
        addr,
        epoch,
        made,
        base,
    };
    Ok(start(config, listener, begin, identity))
}

/// What was found out before anything was started.
struct Begin {
    addr: SocketAddr,
    epoch: Epoch,
    /// There was none: nobody was ever told anything.
    made: bool,
    /// The API server's resourceVersion.
    base: u64,
}

fn start(
    config: HubConfig,
    listener: TcpListener,
    begin: Begin,
    identity: Option<Identity>,
) -> Handle {
    let addr = begin.addr;
    let mut tasks = Tasks::new(config.clock.clone());
    let metrics = Metrics::new();
    let fleet = Arc::new(Mutex::new(Fleet::default()));
    let doors = Doors {
        connections: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let (leadership, election) = leader::io::new(config.replica.clone(), config.clock.clone());
    let (vouched, epoch) = watch::channel(String::new());
    let said = leader::io::Statement {
        url: config.url(addr),
        epoch,
    };
    let lease = leader::io::run(config.client.clone(), config.clock.clone(), said, election);
    tasks.spawn("leader election", endless(lease));

    let (announcer, queue) = events::new();
    let reporter = Reporter {
        controller: "fairlead-hub".to_owned(),
        instance: Some(config.replica.clone()),
    };
    let teller = events::run(config.client.clone(), reporter, queue);
    tasks.spawn("events", endless(teller));
    let engine = Ground {
        config: &config,
        leadership: &leadership,
        metrics: &metrics,
        fleet: &fleet,
        events: &announcer,
        begin: &begin,
    };
    let running = engine.start(vouched, &mut tasks);
    let shared = running.shared.clone();
    engine.serve(listener, running, identity.as_ref(), &mut tasks, &doors);
    let authority = identity.as_ref().map(|identity| identity.authority.clone());
    if let Some(identity) = identity {
        tasks.spawn("certificates", endless(identity.keep(config.clone(), addr)));
    }
    Handle {
        addr,
        shared,
        fleet,
        metrics,
        leadership,
        authority,
        tasks,
        connections: doors.connections,
        stop: doors.stop,
        client: config.client,
        replica: config.replica,
    }
}

/// What the engine stands on.
struct Ground<'g> {
    config: &'g HubConfig,
    leadership: &'g leader::io::Leadership,
    metrics: &'g Metrics,
    fleet: &'g Arc<Mutex<Fleet>>,
    events: &'g Announcer,
    begin: &'g Begin,
}

impl Ground<'_> {
    fn start(&self, vouched: watch::Sender<String>, tasks: &mut Tasks) -> Running {
        let epoch = &self.begin.epoch;
        let board = Arc::new(RwLock::new(Board::new(epoch.id.clone())));
        let report = Arc::new(RwLock::new(Report::default()));
        let (revision, revision_seen) = watch::channel(0);
        let (phase, phase_seen) = watch::channel(self.first_phase());
        let (shown, shown_taken) = mpsc::channel(epoch::QUEUE);
        let (members, members_seen) = watch::channel(Arc::default());
        let (groups, groups_seen) = watch::channel(Arc::default());
        let (writes, writes_taken) = mpsc::channel(WRITES_QUEUE);
        let (work, work_taken) = mpsc::channel(identities::QUEUE);
        let (seen, seen_taken) = mpsc::channel(watches::QUEUE);
        let (commands, commands_taken) = mpsc::channel(COMMANDS_QUEUE);
        let out = Outputs {
            board: board.clone(),
            revision,
            phase,
            report: report.clone(),
            members,
            groups,
            writes,
            identities: work,
            events: self.events.clone(),
            shown: shown.clone(),
        };
        let engine = Engine::new(
            self.config.settings,
            out,
            self.fleet.clone(),
            self.leadership.clone(),
            self.metrics.clone(),
        )
        .seen_up_to(self.begin.base)
        .holding(self.holds());
        let client = &self.config.client;
        let writer = writer::run(
            client.clone(),
            self.leadership.clone(),
            self.metrics.clone(),
            writes_taken,
        );
        let (relist, relist_seen) = watch::channel(0);
        let watches = watches::run(client.clone(), seen, relist_seen);
        tasks.spawn("watches", endless(watches));
        tasks.spawn("engine", endless(engine.run(seen_taken, commands_taken)));
        tasks.spawn("writer", endless(writer));
        let identities = identities::run(
            client.clone(),
            self.leadership.clone(),
            work_taken,
            commands.clone(),
        );
        tasks.spawn("identities", endless(identities));
        let shared = Shared {
            board,
            revision: revision_seen,
            phase: phase_seen,
            report,
            members: members_seen,
            groups: groups_seen,
        };
        let running = Running {
            shared,
            commands,
            shown,
        };
        self.keep(&running, (relist, vouched), shown_taken, tasks);
        running
    }

    /// Nothing is distributed before it is known whether the store was restored.
    fn holds(&self) -> bool {
        self.begin.epoch.remirroring || !self.begin.made
    }

    fn first_phase(&self) -> Phase {
        self.metrics.holds(self.holds());
        match self.holds() {
            true => Phase::Holding,
            false => Phase::Listing,
        }
    }

    /// Looks after the store's life.
    fn keep(
        &self,
        running: &Running,
        (relist, vouched): (watch::Sender<u64>, watch::Sender<String>),
        shown: mpsc::Receiver<epoch::Shown>,
        tasks: &mut Tasks,
    ) {
        let clock = self.config.clock.clone();
        let Begin {
            epoch, made, base, ..
        } = self.begin;
        let life = Life::new(epoch.clone(), *base, *made, clock.now());
        let keeper = epoch::Keeper {
            client: self.config.client.clone(),
            leadership: self.leadership.clone(),
            board: running.shared.board.clone(),
            engine: running.commands.clone(),
            relist,
            vouched,
            clock,
        };
        tasks.spawn("epoch", endless(keeper.run(life, shown)));
    }
}

/// How the rest of the hub reaches the engine.
struct Running {
    shared: Shared,
    commands: mpsc::Sender<Command>,
    shown: mpsc::Sender<epoch::Shown>,
}

/// What open connections are held by.
struct Doors {
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Ground<'_> {
    /// Opens the port.
    fn serve(
        &self,
        listener: TcpListener,
        running: Running,
        identity: Option<&Identity>,
        tasks: &mut Tasks,
        doors: &Doors,
    ) {
        let Running {
            shared,
            commands,
            shown,
        } = running;
        let reports = Reports::new(self.fleet.clone(), self.config.clock.clone());
        let forwarder = Forwarder {
            reports: reports.clone(),
            leadership: self.leadership.clone(),
            authority: identity.map(|identity| identity.authority.clone()),
            replica: self.config.replica.clone(),
        };
        tasks.spawn("hand on", endless(forwarder.run()));
        let streams = Streams {
            access: access::Access::new(
                self.config.client.clone(),
                self.config.clock.clone(),
                !self.config.tls,
            ),
            shared: shared.clone(),
            reports,
            metrics: self.metrics.clone(),
            events: self.events.clone(),
            tasks: doors.connections.clone(),
            engine: commands.clone(),
            shown,
        };
        let gatherer = gather(
            self.fleet.clone(),
            shared,
            commands,
            self.config.clock.clone(),
        );
        tasks.spawn("reports", endless(gatherer));
        let registrar = identity.map(|identity| {
            Arc::new(Registrar::new(
                self.config.client.clone(),
                identity.authority.clone(),
                self.config.api_server.clone(),
                self.config.clock.clone(),
            ))
        });
        let server = Server {
            streams,
            registrar,
            metrics: self.metrics.clone(),
        };
        let tls = identity.map(|identity| identity.tls.clone());
        let serving = server::run(
            listener,
            tls,
            server,
            doors.connections.clone(),
            doors.stop.clone(),
        );
        tasks.spawn("streams", endless(serving));
    }
}

impl Handle {
    /// Waits until everything known is distributed.
    pub async fn ready(&mut self) {
        // The engine lives as long as the handle; if it ends, `exit` says why.
        let serving = self.shared.phase.wait_for(|phase| *phase == Phase::Serving);
        if serving.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this replica writes.
    pub fn leads(&self) -> bool {
        self.leadership.is_mine()
    }

    /// What its certificates are checked against, PEM; `None` on a plain port.
    pub fn bundle(&self) -> Option<String> {
        self.authority.as_ref().map(|one| one.read().bundle())
    }

    /// Waits for the end of any of its tasks: none ever should.
    pub async fn exit(&mut self) -> Exit {
        self.tasks.next_exit().await
    }

    /// What the admin pages show.
    pub fn view(&self) -> View {
        View {
            shared: self.shared.clone(),
            fleet: self.fleet.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Stops, and gives the lead away.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.stop().await;
        self.connections.close();
        let release = leader::io::release(self.client, &self.replica);
        if let Ok(Err(error)) = tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            tracing::debug!(%error, "the leader's Lease was not given up");
        }
    }
}

/// The hub's certificates.
struct Identity {
    authority: Arc<RwLock<Authority>>,
    tls: Tls,
}

impl Identity {
    async fn load(config: &HubConfig, addr: SocketAddr) -> Result<Self, HubError> {
        let authority = authority::io::load(&config.client, &config.clock).await?;
        let tls = serving(&authority, config, addr)?;
        Ok(Self {
            authority: Arc::new(RwLock::new(authority)),
            tls: Arc::new(RwLock::new(tls)),
        })
    }

    /// Follows the authority's rotation, and renews the serving certificate long before its end.
    async fn keep(self, config: HubConfig, addr: SocketAddr) {
        loop {
            tokio::time::sleep(CERTIFICATE_EVERY).await;
            let authority = match authority::io::load(&config.client, &config.clock).await {
                Ok(authority) => authority,
                Err(error) => {
                    tracing::warn!(%error, "the authority cannot be read");
                    continue;
                }
            };
            match serving(&authority, &config, addr) {
                Ok(tls) => {
                    *self.tls.write() = tls;
                    *self.authority.write() = authority;
                }
                Err(error) => tracing::warn!(%error, "the serving certificate is not renewed"),
            }
        }
    }
}

fn serving(
    authority: &Authority,
    config: &HubConfig,
    addr: SocketAddr,
) -> Result<Arc<rustls::ServerConfig>, HubError> {
    let failed = |error: authority::CertificateError| HubError::Certificate(error.to_string());
    let mut names = config.names.clone();
    names.push("localhost".to_owned());
    if !addr.ip().is_unspecified() {
        names.push(addr.ip().to_string());
    }
    names.extend(config.advertised_host());
    names.sort();
    names.dedup();
    let key = authority::io::key().map_err(failed)?;
    let now = crate::time::timestamp(&config.clock);
    let certificate = authority.sign_server(&names, &key, now).map_err(failed)?;
    tls_config(&certificate, &key.serialize_pem(), &authority.bundle())
        .map_err(HubError::Certificate)
}

/// Carries what proxies report to the engine, at most twice a second.
async fn gather(
    fleet: Arc<Mutex<Fleet>>,
    shared: Shared,
    engine: mpsc::Sender<Command>,
    clock: Clock,
) {
    let mut ticks = tokio::time::interval(GATHER_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut published = std::collections::BTreeMap::new();
    loop {
        ticks.tick().await;
        let now = clock.now();
        let commands = {
            let board = shared.board.read();
            let gathered = fleet.lock().gather(&board, &mut published, now);
            (gathered != Gathered::default()).then(|| {
                [
                    Command::Loads(gathered.loads),
                    Command::Refusals(gathered.refusals),
                    Command::Groups(gathered.groups),
                ]
            })
        };
        for command in commands.into_iter().flatten() {
            if engine.send(command).await.is_err() {
                return;
            }
        }
    }
}

async fn endless(work: impl Future<Output = ()>) -> Result<(), TaskError> {
    work.await;
    Err("it came to an end".into())
}

const WRITES_QUEUE: usize = 256;
const COMMANDS_QUEUE: usize = 256;
const GATHER_EVERY: Duration = Duration::from_millis(500);
const CERTIFICATE_EVERY: Duration = Duration::from_secs(3600);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
