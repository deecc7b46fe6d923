//! The rules for CustomResourceDefinitions themselves.

mod schema;

use serde_json::{Map, Value, json};

use crate::error::{ApiError, Cause};
use crate::kinds::field::{FieldErrors, Path};
use crate::kinds::{Ctx, Generation, Strategy, names};

/// The kind's strategy: what the REST layer asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Definition;

impl Strategy for Definition {
    fn defaults(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
            let kind = names
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            set_missing(names, "singular", &kind.to_lowercase());
            set_missing(
                names,
                "listKind",
                &if kind.is_empty() {
                    kind
                } else {
                    format!("{kind}List")
                },
            );
        }
        spec.entry("conversion")
            .or_insert_with(|| json!({"strategy": "None"}));
    }

    fn prepare_create(&self, object: &mut Value, _ctx: &Ctx<'_>) -> Result<(), ApiError> {
        object["status"] = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}});
        record_storage_version(object);
        Ok(())
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        if ctx.subresource.is_empty() {
            record_storage_version(new);
        }
        Ok(())
    }

    fn validate_create(&self, object: &Value, _ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        name_fits(object, &mut errors);
        validate(object, &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        if ctx.subresource.is_empty() && new["spec"] != old["spec"] {
            validate(new, &mut errors);
            keeps_identity(new, old, &mut errors);
        }
        errors.into_causes()
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

fn set_missing(map: &mut Map<String, Value>, key: &str, value: &str) {
    let empty = map
        .get(key)
        .and_then(Value::as_str)
        .is_none_or(str::is_empty);
    if empty && !value.is_empty() {
        map.insert(key.to_owned(), Value::String(value.to_owned()));
    }
}

/// Every version that was ever the storage version stays in the status.
fn record_storage_version(object: &mut Value) {
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let storage = versions
        .into_iter()
        .find(|version| version["storage"] == true);
    let Some(name) = storage.map(|version| version["name"].clone()) else {
        return;
    };
    let stored = &mut object["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(list) if list.contains(&name) => {}
        Some(list) => list.push(name),
        None => *stored = json!([name]),
    }
}

fn name_fits(object: &Value, errors: &mut FieldErrors) {
    let metadata = Path::root("metadata");
    let name = text(&object["metadata"], "name");
    let (group, plural) = (
        text(&object["spec"], "group"),
        text(&object["spec"]["names"], "plural"),
    );
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&metadata.child("name"), name, detail);
    }
}

/// Everything wrong with a definition, apart from its name.
#[cfg(test)]
pub(super) fn faults(object: &Value) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    validate(object, &mut errors);
    errors.into_causes()
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    group(text(spec, "group"), &path, errors);
    match spec.get("scope").and_then(Value::as_str) {
        Some("Cluster" | "Namespaced") => {}
        None | Some("") => errors.required(&path.child("scope"), ""),
        Some(other) => {
            errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"]);
        }
    }
    names_of(&spec["names"], &path.child("names"), errors);
    versions(spec, &path, errors);
    conversion(spec, &path.child("conversion"), errors);
    if spec["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    stored_versions(object, errors);
    approval(object, errors);
}

fn stored_versions(object: &Value, errors: &mut FieldErrors) {
    let stored = items(&object["status"], "storedVersions");
    let status = Path::root("status");
    let path = status.child("storedVersions");
    if stored.is_empty() {
        errors.invalid(&path, Value::Null, "must have at least one stored version");
        return;
    }
    let mut rest: Vec<_> = stored.iter().collect();
    for version in items(&object["spec"], "versions") {
        match rest.iter().position(|name| **name == version["name"]) {
            Some(at) => {
                rest.remove(at);
            }
            None if version["storage"] == true => {
                let detail = format!("must have the storage version {}", text(version, "name"));
                errors.invalid(&path, Value::Array(stored.to_vec()), &detail);
            }
            None => {}
        }
    }
}

fn group(group: &str, spec: &Path<'_>, errors: &mut FieldErrors) {
    let path = spec.child("group");
    let faults = names::subdomain(group);
    if group.is_empty() {
        errors.required(&path, "");
    } else if !faults.is_empty() {
        errors.invalid(&path, group, &faults.join(","));
    } else if !group.contains('.') {
        errors.invalid(&path, group, "should be a domain with at least one dot");
    }
}

fn names_of(list: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mixed = "may have mixed case, but should otherwise match: ";
    for (key, prefix) in [
        ("plural", ""),
        ("singular", ""),
        ("kind", mixed),
        ("listKind", mixed),
    ] {
        let name = text(list, key);
        if name.is_empty() {
            errors.required(&path.child(key), "");
            continue;
        }
        let checked = if prefix.is_empty() {
            name.to_owned()
        } else {
            name.to_lowercase()
        };
        let faults = names::label_1035(&checked);
        if !faults.is_empty() {
            errors.invalid(
                &path.child(key),
                name,
                &format!("{prefix}{}", faults.join(",")),
            );
        }
    }
    let (kind, list_kind) = (text(list, "kind"), text(list, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.invalid(&path.child("listKind"), list_kind, detail);
    }
    for key in ["shortNames", "categories"] {
        for (at, name) in items(list, key).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let faults = names::label_1035(name);
            if !faults.is_empty() {
                errors.invalid(&path.child(key).index(at), name, &faults.join(","));
            }
        }
    }
}

/// What all versions have in common is named once, at the places where the first CRDs had it.
fn versions(spec: &Value, root: &Path<'_>, errors: &mut FieldErrors) {
    let path = &root.child("versions");
    let list = items(spec, "versions");
    let shared = |key: &str| {
        list.iter()
            .all(|version| version.get(key) == list[0].get(key))
    };
    for (at, version) in list.iter().enumerate() {
        let path = path.index(at);
        let name = text(version, "name");
        let faults = names::label_1035(name);
        if !faults.is_empty() {
            errors.invalid(&path.child("name"), name, &faults.join(","));
        }
        let holder = path.child("schema");
        let own = holder.child("openAPIV3Schema");
        match version
            .get("schema")
            .and_then(|schema| schema.get("openAPIV3Schema"))
        {
            None => errors.required(&own, ""),
            Some(node) if !shared("schema") => schema::validate(node, &own, errors),
            Some(_) => {}
        }
        if !shared("additionalPrinterColumns") {
            printer_columns(version, &path.child("additionalPrinterColumns"), errors);
        }
        if !shared("subresources") {
            scale(
                &version["subresources"]["scale"],
                &path.child("subresources"),
                errors,
            );
        }
    }
    if let Some(first) = list.first() {
        if let Some(node) = first["schema"]
            .get("openAPIV3Schema")
            .filter(|_| shared("schema"))
        {
            let holder = root.child("validation");
            schema::validate(node, &holder.child("openAPIV3Schema"), errors);
        }
        if shared("additionalPrinterColumns") {
            printer_columns(first, &root.child("additionalPrinterColumns"), errors);
        }
        if shared("subresources") {
            scale(
                &first["subresources"]["scale"],
                &root.child("subresources"),
                errors,
            );
        }
    }
    distinct_versions(list, path, errors);
}

fn distinct_versions(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let unique = list.iter().enumerate().all(|(at, version)| {
        list[..at]
            .iter()
            .all(|earlier| earlier["name"] != version["name"])
    });
    let shown = || Value::Array(list.to_vec());
    if !unique {
        errors.invalid(path, shown(), "must contain unique version names");
    }
    if list
        .iter()
        .filter(|version| version["storage"] == true)
        .count()
        != 1
    {
        errors.invalid(
            path,
            shown(),
            "must have exactly one version marked as storage version",
        );
    }
}

fn printer_columns(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (at, column) in items(version, "additionalPrinterColumns")
        .iter()
        .enumerate()
    {
        printer_column(column, &path.index(at), errors);
    }
}

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
    "string",
];

fn printer_column(column: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(column, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errors.required(&path.child("type"), &types),
        known if COLUMN_TYPES.contains(&known) => {}
        other => errors.invalid(&path.child("type"), other, &types),
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.invalid(&path.child("format"), format, &detail);
    }
    match text(column, "jsonPath") {
        "" => errors.required(&path.child("JSONPath"), ""),
        simple if simple.starts_with('.') => {}
        other => {
            let detail = "must be a simple json path starting with .";
            errors.invalid(&path.child("JSONPath"), other, detail);
        }
    }
}

fn scale(scale: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !scale.is_object() {
        return;
    }
    let rules = [
        (
            "specReplicasPath",
            "scale.specReplicasPath",
            ".spec.",
            "should be a json path under .spec",
        ),
        (
            "statusReplicasPath",
            "scale.statusReplicasPath",
            ".status.",
            "should be a json path under .status",
        ),
    ];
    for (key, name, prefix, detail) in rules {
        match text(scale, key) {
            "" => errors.required(&path.child(name), ""),
            right if right.starts_with(prefix) => {}
            other => errors.invalid(&path.child(name), other, detail),
        }
    }
    let selector = text(scale, "labelSelectorPath");
    let right = selector.starts_with(".spec.") || selector.starts_with(".status.");
    if !selector.is_empty() && !right {
        let detail = "should be a json path under either .spec or .status";
        errors.invalid(&path.child("scale.labelSelectorPath"), selector, detail);
    }
}

fn conversion(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let conversion = &spec["conversion"];
    match text(conversion, "strategy") {
        "" => errors.required(&path.child("strategy"), ""),
        "None" if conversion.get("webhook").is_some() => {
            let detail = "should not be set when strategy is not set to Webhook";
            errors.forbidden(&path.child("webhook"), detail);
        }
        "None" => {}
        // No webhooks are called here: a listed difference.
        "Webhook" => errors.not_supported(&path.child("strategy"), "Webhook", &["None"]),
        other => errors.not_supported(&path.child("strategy"), other, &["None", "Webhook"]),
    }
}

/// Groups of the Kubernetes project need its approval, or a note that there is none.
fn approval(object: &Value, errors: &mut FieldErrors) {
    let group = text(&object["spec"], "group");
    let of_project = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    if !of_project("k8s.io") && !of_project("kubernetes.io") {
        return;
    }
    let metadata = Path::root("metadata");
    let annotations = metadata.child("annotations");
    let path = annotations.key(APPROVAL);
    match object["metadata"]["annotations"][APPROVAL].as_str() {
        None | Some("") => {
            let detail = format!(
                "protected groups must have approval annotation {APPROVAL:?}, see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            );
            errors.required(&path, &detail);
        }
        Some(value) if value.starts_with("unapproved") || value.contains("://") => {}
        Some(other) => {
            let detail = "protected groups must have approval annotation set to a URL or start with \
                          \"unapproved\"";
            errors.invalid(&path, other, detail);
        }
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

fn keeps_identity(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let spec = Path::root("spec");
    let names = spec.child("names");
    let mut immutable = |new: &Value, old: &Value, path: &Path<'_>| {
        if new != old {
            errors.invalid(path, new.clone(), "field is immutable");
        }
    };
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    if super::status::is_true(old, "Established") {
        immutable(&new_spec["scope"], &old_spec["scope"], &spec.child("scope"));
        immutable(
            &new_spec["names"]["kind"],
            &old_spec["names"]["kind"],
            &names.child("kind"),
        );
    }
    immutable(&new_spec["group"], &old_spec["group"], &spec.child("group"));
    immutable(
        &new_spec["names"]["plural"],
        &old_spec["names"]["plural"],
        &names.child("plural"),
    );
    let stored = old["status"]["storedVersions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let status = Path::root("status");
    let path = status.child("storedVersions");
    for (at, name) in stored.iter().enumerate() {
        if items(new_spec, "versions")
            .iter()
            .any(|version| version["name"] == *name)
        {
            continue;
        }
        let version = name.as_str().unwrap_or_default();
        let detail = format!(
            "missing from spec.versions; {version} was previously a storage version, and must remain in \
             spec.versions until a storage migration ensures no data remains persisted in {version} and \
             removes {version} from status.storedVersions"
        );
        errors.invalid(&path.index(at), version, &detail);
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}
