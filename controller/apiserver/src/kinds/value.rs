//! Small helpers for reading and filling JSON objects whose types the schema has checked before.

use serde_json::{Map, Value};

/// Sets `key` when it is absent, null or an empty string. Does nothing on what isn't an object.
pub(crate) fn default(value: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut()
        && is_unset(map.get(key))
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// The object at `key`, made when it is absent or null; `None` when something else is there.
pub(crate) fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let map = value.as_object_mut()?;
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.is_object().then_some(slot)
}

/// The object at `key` when there is one.
pub(crate) fn existing<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    value.get_mut(key).filter(|slot| slot.is_object())
}

/// The elements of the array at `key`, none when there is no array.
pub(crate) fn items<'a>(value: &'a mut Value, key: &str) -> &'a mut [Value] {
    match value.get_mut(key) {
        Some(Value::Array(items)) => items,
        _ => &mut [],
    }
}

pub(crate) fn remove(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.shift_remove(key);
    }
}

pub(crate) fn set(value: &mut Value, key: &str, new: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), new.into());
    }
}

/// Sets `key` to `new`, or removes it when there is none.
pub(crate) fn replace(value: &mut Value, key: &str, new: Option<&Value>) {
    match new {
        Some(new) => set(value, key, new.clone()),
        None => remove(value, key),
    }
}

/// The elements of an array field, none when it is absent.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The strings of an array field.
pub(crate) fn strings<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    list(value, key).iter().filter_map(Value::as_str).collect()
}

/// A string field, `None` when absent or empty.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// An integer field, zero when absent.
pub(crate) fn number(value: &Value, key: &str) -> i64 {
    value.get(key).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether a field has a value other than null.
pub(crate) fn present(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|value| !value.is_null())
}

fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        _ => false,
    }
}
