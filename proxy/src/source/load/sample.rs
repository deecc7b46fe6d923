//! Totals of the registry as a sample.

use std::{sync::atomic::Ordering::Relaxed, time::SystemTime};

use fairlead_config::{
    snapshot::Snapshot,
    xds::proto::fairlead::{ProxyState, VerdictKind},
};

use super::{EndpointLoad, MemberLoad, Sample, ServiceLoad};
use crate::registry::{EndpointState, Flags, Registry};

/// Reads all services. O(endpoints), without a lock.
pub fn sample(
    registry: &Registry,
    snapshot: &Snapshot,
    proxy: ProxyState,
    now: SystemTime,
) -> Sample {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    let mut services = Vec::new();
    let mut endpoints = 0;
    for row in registry.services() {
        let service = snapshot.services.get(&row.state.name);
        let tier_of = |name| {
            let tiers = service.iter().flat_map(|service| service.tiers.iter());
            let tiers = tiers.zip(0_u32..);
            let mut found = tiers.filter(|(tier, _)| tier.members.iter().any(|it| it.name == name));
            found.next().map_or(0, |(_, tier)| tier)
        };
        let members = row.members.iter().map(|member| {
            let rows = member.endpoints.iter();
            let endpoints: Vec<_> = rows.map(|entry| endpoint_load(&entry.state)).collect();
            MemberLoad {
                tier: tier_of(member.state.name.clone()),
                member: member.state.name.clone(),
                endpoints,
            }
        });
        let members: Vec<_> = members.collect();
        let counts = members.iter().map(|member| member.endpoints.len() as u64);
        endpoints += counts.sum::<u64>();
        services.push(ServiceLoad {
            service: row.state.name.clone(),
            dropped: 0,
            members,
        });
    }
    Sample {
        proxy: ProxyState {
            frontends: snapshot.frontends.len() as u64,
            services: services.len() as u64,
            endpoints,
            ..proxy
        },
        services,
        unix_millis: u64::try_from(millis).unwrap_or(u64::MAX),
    }
}

fn endpoint_load(state: &EndpointState) -> EndpointLoad {
    let counts = &state.counts;
    let (verdict, reason) = verdict(state.flags());
    let failures = [&counts.refused, &counts.timed_out, &counts.reset];
    let failed = failures.iter().map(|count| count.load(Relaxed));
    EndpointLoad {
        addr: state.addr,
        active: state.inflight(),
        sessions: counts.sessions.load(Relaxed),
        failed: failed.fold(0, u32::wrapping_add),
        verdict,
        reason: reason.to_owned(),
    }
}

/// The strongest thing that is known of an endpoint.
fn verdict(flags: Flags) -> (VerdictKind, &'static str) {
    let known = [
        (
            Flags::NOT_READY,
            VerdictKind::NotReady,
            "its objects say that it isn't ready",
        ),
        (
            Flags::DRAINING,
            VerdictKind::Draining,
            "its objects or its member's weight say that it leaves",
        ),
        (
            Flags::PROBE_DOWN,
            VerdictKind::ProbeFailed,
            "its health check fails from here",
        ),
        (
            Flags::EJECTED,
            VerdictKind::Ejected,
            "connections to it failed in a row",
        ),
        (
            Flags::LINK_LOST,
            VerdictKind::Suspect,
            "its member's control link is lost",
        ),
    ];
    let found = known.into_iter().find(|(flag, _, _)| flags.has(*flag));
    found.map_or((VerdictKind::Healthy, ""), |(_, kind, reason)| {
        (kind, reason)
    })
}
