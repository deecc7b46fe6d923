//! The proxies that are connected, what they run on, and what they report.
//!
//! Reports come over LRS: levels of live sessions per service and member, verdicts on endpoints, the
//! state of the proxy. What they add up to goes into statuses: sessions of a member over all
//! proxies, known only when every live proxy has reported lately; a proxy not heard from is
//! "unknown", never idle.

#[cfg(test)]
mod tests;

mod handed;

pub use handed::Source;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    proxy::{ProxyGroup, ProxyGroupStatus, ProxyStatus, Refusal},
};
use fairlead_config::{
    name::{MemberName, ServiceName},
    xds::{
        chunks,
        proto::{
            core::{AddressKind, Port},
            fairlead::{ProxyState, Verdict, VerdictKind},
            load_stats::{LoadStatsRequest, LoadStatsResponse},
        },
    },
};
use fairlead_runtime::clock::Tick;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    board::Board,
    world::{GroupName, Load, ServiceKey},
};

/// A proxy: its group, and its node id in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyId {
    /// Its group, from its identity.
    pub group: String,
    /// What it calls itself.
    pub node: String,
}

/// Every proxy heard of.
#[derive(Debug, Default)]
pub struct Fleet {
    proxies: BTreeMap<ProxyId, Proxy>,
    dirty_groups: BTreeSet<String>,
    dirty_services: BTreeSet<ServiceKey>,
    /// Services of which only the number of sessions changed: that can wait.
    dirty_loads: BTreeSet<ServiceKey>,
    /// Groups of whose proxies only the number of sessions changed: that can wait as long.
    group_loads: BTreeSet<String>,
    loads_taken: Tick,
    /// The proxies that were not heard from at the last sweep.
    silent: BTreeSet<ProxyId>,
}

#[derive(Debug, Clone, Default)]
struct Proxy {
    version: String,
    streams: u32,
    /// The hash acknowledged last, and whether that is all it was sent.
    applied: Option<String>,
    settled: bool,
    refused: Vec<Refusal>,
    reported: Option<(Tick, Time)>,
    /// The number of sessions that was news last, and when it was.
    told: Option<(u64, Tick)>,
    state: ProxyState,
    sessions: BTreeMap<(ServiceName, MemberName), u64>,
    verdicts: BTreeMap<(ServiceName, MemberName, String), (VerdictKind, String)>,
    gone_since: Option<Tick>,
    /// An earlier leader knew it: since when this one waits to hear of it.
    expected: Option<Tick>,
}

/// What a proxy says of an endpoint, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointVerdict {
    /// Who says so.
    pub proxy: ProxyId,
    /// The service's port.
    pub service: ServiceName,
    /// Of whom.
    pub member: MemberName,
    /// Which endpoint.
    pub address: String,
    /// What.
    pub kind: VerdictKind,
    /// Why.
    pub reason: String,
}

/// What was heard of proxies, as statuses need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Of services.
    pub loads: Vec<(ServiceKey, BTreeMap<MemberName, Load>)>,
    /// Of the same services.
    pub refusals: Vec<(ServiceKey, Vec<String>)>,
    /// Groups whose proxies came, went or moved on.
    pub groups: BTreeSet<String>,
}

impl Fleet {
    /// A proxy opened its configuration stream.
    pub fn connected(&mut self, id: &ProxyId, version: &str) {
        let proxy = self.proxies.entry(id.clone()).or_default();
        proxy.streams += 1;
        proxy.gone_since = None;
        proxy.expected = None;
        version.clone_into(&mut proxy.version);
        self.dirty_groups.insert(id.group.clone());
    }

    /// An earlier leader knew of a proxy. Until this one hears of it, or has waited for long enough,
    /// its sessions are unknown and it counts as connected.
    pub fn expect(&mut self, id: &ProxyId, version: &str, now: Tick) {
        if !self.proxies.contains_key(id) {
            let proxy = Proxy {
                version: version.to_owned(),
                expected: Some(now),
                ..Proxy::default()
            };
            self.proxies.insert(id.clone(), proxy);
            self.dirty_groups.insert(id.group.clone());
        }
    }

    /// It closed it.
    pub fn disconnected(&mut self, id: &ProxyId, now: Tick) {
        if let Some(proxy) = self.proxies.get_mut(id) {
            proxy.streams = proxy.streams.saturating_sub(1);
            if proxy.streams == 0 {
                proxy.gone_since = Some(now);
            }
            self.dirty_groups.insert(id.group.clone());
        }
    }

    /// It answered an update. Says whether that is news.
    pub fn answered(
        &mut self,
        id: &ProxyId,
        applied: Option<&str>,
        settled: bool,
        refused: Vec<Refusal>,
    ) -> bool {
        let Some(proxy) = self.proxies.get_mut(id) else {
            return false;
        };
        let applied = applied.map(str::to_owned);
        if proxy.applied == applied && proxy.settled == settled && proxy.refused == refused {
            return false;
        }
        for refusal in proxy.refused.iter().chain(&refused) {
            self.dirty_services.extend(services_in(&refusal.reason));
            self.dirty_services.extend(services_in(&refusal.resource));
        }
        proxy.applied = applied;
        proxy.settled = settled;
        proxy.refused = refused;
        self.dirty_groups.insert(id.group.clone());
        true
    }

    /// It reported. The first report of a stream replaces all that was known; one that only names
    /// the proxy leaves that unknown until the next.
    pub fn reported(
        &mut self,
        id: &ProxyId,
        report: &LoadStatsRequest,
        first: bool,
        now: Tick,
        time: &Time,
    ) {
        let proxy = self.proxies.entry(id.clone()).or_default();
        if proxy.reported.is_none() || first {
            self.dirty_groups.insert(id.group.clone());
        }
        let names_only = first
            && report.proxy.is_none()
            && report.cluster_stats.is_empty()
            && report.verdicts.is_empty();
        proxy.reported = (!names_only).then(|| (now, time.clone()));
        proxy.expected = None;
        if let Some(state) = &report.proxy {
            if !state.version.is_empty() && proxy.version != state.version {
                proxy.version.clone_from(&state.version);
                self.dirty_groups.insert(id.group.clone());
            }
            proxy.state = state.clone();
        }
        let level = proxy.state.sessions + proxy.state.flows;
        let told = proxy.told.filter(|(_, at)| now.since(*at) < RETOLD_AFTER);
        if told.map(|(level, _)| level) != Some(level) {
            proxy.told = Some((level, now));
            self.group_loads.insert(id.group.clone());
        }
        if first {
            self.dirty_services
                .extend(proxy.verdicts.keys().map(|(service, ..)| key_of(service)));
            self.dirty_services
                .extend(proxy.sessions.keys().map(|(service, _)| key_of(service)));
            proxy.verdicts.clear();
            proxy.sessions.clear();
        }
        for stats in &report.cluster_stats {
            let Ok(service) = ServiceName::parse(&stats.cluster_name) else {
                continue;
            };
            for locality in &stats.upstream_locality_stats {
                let region = locality.locality.as_ref().map(|one| one.region.as_str());
                let Some(Ok(member)) = region.map(MemberName::parse) else {
                    continue;
                };
                // Flows move by themselves: nobody waits for them.
                let active = locality.total_active_connections;
                let at = (service.clone(), member);
                match proxy.sessions.insert(at, active) {
                    Some(old) if old == active => {}
                    // The first report and the end of the last session are news.
                    Some(_) if active > 0 => drop(self.dirty_loads.insert(key_of(&service))),
                    _ => drop(self.dirty_services.insert(key_of(&service))),
                }
            }
        }
        for verdict in &report.verdicts {
            if let Some(service) = proxy.judge(verdict) {
                self.dirty_services.insert(key_of(&service));
            }
        }
    }

    /// Forgets proxies that have been gone for long, and looks who has fallen silent since the last
    /// sweep: what is known of sessions changes with that. O(proxies).
    pub fn sweep(&mut self, now: Tick) {
        let dirty = &mut self.dirty_groups;
        self.proxies.retain(|id, proxy| {
            let heard = proxy
                .expected
                .is_none_or(|since| now.since(since) < STALE_AFTER);
            let keep = heard
                && proxy
                    .gone_since
                    .is_none_or(|since| now.since(since) < FORGOTTEN_AFTER);
            if !keep {
                dirty.insert(id.group.clone());
            }
            keep
        });
        let all = self.proxies.iter();
        let silent = all.filter(|(_, proxy)| !proxy.is_fresh(now) && !proxy.has_left());
        let silent: BTreeSet<ProxyId> = silent.map(|(id, _)| id.clone()).collect();
        if self.silent != silent {
            self.silent = silent;
            let reported = self
                .proxies
                .values()
                .flat_map(|proxy| proxy.sessions.keys());
            self.dirty_services
                .extend(reported.map(|(service, _)| key_of(service)));
        }
    }

    /// Marks a group whose published state moved.
    pub fn touch(&mut self, group: &str) {
        if self.proxies.keys().any(|id| id.group == group) {
            self.dirty_groups.insert(group.to_owned());
        }
    }

    /// Groups and services whose status has to be looked at. A mere number of sessions is looked at
    /// every 10 s, but at once for services that are `watched`.
    pub fn take_dirty(
        &mut self,
        watched: &BTreeSet<ServiceKey>,
        now: Tick,
    ) -> (BTreeSet<String>, BTreeSet<ServiceKey>) {
        let mut services = std::mem::take(&mut self.dirty_services);
        let mut groups = std::mem::take(&mut self.dirty_groups);
        if now.since(self.loads_taken) >= LOADS_EVERY {
            self.loads_taken = now;
            services.append(&mut self.dirty_loads);
            groups.append(&mut self.group_loads);
        } else {
            let urgent = self.dirty_loads.extract_if(.., |key| watched.contains(key));
            services.extend(urgent);
        }
        (groups, services)
    }

    /// An earlier leader knew the proxies in these statuses: other replicas will hand them on.
    pub fn expect_all(&mut self, groups: &BTreeMap<GroupName, Arc<ProxyGroup>>, now: Tick) {
        for (name, group) in groups {
            let status = group.status.iter();
            let proxies = status.flat_map(|status| &status.proxies);
            for proxy in proxies.filter(|proxy| proxy.connected) {
                let id = ProxyId {
                    group: name.to_string(),
                    node: proxy.id.clone(),
                };
                self.expect(&id, &proxy.version, now);
            }
        }
    }

    /// What statuses have to be decided anew by, of all that was heard since the last call.
    /// `published` is what the board told each group then.
    pub fn gather(
        &mut self,
        board: &Board,
        published: &mut BTreeMap<String, String>,
        now: Tick,
    ) -> Gathered {
        let hashes = board.hashes();
        self.sweep(now);
        for (group, hash) in &hashes {
            if published.get(group) != Some(hash) {
                self.touch(group);
            }
        }
        *published = hashes;
        let (groups, services) = self.take_dirty(&board.watched_services(), now);
        let loads = services.iter().map(|key| {
            let loads = self.loads(key, |group| board.serves(group, key), now);
            (key.clone(), loads)
        });
        Gathered {
            loads: loads.collect(),
            refusals: services
                .iter()
                .map(|key| (key.clone(), self.refusals(key)))
                .collect(),
            groups,
        }
    }

    /// What all proxies say of a service, by member. `serves` tells the groups that serve it: only
    /// their silence makes the number of sessions unknown.
    pub fn loads(
        &self,
        key: &ServiceKey,
        serves: impl Fn(&str) -> bool,
        now: Tick,
    ) -> BTreeMap<MemberName, Load> {
        let mut loads: BTreeMap<MemberName, Load> = BTreeMap::new();
        let mut unknown = false;
        for (id, proxy) in &self.proxies {
            let fresh = proxy.is_fresh(now);
            if proxy.has_left() && !fresh {
                continue;
            }
            unknown |= !fresh && serves(&id.group);
            for ((service, member), active) in &proxy.sessions {
                if is_of(service, key) {
                    let load = loads.entry(member.clone()).or_default();
                    load.active = Some(load.active.unwrap_or(0) + active);
                }
            }
            for ((service, member, _), (kind, _)) in &proxy.verdicts {
                if !is_of(service, key) {
                    continue;
                }
                let load = loads.entry(member.clone()).or_default();
                match kind {
                    VerdictKind::Healthy => load.healthy += 1,
                    VerdictKind::ProbeFailed | VerdictKind::Ejected | VerdictKind::Suspect => {
                        load.unhealthy += 1;
                    }
                    _ => {}
                }
            }
        }
        if unknown {
            for load in loads.values_mut() {
                load.active = None;
            }
        }
        loads
    }

    /// What proxies refuse of a service.
    pub fn refusals(&self, key: &ServiceKey) -> Vec<String> {
        let mut all = Vec::new();
        for (id, proxy) in &self.proxies {
            for refusal in &proxy.refused {
                let text = format!("{} {}", refusal.resource, refusal.reason);
                if services_in(&text).contains(key) {
                    let ProxyId { group, node } = id;
                    all.push(format!(
                        "proxy {node} of {group} refuses: {}",
                        refusal.reason
                    ));
                }
            }
        }
        all
    }

    /// Every verdict on the endpoints of a service.
    pub fn verdicts(&self, key: &ServiceKey) -> Vec<EndpointVerdict> {
        let mut all = Vec::new();
        for (id, proxy) in &self.proxies {
            for ((service, member, address), (kind, reason)) in &proxy.verdicts {
                if is_of(service, key) {
                    all.push(EndpointVerdict {
                        proxy: id.clone(),
                        service: service.clone(),
                        member: member.clone(),
                        address: address.clone(),
                        kind: *kind,
                        reason: reason.clone(),
                    });
                }
            }
        }
        all
    }

    /// The status of a group, apart from its ports. `published` is the hash of what it should run
    /// on.
    pub fn status(
        &self,
        group: &str,
        published: Option<&str>,
        old: &ProxyGroupStatus,
        now: &Time,
    ) -> ProxyGroupStatus {
        let all = self.proxies.iter().filter(|(id, _)| id.group == group);
        let proxies: Vec<ProxyStatus> = all.map(|(id, proxy)| proxy.status(id)).collect();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let connected = proxies.iter().filter(|proxy| proxy.connected).count();
        let in_sync = proxies
            .iter()
            .filter(|proxy| proxy.connected && proxy.applied_hash.as_deref() == published)
            .count();
        let refusals: Vec<String> = proxies
            .iter()
            .flat_map(|proxy| {
                let refused = proxy.refused.iter();
                refused.map(|one| format!("{}: {}: {}", proxy.id, one.resource, one.reason))
            })
            .collect();
        let ready = if connected > 0 {
            Wanted::yes(
                kind::READY,
                reason::READY,
                format!("{connected} proxies connected"),
            )
        } else {
            Wanted::no(
                kind::READY,
                reason::NO_PROXIES,
                "no proxy is connected; start one with a token of `fairlead proxy token`",
            )
        };
        let programmed = if refusals.is_empty() {
            Wanted::yes(
                kind::PROGRAMMED,
                reason::APPLIED,
                "no proxy refuses anything",
            )
        } else {
            Wanted::no(kind::PROGRAMMED, reason::REFUSED, refusals.join("; "))
        };
        let conditions = conditions::set(&old.conditions, &[ready, programmed], None, now);
        ProxyGroupStatus {
            conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
            proxies,
            connected: number(connected),
            in_sync: number(in_sync),
            published_hash: published.map(str::to_owned),
            ..ProxyGroupStatus::default()
        }
    }
}

impl Proxy {
    fn is_fresh(&self, now: Tick) -> bool {
        let reported = self.reported.as_ref();
        reported.is_some_and(|(at, _)| now.since(*at) < STALE_AFTER)
    }

    /// One that said it leaves, and went, has no sessions any more.
    fn has_left(&self) -> bool {
        self.streams == 0 && self.state.leaving
    }

    /// The service whose verdicts changed, if any did.
    fn judge(&mut self, verdict: &Verdict) -> Option<ServiceName> {
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
        let at = (service.clone(), member, address);
        if kind == VerdictKind::Unknown {
            return self.verdicts.remove(&at).map(|_| service);
        }
        if self.verdicts.len() >= VERDICTS_MAX && !self.verdicts.contains_key(&at) {
            return None;
        }
        let new = (kind, verdict.reason.clone());
        let old = self.verdicts.insert(at, new);
        old.is_none_or(|(old, _)| old != kind).then_some(service)
    }

    fn status(&self, id: &ProxyId) -> ProxyStatus {
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

/// What is wanted of a proxy's reports: everything every ten seconds, and what is `watched` every
/// second.
pub fn wanted_reports(watched: &BTreeSet<String>) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: Vec::new(),
        load_reporting_interval: Some(fairlead_config::xds::proto::Duration {
            seconds: 10,
            nanos: 0,
        }),
        report_endpoint_granularity: false,
        send_all_clusters: true,
        watched: watched.iter().cloned().collect(),
    }
}

/// The fields of a group's status that are decided from its proxies, for a patch.
pub fn without_ports(status: &ProxyGroupStatus) -> Option<serde_json::Value> {
    let mut fields = serde_json::to_value(status).ok()?;
    let map = fields.as_object_mut()?;
    map.remove("frontends");
    map.remove("frontendCount");
    Some(fields)
}

fn key_of(service: &ServiceName) -> ServiceKey {
    let (namespace, name, _) = service.parts();
    ServiceKey::new(namespace, name)
}

fn is_of(service: &ServiceName, key: &ServiceKey) -> bool {
    let (namespace, name, _) = service.parts();
    namespace == &*key.namespace && name == &*key.name
}

/// The services that a refusal names: resources are called `namespace/name:port`.
fn services_in(text: &str) -> BTreeSet<ServiceKey> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | ';' | '(' | ')'));
    let names = words.filter_map(|word| {
        // A chunk is named after the service that it belongs to.
        let word = chunks::parts(word).map_or(word, |(assignment, _)| assignment);
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        ServiceName::parse(word).ok()
    });
    names.map(|name| key_of(&name)).collect()
}

/// How often a proxy's last report is stated while its sessions stay as many.
const RETOLD_AFTER: Duration = Duration::from_secs(60);
/// How often the number of sessions alone changes a status.
const LOADS_EVERY: Duration = Duration::from_secs(10);
/// Three reports of 10 s.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// How long a proxy that went stays in status.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Verdicts kept of one proxy; further ones only count in its own metrics.
const VERDICTS_MAX: usize = 200_000;
