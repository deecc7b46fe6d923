//! ConfigMaps and Secrets: key rules, sizes, `immutable`, `stringData`.

use super::field::{FieldErrors, Path};
use super::value::{default, object, present, remove, set, text};
use super::{Ctx, Strategy, metadata, names};
use crate::error::{ApiError, Cause};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(super) struct ConfigMap;
pub(super) struct Secret;

impl Strategy for ConfigMap {
    fn validate_create(&self, map: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate_map(map, &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate_frozen(new, old, &["data", "binaryData"], &mut errors);
        validate_map(new, &mut errors);
        errors.into_causes()
    }
}

impl Strategy for Secret {
    fn defaults(&self, secret: &mut Value) {
        default(secret, "type", "Opaque");
        // Write-only: folded into `data`, in base64 as it is stored.
        let Some(Value::Object(plain)) = secret
            .as_object_mut()
            .and_then(|map| map.shift_remove("stringData"))
        else {
            return;
        };
        let Some(data) = object(secret, "data") else {
            return;
        };
        for (key, value) in plain {
            if let Value::String(text) = value {
                set(data, &key, STANDARD.encode(text));
            }
        }
    }

    fn validate_create(&self, secret: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate_secret(secret, &mut errors);
        errors.into_causes()
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        // An update that leaves the type out keeps it.
        if !present(new, "type") {
            match old.get("type") {
                Some(kind) => set(new, "type", kind.clone()),
                None => remove(new, "type"),
            }
        }
        Ok(())
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        metadata::immutable(
            &Path::root("type"),
            new.get("type"),
            old.get("type"),
            &mut errors,
        );
        validate_frozen(new, old, &["data"], &mut errors);
        validate_secret(new, &mut errors);
        errors.into_causes()
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["type"]
    }
}

fn validate_frozen(new: &Value, old: &Value, keys: &[&str], errors: &mut FieldErrors) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.forbidden(&Path::root("immutable"), FROZEN);
    }
    for key in keys {
        let (a, b) = (
            new.get(*key).unwrap_or(&Value::Null),
            old.get(*key).unwrap_or(&Value::Null),
        );
        if !metadata::semantically_equal(a, b) {
            errors.forbidden(&Path::root(key), FROZEN);
        }
    }
}

fn validate_map(map: &Value, errors: &mut FieldErrors) {
    let mut total = 0;
    let binary = map.get("binaryData").and_then(Value::as_object);
    for (key, value) in map
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        validate_key("data", key, errors);
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            let path = Path::root("data");
            errors.invalid(
                &path.key(key),
                key.as_str(),
                "duplicate of key present in binaryData",
            );
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        validate_key("binaryData", key, errors);
        total += decoded_len(value);
    }
    if total > DATA_MAX {
        // The root has no name: this is how Kubernetes prints it.
        errors.too_long(&Path::root("[]"), DATA_MAX);
    }
}

fn validate_secret(secret: &Value, errors: &mut FieldErrors) {
    let data = secret.get("data").and_then(Value::as_object);
    let mut total = 0;
    for (key, value) in data.into_iter().flatten() {
        validate_key("data", key, errors);
        total += decoded_len(value);
    }
    let path = Path::root("data");
    if total > DATA_MAX {
        errors.too_long(&path, DATA_MAX);
    }
    let has = |key: &str| data.is_some_and(|data| data.contains_key(key));
    let mut require = |key: &str| {
        if !has(key) {
            errors.required(&path.key(key), "");
        }
    };
    match text(secret, "type").unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let account =
                secret.pointer("/metadata/annotations/kubernetes.io~1service-account.name");
            if account.and_then(Value::as_str).is_none_or(str::is_empty) {
                let (root, key) = (Path::root("metadata"), "kubernetes.io/service-account.name");
                let annotations = root.child("annotations");
                errors.required(&annotations.key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => validate_json(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" => require("ssh-privatekey"),
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

fn validate_json(
    data: Option<&serde_json::Map<String, Value>>,
    key: &str,
    errors: &mut FieldErrors,
) {
    let path = Path::root("data");
    let Some(value) = data.and_then(|data| data.get(key)) else {
        errors.required(&path.key(key), "");
        return;
    };
    let bytes = STANDARD
        .decode(value.as_str().unwrap_or_default())
        .unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        errors.invalid(
            &path.key(key),
            "<secret contents redacted>",
            &why.to_string(),
        );
    }
}

fn validate_key(field: &str, key: &str, errors: &mut FieldErrors) {
    let path = Path::root(field);
    for fault in names::config_key(key) {
        errors.invalid(&path.key(key), key, &fault);
    }
}

/// Length of base64 text once decoded, without decoding it.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3
        - text
            .bytes()
            .rev()
            .take_while(|b| *b == b'=')
            .count()
            .min(text.len() / 4 * 3)
}

const FROZEN: &str = "field is immutable when `immutable` is set";
/// Data of one ConfigMap or Secret: 1 MiB.
const DATA_MAX: usize = 1024 * 1024;
