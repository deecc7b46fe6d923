//! Custom resource definitions: what they must look like, which of them are served, and what their versions need at run time.
//!
//! A served version keeps its compiled schema and rules ([`Custom`]). Compiled versions are shared by content among all servers
//! of the process, so a thousand servers with the same CRDs hold one copy. Conversion between versions is `None`: only the
//! apiVersion differs.

mod definition;
mod rules;
mod status;
mod structural;
mod values;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::discovery::version_rank;
use crate::error::{Cause, CauseReason};
use crate::resource::{Resource, Subresource, Verbs, table_name};
use crate::schema::Schema;

pub(crate) use definition::Definition;
pub(crate) use status::{CLEANUP, is_true, released, settled, terminating};

/// What a resource of a CRD has beyond a built-in one.
#[derive(Debug, Clone)]
pub struct Custom {
    /// The CRD's name.
    pub crd: String,
    pub schema: Option<Arc<Schema>>,
    version: Arc<Version>,
    pub has_status: bool,
    pub scale: Option<Scale>,
    /// `additionalPrinterColumns` of the version, as they are written in the CRD.
    pub printer_columns: Vec<Value>,
    pub selectable_fields: Vec<String>,
    /// The CRD is being deleted: nothing new is created.
    pub terminating: bool,
}

/// Where the scale subresource finds its numbers: paths like `.spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// Empty for none.
    pub selector: String,
}

/// A version's schema and rules, ready to use.
#[derive(Debug)]
struct Version {
    /// Of the schema's text.
    digest: [u8; 32],
    schema: Arc<Schema>,
    rules: rules::Rules,
}

// === impl Custom ===

impl Custom {
    /// Everything that the schema and its rules have against an object; `old` is the one it replaces.
    /// `faults` were found before, and may keep the rules from being run.
    pub fn validate(&self, object: &Value, old: Option<&Value>, faults: &[Cause]) -> Vec<Cause> {
        let schema = &self.version.schema;
        let mut causes = schema.validate_update(object, old);
        causes.extend(self.validate_scale(object));
        if old.is_none_or(|old| schema.validate_list_types(old).is_empty()) {
            causes.extend(schema.validate_list_types(object));
        }
        if self.version.rules.is_empty() {
            return causes;
        }
        if causes
            .iter()
            .chain(faults)
            .any(|cause| blocks_rules(cause.reason))
        {
            let message = "Invalid value: null: some validation rules were not checked because the object was \
                           invalid; correct the existing errors to complete validation";
            causes.push(Cause::new(CauseReason::FieldValueInvalid, "<nil>", message));
        } else {
            causes.extend(self.version.rules.validate(object, old));
        }
        causes
    }

    /// The same for equal schemas, in every process.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.version.digest
    }

    fn validate_scale(&self, object: &Value) -> Vec<Cause> {
        let Some(scale) = &self.scale else {
            return Vec::new();
        };
        let paths = [&scale.spec_replicas, &scale.status_replicas];
        let faults = paths.into_iter().filter_map(|path| {
            let (value, detail) = match integer_at(object, path) {
                Ok(Some(n)) if n < 0 => (n, "should be a non-negative integer".to_owned()),
                Ok(Some(n)) if n > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    (n, detail)
                }
                Ok(_) => return None,
                Err(why) => (0, format!("{path} accessor error: {why}")),
            };
            Some(Cause::invalid(path.clone(), &Value::from(value), &detail))
        });
        faults.collect()
    }
}

/// What the author of a CRD is warned of: formats that no string is checked against.
pub(crate) fn warnings(crd: &Value) -> Vec<String> {
    fn walk(node: &Value, found: &mut Vec<String>) {
        match node {
            Value::Object(map) => {
                if let (Some(Value::String(kind)), Some(Value::String(format))) =
                    (map.get("type"), map.get("format"))
                    && kind == "string"
                    && !crate::schema::is_format_known(format)
                {
                    found.push(format!("unrecognized format {format:?}"));
                }
                map.values().for_each(|value| walk(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for version in crd["spec"]["versions"].as_array().into_iter().flatten() {
        walk(&version["schema"], &mut found);
    }
    found.sort();
    found.dedup();
    found
}

/// Brings a custom object's metadata into the form that every kind's has; gives complaints of unknown fields, or what is
/// wrong with it, as Go's decoder says it.
pub(crate) fn decode_metadata(object: &mut Value) -> Result<Vec<String>, String> {
    let schema = crate::schema::definition(structural::OBJECT_META);
    let (Some(schema), Some(metadata)) = (schema, object.get_mut("metadata")) else {
        return Ok(Vec::new());
    };
    let decoded = schema.decode_as("ObjectMeta", metadata)?;
    Ok(decoded
        .unknown
        .iter()
        .map(|path| format!("unknown field \"metadata.{path}\""))
        .collect())
}

/// The value at a path like `.spec.replicas`.
pub fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.')
        .split('.')
        .try_fold(object, |value, name| value.get(name))
}

/// The integer at a path like `.spec.replicas`, or what stands in its way in the words of Go.
fn integer_at(object: &Value, path: &str) -> Result<Option<i64>, String> {
    let wrong = |value: &Value, wanted: &str| {
        let (shown, kind) = match value {
            Value::String(text) => (text.clone(), "string"),
            Value::Array(_) => (value.to_string(), "[]interface {}"),
            Value::Bool(_) => (value.to_string(), "bool"),
            Value::Number(number) => (
                number.as_f64().map(|n| n.to_string()).unwrap_or_default(),
                "float64",
            ),
            _ => (value.to_string(), "map[string]interface {}"),
        };
        format!("{shown} is of the type {kind}, expected {wanted}")
    };
    let mut here = object;
    for name in path.trim_start_matches('.').split('.') {
        let map = here
            .as_object()
            .ok_or_else(|| wrong(here, "map[string]interface{}"))?;
        match map.get(name) {
            None => return Ok(None),
            Some(value) => here = value,
        }
    }
    here.as_i64().map(Some).ok_or_else(|| wrong(here, "int64"))
}

/// Rules are only run on objects of the right shape.
fn blocks_rules(reason: CauseReason) -> bool {
    matches!(
        reason,
        CauseReason::FieldValueNotSupported
            | CauseReason::FieldValueRequired
            | CauseReason::FieldValueTooLong
            | CauseReason::FieldValueTooMany
            | CauseReason::FieldValueTypeInvalid
    )
}

// === Serving ===

/// The resources of an established CRD, one for each served version, the preferred one first; none before it is
/// established.
pub fn resources(crd: &Value) -> Vec<Resource> {
    if !is_true(crd, "Established") {
        return Vec::new();
    }
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let mut served: Vec<_> = versions
        .filter(|version| version["served"] == true)
        .map(|version| resource(crd, version))
        .collect();
    served.sort_by_key(|resource| std::cmp::Reverse(version_rank(&resource.version)));
    served
}

fn resource(crd: &Value, version: &Value) -> Resource {
    let (spec, names) = (&crd["spec"], &crd["status"]["acceptedNames"]);
    let (kind, plural, group) = (
        text(&names["kind"]),
        text(&names["plural"]),
        text(&spec["group"]),
    );
    let or = |value: &Value, default: String| match text(value) {
        set if set.is_empty() => default,
        set => set,
    };
    Resource {
        version: text(&version["name"]),
        list_kind: or(&names["listKind"], format!("{kind}List")),
        singular: or(&names["singular"], kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: Verbs::All,
        subresources: subresources(version, &kind),
        table: table_name(&group, &plural),
        custom: Some(Arc::new(custom(crd, version))),
        group,
        resource: plural,
        kind,
    }
}

fn custom(crd: &Value, version: &Value) -> Custom {
    let compiled = compiled(version["schema"].get("openAPIV3Schema"));
    let scale = &version["subresources"]["scale"];
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    Custom {
        crd: text(&crd["metadata"]["name"]),
        schema: Some(Arc::clone(&compiled.schema)),
        version: compiled,
        has_status: version["subresources"]["status"].is_object(),
        scale: scale.is_object().then(|| Scale {
            spec_replicas: text(&scale["specReplicasPath"]),
            status_replicas: text(&scale["statusReplicasPath"]),
            selector: text(&scale["labelSelectorPath"]),
        }),
        printer_columns: version["additionalPrinterColumns"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        selectable_fields: fields.map(|field| text(&field["jsonPath"])).collect(),
        terminating: crd["metadata"].get("deletionTimestamp").is_some(),
    }
}

/// The compiled form of a schema, from whichever server of the process compiled it first.
fn compiled(schema: Option<&Value>) -> Arc<Version> {
    type Cache = Mutex<HashMap<[u8; 32], Weak<Version>>>;
    static CACHE: LazyLock<Cache> = LazyLock::new(Mutex::default);
    let source = schema.map(Value::to_string).unwrap_or_default();
    let key: [u8; 32] = Sha256::digest(source.as_bytes()).into();
    if let Some(found) = CACHE.lock().get(&key).and_then(Weak::upgrade) {
        return found;
    }
    let version = Arc::new(Version {
        digest: key,
        schema: Arc::new(structural::of_resource(schema)),
        rules: schema.map(rules::Rules::compile).unwrap_or_default(),
    });
    let mut cache = CACHE.lock();
    cache.retain(|_, version| version.strong_count() > 0);
    cache.insert(key, Arc::downgrade(&version));
    version
}

fn subresources(version: &Value, kind: &str) -> Vec<Subresource> {
    let mut list = Vec::new();
    if version["subresources"]["status"].is_object() {
        list.push(Subresource {
            name: "status".to_owned(),
            group: String::new(),
            version: String::new(),
            kind: kind.to_owned(),
            verbs: crate::resource::READ_WRITE,
        });
    }
    if version["subresources"]["scale"].is_object() {
        list.push(Subresource {
            name: "scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            kind: "Scale".to_owned(),
            verbs: crate::resource::READ_WRITE,
        });
    }
    list
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

#[cfg(test)]
mod tests;
