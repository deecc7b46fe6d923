//! Totals of the registry as a sample.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::Relaxed,
    time::SystemTime,
};

use fairlead_config::{
    frontend::Protocol,
    name::{MemberName, ServiceName},
    snapshot::Snapshot,
    xds::proto::fairlead::{ProxyState, VerdictKind},
};

use super::{EndpointLoad, MemberLoad, Sample, ServiceLoad};
use crate::{
    directory::Directory,
    health::verdict::Reason,
    registry::{EndpointState, ServiceState},
    view::Entry,
};

/// Reads all services. O(endpoints), without a lock.
pub fn sample(
    directory: &Directory,
    snapshot: &Snapshot,
    proxy: ProxyState,
    now: SystemTime,
) -> Sample {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    let of_datagrams: BTreeSet<&ServiceName> = snapshot
        .frontends
        .values()
        .filter(|frontend| frontend.protocol == Protocol::Udp)
        .map(|frontend| &frontend.service)
        .collect();
    let mut services = Vec::new();
    let mut endpoints = 0;
    for row in directory.rows() {
        let service = snapshot.services.get(&row.state.name);
        let tiers = service.iter().flat_map(|service| service.tiers.iter());
        let tiers: BTreeMap<&MemberName, u32> = tiers
            .zip(0..)
            .flat_map(|(tier, index)| tier.members.iter().map(move |it| (&it.name, index)))
            .collect();
        let members = row.members.iter().map(|member| {
            let rows = member.endpoints.iter();
            let endpoints: Vec<_> = rows
                .map(|entry| endpoint_load(directory, &row.state, entry))
                .collect();
            MemberLoad {
                tier: tiers.get(&member.state.name).copied().unwrap_or_default(),
                member: member.state.name.clone(),
                endpoints,
            }
        });
        let mut members: Vec<_> = members.collect();
        for endpoint in directory.leaving(&row.state) {
            let name = &endpoint.member.name;
            let place = members.iter().position(|it| it.member == *name);
            let place = place.unwrap_or_else(|| {
                members.push(MemberLoad {
                    tier: tiers.get(name).copied().unwrap_or_default(),
                    member: name.clone(),
                    endpoints: Vec::new(),
                });
                members.len() - 1
            });
            let load = load_of(endpoint, Reason::Removed);
            members[place].endpoints.push(load);
        }
        let counts = members.iter().map(|member| member.endpoints.len() as u64);
        endpoints += counts.sum::<u64>();
        services.push(ServiceLoad {
            service: row.state.name.clone(),
            dropped: 0,
            datagrams: of_datagrams.contains(&row.state.name),
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

fn endpoint_load(directory: &Directory, service: &ServiceState, entry: &Entry) -> EndpointLoad {
    load_of(&entry.state, directory.grounds(service, entry))
}

fn load_of(state: &EndpointState, grounds: Reason) -> EndpointLoad {
    let counts = &state.counts;
    let verdict = kind(grounds);
    EndpointLoad {
        addr: state.addr,
        active: state.inflight(),
        sessions: counts.sessions.load(Relaxed),
        failed: counts.failures.load(Relaxed),
        verdict,
        // Nobody asks why a healthy endpoint is healthy, and most are.
        reason: match verdict {
            VerdictKind::Healthy => String::new(),
            _ => grounds.to_string(),
        },
    }
}

fn kind(grounds: Reason) -> VerdictKind {
    match grounds {
        Reason::Fine => VerdictKind::Healthy,
        Reason::Unverified => VerdictKind::Unverified,
        Reason::Leaving => VerdictKind::Draining,
        Reason::Removed => VerdictKind::Unknown,
        Reason::NotReady => VerdictKind::NotReady,
        Reason::Probe(_) | Reason::MemberDead => VerdictKind::ProbeFailed,
        Reason::LinkLost => VerdictKind::Suspect,
        Reason::Ejected { .. } => VerdictKind::Ejected,
    }
}
