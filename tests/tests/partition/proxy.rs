//! A proxy: follows a replica of the hub, probes endpoints, sends sessions to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_config::{
    endpoint::{EndpointKey, Target},
    frontend::Protocol,
    name::MemberName,
    name::ServiceName,
    service::MemberWeight,
    snapshot::Snapshot,
    xds::proto::{
        core::Node,
        discovery::Resource,
        fairlead::ProxyState,
        load_stats::{LoadStatsRequest, LoadStatsResponse},
    },
};
use fairlead_controller::{
    board::{Board, Type},
    fleet::wanted_reports,
    stream::Stream,
};
use fairlead_proxy::{
    balancer::{FlowKey, Tried, draw::Draw},
    directory::{Change, Directory, Signal},
    health::{
        note,
        probe::{Answer, Job, ProbeError},
    },
    registry::{Live, Outcome},
    source::{
        load::{Reporter, sample},
        xds::{Ads, Step},
    },
    view::ServiceView,
};
use fairlead_runtime::clock::Tick;

use crate::{
    datagrams::{Datagrams, Sent},
    dice::Dice,
    replica::Replica,
};

/// A process; a crash is a new one that has the old one's disk.
pub(crate) struct Proxy {
    pub(crate) ads: Ads,
    pub(crate) snapshot: Snapshot,
    directory: Directory,
    draw: Draw,
    stream: Option<(usize, Stream)>,
    again: Tick,
    answers: Vec<(Tick, Answer)>,
    sessions: Vec<Session>,
    datagrams: Datagrams,
    reporting: Reporting,
    /// Since when it has known each endpoint.
    pub(crate) known: BTreeMap<SocketAddr, Tick>,
}

/// A session, or the part of it that matters here.
struct Session {
    began: Tick,
    ends: Tick,
    endpoint: Live,
}

/// The stream of reports.
struct Reporting {
    reporter: Reporter,
    to: Option<usize>,
    /// Streams opened so far.
    streams: u64,
    again: Tick,
    next: Tick,
    /// What is wanted, as of which revision of the replica's board.
    asked: Option<(u64, LoadStatsResponse)>,
    /// What is under way; the first of a stream names the proxy, and says no more.
    out: Vec<(LoadStatsRequest, bool)>,
}

/// How a connect or a probe ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Answers,
    Refuses,
    Silence,
}

impl Proxy {
    pub(crate) fn start(
        number: usize,
        seed: u64,
        disk: Vec<(String, Resource)>,
        now: Tick,
    ) -> Self {
        let node = Node {
            id: format!("p{number}"),
            cluster: "edge".to_owned(),
            ..Node::default()
        };
        let mut proxy = Self {
            ads: Ads::new(node),
            snapshot: Snapshot::default(),
            directory: Directory::new(seed),
            draw: Draw::new(seed),
            stream: None,
            again: now,
            answers: Vec::new(),
            sessions: Vec::new(),
            datagrams: Datagrams::new(seed, now),
            reporting: Reporting {
                reporter: Reporter::new(),
                to: None,
                streams: seed << 8,
                again: now,
                next: now,
                asked: None,
                out: Vec::new(),
            },
            known: BTreeMap::new(),
        };
        let step = proxy.ads.restore(disk);
        proxy.take(step, now);
        proxy
    }

    /// What it has on disk.
    pub(crate) fn disk(&self) -> Vec<(String, Resource)> {
        let all = self.ads.in_force().into_iter();
        all.map(|(url, resource)| (url.to_owned(), (*resource).clone()))
            .collect()
    }

    /// The replica that its stream is open at.
    pub(crate) fn follows(&self) -> Option<usize> {
        self.stream.as_ref().map(|(replica, _)| *replica)
    }

    /// Its stream broke.
    pub(crate) fn loses_stream(&mut self, now: Tick) {
        self.stream = None;
        self.again = now.after(Duration::from_millis(300));
    }

    /// Whether it tries to connect now.
    pub(crate) fn wants_stream(&self, now: Tick) -> bool {
        self.stream.is_none() && now >= self.again
    }

    /// Opens its stream at a replica that serves.
    pub(crate) fn connect(&mut self, number: usize) {
        let mut stream = Stream::default();
        for request in self.ads.connect() {
            stream.hear(&request);
        }
        self.stream = Some((number, stream));
    }

    /// Hears what the replica has to say.
    pub(crate) fn hear(&mut self, replica: &Replica, now: Tick) {
        let board = &replica.board;
        let (Some(table), Some((_, stream))) = (board.group("edge"), &mut self.stream) else {
            return;
        };
        let (chunks, revision) = (board.chunks(), board.revision());
        let responses = stream.say_with(table, chunks, revision, &Type::OF_PROXIES);
        for response in responses {
            let step = self.ads.receive(response, now);
            self.take(step, now);
        }
    }

    /// What the replica knows of its answers.
    pub(crate) fn answered(&self) -> Option<(Option<&str>, bool)> {
        let (_, stream) = self.stream.as_ref()?;
        Some((stream.applied(), stream.is_settled()))
    }

    /// Does what is due: what was held back, probes, deadlines.
    pub(crate) fn step(&mut self, reply: &dyn Fn(SocketAddr) -> Reply, now: Tick) {
        if self.stream.is_some() && self.ads.next_deadline().is_some_and(|at| at <= now) {
            let step = self.ads.release(now);
            self.take(step, now);
        }
        let due: Vec<Answer> = self
            .answers
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, one)| one)
            .collect();
        self.directory
            .observe(due.into_iter().map(Signal::Answer), now);
        if self
            .directory
            .next_deadline(now)
            .is_some_and(|at| at <= now)
        {
            self.directory.advance(now);
        }
        for job in self.directory.take_probes(now) {
            self.probe(job, reply, now);
        }
        self.sessions.retain(|session| session.ends > now);
        self.datagrams.step(now);
    }

    /// What happened to endpoints since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        self.directory.take_changes()
    }

    /// Whether sessions to this endpoint live.
    pub(crate) fn has_sessions(&self, addr: SocketAddr) -> bool {
        self.sessions
            .iter()
            .any(|session| session.endpoint.addr == addr)
    }

    /// Its sessions to a cluster that have lasted for so long.
    pub(crate) fn old_sessions(&self, cluster: usize, for_long: Duration, now: Tick) -> usize {
        let is_old = |session: &&Session| {
            of_cluster(session.endpoint.addr, cluster) && now.since(session.began) > for_long
        };
        self.sessions.iter().filter(is_old).count()
    }

    /// Whether it has known an endpoint of a cluster for so long.
    pub(crate) fn knows_for(&self, cluster: usize, for_long: Duration, now: Tick) -> bool {
        let mut known = self.known.iter();
        known.any(|(at, since)| of_cluster(*at, cluster) && now.since(*since) > for_long)
    }

    /// The tier and the weight of a member, as it was told.
    pub(crate) fn place(
        &self,
        service: &ServiceName,
        member: &MemberName,
    ) -> Option<(usize, MemberWeight)> {
        let tiers = &self.snapshot.services.get(service)?.tiers;
        tiers.iter().enumerate().find_map(|(number, tier)| {
            let mut members = tier.members.iter();
            let member = members.find(|one| one.name == *member)?;
            Some((number, member.weight))
        })
    }

    /// The endpoints of a service.
    pub(crate) fn endpoints_of(&self, service: &ServiceName) -> impl Iterator<Item = SocketAddr> {
        let rows = self.snapshot.endpoints.get(service).into_iter();
        rows.flat_map(|row| row.keys()).filter_map(addr_of)
    }

    /// A client sends a datagram.
    pub(crate) fn datagram(
        &mut self,
        client: SocketAddr,
        reply: &dyn Fn(SocketAddr) -> Reply,
        now: Tick,
    ) -> Option<Sent> {
        let sent = self.datagrams.send(client, reply, now);
        self.directory.observe(self.datagrams.signals(), now);
        sent
    }

    // --- reports

    pub(crate) fn reports_to(&self) -> Option<usize> {
        self.reporting.to
    }

    pub(crate) fn streams(&self) -> u64 {
        self.reporting.streams
    }

    pub(crate) fn wants_reports(&self, now: Tick) -> bool {
        now >= self.reporting.again
    }

    pub(crate) fn opens_reports(&mut self, at: usize, now: Tick) {
        let reporting = &mut self.reporting;
        reporting.reporter.restart();
        reporting.to = Some(at);
        reporting.streams += 1;
        reporting.asked = None;
        reporting.out = vec![(LoadStatsRequest::default(), true)];
        reporting.again = now.after(Duration::from_millis(300));
    }

    pub(crate) fn loses_reports(&mut self, now: Tick) {
        self.reporting.to = None;
        self.reporting.out.clear();
        self.reporting.again = now.after(Duration::from_millis(300));
    }

    /// What the replica wants, if it is something else than before.
    pub(crate) fn is_asked(&mut self, board: &Board, now: Tick) {
        let revision = board.revision();
        let asked = self.reporting.asked.take();
        let (at, wanted) = asked.unwrap_or_default();
        if at == revision && revision > 0 {
            self.reporting.asked = Some((at, wanted));
            return;
        }
        let new = wanted_reports(&board.watched());
        if new != wanted {
            self.reporting.reporter.take(&new, now);
        }
        self.reporting.asked = Some((revision, new));
    }

    /// Looks what there is to report.
    pub(crate) fn sample(&mut self, now: Tick) {
        let reporting = &mut self.reporting;
        if now < reporting.next || reporting.to.is_none() {
            return;
        }
        reporting.next = now.after(Duration::from_millis(500));
        let stamp = self.ads.stamp();
        let state = ProxyState {
            version: "1".to_owned(),
            epoch: stamp.epoch,
            as_of: stamp.as_of,
            ..ProxyState::default()
        };
        let time = SystemTime::UNIX_EPOCH + now.since(Tick::ZERO);
        let sample = sample(&self.directory, &self.snapshot, state, time);
        let report = reporting.reporter.report(&sample, now);
        reporting.out.extend(report.map(|report| (report, false)));
    }

    pub(crate) fn take_reports(&mut self) -> Vec<(LoadStatsRequest, bool)> {
        std::mem::take(&mut self.reporting.out)
    }

    /// One new session: the endpoints that were tried, in order, and whether the last one took it;
    /// `None` when there was none to try.
    pub(crate) fn session(
        &mut self,
        dice: &mut Dice,
        reply: &dyn Fn(SocketAddr) -> Reply,
        now: Tick,
    ) -> Option<(Vec<SocketAddr>, bool)> {
        let view = self.view()?;
        let client = Ipv4Addr::from(0x0a80_0000 | dice.below(4000) as u32);
        let key = FlowKey {
            client: SocketAddr::from((client, 1024 + dice.below(60_000) as u16)),
            local: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 30_000)),
            protocol: Protocol::Tcp,
        };
        let mut tried = Tried::default();
        let mut path = Vec::new();
        while path.len() < ATTEMPTS {
            let Ok(pick) = view.pick(&key, &mut self.draw, now, &tried) else {
                break;
            };
            let endpoint = Arc::clone(&pick.endpoint);
            path.push(endpoint.addr);
            let outcome = match reply(endpoint.addr) {
                Reply::Answers => {
                    note(&endpoint, Outcome::Connected(WAY), now);
                    note(&endpoint, Outcome::Served, now);
                    let most = if dice.one_in(8) { 120_000 } else { 20_000 };
                    let lasts = Duration::from_millis(dice.below(most) as u64);
                    self.sessions.push(Session {
                        began: now,
                        ends: now.after(lasts),
                        endpoint: endpoint.begin(),
                    });
                    return Some((path, true));
                }
                Reply::Refuses => Outcome::Refused,
                Reply::Silence => Outcome::TimedOut,
            };
            tried.push(&pick);
            if let Some(report) = note(&endpoint, outcome, now) {
                self.directory.observe([Signal::Report(report)], now);
            }
        }
        (!path.is_empty()).then_some((path, false))
    }

    /// The service as it stands.
    pub(crate) fn view(&self) -> Option<Arc<ServiceView>> {
        self.view_of(&sessions())
    }

    pub(crate) fn view_of(&self, service: &ServiceName) -> Option<Arc<ServiceView>> {
        self.directory.service(service)?.view().clone()
    }

    /// The endpoints it was told of.
    pub(crate) fn endpoints(&self) -> BTreeSet<SocketAddr> {
        self.known.keys().copied().collect()
    }

    fn take(&mut self, step: Step, now: Tick) {
        assert_eq!(
            step.problems,
            [],
            "the hub says nothing that a proxy refuses"
        );
        if let Some((_, stream)) = &mut self.stream {
            for request in &step.requests {
                stream.hear(request);
            }
        }
        let (touched, problems) = self.snapshot.apply(step.delta);
        assert_eq!(problems, []);
        self.directory
            .apply(&self.snapshot, &touched.services, &|_| Vec::new(), now);
        self.datagrams.update(&self.snapshot, &self.directory);
        let rows = self.snapshot.endpoints.values().flat_map(|row| row.keys());
        let told: BTreeSet<SocketAddr> = rows.filter_map(addr_of).collect();
        self.known.retain(|addr, _| told.contains(addr));
        for addr in told {
            self.known.entry(addr).or_insert(now);
        }
    }

    fn probe(&mut self, job: Job, reply: &dyn Fn(SocketAddr) -> Reply, now: Tick) {
        let (took, result) = match reply(job.endpoint.addr) {
            Reply::Answers => (WAY, Ok(Some(WAY))),
            Reply::Refuses => (WAY, Err(ProbeError::Refused)),
            Reply::Silence => (Duration::from_millis(500), Err(ProbeError::Unanswered)),
        };
        self.answers.push((now.after(took), Answer { job, result }));
    }
}

/// The service that takes sessions.
pub(crate) fn sessions() -> ServiceName {
    ServiceName::parse("shop/web:http").unwrap()
}

/// The one that takes datagrams.
pub(crate) fn flows() -> ServiceName {
    ServiceName::parse("shop/web:dns").unwrap()
}

fn addr_of(key: &EndpointKey) -> Option<SocketAddr> {
    match key.target {
        Target::Addr(addr) => Some(addr),
        Target::Dns { .. } => None,
    }
}

fn of_cluster(at: SocketAddr, cluster: usize) -> bool {
    matches!(at, SocketAddr::V4(at) if usize::from(at.ip().octets()[2]) == cluster)
}

/// There and back.
const WAY: Duration = Duration::from_millis(2);
/// Endpoints that one session may try.
const ATTEMPTS: usize = 6;
