//! Tiers, members, weights and endpoints as a `ClusterLoadAssignment`, and back.
//!
//! A tier without members at the end of a service is not told apart from no tier.

use std::{collections::BTreeSet, net::SocketAddr};

use prost_types::Struct;

use super::{
    chunks, metadata, ours,
    proto::{
        core::{Address, AddressKind, Locality, Port, SocketAddress, SocketProtocol},
        endpoint::{
            AssignmentPolicy, ClusterLoadAssignment, Endpoint as Message, HealthStatus,
            HostIdentifier, LbEndpoint, LocalityLbEndpoints,
        },
    },
    text, text_at,
};
use crate::{
    endpoint::{ENDPOINT_WEIGHT_MAX, Endpoint, EndpointKey, Hop, ObjectState, Target},
    name::MemberName,
    rule,
    service::{ENDPOINTS_MAX, MEMBERS_MAX, Member, MemberWeight, Service, TIERS_MAX, Tier},
    snapshot::Endpoints,
    yaml::metadata::Fault,
};

/// What an assignment says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Assignment {
    pub(super) tiers: Vec<Tier>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Members whose endpoints come in chunks.
    pub(super) collections: BTreeSet<MemberName>,
    /// In thousandths.
    pub(super) spill_factor: Option<u32>,
}

/// The assignment of a service; `rows` are its endpoints. O(members + endpoints).
pub fn assignment(service: &Service, rows: &Endpoints) -> ClusterLoadAssignment {
    let mut localities = Vec::new();
    for (tier, priority) in service.tiers.iter().zip(0..) {
        for member in &tier.members {
            localities.push(locality(member, priority, rows));
        }
    }
    ClusterLoadAssignment {
        cluster_name: service.name.as_str().to_owned(),
        endpoints: localities,
        policy: Some(AssignmentPolicy {
            overprovisioning_factor: Some(service.policy.spill_factor.div_ceil(10)),
        }),
    }
}

/// The locality that stands for a member.
pub fn member_locality(member: &MemberName) -> Locality {
    Locality {
        region: member.as_str().to_owned(),
        ..Locality::default()
    }
}

/// An address as messages have it.
pub fn address(addr: SocketAddr, protocol: SocketProtocol) -> Address {
    host_address(addr.ip().to_string(), addr.port(), protocol)
}

fn locality(member: &Member, priority: u32, rows: &Endpoints) -> LocalityLbEndpoints {
    let endpoints = rows.of_member(&member.name).iter();
    let mut extras = Struct::default();
    // Envoy gives a locality without a weight no load, which is what 0 means.
    let weight = member.weight.thousandths();
    if member.weight.is_drain() {
        extras.fields.insert("weight".to_owned(), text("0"));
    }
    LocalityLbEndpoints {
        locality: Some(member_locality(&member.name)),
        lb_endpoints: endpoints.map(|endpoint| lb_endpoint(endpoint)).collect(),
        load_balancing_weight: (weight > 0).then_some(weight),
        priority,
        leds_cluster_locality_config: None,
        metadata: metadata(extras),
    }
}

pub(super) fn lb_endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let mut extras = Struct::default();
    if let Some(zone) = &endpoint.zone {
        extras.fields.insert("zone".to_owned(), text(&**zone));
    }
    if let Hop::Via(gateway) = &endpoint.hop {
        let addr = text(gateway.addr.to_string());
        extras.fields.insert("gateway".to_owned(), addr);
        let server_name = text(&*gateway.server_name);
        extras.fields.insert("serverName".to_owned(), server_name);
    }
    let address = match &endpoint.key.target {
        Target::Addr(addr) => address(*addr, SocketProtocol::Tcp),
        Target::Dns { host, port } => host_address(host.to_string(), *port, SocketProtocol::Tcp),
    };
    let status = match endpoint.state {
        ObjectState::Ready => HealthStatus::Healthy,
        ObjectState::NotReady => HealthStatus::Unhealthy,
        ObjectState::Draining => HealthStatus::Draining,
    };
    LbEndpoint {
        host: Some(HostIdentifier::Endpoint(Message {
            address: Some(address),
            hostname: String::new(),
        })),
        health_status: status.into(),
        metadata: metadata(extras),
        load_balancing_weight: Some(endpoint.weight.into()),
    }
}

pub(super) fn host_address(host: String, port: u16, protocol: SocketProtocol) -> Address {
    Address {
        address: Some(AddressKind::Socket(SocketAddress {
            protocol: protocol.into(),
            address: host,
            port: Some(Port::Value(port.into())),
            ipv4_compat: false,
        })),
    }
}

/// Reads an assignment; one fault refuses it as a whole, all faults are reported. `dns` allows
/// names as addresses.
pub(super) fn read(message: &ClusterLoadAssignment, dns: bool) -> Result<Assignment, Vec<Fault>> {
    let mut reader = Reader {
        name: &message.cluster_name,
        dns,
        any_weight: message
            .endpoints
            .iter()
            .any(|locality| locality.load_balancing_weight.is_some()),
        ..Reader::default()
    };
    for (index, locality) in message.endpoints.iter().enumerate() {
        reader.locality(&format!("endpoints[{index}]"), locality);
    }
    let counts = [
        ("members", reader.members.len(), MEMBERS_MAX),
        (
            "endpoints",
            reader.assignment.endpoints.len(),
            ENDPOINTS_MAX,
        ),
    ];
    for (what, count, max) in counts {
        if count > max {
            let message = format!("has {count} {what}, {max} is the limit");
            reader.faults.push(("endpoints".to_owned(), message));
        }
    }
    let factor = message.policy.as_ref();
    let factor = factor.and_then(|policy| policy.overprovisioning_factor);
    if let Some(percent) = factor {
        match rule::in_range(percent.saturating_mul(10), &rule::SPILL_FACTOR) {
            Ok(factor) => reader.assignment.spill_factor = Some(factor),
            Err(_) => reader.faults.push((
                "policy.overprovisioning_factor".to_owned(),
                format!("{percent} is out of range; use 100 to 1000"),
            )),
        }
    }
    if reader.faults.is_empty() {
        Ok(reader.assignment)
    } else {
        Err(reader.faults)
    }
}

/// Reads a list of endpoints of one member; one fault refuses it as a whole.
pub(super) fn read_list(
    member: &MemberName,
    list: &[LbEndpoint],
) -> Result<Vec<Endpoint>, Vec<Fault>> {
    let mut reader = Reader::default();
    reader.endpoints("lb_endpoints", member, list);
    if reader.faults.is_empty() {
        Ok(reader.assignment.endpoints)
    } else {
        Err(reader.faults)
    }
}

#[derive(Default)]
struct Reader<'m> {
    /// Of the assignment.
    name: &'m str,
    dns: bool,
    any_weight: bool,
    assignment: Assignment,
    members: BTreeSet<MemberName>,
    targets: BTreeSet<EndpointKey>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn locality(&mut self, field: &str, message: &LocalityLbEndpoints) {
        let fault = |message: String| (field.to_owned(), message);
        let priority = message.priority as usize;
        if priority >= TIERS_MAX {
            let message = format!("has priority {priority}; there are at most {TIERS_MAX} tiers");
            self.faults.push(fault(message));
            return;
        }
        let name = match member_name(message.locality.as_ref()) {
            Ok(name) => name,
            Err(broken) => return self.faults.push(fault(broken)),
        };
        if !self.members.insert(name.clone()) {
            let message = format!("{name} stands in this service already, in another locality");
            self.faults.push(fault(message));
        }
        let weight = match self.weight(message) {
            Ok(weight) => weight,
            Err(broken) => return self.faults.push(fault(broken)),
        };
        let tiers = &mut self.assignment.tiers;
        if tiers.len() <= priority {
            tiers.resize_with(priority + 1, Tier::default);
        }
        tiers[priority].members.push(Member {
            name: name.clone(),
            weight,
        });
        match chunks::follows(self.name, &name, message) {
            Ok(true) => drop(self.assignment.collections.insert(name.clone())),
            Ok(false) => {}
            Err(broken) => self.faults.push((field.to_owned(), broken)),
        }
        self.endpoints(
            &format!("{field}.lb_endpoints"),
            &name,
            &message.lb_endpoints,
        );
    }

    fn endpoints(&mut self, field: &str, member: &MemberName, list: &[LbEndpoint]) {
        for (index, endpoint) in list.iter().enumerate() {
            match self.endpoint(member, endpoint) {
                Ok(endpoint) => self.assignment.endpoints.push(endpoint),
                Err(broken) => self.faults.push((format!("{field}[{index}]"), broken)),
            }
        }
    }

    /// Without a weight anywhere, all members count the same.
    fn weight(&self, message: &LocalityLbEndpoints) -> Result<MemberWeight, String> {
        match message.load_balancing_weight {
            Some(weight) => MemberWeight::from_thousandths(weight)
                .ok_or_else(|| format!("has weight {weight}; use at most 1000000")),
            None if self.any_weight || ours(message.metadata.as_ref()).is_some() => {
                Ok(MemberWeight::DRAIN)
            }
            None => Ok(MemberWeight::DEFAULT),
        }
    }

    fn endpoint(&mut self, member: &MemberName, message: &LbEndpoint) -> Result<Endpoint, String> {
        let Some(HostIdentifier::Endpoint(host)) = &message.host else {
            return Err("names no endpoint with an address".to_owned());
        };
        let key = EndpointKey {
            member: member.clone(),
            target: self.target(host)?,
        };
        let extras = ours(message.metadata.as_ref());
        if extras.is_some_and(|extras| extras.fields.contains_key("gateway")) {
            return Err("is behind a gateway, which is not supported yet".to_owned());
        }
        let zone = extras.and_then(|extras| text_at(extras, "zone"));
        let weight = u16::try_from(message.load_balancing_weight.unwrap_or(1)).unwrap_or(u16::MAX);
        let weight = rule::in_range(weight, &(1..=ENDPOINT_WEIGHT_MAX))
            .map_err(|broken| format!("load_balancing_weight {broken}"))?;
        let state = match HealthStatus::try_from(message.health_status) {
            Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded) => {
                ObjectState::Ready
            }
            Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => ObjectState::NotReady,
            Ok(HealthStatus::Draining) => ObjectState::Draining,
            Err(_) => return Err(format!("has unknown status {}", message.health_status)),
        };
        if !self.targets.insert(key.clone()) {
            return Err(format!("{} stands in this member already", key.target));
        }
        Ok(Endpoint {
            key,
            weight,
            zone: zone.map(rule::zone).transpose()?,
            state,
            hop: Hop::Direct,
        })
    }

    fn target(&self, host: &Message) -> Result<Target, String> {
        let socket = socket_address(host.address.as_ref())?;
        let port = port_of(socket)?;
        match socket.address.parse() {
            Ok(ip) => {
                let addr = SocketAddr::new(ip, port);
                rule::endpoint_addr(addr).map_err(|broken| format!("{addr} {broken}"))
            }
            Err(_) if self.dns => {
                let name = format!("{}:{port}", socket.address);
                rule::dns_target(&name).map_err(|broken| format!("{name:?} {broken}"))
            }
            Err(_) => Err(format!("{:?} is no IP address", socket.address)),
        }
    }
}

/// The socket address of an address, if that is its kind.
pub(super) fn socket_address(address: Option<&Address>) -> Result<&SocketAddress, String> {
    match address.and_then(|address| address.address.as_ref()) {
        Some(AddressKind::Socket(socket)) => Ok(socket),
        Some(AddressKind::Pipe(_)) => Err("has a Unix socket as address; use an IP".to_owned()),
        None => Err("has no address".to_owned()),
    }
}

/// A port number, not 0.
pub(super) fn port_of(socket: &SocketAddress) -> Result<u16, String> {
    let port = match &socket.port {
        Some(Port::Value(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        Some(Port::Named(_)) | None => None,
    };
    port.ok_or_else(|| format!("{:?} has no port number", socket.address))
}

/// Ours: the region. Others': region, zone and sub-zone, joined.
fn member_name(locality: Option<&Locality>) -> Result<MemberName, String> {
    let none = Locality::default();
    let locality = locality.unwrap_or(&none);
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    let parts: Vec<&str> = parts
        .into_iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    let name = if parts.is_empty() {
        "default".to_owned()
    } else {
        parts
            .join("-")
            .to_ascii_lowercase()
            .replace(['_', '.'], "-")
    };
    MemberName::parse(&name).map_err(|broken| format!("its locality as a member: {broken}"))
}
