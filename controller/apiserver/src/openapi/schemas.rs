//! `components.schemas`: the kinds of a group and version and everything they refer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::resource::Resource;
use crate::schema;

/// Schemas by name, complete: whatever one refers to is there too.
#[derive(Default)]
pub(super) struct Schemas(BTreeMap<String, Value>);

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The name of a resource's schema.
pub(super) fn name(resource: &Resource) -> String {
    let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
    if resource.custom.is_none()
        && let Some(name) = schema::builtin_name(group, version, kind)
    {
        return name.to_owned();
    }
    custom_name(resource, kind)
}

pub(super) fn list_name(resource: &Resource) -> String {
    let (group, version, kind) = (&resource.group, &resource.version, &resource.list_kind);
    if resource.custom.is_none()
        && let Some(name) = schema::builtin_name(group, version, kind)
    {
        return name.to_owned();
    }
    custom_name(resource, kind)
}

/// `com.example.v1.Widget` for a kind of `example.com`.
fn custom_name(resource: &Resource, kind: &str) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version.as_str(), kind]);
    parts.join(".")
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

impl Schemas {
    pub(super) fn add(
        &mut self,
        resource: &Arc<Resource>,
        definition: &dyn Fn(&str) -> Option<Value>,
    ) {
        for shared in ["DeleteOptions", "Status", "Patch", "ListMeta", "ObjectMeta"] {
            self.add_builtin(&format!("{META}.{shared}"));
        }
        for subresource in &resource.subresources {
            let own =
                schema::builtin_name(&subresource.group, &subresource.version, &subresource.kind);
            if let Some(name) = own {
                self.add_builtin(name);
            }
        }
        match &resource.custom {
            None => {
                self.add_builtin(&name(resource));
                self.add_builtin(&list_name(resource));
            }
            Some(custom) => {
                let crd = definition(&custom.crd).unwrap_or_default();
                self.add_custom(resource, &crd);
            }
        }
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0.into_iter().collect()
    }

    fn add_builtin(&mut self, name: &str) {
        if self.0.contains_key(name) {
            return;
        }
        let Some((node, kinds)) = schema::raw(name) else {
            return;
        };
        let mut references = Vec::new();
        let mut expanded = expand(&node, &mut references);
        let kinds: Vec<_> = kinds
            .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
            .collect();
        if !kinds.is_empty() {
            expanded["x-kubernetes-group-version-kind"] = Value::Array(kinds);
        }
        self.0.insert(name.to_owned(), expanded);
        for reference in references {
            self.add_builtin(&reference);
        }
    }

    fn add_custom(&mut self, resource: &Resource, crd: &Value) {
        let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
        let version = versions
            .into_iter()
            .find(|version| version["name"] == resource.version);
        let source = version.map(|version| version["schema"]["openAPIV3Schema"].clone());
        let kind = |kind: &str| json!([{"group": resource.group, "version": resource.version, "kind": kind}]);
        let text = json!({"type": "string"});
        let mut schema = source
            .filter(Value::is_object)
            .unwrap_or_else(|| json!({"type": "object"}));
        let fields = &mut schema["properties"];
        if !fields.is_object() {
            *fields = json!({});
        }
        for key in ["apiVersion", "kind"] {
            if fields.get(key).is_none() {
                fields[key] = text.clone();
            }
        }
        fields["metadata"] = json!({"allOf": [reference(&format!("{META}.ObjectMeta"))]});
        schema["x-kubernetes-group-version-kind"] = kind(&resource.kind);
        self.0.insert(name(resource), schema);
        let list = json!({
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": text, "kind": text,
                "items": {"type": "array", "items": reference(&name(resource))},
                "metadata": {"allOf": [reference(&format!("{META}.ListMeta"))]},
            },
            "x-kubernetes-group-version-kind": kind(&resource.list_kind),
        });
        self.0.insert(list_name(resource), list);
    }
}

/// A node of the reduced table as OpenAPI writes it.
fn expand(node: &Value, references: &mut Vec<String>) -> Value {
    let mut out = Map::new();
    let text = |key: &str| node.get(key).and_then(Value::as_str);
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    if let Some(name) = text("r") {
        references.push(name.to_owned());
        put("allOf", json!([reference(name)]));
    }
    match text("t") {
        Some("I") => drop(put(
            "oneOf",
            json!([{"type": "integer"}, {"type": "string"}]),
        )),
        Some("Q") => drop(put(
            "oneOf",
            json!([{"type": "string"}, {"type": "number"}]),
        )),
        Some(letter) => drop(put("type", json!(type_name(letter)))),
        None => {}
    }
    if text("t") == Some("I") {
        put("format", json!("int-or-string"));
    }
    for (short, long) in COPIED {
        if let Some(value) = node.get(short) {
            put(long, value.clone());
        }
    }
    if text("t") == Some("a") && node.get("l").is_none() {
        put("x-kubernetes-list-type", json!("atomic"));
    }
    if let Some(fields) = node.get("p").and_then(Value::as_object) {
        let fields: Map<String, Value> = fields
            .iter()
            .map(|(name, node)| (name.clone(), expand(node, references)))
            .collect();
        put("properties", Value::Object(fields));
    }
    for (short, long) in [("a", "additionalProperties"), ("e", "items")] {
        if let Some(child) = node.get(short) {
            let child = match child.get("r").and_then(Value::as_str) {
                // Elements refer directly, fields through allOf.
                Some(name) if child.as_object().is_some_and(|c| c.len() == 1) => {
                    references.push(name.to_owned());
                    reference(name)
                }
                _ => expand(child, references),
            };
            put(long, child);
        }
    }
    Value::Object(out)
}

/// Keys that differ in name alone.
const COPIED: [(&str, &str); 8] = [
    ("f", "format"),
    ("q", "required"),
    ("d", "default"),
    ("l", "x-kubernetes-list-type"),
    ("k", "x-kubernetes-list-map-keys"),
    ("m", "x-kubernetes-map-type"),
    ("s", "x-kubernetes-patch-strategy"),
    ("y", "x-kubernetes-patch-merge-key"),
];

fn type_name(letter: &str) -> &'static str {
    match letter {
        "a" => "array",
        "s" => "string",
        "i" => "integer",
        "n" => "number",
        "b" => "boolean",
        _ => "object",
    }
}
