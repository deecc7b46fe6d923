//! Routes: what a session needs of its frontend and its service, kept in step with the snapshot.

use std::{collections::BTreeMap, sync::Arc};

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
    tcp::{
        pace::Pace,
        route::{Entry, Route, RouteTable},
    },
};

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

    /// Takes a frontend's row over; whether the table or the sockets differ now. Its route is
    /// there while its service is.
    pub(super) fn put_frontend(
        &mut self,
        name: &FrontendName,
        frontend: Option<&Arc<Frontend>>,
        id: FrontendId,
    ) -> bool {
        self.link(name, frontend);
        let parts = frontend.and_then(|frontend| self.services.get(&frontend.service));
        let (Some(frontend), Some(parts)) = (frontend, parts) else {
            return self.entries.remove(name).is_some();
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
        match self.entries.get(name) {
            Some(entry) => {
                let old = entry.swap(route);
                old.frontend != *frontend
            }
            None => {
                self.entries
                    .insert(name.clone(), Arc::new(ArcSwap::new(route)));
                true
            }
        }
    }

    /// The table of all routes of `protocol`.
    pub(super) fn table(&self, protocol: Protocol) -> RouteTable {
        RouteTable::build(protocol, self.entries.values().cloned())
    }

    /// The routes whose frontends want sockets.
    pub(super) fn bound(&self) -> impl Iterator<Item = Arc<Route>> {
        self.entries.values().map(|entry| entry.load_full())
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

fn lowest() -> FrontendName {
    FrontendName::parse("!").expect("the lowest printable character")
}
