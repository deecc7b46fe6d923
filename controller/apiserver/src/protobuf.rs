//! Request bodies in Kubernetes' protobuf encoding, as JSON.
//!
//! `kubectl create` and Go's typed clients send built-in kinds as protobuf and don't fall back. The
//! server reads that encoding and always answers in JSON, which those clients accept. Fields come
//! from a table (`schemas/protobuf.py`) that is parsed once a process, at the first such request.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::clock::{rfc3339, rfc3339_micros};

mod wire;

use wire::{Reader, Wire};

/// Why a body is not an object in protobuf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("provided data does not appear to be a protobuf message, expected prefix k8s\\0")]
    Prefix,
    #[error("unexpected EOF")]
    End,
    #[error("wire type {wire} where {field} needs another")]
    Type { field: String, wire: u8 },
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    Kind { kind: String, version: String },
    #[error("messages nest deeper than {DEPTH_MAX}")]
    Depth,
    #[error("{0} is not UTF-8 or JSON inside")]
    Content(&'static str),
}

#[derive(Debug)]
struct Table {
    messages: HashMap<&'static str, Vec<Field>>,
    /// By `group/version/Kind`.
    kinds: HashMap<&'static str, &'static str>,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    number: u64,
    name: &'static str,
    shape: Shape,
    kind: Kind,
    inlined: bool,
    /// Left out of JSON when zero.
    omitted_when_zero: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Single,
    List,
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Bool,
    Integer,
    Double,
    Bytes,
    Message(&'static str),
}

const PREFIX: &[u8] = b"k8s\0";
const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.";
/// Deeper than any built-in kind; JSON schemas in CRDs are the deepest.
const DEPTH_MAX: usize = 128;

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(include_str!("../schemas/wire.tsv")));

/// The object in a body of type `application/vnd.kubernetes.protobuf`.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Malformed> {
    let body = body.strip_prefix(PREFIX).ok_or(Malformed::Prefix)?;
    let (mut version, mut kind, mut content) = (String::new(), String::new(), &[][..]);
    let mut envelope = Reader::new(body);
    while let Some((number, value)) = envelope.next()? {
        match (number, value) {
            (1, Wire::Bytes(bytes)) => {
                let mut types = Reader::new(bytes);
                while let Some((number, value)) = types.next()? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => content = bytes,
            _ => {}
        }
    }
    let message = message_of(&version, &kind).ok_or_else(|| Malformed::Kind {
        kind: kind.clone(),
        version: version.clone(),
    })?;
    let mut object = json!({"kind": kind, "apiVersion": version});
    if let (Value::Object(object), Value::Object(fields)) =
        (&mut object, read(message, content, 0)?)
    {
        object.extend(fields);
    }
    Ok(object)
}

fn message_of(version: &str, kind: &str) -> Option<&'static str> {
    let of_group = if version.contains('/') {
        format!("{version}/{kind}")
    } else {
        format!("/{version}/{kind}")
    };
    let found = TABLE.kinds.get(of_group.as_str()).copied();
    // Options of the verbs exist in every group.
    found.or_else(|| TABLE.kinds.get(format!("/v1/{kind}").as_str()).copied())
}

fn read(message: &'static str, bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed::Depth);
    }
    if let Some(value) = special(message, bytes) {
        return value;
    }
    let fields = TABLE
        .messages
        .get(message)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut object = Map::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        match field.shape {
            Shape::Single => {
                let value = field.value(value, depth)?;
                if field.inlined {
                    if let Value::Object(inner) = value {
                        object.extend(inner);
                    }
                } else if !(value.is_null() || field.omitted_when_zero && is_zero(&value)) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::List => field.push(value, depth, &mut object)?,
            Shape::Map => {
                let Wire::Bytes(entry) = value else {
                    return Err(field.fault(&value));
                };
                let (key, value) = field.entry(entry, depth)?;
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                map[key] = value;
            }
        }
    }
    Ok(Value::Object(object))
}

/// Messages that JSON writes as something else than an object of their fields.
fn special(message: &str, bytes: &[u8]) -> Option<Result<Value, Malformed>> {
    let short = message.strip_prefix(META);
    Some(match (message, short) {
        (_, Some("Time")) => time(bytes, rfc3339),
        (_, Some("MicroTime")) => time(bytes, rfc3339_micros),
        (_, Some("FieldsV1")) | ("k8s.io.apimachinery.pkg.runtime.RawExtension", _) => {
            embedded(bytes)
        }
        ("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON", _) => embedded(bytes),
        ("k8s.io.apimachinery.pkg.api.resource.Quantity", _) => first_text(bytes),
        ("k8s.io.apimachinery.pkg.util.intstr.IntOrString", _) => int_or_string(bytes),
        (_, Some("Duration")) => first_integer(bytes).map(|nanos| {
            json!(format!(
                "{}s",
                serde_json::Number::from_f64(nanos as f64 / 1e9).unwrap_or_else(|| 0.into())
            ))
        }),
        (_, Some("Verbs")) => items(bytes),
        (other, _) if other.ends_with(".ExtraValue") => items(bytes),
        (other, _) if other.ends_with(".JSONSchemaPropsOrArray") => {
            alternative(bytes, &[(1, "JSONSchemaProps"), (2, "*")])
        }
        (other, _) if other.ends_with(".JSONSchemaPropsOrBool") => {
            alternative(bytes, &[(2, "JSONSchemaProps"), (1, "bool")])
        }
        (other, _) if other.ends_with(".JSONSchemaPropsOrStringArray") => {
            alternative(bytes, &[(1, "JSONSchemaProps"), (2, "text")])
        }
        _ => return None,
    })
}

fn time(bytes: &[u8], form: fn(Timestamp) -> String) -> Result<Value, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Integer(value)) => seconds = value.cast_signed(),
            (2, Wire::Integer(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    // Go's zero time, which JSON writes as null.
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).unwrap_or_default();
    let time = Timestamp::new(seconds, nanos).map_err(|_| Malformed::Content("a time"))?;
    Ok(json!(form(time)))
}

fn embedded(bytes: &[u8]) -> Result<Value, Malformed> {
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        if let (1, Wire::Bytes(raw)) = (number, value) {
            return serde_json::from_slice(raw)
                .map_err(|_| Malformed::Content("an embedded object"));
        }
    }
    Ok(Value::Null)
}

fn first_text(bytes: &[u8]) -> Result<Value, Malformed> {
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        if let (1, Wire::Bytes(text)) = (number, value) {
            return utf8(text).map(Value::String);
        }
    }
    Ok(json!("0"))
}

fn first_integer(bytes: &[u8]) -> Result<i64, Malformed> {
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        if let (1, Wire::Integer(value)) = (number, value) {
            return Ok(value.cast_signed());
        }
    }
    Ok(0)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut integer, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Integer(kind)) => is_text = kind == 1,
            (2, Wire::Integer(value)) => integer = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(integer) })
}

fn items(bytes: &[u8]) -> Result<Value, Malformed> {
    let mut list = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((_, value)) = reader.next()? {
        if let Wire::Bytes(text) = value {
            list.push(Value::String(utf8(text)?));
        }
    }
    Ok(Value::Array(list))
}

/// One of several forms of a JSON schema's field.
fn alternative(bytes: &[u8], forms: &[(u64, &str)]) -> Result<Value, Malformed> {
    const SCHEMA: &str = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let mut list = Vec::new();
    let mut flag = Value::Null;
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        let form = forms
            .iter()
            .find(|(form, _)| *form == number)
            .map(|(_, form)| *form);
        match (form, value) {
            (Some("JSONSchemaProps"), Wire::Bytes(schema)) => return read(SCHEMA, schema, 1),
            (Some("*"), Wire::Bytes(schema)) => list.push(read(SCHEMA, schema, 1)?),
            (Some("text"), Wire::Bytes(text)) => list.push(Value::String(utf8(text)?)),
            (Some("bool"), Wire::Integer(value)) => flag = json!(value != 0),
            _ => {}
        }
    }
    Ok(if list.is_empty() {
        flag
    } else {
        Value::Array(list)
    })
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Content("a string"))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}

// === impl Field ===

impl Field {
    fn value(&self, wire: Wire<'_>, depth: usize) -> Result<Value, Malformed> {
        match (self.kind, wire) {
            (Kind::String, Wire::Bytes(bytes)) => utf8(bytes).map(Value::String),
            (Kind::Bytes, Wire::Bytes(bytes)) => Ok(json!(STANDARD.encode(bytes))),
            (Kind::Bool, Wire::Integer(value)) => Ok(json!(value != 0)),
            (Kind::Integer, Wire::Integer(value)) => Ok(json!(value.cast_signed())),
            (Kind::Double, Wire::Fixed(bits)) => Ok(json!(f64::from_bits(bits))),
            (Kind::Message(name), Wire::Bytes(bytes)) => read(name, bytes, depth + 1),
            (_, wire) => Err(self.fault(&wire)),
        }
    }

    /// An element of a list; integers may come packed.
    fn push(
        &self,
        wire: Wire<'_>,
        depth: usize,
        object: &mut Map<String, Value>,
    ) -> Result<(), Malformed> {
        let list = object.entry(self.name).or_insert_with(|| json!([]));
        let Some(list) = list.as_array_mut() else {
            return Ok(());
        };
        if let (Kind::Integer | Kind::Bool, Wire::Bytes(packed)) = (self.kind, &wire) {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                list.push(self.value(Wire::Integer(reader.varint()?), depth)?);
            }
            return Ok(());
        }
        list.push(self.value(wire, depth)?);
        Ok(())
    }

    fn entry(&self, bytes: &[u8], depth: usize) -> Result<(String, Value), Malformed> {
        let mut key = String::new();
        let mut value = match self.kind {
            Kind::Integer | Kind::Double => json!(0),
            Kind::Bool => json!(false),
            Kind::Message(name) => read(name, &[], depth + 1)?,
            Kind::String | Kind::Bytes => json!(""),
        };
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            match (number, wire) {
                (1, Wire::Bytes(text)) => key = utf8(text)?,
                (2, wire) => value = self.value(wire, depth)?,
                _ => {}
            }
        }
        Ok((key, value))
    }

    fn fault(&self, wire: &Wire<'_>) -> Malformed {
        Malformed::Type {
            field: self.name.to_owned(),
            wire: wire.kind(),
        }
    }
}

// === impl Table ===

impl Table {
    fn parse(text: &'static str) -> Self {
        let mut table = Self {
            messages: HashMap::new(),
            kinds: HashMap::new(),
        };
        for line in text.lines() {
            let mut columns = line.split('\t');
            let mut column = || columns.next().unwrap_or_default();
            let (name, kinds, fields) = (column(), column(), column());
            for kind in kinds.split(',').filter(|kind| !kind.is_empty()) {
                table.kinds.insert(kind, name);
            }
            let fields = fields.split(';').filter_map(Field::parse).collect();
            table.messages.insert(name, fields);
        }
        table
    }
}

impl Field {
    fn parse(text: &'static str) -> Option<Self> {
        let mut words = text.split(' ');
        let number = words.next()?.parse().ok()?;
        let name = words.next()?;
        let kind = words.next()?;
        let flags = words.next().unwrap_or_default();
        let (shape, kind) = match kind.split_at(1) {
            ("*", kind) => (Shape::List, kind),
            ("%", kind) => (Shape::Map, kind),
            _ => (Shape::Single, kind),
        };
        let kind = match kind {
            "s" => Kind::String,
            "b" => Kind::Bool,
            "i" => Kind::Integer,
            "d" => Kind::Double,
            "y" => Kind::Bytes,
            message => Kind::Message(message),
        };
        Some(Self {
            number,
            name,
            shape,
            kind,
            inlined: flags.contains('~'),
            omitted_when_zero: flags.contains('?'),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kubectl create configmap one --from-literal=a=b`, as it goes over the wire.
    const CONFIG_MAP: &[u8] = b"k8s\0\n\x0f\n\x02v1\x12\x09ConfigMap\x12\x1c\n\x12\n\x03one\x12\
        \0\x1a\x07default\"\0\x12\x06\n\x01a\x12\x01b";

    #[test]
    fn a_config_map_reads_as_its_json() {
        assert_eq!(
            decode(CONFIG_MAP),
            Ok(json!({
                "kind": "ConfigMap", "apiVersion": "v1",
                "metadata": {"name": "one", "namespace": "default"},
                "data": {"a": "b"},
            }))
        );
    }

    #[test]
    fn every_message_of_the_table_is_there_and_empty_ones_read() {
        for (name, fields) in &TABLE.messages {
            for field in fields {
                if let Kind::Message(kind) = field.kind {
                    assert!(
                        TABLE.messages.contains_key(kind),
                        "{name}.{} is a {kind}",
                        field.name
                    );
                }
            }
            assert!(read(name, &[], 0).is_ok(), "{name}");
        }
        assert!(TABLE.kinds.len() > 60);
    }

    #[test]
    fn bodies_cut_short_are_refused_not_read() {
        assert_eq!(decode(b"{}"), Err(Malformed::Prefix));
        for end in PREFIX.len() + 1..CONFIG_MAP.len() {
            let cut = decode(&CONFIG_MAP[..end]);
            assert_ne!(cut, decode(CONFIG_MAP), "cut at {end}");
        }
        let text = String::from_utf8(CONFIG_MAP.to_vec()).unwrap();
        let other = text.replace("ConfigMap", "ConfigMop");
        assert!(matches!(
            decode(other.as_bytes()),
            Err(Malformed::Kind { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(body in proptest::collection::vec(0..=255_u8, 0..200)) {
            for prefix in [&b"k8s\0"[..], &CONFIG_MAP[..21], &CONFIG_MAP[..23]] {
                drop(decode(&[prefix, &body].concat()));
            }
        }
    }
}
