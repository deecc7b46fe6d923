//! Decoding built-in kinds as the real server does: into a struct and back.
//!
//! What a struct can't hold is gone afterwards (unknown fields, nulls, empty optional lists and maps), what it always holds is
//! there ([`Schema::apply_defaults`] adds it), and times and quantities are in canonical form.

use serde_json::{Map, Value};

use super::path::Path;
use super::strings;
use super::{Kind, Schema};

/// The outcome of a successful decoding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Fields that the kind doesn't have, in order of appearance, at most [`UNKNOWN_MAX`].
    pub unknown: Vec<String>,
}

/// More unknown fields than this are dropped without a word, as in Kubernetes.
const UNKNOWN_MAX: usize = 100;

impl Decoded {
    /// `unknown field "spec.foo"` for each, the words of warnings and strict errors.
    pub fn messages(&self) -> Vec<String> {
        self.unknown
            .iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect()
    }
}

impl Schema {
    /// Brings an object of a built-in kind into the form its struct would have. The error is the sentence that follows
    /// `Kind in version "v" cannot be handled as a Kind: `; the object is then half decoded and to be thrown away.
    pub fn decode(&self, value: &mut Value) -> Result<Decoded, String> {
        let kind = value
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        self.decode_as(&kind, value)
    }

    /// As [`Schema::decode`], for a value whose type has this name in errors.
    pub(crate) fn decode_as(&self, kind: &str, value: &mut Value) -> Result<Decoded, String> {
        let mut decoder = Decoder {
            unknown: Vec::new(),
        };
        decoder.value(self, value, &Path::ROOT, kind)?;
        Ok(Decoded {
            unknown: decoder.unknown,
        })
    }
}

struct Decoder {
    unknown: Vec<String>,
}

impl Decoder {
    fn value(
        &mut self,
        schema: &Schema,
        value: &mut Value,
        path: &Path<'_>,
        owner: &str,
    ) -> Result<(), String> {
        let target = schema.target();
        match (target.kind, &mut *value) {
            (Kind::Any, Value::Object(map)) if holds_schema(schema.type_name()) => {
                match super::definition(JSON_SCHEMA) {
                    // Decoded by code of its own in Kubernetes, which drops what it doesn't know without a word.
                    Some(target) => {
                        let known = self.unknown.len();
                        let outcome = self.object(&target, map, path, owner);
                        self.unknown.truncate(known);
                        outcome
                    }
                    None => Ok(()),
                }
            }
            (Kind::Any, _) => Ok(()),
            (Kind::Object, Value::Object(map)) => {
                let owner = match schema.type_name() {
                    "" => owner,
                    name => name,
                };
                self.object(target, map, path, owner)
            }
            (Kind::Array, Value::Array(list)) => self.list(target, list, path, owner),
            (Kind::String, Value::String(text)) => string(schema, text),
            (Kind::Boolean, Value::Bool(_)) => Ok(()),
            (Kind::Number, Value::Number(_)) => Ok(()),
            (Kind::Integer, Value::Number(number)) => {
                let fits = match number.as_i64() {
                    Some(n) => &*target.format != "int32" || i32::try_from(n).is_ok(),
                    None => false,
                };
                if fits {
                    return Ok(());
                }
                Err(mismatch(&format!("number {number}"), schema, path, owner))
            }
            (Kind::IntOrString, Value::String(_)) => Ok(()),
            (Kind::IntOrString, Value::Number(number)) => {
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
                    return Ok(());
                }
                Err(format!(
                    "json: cannot unmarshal number {number} into Go value of type int32"
                ))
            }
            (Kind::IntOrString, other) => {
                let found = found(other);
                Err(format!(
                    "json: cannot unmarshal {found} into Go value of type int32"
                ))
            }
            (Kind::Quantity, Value::String(_) | Value::Number(_)) => {
                let text = match &*value {
                    Value::String(text) => strings::canonical_quantity(text),
                    other => strings::canonical_quantity(&other.to_string()),
                };
                *value = Value::String(text.ok_or_else(|| strings::QUANTITY_RULE.to_owned())?);
                Ok(())
            }
            (Kind::Quantity, _) => Err(strings::QUANTITY_RULE.to_owned()),
            (_, other) => Err(mismatch(found(other), schema, path, owner)),
        }
    }

    fn object(
        &mut self,
        target: &Schema,
        map: &mut Map<String, Value>,
        path: &Path<'_>,
        owner: &str,
    ) -> Result<(), String> {
        let mut outcome = Ok(());
        map.retain(|name, value| {
            if outcome.is_err() {
                return true;
            }
            let child = path.field(name);
            if let Some(schema) = target.properties.find(name) {
                if value.is_null() {
                    return false;
                }
                outcome = self.value(schema, value, &child, owner);
                return !is_omitted(target, name, schema, value);
            }
            if let Some(schema) = target.additional.as_deref() {
                let child = path.key(name);
                if value.is_null() && schema.target().kind == Kind::String {
                    *value = Value::String(String::new());
                }
                outcome = self.value(schema, value, &child, owner);
                return true;
            }
            if !target.preserve_unknown && self.unknown.len() < UNKNOWN_MAX {
                self.unknown.push(child.to_string());
            }
            target.preserve_unknown
        });
        outcome
    }

    fn list(
        &mut self,
        target: &Schema,
        list: &mut [Value],
        path: &Path<'_>,
        owner: &str,
    ) -> Result<(), String> {
        let Some(schema) = target.items.as_deref() else {
            return Ok(());
        };
        for (at, value) in list.iter_mut().enumerate() {
            if value.is_null() {
                match schema.target().kind {
                    Kind::String => *value = Value::String(String::new()),
                    Kind::Object => *value = Value::Object(Map::new()),
                    _ => continue,
                }
            }
            self.value(schema, value, &path.index(at), owner)?;
        }
        Ok(())
    }
}

/// Types of a CRD's schema that are published as anything, and hold a schema where they hold an object.
fn holds_schema(name: &str) -> bool {
    matches!(name, "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool")
}

const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Optional lists and free-key maps are left out when empty (`omitempty`); an empty struct is not.
fn is_omitted(parent: &Schema, name: &str, schema: &Schema, value: &Value) -> bool {
    let empty = match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty() && schema.is_map(),
        _ => false,
    };
    // An empty list of managers is a request to forget them.
    empty && name != "managedFields" && !parent.required.iter().any(|required| **required == *name)
}

fn string(schema: &Schema, text: &mut String) -> Result<(), String> {
    let target = schema.target();
    match &*target.format {
        "date-time" => {
            let micro = schema.type_name() == "MicroTime";
            match strings::canonical_time(text, micro) {
                Some(Ok(canonical)) => *text = canonical,
                Some(Err(reason)) => return Err(reason),
                None => {}
            }
            Ok(())
        }
        "byte" => match strings::base64_error(text) {
            Some(reason) => Err(reason),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn mismatch(found: &str, schema: &Schema, path: &Path<'_>, owner: &str) -> String {
    let fields = path.fields_only();
    let wanted = go_type(schema);
    if fields.is_empty() {
        return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
    }
    format!("json: cannot unmarshal {found} into Go struct field {owner}.{fields} of type {wanted}")
}

/// What Go's decoder calls a value that it didn't expect.
pub(crate) fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(schema: &Schema) -> String {
    let target = schema.target();
    if target.kind == Kind::Object
        && let Some(name) = schema.reference_name()
    {
        let mut parts = name.rsplit('.');
        let (last, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        return format!("{package}.{last}");
    }
    match target.kind {
        Kind::String => "string".to_owned(),
        Kind::Boolean => "bool".to_owned(),
        Kind::Integer if &*target.format == "int32" => "int32".to_owned(),
        Kind::Integer => "int64".to_owned(),
        Kind::Number => "float64".to_owned(),
        Kind::Array => format!(
            "[]{}",
            target.items.as_deref().map(go_type).unwrap_or_default()
        ),
        Kind::Object => {
            format!(
                "map[string]{}",
                target
                    .additional
                    .as_deref()
                    .map(go_type)
                    .unwrap_or_default()
            )
        }
        Kind::Quantity => "resource.Quantity".to_owned(),
        Kind::IntOrString => "intstr.IntOrString".to_owned(),
        Kind::Any => "interface {}".to_owned(),
    }
}
