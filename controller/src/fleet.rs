//! The proxies that are connected, what they run on, and what they report.
//!
//! Reports come over LRS: levels of live sessions per service and member, verdicts on endpoints, the
//! state of the proxy. What they add up to goes into statuses: sessions of a member over all
//! proxies, known only when every live proxy has reported lately; a proxy not heard from is
//! "unknown", never idle.

#[cfg(test)]
mod tests;

mod handed;
mod proxy;

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
            fairlead::VerdictKind,
            load_stats::{LoadStatsRequest, LoadStatsResponse},
        },
    },
};
use fairlead_runtime::clock::Tick;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use proxy::{Proxy, STALE_AFTER};

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
            self.proxies
                .insert(id.clone(), Proxy::expected(version, now));
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
        let news = proxy.take(report, first, now, time);
        if news.status {
            self.dirty_groups.insert(id.group.clone());
        }
        if news.level {
            self.group_loads.insert(id.group.clone());
        }
        self.dirty_services.extend(news.services);
        self.dirty_loads.extend(news.loads);
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
            let reported = self.proxies.values().flat_map(Proxy::with_sessions);
            self.dirty_services.extend(reported.cloned());
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
            for (member, active) in proxy.sessions_of(key) {
                let load = loads.entry(member.clone()).or_default();
                load.active = Some(load.active.unwrap_or(0) + active);
            }
            for ((_, member, _), (kind, _)) in proxy.verdicts_of(key) {
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
            for ((service, member, address), (kind, reason)) in proxy.verdicts_of(key) {
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

/// How often the number of sessions alone changes a status.
const LOADS_EVERY: Duration = Duration::from_secs(10);
/// How long a proxy that went stays in status.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
