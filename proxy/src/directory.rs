//! What the control thread knows of services: their rows, the health of their endpoints, their views.
//!
//! Everything that can change where sessions go comes in here, one call per event, and the views that
//! differ are swapped before the call returns. What follows for live sessions (an endpoint that leaves
//! or turns unhealthy) is collected as [`Change`]s. Pure but for the swap; `now` is an argument.
//!
//! Cost per event: O(n log n) of the one service for its configuration, O(n) for its health.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fairlead_config::{
    endpoint::{EndpointKey, Target},
    name::{MemberName, ServiceName},
    service::Service,
    snapshot::{Endpoints, Snapshot},
};
use fairlead_runtime::clock::Tick;

use crate::{
    balancer::tiers::Holds,
    registry::{EndpointState, Registry, ServiceId, ServiceState, WantedEndpoint, WantedMember},
    view::{Input, MemberInput, ServiceView},
};

/// The services of a proxy.
#[derive(Debug, Default)]
pub struct Directory {
    registry: Registry,
    served: BTreeMap<ServiceId, Served>,
    changes: Vec<Change>,
}

/// A service that is served.
#[derive(Debug)]
struct Served {
    name: ServiceName,
    service: Arc<Service>,
    holds: Holds,
    /// When its view has to be built again although nothing happened.
    again: Option<Tick>,
}

/// Addresses of a DNS name, as they are known now; empty before the first answer.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Vec<IpAddr>;

/// What happened to an endpoint that may have live sessions.
#[derive(Debug, Clone)]
pub struct Change {
    /// The endpoint; its flags are already those that follow.
    pub endpoint: Arc<EndpointState>,
    /// The service's row at that time, with the deadlines that hold.
    pub service: Arc<Service>,
    /// What happened.
    pub kind: ChangeKind,
    /// When.
    pub at: Tick,
}

/// What happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// Gone from the snapshot: `drain.removed` runs.
    Removed,
    /// Its objects say it leaves, or its member has weight 0 now: `drain.draining` runs.
    Draining,
    /// Takes sessions (again).
    Usable,
    /// Takes none: `drain.unhealthy` says what becomes of live ones.
    Unhealthy,
}

// === impl Directory ===

impl Directory {
    /// A directory without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over the rows of `touched` services from a snapshot and swaps their views.
    ///
    /// Call it again for the services whose DNS answers changed.
    pub fn apply(
        &mut self,
        snapshot: &Snapshot,
        touched: &[ServiceName],
        resolve: Resolve<'_>,
        now: Tick,
    ) {
        for name in touched {
            match snapshot.services.get(name) {
                Some(service) => {
                    let endpoints = snapshot.endpoints.get(name).map(|row| &**row);
                    self.put(service, endpoints, resolve, now);
                }
                None => self.remove(name, now),
            }
        }
    }

    /// A service's shared state: hold it, and ask it for its view at each pick.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceState>> {
        self.registry.service(name).map(|row| &row.state)
    }

    /// The table of numbers.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// What happened to endpoints since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// When [`Self::advance`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.served.values().filter_map(|served| served.again).min()
    }

    /// Does what is due by time alone.
    pub fn advance(&mut self, now: Tick) {
        let due: Vec<ServiceId> = self
            .served
            .iter()
            .filter(|(_, served)| served.again.is_some_and(|again| again <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.rebuild(id, now);
        }
        self.registry.sweep();
    }

    fn put(
        &mut self,
        service: &Arc<Service>,
        endpoints: Option<&Endpoints>,
        resolve: Resolve<'_>,
        now: Tick,
    ) {
        let name = &service.name;
        let is_new = self.registry.service(name).is_none();
        let synced = self
            .registry
            .sync(name, wanted(service, endpoints, resolve));
        let id = self.registry.service(name).expect("synced above").state.id;
        if !is_new {
            for endpoint in &synced.added {
                endpoint.set_ramp(Some(now));
            }
        }
        for endpoint in synced.removed {
            self.changes.push(Change {
                endpoint,
                service: service.clone(),
                kind: ChangeKind::Removed,
                at: now,
            });
        }
        let served = self.served.entry(id).or_insert_with(|| Served {
            name: name.clone(),
            service: service.clone(),
            holds: Holds::default(),
            again: None,
        });
        served.service = service.clone();
        self.rebuild(id, now);
    }

    fn remove(&mut self, name: &ServiceName, now: Tick) {
        let Some(id) = self.registry.service(name).map(|row| row.state.id) else {
            return;
        };
        let synced = self.registry.remove(name);
        let Some(served) = self.served.remove(&id) else {
            return;
        };
        for endpoint in synced.removed {
            self.changes.push(Change {
                endpoint,
                service: served.service.clone(),
                kind: ChangeKind::Removed,
                at: now,
            });
        }
    }

    fn rebuild(&mut self, id: ServiceId, now: Tick) {
        let Some(served) = self.served.get_mut(&id) else {
            return;
        };
        let row = self
            .registry
            .service(&served.name)
            .expect("served services have a row");
        let previous = row.state.view();
        let input = Input {
            id,
            service: served.service.clone(),
            members: row
                .members
                .iter()
                .map(|member| MemberInput {
                    state: member.state.clone(),
                    endpoints: member.endpoints.clone(),
                    suspect: false,
                })
                .collect(),
            previous: previous.as_deref(),
        };
        let (view, again) = ServiceView::build(input, &mut served.holds, now);
        served.again = again;
        row.state.swap_view(Some(Arc::new(view)));
    }
}

/// A service's members in order of tiers, DNS names replaced by their addresses.
fn wanted(
    service: &Service,
    endpoints: Option<&Endpoints>,
    resolve: Resolve<'_>,
) -> Vec<WantedMember> {
    let mut by_member: BTreeMap<&MemberName, Vec<WantedEndpoint>> = BTreeMap::new();
    for (EndpointKey { member, target }, endpoint) in endpoints.into_iter().flatten() {
        let row = by_member.entry(member).or_default();
        let mut add = |addr| {
            row.push(WantedEndpoint {
                addr,
                weight: endpoint.weight,
                object: endpoint.state,
            });
        };
        match target {
            Target::Addr(addr) => add(*addr),
            Target::Dns { host, port } => {
                for ip in resolve(host) {
                    add((ip, *port).into());
                }
            }
        }
    }
    let members = service.tiers.iter().flat_map(|tier| &tier.members);
    members
        .map(|member| WantedMember {
            name: member.name.clone(),
            endpoints: by_member.remove(&member.name).unwrap_or_default(),
        })
        .collect()
}
