//! JSON merge patch, RFC 7396.

use serde_json::{Map, Value};

/// `document` changed as `patch` says: null removes, objects merge, everything else replaces.
pub fn merge(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let map = document.as_object_mut().expect("made an object above");
    for (name, patch) in patch {
        if patch.is_null() {
            map.shift_remove(name);
        } else {
            merge(map.entry(name.as_str()).or_insert(Value::Null), patch);
        }
    }
}
