//! What everybody is told, as decided so far: plans laid on top of each other, encoded.
//!
//! A board holds one [`Table`] of resources per proxy group, one of the endpoints of all services, and
//! two of imports for the agents: with endpoints, for members that no proxy serves, and without. A
//! resource's version is the hash of its content, equal on every replica; a row that comes out the
//! same is not touched.
//!
//! Endpoints are the same for every group, and most of all there is to tell: they are held once, cut
//! into chunks ([`fairlead_config::xds::chunks`]). An assignment names its chunks; one with everything
//! in it is put together only for clients that don't take chunks.
//!
//! Each table knows what changed at which revision, so a stream that is nearly up to date looks at
//! those names only. A change of one endpoint costs O(pointers to the service's endpoints), one chunk,
//! and O(groups) additions for the hashes of what they are told.

mod encoder;
mod shelves;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_config::{
    frontend::Frontend,
    name::{FrontendName, ServiceName},
    service::Service,
    snapshot::{Endpoints, Snapshot},
    xds::{
        envelope::{Stamp, seal},
        listeners,
        proto::fairlead::{Import, ImportType},
    },
};

use encoder::Encoder;
pub use fairlead_config::xds::Type;
use shelves::Shelves;
pub use table::{Resource, Table};

use crate::{
    distribute::Rows,
    plan::Plan,
    world::{GroupName, ServiceKey},
};

/// Everything told to anybody.
#[derive(Debug, Default)]
pub struct Board {
    groups: BTreeMap<GroupName, Group>,
    shelves: Shelves,
    imports: Table,
    full_imports: Table,
    watched: BTreeMap<ServiceKey, Vec<String>>,
    encoder: Encoder,
    revision: u64,
    epoch: String,
    as_of: u64,
}

#[derive(Debug, Default)]
struct Group {
    rows: BTreeMap<ServiceKey, Rows>,
    /// Frontends of one address and port share a Listener, whatever their service.
    listeners: BTreeMap<String, BTreeMap<FrontendName, Frontend>>,
    table: Table,
    served_since: u64,
}

impl Board {
    /// A board for a store of this epoch.
    pub fn new(epoch: String) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }

    /// Lays a plan on top, decided from objects up to resourceVersion `as_of`. Says whether
    /// anything changed.
    pub fn apply(&mut self, plan: &Plan, as_of: u64) -> bool {
        let before = self.revision;
        self.as_of = as_of;
        self.revision += 1;
        let mut encoder = std::mem::take(&mut self.encoder);
        encoder.start(Stamp {
            as_of,
            epoch: self.epoch.clone(),
        });
        self.shelves.restamp(encoder.stamp());
        let mut changed = false;
        for (key, service) in &plan.services {
            changed |= self.put_import(key, service.import.as_deref(), encoder.stamp());
            let old = match service.watched.is_empty() {
                true => self.watched.remove(key).unwrap_or_default(),
                false => {
                    let new = service.watched.clone();
                    self.watched.insert(key.clone(), new).unwrap_or_default()
                }
            };
            changed |= old != service.watched;
            let names: BTreeSet<GroupName> = self
                .groups
                .iter()
                .filter(|(_, group)| group.rows.contains_key(key))
                .map(|(name, _)| name)
                .chain(service.rows.keys())
                .cloned()
                .collect();
            for name in names {
                let rows = service.rows.get(&name).cloned().unwrap_or_default();
                changed |= self.put(&name, key, rows, &mut encoder);
            }
        }
        for (name, rows) in &plan.groups {
            let planned = plan.services.keys().collect();
            changed |= self.replace_group(name, rows, &planned, &mut encoder);
        }
        for name in &plan.gone {
            let group = self.groups.get(name);
            let keys: Vec<ServiceKey> = group
                .map(|group| group.rows.keys().cloned().collect())
                .unwrap_or_default();
            for key in keys {
                changed |= self.put(name, &key, Rows::default(), &mut encoder);
            }
        }
        self.encoder = encoder;
        if !changed {
            self.revision = before;
        }
        changed
    }

    /// The epoch that resources are stamped with.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Another epoch has begun, in a store at `as_of`: what is decided from now on is stamped with it.
    pub fn begin(&mut self, epoch: String, as_of: u64) {
        self.epoch = epoch;
        self.as_of = as_of;
    }

    /// The resourceVersion that the last plan was decided at.
    pub fn as_of(&self) -> u64 {
        self.as_of
    }

    /// Moves with each change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What the proxies of a group are told.
    pub fn group(&self, name: &str) -> Option<&Table> {
        self.groups.get(name).map(|group| &group.table)
    }

    /// The endpoints of all services: chunks, for those that their assignments say.
    pub fn chunks(&self) -> &Table {
        self.shelves.table()
    }

    /// The imports, for agents: with endpoints where no proxy serves the member.
    pub fn imports(&self, with_endpoints: bool) -> &Table {
        if with_endpoints {
            &self.full_imports
        } else {
            &self.imports
        }
    }

    /// The snapshot that a group's proxies come to.
    pub fn snapshot(&self, group: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let group = self.groups.get(group);
        for rows in group.into_iter().flat_map(|group| group.rows.values()) {
            for frontend in &rows.frontends {
                let row = (frontend.name.clone(), Arc::new(frontend.clone()));
                snapshot.frontends.insert(row.0, row.1);
            }
            for service in &rows.services {
                let name = service.name.clone();
                snapshot.services.insert(name, Arc::clone(service));
            }
            for (name, endpoints) in &rows.endpoints {
                let endpoints = Arc::clone(endpoints);
                snapshot.endpoints.insert(name.clone(), endpoints);
            }
        }
        snapshot
    }

    /// The hash of each group.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let all = self.groups.iter();
        all.map(|(name, group)| (name.to_string(), group.table.hash()))
            .collect()
    }

    /// Services of which some member is to take less than its weight, by the names of their ports:
    /// proxies report on these every second.
    pub fn watched(&self) -> BTreeSet<String> {
        self.watched.values().flatten().cloned().collect()
    }

    /// The services of [`Self::watched`].
    pub fn watched_services(&self) -> BTreeSet<ServiceKey> {
        self.watched.keys().cloned().collect()
    }

    /// The revision at which a group last came to serve a service, or ceased to.
    pub fn served_since(&self, group: &str) -> u64 {
        self.groups.get(group).map_or(0, |group| group.served_since)
    }

    /// Whether a group is told of a service.
    pub fn serves(&self, group: &str, key: &ServiceKey) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|group| group.rows.contains_key(key))
    }

    /// The content of a group as one hash: equal on every replica that decided the same.
    pub fn hash(&self, group: &str) -> Option<String> {
        self.groups.get(group).map(|group| group.table.hash())
    }

    fn put_import(&mut self, key: &ServiceKey, import: Option<&Import>, stamp: &Stamp) -> bool {
        let name = key.to_string();
        let revision = self.revision;
        let Some(import) = import else {
            let mut changed = self.imports.remove(Type::Import, &name, revision);
            changed |= self.full_imports.remove(Type::Import, &name, revision);
            return changed;
        };
        let full: Resource = seal(&name, import, stamp).into();
        let mut changed = false;
        if import.r#type() == ImportType::Headless || import.endpoints.is_empty() {
            changed |= self.imports.put(Type::Import, full.clone(), revision);
        } else {
            let bare = Import {
                endpoints: Vec::new(),
                ..import.clone()
            };
            let bare = seal(&name, &bare, stamp).into();
            changed |= self.imports.put(Type::Import, bare, revision);
        }
        changed | self.full_imports.put(Type::Import, full, revision)
    }

    fn put(
        &mut self,
        group_name: &GroupName,
        key: &ServiceKey,
        rows: Rows,
        encoder: &mut Encoder,
    ) -> bool {
        let revision = self.revision;
        let group = self.groups.entry(group_name.clone()).or_default();
        let none = Rows::default();
        let old = group.rows.get(key).unwrap_or(&none);
        if *old == rows {
            return false;
        }
        let mut listeners: BTreeSet<String> = BTreeSet::new();
        for frontend in &old.frontends {
            let name = listeners::listener_name(frontend);
            if let Some(of_name) = group.listeners.get_mut(&name) {
                of_name.remove(&frontend.name);
            }
            listeners.insert(name);
        }
        let mut gone = Vec::new();
        for service in &old.services {
            let name = service.name.as_str();
            if !rows.services.iter().any(|new| new.name == service.name) {
                group.table.remove(Type::Cluster, name, revision);
                group.table.remove(Type::Assignment, name, revision);
                gone.push(service.name.clone());
            }
        }
        let mut told = Vec::new();
        for (service, (name, endpoints)) in rows.services.iter().zip(&rows.endpoints) {
            if is_told_alike(old, service) {
                told.push((name.clone(), Arc::clone(endpoints)));
                continue;
            }
            let (cluster, outline) = encoder.service(service, endpoints);
            group.table.put(Type::Cluster, cluster, revision);
            match outline {
                Some(outline) => {
                    group.table.put(Type::Assignment, outline, revision);
                    told.push((name.clone(), Arc::clone(endpoints)));
                }
                None => {
                    group
                        .table
                        .remove(Type::Assignment, name.as_str(), revision);
                    gone.push(name.clone());
                }
            };
        }
        for frontend in &rows.frontends {
            let name = listeners::listener_name(frontend);
            let of_name = group.listeners.entry(name.clone()).or_default();
            of_name.insert(frontend.name.clone(), frontend.clone());
            listeners.insert(name);
        }
        if rows.is_empty() {
            group.rows.remove(key);
            group.served_since = revision;
        } else if group.rows.insert(key.clone(), rows).is_none() {
            group.served_since = revision;
        }
        for name in listeners {
            group.put_listener(&name, revision, encoder.stamp());
        }
        self.put_chunks(group_name, &told, &gone, encoder.stamp());
        true
    }

    fn put_chunks(
        &mut self,
        group: &GroupName,
        told: &[(ServiceName, Arc<Endpoints>)],
        gone: &[ServiceName],
        stamp: &Stamp,
    ) {
        let revision = self.revision;
        for service in gone {
            let moved = self.shelves.leave(service, group, revision);
            self.count(group, moved);
        }
        for (service, rows) in told {
            let moved = self.shelves.put(service, rows, group, (stamp, revision));
            for (name, moved) in moved {
                self.count(&name, moved);
            }
        }
    }

    fn count(&mut self, group: &GroupName, moved: u128) {
        if let Some(group) = self.groups.get_mut(group) {
            group.table.count(moved);
        }
    }

    /// Rows of services that the same plan decided are in place already.
    fn replace_group(
        &mut self,
        group: &GroupName,
        rows: &BTreeMap<ServiceKey, Rows>,
        planned: &BTreeSet<&ServiceKey>,
        encoder: &mut Encoder,
    ) -> bool {
        let have = self.groups.get(group);
        let stale: Vec<ServiceKey> = have
            .into_iter()
            .flat_map(|group| group.rows.keys())
            .filter(|key| !planned.contains(key) && !rows.contains_key(*key))
            .cloned()
            .collect();
        let mut changed = false;
        for key in stale {
            changed |= self.put(group, &key, Rows::default(), encoder);
        }
        for (key, rows) in rows {
            changed |= self.put(group, key, rows.clone(), encoder);
        }
        changed
    }
}

/// Whether only endpoints can have changed: neither the Cluster nor the outline of the assignment.
/// Endpoints of exports are addresses, never names, which would be inside the Cluster.
fn is_told_alike(old: &Rows, service: &Service) -> bool {
    old.services.iter().any(|old| **old == *service)
}

// === impl Group ===

impl Group {
    fn put_listener(&mut self, name: &str, revision: u64, stamp: &Stamp) {
        let frontends = self.listeners.get(name);
        let all: Vec<&Frontend> = frontends.into_iter().flat_map(BTreeMap::values).collect();
        let policy = |frontend: &Frontend| {
            let (namespace, service, _) = frontend.service.parts();
            let rows = self.rows.get(&ServiceKey::new(namespace, service))?;
            let mut services = rows.services.iter();
            let service = services.find(|service| service.name == frontend.service)?;
            Some(&service.policy)
        };
        match listeners::listener(name, &all, policy) {
            Some(listener) => {
                let resource = seal(name, &listener, stamp).into();
                self.table.put(Type::Listener, resource, revision);
            }
            None => {
                self.listeners.remove(name);
                self.table.remove(Type::Listener, name, revision);
            }
        }
    }
}
