//! Laws that hold for any input.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::*;
use super::{applying, config_map, none, writer};
use crate::schema::builtin;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (0_i64..4).prop_map(|n| json!(n)),
        "[ab]{0,2}".prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A pod template's worth of granular maps, keyed lists, sets and atomic lists.
fn any_pod() -> impl Strategy<Value = Value> {
    let text = || prop::option::of("[xy]");
    let container = ("[a-c]", text(), text(), prop::option::of(0_u16..3));
    let containers = prop::collection::vec(container, 0..4);
    let labels = prop::collection::btree_map("[k-m]", "[xy]", 0..3);
    let finalizers = prop::collection::btree_set("[f-h]", 0..3);
    (containers, labels, finalizers).prop_map(|(containers, labels, finalizers)| {
        let mut seen = std::collections::BTreeSet::new();
        let containers: Vec<Value> = containers
            .into_iter()
            .filter(|(name, ..)| seen.insert(name.clone()))
            .map(|(name, image, argument, port)| {
                let mut container = json!({"name": name});
                if let Some(image) = image {
                    container["image"] = json!(image);
                }
                if let Some(argument) = argument {
                    container["args"] = json!([argument]);
                }
                if let Some(port) = port {
                    container["ports"] = json!([{"containerPort": port}]);
                }
                container
            })
            .collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
        if !containers.is_empty() {
            pod["spec"] = json!({"containers": containers});
        }
        if !labels.is_empty() {
            pod["metadata"]["labels"] = json!(labels);
        }
        if !finalizers.is_empty() {
            pod["metadata"]["finalizers"] = json!(finalizers);
        }
        pod
    })
}

fn apply_pod(
    live: Option<&Value>,
    config: &Value,
    manager: &str,
    force: bool,
) -> Result<Applied, ApplyError> {
    let schema = builtin("", "v1", "Pod").expect("a built-in kind");
    applying(Some(&schema), live, config, writer(manager), force)
}

fn owned(object: &Value, manager: &str) -> FieldSet {
    FieldSet::decode(&super::fields(object, manager)).unwrap_or_default()
}

fn bare(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(metadata) = bare["metadata"].as_object_mut() {
        metadata.shift_remove("managedFields");
    }
    bare
}

proptest! {
    #[test]
    fn a_merge_patch_applied_twice_is_applied_once(document in any_json(), patch in any_json()) {
        let mut once = document;
        merge(&mut once, &patch);
        let mut twice = once.clone();
        merge(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_merge_patch_without_nulls_is_contained_in_its_result(document in any_json(), patch in any_json()) {
        let mut result = document;
        merge(&mut result, &patch);
        fn holds(result: &Value, patch: &Value) -> bool {
            match patch {
                Value::Object(map) => map.iter().all(|(key, patch)| match patch {
                    Value::Null => result.get(key).is_none(),
                    _ => result.get(key).is_some_and(|result| holds(result, patch)),
                }),
                other => result == other,
            }
        }
        prop_assert!(holds(&result, &patch));
    }

    #[test]
    fn a_field_set_survives_its_wire_form(pod in any_pod(), free in any_json()) {
        let schema = builtin("", "v1", "Pod").expect("a built-in kind");
        for set in [typed::field_set(Some(&schema), &pod), typed::field_set(None, &free)] {
            prop_assert_eq!(FieldSet::decode(&set.encode()), Some(set));
        }
    }

    #[test]
    fn field_sets_form_an_algebra(a in any_json(), b in any_json()) {
        let (a, b) = (typed::field_set(None, &a), typed::field_set(None, &b));
        let union = a.clone().union(b.clone());
        prop_assert_eq!(&union, &b.clone().union(a.clone()));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(&a.clone().difference(&b).union(a.intersection(&b)), &a);
        prop_assert_eq!(union.clone().difference(&b), a.clone().difference(&b));
        prop_assert!(a.clone().difference(&a).is_empty());
        prop_assert_eq!(union.intersection(&a), a);
    }

    #[test]
    fn nothing_differs_from_itself_and_what_differs_is_named(a in any_pod(), b in any_pod()) {
        let schema = builtin("", "v1", "Pod").expect("a built-in kind");
        prop_assert!(typed::compare(Some(&schema), Some(&a), Some(&a)).is_same());
        let there = typed::compare(Some(&schema), Some(&a), Some(&b));
        let back = typed::compare(Some(&schema), Some(&b), Some(&a));
        prop_assert_eq!(there.added.children, back.removed.children);
        prop_assert_eq!(there.modified.children, back.modified.children);
    }

    #[test]
    fn applying_the_same_configuration_twice_changes_nothing(
        first in any_pod(), other in any_pod(), config in any_pod()
    ) {
        let live = apply_pod(None, &first, "one", false).expect("nobody to conflict with").object;
        let live = apply_pod(Some(&live), &other, "two", true).expect("forced").object;
        let once = apply_pod(Some(&live), &config, "one", true).expect("forced");
        let twice = apply_pod(Some(&once.object), &config, "one", false).expect("owns it all");
        prop_assert!(!twice.changed);
        prop_assert_eq!(twice.object, once.object);
    }

    #[test]
    fn an_apply_without_force_never_changes_what_others_own(first in any_pod(), config in any_pod()) {
        let schema = builtin("", "v1", "Pod").expect("a built-in kind");
        let live = apply_pod(None, &first, "one", false).expect("nobody to conflict with").object;
        let before = owned(&live, "one");
        match apply_pod(Some(&live), &config, "two", false) {
            Ok(applied) => {
                prop_assert_eq!(&owned(&applied.object, "one"), &before);
                let changed = typed::compare(Some(&schema), Some(&bare(&live)), Some(&bare(&applied.object)));
                prop_assert!(changed.removed.is_empty());
                prop_assert!(changed.modified.children.intersection(&before).is_empty());
            }
            Err(ApplyError::Conflict { causes, .. }) => prop_assert!(!causes.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn an_applied_configuration_is_in_the_object_and_its_loss_leaves_nothing(config in any_pod()) {
        let schema = builtin("", "v1", "Pod").expect("a built-in kind");
        let applied = apply_pod(None, &config, "one", false).expect("nobody to conflict with").object;
        let missing = typed::compare(Some(&schema), Some(&config), Some(&bare(&applied)));
        prop_assert!(missing.is_same());
        let empty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
        let cleared = apply_pod(Some(&applied), &empty, "one", false).expect("its own").object;
        prop_assert!(owned(&cleared, "one").is_empty());
        let left = typed::field_set(Some(&schema), &bare(&cleared)).difference(managed_fields::strip_set());
        prop_assert!(left.is_empty(), "{:?}", left.paths());
    }

    #[test]
    fn an_update_owns_exactly_what_it_changed(before in any_pod(), after in any_pod()) {
        let schema = builtin("", "v1", "Pod").expect("a built-in kind");
        let mut live = before;
        record_update(Some(&schema), None, &mut live, writer("one"), &none());
        let mut new = after;
        record_update(Some(&schema), Some(&live), &mut new, writer("two"), &none());
        let changed = typed::compare(Some(&schema), Some(&bare(&live)), Some(&bare(&new)));
        let taken = changed.modified.children.union(changed.added.children);
        prop_assert_eq!(&owned(&new, "two"), &taken);
        prop_assert!(owned(&new, "one").intersection(&taken).is_empty());
    }

    #[test]
    fn junk_in_managed_fields_never_panics(junk in any_json(), data in any_json()) {
        let mut new = super::config(json!({"a": "1"}));
        let live = super::config(data.as_object().cloned().map_or(json!({}), Value::Object));
        new["metadata"]["managedFields"] = junk;
        record_update(Some(&config_map()), Some(&live), &mut new, writer("one"), &none());
        prop_assert!(new["metadata"].is_object());
    }

    #[test]
    fn junk_patches_never_panic(document in any_json(), patch in any_json()) {
        let schema = config_map();
        let _result = json(&document, patch.to_string().as_bytes());
        let _result = strategic(&schema, document.clone(), patch.clone());
        let _result = applying(Some(&schema), Some(&document), &patch, writer("one"), true);
        let mut map = Map::new();
        map.insert("metadata".to_owned(), patch);
        let mut new = Value::Object(map);
        record_update(Some(&schema), Some(&document), &mut new, writer("one"), &none());
    }
}
