//! Validation of custom resources against their structural schema, with the paths and reasons of the real server.
//!
//! On an update, parts that didn't change aren't validated again (ratcheting): an object that was stored under a laxer schema
//! can still be changed elsewhere. List elements are matched by their keys for that; unkeyed lists count as one value.

use serde_json::{Map, Value, json};

use super::strings;
use super::{Checks, Kind, ListKind, Schema, join};
use crate::error::{Cause, CauseReason};

impl Schema {
    /// Everything wrong with a new object.
    pub fn validate(&self, value: &Value) -> Vec<Cause> {
        self.validate_update(value, None)
    }

    /// Everything wrong with an object that replaces `old`, apart from what was there before and didn't change.
    pub fn validate_update(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        node(self, value, old, "", &mut causes);
        causes
    }

    /// Elements of set and map lists that are there twice, which a list type forbids.
    pub fn validate_list_types(&self, value: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        list_types(self, value, "", &mut causes);
        causes
    }
}

/// The field of errors about the whole object, as Go prints a path that isn't there.
const NO_PATH: &str = "<nil>";

fn node(schema: &Schema, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    if old == Some(value) {
        return;
    }
    let target = schema.target();
    if let Some(wanted) = wrong_type(schema, target, value) {
        let found = type_name(value);
        let detail = format!("{} in body must be of type {wanted}: {found:?}", path);
        causes.push(Cause::type_invalid(field(path), &json!(found), &detail));
    }
    let checks = target.checks.as_deref();
    if let Some(checks) = checks
        && !value.is_null()
    {
        combined(checks, value, path, causes);
    }
    match value {
        Value::String(text) => string(target, checks, text, path, causes),
        Value::Number(_) => {
            in_range(target, value, path, causes);
            checks
                .into_iter()
                .for_each(|c| number(c, value, path, causes));
        }
        Value::Array(list) => array(target, list, old, path, causes),
        Value::Object(map) => object(target, map, old, path, causes),
        _ => {}
    }
    if let Some(checks) = checks
        && !checks.enumeration.is_empty()
        && !checks
            .enumeration
            .iter()
            .any(|allowed| equal(allowed, value))
    {
        causes.push(unsupported(path, value, &checks.enumeration));
    }
}

/// The wanted type's name where the value has another one.
fn wrong_type(schema: &Schema, target: &Schema, value: &Value) -> Option<&'static str> {
    let int_or_string = target
        .checks
        .as_ref()
        .is_some_and(|checks| checks.int_or_string);
    let (wanted, right) = match target.kind {
        Kind::Any if int_or_string => ("integer,string", value.is_string() || is_integer(value)),
        Kind::Any => return None,
        Kind::Object => ("object", value.is_object()),
        Kind::Array => ("array", value.is_array()),
        Kind::String => ("string", value.is_string()),
        Kind::Boolean => ("boolean", value.is_boolean()),
        Kind::Integer => ("integer", is_integer(value)),
        Kind::Number => ("number", value.is_number()),
        Kind::IntOrString => ("integer,string", value.is_string() || is_integer(value)),
        Kind::Quantity => ("string", value.is_string() || value.is_number()),
    };
    let null = value.is_null() && (schema.nullable || target.nullable);
    (!right && !null).then_some(wanted)
}

fn combined(checks: &Checks, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let whole = |detail: String| Cause::invalid(NO_PATH, &json!(""), &detail);
    let faults = |schema: &Schema| {
        let mut causes = Vec::new();
        node(schema, value, None, path, &mut causes);
        causes
    };
    if !checks.any_of.is_empty() {
        let tries: Vec<_> = checks.any_of.iter().map(faults).collect();
        if tries.iter().all(|faults| !faults.is_empty()) {
            causes.push(whole(format!(
                "{path:?} must validate at least one schema (anyOf)"
            )));
            causes.extend(fewest(tries));
        }
    }
    if !checks.one_of.is_empty() {
        let tries: Vec<_> = checks.one_of.iter().map(faults).collect();
        let valid = tries.iter().filter(|faults| faults.is_empty()).count();
        if valid != 1 {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                many => format!("Found {many} valid alternatives"),
            };
            let rule = "must validate one and only one schema (oneOf)";
            causes.push(whole(format!("{path:?} {rule}. {found}")));
            if valid == 0 {
                causes.extend(fewest(tries));
            }
        }
    }
    if !checks.all_of.is_empty() {
        let tries: Vec<_> = checks.all_of.iter().map(faults).collect();
        let valid = tries.iter().filter(|faults| faults.is_empty()).count();
        if valid != tries.len() {
            causes.extend(tries.into_iter().flatten());
            let none = if valid == 0 { ". None validated" } else { "" };
            causes.push(whole(format!(
                "{path:?} must validate all the schemas (allOf){none}"
            )));
        }
    }
    if let Some(not) = &checks.not
        && faults(not).is_empty()
    {
        causes.push(whole(format!(
            "{path:?} must not validate the schema (not)"
        )));
    }
}

/// The alternative that came closest.
fn fewest(tries: Vec<Vec<Cause>>) -> Vec<Cause> {
    tries.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

fn string(
    target: &Schema,
    checks: Option<&Checks>,
    text: &str,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let name = path;
    if let Some(checks) = checks {
        let length = || text.chars().count() as u64;
        if let Some(max) = checks.max_length.filter(|max| length() > *max) {
            causes.push(Cause::too_long(field(path), max as usize));
        }
        if let Some(min) = checks.min_length.filter(|min| length() < *min) {
            let detail = format!("{name} in body should be at least {min} chars long");
            causes.push(Cause::invalid(field(path), &json!(text), &detail));
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|p| !p.regex.is_match(text)) {
            let detail = format!("{name} in body should match '{}'", pattern.text);
            causes.push(Cause::invalid(field(path), &json!(text), &detail));
        }
    }
    if !target.format.is_empty() && !strings::has_format(text, &target.format) {
        let detail = format!("{name} in body must be of type {}: {text:?}", target.format);
        causes.push(Cause::type_invalid(field(path), &json!(text), &detail));
    }
}

/// Integers must fit their format, 64 bits without one.
fn in_range(target: &Schema, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if target.kind != Kind::Integer {
        return;
    }
    let (fits, format) = match (&*target.format, value.as_i64()) {
        ("int32", number) => (
            number.is_some_and(|n| i32::try_from(n).is_ok()),
            "with format int32",
        ),
        ("int64", number) => (number.is_some(), "with format int64"),
        (_, number) => (number.is_some(), "(default format)"),
    };
    let whole = value
        .as_f64()
        .is_some_and(|n| n.fract() == 0.0 && n.abs() < i64::MAX as f64);
    let lenient = whole && &*target.format != "int32";
    if !fits && !lenient {
        let detail = format!("Checked value must be of type integer {format} in {path}");
        causes.push(whole_object(&detail));
    }
}

fn number(checks: &Checks, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    let name = path;
    let mut fault = |detail: String| causes.push(Cause::invalid(field(path), value, &detail));
    if let Some(factor) = checks.multiple_of.filter(|factor| *factor > 0.0) {
        let quotient = if factor < 1.0 {
            1.0 / factor * number
        } else {
            number / factor
        };
        if (quotient - quotient.round()).abs() > 1e-9 {
            fault(format!("{name} in body should be a multiple of {factor}"));
        }
    }
    if let Some(max) = checks.maximum {
        if checks.exclusive_maximum && number >= max {
            fault(format!("{name} in body should be less than {max}"));
        } else if number > max {
            fault(format!(
                "{name} in body should be less than or equal to {max}"
            ));
        }
    }
    if let Some(min) = checks.minimum {
        if checks.exclusive_minimum && number <= min {
            fault(format!("{name} in body should be greater than {min}"));
        } else if number < min {
            fault(format!(
                "{name} in body should be greater than or equal to {min}"
            ));
        }
    }
}

fn array(
    target: &Schema,
    list: &[Value],
    old: Option<&Value>,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if let Some(schema) = target.items.as_deref() {
        let before = old.and_then(Value::as_array);
        for (at, value) in list.iter().enumerate() {
            let old = before.and_then(|before| counterpart(target, value, before));
            node(schema, value, old, &format!("{path}[{at}]"), causes);
        }
    }
    let Some(checks) = target.checks.as_deref() else {
        return;
    };
    let (name, size) = (path, list.len() as u64);
    if let Some(min) = checks.min_items.filter(|min| size < *min) {
        let detail = format!("{name} in body should have at least {min} items");
        causes.push(Cause::invalid(field(path), &json!(size), &detail));
    }
    if let Some(max) = checks.max_items.filter(|max| size > *max) {
        causes.push(Cause::too_many(field(path), list.len(), max as usize));
    }
    if checks.unique_items
        && list
            .iter()
            .enumerate()
            .any(|(at, value)| list[..at].contains(value))
    {
        let detail = format!("{name} in body shouldn't contain duplicates");
        causes.push(Cause::invalid(field(path), &json!(""), &detail));
    }
}

/// The element of the old list with the same keys.
pub(crate) fn counterpart<'a>(
    target: &Schema,
    value: &Value,
    before: &'a [Value],
) -> Option<&'a Value> {
    let ListKind::Map(keys) = &target.list else {
        return None;
    };
    before
        .iter()
        .find(|old| keys.iter().all(|key| old.get(&**key) == value.get(&**key)))
}

fn object(
    target: &Schema,
    map: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if let Some(checks) = target.checks.as_deref() {
        let (name, size) = (path, map.len() as u64);
        if let Some(min) = checks.min_properties.filter(|min| size < *min) {
            let detail = format!("{name} in body should have at least {min} properties");
            causes.push(Cause::invalid(field(path), &json!(size), &detail));
        }
        if let Some(max) = checks.max_properties.filter(|max| size > *max) {
            causes.push(Cause::too_many(field(path), map.len(), max as usize));
        }
    }
    for (name, value) in map {
        let known = target.properties.find(name);
        if let Some(schema) = known.or(target.additional.as_deref()) {
            let old = old.and_then(|old| old.get(name));
            node(schema, value, old, &join(path, name), causes);
        }
    }
    for name in &target.required {
        if !map.contains_key(&**name) {
            causes.push(Cause::required(join(path, name), ""));
        }
    }
}

fn unsupported(path: &str, value: &Value, enumeration: &[Value]) -> Cause {
    let texts: Vec<_> = enumeration
        .iter()
        .map(|allowed| match allowed {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    Cause::not_supported(field(path), value, &texts)
}

fn list_types(schema: &Schema, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let target = schema.target();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(schema) = target.properties.find(name) {
                    list_types(schema, value, &join(path, name), causes);
                } else if let Some(schema) = target.additional.as_deref() {
                    list_types(schema, value, &format!("{path}[{name}]"), causes);
                }
            }
        }
        Value::Array(list) => {
            match &target.list {
                ListKind::Atomic => {}
                ListKind::Set => repeated(list, path, causes),
                ListKind::Map(keys) => repeated_keys(keys, list, path, causes),
            }
            if let Some(schema) = target.items.as_deref() {
                for (at, value) in list.iter().enumerate() {
                    list_types(schema, value, &format!("{path}[{at}]"), causes);
                }
            }
        }
        _ => {}
    }
}

fn repeated_keys(keys: &[Box<str>], list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if let Some(at) = list
        .iter()
        .position(|value| !value.is_object() && !value.is_null())
    {
        let detail = "must be an object for an array of list-type map";
        causes.push(Cause::invalid(format!("{path}[{at}]"), &list[at], detail));
        return;
    }
    let keys_of = |value: &Value| {
        let pairs = keys.iter().filter_map(|key| {
            value
                .get(&**key)
                .map(|value| (key.to_string(), value.clone()))
        });
        Value::Object(pairs.collect())
    };
    let list: Vec<_> = list.iter().map(keys_of).collect();
    repeated(&list, path, causes);
}

/// Names the second of each set of equal elements, not the third.
fn repeated(list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    for (at, value) in list.iter().enumerate() {
        if list[..at]
            .iter()
            .filter(|earlier| *earlier == value)
            .count()
            == 1
        {
            causes.push(Cause::duplicate(format!("{path}[{at}]"), value));
        }
    }
}

/// An error whose text stands alone, about the whole object.
pub(crate) fn whole_object(detail: &str) -> Cause {
    Cause::new(
        CauseReason::FieldValueInvalid,
        NO_PATH,
        format!("Invalid value: \"\": {detail}"),
    )
}

fn field(path: &str) -> String {
    if path.is_empty() {
        NO_PATH.to_owned()
    } else {
        path.to_owned()
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64()
        || value.is_u64()
        || value
            .as_f64()
            .is_some_and(|n| n.fract() == 0.0 && n.abs() < EXACT_MAX)
}

/// Beyond this a float isn't surely the integer that was meant.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Numbers are equal by value: `1` and `1.0` are one.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
