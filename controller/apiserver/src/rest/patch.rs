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

const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];

impl Request<'_> {
    pub(super) async fn patch(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        if self.is_scale() {
            return self.patch_scale(&body).await;
        }
        let dry_run = self.query.dry_run("PatchOptions")?;
        let kind = ContentType::of_patch(self.headers)?;
        if kind == ContentType::StrategicMergePatch && self.resource.custom.is_some() {
            return Err(ApiError::unsupported_media_type(CUSTOM_PATCH_TYPES));
        }
        if kind == ContentType::ApplyPatch {
            return self.apply(&body, dry_run).await;
        }
        if self.query.flag("force").is_some() {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(options_invalid("PatchOptions", vec![cause]));
        }
        let (patch, repeated) = match kind {
            ContentType::JsonPatch => (Value::Null, patch::json_complaints(&body)),
            _ => parse_json(&body).map_err(|_| ApiError::bad_request("invalid JSON patch"))?,
        };
        if patch.is_array() {
            let why = "error decoding patch: json: cannot unmarshal array into Go value of type \
                       map[string]interface {}";
            return Err(ApiError::bad_request(why));
        }
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            let old = old.ok_or_else(|| self.not_found())?;
            let object = self.patched(kind, old, &patch, &body)?;
            self.keeps_uid(&object, old)?;
            let mut object = self.check_type(object)?;
            if let Err(why) = self.decode_fields(&mut object, repeated.clone())? {
                let shown = match kind {
                    ContentType::StrategicMergePatch => patch::printed(&patch),
                    _ => self.patched(kind, old, &patch, &body)?.to_string(),
                };
                let cause = Cause::invalid("patch", &Value::String(shown), &why);
                return Err(ApiError::invalid("", "", "", vec![cause]));
            }
            self.apply_defaults(&mut object);
            Ok(Edited {
                object,
                owned: false,
            })
        };
        self.edit(&edit, false, dry_run).await
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

    fn patched(
        &self,
        kind: ContentType,
        old: &Value,
        patch: &Value,
        body: &[u8],
    ) -> Result<Value, ApiError> {
        match kind {
            ContentType::JsonPatch => patch::json(old, body).map_err(|error| match error {
                JsonPatchError::Malformed(why) => ApiError::bad_request(why),
                JsonPatchError::Failed(_) => ApiError::unprocessable(),
                JsonPatchError::TooMany(_) => ApiError::too_large(error.to_string()),
            }),
            ContentType::StrategicMergePatch => {
                let schema = self
                    .schema()
                    .ok_or_else(|| ApiError::unsupported_media_type(CUSTOM_PATCH_TYPES))?;
                patch::strategic(&schema, old.clone(), patch.clone()).map_err(|error| match error {
                    StrategicError::BadRequest(why) => ApiError::bad_request(why),
                    StrategicError::Failed(why) => ApiError::unknown(why),
                    StrategicError::ListsOfLists => ApiError::unprocessable(),
                })
            }
            _ => {
                let mut object = old.clone();
                patch::merge(&mut object, patch);
                Ok(object)
            }
        }
    }

    async fn apply(&self, body: &[u8], dry_run: bool) -> Result<Response<Body>, ApiError> {
        let Some(manager) = self.query.text("fieldManager") else {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(options_invalid("PatchOptions", vec![cause]));
        };
        let force = self.query.flag("force") == Some(true);
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
        let config = self.check_type(config)?;
        let version = self.resource.api_version();
        let now = rfc3339(self.core.now());
        let schema = self.schema();
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            let writer = self.writer(manager, &version, &now);
            let schema = schema.as_deref();
            let reset = self.reset_fields();
            let terms = patch::Terms {
                writer,
                reset,
                force,
            };
            let applied =
                patch::apply(schema, old, &config, terms).map_err(|error| match error {
                    ApplyError::BadRequest(why) => ApiError::bad_request(why),
                    ApplyError::NotTyped(why) => ApiError::unknown(why),
                    ApplyError::Conflict { message, causes } => {
                        ApiError::apply_conflict(causes, message)
                    }
                })?;
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
        };
        self.edit(&edit, true, dry_run).await
    }
}
