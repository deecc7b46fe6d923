//! The `policy` of a service.

use std::time::Duration;

use super::{
    field::{At, Fields, shown},
    probe::health_check,
    report::Report,
    scalar::{
        duration, duration_or_off, number, number_or_off, on_off, percent, switch, thousandths,
        wait,
    },
};
use crate::{
    policy::{
        AccessLog, Affinity, Balancer, Drain, Keepalive, Limits, OnUnhealthy, Passive, Policy,
        ProxyVersion, Timeouts,
    },
    rule,
};

pub(super) fn policy(at: At<'_>, report: &mut Report) -> Option<Policy> {
    let mut policy = Policy::default();
    overlay(at, report, &mut policy)?;
    Some(policy)
}

/// Overwrites what stands there and leaves the rest of `p` as it is.
pub(super) fn overlay(at: At<'_>, report: &mut Report, p: &mut Policy) -> Option<()> {
    let fields = Fields::open(at, report, &KEYS)?;
    fields.set("balancer", &mut p.balancer, report, |at, report| {
        at.choice(report, &BALANCERS)
    });
    fields.set("affinity", &mut p.affinity, report, |at, report| {
        at.choice(report, &AFFINITIES)
    });
    let seed = number(0..=u64::MAX);
    fields.set("affinitySeed", &mut p.affinity_seed, report, seed);
    fields.set("healthCheck", &mut p.health_check, report, health_check);
    let factor = thousandths(rule::SPILL_FACTOR);
    fields.set("spillFactor", &mut p.spill_factor, report, factor);
    let count = number(0..=u32::MAX);
    fields.set("minHealthy", &mut p.min_healthy, report, count);
    fields.set("noFallback", &mut p.no_fallback, report, switch);
    fields.set("panicBelow", &mut p.panic_below, report, percent);
    fields.set("returnAfter", &mut p.return_after, report, wait);
    fields.set("slowStart", &mut p.slow_start, report, wait);
    fields.edit("passive", &mut p.passive, report, passive);
    fields.set("hedge", &mut p.hedge, report, on_off);
    fields.edit("timeouts", &mut p.timeouts, report, timeouts);
    fields.edit("keepalive", &mut p.keepalive, report, keepalive);
    fields.edit("drain", &mut p.drain, report, drain);
    fields.edit("limits", &mut p.limits, report, limits);
    fields.set(
        "proxyProtocol",
        &mut p.proxy_protocol,
        report,
        |at, report| at.choice(report, &PROXY_VERSIONS),
    );
    fields.set("accessLog", &mut p.access_log, report, access_log);
    Some(())
}

fn passive(at: At<'_>, report: &mut Report, passive: &mut Passive) -> Option<()> {
    let fields = Fields::open(at, report, &["maxEjected"])?;
    fields.set("maxEjected", &mut passive.max_ejected, report, percent);
    Some(())
}

fn timeouts(at: At<'_>, report: &mut Report, t: &mut Timeouts) -> Option<()> {
    let known = [
        "connect",
        "idle",
        "udpIdle",
        "lifetime",
        "halfClosed",
        "user",
    ];
    let fields = Fields::open(at, report, &known)?;
    let (fixed, open) = (duration(rule::TIMEOUT), duration_or_off(rule::TIMEOUT));
    fields.set("connect", &mut t.connect, report, &fixed);
    fields.set("idle", &mut t.idle, report, &open);
    fields.set("udpIdle", &mut t.udp_idle, report, &fixed);
    fields.set("lifetime", &mut t.lifetime, report, &open);
    fields.set("halfClosed", &mut t.half_closed, report, &open);
    let user = duration_or_off(rule::USER_TIMEOUT);
    fields.set("user", &mut t.user, report, user);
    Some(())
}

fn keepalive(at: At<'_>, report: &mut Report, keepalive: &mut Keepalive) -> Option<()> {
    let fields = Fields::open(at, report, &["idle", "interval", "probes"])?;
    let seconds = |at: At<'_>, report: &mut Report| -> Option<Duration> {
        let value = wait(at, report)?;
        at.check(report, rule::keepalive(value))
    };
    let interval = |at: At<'_>, report: &mut Report| {
        let value = seconds(at, report)?;
        at.check(report, rule::duration_in(value, &rule::KEEPALIVE))
    };
    fields.set("idle", &mut keepalive.idle, report, seconds);
    fields.set("interval", &mut keepalive.interval, report, interval);
    let probes = number(rule::KEEPALIVE_PROBES);
    fields.set("probes", &mut keepalive.probes, report, probes);
    Some(())
}

fn drain(at: At<'_>, report: &mut Report, drain: &mut Drain) -> Option<()> {
    let known = ["draining", "removed", "unhealthy", "resetsPerSecond"];
    let fields = Fields::open(at, report, &known)?;
    fields.set(
        "draining",
        &mut drain.draining,
        report,
        duration(rule::WAIT),
    );
    fields.set("removed", &mut drain.removed, report, duration(rule::WAIT));
    fields.set("unhealthy", &mut drain.unhealthy, report, |at, report| {
        at.choice(report, &ON_UNHEALTHY)
    });
    let pace = number(rule::LIMIT);
    fields.set(
        "resetsPerSecond",
        &mut drain.resets_per_second,
        report,
        pace,
    );
    Some(())
}

fn limits(at: At<'_>, report: &mut Report, l: &mut Limits) -> Option<()> {
    let known = [
        "connections",
        "connectionsPerClient",
        "connectionsPerEndpoint",
        "newPerSecond",
        "newPerSecondPerClient",
        "flows",
    ];
    let fields = Fields::open(at, report, &known)?;
    let limit = number_or_off(rule::LIMIT);
    fields.set(known[0], &mut l.connections, report, &limit);
    fields.set(known[1], &mut l.connections_per_client, report, &limit);
    fields.set(known[2], &mut l.connections_per_endpoint, report, &limit);
    fields.set(known[3], &mut l.new_per_second, report, &limit);
    fields.set(known[4], &mut l.new_per_second_per_client, report, &limit);
    fields.set(known[5], &mut l.flows, report, &limit);
    Some(())
}

fn access_log(at: At<'_>, report: &mut Report) -> Option<AccessLog> {
    let text = at.text(report, "off, stdout or the path of a file")?;
    if text.len() > 4095 {
        at.fault(report, format!("{} is too long", shown(text)));
        return None;
    }
    at.check(report, rule::access_log(text))
}

const KEYS: [&str; 18] = [
    "balancer",
    "affinity",
    "affinitySeed",
    "healthCheck",
    "spillFactor",
    "minHealthy",
    "noFallback",
    "panicBelow",
    "returnAfter",
    "slowStart",
    "passive",
    "hedge",
    "timeouts",
    "keepalive",
    "drain",
    "limits",
    "proxyProtocol",
    "accessLog",
];

pub(super) const BALANCERS: [(&str, Balancer); 6] = [
    ("p2c", Balancer::P2c),
    ("round-robin", Balancer::RoundRobin),
    ("least-connections", Balancer::LeastConnections),
    ("random", Balancer::Random),
    ("maglev", Balancer::Maglev),
    ("rendezvous", Balancer::Rendezvous),
];

pub(super) const AFFINITIES: [(&str, Affinity); 3] = [
    ("none", Affinity::None),
    ("client-ip", Affinity::ClientIp),
    ("five-tuple", Affinity::FiveTuple),
];

pub(super) const ON_UNHEALTHY: [(&str, OnUnhealthy); 2] =
    [("keep", OnUnhealthy::Keep), ("reset", OnUnhealthy::Reset)];

pub(super) const PROXY_VERSIONS: [(&str, Option<ProxyVersion>); 3] = [
    ("off", None),
    ("v1", Some(ProxyVersion::V1)),
    ("v2", Some(ProxyVersion::V2)),
];
