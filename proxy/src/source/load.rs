//! What goes back to a control plane: load, verdicts and the state of the proxy, over LRS.
//!
//! [`Reporter`] turns samples of running totals into reports: counters as deltas since the last
//! report of that service, levels as they are. A service under watch is reported every second with
//! its endpoints; the others when the control plane's interval (10 s) ends, with endpoints only where it
//! asks and only those that changed; a verdict that changed goes at once. Nothing is sent before the
//! control plane has said what it wants.
//!
//! Cost: O(endpoints) a sample, every second at most. What happened between a report and the end of
//! its stream is reported on the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use fairlead_config::{
    name::{MemberName, ServiceName},
    xds::{
        endpoints::{address, member_locality},
        proto::{
            core::SocketProtocol,
            fairlead::{ProxyState, Verdict, VerdictKind},
            load_stats::{
                ClusterStats, LoadStatsRequest, LoadStatsResponse, UpstreamEndpointStats,
                UpstreamLocalityStats,
            },
        },
    },
};
use fairlead_runtime::clock::Tick;

mod io;
mod sample;

pub use io::{Asked, LoadReporter};
pub use sample::sample;

/// Running totals of all services at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// In any order.
    pub services: Vec<ServiceLoad>,
    /// The proxy as a whole.
    pub proxy: ProxyState,
    /// The wall clock, milliseconds since the Unix epoch.
    pub unix_millis: u64,
}

/// Running totals of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceLoad {
    /// Its name.
    pub service: ServiceName,
    /// Sessions refused by a limit or for want of an endpoint.
    pub dropped: u64,
    /// Whether it takes datagrams: what is live on it are flows, which a drain doesn't wait for.
    pub datagrams: bool,
    /// Its members.
    pub members: Vec<MemberLoad>,
}

/// Running totals of a member of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberLoad {
    /// Its name.
    pub member: MemberName,
    /// 0 is the most preferred.
    pub tier: u32,
    /// Its endpoints, also those that leave.
    pub endpoints: Vec<EndpointLoad>,
}

/// Running totals of an endpoint; they may wrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLoad {
    /// Where it is.
    pub addr: SocketAddr,
    /// Live sessions and flows.
    pub active: u32,
    /// Sessions and flows that it served.
    pub sessions: u32,
    /// Attempts that failed.
    pub failed: u32,
    /// Its state here.
    pub verdict: VerdictKind,
    /// Why.
    pub reason: String,
}

/// Turns samples into reports.
#[derive(Debug)]
pub struct Reporter {
    wanted: Option<Wanted>,
    last: BTreeMap<ServiceName, LastService>,
    next_all: Tick,
    next_watched: Tick,
}

/// What the control plane wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// `None`: all.
    services: Option<BTreeSet<String>>,
    watched: BTreeSet<String>,
    endpoints: bool,
    interval: Duration,
}

/// What was last reported of a service.
#[derive(Debug, Default)]
struct LastService {
    at: Tick,
    /// The members that were reported on this stream, with the sessions and flows that they had.
    told: BTreeMap<MemberName, u64>,
    dropped: u64,
    endpoints: BTreeMap<(MemberName, SocketAddr), LastEndpoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastEndpoint {
    active: u32,
    sessions: u32,
    failed: u32,
    /// `None`: not yet on this stream.
    verdict: Option<VerdictKind>,
    since_unix_millis: u64,
}

/// How a service is to be reported now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// Its members, where anything happened.
    Members,
    /// Also its endpoints, where anything happened.
    Changed,
    /// All of it.
    Everything,
}

// === impl Reporter ===

impl Reporter {
    /// A reporter that has reported nothing.
    pub fn new() -> Self {
        Self {
            wanted: None,
            last: BTreeMap::new(),
            next_all: Tick::MAX,
            next_watched: Tick::MAX,
        }
    }

    /// A new stream starts: all verdicts go again, counters go on.
    pub fn restart(&mut self) {
        self.wanted = None;
        (self.next_all, self.next_watched) = (Tick::MAX, Tick::MAX);
        self.last.values_mut().for_each(|last| last.told.clear());
        let rows = self
            .last
            .values_mut()
            .flat_map(|last| last.endpoints.values_mut());
        rows.for_each(|row| row.verdict = None);
    }

    /// Takes what the control plane wants; the first report is due at once.
    pub fn take(&mut self, response: &LoadStatsResponse, now: Tick) {
        let interval = response.load_reporting_interval.as_ref();
        let interval = interval.and_then(|interval| u64::try_from(interval.seconds).ok());
        let interval = interval.map_or(INTERVAL, Duration::from_secs);
        let clusters = response.clusters.iter().cloned();
        self.wanted = Some(Wanted {
            services: (!response.send_all_clusters).then(|| clusters.collect()),
            watched: response.watched.iter().cloned().collect(),
            endpoints: response.report_endpoint_granularity,
            interval: interval.clamp(WATCHED_INTERVAL, INTERVAL_MAX),
        });
        (self.next_all, self.next_watched) = (now, now);
    }

    /// When a report is due.
    pub fn next_deadline(&self) -> Tick {
        self.next_all.min(self.next_watched)
    }

    /// The report that is due, or that a changed verdict makes due; `None` when there is nothing to
    /// say.
    pub fn report(&mut self, sample: &Sample, now: Tick) -> Option<LoadStatsRequest> {
        let wanted = self.wanted.clone()?;
        let all_due = now >= self.next_all;
        let watched_due = now >= self.next_watched;
        let mut report = LoadStatsRequest::default();
        for load in &sample.services {
            let name = load.service.as_str();
            let listed = wanted.services.as_ref().is_none_or(|it| it.contains(name));
            let watched = wanted.watched.contains(name);
            if !listed && !watched {
                continue;
            }
            let last = self.last.entry(load.service.clone()).or_default();
            let news = load
                .members
                .iter()
                .any(|it| !last.told.contains_key(&it.member));
            let detail = match () {
                () if watched && watched_due => Some(Detail::Everything),
                () if all_due && wanted.endpoints => Some(Detail::Changed),
                () if all_due || news => Some(Detail::Members),
                () => None,
            };
            report
                .verdicts
                .extend(last.verdicts(load, sample.unix_millis));
            let stats = detail.and_then(|detail| last.stats(load, detail, now));
            report.cluster_stats.extend(stats);
        }
        if all_due {
            self.forget(sample);
            report.proxy = Some(sample.proxy.clone());
            // What has just started has its services a moment later.
            let nothing_yet = sample.services.iter().all(|load| load.members.is_empty());
            let interval = if nothing_yet {
                WATCHED_INTERVAL
            } else {
                wanted.interval
            };
            self.next_all = now + interval;
        }
        if watched_due {
            let any = !wanted.watched.is_empty();
            self.next_watched = if any {
                now + WATCHED_INTERVAL
            } else {
                Tick::MAX
            };
        }
        (report != LoadStatsRequest::default()).then_some(report)
    }

    /// Drops what is no longer there.
    fn forget(&mut self, sample: &Sample) {
        let there: BTreeSet<&ServiceName> = sample.services.iter().map(|it| &it.service).collect();
        self.last.retain(|service, _| there.contains(service));
        for load in &sample.services {
            let there: BTreeSet<(&MemberName, SocketAddr)> = load
                .members
                .iter()
                .flat_map(|it| it.endpoints.iter().map(|row| (&it.member, row.addr)))
                .collect();
            if let Some(last) = self.last.get_mut(&load.service) {
                last.endpoints
                    .retain(|(member, addr), _| there.contains(&(member, *addr)));
            }
        }
    }
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

// === impl LastService ===

impl LastService {
    /// The verdicts that have changed.
    fn verdicts(&mut self, load: &ServiceLoad, unix_millis: u64) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for member in &load.members {
            for endpoint in &member.endpoints {
                let row = self.row(&member.member, endpoint.addr);
                if row.verdict == Some(endpoint.verdict) {
                    continue;
                }
                if row.verdict.is_some() || row.since_unix_millis == 0 {
                    row.since_unix_millis = unix_millis;
                }
                row.verdict = Some(endpoint.verdict);
                verdicts.push(Verdict {
                    service: load.service.as_str().to_owned(),
                    member: member.member.as_str().to_owned(),
                    address: Some(address(endpoint.addr, SocketProtocol::Tcp)),
                    kind: endpoint.verdict.into(),
                    reason: endpoint.reason.clone(),
                    since_unix_millis: row.since_unix_millis,
                });
            }
        }
        verdicts
    }

    /// What has happened since the last call; `None` for nothing. On a new stream an idle member is
    /// news, too.
    fn stats(&mut self, load: &ServiceLoad, detail: Detail, now: Tick) -> Option<ClusterStats> {
        let dropped = load.dropped.wrapping_sub(self.dropped);
        let mut stats = ClusterStats {
            cluster_name: load.service.as_str().to_owned(),
            total_dropped_requests: dropped,
            load_report_interval: duration(now - self.at),
            ..ClusterStats::default()
        };
        for member in &load.members {
            let member_stats = self.member_stats(member, detail, load.datagrams);
            stats.upstream_locality_stats.extend(member_stats);
        }
        stats.upstream_locality_stats.extend(self.gone(load));
        (self.at, self.dropped) = (now, load.dropped);
        let silent = stats.upstream_locality_stats.is_empty() && dropped == 0;
        (!silent).then_some(stats)
    }

    fn member_stats(
        &mut self,
        load: &MemberLoad,
        detail: Detail,
        datagrams: bool,
    ) -> Option<UpstreamLocalityStats> {
        let mut stats = UpstreamLocalityStats {
            locality: Some(member_locality(&load.member)),
            priority: load.tier,
            ..UpstreamLocalityStats::default()
        };
        let mut changed = detail == Detail::Everything;
        for endpoint in &load.endpoints {
            let row = self.row(&load.member, endpoint.addr);
            let sessions = u64::from(endpoint.sessions.wrapping_sub(row.sessions));
            let failed = u64::from(endpoint.failed.wrapping_sub(row.failed));
            let moved = sessions > 0 || failed > 0 || endpoint.active != row.active;
            (row.sessions, row.failed) = (endpoint.sessions, endpoint.failed);
            row.active = endpoint.active;
            let active = u64::from(endpoint.active);
            stats.total_successful_requests += sessions;
            stats.total_new_connections += sessions;
            stats.total_issued_requests += sessions;
            stats.total_error_requests += failed;
            stats.total_fail_connections += failed;
            stats.total_requests_in_progress += active;
            if !datagrams {
                stats.total_active_connections += active;
            }
            changed |= moved;
            if detail == Detail::Everything || (moved && detail == Detail::Changed) {
                stats.upstream_endpoint_stats.push(UpstreamEndpointStats {
                    address: Some(address(endpoint.addr, SocketProtocol::Tcp)),
                    total_successful_requests: sessions,
                    total_issued_requests: sessions,
                    total_error_requests: failed,
                    total_requests_in_progress: active,
                    metadata: None,
                });
            }
        }
        // Also what an endpoint that is gone took along.
        let active = stats.total_requests_in_progress;
        let told = self.told.insert(load.member.clone(), active);
        changed |= told != Some(active);
        changed.then_some(stats)
    }

    /// Members that are not there any more: nothing is live on them.
    fn gone(&mut self, load: &ServiceLoad) -> Vec<UpstreamLocalityStats> {
        let is_gone =
            |member: &MemberName| !load.members.iter().any(|there| there.member == *member);
        let gone = self.told.extract_if(.., |member, _| is_gone(member));
        let stats =
            gone.filter(|(_, active)| *active > 0)
                .map(|(member, _)| UpstreamLocalityStats {
                    locality: Some(member_locality(&member)),
                    ..UpstreamLocalityStats::default()
                });
        stats.collect()
    }

    fn row(&mut self, member: &MemberName, addr: SocketAddr) -> &mut LastEndpoint {
        let key = (member.clone(), addr);
        self.endpoints.entry(key).or_insert(LastEndpoint {
            active: 0,
            sessions: 0,
            failed: 0,
            verdict: None,
            since_unix_millis: 0,
        })
    }
}

fn duration(value: Duration) -> Option<fairlead_config::xds::proto::Duration> {
    Some(fairlead_config::xds::proto::Duration {
        seconds: i64::try_from(value.as_secs()).ok()?,
        nanos: i32::try_from(value.subsec_nanos()).ok()?,
    })
}

/// Of services under drain, run or watch.
const WATCHED_INTERVAL: Duration = Duration::from_secs(1);
/// Of the others, where the control plane says nothing else.
const INTERVAL: Duration = Duration::from_secs(10);
/// A proxy that is silent for longer counts as lost.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
