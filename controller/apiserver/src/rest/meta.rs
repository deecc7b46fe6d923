//! `metadata`: what the server fills in, keeps and checks for every kind.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::events;
use crate::error::Cause;
use crate::kinds::field::FieldErrors;
use crate::kinds::{self, NameRule, Strategy};
use crate::resource::Resource;
use crate::store::Draft;

pub(super) fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// The metadata of an object that was decoded, which always has some.
pub(super) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]
        .as_object_mut()
        .expect("it was made an object above")
}

pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    metadata(object)
        .and_then(|m| m.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    let list = metadata(object)
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

pub(super) fn is_deleting(object: &Value) -> bool {
    metadata(object).is_some_and(|m| m.contains_key("deletionTimestamp"))
}

/// The store's form of an object.
pub(super) fn draft(object: &Value, resource: &Resource, strategy: &dyn Strategy) -> Draft {
    let renamed;
    let object = if events::is_renamed(resource) {
        let mut stored = object.clone();
        events::to_stored(&mut stored);
        renamed = stored;
        &renamed
    } else {
        object
    };
    let own = strategy
        .selectable_fields()
        .iter()
        .map(|field| Cow::Borrowed(*field));
    let custom = resource.custom.iter().flat_map(|custom| {
        custom
            .selectable_fields
            .iter()
            .map(|path| Cow::Owned(path.trim_start_matches('.').to_owned()))
    });
    let fields = own
        .chain(custom)
        .map(|field| {
            let value = strategy.selectable_value(object, &field).into_boxed_str();
            (field, value)
        })
        .collect();
    Draft::new(object, fields)
}

/// Takes over what an update can't change; what the client left out counts as unchanged.
pub(super) fn keep_system_fields(new: &mut Value, old: &Value) {
    const KEPT: &[&str] = &[
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ];
    let Some(old) = metadata(old) else { return };
    let new = metadata_mut(new);
    new.shift_remove("selfLink");
    for key in KEPT {
        match old.get(*key) {
            Some(value) => {
                new.insert((*key).to_owned(), value.clone());
            }
            None => {
                new.shift_remove(*key);
            }
        }
    }
    // A generated name can't be forgotten, only left out.
    if let Some(value) = old.get("generateName")
        && !new.contains_key("generateName")
    {
        new.insert("generateName".to_owned(), value.clone());
    }
}

/// Everything wrong with the metadata of an object about to be created.
pub(super) fn validate_create(object: &Value, resource: &Resource, rule: NameRule) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    kinds::metadata::validate_create(object, resource.namespaced, rule, &mut errors);
    if resource.custom.is_none() {
        kinds::metadata::validate_kube_finalizers(object, &mut errors);
    }
    errors.into_causes()
}

/// What a client sent of the fields that only the server sets, where it differs from what is there.
/// Absent counts as unchanged, and so does anything once the object is being deleted.
pub(super) fn changed_system_fields(new: &Value, old: &Value) -> Vec<Cause> {
    const FIELDS: &[&str] = &[
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let (new, old) = (&new["metadata"], &old["metadata"]);
    FIELDS
        .iter()
        .filter(|key| **key == "creationTimestamp" || old.get("deletionTimestamp").is_none())
        .filter_map(|key| {
            let sent = new.get(*key).filter(|value| !value.is_null())?;
            let changed = old.get(*key) != Some(sent);
            let field = format!("metadata.{key}");
            changed.then(|| Cause::invalid(field, sent, kinds::metadata::IMMUTABLE))
        })
        .collect()
}

/// Everything that an update may not do to metadata.
pub(super) fn validate_update(new: &Value, old: &Value, resource: &Resource) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    kinds::metadata::validate_update(new, old, &mut errors);
    if resource.custom.is_none() {
        kinds::metadata::validate_kube_finalizers(new, &mut errors);
    }
    errors.into_causes()
}
