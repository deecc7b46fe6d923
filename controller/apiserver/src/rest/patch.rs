//! Patching objects: four media types, one edit.

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::Request;
use super::decode::{drop_nulls, parse_json, parse_yaml};
use super::update::Edited;
use crate::error::{ApiError, Cause};
use crate::http::{Body, ContentType, options_invalid};

const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];

impl Request<'_> {
    pub(super) async fn patch(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
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
        let patch = match kind {
            ContentType::JsonPatch => None,
            _ => Some(parse_json(&body)?),
        };
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            let old = old.ok_or_else(|| self.not_found())?;
            let object = self.patched(kind, old, patch.as_ref(), &body)?;
            let mut object = self.check_type(object)?;
            let warnings = self.check_fields(&mut object)?;
            self.apply_defaults(&mut object);
            Ok(Edited {
                object,
                warnings,
                owned: false,
            })
        };
        self.edit(&edit, false, dry_run).await
    }

    fn patched(
        &self,
        kind: ContentType,
        old: &Value,
        patch: Option<&Value>,
        body: &[u8],
    ) -> Result<Value, ApiError> {
        let _ = (kind, body);
        Ok(merge(old, patch.unwrap_or(&Value::Null)))
    }

    async fn apply(&self, body: &[u8], dry_run: bool) -> Result<Response<Body>, ApiError> {
        if self.query.text("fieldManager").is_none() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(options_invalid("PatchOptions", vec![cause]));
        }
        let mut applied = self.check_type(parse_yaml(body)?)?;
        drop_nulls(&mut applied);
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            let mut object = match old {
                Some(old) => merge(old, &applied),
                None => applied.clone(),
            };
            let warnings = self.check_fields(&mut object)?;
            self.apply_defaults(&mut object);
            Ok(Edited {
                object,
                warnings,
                owned: false,
            })
        };
        self.edit(&edit, true, dry_run).await
    }
}

fn merge(old: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else {
        return patch.clone();
    };
    let mut merged = old.as_object().cloned().unwrap_or_default();
    for (key, change) in changes {
        if change.is_null() {
            merged.shift_remove(key);
        } else {
            let before = merged.get(key).cloned().unwrap_or(Value::Null);
            merged.insert(key.clone(), merge(&before, change));
        }
    }
    Value::Object(merged)
}
