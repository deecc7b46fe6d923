//! Snapshots for property tests: every field takes every kind of value that its rule allows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    frontend::{AcceptProxy, AcceptedVersions, Frontend, Protocol, SniPattern},
    name::{FrontendName, MemberName, ServiceName},
    policy::{
        AccessLog, Affinity, Balancer, Drain, HealthCheck, Keepalive, Limits, OnUnhealthy, Passive,
        Policy, Probe, ProxyVersion, Timeouts,
    },
    service::{Member, MemberWeight, Service, Tier},
    snapshot::{Endpoints, Snapshot},
};

/// The inputs that are kept for a fuzz target, with their names.
pub(crate) fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is committed");
    let inputs = entries.map(|entry| {
        let path = entry.expect("a readable folder").path();
        let bytes = std::fs::read(&path).expect("a readable file");
        (path.display().to_string(), bytes)
    });
    inputs.collect()
}

/// A snapshot as a file can say it: frontends are numbered per service and don't overlap.
pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    vec(
        ("[a-z]{1,5}", "[a-z]{1,5}", "[a-z0-9]{1,4}", service()),
        0..4,
    )
    .prop_map(|rows| {
        let mut snapshot = Snapshot::default();
        for (namespace, name, port, parts) in rows {
            let name = ServiceName::parse(&format!("{namespace}/{name}:{port}"));
            add(&mut snapshot, name.expect("labels"), parts);
        }
        snapshot
    })
}

type Parts = (
    Policy,
    Vec<Frontend>,
    Vec<(u8, MemberWeight, Vec<Endpoint>)>,
);

fn add(snapshot: &mut Snapshot, name: ServiceName, parts: Parts) {
    let (policy, frontends, members) = parts;
    if snapshot.services.contains_key(&name) {
        return;
    }
    for (index, mut frontend) in frontends.into_iter().enumerate() {
        frontend.name = FrontendName::parse(&format!("{name}#{index}")).expect("printable");
        frontend.service = name.clone();
        // Each frontend has ports of its own, so that no two overlap.
        let base = u16::try_from(snapshot.frontends.len()).expect("few") * 100 + 1;
        let width = frontend.ports.end() - frontend.ports.start();
        frontend.ports = base..=base + width.min(99);
        snapshot
            .frontends
            .insert(frontend.name.clone(), frontend.into());
    }
    let mut tiers: Vec<Tier> = Vec::new();
    let mut endpoints = Endpoints::new();
    for (index, (tier, weight, rows)) in members.into_iter().enumerate() {
        let member = MemberName::parse(&format!("member-{index}")).expect("a label");
        if tiers.is_empty() || tier == 0 {
            tiers.push(Tier::default());
        }
        let last = tiers.last_mut().expect("pushed above");
        last.members.push(Member {
            name: member.clone(),
            weight,
        });
        for mut row in rows {
            row.key.member = member.clone();
            endpoints.insert(Arc::new(row));
        }
    }
    if !endpoints.is_empty() {
        snapshot.endpoints.insert(name.clone(), Arc::new(endpoints));
    }
    let service = Service {
        name: name.clone(),
        policy,
        tiers,
    };
    snapshot.services.insert(name, Arc::new(service));
}

fn service() -> impl Strategy<Value = Parts> {
    let weight = prop_oneof![Just(0_u32), 0..=1_000_000_u32];
    let member = (0..3_u8, weight, vec(endpoint(), 0..4)).prop_map(|(tier, w, rows)| {
        let weight = MemberWeight::from_thousandths(w).expect("in range");
        (tier, weight, rows)
    });
    (policy(), vec(frontend(), 0..3), vec(member, 0..5))
}

/// Any policy that the rules allow.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let balance = (
        select(vec![
            Balancer::P2c,
            Balancer::RoundRobin,
            Balancer::LeastConnections,
            Balancer::Random,
            Balancer::Maglev,
            Balancer::Rendezvous,
        ]),
        select(vec![
            Affinity::None,
            Affinity::ClientIp,
            Affinity::FiveTuple,
        ]),
        any::<u64>(),
        option::of(health_check()),
        1000..=10_000_u32,
        any::<u32>(),
        any::<bool>(),
        0..=100_u8,
        0..=100_u8,
        any::<bool>(),
    );
    let time = (wait(), wait(), timeouts(), keepalive(), drain(), limits());
    let around = (
        select(vec![None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)]),
        select(vec![
            AccessLog::Off,
            AccessLog::Stdout,
            AccessLog::File("/var/log/a \"b\".log".into()),
        ]),
    );
    (balance, time, around).prop_map(|(b, t, a)| Policy {
        balancer: b.0,
        affinity: b.1,
        affinity_seed: b.2,
        health_check: b.3,
        spill_factor: b.4,
        min_healthy: b.5,
        no_fallback: b.6,
        panic_below: b.7,
        passive: Passive { max_ejected: b.8 },
        hedge: b.9,
        return_after: t.0,
        slow_start: t.1,
        timeouts: t.2,
        keepalive: t.3,
        drain: t.4,
        limits: t.5,
        proxy_protocol: a.0,
        access_log: a.1,
    })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let times = (100..5000_u64).prop_flat_map(|interval| (Just(interval), 1..=interval));
    let streak = 1..=1000_u16;
    (
        probe(),
        times,
        streak.clone(),
        streak,
        option::of(1..=u16::MAX),
    )
        .prop_map(
            |(probe, (interval, timeout), unhealthy_after, healthy_after, port)| HealthCheck {
                probe,
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(timeout),
                unhealthy_after,
                healthy_after,
                port,
            },
        )
}

fn probe() -> impl Strategy<Value = Probe> {
    let bytes = || {
        prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(Arc::<[u8]>::from),
            "[ -~é]{0,20}".prop_map(|text| Arc::<[u8]>::from(text.as_bytes())),
        ]
    };
    let text = |pattern: &'static str| pattern.prop_map(Arc::<str>::from);
    let statuses = (100..=599_u16).prop_flat_map(|first| (Just(first), first..=599));
    prop_oneof![
        (bytes(), bytes()).prop_map(|(send, expect)| Probe::Tcp { send, expect }),
        (bytes(), bytes()).prop_map(|(send, expect)| Probe::Udp { send, expect }),
        text("[!-~]{0,20}").prop_map(|service| Probe::Grpc { service }),
        (
            text("/[!-~]{0,20}"),
            option::of(text("[!-~]{1,20}")),
            statuses
        )
            .prop_map(|(path, host, statuses)| Probe::Http {
                path,
                host,
                statuses,
            }),
    ]
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (
        positive(),
        option::of(positive()),
        positive(),
        option::of(positive()),
        option::of(positive()),
        option::of((1..=2_147_483_647_u64).prop_map(Duration::from_millis)),
    )
        .prop_map(
            |(connect, idle, udp_idle, lifetime, half_closed, user)| Timeouts {
                connect,
                idle,
                udp_idle,
                lifetime,
                half_closed,
                user,
            },
        )
}

fn keepalive() -> impl Strategy<Value = Keepalive> {
    (0..=32_767_u64, 1..=32_767_u64, 1..=127_u8).prop_map(|(idle, interval, probes)| Keepalive {
        idle: Duration::from_secs(idle),
        interval: Duration::from_secs(interval),
        probes,
    })
}

fn drain() -> impl Strategy<Value = Drain> {
    let unhealthy = select(vec![OnUnhealthy::Keep, OnUnhealthy::Reset]);
    (wait(), wait(), unhealthy, 1..=u32::MAX).prop_map(
        |(draining, removed, unhealthy, resets_per_second)| Drain {
            draining,
            removed,
            unhealthy,
            resets_per_second,
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = || option::of(1..=u32::MAX);
    (limit(), limit(), limit(), limit(), limit(), limit()).prop_map(|l| Limits {
        connections: l.0,
        connections_per_client: l.1,
        new_per_second: l.2,
        new_per_second_per_client: l.3,
        flows: l.4,
        connections_per_endpoint: l.5,
    })
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let accept = (
        select(vec![
            AcceptedVersions::V1,
            AcceptedVersions::V2,
            AcceptedVersions::Any,
        ]),
        vec(network(), 1..3),
    )
        .prop_map(|(versions, from)| AcceptProxy { versions, from });
    let tcp = (vec(sni(), 0..3), option::of(accept));
    let ip = any::<Ip>().prop_map(|ip| ip.0);
    (any::<bool>(), ip, 0..120_u16, tcp, vec(network(), 0..3)).prop_map(
        |(udp, ip, width, (mut sni, proxy_protocol), allow)| {
            sni.sort();
            sni.dedup();
            let (protocol, sni, proxy_protocol) = if udp {
                (Protocol::Udp, Vec::new(), None)
            } else {
                (Protocol::Tcp, sni, proxy_protocol)
            };
            Frontend {
                name: FrontendName::parse("unnamed").expect("printable"),
                protocol,
                ip,
                ports: 1..=1 + width,
                service: ServiceName::parse("a/b:c").expect("labels"),
                sni,
                allow,
                proxy_protocol,
            }
        },
    )
}

/// An address that one may listen on.
#[derive(Debug, Clone, Copy)]
struct Ip(IpAddr);

impl Arbitrary for Ip {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            any::<[u8; 16]>().prop_map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
            Just(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        ]
        .prop_filter("multicast is refused", |ip| !ip.is_multicast())
        .prop_map(Ip)
        .boxed()
    }
}

fn network() -> impl Strategy<Value = IpNet> {
    (any::<Ip>(), 0..=32_u8)
        .prop_map(|(ip, prefix)| IpNet::new(ip.0, prefix).expect("in range").trunc())
}

fn sni() -> impl Strategy<Value = SniPattern> {
    let host = || "[a-z0-9]{1,6}(\\.[a-z0-9]{1,6}){0,2}";
    prop_oneof![
        host().prop_map(SniPattern::Exact),
        host().prop_map(SniPattern::Suffix),
    ]
}

/// An endpoint of a member named `unnamed`.
pub(crate) fn endpoint() -> impl Strategy<Value = Endpoint> {
    let addr = (any::<Ip>(), 1..=u16::MAX)
        .prop_filter("unspecified is refused", |(ip, _)| !ip.0.is_unspecified())
        .prop_map(|(ip, port)| Target::Addr(SocketAddr::new(ip.0, port)));
    let dns = ("[a-z0-9]{1,6}\\.[a-z]{1,6}", 1..=u16::MAX).prop_map(|(host, port)| Target::Dns {
        host: host.into(),
        port,
    });
    let zone = option::of("[ -~é]{1,12}".prop_map(Arc::<str>::from));
    let state = select(vec![
        ObjectState::Ready,
        ObjectState::NotReady,
        ObjectState::Draining,
    ]);
    (prop_oneof![addr, dns], 1..=1000_u16, zone, state).prop_map(|(target, weight, zone, state)| {
        Endpoint {
            key: EndpointKey {
                member: MemberName::parse("unnamed").expect("a label"),
                target,
            },
            weight,
            zone,
            state,
            hop: Hop::Direct,
        }
    })
}

fn positive() -> impl Strategy<Value = Duration> {
    (1..=365 * 24 * 3_600_000_u64).prop_map(Duration::from_millis)
}

fn wait() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), positive()]
}
