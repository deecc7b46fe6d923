//! Validation of `metadata` and of label selectors, the same for all kinds.

use super::field::{FieldErrors, Path};
use super::names::{self, NameRule};
use super::value::{list, text};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Checks the metadata of an object about to be created, its name already generated.
pub fn validate_create(object: &Value, namespaced: bool, rule: NameRule, errors: &mut FieldErrors) {
    let meta = &object["metadata"];
    let path = Path::root("metadata");
    if let Some(prefix) = text(meta, "generateName") {
        for fault in rule.faults(prefix, true) {
            errors.invalid(&path.child("generateName"), prefix, &fault);
        }
    }
    match text(meta, "name") {
        None => errors.required(&path.child("name"), "name or generateName is required"),
        Some(name) => {
            for fault in rule.faults(name, false) {
                errors.invalid(&path.child("name"), name, &fault);
            }
        }
    }
    match (namespaced, text(meta, "namespace")) {
        (true, None) => errors.required(&path.child("namespace"), ""),
        (true, Some(namespace)) => {
            for fault in names::label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, &fault);
            }
        }
        (false, Some(_)) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
        (false, None) => {}
    }
    validate_common(meta, errors);
    validate_finalizers(meta, &path, errors);
}

/// Checks what changed in the metadata of an existing object.
pub fn validate_update(object: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("metadata");
    let (meta, old_meta) = (&object["metadata"], &old["metadata"]);
    if old_meta
        .get("deletionTimestamp")
        .is_some_and(|at| !at.is_null())
    {
        let had: BTreeSet<&str> = list(old_meta, "finalizers")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let added: Vec<String> = list(meta, "finalizers")
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !had.contains(name))
            .map(|name| format!("{name:?}"))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if !added.is_empty() {
            errors.forbidden(
                &path.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        immutable(&path.child(key), meta.get(key), old_meta.get(key), errors);
    }
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if old_meta.get(key).is_some_and(|at| !at.is_null())
            || meta.get(key).is_some_and(|at| !at.is_null())
        {
            immutable(&path.child(key), meta.get(key), old_meta.get(key), errors);
        }
    }
    validate_common(meta, errors);
}

/// What is doubtful about the finalizers that `new` has and `old` had not.
pub fn finalizer_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map_or(&[][..], |old| list(&old["metadata"], "finalizers"));
    let added = list(&new["metadata"], "finalizers")
        .iter()
        .filter(|finalizer| !known.contains(finalizer))
        .filter_map(Value::as_str);
    let mut warnings = Vec::new();
    for name in added {
        let mut faults = names::qualified_name(name);
        if !name.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(&name) {
            faults.push(UNQUALIFIED.to_owned());
        }
        let texts = faults
            .iter()
            .map(|why| format!("metadata.finalizers: {name:?}: {why}"));
        warnings.extend(texts);
    }
    warnings.sort();
    warnings
}

/// Checks a map of labels.
pub fn validate_labels(labels: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for fault in names::qualified_name(key) {
            errors.invalid(path, key.as_str(), &fault);
        }
        let value = value.as_str().unwrap_or_default();
        for fault in names::label_value(value) {
            errors.invalid(path, value, &fault);
        }
    }
}

/// Checks a `LabelSelector`; null is fine.
pub fn validate_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let path = expressions.index(index);
        let values = list(requirement, "values");
        let operator = requirement["operator"].as_str().unwrap_or_default();
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = requirement["key"].as_str().unwrap_or_default();
        for fault in names::qualified_name(key) {
            errors.invalid(&path.child("key"), key, &fault);
        }
        let values_path = path.child("values");
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for fault in names::label_value(value) {
                errors.invalid(&values_path.index(index), value, &fault);
            }
        }
    }
}

/// Whether a (valid) `LabelSelector` selects `labels`. An empty selector selects everything.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| label(key) == value.as_str())
        && list(selector, "matchExpressions")
            .iter()
            .all(|requirement| {
                let found = label(requirement["key"].as_str().unwrap_or_default());
                let named = || {
                    list(requirement, "values")
                        .iter()
                        .any(|value| value.as_str() == found)
                };
                match requirement["operator"].as_str() {
                    Some("In") => found.is_some() && named(),
                    Some("NotIn") => found.is_none() || !named(),
                    Some("Exists") => found.is_some(),
                    Some("DoesNotExist") => found.is_none(),
                    _ => false,
                }
            })
}

/// Whether a selector has no requirement at all.
pub fn selector_is_empty(selector: &Value) -> bool {
    selector["matchLabels"]
        .as_object()
        .is_none_or(Map::is_empty)
        && list(selector, "matchExpressions").is_empty()
}

/// Reports a change of `path`, treating null, absent and empty as equal as Kubernetes does.
pub fn immutable(
    path: &Path<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
    errors: &mut FieldErrors,
) {
    if !semantically_equal(new.unwrap_or(&Value::Null), old.unwrap_or(&Value::Null)) {
        errors.invalid(path, new.cloned().unwrap_or(Value::Null), IMMUTABLE);
    }
}

/// Deep equality where null, absent, empty list and empty map are the same.
pub fn semantically_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter()
                .all(|(key, value)| semantically_equal(value, y.get(key).unwrap_or(&Value::Null)))
                && y.iter()
                    .all(|(key, value)| x.contains_key(key) || is_void(value))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| semantically_equal(a, b))
        }
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        _ => a == b || (is_void(a) && is_void(b)),
    }
}

fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_void),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn validate_common(meta: &Value, errors: &mut FieldErrors) {
    let path = Path::root("metadata");
    if let Some(generation) = meta
        .get("generation")
        .and_then(Value::as_i64)
        .filter(|g| *g < 0)
    {
        errors.invalid(
            &path.child("generation"),
            generation,
            "must be greater than or equal to 0",
        );
    }
    validate_labels(
        meta.get("labels").unwrap_or(&Value::Null),
        &path.child("labels"),
        errors,
    );
    validate_annotations(meta, &path, errors);
    validate_owners(meta, &path, errors);
}

fn validate_finalizers(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("finalizers");
    let finalizers = list(meta, "finalizers");
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        for fault in names::qualified_name(finalizer) {
            errors.invalid(&path, finalizer, &fault);
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND) {
        errors.invalid(
            &path,
            finalizers.to_vec(),
            &format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"),
        );
    }
}

/// Built-in kinds want finalizers with a domain, except for the three that Kubernetes owns.
pub fn validate_kube_finalizers(object: &Value, errors: &mut FieldErrors) {
    let path = Path::root("metadata");
    let path = path.child("finalizers");
    for (index, finalizer) in list(&object["metadata"], "finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if !finalizer.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(&finalizer) {
            errors.invalid(
                &path.index(index),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

fn validate_annotations(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(annotations) = meta.get("annotations").and_then(Value::as_object) else {
        return;
    };
    let path = path.child("annotations");
    let mut total = 0;
    for (key, value) in annotations {
        total += key.len() + value.as_str().map_or(0, str::len);
        let faults = if key.bytes().any(|b| b.is_ascii_uppercase()) {
            names::qualified_name(&key.to_lowercase())
        } else {
            names::qualified_name(key)
        };
        for fault in faults {
            errors.invalid(&path, key.as_str(), &fault);
        }
    }
    if total > ANNOTATIONS_MAX {
        errors.too_long(&path, ANNOTATIONS_MAX);
    }
}

fn validate_owners(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let owners = list(meta, "ownerReferences");
    let path = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        let path = path.index(index);
        match text(owner, "apiVersion") {
            None => errors.required(&path.child("apiVersion"), "must not be empty"),
            Some(version) if version.matches('/').count() > 1 || version.ends_with('/') => errors
                .invalid(
                    &path.child("apiVersion"),
                    version,
                    "must be <group>/<version> or <version>",
                ),
            Some("v1") if owner["kind"] == "Event" => {
                errors.invalid(
                    &path,
                    owner.clone(),
                    "/v1, Kind=Event is disallowed from being an owner",
                );
            }
            Some(_) => {}
        }
        for key in ["kind", "name", "uid"] {
            if text(owner, key).is_none() {
                errors.required(&path.child(key), "must not be empty");
            }
        }
        if owner["controller"] == true {
            let name = format!(
                "{}/{}",
                owner["kind"].as_str().unwrap_or_default(),
                owner["name"].as_str().unwrap_or_default()
            );
            match &controller {
                None => controller = Some(name),
                Some(first) => errors.invalid(
                    &Path::root("metadata").child("ownerReferences"),
                    owners.to_vec(),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                ),
            }
        }
    }
}

/// Text of a refused change.
pub const IMMUTABLE: &str = "field is immutable";
/// Finalizer of a deletion that leaves dependents behind.
pub const ORPHAN: &str = "orphan";
/// Finalizer of a deletion that waits for dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
const ANNOTATIONS_MAX: usize = 256 * 1024;
const UNQUALIFIED: &str = "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers";
