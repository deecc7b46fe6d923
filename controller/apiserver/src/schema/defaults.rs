//! Filling in defaults.
//!
//! For built-in kinds the published defaults are also what a struct always holds (`status: {}`, `name: ""`), so this gives an
//! object the shape in which the real server returns it. For custom resources it is the defaulting of structural schemas:
//! missing fields get their default, explicit nulls too where the field isn't nullable.

use serde_json::{Map, Value};

use super::{Kind, Schema};

impl Schema {
    /// Sets what is missing. Applying it twice is the same as once.
    pub fn apply_defaults(&self, value: &mut Value) {
        let target = self.target();
        match value {
            Value::Object(map) => object(target, map),
            Value::Array(list) => {
                let Some(schema) = target.items.as_deref() else {
                    return;
                };
                if !schema.has_defaults() {
                    return;
                }
                for value in list {
                    schema.default_null(value);
                    schema.apply_defaults(value);
                }
            }
            _ => {}
        }
    }

    /// Drops nulls that stand where neither null nor a default may: what a custom resource's defaulting does at first, so
    /// that an explicit null reads as absent.
    pub fn drop_nulls_without_meaning(&self, value: &mut Value) {
        let target = self.target();
        match value {
            Value::Object(map) => map.retain(|name, value| {
                let Some(schema) = target
                    .properties
                    .find(name)
                    .or(target.additional.as_deref())
                else {
                    return true;
                };
                if value.is_null() {
                    return schema.nullable || schema.default.is_some();
                }
                schema.drop_nulls_without_meaning(value);
                true
            }),
            Value::Array(list) => {
                let Some(schema) = target.items.as_deref() else {
                    return;
                };
                list.iter_mut()
                    .for_each(|value| schema.drop_nulls_without_meaning(value));
            }
            _ => {}
        }
    }

    fn default_null(&self, value: &mut Value) {
        if value.is_null()
            && !self.nullable
            && let Some(default) = &self.default
        {
            *value = default.clone();
        }
    }

    /// Cheap over-estimate: scalars have nothing to fill below them.
    fn has_defaults(&self) -> bool {
        self.default.is_some()
            || matches!(self.target().kind, Kind::Object | Kind::Array | Kind::Any)
    }
}

fn object(target: &Schema, map: &mut Map<String, Value>) {
    for (name, schema) in target.properties.iter() {
        let Some(default) = &schema.default else {
            // A struct always shows its required lists.
            let shown = target.is_struct
                && schema.target().kind == Kind::Array
                && target.required.iter().any(|required| **required == *name);
            if shown && !map.contains_key(name) {
                map.insert(name.to_owned(), Value::Null);
            }
            continue;
        };
        match map.get_mut(name) {
            None => {
                map.insert(name.to_owned(), default.clone());
            }
            Some(value) => schema.default_null(value),
        }
    }
    let additional = target
        .additional
        .as_deref()
        .filter(|schema| schema.has_defaults());
    for (name, value) in map.iter_mut() {
        let known = target.properties.find(name);
        if let Some(schema) = known.or(additional) {
            if known.is_none() {
                schema.default_null(value);
            }
            if schema.has_defaults() {
                schema.apply_defaults(value);
            }
        }
    }
}
