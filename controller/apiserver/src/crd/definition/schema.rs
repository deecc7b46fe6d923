//! The rules for the schema in a CRD: it must be structural, say how its lists merge without contradiction, have defaults
//! that it accepts itself, and rules that compile.

use serde_json::{Map, Value};

use super::{items, text};
use crate::crd::{rules, structural};
use crate::error::Cause;
use crate::kinds::field::{FieldErrors, Path};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
    /// Below allOf, anyOf, oneOf or not: value validation only.
    Nested,
}

#[derive(Clone, Copy)]
struct Place<'a> {
    level: Level,
    /// Where values can no longer be told from old ones, so that rules may not use `oldSelf`.
    lost: Option<&'a Path<'a>>,
}

/// Collects everything wrong with a version's schema.
pub(super) fn validate(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let before = errors.len();
    if schema["nullable"] == true {
        errors.forbidden(
            &path.child("nullable"),
            "nullable cannot be true at the root",
        );
    }
    node(
        schema,
        path,
        Place {
            level: Level::Root,
            lost: None,
        },
        errors,
    );
    if errors.len() == before {
        defaults(schema, path, errors);
    }
}

fn node(schema: &Value, path: &Path<'_>, place: Place<'_>, errors: &mut FieldErrors) {
    let Some(map) = schema.as_object() else {
        return;
    };
    standard(map, path, errors);
    if place.level == Level::Nested {
        nested(map, path, errors);
    } else {
        complete(schema, path, place.level, errors);
        merging(schema, path, errors);
        cel(schema, path, place.lost, errors);
    }
    children(map, path, place, errors);
}

fn children(map: &Map<String, Value>, path: &Path<'_>, place: Place<'_>, errors: &mut FieldErrors) {
    let nested = place.level == Level::Nested;
    let level = |level: Level| if nested { Level::Nested } else { level };
    let kind = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let granular = kind("x-kubernetes-map-type") != "atomic";
    let keyed = kind("x-kubernetes-list-type") == "map";
    let lost = |kept: bool| place.lost.or((!kept).then_some(path));
    if let Some(fields) = map.get("properties").and_then(Value::as_object) {
        let list = path.child("properties");
        for (name, schema) in fields {
            if name == "metadata" && place.level == Level::Root {
                continue;
            }
            let place = Place {
                level: level(Level::Field),
                lost: lost(granular),
            };
            node(schema, &list.key(name), place, errors);
        }
    }
    if let Some(schema) = map.get("additionalProperties") {
        let place = Place {
            level: level(Level::Field),
            lost: lost(granular),
        };
        node(schema, &path.child("additionalProperties"), place, errors);
    }
    if let Some(schema) = map.get("items") {
        let place = Place {
            level: level(Level::Item),
            lost: lost(keyed),
        };
        node(schema, &path.child("items"), place, errors);
    }
    let below = Place {
        level: Level::Nested,
        lost: place.lost,
    };
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = map
            .get(key)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        if key != "oneOf" && is_int_or_string(map, key) {
            continue;
        }
        for (at, schema) in list.iter().enumerate() {
            node(schema, &path.child(key).index(at), below, errors);
        }
    }
    if let Some(schema) = map.get("not") {
        node(schema, &path.child("not"), below, errors);
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, also as the first of an allOf: the one place where nested types are allowed.
fn is_int_or_string(map: &Map<String, Value>, key: &str) -> bool {
    if map.get("x-kubernetes-int-or-string") != Some(&Value::Bool(true)) {
        return false;
    }
    let list = map
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let is_pair = |list: &[Value]| {
        list.len() == 2 && list[0]["type"] == "integer" && list[1]["type"] == "string"
    };
    match key {
        "anyOf" => is_pair(list),
        _ => list
            .first()
            .is_some_and(|first| is_pair(items(first, "anyOf"))),
    }
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What Kubernetes leaves out of OpenAPI.
fn standard(map: &Map<String, Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    match map.get("type").and_then(Value::as_str) {
        None | Some("") => {}
        Some("null") => {
            let detail = "type cannot be set to null, use nullable as an alternative";
            errors.forbidden(&path.child("type"), detail);
        }
        Some(kind) if TYPES.contains(&kind) => {}
        Some(other) => errors.not_supported(&path.child("type"), other, &TYPES),
    }
    let unsupported = [
        "id",
        "additionalItems",
        "patternProperties",
        "definitions",
        "dependencies",
        "$ref",
    ];
    for key in unsupported {
        let empty = map.get(key).is_none_or(|value| match value {
            Value::Object(map) => map.is_empty() && key != "additionalItems",
            Value::String(text) => text.is_empty(),
            _ => false,
        });
        if !empty {
            errors.forbidden(&path.child(key), &format!("{key} is not supported"));
        }
    }
    if map.get("items").is_some_and(Value::is_array) {
        let detail = "items must be a schema object and not an array";
        errors.forbidden(&path.child("items"), detail);
    }
    if map.get("uniqueItems") == Some(&Value::Bool(true)) {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    let has_fields = map
        .get("properties")
        .and_then(Value::as_object)
        .is_some_and(|f| !f.is_empty());
    if has_fields
        && map
            .get("additionalProperties")
            .is_some_and(|value| *value != true)
    {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if let Some(pattern) = map.get("pattern").and_then(Value::as_str)
        && let Err(error) = regex::Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.invalid(&path.child("pattern"), pattern, &detail);
    }
}

/// The shape must be told outside of logical operators.
fn nested(map: &Map<String, Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    const FORBIDDEN: [(&str, &str); 12] = [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-embedded-resource",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-int-or-string",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
    ];
    for (key, detail) in FORBIDDEN {
        if map.get(key).is_some_and(|value| *value != false) {
            errors.forbidden(&path.child(key), detail);
        }
    }
    if map.get("x-kubernetes-validations").is_some() {
        let path = path.child("x-kubernetes-validations");
        errors.forbidden(&path, "must be empty to be structural");
    }
    if map
        .get("properties")
        .is_some_and(|fields| fields.get("metadata").is_some())
    {
        let fields = path.child("properties");
        errors.forbidden(
            &fields.key("metadata"),
            "must not be specified in a nested context",
        );
    }
}

/// Each node outside of logical operators says its type.
fn complete(schema: &Value, path: &Path<'_>, level: Level, errors: &mut FieldErrors) {
    let kind = text(schema, "type");
    let flag = |key: &str| schema[key] == true;
    let (embedded, int_or_string) = (
        flag("x-kubernetes-embedded-resource"),
        flag("x-kubernetes-int-or-string"),
    );
    let preserves = flag("x-kubernetes-preserve-unknown-fields");
    if kind == "array" && schema.get("items").is_none() {
        errors.required(&path.child("items"), "must be specified");
    }
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(&path.child("type"), detail),
            other => errors.invalid(&path.child("type"), other, detail),
        }
    } else if kind.is_empty() && !int_or_string && !preserves {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field | Level::Nested => "must not be empty for specified object fields",
        };
        errors.required(&path.child("type"), detail);
    }
    if level == Level::Root {
        if !kind.is_empty() && kind != "object" {
            errors.invalid(&path.child("type"), kind, "must be object at the root");
        }
        if schema.get("additionalProperties").is_some() {
            let detail = "must not be used at the root";
            errors.forbidden(&path.child("additionalProperties"), detail);
        }
    }
    if int_or_string && preserves {
        let detail = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(
            &path.child("x-kubernetes-preserve-unknown-fields"),
            true,
            detail,
        );
    }
    if embedded && !preserves && schema["properties"].as_object().is_none_or(Map::is_empty) {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), detail);
    }
    metadata(schema, path, level, embedded, errors);
}

fn metadata(
    schema: &Value,
    path: &Path<'_>,
    level: Level,
    embedded: bool,
    errors: &mut FieldErrors,
) {
    if level != Level::Root && !embedded {
        return;
    }
    let fields = path.child("properties");
    for (key, wanted) in [
        ("kind", "string"),
        ("apiVersion", "string"),
        ("metadata", "object"),
    ] {
        let Some(node) = schema["properties"].get(key) else {
            continue;
        };
        let kind = text(node, "type");
        if kind != wanted {
            let detail = format!("must be {wanted}");
            errors.invalid(&fields.key(key).child("type"), kind, &detail);
        }
    }
    let Some(node) = schema["properties"]
        .get("metadata")
        .and_then(Value::as_object)
    else {
        return;
    };
    let allowed = |key: &str| matches!(key, "type" | "properties" | "description");
    let named = |key: &str| matches!(key, "name" | "generateName");
    let own = node.get("properties").and_then(Value::as_object);
    let plain = node.keys().all(|key| allowed(key))
        && own.is_none_or(|own| own.keys().all(|key| named(key)));
    if level == Level::Root && !plain {
        let detail = "must not specify anything other than name and generateName, but metadata is \
                      implicitly specified";
        errors.forbidden(&fields.key("metadata"), detail);
    }
}

fn merging(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(schema, "type");
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&path, false, "must be true or undefined");
    }
    let types = [
        (
            "x-kubernetes-map-type",
            "object",
            &["atomic", "granular"][..],
        ),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ];
    for (key, wanted, values) in types {
        let Some(value) = schema.get(key).and_then(Value::as_str) else {
            continue;
        };
        let detail = format!("must be {wanted} if {key} is specified");
        match kind {
            right if right == wanted => {}
            "" => errors.required(&path.child("type"), &detail),
            other => errors.invalid(&path.child("type"), other, &detail),
        }
        if !values.contains(&value) {
            errors.not_supported(&path.child(key), value, values);
        }
    }
    match text(schema, "x-kubernetes-list-type") {
        "set" => set_elements(schema, path, errors),
        "map" => keyed_elements(schema, path, errors),
        "" if !items(schema, "x-kubernetes-list-map-keys").is_empty() => {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.required(&path.child("x-kubernetes-list-type"), detail);
        }
        other if !items(schema, "x-kubernetes-list-map-keys").is_empty() => {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.invalid(&path.child("x-kubernetes-list-type"), other, detail);
        }
        _ => {}
    }
}

fn set_elements(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (element, below) = (&schema["items"], path.child("items"));
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list, map) = (
        text(element, "x-kubernetes-list-type"),
        text(element, "x-kubernetes-map-type"),
    );
    match text(element, "type") {
        "array" if !list.is_empty() && list != "atomic" => {
            errors.invalid(&below.child("x-kubernetes-list-type"), list, detail);
        }
        "object" if map != "atomic" => {
            let shown = element["x-kubernetes-map-type"].clone();
            errors.invalid(&below.child("x-kubernetes-map-type"), shown, detail);
        }
        _ => {}
    }
    if element["nullable"] == true {
        let detail = "cannot be nullable when x-kubernetes-list-type is set";
        errors.forbidden(&below.child("nullable"), detail);
    }
}

fn keyed_elements(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (keys, element) = (
        items(schema, "x-kubernetes-list-map-keys"),
        &schema["items"],
    );
    let (keys_path, below) = (
        path.child("x-kubernetes-list-map-keys"),
        path.child("items"),
    );
    if keys.is_empty() {
        errors.required(
            &keys_path,
            "must not be empty if x-kubernetes-list-type is map",
        );
    }
    if text(element, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(&below.child("type"), text(element, "type"), detail);
        return;
    }
    if element["nullable"] == true {
        let detail = "cannot be nullable when x-kubernetes-list-type is map";
        errors.forbidden(&below.child("nullable"), detail);
    }
    let fields = below.child("properties");
    for (at, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        if keys[..at].iter().any(|earlier| *earlier == key) {
            errors.invalid(
                &keys_path,
                Value::Array(keys.to_vec()),
                "must not contain duplicate entries",
            );
        }
        let Some(field) = element["properties"].get(key) else {
            let detail = "entries must all be names of item properties";
            errors.invalid(&keys_path, Value::Array(keys.to_vec()), detail);
            continue;
        };
        let path = fields.key(key);
        if matches!(text(field, "type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&path.child("type"), text(element, "type"), detail);
        }
        let required = items(element, "required").iter().any(|name| *name == key);
        if !required && field.get("default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                          required property";
            errors.required(&path.child("default"), detail);
        }
        if field["nullable"] == true {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&path.child("nullable"), detail);
        }
    }
}

const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

fn cel(schema: &Value, path: &Path<'_>, lost: Option<&Path<'_>>, errors: &mut FieldErrors) {
    let list = path.child("x-kubernetes-validations");
    for (at, rule) in items(schema, "x-kubernetes-validations").iter().enumerate() {
        let path = list.index(at);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if source.is_empty() {
            errors.required(&path.child("rule"), "rule is not specified");
            continue;
        }
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(
                &path.child("message"),
                message,
                "must be non-empty if specified",
            );
        } else if message.trim().contains('\n') {
            errors.invalid(
                &path.child("message"),
                message,
                "must not contain line breaks",
            );
        } else if source.contains('\n') && message.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.required(&path.child("message"), detail);
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str)
            && !REASONS.contains(&reason)
        {
            errors.not_supported(&path.child("reason"), reason, &REASONS);
        }
        if let Some(fault) = rules::compile_error(source) {
            errors.invalid(&path.child("rule"), rule.clone(), &fault);
            continue;
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty()
            && let Some(fault) = rules::compile_error(expression)
        {
            errors.invalid(&path.child("messageExpression"), rule.clone(), &fault);
        }
        let uses_old = rules::uses_old_self(source);
        if uses_old && let Some(lost) = lost {
            let detail = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
            );
            errors.invalid(&path.child("rule"), source, &detail);
        }
        if !uses_old && let Some(optional) = rule.get("optionalOldSelf") {
            let detail = "may not be set if oldSelf is not used in rule";
            errors.invalid(&path.child("optionalOldSelf"), optional.clone(), detail);
        }
    }
}

/// Each default must be valid and without unknown fields by its own schema.
fn defaults(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(default) = schema.get("default") {
        let here = path.child("default");
        let compiled = structural::of_value(schema);
        for Cause {
            reason,
            field,
            message,
        } in compiled.validate(default)
        {
            let field = match field.as_str() {
                "<nil>" => here.to_string(),
                below if below.starts_with('[') => format!("{here}{below}"),
                below => format!("{here}.{below}"),
            };
            errors.push(Cause::new(reason, field, message));
        }
        if !compiled.unknown_fields(default).is_empty() {
            errors.invalid(&here, default.clone(), "must not have unknown fields");
        }
    }
    let fields = path.child("properties");
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        defaults(schema, &fields.key(name), errors);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(key) {
            defaults(schema, &path.child(key), errors);
        }
    }
}
