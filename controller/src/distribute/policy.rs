//! From what a MultiClusterService says to what a proxy is told. Whatever isn't said keeps the
//! proxy's own default.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fairlead_api::service::{
    self as api, Affinity as ApiAffinity, HealthCheck as ApiCheck, MultiClusterService,
};
use fairlead_config::{
    frontend::Protocol,
    policy::{
        Affinity, Balancer, HealthCheck, Limits, OnUnhealthy, Policy, Probe, ProxyVersion, Timeouts,
    },
};
use sha2::{Digest, Sha256};

use super::protocol_of;
use crate::{
    services::{Import, UnionPort},
    world::{ServiceKey, World},
};

/// The policy of one port.
pub(super) fn policy(
    world: &World,
    key: &ServiceKey,
    import: &Import,
    object: Option<&MultiClusterService>,
    union: &UnionPort,
) -> Policy {
    let mut policy = Policy {
        affinity_seed: seed(key),
        affinity: match import.fields.session_affinity.as_deref() {
            Some("ClientIP") => Affinity::ClientIp,
            _ => Affinity::None,
        },
        ..Policy::default()
    };
    let spec = object.map(|object| &object.spec);
    if let Some(spec) = spec {
        apply(&mut policy, spec);
    }
    let check = spec.and_then(|spec| spec.health_check.as_ref());
    policy.health_check = health_check(world, key, import, check, union);
    policy
}

fn apply(policy: &mut Policy, spec: &api::MultiClusterServiceSpec) {
    if let Some(balancer) = spec.balancer {
        policy.balancer = match balancer {
            api::Balancer::P2c => Balancer::P2c,
            api::Balancer::RoundRobin => Balancer::RoundRobin,
            api::Balancer::LeastConnections => Balancer::LeastConnections,
            api::Balancer::Random => Balancer::Random,
            api::Balancer::Maglev => Balancer::Maglev,
            api::Balancer::Rendezvous => Balancer::Rendezvous,
        };
    }
    if let Some(affinity) = spec.affinity {
        policy.affinity = match affinity {
            ApiAffinity::None => Affinity::None,
            ApiAffinity::ClientIP => Affinity::ClientIp,
            ApiAffinity::FiveTuple => Affinity::FiveTuple,
        };
    }
    policy.proxy_protocol = spec.proxy_protocol.map(|version| match version {
        api::ProxyVersion::V1 => ProxyVersion::V1,
        api::ProxyVersion::V2 => ProxyVersion::V2,
    });
    if let Some(drain) = &spec.drain {
        set(&mut policy.drain.draining, drain.draining);
        set(&mut policy.drain.removed, drain.removed);
        if let Some(unhealthy) = drain.unhealthy {
            policy.drain.unhealthy = match unhealthy {
                api::OnUnhealthy::Keep => OnUnhealthy::Keep,
                api::OnUnhealthy::Reset => OnUnhealthy::Reset,
            };
        }
    }
    if let Some(limits) = &spec.limits {
        policy.limits = limits_of(limits);
    }
    if let Some(timeouts) = &spec.timeouts {
        apply_timeouts(&mut policy.timeouts, timeouts);
    }
    if let Some(failover) = &spec.failover {
        apply_failover(policy, failover);
    }
}

fn limits_of(limits: &api::Limits) -> Limits {
    let limit = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
    Limits {
        connections: limit(limits.connections),
        connections_per_client: limit(limits.connections_per_client),
        new_per_second: limit(limits.new_per_second),
        new_per_second_per_client: limit(limits.new_per_second_per_client),
        flows: limit(limits.flows),
        connections_per_endpoint: limit(limits.connections_per_endpoint),
    }
}

/// Zero means never, where never is possible.
fn apply_timeouts(timeouts: &mut Timeouts, api: &api::Timeouts) {
    let optional = |target: &mut Option<Duration>, value: Option<kube::core::Duration>| {
        if let Some(value) = value {
            let value = Duration::from(value);
            *target = (!value.is_zero()).then_some(value);
        }
    };
    set(&mut timeouts.connect, api.connect);
    set(&mut timeouts.udp_idle, api.udp_idle);
    optional(&mut timeouts.idle, api.idle);
    optional(&mut timeouts.lifetime, api.lifetime);
}

fn apply_failover(policy: &mut Policy, failover: &api::Failover) {
    let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
    let percent = |value: Option<i32>| value.and_then(|value| u8::try_from(value).ok());
    if let Some(factor) = number(failover.spill_factor) {
        policy.spill_factor = factor;
    }
    if let Some(count) = number(failover.min_healthy) {
        policy.min_healthy = count;
    }
    if let Some(no_fallback) = failover.no_fallback {
        policy.no_fallback = no_fallback;
    }
    if let Some(panic_below) = percent(failover.panic_below) {
        policy.panic_below = panic_below;
    }
    if let Some(max_ejected) = percent(failover.max_ejected) {
        policy.passive.max_ejected = max_ejected;
    }
    if let Some(hedge) = failover.hedge {
        policy.hedge = hedge;
    }
    set(&mut policy.return_after, failover.return_after);
    set(&mut policy.slow_start, failover.slow_start);
}

fn set(target: &mut Duration, value: Option<kube::core::Duration>) {
    if let Some(value) = value {
        *target = value.into();
    }
}

/// The check of a port. A TCP port is asked for a connection where nothing else is said; a UDP port
/// without a check of its own takes the answer of a TCP port on the same address, where all members
/// have that port under one number.
fn health_check(
    world: &World,
    key: &ServiceKey,
    import: &Import,
    api: Option<&ApiCheck>,
    union: &UnionPort,
) -> Option<HealthCheck> {
    if api.is_some_and(|api| api.off == Some(true)) {
        return None;
    }
    let protocol = protocol_of(union)?;
    let udp = api.and_then(|api| api.udp.as_ref());
    let probe = match (protocol, udp) {
        (Protocol::Udp, Some(exchange)) => Probe::Udp {
            send: exchange.send.as_bytes().into(),
            expect: exchange.expect.as_bytes().into(),
        },
        _ => stream_probe(api),
    };
    let own = matches!((protocol, udp), (Protocol::Tcp, _) | (_, Some(_)));
    let asked = api
        .and_then(|api| api.port)
        .and_then(|port| u16::try_from(port).ok());
    let port = match (asked, own) {
        (Some(port), _) => Some(port),
        (None, true) => None,
        (None, false) => Some(sibling(world, key, import)?),
    };
    Some(timed(
        HealthCheck {
            port,
            ..HealthCheck::new(probe)
        },
        api,
    ))
}

fn stream_probe(api: Option<&ApiCheck>) -> Probe {
    let connect = Probe::Tcp {
        send: Arc::from([]),
        expect: Arc::from([]),
    };
    let Some(api) = api else {
        return connect;
    };
    if let Some(http) = &api.http {
        return Probe::Http {
            path: http.path.as_str().into(),
            host: http.host.as_deref().map(Arc::from),
            statuses: (200, 299),
        };
    }
    if let Some(grpc) = &api.grpc {
        return Probe::Grpc {
            service: grpc.service.as_str().into(),
        };
    }
    match &api.tcp {
        Some(exchange) => Probe::Tcp {
            send: exchange.send.as_bytes().into(),
            expect: exchange.expect.as_bytes().into(),
        },
        None => connect,
    }
}

fn timed(mut check: HealthCheck, api: Option<&ApiCheck>) -> HealthCheck {
    let Some(api) = api else {
        return check;
    };
    let streak = |value: Option<i32>| value.and_then(|value| u16::try_from(value).ok());
    set(&mut check.interval, api.interval);
    check.interval = check.interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
    set(&mut check.timeout, api.timeout);
    check.timeout = check
        .timeout
        .clamp(Duration::from_millis(1), check.interval);
    if let Some(unhealthy) = streak(api.unhealthy_after) {
        check.unhealthy_after = unhealthy.max(1);
    }
    if let Some(healthy) = streak(api.healthy_after) {
        check.healthy_after = healthy.max(1);
    }
    check
}

/// The number of the first TCP port, when every slice of the service agrees on it.
fn sibling(world: &World, key: &ServiceKey, import: &Import) -> Option<u16> {
    let tcp = import
        .ports
        .iter()
        .find(|union| protocol_of(union) == Some(Protocol::Tcp))?;
    let mut numbers = BTreeSet::new();
    for (member, slices) in world.slices.get(key)? {
        let local = tcp.exposed_by.get(member)?;
        for port in slices.values().flat_map(|slice| &slice.ports) {
            if port.name == *local && port.protocol == "TCP" {
                numbers.insert(port.port);
            }
        }
    }
    let only = numbers.pop_first()?;
    numbers.is_empty().then_some(only)
}

fn seed(key: &ServiceKey) -> u64 {
    let hash = Sha256::digest(key.to_string().as_bytes());
    let first: [u8; 8] = hash[..8].try_into().expect("a digest has 32 bytes");
    u64::from_be_bytes(first)
}

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
