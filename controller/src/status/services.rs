//! The status of MultiClusterServices: conditions, frontends and why each member gets what it gets.

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    service::{
        FrontendStatus, MemberState, MemberStatus, MultiClusterService, MultiClusterServiceStatus,
    },
};
use fairlead_config::name::MemberName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    distribute::{self, Backend},
    ports,
    world::{self, Heartbeat, ServiceKey, World},
};

use super::Write;

/// The status of each MultiClusterService that names this service: the oldest counts.
pub fn services(
    world: &World,
    key: &ServiceKey,
    backend: Option<&Backend>,
    problems: &[String],
    now: &Time,
) -> Vec<Write> {
    let mut writes = Vec::new();
    for (at, object) in world.policies(key).into_iter().enumerate() {
        let old = object.status.clone().unwrap_or_default();
        let generation = object.metadata.generation;
        let status = if at == 0 {
            service_status(world, key, object, backend, problems, &old, now)
        } else {
            let first = world.policies(key)[0].metadata.name.clone();
            let message = format!(
                "MultiClusterService {} is older and names the same import; delete one of them",
                first.unwrap_or_default()
            );
            let wanted = [
                Wanted::no(kind::VALID, "AnotherCounts", message.clone()),
                Wanted::no(kind::READY, "AnotherCounts", message),
            ];
            let conditions = conditions::set(&old.conditions, &wanted, generation, now);
            MultiClusterServiceStatus {
                conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
                ..MultiClusterServiceStatus::default()
            }
        };
        if status != old {
            writes.push(Write::Service {
                namespace: key.namespace.to_string(),
                name: object.metadata.name.clone().unwrap_or_default(),
                version: world::version(&object.metadata),
                status: Box::new(status),
            });
        }
    }
    writes
}

#[allow(
    clippy::too_many_arguments,
    reason = "one status is decided from everything that is known of its service"
)]
fn service_status(
    world: &World,
    key: &ServiceKey,
    object: &MultiClusterService,
    backend: Option<&Backend>,
    problems: &[String],
    old: &MultiClusterServiceStatus,
    now: &Time,
) -> MultiClusterServiceStatus {
    let frontends = frontends(world, object, backend);
    let members = backend.map_or_else(Vec::new, |backend| members(world, key, object, backend));
    let taking = |member: &&MemberStatus| {
        matches!(member.state, MemberState::Active | MemberState::Silent)
            && member.ready_endpoints > 0
    };
    let active = members.iter().filter(taking).count();
    let ready_endpoints = members.iter().map(|member| member.ready_endpoints).sum();
    let mut wanted = vec![valid(problems)];
    wanted.push(ready(backend, object, &frontends, active));
    wanted.push(programmed(world, key));
    let conditions = conditions::set(&old.conditions, &wanted, object.metadata.generation, now);
    MultiClusterServiceStatus {
        conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
        summary: format!("{active}/{}", members.len()),
        frontends,
        members,
        ready_endpoints,
    }
}

fn valid(problems: &[String]) -> Wanted {
    if problems.is_empty() {
        Wanted::yes(kind::VALID, reason::VALID, "everything it names is there")
    } else {
        Wanted::no(kind::VALID, reason::INVALID_FIELD, problems.join("; "))
    }
}

fn ready(
    backend: Option<&Backend>,
    object: &MultiClusterService,
    frontends: &[FrontendStatus],
    active: usize,
) -> Wanted {
    if backend.is_none() {
        return Wanted::no(
            kind::READY,
            reason::NO_IMPORT,
            format!(
                "no member exports {}; make a ServiceExport of that name in a member",
                object.spec.service_import.name
            ),
        );
    }
    if frontends.is_empty() && !object.spec.frontends.is_empty() {
        return Wanted::no(
            kind::READY,
            reason::NO_FRONTEND,
            "no frontend has a port yet; see Valid, and the ProxyGroup it names",
        );
    }
    if active == 0 {
        return Wanted::no(
            kind::READY,
            reason::NO_ENDPOINTS,
            "no member can take a connection; see status.members for each one's reason",
        );
    }
    Wanted::yes(
        kind::READY,
        reason::READY,
        format!("{active} members take connections"),
    )
}

fn programmed(world: &World, key: &ServiceKey) -> Wanted {
    match world.refusals.get(key).map_or(&[][..], Vec::as_slice) {
        [] => Wanted::yes(
            kind::PROGRAMMED,
            reason::APPLIED,
            "no proxy refused anything",
        ),
        all => Wanted::no(kind::PROGRAMMED, reason::REFUSED, all.join("; ")),
    }
}

fn frontends(
    world: &World,
    object: &MultiClusterService,
    backend: Option<&Backend>,
) -> Vec<FrontendStatus> {
    let mut all = Vec::new();
    let backend_ports = backend.map_or(&[][..], |backend| &backend.ports[..]);
    for view in world.views.values() {
        if view.asked(object).next().is_none() {
            continue;
        }
        let group = world.groups.get(&view.group);
        let addresses = group.map_or_else(Vec::new, |group| group.spec.addresses.clone());
        for port in backend_ports {
            let name = port.name.as_str();
            let Some(number) = distribute::allocated_port(view, name, port.protocol) else {
                continue;
            };
            let endpoint = addresses.first().map_or_else(String::new, |address| {
                match address.parse::<std::net::IpAddr>() {
                    Ok(ip) => std::net::SocketAddr::from((ip, number)).to_string(),
                    Err(_) => format!("{address}:{number}"),
                }
            });
            all.push(FrontendStatus {
                proxy_group: view.group.to_string(),
                service_port: port.name.parts().2.to_owned(),
                protocol: ports::name(port.protocol).to_owned(),
                addresses: addresses.clone(),
                port: i32::from(number),
                endpoint,
            });
        }
    }
    all
}

fn members(
    world: &World,
    key: &ServiceKey,
    object: &MultiClusterService,
    backend: &Backend,
) -> Vec<MemberStatus> {
    let first = object.spec.frontends.first();
    let place = first
        .and_then(|frontend| world.views.get(frontend.proxy_group.as_str()))
        .map(|view| view.place.clone())
        .unwrap_or_default();
    let all = backend.members.keys();
    all.map(|name| {
        let tier = distribute::tier_of(&object.spec.tiers, world, name, &place);
        member(world, key, backend, name, tier)
    })
    .collect()
}

fn member(
    world: &World,
    key: &ServiceKey,
    backend: &Backend,
    name: &MemberName,
    tier: Option<usize>,
) -> MemberStatus {
    let part = &backend.members[name];
    let weight = distribute::weigh(world, key, backend, name, tier);
    let heartbeat = world.members.get(name).map(|member| member.heartbeat);
    let load = world
        .loads
        .get(key)
        .and_then(|loads| loads.get(name))
        .copied();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let because = weight.claim.map_or_else(String::new, |claim| {
        let why = if claim.reason.is_empty() {
            "no reason given"
        } else {
            &claim.reason
        };
        format!("{} keeps it at {}‰: {why}", claim.owner, claim.permille)
    });
    let (state, reason) = if tier.is_none() {
        (MemberState::NotSelected, "no tier selects it".to_owned())
    } else if part.withdrawn {
        let reason = "heartbeat lost and nothing probes its endpoints".to_owned();
        (MemberState::Withdrawn, reason)
    } else if weight.effective.is_drain() {
        let reason = if because.is_empty() {
            "weight 0".to_owned()
        } else {
            because
        };
        (MemberState::Draining, reason)
    } else if part.ready == 0 {
        (MemberState::Empty, empty_reason(part))
    } else if load.is_some_and(|load| load.healthy == 0 && load.unhealthy > 0) {
        let reason = "every endpoint fails its probes".to_owned();
        (MemberState::Unhealthy, reason)
    } else {
        match heartbeat {
            Some(Heartbeat::Lost) => (
                MemberState::Silent,
                "heartbeat lost; served as long as probes pass".to_owned(),
            ),
            Some(Heartbeat::Suspended) => (
                MemberState::Silent,
                "heartbeat lost together with most members; nothing is withdrawn".to_owned(),
            ),
            _ => (MemberState::Active, because),
        }
    };
    MemberStatus {
        member: name.to_string(),
        tier: tier.and_then(|tier| i32::try_from(tier).ok()),
        configured_weight: i32::from(weight.configured),
        effective_weight_thousandths: i32::try_from(weight.effective.thousandths())
            .unwrap_or(i32::MAX),
        ready_endpoints: number(part.ready),
        endpoints: number(part.endpoints),
        state,
        reason,
        active_sessions: load
            .and_then(|load| load.active)
            .and_then(|active| i64::try_from(active).ok()),
    }
}

fn empty_reason(part: &distribute::Part) -> String {
    match (part.endpoints, part.refused.first()) {
        (0, Some((address, why))) => {
            let count = part.refused.len();
            format!("all of its {count} addresses are refused: {address} {why}")
        }
        (0, None) => "no endpoints; are its pods running?".to_owned(),
        (count, _) => format!("none of its {count} endpoints is ready"),
    }
}
