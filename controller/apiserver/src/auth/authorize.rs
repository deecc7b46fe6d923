//! RBAC as an authorizer over a store.

use super::index::{Rbac, Verdict};
use super::rbac::Action;
use super::{Attributes, Authorizer, Decision};
use crate::kinds::{Changed, Lookup};
use crate::resource::table_name;
use crate::store::{Key, Range, Scope, Store};
use serde_json::Value;
use std::sync::Arc;

/// Authorizes by the RBAC objects of one server, `system:masters` always.
pub struct RbacAuthorizer {
    index: Arc<Rbac>,
    objects: RbacObjects,
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// What is asked for, without who asks.
    pub fn action(&self) -> Action<'a> {
        if self.path.is_empty() {
            Action::Resource {
                verb: self.verb,
                group: self.group,
                resource: self.resource,
                subresource: self.subresource,
                namespace: self.namespace,
                name: self.name,
            }
        } else {
            Action::Path {
                verb: self.verb,
                path: self.path,
            }
        }
    }
}

// === impl RbacAuthorizer ===

impl RbacAuthorizer {
    /// `index` is the one that strategies use too.
    pub fn new(index: Arc<Rbac>, store: Store) -> Self {
        Self {
            index,
            objects: RbacObjects(store),
        }
    }
}

impl Authorizer for RbacAuthorizer {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_master() {
            return Decision::Allow;
        }
        match self
            .index
            .refreshed(&self.objects)
            .decide(attributes.user, &attributes.action())
        {
            Verdict::Allowed(_) => Decision::Allow,
            Verdict::Refused(reason) => Decision::NoOpinion(reason),
        }
    }
}

/// Reads roles and bindings without a registry of kinds: the index needs no `apiVersion`.
struct RbacObjects(Store);

impl Lookup for RbacObjects {
    fn one(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let object = self
            .0
            .read(&table_name(group, resource), &Key::new(namespace, name))?;
        Some(object.value(b"{"))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let range = Range {
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            ..Range::default()
        };
        let listing = self.0.list(&table_name(group, resource), &range, &|_| true);
        let objects = listing.map(|listing| listing.objects).unwrap_or_default();
        objects.iter().map(|object| object.value(b"{")).collect()
    }

    fn changes(&self, group: &str, resource: &str, since: u64) -> Option<Vec<Changed>> {
        changes(&self.0, &table_name(group, resource), since)
    }

    fn revision(&self, _: &str, resource: &str) -> u64 {
        // Asked for on every request: the names are ready-made.
        self.0.table_revision(match resource {
            "clusterroles" => "clusterroles.rbac.authorization.k8s.io",
            "roles" => "roles.rbac.authorization.k8s.io",
            "clusterrolebindings" => "clusterrolebindings.rbac.authorization.k8s.io",
            _ => "rolebindings.rbac.authorization.k8s.io",
        })
    }
}

/// The changes of one table after a revision, while its history still has them.
pub(crate) fn changes(store: &Store, table: &Arc<str>, since: u64) -> Option<Vec<Changed>> {
    let mut watcher = store.watch(table, Scope::All, since).ok()?;
    let mut changes = Vec::new();
    loop {
        let batch = watcher.take().ok()?;
        if batch.events.is_empty() {
            return Some(changes);
        }
        for event in batch.events {
            let key = event.object.key();
            let object = (!event.deleted).then(|| event.object.value(b"{"));
            changes.push((key.namespace().to_owned(), key.name().to_owned(), object));
        }
    }
}
