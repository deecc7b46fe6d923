//! Removing what a structural schema doesn't know (custom resources).

use serde_json::{Map, Value};

use super::path::Path;
use super::{Kind, Schema};

impl Schema {
    /// Removes unknown fields and returns their paths, sorted. Pruning twice is the same as once.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut pruner = Pruner {
            removed: Vec::new(),
        };
        pruner.value(self, value, &Path::ROOT);
        pruner.removed.sort();
        pruner.removed
    }

    /// The paths that [`Schema::prune`] would remove.
    pub fn unknown_fields(&self, value: &Value) -> Vec<String> {
        let mut copy = value.clone();
        self.prune(&mut copy)
    }
}

struct Pruner {
    removed: Vec<String>,
}

impl Pruner {
    fn value(&mut self, schema: &Schema, value: &mut Value, path: &Path<'_>) {
        let target = schema.target();
        match value {
            Value::Object(map) => self.object(target, map, path, schema.embedded),
            Value::Array(list) => {
                let Some(schema) = target.items.as_deref() else {
                    return;
                };
                if is_scalar(schema) {
                    return;
                }
                for (at, value) in list.iter_mut().enumerate() {
                    self.value(schema, value, &path.index(at));
                }
            }
            _ => {}
        }
    }

    fn object(
        &mut self,
        target: &Schema,
        map: &mut Map<String, Value>,
        path: &Path<'_>,
        embedded: bool,
    ) {
        let removed = &mut Vec::new();
        map.retain(|name, value| {
            let child = path.field(name);
            if let Some(schema) = target.properties.find(name) {
                if !is_scalar(schema) {
                    self.value(schema, value, &child);
                }
                return true;
            }
            if embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                return true;
            }
            if let Some(schema) = target.additional.as_deref() {
                if !is_scalar(schema) {
                    self.value(schema, value, &child);
                }
                return true;
            }
            if target.preserve_unknown {
                return true;
            }
            removed.push(child.to_string());
            false
        });
        self.removed.append(removed);
    }
}

fn is_scalar(schema: &Schema) -> bool {
    matches!(
        schema.target().kind,
        Kind::String
            | Kind::Integer
            | Kind::Number
            | Kind::Boolean
            | Kind::IntOrString
            | Kind::Quantity
    )
}
