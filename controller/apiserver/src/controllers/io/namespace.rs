//! Furnishes new namespaces and empties those that are being deleted.

use super::Manager;
use super::call::{Raced, path};
use crate::clock::rfc3339;
use crate::controllers::garbage::is_deleting;
use crate::controllers::namespaces::{ROOT_CA, Remains, default_account, root_ca};
use crate::kinds::Lookup as _;
use crate::kinds::value::{list, set};
use crate::resource::Resource;
use crate::store::Range;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Manager {
    /// Gives a namespace its `default` account and the CA bundle.
    pub(super) async fn furnish(&self, namespace: &str) {
        let Some(found) = self.core.one("", "namespaces", "", namespace) else {
            return;
        };
        if is_deleting(&found) {
            return;
        }
        if self.switches.service_accounts
            && self
                .core
                .one("", "serviceaccounts", namespace, "default")
                .is_none()
        {
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            self.caller
                .create(&path, &default_account())
                .await
                .report("create the default account");
        }
        if !self.switches.root_ca {
            return;
        }
        let wanted = root_ca(&self.ca_pem);
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let _: Raced = match self.core.one("", "configmaps", namespace, ROOT_CA) {
            None => self
                .caller
                .create(&path, &wanted)
                .await
                .report("create the CA bundle"),
            Some(found) if found["data"] != wanted["data"] => {
                let path = format!("{path}/{ROOT_CA}");
                self.caller
                    .replace(&path, &wanted)
                    .await
                    .report("restore the CA bundle")
            }
            Some(_) => Raced::Won,
        };
    }

    /// Deletes what is in a namespace; once nothing is left, lets the namespace go.
    pub(super) async fn empty(&mut self, namespace: &str) {
        let resources = self.namespaced();
        let Some(found) = self.core.one("", "namespaces", "", namespace) else {
            self.terminating.remove(namespace);
            // What was admitted while the namespace still lived and stored when it was gone.
            for resource in &resources {
                self.delete_all(resource, namespace).await;
            }
            return;
        };
        if !is_deleting(&found) {
            self.terminating.remove(namespace);
            return;
        }
        // Pods first: what runs may still need the rest.
        for pods in [true, false] {
            for resource in resources
                .iter()
                .filter(|resource| resource.is("", "pods") == pods)
            {
                self.delete_all(resource, namespace).await;
            }
            if pods && !self.remains(&resources[..], namespace, true).is_empty() {
                break;
            }
        }
        let remains = self.remains(&resources, namespace, false);
        let told = if remains.is_empty() {
            self.finalize(namespace, &found).await
        } else {
            self.tell(namespace, &found, &remains).await
        };
        if told == Raced::Lost {
            self.work.namespaces.insert(namespace.to_owned());
            tokio::task::yield_now().await;
        }
    }

    async fn delete_all(&self, resource: &Resource, namespace: &str) {
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
        });
        let names: Vec<String> = self
            .objects(resource, namespace)
            .iter()
            .filter(|object| !object.contains("\"deletionTimestamp\":"))
            .map(|object| object.key().name().to_owned())
            .collect();
        for name in names {
            let path = path(resource, namespace, &name);
            self.caller
                .delete(&path, &options)
                .await
                .report("empty a namespace");
        }
    }

    async fn finalize(&self, namespace: &str, found: &Value) -> Raced {
        let mut object = found.clone();
        let kept: Vec<Value> = list(&found["spec"], "finalizers")
            .iter()
            .filter(|name| *name != "kubernetes")
            .cloned()
            .collect();
        set(&mut object["spec"], "finalizers", kept);
        let path = format!("/api/v1/namespaces/{namespace}/finalize");
        self.caller
            .replace(&path, &object)
            .await
            .report("finalize a namespace")
    }

    async fn tell(&self, namespace: &str, found: &Value, remains: &Remains) -> Raced {
        let now = rfc3339(self.core.now());
        let old = &found["status"]["conditions"];
        let conditions = remains.conditions(old, &now);
        if *old == conditions {
            return Raced::Won;
        }
        let path = format!("/api/v1/namespaces/{namespace}/status");
        let patch = json!({"status": {"phase": "Terminating", "conditions": conditions}});
        self.caller
            .patch(&path, &patch)
            .await
            .report("tell what a namespace waits for")
    }

    fn remains(&self, resources: &[Arc<Resource>], namespace: &str, pods_only: bool) -> Remains {
        let mut remains = Remains::default();
        for resource in resources
            .iter()
            .filter(|resource| !pods_only || resource.is("", "pods"))
        {
            let objects = self.objects(resource, namespace);
            if objects.is_empty() {
                continue;
            }
            let name = format!("{}.{}", resource.resource, resource.group);
            remains.objects.insert(name, objects.len());
            for object in objects
                .iter()
                .filter(|object| object.contains("\"finalizers\":"))
            {
                let value = object.value(b"{");
                for finalizer in list(&value["metadata"], "finalizers")
                    .iter()
                    .filter_map(Value::as_str)
                {
                    *remains.finalizers.entry(finalizer.to_owned()).or_default() += 1;
                }
            }
        }
        remains
    }

    fn objects(&self, resource: &Resource, namespace: &str) -> Vec<Arc<crate::store::Object>> {
        let range = Range {
            namespace: Some(namespace.to_owned()),
            ..Range::default()
        };
        let listing = self.core.store.list(&resource.table, &range, &|_| true);
        listing.map(|listing| listing.objects).unwrap_or_default()
    }

    /// Every resource with objects in namespaces, one version of each.
    fn namespaced(&self) -> Vec<Arc<Resource>> {
        let mut seen = BTreeSet::new();
        self.core
            .registry
            .all()
            .into_iter()
            .filter(|resource| resource.namespaced && resource.verbs.contains("delete"))
            .filter(|resource| seen.insert(Arc::clone(&resource.table)))
            .collect()
    }
}
