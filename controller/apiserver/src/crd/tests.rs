use serde_json::{Value, json};

use super::*;
use crate::kinds::Strategy as _;

/// A CRD of one version with this schema for `spec`.
fn definition(spec: Value) -> Value {
    let mut crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
            }],
        },
    });
    Definition.defaults(&mut crd);
    crd["status"] = json!({"storedVersions": ["v1"]});
    crd
}

fn established(spec: Value) -> Value {
    settled(&definition(spec), &[], "2026-11-24T07:00:00Z").expect("nothing settled before")
}

fn custom(spec: Value) -> Custom {
    let served = resources(&established(spec));
    served[0]
        .custom
        .as_deref()
        .expect("a custom resource")
        .clone()
}

fn widget(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec})
}

fn faults(custom: &Custom, object: &Value, old: Option<&Value>) -> Vec<(String, String)> {
    let causes = custom.validate(object, old, &[]);
    causes
        .into_iter()
        .map(|cause| (cause.reason.as_str().to_owned(), cause.field))
        .collect()
}

fn pair(reason: &str, field: &str) -> (String, String) {
    (reason.to_owned(), field.to_owned())
}

#[test]
fn names_get_their_defaults_and_the_crd_is_established() {
    let crd = established(json!({"type": "object"}));
    assert_eq!(crd["spec"]["names"]["singular"], "widget");
    assert_eq!(crd["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(crd["status"]["acceptedNames"], crd["spec"]["names"]);
    assert!(is_true(&crd, "NamesAccepted") && is_true(&crd, "Established"));
    assert_eq!(settled(&crd, &[], "2026-11-25T07:00:00Z"), None);
    let served = resources(&crd);
    assert_eq!(
        (served[0].resource.as_str(), served[0].singular.as_str()),
        ("widgets", "widget")
    );
    assert!(
        resources(&definition(json!({"type": "object"}))).is_empty(),
        "not before that"
    );
}

#[test]
fn a_crd_whose_names_are_taken_is_not_established() {
    let first = established(json!({"type": "object"}));
    let mut second = definition(json!({"type": "object"}));
    second["metadata"]["name"] = json!("gadgets.example.com");
    second["spec"]["names"] =
        json!({"plural": "gadgets", "kind": "Widget", "listKind": "GadgetList"});
    let second = settled(&second, &[first], "2026-11-24T07:00:00Z").expect("a new status");
    let condition = &second["status"]["conditions"][0];
    assert_eq!(condition["reason"], "KindConflict");
    assert_eq!(condition["message"], "\"Widget\" is already in use");
    assert!(!is_true(&second, "Established") && resources(&second).is_empty());
}

#[test]
fn versions_are_served_in_kubernetes_order() {
    let mut crd = established(json!({"type": "object"}));
    let version = crd["spec"]["versions"][0].clone();
    let names = ["v1alpha1", "foo", "v1", "v2beta1", "v10", "v2"];
    let list = names.map(|name| {
        let mut version = version.clone();
        version["name"] = json!(name);
        version
    });
    crd["spec"]["versions"] = Value::Array(list.to_vec());
    let order: Vec<_> = resources(&crd)
        .into_iter()
        .map(|served| served.version)
        .collect();
    assert_eq!(order, ["v10", "v2", "v1", "v2beta1", "v1alpha1", "foo"]);
}

#[test]
fn equal_schemas_are_compiled_once() {
    let (a, b) = (
        custom(json!({"type": "object"})),
        custom(json!({"type": "object"})),
    );
    assert!(Arc::ptr_eq(&a.version, &b.version));
    let other = custom(json!({"type": "string"}));
    assert!(!Arc::ptr_eq(&a.version, &other.version));
}

#[test]
fn objects_are_pruned_and_defaulted_by_their_schema() {
    let custom = custom(json!({
        "type": "object",
        "properties": {
            "replicas": {"type": "integer", "default": 1},
            "mode": {"type": "string", "nullable": true, "default": "a"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "ports": {"type": "array", "items": {"type": "object", "properties": {
                "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"},
            }}},
        },
    }));
    let schema = custom.schema.as_deref().expect("has one");
    let mut object = widget(json!({
        "replicas": null, "mode": null, "foo": 1, "free": {"x": {"y": 1}}, "labels": {"a": "b"},
        "ports": [{"port": 1, "name": "x"}],
    }));
    object["extra"] = json!(true);
    object["metadata"]["bogus"] = json!(1);
    assert_eq!(
        schema.prune(&mut object),
        ["extra", "metadata.bogus", "spec.foo", "spec.ports[0].name"]
    );
    schema.drop_nulls_without_meaning(&mut object);
    schema.apply_defaults(&mut object);
    assert_eq!(
        object["spec"],
        json!({
            "replicas": 1, "mode": null, "free": {"x": {"y": 1}}, "labels": {"a": "b"},
            "ports": [{"port": 1, "protocol": "TCP"}],
        })
    );
}

/// A kind with a field for each check.
fn checked() -> Custom {
    custom(json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
            "size": {"type": "string", "enum": ["s", "l"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 2},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "list": {"type": "array", "maxItems": 2, "items": {"type": "integer"}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        },
    }))
}

#[test]
fn values_are_validated_with_the_reasons_and_fields_of_a_real_server() {
    let custom = checked();
    for (field, value, reason, at) in [
        ("name", json!(1), "FieldValueTypeInvalid", "spec.name"),
        ("name", json!("a"), "FieldValueInvalid", "spec.name"),
        ("name", json!("abcde"), "FieldValueTooLong", "spec.name"),
        ("name", json!("AB"), "FieldValueInvalid", "spec.name"),
        ("size", json!("m"), "FieldValueNotSupported", "spec.size"),
        ("count", json!(0), "FieldValueInvalid", "spec.count"),
        ("count", json!(3), "FieldValueInvalid", "spec.count"),
        ("port", json!(true), "FieldValueTypeInvalid", "spec.port"),
        ("when", json!("now"), "FieldValueTypeInvalid", "spec.when"),
        (
            "list",
            json!([1, "2"]),
            "FieldValueTypeInvalid",
            "spec.list[1]",
        ),
        ("list", json!([1, 2, 3]), "FieldValueTooMany", "spec.list"),
        (
            "tags",
            json!(["a", "b", "a"]),
            "FieldValueDuplicate",
            "spec.tags[2]",
        ),
        (
            "rules",
            json!([{"id": "x"}, {"id": "x"}]),
            "FieldValueDuplicate",
            "spec.rules[1]",
        ),
        (
            "one",
            json!({"a": "1", "b": "2"}),
            "FieldValueInvalid",
            "<nil>",
        ),
    ] {
        let mut spec = json!({"name": "ab"});
        spec[field] = value;
        let found = faults(&custom, &widget(spec.clone()), None);
        assert_eq!(found, [pair(reason, at)], "{spec}");
    }
    let missing = faults(&custom, &widget(json!({})), None);
    assert_eq!(missing, [pair("FieldValueRequired", "spec.name")]);
    let fraction = faults(&custom, &widget(json!({"name": "ab", "count": 1.5})), None);
    assert_eq!(
        fraction,
        [
            pair("FieldValueTypeInvalid", "spec.count"),
            pair("FieldValueInvalid", "<nil>"),
            pair("FieldValueInvalid", "spec.count"),
        ]
    );
    for good in [json!({"name": "ab"}), json!({"name": "ab", "port": "http"})] {
        assert_eq!(faults(&custom, &widget(good), None), []);
    }
}

#[test]
fn faults_are_told_in_the_words_of_a_real_server() {
    let custom = checked();
    let message = |spec: Value| custom.validate(&widget(spec), None, &[])[0].message.clone();
    assert_eq!(
        message(json!({"name": 1})),
        "Invalid value: \"integer\": spec.name in body must be of type string: \"integer\""
    );
    assert_eq!(
        message(json!({"name": "ab", "size": "m"})),
        "Unsupported value: \"m\": supported values: \"s\", \"l\""
    );
    assert_eq!(
        message(json!({"name": "AB"})),
        "Invalid value: \"AB\": spec.name in body should match '^[a-z]+$'"
    );
}

#[test]
fn what_was_wrong_before_and_did_not_change_is_forgiven() {
    let custom = custom(json!({
        "type": "object", "properties": {"a": {"type": "integer", "maximum": 5}, "b": {"type": "string"}},
    }));
    let old = widget(json!({"a": 9, "b": "x"}));
    assert_eq!(
        faults(&custom, &widget(json!({"a": 9, "b": "y"})), Some(&old)),
        []
    );
    let changed = widget(json!({"a": 8, "b": "y"}));
    assert_eq!(
        faults(&custom, &changed, Some(&old)),
        [pair("FieldValueInvalid", "spec.a")]
    );
}

#[test]
fn rules_see_self_and_old_self() {
    let custom = custom(json!({
        "type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min above max"},
            {"rule": "self.max >= oldSelf.max", "messageExpression": "'was ' + string(oldSelf.max)",
                "reason": "FieldValueForbidden", "fieldPath": ".max"},
        ],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "foo-bar": {"type": "object", "x-kubernetes-validations": [{"rule": "self.a_b == 'x'"}],
                "properties": {"a_b": {"type": "string"}}},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"],
                    "x-kubernetes-validations": [{"rule": "self.v == oldSelf.v"}],
                    "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}}},
        },
    }));
    let old =
        widget(json!({"min": 1, "max": 5, "items": [{"id": "a", "v": 1}, {"id": "b", "v": 2}]}));
    assert_eq!(faults(&custom, &old, None), []);
    let causes = custom.validate(&widget(json!({"min": 7, "max": 4})), Some(&old), &[]);
    assert_eq!(
        causes[0],
        Cause::new(
            CauseReason::FieldValueInvalid,
            "spec",
            "Invalid value: min above max"
        )
    );
    assert_eq!(
        causes[1],
        Cause::new(
            CauseReason::FieldValueForbidden,
            "spec.max",
            "Forbidden: was 5"
        )
    );
    let escaped = widget(json!({"min": 1, "max": 5, "foo-bar": {"a_b": "y"}}));
    let causes = custom.validate(&escaped, None, &[]);
    assert_eq!(causes[0].field, "spec.foo-bar");
    assert_eq!(
        causes[0].message,
        "Invalid value: failed rule: self.a_b == 'x'"
    );
    let moved = widget(
        json!({"min": 1, "max": 5, "items": [{"id": "b", "v": 2}, {"id": "a", "v": 9}, {"id": "c"}]}),
    );
    assert_eq!(
        faults(&custom, &moved, Some(&old)),
        [pair("FieldValueInvalid", "spec.items[1]")]
    );
}

#[test]
fn rules_that_cannot_be_evaluated_refuse_the_object() {
    let custom = custom(json!({
        "type": "object", "properties": {"a": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "frobnicate(self.a)"}, {"rule": "self.missing == 'x'"}],
    }));
    let causes = custom.validate(&widget(json!({"a": "x"})), None, &[]);
    assert_eq!(causes.len(), 2, "{causes:?}");
    assert!(causes.iter().all(|cause| cause.field == "spec"));
}

#[test]
fn optional_old_self_runs_on_create_too() {
    let custom = custom(json!({
        "type": "object", "properties": {"a": {"type": "integer"}},
        "x-kubernetes-validations": [{
            "rule": "oldSelf.hasValue() ? self.a >= oldSelf.value().a : self.a == 0", "optionalOldSelf": true,
        }],
    }));
    let first = widget(json!({"a": 0}));
    assert_eq!(faults(&custom, &first, None), []);
    assert_eq!(
        faults(&custom, &widget(json!({"a": 3})), None),
        [pair("FieldValueInvalid", "spec")]
    );
    assert_eq!(faults(&custom, &widget(json!({"a": 3})), Some(&first)), []);
}

#[test]
fn rules_wait_until_the_shape_is_right() {
    let custom = custom(json!({
        "type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.a > 0"}],
    }));
    assert_eq!(
        faults(&custom, &widget(json!({})), None),
        [
            pair("FieldValueRequired", "spec.a"),
            pair("FieldValueInvalid", "<nil>")
        ]
    );
}

fn definition_faults(crd: &Value) -> Vec<(String, String)> {
    let causes = definition::faults(crd);
    causes
        .into_iter()
        .map(|cause| (cause.reason.as_str().to_owned(), cause.field))
        .collect()
}

#[test]
fn a_good_definition_has_no_faults() {
    assert_eq!(
        definition_faults(&definition(json!({"type": "object"}))),
        []
    );
}

#[test]
fn a_bad_definition_names_each_fault() {
    let rule = |rule: &str| json!([{"rule": rule}]);
    for (spec, reason, at) in [
        (json!({}), "FieldValueRequired", ".type"),
        (json!({"type": "array"}), "FieldValueRequired", ".items"),
        (json!({"type": "tuple"}), "FieldValueNotSupported", ".type"),
        (
            json!({"type": "object", "$ref": "#/x"}),
            "FieldValueForbidden",
            ".$ref",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}},
                "additionalProperties": {"type": "string"}}),
            "FieldValueForbidden",
            ".additionalProperties",
        ),
        (
            json!({"type": "object", "allOf": [{"type": "object"}]}),
            "FieldValueForbidden",
            ".allOf[0].type",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            "FieldValueForbidden",
            ".uniqueItems",
        ),
        (
            json!({"type": "integer", "default": "x"}),
            "FieldValueTypeInvalid",
            ".default",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": rule("self.")}),
            "FieldValueInvalid",
            ".x-kubernetes-validations[0].rule",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": rule("other == 1")}),
            "FieldValueInvalid",
            ".x-kubernetes-validations[0].rule",
        ),
        (
            json!({"type": "array", "items": {"type": "integer",
                "x-kubernetes-validations": rule("self == oldSelf")}}),
            "FieldValueInvalid",
            ".items.x-kubernetes-validations[0].rule",
        ),
    ] {
        let found = definition_faults(&definition(spec.clone()));
        assert_eq!(found, [pair(reason, &format!("{SPEC}{at}"))], "{spec}");
    }
}

#[test]
fn a_map_list_needs_keys_that_each_item_has() {
    let mut list =
        json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}});
    let missing = pair(
        "FieldValueRequired",
        &format!("{SPEC}.x-kubernetes-list-map-keys"),
    );
    assert_eq!(definition_faults(&definition(list.clone())), [missing]);
    list["x-kubernetes-list-map-keys"] = json!(["a"]);
    list["items"]["properties"] = json!({"a": {"type": "string"}});
    let optional = pair(
        "FieldValueRequired",
        &format!("{SPEC}.items.properties[a].default"),
    );
    assert_eq!(definition_faults(&definition(list)), [optional]);
}

#[test]
fn faults_outside_of_the_schema_are_all_told_at_once() {
    let mut crd = definition(json!({"type": "object"}));
    crd["spec"]["group"] = json!("example");
    crd["spec"]["scope"] = json!("Everywhere");
    crd["spec"]["names"]["plural"] = json!("Widgets");
    crd["spec"]["versions"][0]["storage"] = json!(false);
    crd["spec"]["versions"][0]["additionalPrinterColumns"] =
        json!([{"name": "A", "type": "text", "jsonPath": "a"}]);
    assert_eq!(
        definition_faults(&crd),
        [
            pair("FieldValueInvalid", "spec.group"),
            pair("FieldValueNotSupported", "spec.scope"),
            pair("FieldValueInvalid", "spec.names.plural"),
            pair("FieldValueInvalid", "spec.additionalPrinterColumns[0].type"),
            pair(
                "FieldValueInvalid",
                "spec.additionalPrinterColumns[0].JSONPath"
            ),
            pair("FieldValueInvalid", "spec.versions"),
        ]
    );
}

#[test]
fn int_or_string_may_say_so_in_any_of() {
    let spec = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    let mut holder = json!({"type": "object", "properties": {}});
    holder["properties"]["port"] = spec;
    assert_eq!(definition_faults(&definition(holder.clone())), []);
    assert_eq!(
        faults(&custom(holder), &widget(json!({"port": "http"})), None),
        []
    );
}

#[test]
fn a_protected_group_needs_approval() {
    let mut crd = definition(json!({"type": "object"}));
    crd["spec"]["group"] = json!("x.k8s.io");
    let expected = pair(
        "FieldValueRequired",
        "metadata.annotations[api-approved.kubernetes.io]",
    );
    assert_eq!(definition_faults(&crd), [expected]);
    crd["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, a test"});
    assert_eq!(definition_faults(&crd), []);
    crd["spec"]["group"] = json!("multicluster.x-k8s.io");
    crd["metadata"]
        .as_object_mut()
        .expect("an object")
        .shift_remove("annotations");
    assert_eq!(definition_faults(&crd), []);
}

#[test]
fn names_in_rules_are_escaped_as_kubernetes_does() {
    for (name, escaped) in [
        ("plain", "plain"),
        ("a_b", "a_b"),
        ("a__b", "a__underscores__b"),
        ("a-b", "a__dash__b"),
        ("a.b", "a__dot__b"),
        ("a/b", "a__slash__b"),
        ("namespace", "__namespace__"),
        ("in", "__in__"),
    ] {
        assert_eq!(values::escape(name), escaped);
    }
}

mod laws {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0_i64..4).prop_map(|n| json!(n)),
            "[ab]{0,2}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("list|map|free|text|zzz", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn spec() -> Value {
        json!({
            "type": "object",
            "properties": {
                "text": {"type": "string", "default": "a", "nullable": true},
                "free": {"x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "default": {}, "additionalProperties": {
                    "type": "object", "properties": {"text": {"type": "integer", "default": 1}},
                }},
                "list": {"type": "array", "items": {
                    "type": "object", "properties": {"text": {"type": "boolean", "default": true}},
                }},
            },
        })
    }

    proptest! {
        #[test]
        fn pruning_and_defaulting_twice_is_doing_so_once(spec_value in any_json()) {
            let custom = custom(spec());
            let schema = custom.schema.as_deref().expect("has one");
            let mut once = widget(spec_value);
            schema.prune(&mut once);
            let mut twice = once.clone();
            prop_assert!(schema.prune(&mut twice).is_empty());
            prop_assert_eq!(&once, &twice);
            schema.drop_nulls_without_meaning(&mut once);
            schema.apply_defaults(&mut once);
            let mut twice = once.clone();
            schema.drop_nulls_without_meaning(&mut twice);
            schema.apply_defaults(&mut twice);
            prop_assert_eq!(&once, &twice);
            prop_assert!(schema.unknown_fields(&once).is_empty(), "defaults add nothing unknown");
        }

        #[test]
        fn any_object_is_judged_without_a_panic(new in any_json(), old in any_json()) {
            let custom = custom(spec());
            let _causes = custom.validate(&widget(new), Some(&widget(old)), &[]);
        }
    }
}

/// Where the schema of `spec` is in a definition.
const SPEC: &str = "spec.validation.openAPIV3Schema.properties[spec]";
