//! Strategic merge patch: merge patch where lists merge by the keys of their kind, with directives.
//!
//! `$patch: replace|delete` on a map or a list's element, `$retainKeys`, `$setElementOrder/FIELD` and
//! `$deleteFromPrimitiveList/FIELD`, as `kubectl apply` and `kubectl edit` send them. Lists merge by one key
//! (`patchMergeKey`), which can differ from their keys in server-side apply: Service ports merge by `port` alone.

use serde_json::{Map, Value};

use super::typed::Type;
use crate::schema::{Schema, StrategicKeys};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// 400 BadRequest: a directive is malformed.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The patch doesn't fit the object; Kubernetes answers 500 with this text.
    #[error("{0}")]
    Failed(String),
    /// 422 Invalid.
    #[error("lists of lists are not supported")]
    ListsOfLists,
}

/// `document` changed as `patch` says, for a built-in kind's schema. (Custom resources have no such patch: 415.)
pub fn strategic(schema: &Schema, document: Value, patch: Value) -> Result<Value, StrategicError> {
    let (Value::Object(document), Value::Object(patch)) = (document, patch) else {
        return Err(StrategicError::BadRequest("invalid JSON document"));
    };
    merge_map(Some(schema), document, patch).map(Value::Object)
}

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

const BAD_RETAIN_KEYS: StrategicError =
    StrategicError::BadRequest("invalid patch format of retainKeys");
const BAD_SET_ORDER: StrategicError =
    StrategicError::BadRequest("invalid patch format of setElementOrder list");

type Object = Map<String, Value>;

fn merge_map(
    schema: Type<'_>,
    mut original: Object,
    mut patch: Object,
) -> Result<Object, StrategicError> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(&directive, Value::Object(patch))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_orders(schema, &mut original, &mut patch)?;
    for (key, value) in patch {
        let (key, deleting) = match key.strip_prefix(DELETE_FROM) {
            Some(name) => (name.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.shift_remove(&key);
            continue;
        }
        let merged = match (original.get_mut(&key).map(Value::take), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                Some(Value::Object(merge_field(schema, &key, old, new)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(merge_list(schema, &key, old, new, deleting)?))
            }
            (old, _) if deleting => old,
            (_, new) => without_directives(without_nulls(new)),
        };
        match merged {
            Some(value) => original.insert(key, value),
            None => original.shift_remove(&key),
        };
    }
    Ok(original)
}

fn merge_field(
    schema: Type<'_>,
    key: &str,
    old: Object,
    new: Object,
) -> Result<Object, StrategicError> {
    let field = field(schema, key);
    if keys(field).is_some_and(|keys| keys.replace) {
        return Ok(new);
    }
    merge_map(field, old, new)
}

fn merge_list(
    schema: Type<'_>,
    key: &str,
    old: Vec<Value>,
    new: Vec<Value>,
    deleting: bool,
) -> Result<Vec<Value>, StrategicError> {
    let field = field(schema, key);
    let keys = keys(field);
    if !deleting && !keys.is_some_and(|keys| keys.merge) {
        return Ok(new);
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let merge_key = keys.map(|keys| &*keys.merge_key).unwrap_or_default();
    let maps = old.iter().chain(&new).all(Value::is_object);
    if !maps {
        if let Some(Value::Object(_) | Value::Array(_)) =
            old.iter().chain(&new).find(|v| !v.is_string())
        {
            return Err(StrategicError::ListsOfLists);
        }
        if deleting {
            return Ok(old
                .into_iter()
                .filter(|value| !new.contains(value))
                .collect());
        }
        let mut merged = Vec::with_capacity(old.len() + new.len());
        for value in old.iter().chain(&new) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return Ok(in_order(merged, &new, &old, ""));
    }
    if merge_key.is_empty() {
        let name = field
            .and_then(Schema::element)
            .map(Schema::type_name)
            .unwrap_or_default();
        return Err(StrategicError::Failed(format!(
            "cannot merge lists without merge key for {name}"
        )));
    }
    let element = field.and_then(Schema::element);
    let (old, new) = special_elements(old, new, merge_key)?;
    let merged = merge_elements(element, old.clone(), new.clone(), merge_key)?;
    Ok(in_order(merged, &new, &old, merge_key))
}

/// Carries out `$patch` on elements: what remains of the old list, and the plain elements of the patch.
fn special_elements(
    mut old: Vec<Value>,
    new: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), StrategicError> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replace = false;
    for value in new {
        match value
            .get(PATCH)
            .map(|directive| directive.as_str().unwrap_or_default())
        {
            None => plain.push(value),
            Some("replace") => replace = true,
            Some("delete") => {
                let key = value
                    .get(merge_key)
                    .ok_or_else(|| no_merge_key(&value, merge_key))?;
                old.retain(|old| old.get(merge_key) != Some(key));
            }
            Some("merge") => {
                let reason = "merging lists cannot yet be specified in the patch";
                return Err(StrategicError::Failed(reason.to_owned()));
            }
            Some(other) => {
                return Err(unknown_directive(
                    &Value::String(other.to_owned()),
                    value.clone(),
                ));
            }
        }
    }
    if replace {
        Ok((plain, Vec::new()))
    } else {
        Ok((old, plain))
    }
}

fn merge_elements(
    schema: Type<'_>,
    mut old: Vec<Value>,
    new: Vec<Value>,
    merge_key: &str,
) -> Result<Vec<Value>, StrategicError> {
    for value in new {
        let key = value
            .get(merge_key)
            .ok_or_else(|| no_merge_key(&value, merge_key))?;
        match old.iter_mut().find(|old| old.get(merge_key) == Some(key)) {
            Some(place) => {
                if let (Value::Object(old), Value::Object(new)) = (place.take(), value) {
                    *place = Value::Object(merge_map(schema, old, new)?);
                }
            }
            None => old.push(value),
        }
    }
    Ok(old)
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(BAD_RETAIN_KEYS);
    };
    let kept = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let directive = |name: &str| name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
    let stray = patch
        .iter()
        .any(|(name, value)| !value.is_null() && !directive(name) && !kept(name));
    if stray {
        return Err(BAD_RETAIN_KEYS);
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// Merges the lists for which the patch gives an order, and puts them in it.
fn set_orders(
    schema: Type<'_>,
    original: &mut Object,
    patch: &mut Object,
) -> Result<(), StrategicError> {
    let names: Vec<String> = patch
        .keys()
        .filter_map(|key| key.strip_prefix(SET_ORDER))
        .map(str::to_owned)
        .collect();
    for name in names {
        let order = patch.shift_remove(&format!("{SET_ORDER}{name}"));
        let Some(Value::Array(order)) = order else {
            return Err(BAD_SET_ORDER);
        };
        let list = |map: &Object| -> Result<Option<Vec<Value>>, StrategicError> {
            match map.get(&name) {
                None => Ok(None),
                Some(Value::Array(list)) => Ok(Some(list.clone())),
                Some(_) => Err(BAD_SET_ORDER),
            }
        };
        let merge_key = keys(field(schema, &name))
            .map(|keys| &*keys.merge_key)
            .unwrap_or_default();
        let (old, new) = (list(original)?, list(patch)?);
        check_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let server = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(list)) => list,
                _ => continue,
            },
            (Some(old), Some(new)) => merge_list(schema, &name, old, new, false)?,
        };
        let ordered = in_order(merged, &order, &server, merge_key);
        original.insert(name.clone(), Value::Array(ordered));
        patch.shift_remove(&name);
    }
    Ok(())
}

/// The patch's own list must come in the order it asks for.
fn check_order(new: &[Value], order: &[Value], merge_key: &str) -> Result<(), StrategicError> {
    if new.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for value in new.iter().filter(|value| value.get(PATCH).is_none()) {
        if !wanted.any(|next| is_same(value, next, merge_key)) {
            let list = |list: &[Value]| printed(&Value::Array(list.to_vec()));
            let (new, order) = (list(new), list(order));
            return Err(StrategicError::Failed(format!(
                "The order in patch list:\n{new}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

/// Elements named in `order` come in that order; the others keep their places relative to them as in `server`.
fn in_order(merged: Vec<Value>, order: &[Value], server: &[Value], merge_key: &str) -> Vec<Value> {
    let place = |list: &[Value], value: &Value| {
        list.iter()
            .position(|other| is_same(value, other, merge_key))
    };
    let (mut named, mut others): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .partition(|value| place(order, value).is_some());
    named.sort_by_key(|value| place(order, value));
    others.sort_by_key(|value| place(server, value).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        while let Some(next) =
            named.next_if(|next| match (place(server, &other), place(server, next)) {
                (Some(other), Some(next)) => next < other,
                _ => true,
            })
        {
            out.push(next);
        }
        out.push(other);
    }
    out.extend(named);
    out
}

fn is_same(a: &Value, b: &Value, merge_key: &str) -> bool {
    if merge_key.is_empty() {
        a == b
    } else {
        a.get(merge_key) == b.get(merge_key)
    }
}

fn without_nulls(mut value: Value) -> Value {
    fn clean(value: &mut Value) {
        match value {
            Value::Object(map) => map.retain(|_, value| {
                clean(value);
                !value.is_null()
            }),
            Value::Array(list) => list.iter_mut().for_each(clean),
            _ => {}
        }
    }
    clean(&mut value);
    value
}

/// None where the value itself carries a `$patch`.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map
                .into_iter()
                .filter_map(|(name, value)| without_directives(value).map(|value| (name, value)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(
            list.into_iter().filter_map(without_directives).collect(),
        )),
        other => Some(other),
    }
}

fn field<'a>(schema: Type<'a>, name: &str) -> Type<'a> {
    schema.and_then(|schema| schema.field(name))
}

fn keys(schema: Type<'_>) -> Option<&StrategicKeys> {
    schema.and_then(|schema| schema.patch.as_deref())
}

fn no_merge_key(value: &Value, merge_key: &str) -> StrategicError {
    let map = printed(value);
    StrategicError::Failed(format!(
        "map: {map} does not contain declared merge key: {merge_key}"
    ))
}

fn unknown_directive(directive: &Value, mut map: Value) -> StrategicError {
    if let Some(map) = map.as_object_mut() {
        map.insert(PATCH.to_owned(), directive.clone());
    }
    let (directive, map) = (printed(directive), printed(&map));
    StrategicError::Failed(format!("unknown patch type: {directive} in map: {map}"))
}

/// A value as Go's `%v` prints it: `map[a:1 b:[x y]]`.
pub(crate) fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            format!(
                "[{}]",
                list.iter().map(printed).collect::<Vec<_>>().join(" ")
            )
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", printed(value)))
                .collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}
