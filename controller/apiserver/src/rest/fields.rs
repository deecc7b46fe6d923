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
    ) -> Result<Vec<String>, ApiError> {
        let wish = self.field_validation()?;
        let mut texts = repeated;
        match &self.resource.custom {
            Some(custom) => {
                if let Some(schema) = &custom.schema {
                    let unknown = schema.prune(object);
                    texts.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
                }
            }
            None => {
                let (group, version, kind) = self.expected_type();
                if let Some(schema) = schema::builtin(&group, &version, &kind) {
                    let decoded = schema
                        .decode(object)
                        .map_err(|why| self.cannot_handle(&why))?;
                    texts.extend(decoded.messages());
                }
            }
        }
        match wish {
            FieldValidation::Strict if !texts.is_empty() => {
                let message = format!("strict decoding error: {}", texts.join(", "));
                Err(match self.resource.custom {
                    Some(_) => ApiError::bad_request(message),
                    None => self.cannot_handle(&message),
                })
            }
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict | FieldValidation::Warn => Ok(texts),
        }
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

    /// What a CRD's schema and rules say against an object.
    pub(super) fn validate_custom(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let custom = self.resource.custom.as_deref();
        custom
            .map(|custom| custom.validate(object, old))
            .unwrap_or_default()
    }
}
