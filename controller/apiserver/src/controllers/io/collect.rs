//! Carries out what [`garbage`](crate::controllers::garbage) decides.

use super::call::path;
use super::{Manager, OWNERS};
use crate::controllers::garbage::{
    Owner, OwnerState, Place, Policy, Verdict, decide, orphans_dependents, waits_for_dependents,
};
use crate::kinds::metadata::{FOREGROUND, ORPHAN};
use crate::kinds::value::list;
use crate::resource::Resource;
use crate::store::{Event, Key};
use serde_json::{Value, json};
use std::sync::Arc;

impl Manager {
    /// Takes note of a change, and of what must be looked at because of it.
    pub(super) fn observe_owners(&mut self, place: Place, event: &Event) {
        if event.deleted {
            for owner in self.graph.forget(&place) {
                self.look_at_owner(&owner, place.key.namespace());
            }
            if !self.graph.is_empty() {
                let value = event.object.value(b"{");
                self.look_at_dependents(value["metadata"]["uid"].as_str().unwrap_or_default());
            }
            return;
        }
        let owned = event.object.contains(OWNERS);
        let was_owned = event
            .previous
            .as_ref()
            .is_some_and(|previous| previous.contains(OWNERS));
        let finalized = event.object.contains(FOREGROUND) || event.object.contains("\"orphan\"");
        if !owned && !was_owned && !finalized {
            return;
        }
        let value = event.object.value(b"{");
        let changed = self.graph.observe(&place, Owner::parse_all(&value));
        let leaving = waits_for_dependents(&value) || orphans_dependents(&value);
        if waits_for_dependents(&value) {
            self.look_at_dependents(value["metadata"]["uid"].as_str().unwrap_or_default());
        }
        if changed || leaving {
            self.work.object(place);
        }
    }

    /// Judges one object and does what follows.
    pub(super) async fn collect(&mut self, place: &Place) {
        let Some(resource) = self.resource(place) else {
            return;
        };
        let Some(stored) = self.core.store.read(&place.table, &place.key) else {
            return;
        };
        let object = stored.value(&resource.head());
        let uid = object["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if orphans_dependents(&object) {
            self.orphan(&resource, place, &object, &uid).await;
            return;
        }
        if waits_for_dependents(&object) {
            if self.graph.blockers(&uid).is_empty() {
                self.remove_finalizer(&resource, place, &object, FOREGROUND)
                    .await;
            }
            return;
        }
        let owners: Vec<(Owner, OwnerState)> = Owner::parse_all(&object)
            .into_iter()
            .map(|owner| {
                let state = self.owner_state(&owner, place.key.namespace());
                (owner, state)
            })
            .collect();
        let has_dependents = self.graph.dependents(&uid).next().is_some();
        match decide(&object, &owners, has_dependents) {
            Verdict::Keep => {}
            Verdict::Release(lost) => self.release(&resource, place, &object, &lost).await,
            Verdict::Delete(policy) => self.delete(&resource, place, &object, policy).await,
        }
    }

    fn look_at_dependents(&mut self, uid: &str) {
        let places: Vec<Place> = self.graph.dependents(uid).cloned().collect();
        for place in places {
            self.work.object(place);
        }
    }

    fn look_at_owner(&mut self, owner: &Owner, namespace: &str) {
        if let Some((resource, key)) = self.locate(owner, namespace) {
            self.work.object(Place {
                table: Arc::clone(&resource.table),
                key,
            });
        }
    }

    fn owner_state(&self, owner: &Owner, namespace: &str) -> OwnerState {
        let Some((resource, key)) = self.locate(owner, namespace) else {
            return OwnerState::Unknown;
        };
        let Some(stored) = self.core.store.read(&resource.table, &key) else {
            return OwnerState::Gone;
        };
        let value = stored.value(b"{");
        if value["metadata"]["uid"] != owner.uid.as_str() {
            OwnerState::Gone
        } else if waits_for_dependents(&value) {
            OwnerState::Waiting
        } else {
            OwnerState::Solid
        }
    }

    /// Where an owner would be; `None` when its kind isn't served, or when it lives in a namespace
    /// and the dependent doesn't.
    fn locate(&self, owner: &Owner, namespace: &str) -> Option<(Arc<Resource>, Key)> {
        let (group, version) = owner
            .api_version
            .split_once('/')
            .unwrap_or(("", &owner.api_version));
        let resource = self.core.registry.find_kind(group, version, &owner.kind)?;
        if resource.namespaced && namespace.is_empty() {
            return None;
        }
        let namespace = if resource.namespaced { namespace } else { "" };
        let key = Key::new(namespace, &owner.name);
        Some((resource, key))
    }

    fn resource(&self, place: &Place) -> Option<Arc<Resource>> {
        self.core
            .registry
            .all()
            .into_iter()
            .find(|resource| resource.table == place.table)
    }

    /// Leaves the dependents behind: takes the owner out of each, then its finalizer.
    async fn orphan(&mut self, resource: &Resource, place: &Place, object: &Value, uid: &str) {
        let dependents: Vec<Place> = self.graph.dependents(uid).cloned().collect();
        for dependent in dependents {
            let Some(resource) = self.resource(&dependent) else {
                continue;
            };
            let Some(stored) = self.core.store.read(&dependent.table, &dependent.key) else {
                continue;
            };
            let value = stored.value(&resource.head());
            self.release(&resource, &dependent, &value, &[uid.to_owned()])
                .await;
        }
        self.remove_finalizer(resource, place, object, ORPHAN).await;
    }

    async fn release(&self, resource: &Resource, place: &Place, object: &Value, lost: &[String]) {
        let meta = &object["metadata"];
        let kept: Vec<&Value> = list(meta, "ownerReferences")
            .iter()
            .filter(|owner| !lost.iter().any(|uid| owner["uid"] == uid.as_str()))
            .collect();
        let kept = if kept.is_empty() {
            Value::Null
        } else {
            json!(kept)
        };
        let patch = json!({"metadata": {
            "uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "ownerReferences": kept,
        }});
        let path = path(resource, place.key.namespace(), place.key.name());
        self.caller
            .patch(&path, &patch)
            .await
            .report("take owners out");
    }

    async fn remove_finalizer(
        &self,
        resource: &Resource,
        place: &Place,
        object: &Value,
        name: &str,
    ) {
        let meta = &object["metadata"];
        let kept: Vec<&Value> = list(meta, "finalizers")
            .iter()
            .filter(|finalizer| *finalizer != name)
            .collect();
        let kept = if kept.is_empty() {
            Value::Null
        } else {
            json!(kept)
        };
        let patch = json!({"metadata": {
            "uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": kept,
        }});
        let path = path(resource, place.key.namespace(), place.key.name());
        self.caller
            .patch(&path, &patch)
            .await
            .report("remove a finalizer");
    }

    async fn delete(&self, resource: &Resource, place: &Place, object: &Value, policy: Policy) {
        let meta = &object["metadata"];
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy.name(),
            "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        });
        let path = path(resource, place.key.namespace(), place.key.name());
        self.caller
            .delete(&path, &options)
            .await
            .report("delete what lost its owner");
    }
}
