//! What is known of one proxy.
//!
//! Sessions and verdicts are kept by service, so that a service's status costs what concerns it and
//! not what the proxy serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fairlead_api::proxy::{ProxyStatus, Refusal};
use fairlead_config::{
    name::{MemberName, ServiceName},
    xds::proto::{
        core::{AddressKind, Port},
        fairlead::{ProxyState, Verdict, VerdictKind},
        load_stats::LoadStatsRequest,
    },
};
use fairlead_runtime::clock::Tick;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::world::ServiceKey;

use super::{ProxyId, key_of};

#[derive(Debug, Clone, Default)]
pub(super) struct Proxy {
    pub(super) version: String,
    /// Open configuration streams.
    pub(super) streams: u32,
    /// The hash acknowledged last, and whether that is all it was sent.
    pub(super) applied: Option<String>,
    pub(super) settled: bool,
    pub(super) refused: Vec<Refusal>,
    pub(super) reported: Option<(Tick, Time)>,
    /// The number of sessions that was news last, and when it was.
    told: Option<(u64, Tick)>,
    pub(super) state: ProxyState,
    pub(super) sessions: BTreeMap<ServiceKey, BTreeMap<(ServiceName, MemberName), u64>>,
    pub(super) verdicts: BTreeMap<ServiceKey, Verdicts>,
    /// How many there are, over all services.
    pub(super) verdicts_held: usize,
    pub(super) gone_since: Option<Tick>,
    /// An earlier leader knew it: since when this one waits to hear of it.
    pub(super) expected: Option<Tick>,
}

/// By the service's port, member and address: what, and why.
pub(super) type Verdicts = BTreeMap<(ServiceName, MemberName, String), (VerdictKind, String)>;

/// What a report changed.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The proxy's own status.
    pub(super) status: bool,
    /// Its number of sessions.
    pub(super) level: bool,
    /// What is known of these services.
    pub(super) services: BTreeSet<ServiceKey>,
    /// Only the number of sessions of these.
    pub(super) loads: BTreeSet<ServiceKey>,
}

impl Proxy {
    /// One that an earlier leader knew.
    pub(super) fn expected(version: &str, now: Tick) -> Self {
        Self {
            version: version.to_owned(),
            expected: Some(now),
            ..Self::default()
        }
    }

    /// Takes a report in. The first one of a stream replaces all that was known; one that only names
    /// the proxy leaves that unknown until the next.
    pub(super) fn take(
        &mut self,
        report: &LoadStatsRequest,
        first: bool,
        now: Tick,
        time: &Time,
    ) -> News {
        let mut news = News {
            status: self.reported.is_none() || first,
            ..News::default()
        };
        let names_only = first
            && report.proxy.is_none()
            && report.cluster_stats.is_empty()
            && report.verdicts.is_empty();
        self.reported = (!names_only).then(|| (now, time.clone()));
        self.expected = None;
        if let Some(state) = &report.proxy {
            if !state.version.is_empty() && self.version != state.version {
                self.version.clone_from(&state.version);
                news.status = true;
            }
            self.state = state.clone();
        }
        let level = self.state.sessions + self.state.flows;
        let told = self.told.filter(|(_, at)| now.since(*at) < RETOLD_AFTER);
        if told.map(|(level, _)| level) != Some(level) {
            self.told = Some((level, now));
            news.level = true;
        }
        if first {
            news.services.extend(self.verdicts.keys().cloned());
            news.services.extend(self.sessions.keys().cloned());
            self.verdicts.clear();
            self.verdicts_held = 0;
            self.sessions.clear();
        }
        self.count(report, &mut news);
        let judged = report.verdicts.iter();
        news.services
            .extend(judged.filter_map(|verdict| self.judge(verdict)));
        news
    }

    /// Takes the levels of sessions of a report. Flows move by themselves: nobody waits for them.
    fn count(&mut self, report: &LoadStatsRequest, news: &mut News) {
        for stats in &report.cluster_stats {
            let Ok(service) = ServiceName::parse(&stats.cluster_name) else {
                continue;
            };
            let key = key_of(&service);
            for locality in &stats.upstream_locality_stats {
                let region = locality.locality.as_ref().map(|one| one.region.as_str());
                let Some(Ok(member)) = region.map(MemberName::parse) else {
                    continue;
                };
                let active = locality.total_active_connections;
                let of_service = self.sessions.entry(key.clone()).or_default();
                match of_service.insert((service.clone(), member), active) {
                    Some(old) if old == active => {}
                    // The first report and the end of the last session are news.
                    Some(_) if active > 0 => drop(news.loads.insert(key.clone())),
                    _ => drop(news.services.insert(key.clone())),
                }
            }
        }
    }

    /// The service of which a verdict changed, if one did.
    fn judge(&mut self, verdict: &Verdict) -> Option<ServiceKey> {
        let service = ServiceName::parse(&verdict.service).ok()?;
        let member = MemberName::parse(&verdict.member).ok()?;
        let address = match verdict.address.as_ref()?.address.as_ref()? {
            AddressKind::Socket(socket) => match socket.port.as_ref()? {
                Port::Value(port) => format!("{}:{port}", socket.address),
                Port::Named(name) => format!("{}:{name}", socket.address),
            },
            AddressKind::Pipe(_) => return None,
        };
        let kind = verdict.kind();
        let key = key_of(&service);
        let at = (service, member, address);
        if kind == VerdictKind::Unknown {
            let of_service = self.verdicts.get_mut(&key)?;
            of_service.remove(&at)?;
            self.verdicts_held -= 1;
            if of_service.is_empty() {
                self.verdicts.remove(&key);
            }
            return Some(key);
        }
        let of_service = self.verdicts.get(&key);
        let is_known = of_service.is_some_and(|of| of.contains_key(&at));
        if self.verdicts_held >= VERDICTS_MAX && !is_known {
            return None;
        }
        self.verdicts_held += usize::from(!is_known);
        let of_service = self.verdicts.entry(key.clone()).or_default();
        let old = of_service.insert(at, (kind, verdict.reason.clone()));
        old.is_none_or(|(old, _)| old != kind).then_some(key)
    }

    /// Whether it has reported lately.
    pub(super) fn is_fresh(&self, now: Tick) -> bool {
        let reported = self.reported.as_ref();
        reported.is_some_and(|(at, _)| now.since(*at) < STALE_AFTER)
    }

    /// One that said it leaves, and went, has no sessions any more.
    pub(super) fn has_left(&self) -> bool {
        self.streams == 0 && self.state.leaving
    }

    /// The services whose sessions it has reported.
    pub(super) fn with_sessions(&self) -> impl Iterator<Item = &ServiceKey> {
        self.sessions.keys()
    }

    /// Its live sessions of a service, member by member, port by port.
    pub(super) fn sessions_of(&self, key: &ServiceKey) -> impl Iterator<Item = (&MemberName, u64)> {
        let all = self.sessions.get(key).into_iter().flatten();
        all.map(|((_, member), active)| (member, *active))
    }

    /// Its verdicts on the endpoints of a service.
    pub(super) fn verdicts_of(
        &self,
        key: &ServiceKey,
    ) -> impl Iterator<Item = (&(ServiceName, MemberName, String), &(VerdictKind, String))> {
        self.verdicts.get(key).into_iter().flatten()
    }

    pub(super) fn status(&self, id: &ProxyId) -> ProxyStatus {
        let sessions = self.state.sessions + self.state.flows;
        ProxyStatus {
            id: id.node.clone(),
            version: self.version.clone(),
            connected: self.streams > 0 || self.expected.is_some(),
            applied_hash: self.applied.clone().filter(|_| self.settled),
            as_of: (self.state.as_of > 0).then(|| self.state.as_of.to_string()),
            last_report: self.reported.as_ref().map(|(_, time)| time.clone()),
            sessions: self
                .reported
                .as_ref()
                .and_then(|_| i64::try_from(sessions).ok()),
            refused: self.refused.clone(),
        }
    }
}

/// How often a proxy's last report is stated while its sessions stay as many.
const RETOLD_AFTER: Duration = Duration::from_secs(60);
/// Three reports of 10 s.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(30);
/// Verdicts kept of one proxy; further ones only count in its own metrics.
const VERDICTS_MAX: usize = 200_000;
