//! A proxy: follows a replica of the hub, probes endpoints, sends sessions to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fairlead_config::{
    frontend::Protocol,
    name::ServiceName,
    snapshot::Snapshot,
    xds::proto::{core::Node, discovery::Resource},
};
use fairlead_controller::{board::Type, stream::Stream};
use fairlead_proxy::{
    balancer::{FlowKey, Tried, draw::Draw},
    directory::{Change, Directory, Signal},
    health::{
        note,
        probe::{Answer, Job, ProbeError},
    },
    registry::{Live, Outcome},
    source::xds::{Ads, Step},
    view::ServiceView,
};
use fairlead_runtime::clock::Tick;

use crate::{dice::Dice, replica::Replica};

/// A process; a crash is a new one that has the old one's disk.
pub(crate) struct Proxy {
    pub(crate) ads: Ads,
    pub(crate) snapshot: Snapshot,
    directory: Directory,
    draw: Draw,
    stream: Option<(usize, Stream)>,
    again: Tick,
    answers: Vec<(Tick, Answer)>,
    sessions: Vec<(Tick, Live)>,
    /// Since when it has known each endpoint.
    pub(crate) known: BTreeMap<SocketAddr, Tick>,
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
        let types = [Type::Cluster, Type::Assignment, Type::Listener];
        let responses = stream.say(table, board.revision(), &types);
        for response in responses {
            let step = self.ads.receive(response, now);
            self.take(step, now);
        }
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
        self.sessions.retain(|(end, _)| *end > now);
    }

    /// What happened to endpoints since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        self.directory.take_changes()
    }

    /// Whether sessions to this endpoint live.
    pub(crate) fn has_sessions(&self, addr: SocketAddr) -> bool {
        self.sessions.iter().any(|(_, live)| live.addr == addr)
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
                    let lasts = Duration::from_millis(dice.below(20_000) as u64);
                    self.sessions.push((now.after(lasts), endpoint.begin()));
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
        let name = ServiceName::parse("shop/web:http").unwrap();
        self.directory.service(&name)?.view().clone()
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
        if touched.services.is_empty() {
            return;
        }
        self.directory
            .apply(&self.snapshot, &touched.services, &|_| Vec::new(), now);
        let rows = self.snapshot.endpoints.values().flat_map(|row| row.keys());
        let told: BTreeSet<SocketAddr> = rows
            .filter_map(|key| key.target.to_string().parse().ok())
            .collect();
        self.known.retain(|addr, _| told.contains(addr));
        for addr in told {
            self.known.entry(addr).or_insert(now);
        }
    }

    fn probe(&mut self, job: Job, reply: &dyn Fn(SocketAddr) -> Reply, now: Tick) {
        let (took, result) = match reply(job.endpoint.addr) {
            Reply::Answers => (WAY, Ok(Some(WAY))),
            Reply::Refuses => (WAY, Err(ProbeError::Refused)),
            Reply::Silence => (Duration::from_millis(500), Err(ProbeError::TimedOut)),
        };
        self.answers.push((now.after(took), Answer { job, result }));
    }
}

/// There and back.
const WAY: Duration = Duration::from_millis(2);
/// Endpoints that one session may try.
const ATTEMPTS: usize = 6;
