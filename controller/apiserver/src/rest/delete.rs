//! Deleting objects: at once, or marked until their finalizers and grace are done.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::Request;
use super::meta::{self, finalizers, metadata_mut, text};
use super::print::Outcome;
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::http::{Body, json as respond};
use crate::store::{Change, Key, Object, Refused, Write};

mod options;

use options::{Options, Propagation};

/// What came of a delete.
enum Deleted {
    /// The object has left the store.
    Gone(Value),
    /// It waits for its finalizers or its grace period.
    Marked(Outcome),
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS_MAX: usize = 64;
/// Namespaces that every cluster needs.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
/// Core kinds whose delete answers with the object itself, not with a `Status`.
const RETURNED: &[&str] = &[
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

impl Request<'_> {
    pub(super) async fn delete(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let options = self.delete_options(&body)?;
        let key = Key::new(&self.place.namespace, &self.place.name);
        let deleted = self.delete_key(&key, &options).await?;
        Ok(match deleted {
            Deleted::Marked(outcome) => self.print_one(200, &outcome)?,
            Deleted::Gone(object) if self.returns_deleted() => {
                self.print_one(200, &Outcome::Value(object))?
            }
            Deleted::Gone(object) => respond(200, self.accept.syntax, &self.success(&object)),
        })
    }

    pub(super) async fn delete_collection(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let options = self.delete_options(&body)?;
        let (listing, mut meta) = self.page()?;
        let mut items = Vec::new();
        for object in &listing.objects {
            match self.delete_key(object.key(), &options).await {
                Ok(_) => items.push(Arc::clone(object)),
                Err(error) if error.code() == 404 => {}
                Err(error) => return Err(error),
            }
        }
        meta.revision = self.core.store.revision();
        self.print_list(&items, &meta)
    }

    async fn delete_key(&self, key: &Key, options: &Options) -> Result<Deleted, ApiError> {
        let (group, resource) = (&self.resource.group, &self.resource.resource);
        if self.is_namespace() && IMMORTAL.contains(&key.name()) {
            let why = "this namespace may not be deleted";
            return Err(ApiError::forbidden(group, resource, key.name(), why));
        }
        for _ in 0..ATTEMPTS_MAX {
            let found = self.core.store.read(&self.resource.table, key);
            let stored = found.ok_or_else(|| ApiError::not_found(group, resource, key.name()))?;
            let old = self.value_of(&stored);
            self.check_preconditions(&old, options)?;
            match self.delete_once(&stored, &old, options).await {
                Ok(deleted) => return Ok(deleted),
                Err(Refused::Modified(_)) => {}
                Err(refused) => return Err(self.refused(refused, key.name())),
            }
        }
        Err(self.refused(Refused::Modified(0), key.name()))
    }

    async fn delete_once(
        &self,
        stored: &Arc<Object>,
        old: &Value,
        options: &Options,
    ) -> Result<Deleted, Refused> {
        let strategy = self.strategy();
        // Only what has a grace of its own can be given another.
        let grace = match strategy.default_grace_seconds(old) {
            0 => 0,
            own => options.grace_seconds.unwrap_or(own),
        };
        let mut new = old.clone();
        propagate(&mut new, options.propagation);
        if self.is_definition() && !meta::is_deleting(old) {
            crate::crd::terminating(&mut new, &rfc3339(self.core.now()));
        }
        let waits = !pending(&new).is_empty() || grace > 0;
        if waits {
            self.mark(&mut new, old, grace);
            if self.is_definition() {
                // Its own way of being marked: no grace, and no new generation.
                let metadata = metadata_mut(&mut new);
                metadata.shift_remove("deletionGracePeriodSeconds");
                metadata.insert(
                    "generation".to_owned(),
                    old["metadata"]["generation"].clone(),
                );
            }
            if new == *old {
                if self.is_definition() && !options.dry_run {
                    self.clear_definition(old).await;
                }
                return Ok(Deleted::Marked(Outcome::Stored(Arc::clone(stored))));
            }
        }
        if options.dry_run {
            return Ok(if waits {
                Deleted::Marked(Outcome::Value(new))
            } else {
                Deleted::Gone(new)
            });
        }
        let draft = meta::draft(&new, &self.resource, strategy);
        let change = if waits {
            Change::Put(draft)
        } else {
            Change::Delete(draft)
        };
        let committed = self.commit(stored, change).await?;
        if waits {
            self.written(&committed).await;
            return Ok(Deleted::Marked(Outcome::Stored(committed)));
        }
        strategy.deleted(&new, &self.ctx(false));
        self.removed(&new).await;
        Ok(Deleted::Gone(self.value_of(&committed)))
    }

    async fn commit(&self, stored: &Object, change: Change) -> Result<Arc<Object>, Refused> {
        let write = Write {
            table: Arc::clone(&self.resource.table),
            key: stored.key().clone(),
            expected: Some(stored.revision()),
            change,
        };
        self.core.store.commit(write).await
    }

    /// The object as one that is being deleted. A later delete may only shorten the grace.
    fn mark(&self, new: &mut Value, old: &Value, grace: i64) {
        let graceful = self.strategy().default_grace_seconds(old) > 0;
        let grace = if graceful { grace } else { 0 };
        let before = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
        if meta::is_deleting(old) && before.is_none_or(|before| before <= grace) {
            return;
        }
        let now = self.core.now();
        let end = now
            .saturating_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(now);
        let generation = old["metadata"]["generation"].as_i64();
        if self.is_namespace() {
            new["status"]["phase"] = json!("Terminating");
        }
        let metadata = metadata_mut(new);
        metadata.insert("deletionTimestamp".to_owned(), json!(rfc3339(end)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
        if let Some(generation) = generation.filter(|generation| *generation > 0) {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
    }

    fn check_preconditions(&self, old: &Value, options: &Options) -> Result<(), ApiError> {
        let conflict = |what: &str, wanted: &str, found: &str| {
            let end = if what == "UID" {
                "deleted and then recreated"
            } else {
                "modified"
            };
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record \
                 ({found}). The object might have been {end}"
            );
            // Kubernetes names the kind here, not the resource.
            let (group, kind) = (&self.resource.group, &self.resource.kind);
            ApiError::conflict(group, kind, text(old, "name"), &why)
        };
        if let Some(wanted) = &options.uid
            && wanted != text(old, "uid")
        {
            return Err(conflict("UID", wanted, text(old, "uid")));
        }
        if let Some(wanted) = &options.resource_version
            && wanted != text(old, "resourceVersion")
        {
            return Err(conflict(
                "ResourceVersion",
                wanted,
                text(old, "resourceVersion"),
            ));
        }
        Ok(())
    }

    fn returns_deleted(&self) -> bool {
        self.resource.group.is_empty() && RETURNED.contains(&self.resource.resource.as_str())
    }

    fn is_namespace(&self) -> bool {
        self.resource.is("", "namespaces")
    }

    fn success(&self, object: &Value) -> Value {
        let mut details = json!({"name": text(object, "name")});
        if !self.resource.group.is_empty() {
            details["group"] = json!(self.resource.group);
        }
        details["kind"] = json!(self.resource.resource);
        details["uid"] = json!(text(object, "uid"));
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details,
        })
    }
}

/// What must happen before the object may go: its finalizers, and a namespace's own.
pub(super) fn pending(object: &Value) -> Vec<&str> {
    let mut list = finalizers(object);
    if object["kind"] == "Namespace" && object["apiVersion"] == "v1" {
        let own = object["spec"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten();
        list.extend(own.filter_map(Value::as_str));
    }
    list
}

/// Sets the finalizers of the garbage collector that the policy asks for; without a policy they
/// stay as they are.
fn propagate(object: &mut Value, policy: Option<Propagation>) {
    let Some(policy) = policy else { return };
    let mut list: Vec<String> = finalizers(object)
        .into_iter()
        .filter(|finalizer| !matches!(*finalizer, ORPHAN | FOREGROUND))
        .map(str::to_owned)
        .collect();
    match policy {
        Propagation::Orphan => list.push(ORPHAN.to_owned()),
        Propagation::Foreground => list.push(FOREGROUND.to_owned()),
        Propagation::Background => {}
    }
    let metadata = metadata_mut(object);
    if list.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(list));
    }
}
