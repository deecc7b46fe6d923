//! What a proxy group is told of a service: frontends, services, endpoints.
//!
//! Two steps: [`backend`] decides what is the same for every group (policy, weights, endpoints),
//! [`rows`] adds what depends on where the proxies are (tiers) and where they listen (frontends).
//! Both read objects only, never a clock: every verdict that depends on time is in an object's
//! status, so two replicas tell their proxies the same.
//!
//! Cost of a change: O(endpoints of the service), plus O(members of the service) a group.

mod policy;
#[cfg(test)]
mod tests;
mod tiers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use fairlead_api::{
    proxy::ProxyGroup,
    service::{FrontendSpec, MultiClusterService},
};
use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    frontend::{AcceptProxy, AcceptedVersions, Frontend, Protocol, SniPattern},
    name::{FrontendName, MemberName, ServiceName},
    policy::Policy,
    service::{ENDPOINTS_MAX, Service},
    snapshot::Endpoints,
};

pub use tiers::{Place, tier_of};

use crate::{
    addresses, claims,
    ports::{self, WantedPort},
    services::{Import, UnionPort},
    world::{GroupName, Heartbeat, ServiceKey, SliceEndpoint, World, matches_pattern},
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

/// What a member's mirrored slices say of a service, whatever the import makes of it.
#[derive(Debug, Default)]
pub(crate) struct MemberRows {
    /// Addresses refused, and why.
    refused: Vec<(String, String)>,
    /// Distinct addresses taken, and those of them that are ready.
    endpoints: usize,
    ready: usize,
    /// By the member's own name of the port and its protocol, in order.
    ports: BTreeMap<(String, String), Vec<Arc<Endpoint>>>,
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
        port.endpoints = Arc::new(endpoints(world, key, union, probed, &mut members));
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
        rows.frontends.extend(frontends(policy, port, view));
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

/// The frontends a group should have for a service, and those that cannot be, with the reason.
pub fn wanted(
    key: &ServiceKey,
    import: Option<&Import>,
    policy: Option<&MultiClusterService>,
    view: &View,
) -> (Vec<WantedPort>, Vec<String>) {
    let mut wanted: BTreeMap<(String, Protocol), WantedPort> = BTreeMap::new();
    let mut problems = Vec::new();
    let unions = import.map_or(&[][..], |import| &import.ports[..]);
    let pattern = view
        .services
        .iter()
        .any(|pattern| matches_pattern(pattern, key));
    for union in unions {
        let Some(protocol) = protocol_of(union) else {
            continue;
        };
        let service = format!("{key}:{}", union.port.label());
        let asked = policy.into_iter().flat_map(|policy| view.asked(policy));
        let mut asked = asked.filter(|frontend| concerns(frontend, &union.port.label(), union));
        let first = asked.next();
        if asked.next().is_some() {
            problems.push(format!(
                "two frontends of proxy group {} name port {}; the first counts",
                view.group,
                union.port.label()
            ));
        }
        if first.is_none() && !pattern {
            continue;
        }
        let want = WantedPort {
            service: service.clone(),
            protocol,
            service_port: u16::try_from(union.port.port).expect("checked by aggregate"),
            listen_port: first
                .and_then(|frontend| frontend.listen_port)
                .and_then(|port| u16::try_from(port).ok()),
            shared: first.is_some_and(|frontend| !frontend.sni.is_empty()),
        };
        wanted.insert((service, protocol), want);
    }
    for frontend in policy.into_iter().flat_map(|policy| view.asked(policy)) {
        let found = unions.iter().any(|union| {
            protocol_of(union).is_some() && concerns(frontend, &union.port.label(), union)
        });
        if let Some(port) = frontend
            .port
            .as_ref()
            .filter(|_| !found && import.is_some())
        {
            problems.push(format!("the import has no TCP or UDP port {port}"));
        }
    }
    (wanted.into_values().collect(), problems)
}

/// The transport that proxies can serve this port with. SCTP stays in the import only.
pub fn protocol_of(union: &UnionPort) -> Option<Protocol> {
    match union.port.protocol() {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

fn concerns(frontend: &FrontendSpec, label: &str, union: &UnionPort) -> bool {
    match frontend.port.as_deref() {
        None => true,
        Some(port) => port == label || port == union.port.port.to_string(),
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

fn endpoints(
    world: &World,
    key: &ServiceKey,
    union: &UnionPort,
    probed: bool,
    parts: &mut BTreeMap<MemberName, Part>,
) -> Endpoints {
    let mut all: Vec<Arc<Endpoint>> = Vec::new();
    for (name, local) in &union.exposed_by {
        let (Some(member), Some(part)) = (world.members.get(name), parts.get_mut(name)) else {
            continue;
        };
        let withdrawn = member.heartbeat == Heartbeat::Lost && !probed;
        part.withdrawn |= withdrawn;
        let rows = world.member_rows(key, name);
        let Some(of_port) = rows
            .ports
            .get(&(local.clone(), union.port.protocol().to_owned()))
        else {
            continue;
        };
        let room = ENDPOINTS_MAX - all.len();
        part.left_out += of_port.len().saturating_sub(room);
        let fitting = of_port.iter().take(room);
        all.extend(fitting.map(|endpoint| match withdrawn {
            false => Arc::clone(endpoint),
            true => Arc::new(Endpoint {
                state: ObjectState::NotReady,
                ..(**endpoint).clone()
            }),
        }));
    }
    // Members come in order, and so do the endpoints of each: this builds in one pass.
    all.into_iter().collect()
}

/// Works out what a member's mirrored slices say of a service.
pub(crate) fn member_rows(world: &World, key: &ServiceKey, name: &MemberName) -> MemberRows {
    let mut rows = MemberRows::default();
    let slices = world.slices.get(key).and_then(|slices| slices.get(name));
    let (Some(member), Some(slices)) = (world.members.get(name), slices) else {
        return rows;
    };
    let mut seen: BTreeMap<IpAddr, bool> = BTreeMap::new();
    let mut ports: BTreeMap<(String, String), Endpoints> = BTreeMap::new();
    for slice in slices.values() {
        let unreadable = slice.unreadable.iter();
        rows.refused
            .extend(unreadable.map(|text| (text.clone(), "is no IP address".to_owned())));
        for endpoint in &slice.endpoints {
            if let Some(why) = addresses::refusal(endpoint.ip, member, world.settings) {
                rows.refused.push((endpoint.ip.to_string(), why));
                continue;
            }
            *seen.entry(endpoint.ip).or_default() |= endpoint.state == ObjectState::Ready;
            for port in &slice.ports {
                let of_port = ports
                    .entry((port.name.clone(), port.protocol.clone()))
                    .or_default();
                put(of_port, name, endpoint, port.port);
            }
        }
    }
    rows.endpoints = seen.len();
    rows.ready = seen.values().filter(|ready| **ready).count();
    rows.refused.sort();
    rows.refused.dedup();
    let ports = ports.into_iter();
    rows.ports = ports
        .map(|(port, endpoints)| (port, endpoints.values().cloned().collect()))
        .collect();
    rows
}

/// An address may stand in two slices while one of them is being rewritten: what is good in either
/// is good.
fn put(all: &mut Endpoints, member: &MemberName, endpoint: &SliceEndpoint, port: u16) {
    let key = EndpointKey {
        member: member.clone(),
        target: Target::Addr((endpoint.ip, port).into()),
    };
    let better = all
        .get(&key)
        .is_none_or(|have| rank(endpoint.state) < rank(have.state));
    if better {
        let row = Endpoint {
            key,
            weight: ENDPOINT_WEIGHT,
            zone: endpoint.zone.clone(),
            state: endpoint.state,
            hop: Hop::Direct,
        };
        all.insert(Arc::new(row));
    }
}

fn rank(state: ObjectState) -> u8 {
    match state {
        ObjectState::Ready => 0,
        ObjectState::Draining => 1,
        ObjectState::NotReady => 2,
    }
}

fn frontends(
    policy: Option<&MultiClusterService>,
    port: &BackendPort,
    view: &View,
) -> Vec<Frontend> {
    let at = (port.name.as_str().to_owned(), port.protocol);
    let Some(number) = view.allocated.get(&at) else {
        return Vec::new();
    };
    let label = port.name.parts().2;
    let asked = policy.into_iter().flat_map(|policy| view.asked(policy));
    let spec = asked
        .into_iter()
        .find(|frontend| match frontend.port.as_deref() {
            None => true,
            Some(wanted) => wanted == label || wanted == port.number.to_string(),
        });
    let listen: BTreeSet<IpAddr> = view.listen.iter().copied().collect();
    let listen = listen.into_iter();
    listen
        .filter_map(|ip| frontend(port, ip, *number, spec))
        .collect()
}

fn frontend(
    port: &BackendPort,
    ip: IpAddr,
    number: u16,
    spec: Option<&FrontendSpec>,
) -> Option<Frontend> {
    let name = format!("{}/{}@{ip}", port.name, port.protocol.as_str());
    let networks = |all: &[String]| all.iter().filter_map(|text| text.parse().ok()).collect();
    let proxies: Vec<_> = spec.map_or_else(Vec::new, |spec| networks(&spec.proxy_protocol_from));
    let sni = spec.map_or(&[][..], |spec| &spec.sni[..]).iter();
    Some(Frontend {
        name: FrontendName::parse(&name).ok()?,
        protocol: port.protocol,
        ip,
        ports: number..=number,
        service: port.name.clone(),
        sni: sni.map(|text| sni_pattern(text)).collect(),
        allow: spec.map_or_else(Vec::new, |spec| networks(&spec.allow)),
        proxy_protocol: (!proxies.is_empty()).then_some(AcceptProxy {
            versions: AcceptedVersions::Any,
            from: proxies,
        }),
    })
}

fn sni_pattern(text: &str) -> SniPattern {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix("*.") {
        Some(suffix) => SniPattern::Suffix(suffix.to_owned()),
        None => SniPattern::Exact(text),
    }
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

/// Every endpoint of a member weighs the same; slow start needs room below.
const ENDPOINT_WEIGHT: u16 = 100;

/// A frontend's address in status.
pub fn allocated_port(view: &View, port: &str, protocol: Protocol) -> Option<u16> {
    view.allocated.get(&(port.to_owned(), protocol)).copied()
}

/// Whether the group's allocations are exactly what this service wants of it, so that nothing has
/// to be allocated anew.
pub fn is_settled(
    key: &ServiceKey,
    wanted: &[WantedPort],
    view: &View,
    range: fairlead_api::proxy::PortRange,
) -> bool {
    let prefix = format!("{key}:");
    let first = (prefix.clone(), Protocol::Tcp);
    let theirs = view
        .allocated
        .range(first..)
        .take_while(|((service, _), _)| service.starts_with(&prefix))
        .count();
    theirs == wanted.len()
        && wanted.iter().all(|want| {
            let port = view.allocated.get(&(want.service.clone(), want.protocol));
            port.is_some_and(|port| ports::fits(want, *port, range))
        })
}
