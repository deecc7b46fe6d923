//! Routes: what a session needs of its frontend and its service, kept in step with the snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use arc_swap::ArcSwap;
use fairlead_config::{
    frontend::{Frontend, Protocol},
    name::{FrontendName, ServiceName},
    problem::Problem,
    service::Service,
};

use crate::{
    access_log::sink::{Sink, Sinks},
    balancer::hash::{self, Identity},
    limits::Limiter,
    metrics::{MemberMetrics, Metrics, ServiceMetrics},
    registry::{FrontendId, ServiceState},
    sockets::Bind,
    tcp::{
        pace::Pace,
        route::{Entry, Group, Route},
    },
};

use super::listeners::Wanted;

/// All routes.
#[derive(Debug)]
pub(super) struct Routes {
    metrics: Arc<Metrics>,
    sinks: Sinks,
    seed: u64,
    services: BTreeMap<ServiceName, Parts>,
    entries: BTreeMap<FrontendName, Entry>,
    /// Every frontend of the snapshot, also those whose service isn't there.
    by_service: BTreeMap<(ServiceName, FrontendName), ()>,
    service_of: BTreeMap<FrontendName, ServiceName>,
    /// Frontends whose service is there, by address; the first one's options count.
    by_addr: BTreeMap<Bind, BTreeMap<FrontendName, Entry>>,
}

/// Addresses that changes of frontends touched.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Other frontends are there, or none.
    moved: BTreeSet<Bind>,
    /// Only the service differs.
    stayed: BTreeSet<Bind>,
}

/// What the routes of a service share.
#[derive(Debug, Clone)]
struct Parts {
    state: Arc<ServiceState>,
    service: Arc<Service>,
    limiter: Arc<Limiter>,
    metrics: Arc<ServiceMetrics>,
    members: Box<[(Identity, Arc<MemberMetrics>)]>,
    log: Option<Arc<Sink>>,
    pace: Arc<Pace>,
}

// === impl Routes ===

impl Routes {
    pub(super) fn new(metrics: Arc<Metrics>, sinks: Sinks, seed: u64) -> Self {
        Self {
            metrics,
            sinks,
            seed,
            services: BTreeMap::new(),
            entries: BTreeMap::new(),
            by_service: BTreeMap::new(),
            service_of: BTreeMap::new(),
            by_addr: BTreeMap::new(),
        }
    }

    /// Takes a service's row over; whether its routes differ now. A log that can't be opened is a
    /// problem, and the service goes without.
    pub(super) fn put_service(
        &mut self,
        service: &Arc<Service>,
        state: &Arc<ServiceState>,
    ) -> Result<bool, Problem> {
        let name = &service.name;
        let known = self.services.get(name);
        if known.is_some_and(|parts| {
            Arc::ptr_eq(&parts.service, service) && Arc::ptr_eq(&parts.state, state)
        }) {
            return Ok(false);
        }
        let policy = &service.policy;
        let metrics = self.metrics.service(name);
        let members = service.tiers.iter().flat_map(|tier| &tier.members);
        let mut members: Box<[_]> = members
            .map(|member| {
                (
                    hash::member(member.name.as_str()),
                    metrics.member(&member.name),
                )
            })
            .collect();
        members.sort_by_key(|(identity, _)| *identity);
        let (limiter, pace) = match known {
            Some(parts) => {
                parts.limiter.update(&policy.limits);
                parts.pace.set(policy.drain.resets_per_second);
                (parts.limiter.clone(), parts.pace.clone())
            }
            None => (
                Limiter::new(&policy.limits, self.seed, metrics.clone()),
                Arc::new(Pace::new(policy.drain.resets_per_second)),
            ),
        };
        let log = self.sinks.sink(&policy.access_log);
        let (log, problem) = match log {
            Ok(log) => (log, None),
            Err(error) => (None, Some(error)),
        };
        let parts = Parts {
            state: state.clone(),
            service: service.clone(),
            limiter,
            metrics,
            members,
            log,
            pace,
        };
        self.services.insert(name.clone(), parts);
        match problem {
            None => Ok(true),
            Some(error) => Err(Problem::resource(
                "service",
                name.as_str(),
                "policy.accessLog",
                error.to_string(),
            )),
        }
    }

    /// Where sessions are logged.
    pub(super) fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    pub(super) fn remove_service(&mut self, name: &ServiceName) {
        self.services.remove(name);
        self.sinks.close_unused();
    }

    /// The frontends of a service.
    pub(super) fn frontends_of(&self, name: &ServiceName) -> Vec<FrontendName> {
        let first = self.by_service.range((name.clone(), lowest())..);
        let own = first.take_while(|((service, _), ())| service == name);
        own.map(|((_, frontend), ())| frontend.clone()).collect()
    }

    /// Takes a frontend's row over, and notes the addresses where something differs now. Its route
    /// is there while its service is.
    pub(super) fn put_frontend(
        &mut self,
        name: &FrontendName,
        frontend: Option<&Arc<Frontend>>,
        id: FrontendId,
        moves: &mut Moves,
    ) {
        self.link(name, frontend);
        let parts = frontend.and_then(|frontend| self.services.get(&frontend.service));
        let (Some(frontend), Some(parts)) = (frontend, parts) else {
            if let Some(entry) = self.entries.remove(name) {
                self.take_out(name, &entry.load().frontend, moves);
            }
            return;
        };
        let parts = parts.clone();
        let route = Arc::new(Route {
            id,
            frontend: frontend.clone(),
            state: parts.state,
            service: parts.service,
            limiter: parts.limiter,
            metrics: parts.metrics,
            members: parts.members,
            log: parts.log,
            pace: parts.pace,
        });
        let entry = match self.entries.get(name) {
            Some(entry) => {
                let entry = entry.clone();
                let old = entry.swap(route);
                if old.frontend == *frontend {
                    moves.stayed.extend(binds(frontend));
                    return;
                }
                self.take_out(name, &old.frontend, moves);
                entry
            }
            None => {
                let entry: Entry = Arc::new(ArcSwap::new(route));
                self.entries.insert(name.clone(), entry.clone());
                entry
            }
        };
        for bind in binds(frontend) {
            let there = self.by_addr.entry(bind).or_default();
            there.insert(name.clone(), entry.clone());
            moves.moved.insert(bind);
        }
    }

    /// What the table of `protocol` has to take over; nothing where it is as it was.
    pub(super) fn groups(
        &self,
        protocol: Protocol,
        moves: &Moves,
    ) -> Vec<(SocketAddr, Option<Arc<Group>>)> {
        let moved = moves.moved.iter().filter(|bind| bind.protocol == protocol);
        let group = |bind: &Bind| {
            let there = self.by_addr.get(bind)?;
            Some(Arc::new(Group::of(there.values())))
        };
        moved.map(|bind| (bind.addr, group(bind))).collect()
    }

    /// What is to be listened on at the touched addresses; none where nobody wants anything.
    pub(super) fn wants(&self, moves: &Moves) -> Vec<(Bind, Option<Wanted>)> {
        let want = |bind: &Bind| {
            let (name, entry) = self.by_addr.get(bind)?.first_key_value()?;
            Some(Wanted {
                asked_by: name.clone(),
                liveness: entry.load().liveness(),
            })
        };
        let touched = moves.moved.union(&moves.stayed);
        touched.map(|bind| (*bind, want(bind))).collect()
    }

    fn take_out(&mut self, name: &FrontendName, frontend: &Frontend, moves: &mut Moves) {
        for bind in binds(frontend) {
            if let Some(there) = self.by_addr.get_mut(&bind) {
                there.remove(name);
                if there.is_empty() {
                    self.by_addr.remove(&bind);
                }
            }
            moves.moved.insert(bind);
        }
    }

    fn link(&mut self, name: &FrontendName, frontend: Option<&Arc<Frontend>>) {
        let service = frontend.map(|frontend| frontend.service.clone());
        if self.service_of.get(name) == service.as_ref() {
            return;
        }
        if let Some(old) = self.service_of.remove(name) {
            self.by_service.remove(&(old, name.clone()));
        }
        if let Some(service) = service {
            self.service_of.insert(name.clone(), service.clone());
            self.by_service.insert((service, name.clone()), ());
        }
    }
}

fn binds(frontend: &Frontend) -> impl Iterator<Item = Bind> {
    let (protocol, ip) = (frontend.protocol, frontend.ip);
    frontend.ports.clone().map(move |port| Bind {
        protocol,
        addr: SocketAddr::new(ip, port),
    })
}

fn lowest() -> FrontendName {
    FrontendName::parse("!").expect("the lowest printable character")
}
