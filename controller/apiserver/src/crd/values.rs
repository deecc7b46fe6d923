//! From JSON to CEL's values, with what the schema says of strings and field names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::cel::Value as Cel;
use kube_cel::cel::objects::{Key, Map as CelMap};
use serde_json::{Map, Value};

/// The part of a schema that decides how values look in rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct ValueSchema {
    format: Format,
    properties: Vec<(Box<str>, Self)>,
    items: Option<Box<Self>>,
    additional: Option<Box<Self>>,
    /// Keys of maps are data and stay as they are; names of fields are escaped.
    is_map: bool,
    number: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Plain,
    Time,
    Date,
    Duration,
    Bytes,
}

impl ValueSchema {
    pub(crate) fn read(node: &Value) -> Self {
        let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
        let child = |node: &Value| node.is_object().then(|| Box::new(Self::read(node)));
        let properties = node.get("properties").and_then(Value::as_object);
        let additional = node.get("additionalProperties");
        let int_or_string = node.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        Self {
            format: match text("format") {
                _ if int_or_string => Format::Plain,
                "date-time" => Format::Time,
                "date" => Format::Date,
                "duration" => Format::Duration,
                "byte" => Format::Bytes,
                _ => Format::Plain,
            },
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, node)| (name.as_str().into(), Self::read(node)))
                .collect(),
            items: node.get("items").and_then(child),
            additional: additional.and_then(child),
            is_map: !matches!(additional, None | Some(Value::Bool(false))),
            number: text("type") == "number",
        }
    }

    pub(crate) fn to_cel(&self, value: &Value) -> Cel {
        match value {
            Value::Null => Cel::Null,
            Value::Bool(value) => Cel::Bool(*value),
            Value::Number(number) if self.number => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Cel::Int(value),
                (None, Some(value)) => Cel::UInt(value),
                (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.string(text),
            Value::Array(list) => {
                let plain = Self::default();
                let items = self.items.as_deref().unwrap_or(&plain);
                Cel::List(Arc::new(
                    list.iter().map(|value| items.to_cel(value)).collect(),
                ))
            }
            Value::Object(map) => self.object(map),
        }
    }

    fn object(&self, map: &Map<String, Value>) -> Cel {
        let plain = Self::default();
        let additional = self.additional.as_deref().unwrap_or(&plain);
        let pairs = map.iter().map(|(name, value)| {
            let known = self.properties.iter().find(|(field, _)| **field == **name);
            let schema = known.map_or(additional, |(_, schema)| schema);
            let name = if self.is_map {
                Cow::Borrowed(name.as_str())
            } else {
                escape(name)
            };
            (
                Key::String(Arc::new(name.into_owned())),
                schema.to_cel(value),
            )
        });
        Cel::Map(CelMap {
            map: Arc::new(pairs.collect::<HashMap<_, _>>()),
        })
    }

    fn string(&self, text: &str) -> Cel {
        let plain = || Cel::String(Arc::new(text.to_owned()));
        match self.format {
            Format::Plain => plain(),
            Format::Time => {
                chrono::DateTime::parse_from_rfc3339(text).map_or_else(|_| plain(), Cel::Timestamp)
            }
            Format::Date => chrono::DateTime::parse_from_rfc3339(&format!("{text}T00:00:00Z"))
                .map_or_else(|_| plain(), Cel::Timestamp),
            Format::Duration => duration(text).map_or_else(plain, Cel::Duration),
            Format::Bytes => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_or_else(|_| plain(), |bytes| Cel::Bytes(Arc::new(bytes))),
        }
    }
}

/// The name of a field as rules write it: `foo-bar` is `foo__dash__bar`, reserved words are wrapped in underscores.
pub(crate) fn escape(name: &str) -> Cow<'_, str> {
    if RESERVED.contains(&name) {
        return Cow::Owned(format!("__{name}__"));
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return Cow::Borrowed(name);
    }
    let escaped = name
        .replace("__", "\u{0}")
        .replace('.', "__dot__")
        .replace('-', "__dash__");
    Cow::Owned(
        escaped
            .replace('/', "__slash__")
            .replace('\u{0}', "__underscores__"),
    )
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Go's notation: `1h30m`, `-1.5s`, `250ms`.
fn duration(text: &str) -> Option<chrono::Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut nanos = 0.0_f64;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        nanos += number * scale;
        rest = &rest[unit.len()..];
    }
    let nanos = if negative { -nanos } else { nanos };
    (nanos.abs() < i64::MAX as f64).then(|| chrono::Duration::nanoseconds(nanos as i64))
}

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];
