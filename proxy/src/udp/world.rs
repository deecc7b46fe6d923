//! Where the decisions about flows meet frontends, views, limits and health.
//!
//! Pure as well: the routes are handed in, the draws are seeded, and what the health owner should
//! hear is collected until somebody asks.

use std::{sync::Arc, time::Duration};

use fairlead_config::frontend::Protocol;
use fairlead_runtime::clock::Tick;

use crate::{
    access_log::{Reason, Traffic},
    balancer::{FlowKey, NoEndpoint, Pick, Tried, draw::Draw},
    health::{self, Report},
    limits::Admitted,
    metrics::{DatagramDrop, MemberMetrics},
    registry::{Flags, Live, Outcome},
    tcp::route::{Entry, RouteTable},
};

use super::{
    flow::{Ends, Standing},
    flows::{Patience, World},
    passing::FlowRow,
};

/// What a data thread's flows are surrounded by.
#[derive(Debug)]
pub struct Ground {
    routes: Arc<RouteTable>,
    draw: Draw,
    reports: Vec<Report>,
}

/// A frontend with what its service needs; equal while it is the same service.
#[derive(Debug, Clone)]
pub struct Service(pub Entry);

/// The endpoint of a flow.
#[derive(Debug)]
pub struct Home {
    /// Counts there while this lives.
    pub live: Live,
    /// Of its member.
    pub tier: u8,
    member: Option<Arc<MemberMetrics>>,
    /// What stood against it when it was picked all the same: its tier panicked, or this is its
    /// trial.
    pardoned: Flags,
    picked: Tick,
}

// === impl Ground ===

impl Ground {
    /// Equal seeds draw alike: give each thread its own.
    pub fn new(routes: Arc<RouteTable>, seed: u64) -> Self {
        Self {
            routes,
            draw: Draw::new(seed),
            reports: Vec::new(),
        }
    }

    /// Takes new routes; whether they are others, which the flows should know.
    pub fn set_routes(&mut self, routes: &Arc<RouteTable>) -> bool {
        let differ = !Arc::ptr_eq(&self.routes, routes);
        if differ {
            self.routes = Arc::clone(routes);
        }
        differ
    }

    /// The endpoint that a flow had elsewhere, if the service still has it.
    pub(super) fn home_at(&self, service: &Service, row: &FlowRow, now: Tick) -> Option<Home> {
        let route = service.0.load();
        let view = route.state.view();
        let mut endpoints = view.as_deref()?.endpoints();
        let (member, entry) = endpoints.find(|(member, entry)| {
            entry.state.addr == row.endpoint && member.state.name.as_str() == row.member
        })?;
        let live = entry.state.begin();
        Some(Home {
            tier: member.tier,
            pardoned: live.flags(),
            picked: now,
            member: route.member(member.state.identity).cloned(),
            live,
        })
    }

    /// A place for a flow that began elsewhere.
    pub(super) fn readmit(&self, service: &Service) -> Result<Admitted, DatagramDrop> {
        let limiter = Arc::clone(&service.0.load().limiter);
        limiter.readmit_flow().map_err(|_| DatagramDrop::LimitFlows)
    }

    /// Tells an endpoint's state what became of a datagram.
    pub fn observe(&mut self, home: &Home, outcome: Outcome, now: Tick) {
        self.reports.extend(health::note(&home.live, outcome, now));
    }

    /// The service at an address, whoever asks.
    pub fn service_at(&self, ends: &Ends) -> Option<Service> {
        let entry = self.routes.group(&ends.local)?.only()?;
        Some(Service(Arc::clone(entry)))
    }

    /// What the health owner should hear since the last call.
    pub fn take_reports(&mut self) -> std::vec::Drain<'_, Report> {
        self.reports.drain(..)
    }

    fn try_pick(
        &mut self,
        service: &Service,
        ends: &Ends,
        tried: &mut Tried,
        now: Tick,
    ) -> Result<Home, NoEndpoint> {
        let route = service.0.load();
        let key = FlowKey {
            client: ends.client,
            local: ends.local,
            protocol: Protocol::Udp,
        };
        let limit = route.service.policy.limits.connections_per_endpoint;
        loop {
            let pick = route.state.pick(&key, &mut self.draw, now, tried)?;
            // Another thread may have taken the last place since the look at the count.
            let live = match limit {
                None => Some(pick.begin()),
                Some(max) => pick.endpoint.try_begin(max),
            };
            if let Some(live) = live {
                return Ok(Home {
                    tier: pick.tier,
                    pardoned: live.flags(),
                    picked: now,
                    member: route.member(live.member.identity).cloned(),
                    live,
                });
            }
            tried.push(&pick);
        }
    }
}

impl World for Ground {
    type Service = Service;
    type Home = Home;
    type Permit = Admitted;

    fn route(&mut self, ends: &Ends) -> Result<Service, DatagramDrop> {
        let group = self.routes.group(&ends.local);
        let entry = group.and_then(|group| group.only());
        let entry = entry.ok_or(DatagramDrop::NoFrontend)?;
        // A source that is a frontend of ours is forged, and answers to it would go round for ever.
        let is_ours =
            ends.client.ip() == ends.local.ip() && self.routes.group(&ends.client).is_some();
        if is_ours {
            return Err(DatagramDrop::NotAllowed);
        }
        if entry.load().allows(ends.client.ip()) {
            Ok(Service(Arc::clone(entry)))
        } else {
            Err(DatagramDrop::NotAllowed)
        }
    }

    fn admit(
        &mut self,
        service: &Service,
        ends: &Ends,
        now: Tick,
    ) -> Result<Admitted, DatagramDrop> {
        let limiter = Arc::clone(&service.0.load().limiter);
        let admitted = limiter.admit_flow(ends.client.ip(), now);
        admitted.map_err(|reason| match reason {
            Reason::LimitConnections => DatagramDrop::LimitFlows,
            _ => DatagramDrop::LimitRate,
        })
    }

    fn pick(
        &mut self,
        service: &Service,
        ends: &Ends,
        refusing: Option<&Home>,
        now: Tick,
    ) -> Result<Home, DatagramDrop> {
        // The flow may have come to who refuses it when another tier's turn was: it is placed as a new
        // one is, and only where that leads back to him, as one that goes on from there.
        let mut picked = self.try_pick(service, ends, &mut Tried::new(), now);
        let back = |home: &&Home| matches!(&picked, Ok(picked) if picked.live.id == home.live.id);
        if let Some(home) = refusing.filter(back) {
            let mut tried = Tried::new();
            tried.push(&Pick {
                endpoint: Arc::clone(&home.live),
                tier: home.tier,
                member: home.live.member.identity,
            });
            picked = self.try_pick(service, ends, &mut tried, now);
        }
        picked.map_err(|_| DatagramDrop::NoEndpoint)
    }

    fn same_home(&self, one: &Home, other: &Home) -> bool {
        one.live.id == other.live.id
    }

    fn standing(&self, home: &Home, now: Tick) -> Standing {
        let flags = home.live.flags();
        let pardoned = flags == home.pardoned && now - home.picked < PARDON;
        if flags.is_usable() || pardoned {
            Standing::Good
        } else if flags.is_draining() {
            Standing::Draining
        } else {
            Standing::Gone
        }
    }

    fn patience(&self, service: &Service) -> Patience {
        let route = service.0.load();
        let policy = &route.service.policy;
        Patience {
            idle: policy.timeouts.udp_idle.max(IDLE_MIN),
            draining: policy.drain.draining,
        }
    }
}

// === impl Service ===

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.load().state, &other.0.load().state)
    }
}

// === impl Home ===

impl Home {
    /// Counts a flow that begins here, or is re-homed here.
    pub fn count_opened(&self) {
        if let Some(member) = &self.member {
            member.flows_opened.inc();
        }
    }

    /// Counts what was carried since the last call.
    pub fn count(&self, traffic: Traffic) {
        if let Some(member) = &self.member {
            member.datagrams_up.add(traffic.datagrams_up);
            member.datagrams_down.add(traffic.datagrams_down);
            member.datagram_bytes_up.add(traffic.bytes_up);
            member.datagram_bytes_down.add(traffic.bytes_down);
        }
    }
}

/// Below this a flow would end between a question and its answer.
const IDLE_MIN: Duration = Duration::from_millis(100);
/// How long a flow stays at an endpoint that is picked although it isn't usable, before better ones
/// are looked for: without it each datagram would be drawn anew.
const PARDON: Duration = Duration::from_secs(1);
