//! Carries out what [`garbage`](crate::controllers::garbage) decides.

use super::call::{Answer, Raced, path};
use super::{Manager, OWNERS};
use crate::controllers::garbage::{
    Owner, OwnerState, Place, Policy, Verdict, decide, orphans_dependents, waits_for_dependents,
};
use crate::kinds::metadata::{FOREGROUND, ORPHAN};
use crate::kinds::value::list;
use crate::resource::Resource;
use crate::store::{Event, Key, Lost, Object};
use serde_json::{Value, json};
use std::sync::Arc;

impl Manager {
    /// Takes note of a change, and of what must be looked at because of it.
    pub(super) fn observe_owners(&mut self, place: Place, event: &Event) {
        if event.deleted {
            let freed = self.graph.forget(&place);
            self.look_at_owners(&freed, place.key.namespace());
            if !self.graph.is_empty() {
                let value = event.object.value(b"{");
                let uid = value["metadata"]["uid"].as_str().unwrap_or_default();
                self.graph.bury(uid);
                self.look_at_dependents(uid);
            }
            return;
        }
        let was_owned = event
            .previous
            .as_ref()
            .is_some_and(|previous| previous.contains(OWNERS));
        if was_owned || concerns(&event.object) {
            self.observe_object(place, &event.object.value(b"{"));
        }
    }

    /// Takes note of an object that is there.
    pub(super) fn observe_object(&mut self, place: Place, value: &Value) {
        let freed = self.graph.observe(&place, Owner::parse_all(value));
        let changed = freed.is_some();
        // Who waited for this object may not have to any longer.
        self.look_at_owners(&freed.unwrap_or_default(), place.key.namespace());
        let waits = waits_for_dependents(value);
        if waits {
            self.look_at_dependents(value["metadata"]["uid"].as_str().unwrap_or_default());
        }
        if changed || waits || orphans_dependents(value) {
            self.work.object(place);
        }
    }

    /// Judges one object and does what follows.
    pub(super) async fn collect(&mut self, place: &Place) -> Result<(), Lost> {
        self.strangers.remove(place);
        let Some(resource) = self.resource(place) else {
            return Ok(());
        };
        let Some(stored) = self.core.store.read(&place.table, &place.key) else {
            return Ok(());
        };
        // Its dependents are judged by too: all that were there before its present state are known.
        self.catch_up(stored.revision())?;
        let object = stored.value(&resource.head());
        if self.act(&resource, place, &object).await == Raced::Lost {
            // Somebody changed it in the meantime: what was decided no longer counts.
            self.work.object(place.clone());
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn act(&mut self, resource: &Resource, place: &Place, object: &Value) -> Raced {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if orphans_dependents(object) {
            return self.orphan(resource, place, object, uid).await;
        }
        if waits_for_dependents(object) {
            if !self.graph.blockers(uid).is_empty() {
                return Raced::Won;
            }
            return self
                .remove_finalizer(resource, place, object, FOREGROUND)
                .await;
        }
        let owners: Vec<(Owner, OwnerState)> = Owner::parse_all(object)
            .into_iter()
            .map(|owner| {
                let state = self.owner_state(&owner, place.key.namespace());
                (owner, state)
            })
            .collect();
        if owners
            .iter()
            .any(|(_, state)| *state == OwnerState::Unknown)
        {
            self.strangers.insert(place.clone());
        }
        let has_dependents = self.graph.dependents(uid).next().is_some();
        match decide(object, &owners, has_dependents) {
            Verdict::Keep => Raced::Won,
            Verdict::Release(lost) => self.release(resource, place, object, &lost).await,
            Verdict::Delete(policy) => self.delete(resource, place, object, policy).await,
        }
    }

    fn look_at_dependents(&mut self, uid: &str) {
        let places: Vec<Place> = self.graph.dependents(uid).cloned().collect();
        for place in places {
            self.work.object(place);
        }
    }

    fn look_at_owners(&mut self, owners: &[Owner], namespace: &str) {
        for owner in owners {
            if let Some((resource, key)) = self.locate(owner, namespace) {
                self.work.object(Place {
                    table: Arc::clone(&resource.table),
                    key,
                });
            }
        }
    }

    fn owner_state(&self, owner: &Owner, namespace: &str) -> OwnerState {
        if self.graph.is_gone(&owner.uid) {
            return OwnerState::Gone;
        }
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
    async fn orphan(&self, resource: &Resource, place: &Place, object: &Value, uid: &str) -> Raced {
        let dependents: Vec<Place> = self.graph.dependents(uid).cloned().collect();
        for dependent in dependents {
            let Some(resource) = self.resource(&dependent) else {
                continue;
            };
            let Some(stored) = self.core.store.read(&dependent.table, &dependent.key) else {
                continue;
            };
            let value = stored.value(&resource.head());
            let lost = [uid.to_owned()];
            let released = self.release(&resource, &dependent, &value, &lost).await;
            if released == Raced::Lost {
                // As long as one still names it, it must stay: else that one would go with it.
                return released;
            }
        }
        self.remove_finalizer(resource, place, object, ORPHAN).await
    }

    async fn release(
        &self,
        resource: &Resource,
        place: &Place,
        object: &Value,
        lost: &[String],
    ) -> Raced {
        let owners = list(&object["metadata"], "ownerReferences").iter();
        let kept = owners.filter(|owner| !lost.iter().any(|uid| owner["uid"] == uid.as_str()));
        self.keep(resource, place, (object, "ownerReferences", kept.collect()))
            .await
            .report("take owners out")
    }

    async fn remove_finalizer(
        &self,
        resource: &Resource,
        place: &Place,
        object: &Value,
        name: &str,
    ) -> Raced {
        let finalizers = list(&object["metadata"], "finalizers").iter();
        let kept = finalizers.filter(|finalizer| *finalizer != name);
        self.keep(resource, place, (object, "finalizers", kept.collect()))
            .await
            .report("remove a finalizer")
    }

    /// Leaves only these in a list of the object's metadata, unless the object changed meanwhile.
    async fn keep(
        &self,
        resource: &Resource,
        place: &Place,
        (object, field, kept): (&Value, &str, Vec<&Value>),
    ) -> Answer {
        let meta = &object["metadata"];
        let kept = if kept.is_empty() {
            Value::Null
        } else {
            json!(kept)
        };
        let patch = json!({"metadata": {
            "uid": meta["uid"], "resourceVersion": meta["resourceVersion"], field: kept,
        }});
        let path = path(resource, place.key.namespace(), place.key.name());
        self.caller.patch(&path, &patch).await
    }

    async fn delete(
        &self,
        resource: &Resource,
        place: &Place,
        object: &Value,
        policy: Policy,
    ) -> Raced {
        let meta = &object["metadata"];
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy.name(),
            "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        });
        let path = path(resource, place.key.namespace(), place.key.name());
        self.caller
            .delete(&path, &options)
            .await
            .report("delete what lost its owner")
    }
}

/// Whether the collector has to know of an object: it has owners, or is deleted in a way that the
/// collector carries out. Cheap, and sometimes yes for one that isn't.
pub(super) fn concerns(object: &Object) -> bool {
    object.contains(OWNERS) || object.contains(FOREGROUND) || object.contains("\"orphan\"")
}
