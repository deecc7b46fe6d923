//! Patching objects: four media types, one edit.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::Request;
use super::decode::{FieldValidation, joined, parse_json, parse_yaml_leniently};
use super::update::Edited;
use crate::clock::rfc3339;
use crate::error::{ApiError, Cause};
use crate::http::{Body, ContentType, options_invalid};
use crate::patch::{self, ApplyError, JsonPatchError, StrategicError};
use crate::schema::{self, go_type};

const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];

/// A patch that is no apply.
struct Patch<'b> {
    kind: ContentType,
    /// Its document, unless it is a list of operations.
    patch: Value,
    body: &'b [u8],
    /// Complaints of keys that came twice.
    repeated: Vec<String>,
}

impl Request<'_> {
    pub(super) async fn patch(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let dry_run = self.query.dry_run("PatchOptions")?;
        let kind = self.patch_type()?;
        if kind == ContentType::ApplyPatch {
            let edit = self.application(&body)?;
            return self.edit(&edit, !self.is_scale(), dry_run).await;
        }
        if self.query.flag("force").is_some() {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(options_invalid("PatchOptions", vec![cause]));
        }
        let (patch, repeated) = match kind {
            ContentType::JsonPatch => (Value::Null, patch::json_complaints(&body)),
            _ => merge_patch(&body)?,
        };
        let patch = Patch {
            kind,
            patch,
            body: &body,
            repeated,
        };
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            let old = old.ok_or_else(|| self.not_found())?;
            if self.is_scale() {
                let scale = self.patch_object(&patch, &self.scale_of(old)?)?;
                return self.with_scale(old, scale);
            }
            let mut object = self.patch_object(&patch, old)?;
            self.apply_defaults(&mut object);
            Ok(Edited {
                object,
                owned: false,
            })
        };
        self.edit(&edit, false, dry_run).await
    }

    fn patch_type(&self) -> Result<ContentType, ApiError> {
        let kind = ContentType::of_patch(self.headers);
        if self.resource.custom.is_none() || self.is_scale() {
            return kind;
        }
        let kind = kind
            .ok()
            .filter(|kind| *kind != ContentType::StrategicMergePatch);
        kind.ok_or_else(|| ApiError::unsupported_media_type(CUSTOM_PATCH_TYPES))
    }

    /// What becomes of an object, or of its Scale, that is patched: of the right type, and with no other fields than it has.
    fn patch_object(&self, patch: &Patch<'_>, old: &Value) -> Result<Value, ApiError> {
        let patched = self.patched(patch, old)?;
        let refused = |why: &str| {
            let shown = match patch.kind {
                ContentType::StrategicMergePatch => patch::printed(&patch.patch),
                _ => patched.to_string(),
            };
            let cause = Cause::invalid("patch", &Value::String(shown), why);
            ApiError::invalid("", "", "", vec![cause])
        };
        self.keeps_uid(&patched, old)?;
        let is_builtin = self.resource.custom.is_none() && patched.is_object();
        let mut object = self.check_type(patched.clone()).map_err(|error| {
            if is_builtin {
                refused(error.message())
            } else {
                error
            }
        })?;
        match self.decode_fields(&mut object, patch.repeated.clone())? {
            Ok(()) => Ok(object),
            Err(why) => Err(refused(&why)),
        }
    }

    /// A patch can't name another object: to it the uid is a field like any other, which nobody may change.
    fn keeps_uid(&self, new: &Value, old: &Value) -> Result<(), ApiError> {
        let (new_uid, old_uid) = (&new["metadata"]["uid"], &old["metadata"]["uid"]);
        if new_uid.is_null() || new_uid == old_uid {
            return Ok(());
        }
        let cause = Cause::invalid("metadata.uid", new_uid, "field is immutable");
        Err(self.invalid(old, vec![cause]))
    }

    fn patched(&self, patch: &Patch<'_>, old: &Value) -> Result<Value, ApiError> {
        match patch.kind {
            ContentType::JsonPatch => patch::json(old, patch.body).map_err(|error| match error {
                JsonPatchError::Malformed(why) => ApiError::bad_request(why),
                JsonPatchError::Failed(_) => ApiError::unprocessable(),
                JsonPatchError::TooMany(_) => ApiError::too_large(error.to_string()),
            }),
            ContentType::StrategicMergePatch => {
                let (group, version, kind) = self.expected_type();
                let schema = schema::builtin(&group, &version, &kind)
                    .ok_or_else(|| ApiError::unsupported_media_type(CUSTOM_PATCH_TYPES))?;
                let patched = patch::strategic(&schema, old.clone(), patch.patch.clone());
                patched.map_err(|error| match error {
                    StrategicError::BadRequest(why) => ApiError::bad_request(why),
                    StrategicError::Failed(why) => ApiError::unknown(why),
                    StrategicError::ListsOfLists => ApiError::unprocessable(),
                })
            }
            _ => {
                let mut object = old.clone();
                patch::merge(&mut object, &patch.patch);
                Ok(object)
            }
        }
    }

    /// What an apply makes of an object, or of its Scale.
    fn application(
        &self,
        body: &[u8],
    ) -> Result<impl Fn(Option<&Value>) -> Result<Edited, ApiError> + Send + Sync + '_, ApiError>
    {
        let Some(manager) = self.query.text("fieldManager") else {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(options_invalid("PatchOptions", vec![cause]));
        };
        let force = self.query.flag("force") == Some(true);
        let (config, repeated) = self.configuration(body)?;
        let version = self.resource.api_version();
        let now = rfc3339(self.core.now());
        let schema = self.schema();
        Ok(move |old: Option<&Value>| -> Result<Edited, ApiError> {
            let writer = self.writer(manager, &version, &now);
            if self.is_scale() {
                let old = old.ok_or_else(|| self.not_found())?;
                return self.with_applied_scale(old, &config, writer, force);
            }
            let schema = schema.as_deref();
            let reset = self.reset_fields();
            let terms = patch::Terms {
                writer,
                reset,
                force,
            };
            let applied = patch::apply(schema, old, &config, terms).map_err(not_applied)?;
            let mut object = applied.object;
            if !repeated.is_empty() && self.field_validation()? == FieldValidation::Strict {
                let why = format!(
                    "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
                    repeated.join("\n  ")
                );
                return Err(ApiError::bad_request(why));
            }
            if let Some(old) = old {
                self.keeps_uid(&object, old)?;
            }
            self.check_fields(&mut object, repeated.clone())?;
            self.apply_defaults(&mut object);
            Ok(Edited {
                object,
                owned: true,
            })
        })
    }

    /// The configuration that an apply sends, and the keys that came twice.
    fn configuration(&self, body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
        let (config, repeated) = parse_yaml_leniently(body).map_err(|why| {
            let why = format!("error decoding patch: error converting YAML to JSON: {why}");
            ApiError::bad_request(why)
        })?;
        if !config.is_object() {
            let why = "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot \
                       unmarshal array into Go value of type map[string]interface {}";
            return Err(ApiError::bad_request(why));
        }
        let (group, version, kind) = self.expected_type();
        let wanted = json!({"apiVersion": joined(&group, &version), "kind": kind});
        if patch::kind_title(&config) != patch::kind_title(&wanted) {
            let given = patch::kind_title(&config);
            return Err(ApiError::bad_request(format!(
                "invalid object type: {given}"
            )));
        }
        Ok((self.check_type(config)?, repeated))
    }
}

/// The document of a merge patch, and the keys that came twice.
fn merge_patch(body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let (patch, repeated) =
        parse_json(body).map_err(|_| ApiError::bad_request("invalid JSON patch"))?;
    match &patch {
        Value::Object(_) => Ok((patch, repeated)),
        Value::Null => Err(ApiError::bad_request("Invalid JSON Patch")),
        other => Err(ApiError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_type(other)
        ))),
    }
}

pub(super) fn not_applied(error: ApplyError) -> ApiError {
    match error {
        ApplyError::BadRequest(why) => ApiError::bad_request(why),
        ApplyError::NotTyped(why) => ApiError::unknown(why),
        ApplyError::Conflict { message, causes } => ApiError::apply_conflict(causes, message),
    }
}
