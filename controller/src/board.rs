//! What every proxy group is told, as decided so far: plans laid on top of each other.
//!
//! A board is what streams read. Each row has a version: the hash of its content, equal on every
//! replica. [`Board::apply`] says which rows of which group changed, so a stream looks at those only.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_config::snapshot::Snapshot;

use crate::{
    distribute::Rows,
    plan::{ImportResource, Plan},
    world::{GroupName, ServiceKey},
};

use std::sync::Arc;

/// Everything told to anybody.
#[derive(Debug, Default)]
pub struct Board {
    groups: BTreeMap<GroupName, BTreeMap<ServiceKey, Rows>>,
    imports: BTreeMap<ServiceKey, Arc<ImportResource>>,
}

/// What a plan changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// By group: the services whose rows differ now.
    pub groups: BTreeMap<GroupName, BTreeSet<ServiceKey>>,
    /// Imports that differ now.
    pub imports: BTreeSet<ServiceKey>,
}

impl Board {
    /// Lays a plan on top.
    pub fn apply(&mut self, plan: &Plan) -> Changed {
        let mut changed = Changed::default();
        for (key, service) in &plan.services {
            self.apply_import(key, service.import.as_ref(), &mut changed);
            let names: BTreeSet<GroupName> = self
                .groups
                .iter()
                .filter(|(_, rows)| rows.contains_key(key))
                .map(|(name, _)| name)
                .chain(service.rows.keys())
                .cloned()
                .collect();
            for name in names {
                let rows = service.rows.get(&name).cloned().unwrap_or_default();
                self.put(&name, key, rows, &mut changed);
            }
        }
        for (name, rows) in &plan.groups {
            self.replace_group(name, rows, &plan.services.keys().collect(), &mut changed);
        }
        for name in &plan.gone {
            if let Some(rows) = self.groups.remove(name) {
                let keys = rows.into_keys();
                changed.groups.entry(name.clone()).or_default().extend(keys);
            }
        }
        changed
    }

    /// What a group is told of a service.
    pub fn rows(&self, group: &str, key: &ServiceKey) -> Option<&Rows> {
        self.groups.get(group)?.get(key)
    }

    /// The services that a group is told of.
    pub fn services(&self, group: &str) -> impl Iterator<Item = (&ServiceKey, &Rows)> {
        self.groups.get(group).into_iter().flatten()
    }

    /// An import.
    pub fn import(&self, key: &ServiceKey) -> Option<&Arc<ImportResource>> {
        self.imports.get(key)
    }

    /// All imports.
    pub fn imports(&self) -> &BTreeMap<ServiceKey, Arc<ImportResource>> {
        &self.imports
    }

    /// The snapshot that a group's proxies come to.
    pub fn snapshot(&self, group: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (_, rows) in self.services(group) {
            for frontend in &rows.frontends {
                let row = (frontend.name.clone(), Arc::new(frontend.clone()));
                snapshot.frontends.insert(row.0, row.1);
            }
            for service in &rows.services {
                let name = service.name.clone();
                snapshot.services.insert(name, Arc::clone(service));
            }
            for (name, endpoints) in &rows.endpoints {
                snapshot
                    .endpoints
                    .insert(name.clone(), Arc::clone(endpoints));
            }
        }
        snapshot
    }

    fn apply_import(
        &mut self,
        key: &ServiceKey,
        import: Option<&Arc<ImportResource>>,
        changed: &mut Changed,
    ) {
        let old = self.imports.get(key);
        if old == import {
            return;
        }
        match import {
            Some(import) => self.imports.insert(key.clone(), Arc::clone(import)),
            None => self.imports.remove(key),
        };
        changed.imports.insert(key.clone());
    }

    fn put(&mut self, group: &GroupName, key: &ServiceKey, rows: Rows, changed: &mut Changed) {
        let of_group = self.groups.entry(group.clone()).or_default();
        let same = match of_group.get(key) {
            Some(old) => *old == rows,
            None => rows.is_empty(),
        };
        if same {
            return;
        }
        if rows.is_empty() {
            of_group.remove(key);
        } else {
            of_group.insert(key.clone(), rows);
        }
        changed
            .groups
            .entry(group.clone())
            .or_default()
            .insert(key.clone());
    }

    /// Rows of services that the same plan decided are in place already.
    fn replace_group(
        &mut self,
        group: &GroupName,
        rows: &BTreeMap<ServiceKey, Rows>,
        planned: &BTreeSet<&ServiceKey>,
        changed: &mut Changed,
    ) {
        let have = self.groups.get(group);
        let stale: Vec<ServiceKey> = have
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|key| !planned.contains(key) && !rows.contains_key(*key))
            .cloned()
            .collect();
        for key in stale {
            self.put(group, &key, Rows::default(), changed);
        }
        for (key, rows) in rows {
            self.put(group, key, rows.clone(), changed);
        }
    }
}
