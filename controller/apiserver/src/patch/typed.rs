//! Walks over values with their schema: which fields are there, what differs, how two values merge, what remains.
//!
//! A value without a schema is "deduced": its maps are granular, its lists atomic. Fields that a schema doesn't know are walked
//! the same way.

use serde_json::{Map, Value};

use super::field_set::{Branch, FieldSet, PathElement};
use super::strategic::printed;
use crate::schema::{Kind, ListKind, Schema};

/// The schema at a place; none: deduced from the value.
pub(crate) type Type<'a> = Option<&'a Schema>;

/// How a value is owned.
enum Shape<'a> {
    /// As one: scalars, nulls, atomic lists and maps.
    Leaf,
    Fields,
    Elements(Elements<'a>),
}

#[derive(Clone, Copy)]
struct Elements<'a> {
    kind: &'a ListKind,
    schema: Type<'a>,
}

/// Which fields one value has and another hasn't, or has with a different value.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) removed: Branch,
    pub(crate) modified: Branch,
    pub(crate) added: Branch,
}

impl Comparison {
    pub(crate) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    pub(crate) fn without(mut self, set: &FieldSet) -> Self {
        for branch in [&mut self.removed, &mut self.modified, &mut self.added] {
            let children = std::mem::take(&mut branch.children);
            branch.children = children.difference(set);
        }
        self
    }

    /// Nothing of `set` changed.
    pub(crate) fn is_apart_from(&self, set: &FieldSet) -> bool {
        [&self.removed, &self.modified, &self.added]
            .iter()
            .all(|branch| !branch.children.touches(set))
    }

    fn absorb(&mut self, child: Self, element: impl Fn() -> PathElement) {
        self.removed.children.put(&element, child.removed);
        self.modified.children.put(&element, child.modified);
        self.added.children.put(&element, child.added);
    }
}

fn shape<'a>(schema: Type<'a>, value: &Value) -> Shape<'a> {
    match (value, schema) {
        (Value::Object(_), None) => Shape::Fields,
        (Value::Object(_), Some(schema)) => match schema.target().kind {
            _ if schema.is_atomic_map() => Shape::Leaf,
            Kind::Object | Kind::Any | Kind::IntOrString => Shape::Fields,
            _ => Shape::Leaf,
        },
        (Value::Array(_), Some(schema)) => match list_kind(schema) {
            ListKind::Atomic => Shape::Leaf,
            kind => Shape::Elements(Elements {
                kind,
                schema: schema.element(),
            }),
        },
        _ => Shape::Leaf,
    }
}

fn list_kind(schema: &Schema) -> &ListKind {
    match (&schema.list, &schema.target().list) {
        (ListKind::Atomic, shared) => shared,
        (own, _) => own,
    }
}

fn child<'a>(schema: Type<'a>, name: &str) -> Type<'a> {
    schema.and_then(|schema| schema.field(name))
}

/// True for fields of a struct, false for keys of a map.
fn is_named(schema: Type<'_>, name: &str) -> bool {
    schema.is_some_and(|schema| schema.target().properties.find(name).is_some())
}

// === Fields of a value ===

/// Every leaf of `value`, and the elements of keyed lists and maps.
pub(crate) fn field_set(schema: Type<'_>, value: &Value) -> FieldSet {
    collect(schema, value).children
}

fn collect(schema: Type<'_>, value: &Value) -> Branch {
    let mut set = FieldSet::default();
    match shape(schema, value) {
        Shape::Leaf => return Branch::leaf(),
        Shape::Fields => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let mut branch = collect(child(schema, name), value);
                let empty = value.as_object().is_some_and(Map::is_empty);
                branch.member |= empty || value.is_null() || !is_named(schema, name);
                set.put(|| PathElement::Field(name.as_str().into()), branch);
            }
        }
        Shape::Elements(elements) => {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            for (at, value) in list.iter().enumerate() {
                let Some(element) = elements.element(value) else {
                    continue;
                };
                let twin = |other: &Value| elements.element(other).as_ref() == Some(&element);
                let doubled = list[..at].iter().chain(&list[at + 1..]).any(twin);
                let mut branch = match doubled {
                    true => Branch::default(),
                    false => collect(elements.schema, value),
                };
                branch.member = true;
                set.put(|| element, branch);
            }
        }
    }
    Branch {
        member: false,
        children: set,
    }
}

impl Elements<'_> {
    /// How the list tells this element from the others. None where it can't: no key field at all, or not a scalar.
    fn element(&self, value: &Value) -> Option<PathElement> {
        let ListKind::Map(keys) = self.kind else {
            let scalar = !matches!(value, Value::Object(_) | Value::Array(_) | Value::Null);
            return scalar.then(|| PathElement::Value(value.clone()));
        };
        let map = value.as_object()?;
        let mut pairs: Vec<(Box<str>, Value)> = keys
            .iter()
            .filter_map(|key| {
                let set = map.get(&**key).cloned();
                let value = set.or_else(|| child(self.schema, key)?.default.clone())?;
                Some((key.clone(), value))
            })
            .collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        (!pairs.is_empty()).then_some(PathElement::Key(pairs))
    }

    fn is_same(&self, a: &Value, b: &Value) -> bool {
        match self.kind {
            // The usual case without building elements.
            ListKind::Map(keys)
                if keys
                    .iter()
                    .all(|k| a.get(&**k).is_some() && b.get(&**k).is_some()) =>
            {
                keys.iter().all(|key| a.get(&**key) == b.get(&**key))
            }
            ListKind::Map(_) => self.element(a) == self.element(b),
            _ => a == b,
        }
    }
}

// === Comparing ===

/// What changed from `before` to `after`, of which one may be missing.
pub(crate) fn compare(
    schema: Type<'_>,
    before: Option<&Value>,
    after: Option<&Value>,
) -> Comparison {
    let mut result = Comparison::default();
    let shapes = (
        before.map(|v| shape(schema, v)),
        after.map(|v| shape(schema, v)),
    );
    let blank = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => false,
    };
    let both_blank = blank(before) && blank(after);
    match shapes {
        (Some(Shape::Fields), Some(Shape::Fields)) if !both_blank => {
            compare_fields(schema, before, after, &mut result);
        }
        (Some(Shape::Elements(elements)), Some(Shape::Elements(_))) if !both_blank => {
            compare_elements(elements, before, after, &mut result);
        }
        (Some(Shape::Fields), None) | (None, Some(Shape::Fields)) if !both_blank => {
            compare_fields(schema, before, after, &mut result);
            result.added.member = before.is_none();
            result.removed.member = after.is_none();
        }
        (Some(Shape::Elements(elements)), None) | (None, Some(Shape::Elements(elements)))
            if !both_blank =>
        {
            compare_elements(elements, before, after, &mut result);
            result.added.member = before.is_none();
            result.removed.member = after.is_none();
        }
        // A container against null or a scalar: its parts come or go.
        (Some(Shape::Fields | Shape::Elements(_)), Some(Shape::Leaf)) if !both_blank => {
            result.removed.children = compare(schema, before, None).removed.children;
            result.modified.member = !after.is_some_and(Value::is_null);
        }
        (Some(Shape::Leaf), Some(Shape::Fields | Shape::Elements(_))) if !both_blank => {
            result.added.children = compare(schema, None, after).added.children;
            result.modified.member = !before.is_some_and(Value::is_null);
        }
        _ => match (before, after) {
            (None, _) => result.added.member = true,
            (_, None) => result.removed.member = true,
            (before, after) => result.modified.member = before != after,
        },
    }
    result
}

fn compare_fields(
    schema: Type<'_>,
    before: Option<&Value>,
    after: Option<&Value>,
    result: &mut Comparison,
) {
    let empty = Map::new();
    let old = before.and_then(Value::as_object).unwrap_or(&empty);
    let new = after.and_then(Value::as_object).unwrap_or(&empty);
    let names = old
        .keys()
        .chain(new.keys().filter(|name| !old.contains_key(*name)));
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        // The usual case, without a schema and a walk.
        let scalar = |value: &Value| !matches!(value, Value::Object(_) | Value::Array(_));
        if before == after && before.is_some_and(scalar) {
            continue;
        }
        let part = compare(child(schema, name), before, after);
        if !part.is_same() {
            result.absorb(part, || PathElement::Field(name.as_str().into()));
        }
    }
}

fn compare_elements(
    elements: Elements<'_>,
    before: Option<&Value>,
    after: Option<&Value>,
    result: &mut Comparison,
) {
    if before == after {
        return;
    }
    let old = before
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let new = after
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    for (at, value) in old.iter().enumerate() {
        let first = !old[..at].iter().any(|other| elements.is_same(other, value));
        if first && let Some(element) = elements.element(value) {
            result.absorb(compare_element(elements, value, old, new), || {
                element.clone()
            });
        }
    }
    for (at, value) in new.iter().enumerate() {
        let known = |list: &[Value]| list.iter().any(|other| elements.is_same(other, value));
        if !known(old)
            && !known(&new[..at])
            && let Some(element) = elements.element(value)
        {
            result.absorb(compare_element(elements, value, old, new), || {
                element.clone()
            });
        }
    }
}

/// One element in both lists, where either may hold it several times: then all its copies count as one value.
fn compare_element(
    elements: Elements<'_>,
    like: &Value,
    old: &[Value],
    new: &[Value],
) -> Comparison {
    let same =
        |list: &[Value]| -> usize { list.iter().filter(|v| elements.is_same(v, like)).count() };
    let first = |list: &'_ [Value]| -> Option<usize> {
        list.iter().position(|v| elements.is_same(v, like))
    };
    let (before, after) = (first(old).map(|at| &old[at]), first(new).map(|at| &new[at]));
    match (same(old), same(new)) {
        (0 | 1, 0 | 1) => compare(elements.schema, before, after),
        (0 | 1, _) => {
            let mut result = match before {
                Some(_) => compare(elements.schema, before, None),
                None => Comparison::default(),
            };
            result.removed.member = false;
            result.added.member = true;
            result
        }
        (_, 0 | 1) => {
            let mut result = match after {
                Some(_) => compare(elements.schema, None, after),
                None => Comparison::default(),
            };
            result.added.member = false;
            result.removed.member = true;
            result
        }
        _ => {
            let copies = |list: &[Value]| -> Vec<Value> {
                list.iter()
                    .filter(|v| elements.is_same(v, like))
                    .cloned()
                    .collect()
            };
            let mut result = Comparison::default();
            result.modified.member = copies(old) != copies(new);
            result
        }
    }
}

// === Merging ===

/// `live` with everything that `config` says. Nothing is removed.
pub(crate) fn merge(schema: Type<'_>, live: &Value, config: &Value) -> Value {
    match (shape(schema, config), live) {
        (Shape::Fields, Value::Object(old)) => {
            let new = config.as_object().expect("its shape is fields");
            let mut merged = old.clone();
            for (name, value) in new {
                let value = match old.get(name) {
                    Some(old) => merge(child(schema, name), old, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Elements(elements), Value::Array(old)) => {
            let new = config.as_array().expect("its shape is elements");
            if old.is_empty() || new.is_empty() {
                let longer = if new.is_empty() { old } else { new };
                return Value::Array(longer.clone());
            }
            Value::Array(merge_elements(elements, old, new))
        }
        // An explicit null of a struct or list says nothing about what is inside.
        (Shape::Leaf, Value::Object(_) | Value::Array(_))
            if config.is_null() && !matches!(shape(schema, live), Shape::Leaf) =>
        {
            live.clone()
        }
        _ => config.clone(),
    }
}

/// Ordered like `new` where both have an element, with the elements that only `old` has where they were.
fn merge_elements(elements: Elements<'_>, old: &[Value], new: &[Value]) -> Vec<Value> {
    let in_new = |value: &Value| new.iter().position(|other| elements.is_same(other, value));
    let in_old = |value: &Value| old.iter().find(|other| elements.is_same(other, value));
    let merged = |value: &Value| match in_old(value) {
        Some(old) => merge(elements.schema, old, value),
        None => value.clone(),
    };
    let mut shared = (0..new.len()).filter(|at| in_old(&new[*at]).is_some());
    let mut next_shared = shared.next();
    let mut out: Vec<Value> = Vec::with_capacity(old.len().max(new.len()));
    let mut done = vec![false; new.len()];
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if l < old.len() && r < new.len() {
            if elements.is_same(&old[l], &new[r]) {
                done[r] = true;
                out.push(merged(&new[r]));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            let here = in_new(&old[l]);
            if here.is_some() && next_shared.is_some() && here != next_shared {
                // A shared element, but its turn is later.
                l += 1;
                continue;
            }
        }
        if l < old.len() {
            match in_new(&old[l]) {
                None => {
                    out.push(old[l].clone());
                    l += 1;
                    continue;
                }
                Some(at) if done[at] => l += 1,
                Some(_) => {}
            }
        }
        if r < new.len() {
            done[r] = true;
            out.push(merged(&new[r]));
            if next_shared == Some(r) {
                next_shared = shared.next();
            }
            r += 1;
        }
    }
    out
}

// === Removing ===

/// `value` without the paths in `set`; containers that become empty by that go too (None).
pub(crate) fn remove(schema: Type<'_>, value: &Value, set: &FieldSet) -> Option<Value> {
    match shape(schema, value) {
        Shape::Leaf => Some(value.clone()),
        Shape::Fields => {
            let map = value.as_object().expect("its shape is fields");
            if map.is_empty() {
                return Some(value.clone());
            }
            let mut kept = Map::with_capacity(map.len());
            for (name, value) in map {
                let part = match set.field(name) {
                    None => Some(value.clone()),
                    Some(branch) if branch.member => None,
                    Some(branch) => remove(child(schema, name), value, &branch.children),
                };
                if let Some(part) = part {
                    kept.insert(name.clone(), part);
                }
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Shape::Elements(elements) => {
            let list = value.as_array().expect("its shape is elements");
            if list.is_empty() {
                return Some(value.clone());
            }
            let kept: Vec<_> = list
                .iter()
                .filter_map(|value| {
                    let branch = elements.element(value).and_then(|at| set.branch(&at));
                    match branch {
                        None => Some(value.clone()),
                        Some(branch) if branch.member => None,
                        Some(branch) => remove(elements.schema, value, &branch.children),
                    }
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
    }
}

/// The set together with the struct fields that lead to its members: whoever owns `a.b` asks for `a` to exist.
pub(crate) fn with_named_fields(schema: Type<'_>, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet::default();
    for (element, branch) in set.branches() {
        let (below, named) = match element {
            PathElement::Field(name) => (child(schema, name), is_named(schema, name)),
            _ => (schema.and_then(Schema::element), false),
        };
        let children = with_named_fields(below, &branch.children);
        let member = branch.member || (named && !children.is_empty());
        out.put(|| element.clone(), Branch { member, children });
    }
    out
}

// === Checking ===

/// What is wrong with an applied configuration: fields that the schema doesn't have, wrong types, elements without keys or
/// with the same keys. Each as `path: reason`.
pub(crate) fn faults(schema: Type<'_>, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, value, "", &mut faults);
    faults
}

fn check(schema: Type<'_>, value: &Value, path: &str, faults: &mut Vec<String>) {
    let Some(schema) = schema else { return };
    let target = schema.target();
    if let Some(reason) = wrong_type(target.kind, value) {
        faults.push(format!("{path}: {reason}"));
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match schema.field(name) {
                    Some(schema) => check(Some(schema), value, &path, faults),
                    None if target.kind == Kind::Any || target.preserve_unknown => {}
                    None => faults.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        Value::Array(list) => {
            let Shape::Elements(elements) = shape(Some(schema), value) else {
                for (at, value) in list.iter().enumerate() {
                    check(
                        target.items.as_deref(),
                        value,
                        &format!("{path}[{at}]"),
                        faults,
                    );
                }
                return;
            };
            check_elements(elements, list, path, faults);
        }
        _ => {}
    }
}

fn check_elements(elements: Elements<'_>, list: &[Value], path: &str, faults: &mut Vec<String>) {
    for (at, value) in list.iter().enumerate() {
        let Some(element) = elements.element(value) else {
            let reason = elements.fault(value);
            faults.push(format!("{path}: element {at}: {reason}"));
            return;
        };
        if list[..at]
            .iter()
            .any(|other| elements.is_same(other, value))
        {
            faults.push(format!("{path}: duplicate entries for key {element}"));
        }
        check(elements.schema, value, &format!("{path}{element}"), faults);
    }
}

impl Elements<'_> {
    fn fault(&self, value: &Value) -> String {
        match (self.kind, value) {
            (ListKind::Map(_), Value::Null) => {
                "associative list with keys may not have a null element".to_owned()
            }
            (ListKind::Map(keys), Value::Object(_)) => format!(
                "associative list with keys has an element that omits all key fields {keys:?} (and doesn't \
                 have default values for any key fields)"
            ),
            (ListKind::Map(_), _) => {
                "associative list with keys may not have non-map elements".to_owned()
            }
            (_, Value::Object(_)) => {
                "associative list without keys has an element that's a map type".to_owned()
            }
            (_, Value::Null) => {
                "associative list without keys has an element that's an explicit null".to_owned()
            }
            _ => "not supported: associative list with lists as elements".to_owned(),
        }
    }
}

fn wrong_type(kind: Kind, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    // As Go prints them: the wrapped value, and for strings the wrapper's name too.
    let shown = || format!("&{{{}}}", printed(value));
    match kind {
        Kind::Object if !value.is_object() => Some(format!("expected map, got {}", shown())),
        Kind::Array if !value.is_array() => Some(format!("expected list, got {}", shown())),
        Kind::String if !value.is_string() => Some(format!(
            "expected string, got &value.valueUnstructured{{Value:{}}}",
            printed(value)
        )),
        Kind::Boolean if !value.is_boolean() => Some(format!("expected boolean, got {}", shown())),
        Kind::Integer | Kind::Number if !value.is_number() => Some(format!(
            "expected numeric (int or float), got {}",
            go_type(value)
        )),
        _ => None,
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    }
}
