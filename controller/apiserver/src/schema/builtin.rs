//! The static table of built-in definitions, from `schemas/builtin.tsv` (written by `schemas/generate.py`).
//!
//! Cost: the file is part of the executable; the index (one hash entry per definition) is built on first use and shared by
//! every server of the process; a definition is parsed when first asked for and then kept.
//!
//! A node's keys: `t` type (o object, a array, s string, i integer, n number, b boolean, I int-or-string, Q quantity; none:
//! any value), `r` reference, `f` format, `p` properties, `q` required, `a` additional properties, `e` elements, `d` default,
//! `l` list type (none: atomic), `k` list map keys, `m` map type, `s` patch strategy, `y` patch merge key.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

use serde_json::{Map, Value};

use super::{Kind, ListKind, Properties, Schema, StrategicKeys, text, texts};

/// The schema of a built-in kind; `group` is empty for the core group.
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Arc<Schema>> {
    let name = TABLE.kinds.get(&(group, version, kind))?;
    definition(name)
}

/// The schema of a definition by its OpenAPI name.
pub fn definition(name: &str) -> Option<Arc<Schema>> {
    let entry = TABLE.definitions.get(name)?;
    Some(
        entry
            .schema
            .get_or_init(|| Arc::new(parse(entry.text)))
            .clone(),
    )
}

/// Every built-in kind as (group, version, kind, definition name).
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
    TABLE
        .kinds
        .iter()
        .map(|((group, version, kind), name)| (*group, *version, *kind, *name))
}

/// The OpenAPI name of a built-in kind.
pub(crate) fn builtin_name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    TABLE.kinds.get(&(group, version, kind)).copied()
}

/// A definition as the table holds it, and its kinds as (group, version, kind).
pub(crate) fn raw(
    name: &str,
) -> Option<(
    Value,
    impl Iterator<Item = (&'static str, &'static str, &'static str)>,
)> {
    let entry = TABLE.definitions.get(name)?;
    let node = serde_json::from_str(entry.text).ok()?;
    Some((node, kinds_of(entry.kinds)))
}

fn kinds_of(
    list: &'static str,
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    list.split(',').filter_map(|kind| {
        let mut parts = kind.split('/');
        Some((parts.next()?, parts.next()?, parts.next()?))
    })
}

struct Table {
    definitions: HashMap<&'static str, Entry>,
    kinds: HashMap<(&'static str, &'static str, &'static str), &'static str>,
}

struct Entry {
    text: &'static str,
    kinds: &'static str,
    schema: OnceLock<Arc<Schema>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table {
        definitions: HashMap::new(),
        kinds: HashMap::new(),
    };
    for line in TEXT.lines() {
        let mut columns = line.split('\t');
        let (Some(name), Some(kinds), Some(text)) =
            (columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        table.definitions.insert(
            name,
            Entry {
                text,
                kinds,
                schema: OnceLock::new(),
            },
        );
        for kind in kinds_of(kinds) {
            table.kinds.insert(kind, name);
        }
    }
    table
});

fn parse(text: &'static str) -> Schema {
    let node: Value = serde_json::from_str(text).expect("the generated table is valid JSON");
    node.as_object().map(read).unwrap_or_default()
}

fn read(node: &Map<String, Value>) -> Schema {
    let mut schema = match node.get("r").and_then(Value::as_str) {
        Some(name) => match TABLE.definitions.get_key_value(name) {
            Some((name, _)) => Schema::reference(name),
            None => Schema::default(),
        },
        None => Schema::of(kind(node.get("t").and_then(Value::as_str))),
    };
    schema.format = text(node, "f").into();
    schema.properties = node
        .get("p")
        .and_then(Value::as_object)
        .map(|fields| {
            fields
                .iter()
                .filter_map(|(name, node)| {
                    node.as_object()
                        .map(|node| (name.as_str().into(), read(node)))
                })
                .collect::<Properties>()
        })
        .unwrap_or_default();
    schema.required = texts(node, "q");
    schema.additional = node
        .get("a")
        .and_then(Value::as_object)
        .map(|node| Box::new(read(node)));
    schema.items = node
        .get("e")
        .and_then(Value::as_object)
        .map(|node| Box::new(read(node)));
    schema.default = node.get("d").cloned();
    schema.list = match text(node, "l") {
        "set" => ListKind::Set,
        "map" => ListKind::Map(texts(node, "k")),
        _ => ListKind::Atomic,
    };
    schema.atomic_map = text(node, "m") == "atomic";
    schema.patch = strategic(node);
    schema.is_struct = !schema.properties.is_empty();
    // A type without any field takes every object: FieldsV1, RawExtension.
    schema.preserve_unknown = schema.reference.is_none()
        && matches!(schema.kind, Kind::Object | Kind::Any)
        && schema.properties.is_empty()
        && schema.additional.is_none();
    schema
}

fn strategic(node: &Map<String, Value>) -> Option<Box<StrategicKeys>> {
    let (strategies, merge_key) = (text(node, "s"), text(node, "y"));
    if strategies.is_empty() && merge_key.is_empty() {
        return None;
    }
    let has = |name: &str| strategies.split(',').any(|strategy| strategy == name);
    Some(Box::new(StrategicKeys {
        merge: has("merge"),
        replace: has("replace"),
        retain_keys: has("retainKeys"),
        merge_key: merge_key.into(),
    }))
}

fn kind(letter: Option<&str>) -> Kind {
    match letter {
        Some("o") => Kind::Object,
        Some("a") => Kind::Array,
        Some("s") => Kind::String,
        Some("i") => Kind::Integer,
        Some("n") => Kind::Number,
        Some("b") => Kind::Boolean,
        Some("I") => Kind::IntOrString,
        Some("Q") => Kind::Quantity,
        _ => Kind::Any,
    }
}

static TEXT: &str = include_str!("../../schemas/builtin.tsv");
