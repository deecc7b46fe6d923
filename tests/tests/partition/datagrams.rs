//! A proxy's UDP flows: the decisions of its data thread, without the sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use fairlead_config::{frontend::Protocol, snapshot::Snapshot};
use fairlead_proxy::{
    directory::{Directory, Signal},
    limits::Limiter,
    metrics::Metrics,
    registry::{FrontendId, Outcome},
    tcp::{
        pace::Pace,
        route::{Entry, Group, Route, RouteTable},
    },
    udp::{
        flow::{Closed, Ends, Load},
        flows::{Flows, Verdict},
        world::Ground,
    },
};
use fairlead_runtime::clock::Tick;

use crate::proxy::Reply;

/// A data thread's flows.
pub(crate) struct Datagrams {
    flows: Flows<Ground>,
    ground: Ground,
    entry: Option<(SocketAddr, Entry)>,
    metrics: Arc<Metrics>,
    closed: Vec<Closed<Ground>>,
}

/// What became of a datagram.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Where it was offered, in order, and whether its flow was new there.
    pub(crate) path: Vec<(SocketAddr, bool)>,
    /// The endpoints that its flow left for others.
    pub(crate) left: Vec<SocketAddr>,
}

impl Datagrams {
    pub(crate) fn new(seed: u64, now: Tick) -> Self {
        Self {
            flows: Flows::new(FLOWS_MAX, seed, now),
            ground: Ground::new(Arc::default(), seed),
            entry: None,
            metrics: Metrics::new(1),
            closed: Vec::new(),
        }
    }

    /// Takes over what the snapshot says of the frontend, as the control thread does.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, directory: &Directory) {
        let mut frontends = snapshot.frontends.values();
        let frontend = frontends.find(|one| one.protocol == Protocol::Udp);
        let rows = frontend.and_then(|frontend| {
            let service = snapshot.services.get(&frontend.service)?;
            let state = directory.service(&frontend.service)?;
            Some((frontend, service, state))
        });
        let Some((frontend, service, state)) = rows else {
            if self.entry.take().is_some() {
                self.route(RouteTable::default());
            }
            return;
        };
        let local = SocketAddr::new(frontend.ip, *frontend.ports.start());
        let metrics = self.metrics.service(&service.name);
        let known = self.entry.as_ref().filter(|(at, _)| *at == local);
        let limiter = known.map(|(_, entry)| Arc::clone(&entry.load().limiter));
        let limits = &service.policy.limits;
        let route = Route {
            id: FrontendId(0),
            frontend: Arc::clone(frontend),
            state: Arc::clone(state),
            service: Arc::clone(service),
            limiter: limiter.unwrap_or_else(|| Limiter::new(limits, 1, Arc::clone(&metrics))),
            metrics,
            members: Box::default(),
            log: None,
            pace: Arc::new(Pace::new(1)),
        };
        match known {
            Some((_, entry)) => entry.store(Arc::new(route)),
            None => {
                let entry: Entry = Arc::new(ArcSwap::from_pointee(route));
                let group = Arc::new(Group::of([&entry]));
                self.route(RouteTable::default().with([(local, Some(group))]));
                self.entry = Some((local, entry));
            }
        }
    }

    /// Ends flows that are idle.
    pub(crate) fn step(&mut self, now: Tick) {
        self.flows
            .fire(&self.ground, now, &mut self.closed, |_, _| {});
        self.closed.clear();
    }

    /// A client sends a datagram; `None` without a frontend.
    pub(crate) fn send(
        &mut self,
        client: SocketAddr,
        reply: &dyn Fn(SocketAddr) -> Reply,
        now: Tick,
    ) -> Option<Sent> {
        let (local, _) = self.entry.as_ref()?;
        let ends = Ends {
            client,
            local: *local,
        };
        let mut sent = Sent::default();
        for _ in 0..ATTEMPTS {
            let flows = &mut self.flows;
            let verdict = flows.datagram(&mut self.ground, &ends, LOAD, now, &mut self.closed);
            let (key, new) = match verdict {
                Verdict::Forward(key) => (key, false),
                Verdict::Open(key) | Verdict::Rehome(key) => (key, true),
                Verdict::Drop(_) => break,
            };
            let left = flows.take_left();
            sent.left.extend(left.map(|left| left.home.live.addr));
            let home = &flows.get_mut(key).expect("it has just been found").home;
            let at = home.live.addr;
            sent.path.push((at, new));
            match reply(at) {
                Reply::Answers => {
                    let first = flows.answer(key, LOAD, now).is_some_and(|(_, first)| first);
                    let flow = flows.get_mut(key).expect("it has just answered");
                    if first {
                        let took = now.since(flow.asked);
                        self.ground
                            .observe(&flow.home, Outcome::Connected(took), now);
                        self.ground.observe(&flow.home, Outcome::Served, now);
                    }
                    break;
                }
                Reply::Refuses => {
                    flows.unsent(key, LOAD);
                    flows.refused(key);
                    let flow = flows.get_mut(key).expect("it goes on");
                    self.ground.observe(&flow.home, Outcome::Refused, now);
                }
                Reply::Silence => break,
            }
        }
        Some(sent)
    }

    /// What the health owner should hear since the last call.
    pub(crate) fn signals(&mut self) -> Vec<Signal> {
        self.ground.take_reports().map(Signal::Report).collect()
    }

    fn route(&mut self, table: RouteTable) {
        if self.ground.set_routes(&Arc::new(table)) {
            self.flows.routes_changed();
        }
    }
}

const LOAD: Load = Load {
    bytes: 100,
    datagrams: 1,
};
/// Room for the sample of shares.
const FLOWS_MAX: usize = 20_000;
/// Endpoints that one datagram is offered to.
const ATTEMPTS: usize = 3;
/// A flow that is silent for so long may be at an endpoint that it would not find again.
pub(crate) const SILENT: Duration = Duration::from_secs(60);
