//! Replacing and patching objects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::Request;
use super::create::remove;
use super::meta::{self, metadata_mut, text};
use super::print::Outcome;
use crate::error::{ApiError, Cause};
use crate::http::Body;
use crate::kinds::Generation;
use crate::store::{Change, Key, Object, Refused, Write};

/// How often a change without a pinned revision is computed again because another write came
/// first.
const ATTEMPTS_MAX: usize = 64;

/// Computes the object that a client wants from the one there is; `None` if there is none.
pub(super) type Edit<'e> = dyn Fn(Option<&Value>) -> Result<Edited, ApiError> + Send + Sync + 'e;

pub(super) struct Edited {
    pub object: Value,
    /// Its managedFields are final: server-side apply computes them itself.
    pub owned: bool,
}

impl Request<'_> {
    pub(super) async fn update(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let dry_run = self.query.dry_run("UpdateOptions")?;
        let mut object = self.decode(&body)?;
        if !self.is_scale() {
            self.apply_defaults(&mut object);
        }
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            if self.is_scale() {
                return self.with_scale(old.ok_or_else(|| self.not_found())?, object.clone());
            }
            Ok(Edited {
                object: object.clone(),
                owned: false,
            })
        };
        self.edit(&edit, self.strategy().create_on_update(), dry_run)
            .await
    }

    /// Applies an edit to the object of this place and answers with the result. With `creates`, an
    /// object that isn't there is created from the edit.
    pub(super) async fn edit(
        &self,
        edit: &Edit<'_>,
        creates: bool,
        dry_run: bool,
    ) -> Result<Response<Body>, ApiError> {
        let (code, outcome) = self.edit_object(edit, creates, dry_run).await?;
        if self.is_scale() {
            let scale = self.scale_of(&self.value(&outcome))?;
            return self.print_one(code, &Outcome::Value(scale));
        }
        self.print_one(code, &outcome)
    }

    pub(super) async fn edit_object(
        &self,
        edit: &Edit<'_>,
        creates: bool,
        dry_run: bool,
    ) -> Result<(u16, Outcome), ApiError> {
        let key = Key::new(&self.place.namespace, &self.place.name);
        for _ in 0..ATTEMPTS_MAX {
            let Some(stored) = self.core.store.read(&self.resource.table, &key) else {
                if !creates || !self.place.subresource.is_empty() {
                    return Err(self.not_found());
                }
                let mut edited = edit(None)?;
                self.check_name(&edited.object)?;
                metadata_mut(&mut edited.object).shift_remove("resourceVersion");
                if !edited.owned {
                    self.record_fields_on_create(&mut edited.object);
                } else if self.has_status() {
                    remove(&mut edited.object, "status");
                }
                let outcome = self.create_object(edited.object, dry_run).await?;
                return Ok((201, outcome));
            };
            let old = self.value_of(&stored);
            let mut edited = edit(Some(&old))?;
            self.check_identity(&mut edited.object, &old)?;
            let new = self.prepare_update(edited.object, &old, edited.owned, dry_run)?;
            if new == old {
                return Ok((200, Outcome::Stored(stored)));
            }
            match self.store_update(&stored, &new, &old, dry_run).await {
                Ok(outcome) => return Ok((200, outcome)),
                // Compute it again: whoever named a revision now learns of the conflict.
                Err(Refused::Modified(_)) => {}
                Err(refused) => return Err(self.refused(refused, &self.place.name)),
            }
        }
        Err(self.refused(Refused::Modified(0), &self.place.name))
    }

    async fn store_update(
        &self,
        stored: &Arc<Object>,
        new: &Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<Outcome, Refused> {
        let strategy = self.strategy();
        let ends = meta::is_deleting(new)
            && super::delete::pending(new).is_empty()
            && new["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or_default()
                == 0;
        if dry_run {
            strategy.abandoned(new, Some(old), &self.ctx(true));
            let mut shown = new.clone();
            let revision = Value::String(stored.revision().to_string());
            metadata_mut(&mut shown).insert("resourceVersion".to_owned(), revision);
            return Ok(Outcome::Value(shown));
        }
        let draft = meta::draft(new, &self.resource, strategy);
        let write = Write {
            table: Arc::clone(&self.resource.table),
            key: stored.key().clone(),
            expected: Some(stored.revision()),
            change: if ends {
                Change::Delete(draft)
            } else {
                Change::Put(draft)
            },
        };
        let result = self.core.store.commit(write).await;
        let ctx = self.ctx(false);
        match &result {
            Ok(_) if ends => {
                strategy.deleted(new, &ctx);
                self.removed(new).await;
            }
            Ok(stored) => self.written(stored).await,
            Err(_) => strategy.abandoned(new, Some(old), &ctx),
        }
        result.map(Outcome::Stored)
    }

    /// Is it the object that the path names and the client read?
    fn check_identity(&self, new: &mut Value, old: &Value) -> Result<(), ApiError> {
        self.check_name(new)?;
        self.check_namespace(new)?;
        let (group, resource) = (&self.resource.group, &self.resource.resource);
        let name = &self.place.name;
        let (uid, old_uid) = (text(new, "uid"), text(old, "uid"));
        if !uid.is_empty() && uid != old_uid {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{resource}/{}, \
                 ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in \
                 precondition: {uid}, UID in object meta: {old_uid}",
                Key::new(&self.place.namespace, name).as_str()
            );
            return Err(ApiError::conflict(group, resource, name, &why));
        }
        let revision = text(new, "resourceVersion").to_owned();
        if revision.is_empty() {
            if !self.strategy().unconditional_update() || self.resource.custom.is_some() {
                let detail = "must be specified for an update";
                let cause = Cause::invalid("metadata.resourceVersion", &json!(0), detail);
                // Kubernetes names the resource here where it names the kind elsewhere.
                return Err(ApiError::invalid(group, resource, name, vec![cause]));
            }
            metadata_mut(new).insert(
                "resourceVersion".to_owned(),
                old["metadata"]["resourceVersion"].clone(),
            );
            return Ok(());
        }
        if revision != text(old, "resourceVersion") {
            if revision.parse::<u64>().is_err() {
                return Err(ApiError::unknown(format!(
                    "strconv.ParseUint: parsing {revision:?}: invalid syntax"
                )));
            }
            return Err(ApiError::modified(group, resource, name));
        }
        Ok(())
    }

    pub(super) fn check_name(&self, object: &Value) -> Result<(), ApiError> {
        let (name, wanted) = (text(object, "name"), &self.place.name);
        if name == wanted {
            return Ok(());
        }
        if name.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({wanted} based on URL) was undeterminable: name must be \
                 provided"
            )));
        }
        Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )))
    }

    fn prepare_update(
        &self,
        mut new: Value,
        old: &Value,
        owned: bool,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        let changed = meta::changed_system_fields(&new, old);
        self.confine(&mut new, old);
        meta::keep_system_fields(&mut new, old);
        if !owned {
            self.record_fields(Some(old), &mut new);
        }
        self.warn_of_finalizers(&new, Some(old));
        let ctx = self.ctx(dry_run);
        let strategy = self.strategy();
        strategy.prepare_update(&mut new, old, &ctx)?;
        if matches!(self.place.subresource.as_str(), "" | "scale") {
            self.next_generation(&mut new, old);
        }
        let mut causes = changed;
        causes.extend(meta::validate_update(&new, old, &self.resource));
        causes.extend(self.validate_custom(&new, Some(old), &causes));
        causes.extend(strategy.validate_update(&new, old, &ctx));
        if causes.is_empty() {
            crate::patch::keep_times_if_same(old, &mut new);
            return Ok(new);
        }
        strategy.abandoned(&new, Some(old), &ctx);
        Err(self.invalid(&new, causes))
    }

    /// A write to the object leaves its status alone; a write to `/status` leaves all the rest.
    fn confine(&self, new: &mut Value, old: &Value) {
        let set = |object: &mut Value, key: &str, value: Option<&Value>| match value {
            Some(value) => object[key] = value.clone(),
            None => remove(object, key),
        };
        match self.place.subresource.as_str() {
            "" if self.has_status() => set(new, "status", old.get("status")),
            "status" => {
                let mut whole = old.clone();
                set(&mut whole, "status", new.get("status"));
                if self.resource.custom.is_some() {
                    let managed = new["metadata"].get("managedFields").cloned();
                    set(&mut whole["metadata"], "managedFields", managed.as_ref());
                } else {
                    let labels = old["metadata"].get("labels");
                    set(&mut whole, "metadata", new.get("metadata"));
                    set(&mut whole["metadata"], "labels", labels);
                }
                *new = whole;
            }
            _ => {}
        }
    }

    fn next_generation(&self, new: &mut Value, old: &Value) {
        let rule = self.generation();
        if rule == Generation::None {
            return;
        }
        let ignored = |key: &str| {
            key == "metadata"
                || (key == "status" && rule == Generation::Desired && self.has_status())
        };
        let part = |object: &Value| -> Vec<(String, Value)> {
            let mut list: Vec<_> = object
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(key, _)| !ignored(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            list
        };
        if part(new) != part(old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            metadata_mut(new).insert("generation".to_owned(), json!(generation));
        }
    }
}
