//! Fields: unknown ones, their owners, and what custom schemas say of them.

use std::sync::LazyLock;

use serde_json::Value;

use super::Request;
use super::decode::FieldValidation;
use crate::clock::rfc3339;
use crate::error::{ApiError, Cause};
use crate::patch::{self, FieldSet, Writer};
use crate::schema;

static NOTHING: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&[]));
static STATUS: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&[&["status"]]));
static SPEC: LazyLock<FieldSet> =
    LazyLock::new(|| FieldSet::of_fields(&[&["spec"][..], &["metadata", "labels"]]));
static SPEC_AND_METADATA: LazyLock<FieldSet> =
    LazyLock::new(|| FieldSet::of_fields(&[&["spec"], &["metadata"]]));

impl Request<'_> {
    /// Brings an object into the form of its kind: fields that the kind doesn't have go, and are
    /// warned of or the object refused, as the client wishes. `repeated` tells of keys that came
    /// twice.
    pub(super) fn check_fields(
        &self,
        object: &mut Value,
        repeated: Vec<String>,
    ) -> Result<(), ApiError> {
        let decoded = self.decode_fields(object, repeated)?;
        decoded.map_err(|why| self.cannot_handle(&why))
    }

    /// As [`Self::check_fields`], where the inner error is the reason alone: a patch tells it differently.
    pub(super) fn decode_fields(
        &self,
        object: &mut Value,
        repeated: Vec<String>,
    ) -> Result<Result<(), String>, ApiError> {
        let wish = self.field_validation()?;
        let mut texts = repeated;
        let decoded = match &self.resource.custom {
            Some(custom) if !self.is_scale() => custom.schema.as_deref().map(|schema| {
                let unknown = crate::crd::decode_metadata(object)?;
                texts.extend(unknown);
                let unknown = schema.prune(object);
                texts.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
                Ok(())
            }),
            _ => {
                let (group, version, kind) = self.expected_type();
                schema::builtin(&group, &version, &kind).map(|schema| {
                    texts.extend(schema.decode(object)?.messages());
                    Ok(())
                })
            }
        };
        if let Some(Err(why)) = decoded {
            return Ok(Err(why));
        }
        Ok(match wish {
            FieldValidation::Strict if !texts.is_empty() => {
                Err(format!("strict decoding error: {}", texts.join(", ")))
            }
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Strict | FieldValidation::Warn => {
                self.warn(texts);
                Ok(())
            }
        })
    }

    fn cannot_handle(&self, why: &str) -> ApiError {
        let (_, version, kind) = self.expected_type();
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    }

    /// Records which fields this request's manager owns after a create, update or patch.
    pub(super) fn record_fields(&self, old: Option<&Value>, new: &mut Value) {
        let (manager, now) = (self.manager(), rfc3339(self.core.now()));
        let version = self.resource.api_version();
        let writer = self.writer(&manager, &version, &now);
        let schema = self.schema();
        patch::record_update(schema.as_deref(), old, new, writer, self.reset_fields());
    }

    pub(super) fn writer<'w>(
        &'w self,
        manager: &'w str,
        api_version: &'w str,
        now: &'w str,
    ) -> Writer<'w> {
        Writer {
            manager,
            api_version,
            subresource: &self.place.subresource,
            now,
        }
    }

    /// What a write to this place can't own, because it can't change it.
    pub(super) fn reset_fields(&self) -> &'static FieldSet {
        match self.place.subresource.as_str() {
            "" if self.has_status() => &STATUS,
            "status" if self.resource.custom.is_some() => &SPEC_AND_METADATA,
            "status" => &SPEC,
            _ => &NOTHING,
        }
    }

    /// Built-in kinds refuse finalizers of a poor name, custom ones only warn of them.
    pub(super) fn warn_of_finalizers(&self, new: &Value, old: Option<&Value>) {
        if self.resource.custom.is_some() {
            self.warn(crate::kinds::metadata::finalizer_warnings(new, old));
        }
    }

    /// What a CRD's schema and rules say against an object that already has these faults.
    pub(super) fn validate_custom(
        &self,
        object: &Value,
        old: Option<&Value>,
        faults: &[Cause],
    ) -> Vec<Cause> {
        let custom = self.resource.custom.as_deref();
        custom
            .map(|custom| custom.validate(object, old, faults))
            .unwrap_or_default()
    }
}
