//! Rows of a snapshot on their way into a view.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_config::{
    endpoint::Target,
    name::{MemberName, ServiceName},
    service::Service,
    snapshot::Endpoints,
};
use fairlead_runtime::clock::Tick;

use super::{Change, ChangeKind, Directory, Resolve, Served};
use crate::{
    balancer::tiers::Holds,
    health::{
        passive::{Census, Ejections, Passed},
        verdict::{Cause, Verdict},
    },
    registry::{
        EndpointState, Flags, Row, RowMember, ServiceId, WantedEndpoint, WantedMember, Withdrawn,
    },
};

/// A service's members in order of tiers, DNS names replaced by their addresses.
pub(super) fn wanted(
    service: &Service,
    endpoints: Option<&Endpoints>,
    resolve: Resolve<'_>,
) -> Vec<WantedMember> {
    let members = service.tiers.iter().flat_map(|tier| &tier.members);
    members
        .map(|member| WantedMember {
            name: member.name.clone(),
            endpoints: wanted_of_member(endpoints, &member.name, resolve),
        })
        .collect()
}

fn wanted_of_member(
    endpoints: Option<&Endpoints>,
    member: &MemberName,
    resolve: Resolve<'_>,
) -> Vec<WantedEndpoint> {
    let rows = endpoints.map_or(&[][..], |all| all.of_member(member));
    let mut wanted = Vec::with_capacity(rows.len());
    for row in rows {
        let mut add = |addr| {
            wanted.push(WantedEndpoint {
                addr,
                weight: row.weight,
                object: row.state,
            });
        };
        match &row.key.target {
            Target::Addr(addr) => add(*addr),
            Target::Dns { host, port } => {
                for ip in resolve(host) {
                    add((ip, *port).into());
                }
            }
        }
    }
    wanted
}

impl Directory {
    /// Takes over a service's row. What it takes away is left to [`Self::withdraw`].
    pub(super) fn put(
        &mut self,
        service: &Arc<Service>,
        wanted: Vec<WantedMember>,
        now: Tick,
    ) -> (ServiceId, Withdrawn) {
        let name = &service.name;
        let known = self.registry.service(name);
        let had_endpoints = known.is_some_and(|row| {
            row.members
                .iter()
                .any(|member| !member.endpoints.is_empty())
        });
        let synced = self.registry.sync(name, wanted);
        let id = self.registry.service(name).expect("synced above").state.id;
        let old = self.served.get(&id).map(|served| served.service.clone());
        let served = self
            .served
            .entry(id)
            .or_insert_with(|| Served::new(service.clone()));
        served.service = service.clone();
        if !had_endpoints {
            served.begun = now;
        }
        // While a service starts everybody is new, and nobody makes room for anybody.
        let starting = now.since(served.begun) < service.policy.slow_start;
        for endpoint in &synced.withdrawn.removed {
            served.forget(endpoint);
            self.probes.remove(endpoint);
        }
        self.sync_probes(id, old.as_deref(), service, now);
        for endpoint in &synced.added {
            self.set_link(endpoint);
            if !starting {
                self.ramp(id, endpoint, now);
            }
        }
        for endpoint in &synced.changed {
            self.ramp(id, endpoint, now);
        }
        for endpoint in synced.revived {
            // What its last sessions saw of it was its end.
            endpoint.clear_strikes();
            self.changes.push(Change {
                endpoint,
                service: service.clone(),
                kind: ChangeKind::Usable,
                at: now,
            });
        }
        self.dirty.insert(id);
        (id, synced.withdrawn)
    }

    /// Lets go of what [`Self::put`] took away, once the new view is there: sessions begun meanwhile
    /// find either what is leaving or what came in its stead.
    pub(super) fn withdraw(&mut self, id: ServiceId, withdrawn: &Withdrawn, now: Tick) {
        let Some(service) = self.served.get(&id).map(|served| served.service.clone()) else {
            return;
        };
        self.retire(&service, withdrawn, now);
        if !withdrawn.worse.is_empty() {
            self.dirty.insert(id);
        }
    }

    pub(super) fn remove(&mut self, name: &ServiceName, now: Tick) {
        let Some(id) = self.registry.service(name).map(|row| row.state.id) else {
            return;
        };
        let withdrawn = self.registry.remove(name).withdrawn;
        for endpoint in &withdrawn.removed {
            self.probes.remove(endpoint);
        }
        if let Some(served) = self.served.remove(&id) {
            if let Some(at) = served.deadline {
                self.deadlines.remove(&(at, id));
            }
            self.retire(&served.service, &withdrawn, now);
        }
        self.dirty.remove(&id);
    }

    fn retire(&mut self, service: &Arc<Service>, withdrawn: &Withdrawn, now: Tick) {
        withdrawn.show();
        for endpoint in &withdrawn.removed {
            endpoint.set_ramp(None);
            endpoint.clear_strikes();
            self.changes.push(Change {
                endpoint: endpoint.clone(),
                service: service.clone(),
                kind: ChangeKind::Removed,
                at: now,
            });
        }
        if !withdrawn.removed.is_empty() && self.sweep_at.is_none() {
            self.sweep_at = Some(now.after(SWEEP_EVERY));
        }
    }

    /// Probes every endpoint of the service, or none, as its row says now.
    fn sync_probes(
        &mut self,
        id: ServiceId,
        old: Option<&Service>,
        service: &Arc<Service>,
        now: Tick,
    ) {
        let was_checked = old.is_some_and(|old| old.policy.health_check.is_some());
        let is_checked = service.policy.health_check.is_some();
        if !was_checked && !is_checked {
            return;
        }
        let row = self.registry.service(&service.name).expect("synced before");
        let members: Vec<_> = row
            .members
            .iter()
            .map(|member| member.endpoints.clone())
            .collect();
        let endpoints = members
            .iter()
            .flat_map(|entries| entries.iter().map(|entry| &entry.state));
        if is_checked {
            self.probes.replace(service, id);
            for endpoint in endpoints {
                self.probes.add(endpoint, service, now);
                endpoint.change_flags(Flags::NONE, Flags::LINK_LOST);
            }
            return;
        }
        for endpoint in endpoints {
            self.probes.remove(endpoint);
            endpoint.change_flags(Flags::NONE, Flags::PROBE_DOWN.with(Flags::DEAD_HERE));
            self.set_link(endpoint);
        }
    }
}

impl Served {
    fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            begun: Tick::ZERO,
            holds: Holds::default(),
            ejections: Ejections::default(),
            suspicions: BTreeMap::new(),
            again: None,
            deadline: None,
            ramping: BTreeMap::new(),
            since: BTreeMap::new(),
        }
    }

    fn forget(&mut self, endpoint: &EndpointState) {
        self.ejections.remove(endpoint);
        self.ramping.remove(&endpoint.id);
        self.since.remove(&endpoint.id);
    }
}

/// What passive ejection has to respect.
pub(super) fn census(row: &Row, service: &Service) -> Census {
    let mut census = Census {
        all: 0,
        usable: 0,
        max_ejected: service.policy.passive.max_ejected,
    };
    for (member, counts) in members(row, service) {
        census.all += member.endpoints.len() as u32;
        if counts {
            let usable = member
                .endpoints
                .iter()
                .filter(|entry| entry.state.is_usable());
            census.usable += usable.count() as u32;
        }
    }
    census
}

/// Lets ejections end early where the cap or the last usable endpoint asks for it.
pub(super) fn enforce(row: &Row, served: &mut Served, now: Tick) -> Vec<Arc<EndpointState>> {
    if served.ejections.out() == 0 {
        return Vec::new();
    }
    let census = census(row, &served.service);
    let mut would_do = BTreeSet::new();
    for (member, counts) in members(row, &served.service) {
        let only_ejected = member.endpoints.iter().filter(|entry| {
            let Flags(flags) = entry.state.flags();
            counts && Flags(flags & !Flags::EJECTED.0).is_usable()
        });
        would_do.extend(only_ejected.map(|entry| entry.state.id));
    }
    let stands = |endpoint: &EndpointState| would_do.contains(&endpoint.id);
    let passed = served.ejections.enforce(census, now, stands);
    passed
        .into_iter()
        .filter_map(|passed| match passed {
            Passed::Returned(endpoint) => Some(endpoint),
            Passed::Ejected(_) | Passed::OnTrial(_) => None,
        })
        .collect()
}

/// The members of a row, and whether sessions may go there at all.
fn members<'a>(row: &'a Row, service: &'a Service) -> impl Iterator<Item = (&'a RowMember, bool)> {
    let first_only = service.policy.no_fallback;
    let configured = service
        .tiers
        .iter()
        .enumerate()
        .flat_map(move |(tier, members)| {
            let may_be_used = tier == 0 || !first_only;
            let members = members.members.iter();
            members.map(move |member| may_be_used && !member.weight.is_drain())
        });
    row.members.iter().zip(configured)
}

/// Compares how endpoints stand with how they stood before and tells the changes.
pub(super) fn note_changes(row: &Row, served: &mut Served, changes: &mut Vec<Change>, now: Tick) {
    let service = &served.service;
    let weights = service.tiers.iter().flat_map(|tier| &tier.members);
    for (member, configured) in row.members.iter().zip(weights) {
        for entry in &*member.endpoints {
            let endpoint = &entry.state;
            let kind = match Verdict::of(endpoint.flags()) {
                Verdict::Usable if configured.weight.is_drain() => ChangeKind::Draining,
                Verdict::Usable => ChangeKind::Usable,
                Verdict::Draining => ChangeKind::Draining,
                Verdict::Down(Cause::Removed) => ChangeKind::Removed,
                verdict @ Verdict::Down(_) => ChangeKind::Unhealthy(verdict),
            };
            let before = served.since.get(&endpoint.id);
            if before.map_or(ChangeKind::Usable, |&(kind, _)| kind) == kind {
                continue;
            }
            if kind == ChangeKind::Usable {
                served.since.remove(&endpoint.id);
            } else {
                served.since.insert(endpoint.id, (kind, now));
            }
            changes.push(Change {
                endpoint: endpoint.clone(),
                service: service.clone(),
                kind,
                at: now,
            });
        }
    }
}

/// Removed endpoints that may be known beyond those that something holds: 64 kB of them.
pub(super) const LEAVING_SLACK: usize = 256;
/// How often removed endpoints that something still holds are looked at.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(1);
