//! From a structural schema, as a CustomResourceDefinition writes it, to a [`Schema`].

use serde_json::{Map, Value};

use crate::schema::{Checks, Kind, ListKind, Pattern, Properties, Schema, text, texts};

/// The schema of a whole custom resource: its own fields, and apiVersion, kind and metadata, which every object has.
/// Without a schema all fields are kept.
pub(crate) fn of_resource(schema: Option<&Value>) -> Schema {
    let mut root = match schema.and_then(Value::as_object) {
        Some(node) => read(node),
        None => Schema {
            preserve_unknown: true,
            ..Schema::of(Kind::Object)
        },
    };
    root.kind = Kind::Object;
    add_type_and_metadata(&mut root.properties);
    root
}

/// The schema of a value below the root, such as a default.
pub(crate) fn of_value(schema: &Value) -> Schema {
    schema.as_object().map(read).unwrap_or_default()
}

fn add_type_and_metadata(properties: &mut Properties) {
    properties.insert("apiVersion", Schema::of(Kind::String));
    properties.insert("kind", Schema::of(Kind::String));
    let checks = properties
        .find("metadata")
        .map(|own| own.properties.clone());
    let mut metadata = Schema::reference(OBJECT_META);
    // What the schema says of name and generateName is checked beside the definition.
    if let Some(own) = checks.filter(|own| !own.is_empty()) {
        metadata.checks = Some(Box::new(Checks {
            all_of: vec![Schema {
                properties: own,
                ..Schema::default()
            }],
            ..Checks::default()
        }));
    }
    properties.insert("metadata", metadata);
}

pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn read(node: &Map<String, Value>) -> Schema {
    let flag = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or_default();
    let mut schema = Schema::of(kind(node));
    schema.format = text(node, "format").into();
    schema.properties = fields(node);
    schema.additional = additional(node);
    schema.items = node
        .get("items")
        .and_then(Value::as_object)
        .map(|node| Box::new(read(node)));
    schema.required = texts(node, "required");
    schema.default = node.get("default").cloned();
    schema.nullable = flag("nullable");
    schema.preserve_unknown = flag("x-kubernetes-preserve-unknown-fields");
    schema.embedded = flag("x-kubernetes-embedded-resource");
    schema.list = match text(node, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => ListKind::Map(texts(node, "x-kubernetes-list-map-keys")),
        _ => ListKind::Atomic,
    };
    schema.atomic_map = text(node, "x-kubernetes-map-type") == "atomic";
    schema.checks = checks(node);
    if schema.embedded {
        add_type_and_metadata(&mut schema.properties);
        schema.required.extend(["apiVersion".into(), "kind".into()]);
    }
    schema
}

fn kind(node: &Map<String, Value>) -> Kind {
    if node
        .get("x-kubernetes-int-or-string")
        .and_then(Value::as_bool)
        == Some(true)
    {
        return Kind::IntOrString;
    }
    match text(node, "type") {
        "object" => Kind::Object,
        "array" => Kind::Array,
        "string" => Kind::String,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        _ => Kind::Any,
    }
}

fn fields(node: &Map<String, Value>) -> Properties {
    let map = node.get("properties").and_then(Value::as_object);
    let fields = map.into_iter().flatten().filter_map(|(name, node)| {
        node.as_object()
            .map(|node| (name.as_str().into(), read(node)))
    });
    fields.collect()
}

fn additional(node: &Map<String, Value>) -> Option<Box<Schema>> {
    match node.get("additionalProperties")? {
        Value::Object(node) => Some(Box::new(read(node))),
        Value::Bool(true) => Some(Box::new(Schema {
            preserve_unknown: true,
            ..Schema::default()
        })),
        _ => None,
    }
}

fn checks(node: &Map<String, Value>) -> Option<Box<Checks>> {
    if !CHECKS.iter().any(|name| node.contains_key(*name)) {
        return None;
    }
    let number = |key: &str| node.get(key).and_then(Value::as_f64);
    let count = |key: &str| node.get(key).and_then(Value::as_u64);
    let flag = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or_default();
    let values = node.get("enum").and_then(Value::as_array);
    let not = node.get("not").and_then(Value::as_object);
    Some(Box::new(Checks {
        enumeration: values.cloned().unwrap_or_default(),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        pattern: pattern(text(node, "pattern")),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        all_of: schemas(node, "allOf"),
        any_of: schemas(node, "anyOf"),
        one_of: schemas(node, "oneOf"),
        not: not.map(|node| Box::new(read(node))),
        int_or_string: false,
    }))
}

/// The keys that [`checks`] reads.
const CHECKS: [&str; 18] = [
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
];

fn schemas(node: &Map<String, Value>, key: &str) -> Vec<Schema> {
    let list = node.get(key).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(read)
        .collect()
}

fn pattern(text: &str) -> Option<Pattern> {
    if text.is_empty() {
        return None;
    }
    let regex = regex::Regex::new(text).ok()?;
    Some(Pattern {
        text: text.into(),
        regex,
    })
}
