//! The endpoints of a service, from what members mirror.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    name::MemberName,
    service::ENDPOINTS_MAX,
    snapshot::Endpoints,
};

use crate::{
    addresses,
    services::UnionPort,
    world::{Heartbeat, ServiceKey, SliceEndpoint, World},
};

use super::Part;

/// What a member's mirrored slices say of a service, whatever the import makes of it.
#[derive(Debug, Default)]
pub(crate) struct MemberRows {
    /// Addresses refused, and why.
    pub(super) refused: Vec<(String, String)>,
    /// Distinct addresses taken, and those of them that are ready.
    pub(super) endpoints: usize,
    pub(super) ready: usize,
    /// By the member's own name of the port and its protocol, in order.
    ports: BTreeMap<(String, String), Vec<Arc<Endpoint>>>,
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

/// The endpoints of one port, member by member; those of a silent member that nothing probes are
/// not ready.
pub(super) fn of_port(
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

/// Every endpoint of a member weighs the same; slow start needs room below.
const ENDPOINT_WEIGHT: u16 = 100;
