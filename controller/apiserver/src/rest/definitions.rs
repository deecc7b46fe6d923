//! What follows a write to a CustomResourceDefinition: it is established and served, or its instances go and then it does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Request;
use super::meta::{self, finalizers, metadata_mut, text};
use crate::clock::rfc3339;
use crate::crd;
use crate::kinds::Lookup as _;
use crate::patch::{self, FieldSet};
use crate::resource::Resource;
use crate::store::{Change, Key, Object, Range, Write};

/// How often a write is tried again when another one came first.
const ATTEMPTS_MAX: usize = 64;
const GROUP: &str = "apiextensions.k8s.io";
const DEFINITIONS: &str = "customresourcedefinitions";

impl Request<'_> {
    pub(super) fn is_definition(&self) -> bool {
        self.resource.is(GROUP, DEFINITIONS)
    }

    /// After an object was stored: CRDs change what is served.
    pub(super) async fn written(&self, stored: &Object) {
        if !self.is_definition() {
            self.stored_instance(stored.key()).await;
            return;
        }
        let mut current = stored.value(&self.resource.head());
        for _ in 0..ATTEMPTS_MAX {
            if meta::is_deleting(&current) {
                self.core.serve_crd(&current);
                self.clear_definition(&current).await;
                return;
            }
            let others = self.core.list(GROUP, DEFINITIONS, "");
            let now = rfc3339(self.core.now());
            let settled = crd::settled(&current, &others, &now);
            // Served before anybody can read that it is.
            self.core.serve_crd(settled.as_ref().unwrap_or(&current));
            let Some(mut settled) = settled else { return };
            self.sign_status(&current, &mut settled, &now);
            if self.replace(&self.resource, &settled).await {
                return;
            }
            let name = text(&current, "name");
            let Some(newer) = self.core.one(GROUP, DEFINITIONS, "", name) else {
                return;
            };
            current = newer;
        }
    }

    /// The status of a CRD is the server's own.
    fn sign_status(&self, current: &Value, settled: &mut Value, now: &str) {
        let writer = patch::Writer {
            manager: "kube-apiserver",
            api_version: "apiextensions.k8s.io/v1",
            subresource: "status",
            now,
        };
        let reset = FieldSet::of_fields(&[&["spec"]]);
        let schema = self.schema();
        patch::record_update(schema.as_deref(), Some(current), settled, writer, &reset);
    }

    /// After an object has left the store: a CRD that waited for its last instance goes too.
    pub(super) async fn removed(&self, object: &Value) {
        if self.is_definition() {
            self.core
                .registry
                .set_custom(text(object, "name"), Vec::new());
            return;
        }
        let Some(custom) = &self.resource.custom else {
            return;
        };
        let resource = &self.resource;
        let served =
            self.core
                .registry
                .find(&resource.group, &resource.version, &resource.resource);
        let terminating =
            served.is_some_and(|served| served.custom.as_ref().is_some_and(|c| c.terminating));
        if terminating && let Some(definition) = self.core.one(GROUP, DEFINITIONS, "", &custom.crd)
        {
            self.clear_definition(&definition).await;
        }
    }

    /// An instance that was admitted while its CRD still lived, and stored when that was on its way
    /// out or gone, goes too.
    async fn stored_instance(&self, key: &Key) {
        let resource = &self.resource;
        let Some(custom) = &resource.custom else {
            return;
        };
        let registry = &self.core.registry;
        match registry.find(&resource.group, &resource.version, &resource.resource) {
            None if self.core.one(GROUP, DEFINITIONS, "", &custom.crd).is_none() => {
                self.delete_instance(resource, key).await;
            }
            Some(served) if served.custom.as_ref().is_some_and(|c| c.terminating) => {
                if let Some(definition) = self.core.one(GROUP, DEFINITIONS, "", &custom.crd) {
                    self.clear_definition(&definition).await;
                }
            }
            _ => {}
        }
    }

    /// Deletes the instances of a CRD that is to go, and the CRD when there is none left.
    pub(super) async fn clear_definition(&self, definition: &Value) {
        let kept = finalizers(definition).contains(&crd::CLEANUP);
        if !kept || !meta::is_deleting(definition) {
            return;
        }
        let group = definition["spec"]["group"].as_str().unwrap_or_default();
        let plural = definition["spec"]["names"]["plural"]
            .as_str()
            .unwrap_or_default();
        if let Some(served) = self.core.registry.find_any_version(group, plural)
            && served.custom.is_some()
        {
            let list = || {
                let listing = self
                    .core
                    .store
                    .list(&served.table, &Range::default(), &|_| true);
                listing.map(|listing| listing.objects).unwrap_or_default()
            };
            for instance in list() {
                self.delete_instance(&served, instance.key()).await;
            }
            if !list().is_empty() {
                return;
            }
        }
        self.release_definition(text(definition, "name")).await;
    }

    async fn delete_instance(&self, served: &Arc<Resource>, key: &Key) {
        for _ in 0..ATTEMPTS_MAX {
            let Some(stored) = self.core.store.read(&served.table, key) else {
                return;
            };
            let mut object = stored.value(&served.head());
            let waits = !finalizers(&object).is_empty();
            if waits && meta::is_deleting(&object) {
                return;
            }
            let now = rfc3339(self.core.now());
            let generation = object["metadata"]["generation"]
                .as_i64()
                .unwrap_or_default();
            let metadata = metadata_mut(&mut object);
            metadata.insert("deletionTimestamp".to_owned(), json!(now));
            metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
            metadata.insert("generation".to_owned(), json!(generation + 1));
            let draft = meta::draft(&object, served, self.strategy());
            let change = if waits {
                Change::Put(draft)
            } else {
                Change::Delete(draft)
            };
            if self.commit_to(served, &stored, change).await {
                return;
            }
        }
    }

    async fn release_definition(&self, name: &str) {
        let key = Key::new("", name);
        for _ in 0..ATTEMPTS_MAX {
            let table = crate::resource::table_name(GROUP, DEFINITIONS);
            let Some(stored) = self.core.store.read(&table, &key) else {
                return;
            };
            let Some(served) = self.core.registry.find(GROUP, "v1", DEFINITIONS) else {
                return;
            };
            let released = crd::released(&stored.value(&served.head()));
            let draft = meta::draft(&released, &served, self.strategy());
            let ends = finalizers(&released).is_empty();
            let change = if ends {
                Change::Delete(draft)
            } else {
                Change::Put(draft)
            };
            if self.commit_to(&served, &stored, change).await {
                if ends {
                    self.core.registry.set_custom(name, Vec::new());
                }
                return;
            }
        }
    }

    /// Replaces an object that hasn't changed since it was read.
    async fn replace(&self, resource: &Arc<Resource>, object: &Value) -> bool {
        let key = Key::new("", text(object, "name"));
        let Some(stored) = self.core.store.read(&resource.table, &key) else {
            return true;
        };
        if stored.revision().to_string() != text(object, "resourceVersion") {
            return false;
        }
        let draft = meta::draft(object, resource, self.strategy());
        self.commit_to(resource, &stored, Change::Put(draft)).await
    }

    async fn commit_to(&self, resource: &Resource, stored: &Object, change: Change) -> bool {
        let write = Write {
            table: Arc::clone(&resource.table),
            key: stored.key().clone(),
            expected: Some(stored.revision()),
            change,
        };
        self.core.store.commit(write).await.is_ok()
    }
}
