//! What a proxy group is told of a service: frontends, services, endpoints.
//!
//! Two steps: [`backend`] decides what is the same for every group (policy, weights, endpoints),
//! [`rows`] adds what depends on where the proxies are (tiers) and where they listen (frontends).
//! Both read objects only, never a clock: every verdict that depends on time is in an object's
//! status, so two replicas tell their proxies the same.
//!
//! Cost of a change: O(endpoints of the service), plus O(members of the service) a group.

mod endpoints;
mod frontends;
mod policy;
#[cfg(test)]
mod tests;
mod tiers;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fairlead_api::{
    proxy::ProxyGroup,
    service::{FrontendSpec, MultiClusterService},
};
use fairlead_config::{
    frontend::{Frontend, Protocol},
    name::{MemberName, ServiceName},
    policy::Policy,
    service::Service,
    snapshot::Endpoints,
};

pub(crate) use endpoints::{MemberRows, member_rows};
pub use frontends::{allocated_port, is_settled, wanted};
pub use tiers::{Place, tier_of};

use crate::{
    claims,
    services::{Import, UnionPort},
    world::{GroupName, ServiceKey, World, matches_pattern},
};

/// What is the same for every proxy group.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// One per TCP or UDP port of the import.
    pub ports: Vec<BackendPort>,
    /// One per exporting member.
    pub members: BTreeMap<MemberName, Part>,
    /// The policy that counts, where there is one.
    pub policy: Option<Arc<MultiClusterService>>,
}

/// A port with everything that can take its clients.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendPort {
    /// `namespace/name:port`.
    pub name: ServiceName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The import's port.
    pub number: u16,
    /// How its clients are treated.
    pub policy: Policy,
    /// By member and address.
    pub endpoints: Arc<Endpoints>,
}

/// A member's part in a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Weight points that the policy asks for, if any.
    pub stated_weight: Option<u16>,
    /// Weight points that the export asks for, if any.
    pub exported_weight: Option<u16>,
    /// Distinct addresses taken.
    pub endpoints: usize,
    /// Those that its objects call ready.
    pub ready: usize,
    /// Addresses refused, and why.
    pub refused: Vec<(String, String)>,
    /// Whether its endpoints were withdrawn because its heartbeat is lost and nothing probes them.
    pub withdrawn: bool,
    /// Endpoints that did not fit.
    pub left_out: usize,
}

/// Where a proxy group is and listens.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its name.
    pub group: GroupName,
    /// Where it is.
    pub place: Place,
    /// Where its frontends listen.
    pub listen: Vec<IpAddr>,
    /// The ports given to its frontends, by service port name and protocol.
    pub allocated: BTreeMap<(String, Protocol), u16>,
    /// Services served without being asked for by a policy.
    pub services: Vec<String>,
}

/// What a group is told of one service. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Where its clients connect.
    pub frontends: Vec<Frontend>,
    /// One per port.
    pub services: Vec<Arc<Service>>,
    /// One per port.
    pub endpoints: Vec<(ServiceName, Arc<Endpoints>)>,
}

// === impl View ===

impl View {
    /// The view of a proxy group.
    pub fn of_group(world: &World, name: &GroupName, group: &ProxyGroup) -> Self {
        let spec = &group.spec;
        let listen = spec.listen.as_ref().unwrap_or(&spec.addresses);
        let frontends = group.status.as_ref().map(|status| &status.frontends[..]);
        let allocated = frontends.unwrap_or_default().iter().filter_map(|have| {
            let protocol = match have.protocol.as_str() {
                "TCP" => Protocol::Tcp,
                "UDP" => Protocol::Udp,
                _ => return None,
            };
            let port = u16::try_from(have.port).ok()?;
            Some(((have.service.clone(), protocol), port))
        });
        Self {
            group: name.clone(),
            place: Place::of_group(world, group),
            listen: listen.iter().filter_map(|ip| ip.parse().ok()).collect(),
            allocated: allocated.collect(),
            services: spec.services.clone(),
        }
    }

    /// Whether the group serves this service.
    pub fn serves(&self, key: &ServiceKey, policy: Option<&MultiClusterService>) -> bool {
        self.services
            .iter()
            .any(|pattern| matches_pattern(pattern, key))
            || policy.is_some_and(|policy| self.asked(policy).next().is_some())
    }

    /// The frontends that a policy asks this group for.
    pub fn asked<'p>(
        &'p self,
        policy: &'p MultiClusterService,
    ) -> impl Iterator<Item = &'p FrontendSpec> {
        let all = policy.spec.frontends.iter();
        all.filter(|frontend| frontend.proxy_group == *self.group)
    }
}

// === impl Backend ===

impl Backend {
    /// The names of its ports, while a claim or a weight of 0 keeps traffic from a member.
    pub fn watched(&self, world: &World, key: &ServiceKey) -> Vec<String> {
        let reduced = self.members.keys().any(|member| {
            let weight = weigh(world, key, self, member, Some(0));
            weight.effective.is_drain() || weight.claim.is_some_and(|claim| claim.permille < 1000)
        });
        let ports = self.ports.iter().filter(|_| reduced);
        ports.map(|port| port.name.to_string()).collect()
    }

    /// Whether its tiers depend on where the proxies are. If not, every group is told the same of
    /// services and endpoints.
    pub fn is_relative(&self) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.spec.tiers.iter().any(|tier| tier.relative.is_some()))
    }
}

// === impl Rows ===

impl Rows {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.services.is_empty() && self.endpoints.is_empty()
    }
}

/// Decides what is the same for every group.
pub fn backend(world: &World, key: &ServiceKey, import: &Import) -> Backend {
    let policy = world.policies(key).first().map(|policy| Arc::clone(policy));
    let mut members = parts(world, key, import, policy.as_deref());
    let mut ports = Vec::new();
    for union in &import.ports {
        let Some(protocol) = protocol_of(union) else {
            continue;
        };
        let label = format!("{key}:{}", union.port.label());
        let Ok(name) = ServiceName::parse(&label) else {
            continue;
        };
        ports.push(BackendPort {
            name,
            protocol,
            number: u16::try_from(union.port.port).expect("checked by aggregate"),
            policy: policy::policy(world, key, import, policy.as_deref(), union),
            endpoints: Arc::default(),
        });
    }
    let unions = import
        .ports
        .iter()
        .filter(|union| protocol_of(union).is_some());
    for (port, union) in ports.iter_mut().zip(unions) {
        let probed = port.policy.health_check.is_some();
        port.endpoints = Arc::new(endpoints::of_port(world, key, union, probed, &mut members));
    }
    Backend {
        ports,
        members,
        policy,
    }
}

/// Decides what one group is told. `shared` holds what another group is told, where that is the
/// same for all but the frontends.
pub fn rows(
    world: &World,
    key: &ServiceKey,
    backend: &Backend,
    view: &View,
    shared: Option<&Rows>,
) -> Rows {
    let policy = backend.policy.as_deref();
    if !view.serves(key, policy) {
        return Rows::default();
    }
    let mut rows = match shared {
        Some(shared) => Rows {
            frontends: Vec::new(),
            ..shared.clone()
        },
        None => services_of(world, key, backend, view),
    };
    for port in &backend.ports {
        rows.frontends
            .extend(frontends::of_port(policy, port, view));
    }
    rows
}

fn services_of(world: &World, key: &ServiceKey, backend: &Backend, view: &View) -> Rows {
    let mut rows = Rows::default();
    for port in &backend.ports {
        rows.services.push(Arc::new(Service {
            name: port.name.clone(),
            policy: port.policy.clone(),
            tiers: tiers::tiers(world, key, backend, port, &view.place),
        }));
        rows.endpoints
            .push((port.name.clone(), Arc::clone(&port.endpoints)));
    }
    rows
}

/// The transport that proxies can serve this port with. SCTP stays in the import only.
pub fn protocol_of(union: &UnionPort) -> Option<Protocol> {
    match union.port.protocol() {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

fn parts(
    world: &World,
    key: &ServiceKey,
    import: &Import,
    policy: Option<&MultiClusterService>,
) -> BTreeMap<MemberName, Part> {
    let mut parts = BTreeMap::new();
    for (name, exporter) in &import.members {
        if !world.members.contains_key(name) {
            continue;
        }
        let asked = policy.and_then(|policy| {
            let weights = policy.spec.weights.iter();
            weights
                .filter(|weight| weight.member == name.as_str())
                .find_map(|weight| u16::try_from(weight.weight).ok())
        });
        let mut part = Part {
            stated_weight: asked,
            exported_weight: exporter.weight,
            endpoints: 0,
            ready: 0,
            refused: Vec::new(),
            withdrawn: false,
            left_out: 0,
        };
        let rows = world.member_rows(key, name);
        part.endpoints = rows.endpoints;
        part.ready = rows.ready;
        part.refused.clone_from(&rows.refused);
        parts.insert(name.clone(), part);
    }
    parts
}

/// The member's weight for this service: the policy's for the member, else its tier's, else the
/// export's own, else 100, each less the smallest claim.
pub fn weigh<'w>(
    world: &'w World,
    key: &ServiceKey,
    backend: &Backend,
    member: &MemberName,
    tier: Option<usize>,
) -> claims::Weight<'w> {
    let part = backend.members.get(member);
    let stated = part.and_then(|part| part.stated_weight);
    let of_tier = tier.and_then(|at| {
        let tiers = backend.policy.as_ref().map(|policy| &policy.spec.tiers);
        let weight = tiers
            .and_then(|tiers| tiers.get(at))
            .and_then(|tier| tier.weight);
        weight.and_then(|weight| u16::try_from(weight).ok())
    });
    let exported = part.and_then(|part| part.exported_weight);
    let configured = stated.or(of_tier).or(exported);
    let claims = world
        .members
        .get(member)
        .map_or(&[][..], |member| &member.claims);
    claims::weigh(configured.unwrap_or(claims::WEIGHT_DEFAULT), claims, key)
}
