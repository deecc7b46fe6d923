//! Creating objects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::Request;
use super::meta::{self, metadata_mut, text};
use super::print::Outcome;
use crate::clock::{name_suffix, new_uid, rfc3339};
use crate::error::{ApiError, Cause, CauseReason};
use crate::http::Body;
use crate::kinds::Generation;
use crate::schema::{self, Schema};
use crate::store::{Change, Key, Refused, Write};

/// How often a generated name is drawn again when it is taken.
const NAME_ATTEMPTS_MAX: usize = 8;
/// Generated names leave room for their suffix in a label.
const GENERATE_NAME_LENGTH_MAX: usize = 58;

impl Request<'_> {
    pub(super) async fn create(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        if !self.place.subresource.is_empty() || !self.resource.verbs.contains("get") {
            return self.connect(&body).await;
        }
        let dry_run = self.query.dry_run("CreateOptions")?;
        let mut object = self.decode(&body)?;
        if self.is_definition() {
            self.warn(crate::crd::warnings(&object));
        }
        self.record_fields_on_create(&mut object);
        let outcome = self.create_object(object, dry_run).await?;
        self.print_one(201, &outcome)
    }

    /// Creates an object that was decoded and whose fields have their owners.
    pub(super) async fn create_object(
        &self,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Outcome, ApiError> {
        self.check_namespace(&mut object)?;
        self.admit_namespace(text(&object, "name"))?;
        if self
            .resource
            .custom
            .as_ref()
            .is_some_and(|custom| custom.terminating)
        {
            return Err(ApiError::method_not_allowed());
        }
        if !text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::unknown(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.warn_of_finalizers(&object, None);
        let generated = self.name_object(&mut object);
        self.begin_life(&mut object);
        let ctx = self.ctx(dry_run);
        let strategy = self.strategy();
        strategy.prepare_create(&mut object, &ctx)?;
        let mut causes = meta::validate_create(&object, &self.resource, strategy.name_rule());
        causes.extend(self.validate_custom(&object, None, &causes));
        causes.extend(strategy.validate_create(&object, &ctx));
        if !causes.is_empty() {
            strategy.abandoned(&object, None, &ctx);
            return Err(self.invalid(&object, causes));
        }
        if dry_run {
            strategy.abandoned(&object, None, &ctx);
            return self.dry_create(object);
        }
        for _ in 0..NAME_ATTEMPTS_MAX {
            let key = Key::new(&self.place.namespace, text(&object, "name"));
            let draft = meta::draft(&object, &self.resource, strategy);
            let table = Arc::clone(&self.resource.table);
            let write = Write {
                table,
                key,
                expected: None,
                change: Change::Put(draft),
            };
            match self.core.store.commit(write).await {
                Ok(stored) => {
                    self.written(&stored).await;
                    return Ok(Outcome::Stored(stored));
                }
                Err(Refused::Failed) => {
                    strategy.abandoned(&object, None, &ctx);
                    return Err(self.refused(Refused::Failed, text(&object, "name")));
                }
                Err(_) if generated => {
                    self.name_object(&mut object);
                }
                Err(_) => break,
            }
        }
        strategy.abandoned(&object, None, &ctx);
        Err(self.already_exists(text(&object, "name")))
    }

    /// Defaults, then who owns which field: decoding gives defaults, so their owner is the client.
    pub(super) fn record_fields_on_create(&self, object: &mut Value) {
        self.apply_defaults(object);
        if self.has_status() && !self.strategy().status_on_create() {
            remove(object, "status");
        }
        self.record_fields(None, object);
    }

    pub(super) fn schema(&self) -> Option<Arc<Schema>> {
        match &self.resource.custom {
            Some(custom) => custom.schema.clone(),
            None => {
                let resource = &self.resource;
                schema::builtin(&resource.group, &resource.version, &resource.kind)
            }
        }
    }

    pub(super) fn apply_defaults(&self, object: &mut Value) {
        if let Some(schema) = self.schema() {
            if self.resource.custom.is_some() {
                schema.drop_nulls_without_meaning(object);
            }
            schema.apply_defaults(object);
        }
        self.strategy().defaults(object);
    }

    pub(super) fn has_status(&self) -> bool {
        match &self.resource.custom {
            Some(custom) => custom.has_status,
            None => self.strategy().has_status(),
        }
    }

    pub(super) fn generation(&self) -> Generation {
        match &self.resource.custom {
            Some(custom) if custom.has_status => Generation::Desired,
            Some(_) => Generation::Anything,
            None => self.strategy().generation(),
        }
    }

    pub(super) fn invalid(&self, object: &Value, causes: Vec<Cause>) -> ApiError {
        let resource = &self.resource;
        ApiError::invalid(
            &resource.group,
            &resource.kind,
            text(object, "name"),
            causes,
        )
    }

    /// The namespace in the object is the path's, or absent.
    pub(super) fn check_namespace(&self, object: &mut Value) -> Result<(), ApiError> {
        let given = text(object, "namespace");
        if !given.is_empty() && given != self.place.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        let metadata = metadata_mut(object);
        if self.resource.namespaced {
            metadata.insert("namespace".to_owned(), json!(self.place.namespace));
        } else {
            metadata.shift_remove("namespace");
        }
        Ok(())
    }

    /// Nothing is created in a namespace that isn't there or is being deleted.
    fn admit_namespace(&self, name: &str) -> Result<(), ApiError> {
        if !self.resource.namespaced {
            return Ok(());
        }
        let namespace = &self.place.namespace;
        let key = Key::new("", namespace);
        let Some(found) = self.core.store.read("namespaces", &key) else {
            return Err(ApiError::not_found("", "namespaces", namespace));
        };
        // The cheap look first: nearly every namespace that is asked for lives.
        if found.contains("\"deletionTimestamp\":") && meta::is_deleting(&found.value(b"{")) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being \
                 terminated"
            );
            let cause = Cause::new(
                CauseReason::NamespaceTerminating,
                "metadata.namespace",
                format!("namespace {namespace} is being terminated"),
            );
            let resource = &self.resource;
            return Err(
                ApiError::forbidden(&resource.group, &resource.resource, name, &why)
                    .with_causes(vec![cause]),
            );
        }
        Ok(())
    }

    /// Draws a name where the client left that to the server.
    fn name_object(&self, object: &mut Value) -> bool {
        let prefix = text(object, "generateName").to_owned();
        let uid_drawn = !text(object, "uid").is_empty();
        // A second call draws again: the first name was taken.
        if prefix.is_empty() || (!text(object, "name").is_empty() && !uid_drawn) {
            return false;
        }
        let mut prefix = prefix;
        let mut end = prefix.len().min(GENERATE_NAME_LENGTH_MAX);
        while !prefix.is_char_boundary(end) {
            end -= 1;
        }
        prefix.truncate(end);
        let name = prefix + &name_suffix(&*self.core.random);
        metadata_mut(object).insert("name".to_owned(), Value::String(name));
        true
    }

    fn begin_life(&self, object: &mut Value) {
        let generation = self.generation();
        let uid = new_uid(&*self.core.random);
        let now = rfc3339(self.core.now());
        let metadata = metadata_mut(object);
        for key in [
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            metadata.shift_remove(key);
        }
        metadata.insert("uid".to_owned(), Value::String(uid));
        metadata.insert("creationTimestamp".to_owned(), Value::String(now));
        if generation != Generation::None {
            metadata.insert("generation".to_owned(), json!(1));
        }
    }

    fn dry_create(&self, object: Value) -> Result<Outcome, ApiError> {
        let key = Key::new(&self.place.namespace, text(&object, "name"));
        if self.core.store.read(&self.resource.table, &key).is_some() {
            return Err(self.already_exists(key.name()));
        }
        Ok(Outcome::Value(object))
    }

    fn already_exists(&self, name: &str) -> ApiError {
        ApiError::already_exists(&self.resource.group, &self.resource.resource, name)
    }

    /// What a failed commit means to the client who pinned a revision.
    pub(super) fn refused(&self, refused: Refused, name: &str) -> ApiError {
        let (group, resource) = (&self.resource.group, &self.resource.resource);
        match refused {
            Refused::Exists => ApiError::already_exists(group, resource, name),
            Refused::Missing => ApiError::not_found(group, resource, name),
            Refused::Modified(_) => ApiError::modified(group, resource, name),
            Refused::Failed => ApiError::internal(refused),
        }
    }
}

pub(super) fn remove(object: &mut Value, key: &str) {
    if let Some(object) = object.as_object_mut() {
        object.shift_remove(key);
    }
}
