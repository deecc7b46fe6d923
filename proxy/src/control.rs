//! The control thread's knowledge: from configuration to what the data threads run on.
//!
//! ```text
//! source ──▶ Snapshot::apply ──touched──▶ Directory (views) ──changes──▶ leaving ──deadlines──▶ cuts
//!                                └──────▶ routes ──▶ table, sockets ──▶ listeners
//! ```
//!
//! [`Control::apply`] takes a batch and returns when the data path runs on it. Cost: the rows
//! touched, and not the rows that there are; a change of endpoints alone touches neither routes nor
//! sockets. Only this thread
//! writes; the data threads see whole views and whole tables.

use std::{collections::BTreeSet, os::fd::OwnedFd, sync::Arc, time::SystemTime};

use fairlead_config::{
    endpoint::Target,
    frontend::Protocol,
    name::ServiceName,
    problem::Problem,
    snapshot::{Delta, Snapshot, Touched},
    xds::proto::fairlead::ProxyState,
};
use fairlead_runtime::clock::{Clock, Tick};

use crate::{
    access_log::{Reason, sink::Sinks},
    directory::{Change, ChangeKind, Directory, Signal, learned::Learned},
    dns::{Host, Looked, Names},
    health::{
        probe::{Job, ProbeError},
        verdict::{Cause, Verdict},
    },
    metrics::Metrics,
    sockets::{Bind, Budget},
    source::load::{self, Sample},
    tcp::{Fleet, FrozenFlow, Queues},
    udp::passing::FlowRow,
    upgrade::{Inheritance, Offer, Parcel, wire::PARCEL_BYTES_MAX},
};

mod closing;
pub mod drains;
mod leaving;
mod listeners;
mod routes;

use drains::{Drain, Drains};
use leaving::Leaving;
use listeners::{Listeners, Wanted};
use routes::{Moves, Routes};

/// Everything that decides what the data threads do.
#[derive(Debug)]
pub struct Control {
    clock: Clock,
    fleet: Arc<Fleet>,
    snapshot: Snapshot,
    directory: Directory,
    routes: Routes,
    listeners: Listeners,
    leaving: Leaving,
    drains: Drains,
    names: Names,
    changes: u64,
    /// Every listener is to close for good.
    leaves: bool,
}

/// What it starts with.
#[derive(Debug, Default)]
pub struct Options {
    /// Random bits that nobody outside knows.
    pub seed: u64,
    /// How many listening sockets there may be.
    pub budget: Budget,
    /// What an earlier process left.
    pub inherited: Inheritance,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows that differ now.
    pub touched: Touched,
    /// Rows that were refused, and addresses that can't be listened on.
    pub problems: Vec<Problem>,
}

// === impl Control ===

impl Control {
    /// Nothing configured.
    pub fn new(fleet: Arc<Fleet>, clock: Clock, sinks: Sinks, options: Options) -> Self {
        let Options {
            seed,
            budget,
            inherited,
        } = options;
        let metrics: Arc<Metrics> = fleet.metrics.clone();
        Self {
            clock,
            snapshot: Snapshot::default(),
            directory: Directory::new(seed),
            routes: Routes::new(metrics, sinks, seed),
            listeners: Listeners::new(fleet.clone(), budget, inherited),
            leaving: Leaving::default(),
            drains: Drains::default(),
            names: Names::new(seed),
            changes: 0,
            leaves: false,
            fleet,
        }
    }

    /// What runs.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How often an endpoint's state has changed; a new number is news for load reports.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The totals of all services, for a load report.
    pub fn sample(&self, proxy: ProxyState, now: SystemTime) -> Sample {
        let threads = self.fleet.metrics.threads().iter();
        let flows: i64 = threads.map(|thread| thread.flows_active.value()).sum();
        let proxy = ProxyState {
            sessions: self.fleet.sessions(),
            flows: u64::try_from(flows).unwrap_or(0),
            ..proxy
        };
        let mut sample = load::sample(&self.directory, &self.snapshot, proxy, now);
        for load in &mut sample.services {
            let cells = self.fleet.metrics.service(&load.service);
            load.dropped = cells.sessions_unserved.sum();
        }
        sample
    }

    /// The services, with their views and endpoints.
    pub fn directory(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// Takes a batch of changes over to the data path.
    pub fn apply(&mut self, delta: Delta) -> Applied {
        let (touched, mut problems) = self.snapshot.apply(delta);
        self.refresh(&touched.services);
        problems.extend(self.reroute(&touched));
        let problems = problems;
        Applied { touched, problems }
    }

    /// Makes the views of `services` anew, for rows or addresses that changed.
    pub fn refresh(&mut self, services: &[ServiceName]) {
        let now = self.clock.now();
        for service in services {
            let hosts = hosts_of(&self.snapshot, service);
            self.names.set(service, hosts, now);
        }
        self.rebuild(services, now);
        self.note_changes();
    }

    fn rebuild(&mut self, services: &[ServiceName], now: Tick) {
        let names = &self.names;
        let resolve = |host: &str| names.addresses(host).to_vec();
        let rows = self.drains.overlay(&self.snapshot, services);
        self.directory.apply(&rows, services, &resolve, now);
    }

    /// The DNS names to ask for now; each has to come back as [`Self::looked`].
    pub fn take_lookups(&mut self) -> Vec<Host> {
        self.names.take_due(self.clock.now())
    }

    /// DNS names that were never answered for.
    pub fn unanswered_names(&self) -> usize {
        self.names.unanswered()
    }

    /// Takes in what a name server answered. An address that is gone gets no new sessions; its live
    /// ones stay, unlike those of an endpoint that is gone from the configuration.
    pub fn looked(&mut self, looked: Looked) {
        let now = self.clock.now();
        self.fleet.metrics.process.dns_lookups.inc(looked.counted());
        match &looked.result {
            Ok(found) => tracing::debug!(host = &*looked.host, ?found, "name looked up"),
            Err(failure) => {
                tracing::warn!(host = &*looked.host, %failure, "a name look-up failed; what was known stays");
            }
        }
        let services = self.names.looked(looked, now);
        if services.is_empty() {
            return;
        }
        self.note_changes();
        self.rebuild(&services, now);
        for change in self.directory.take_changes() {
            self.changes += 1;
            if change.kind != ChangeKind::Removed {
                self.leaving.note(&change);
            }
        }
    }

    /// Drains a member or an endpoint, or calls that off; returns the services that have it.
    pub fn drain(&mut self, drain: &Drain, on: bool) -> Vec<ServiceName> {
        let names = self.snapshot.services.keys();
        let affected = names.filter(|name| drain.matches(&self.snapshot, name));
        let affected: Vec<ServiceName> = affected.cloned().collect();
        if (!on || !affected.is_empty()) && self.drains.set(drain.clone(), on) {
            self.refresh(&affected);
        }
        affected
    }

    /// Opens the access logs anew, after they were rotated.
    pub fn reopen_logs(&self) {
        self.routes.sinks().reopen();
    }

    /// What is drained by hand.
    pub fn drains(&self) -> impl Iterator<Item = &Drain> {
        self.drains.iter()
    }

    /// Addresses that couldn't be listened on.
    pub fn failed_listeners(&self) -> usize {
        self.listeners.failed()
    }

    /// Tries again to listen where that failed before.
    pub fn retry_listeners(&mut self) -> Vec<Problem> {
        if self.listeners.failed() == 0 {
            return Vec::new();
        }
        self.listen(Vec::new())
    }

    /// When [`Self::advance`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        let health = self.directory.next_deadline(self.clock.now());
        let names = self.names.next_deadline();
        let closing = self.listeners.next_deadline();
        let deadlines = [health, self.leaving.next_deadline(), names, closing];
        deadlines.into_iter().flatten().min()
    }

    /// Takes in what data threads and probes saw.
    pub fn observe(&mut self, signals: impl IntoIterator<Item = Signal>) {
        let process = &self.fleet.metrics.process;
        let counted = signals.into_iter().inspect(|signal| {
            if let Signal::Answer(answer) = signal {
                match answer.result {
                    Ok(_) => process.probes_passed.inc(),
                    // Our own fault says nothing about anybody.
                    Err(ProbeError::Ours) => {}
                    Err(_) => process.probes_failed.inc(),
                }
            }
        });
        self.directory.observe(counted, self.clock.now());
        self.note_changes();
    }

    /// The probes to send now; each has to come back through [`Self::observe`].
    pub fn take_probes(&mut self) -> Vec<Job> {
        self.directory.take_probes(self.clock.now())
    }

    /// Does what is due by time alone.
    pub fn advance(&mut self) {
        let now = self.clock.now();
        self.directory.advance(now);
        self.note_changes();
        let closed = self.listeners.advance(now);
        if self.leaves && closed {
            self.leaves = false;
            self.fleet.drain(Queues::Empty);
            self.listeners.forget();
        }
    }

    /// Takes over what health says of live sessions.
    pub fn note_changes(&mut self) {
        for change in self.directory.take_changes() {
            self.changes += 1;
            self.tell(&change);
            self.leaving.note(&change);
        }
        for (endpoint, reason) in self.leaving.due(self.clock.now()) {
            let cancelled = self.fleet.cut(endpoint, reason);
            self.leaving.began(endpoint, cancelled);
        }
    }

    /// Logs and counts what happened to an endpoint.
    fn tell(&self, change: &Change) {
        let endpoint = &change.endpoint;
        let (service, member) = (&change.service.name, &endpoint.member.name);
        let addr = endpoint.addr;
        match change.kind {
            ChangeKind::Unhealthy(verdict) => {
                if verdict == Verdict::Down(Cause::Ejected) {
                    self.fleet.metrics.service(service).ejections.inc();
                }
                tracing::info!(%service, %member, %addr, ?verdict, "an endpoint takes no sessions");
            }
            ChangeKind::Usable => {
                tracing::info!(%service, %member, %addr, "an endpoint takes sessions again");
            }
            // Thousands may come or go with one configuration.
            ChangeKind::Removed | ChangeKind::Draining => {
                tracing::debug!(%service, %member, %addr, kind = ?change.kind, "an endpoint leaves");
            }
        }
    }

    /// Lets go of every listener, each after its handshakes and its queue: [`Self::advance`] goes on
    /// with that.
    pub fn close_listeners(&mut self) {
        self.leaves = true;
        self.listeners.begin_leaving(self.clock.now());
        self.advance();
    }

    /// What a successor gets.
    pub fn offer(&self) -> Offer {
        let learned = self.directory.learned(self.clock.now());
        Offer {
            parcels: parcels(learned, PARCEL_BYTES_MAX),
            ..self.listeners.offer()
        }
    }

    /// Takes over what a predecessor learned; parcels of other kinds are none of our business.
    pub fn learn(&mut self, parcels: &[Parcel]) {
        let now = self.clock.now();
        for parcel in parcels.iter().filter(|parcel| parcel.kind == LEARNED) {
            match serde_json::from_str::<Vec<Learned>>(&parcel.body) {
                Ok(learned) => learned
                    .iter()
                    .for_each(|learned| self.directory.learn(learned, now)),
                Err(error) => tracing::warn!(%error, "what the former process learned is lost"),
            }
        }
        self.note_changes();
    }

    /// Goes on with a predecessor's flows.
    pub fn adopt_flows(&self, flows: Vec<(FlowRow, OwnedFd)>) {
        self.listeners.adopt_flows(flows);
    }

    /// Takes flows back that a successor did not want after all, and serves them again.
    pub fn take_back(&self, flows: Vec<FrozenFlow>) {
        self.listeners.take_back(flows);
        self.fleet.release_datagrams();
    }

    /// Leaves every listener, with what waits in its queue, to a successor.
    pub fn release_listeners(&mut self) {
        self.fleet.drain(Queues::Leave);
        self.listeners.forget();
    }

    /// Closes what was inherited and isn't asked for; call it once the first file is applied.
    pub fn drop_inherited(&mut self) {
        self.listeners.drop_inherited();
    }

    fn reroute(&mut self, touched: &Touched) -> Vec<Problem> {
        let mut frontends: BTreeSet<_> = touched.frontends.iter().cloned().collect();
        let mut problems = Vec::new();
        for name in &touched.services {
            let service = self.snapshot.services.get(name);
            let state = self.directory.service(name);
            match (service, state) {
                (Some(service), Some(state)) => match self.routes.put_service(service, state) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(problem) => problems.push(problem),
                },
                _ => self.routes.remove_service(name),
            }
            frontends.extend(self.routes.frontends_of(name));
        }
        if frontends.is_empty() {
            return problems;
        }
        let mut moves = Moves::default();
        for name in frontends {
            let frontend = self.snapshot.frontends.get(&name);
            let id = self.directory.registry().frontend(&name);
            self.routes.put_frontend(&name, frontend, id, &mut moves);
            if frontend.is_none() {
                self.directory.registry().remove_frontend(&name);
            }
        }
        for (protocol, table) in [
            (Protocol::Tcp, &self.fleet.routes),
            (Protocol::Udp, &self.fleet.datagram_routes),
        ] {
            let groups = self.routes.groups(protocol, &moves);
            if !groups.is_empty() {
                table.store(Arc::new(table.load().with(groups)));
            }
        }
        problems.extend(self.listen(self.routes.wants(&moves)));
        problems
    }

    fn listen(&mut self, wants: Vec<(Bind, Option<Wanted>)>) -> Vec<Problem> {
        let now = self.clock.now();
        let problems = self.listeners.put(wants, now);
        let process = &self.fleet.metrics.process;
        process.frontends_bound.set(self.listeners.count() as i64);
        process.frontends_failed.set(self.listeners.failed() as i64);
        problems
    }
}

/// Packs what was learned; a service too large for one parcel comes in several pieces.
fn parcels(learned: impl Iterator<Item = Learned>, bytes_max: usize) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    let mut body = String::new();
    let pieces = learned.flat_map(|learned| {
        let rest: Vec<_> = learned
            .endpoints
            .chunks(PIECE)
            .skip(1)
            .map(<[_]>::to_vec)
            .collect();
        let service = learned.service.clone();
        let mut first = learned;
        first.endpoints.truncate(PIECE);
        let rest = rest.into_iter().map(move |endpoints| Learned {
            service: service.clone(),
            holds: Vec::new(),
            members: Vec::new(),
            endpoints,
        });
        std::iter::once(first).chain(rest)
    });
    let mut close = |body: &mut String| {
        if !body.is_empty() {
            let kind = LEARNED.to_owned();
            let body = format!("[{}]", std::mem::take(body));
            parcels.push(Parcel { kind, body });
        }
    };
    for piece in pieces {
        let text = serde_json::to_string(&piece).expect("plain structs of text and numbers");
        if body.len() + text.len() + 3 > bytes_max {
            close(&mut body);
        }
        if !body.is_empty() {
            body.push(',');
        }
        body.push_str(&text);
    }
    close(&mut body);
    parcels
}

/// Parcels of [`Learned`].
const LEARNED: &str = "learned";
/// Endpoints in one piece of a service: some 40 kB at the most.
const PIECE: usize = 120;

/// The DNS names among the endpoints of a service.
fn hosts_of(snapshot: &Snapshot, service: &ServiceName) -> BTreeSet<Host> {
    let rows = snapshot.endpoints.get(service);
    let known = snapshot.services.contains_key(service);
    let targets = rows
        .filter(|_| known)
        .into_iter()
        .flat_map(|rows| rows.keys());
    targets
        .filter_map(|key| match &key.target {
            Target::Dns { host, .. } => Some(Host::from(&**host)),
            Target::Addr(_) => None,
        })
        .collect()
}

/// What a session is told that ends because its endpoint left.
fn reason_of(kind: &ChangeKind) -> Option<Reason> {
    match kind {
        ChangeKind::Removed => Some(Reason::EndpointRemoved),
        ChangeKind::Draining => Some(Reason::EndpointDrained),
        ChangeKind::Unhealthy(_) => Some(Reason::EndpointUnhealthy),
        ChangeKind::Usable => None,
    }
}

#[cfg(test)]
mod tests;
