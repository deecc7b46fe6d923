//! Merge patch, JSON patch, strategic merge patch.

use serde_json::{Value, json};

use super::super::*;
use crate::schema::builtin;

fn merged(mut document: Value, patch: Value) -> Value {
    merge(&mut document, &patch);
    document
}

#[test]
fn merge_patch_does_the_examples_of_its_rfc() {
    let cases = [
        (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
        (json!({"a":"b"}), json!({"a":null}), json!({})),
        (
            json!({"a":"b","b":"c"}),
            json!({"a":null}),
            json!({"b":"c"}),
        ),
        (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
        (
            json!({"a":{"b":"c"}}),
            json!({"a":{"b":"d","c":null}}),
            json!({"a":{"b":"d"}}),
        ),
        (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a":"b"}), json!(["c"]), json!(["c"])),
        (json!({"a":"foo"}), json!(null), json!(null)),
        (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
        (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
        (
            json!({}),
            json!({"a":{"bb":{"ccc":null}}}),
            json!({"a":{"bb":{}}}),
        ),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(merged(document, patch.clone()), expected, "{patch}");
    }
}

#[test]
fn json_patch_runs_every_operation() {
    let document = json!({"a": {"b": [1, 2]}, "x/y": 1});
    let patch = json!([
        {"op": "test", "path": "/a/b/0", "value": 1},
        {"op": "add", "path": "/a/b/-", "value": 3},
        {"op": "add", "path": "/a/b/1", "value": 9},
        {"op": "replace", "path": "/x~1y", "value": 2},
        {"op": "copy", "from": "/a/b", "path": "/c"},
        {"op": "move", "from": "/c", "path": "/d"},
        {"op": "remove", "path": "/a/b/0"},
    ]);
    let result = json(&document, patch.to_string().as_bytes());
    assert_eq!(
        result,
        Ok(json!({"a": {"b": [9, 2, 3]}, "x/y": 2, "d": [1, 9, 2, 3]}))
    );
}

#[test]
fn json_patch_forgives_what_the_library_of_kubernetes_forgives() {
    let document = json!({"a": [1]});
    for (patch, expected) in [
        (
            json!([{"op": "replace", "path": "/b", "value": 1}]),
            json!({"a": [1], "b": 1}),
        ),
        (
            json!([{"op": "add", "path": "/b"}]),
            json!({"a": [1], "b": null}),
        ),
        (Value::Null, document.clone()),
    ] {
        let result = json(&document, patch.to_string().as_bytes());
        assert_eq!(result, Ok(expected), "{patch}");
    }
}

#[test]
fn json_patch_refuses_what_cannot_be_done() {
    let document = json!({"a": [1]});
    let failed = [
        json!([{"op": "remove", "path": "/b"}]),
        json!([{"op": "replace", "path": "/b/c", "value": 1}]),
        json!([{"op": "replace", "path": "/a/1", "value": 1}]),
        json!([{"op": "replace", "path": "", "value": 1}]),
        json!([{"op": "add", "path": "", "value": {}}]),
        json!([{"op": "test", "path": "/a/0", "value": 2}]),
        json!([{"op": "add", "path": "/a/7", "value": 2}]),
        json!([{"op": "add", "path": "/b/c", "value": 2}]),
        json!([{"op": "frobnicate", "path": "/a"}]),
        json!([{"op": "add", "path": "/a/01", "value": 2}]),
    ];
    for patch in failed {
        let result = json(&document, patch.to_string().as_bytes());
        assert!(matches!(result, Err(JsonPatchError::Failed(_))), "{patch}");
    }
    assert!(matches!(
        json(&document, b"{}"),
        Err(JsonPatchError::Malformed(_))
    ));
    let many = format!(
        "[{}]",
        vec![r#"{"op":"test","path":"/a/0","value":1}"#; 10_001].join(",")
    );
    assert_eq!(
        json(&document, many.as_bytes()),
        Err(JsonPatchError::TooMany(10_001))
    );
}

fn pod(document: Value, patch: Value) -> Result<Value, StrategicError> {
    strategic(
        &builtin("", "v1", "Pod").expect("a built-in kind"),
        document,
        patch,
    )
}

#[test]
fn strategic_merge_merges_lists_by_their_key() {
    let document = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}});
    let patch = json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "tty": true}]}});
    assert_eq!(
        pod(document, patch),
        Ok(json!({"spec": {"containers": [
            {"name": "c"}, {"name": "a", "image": "x", "tty": true}, {"name": "b"}
        ]}}))
    );
}

#[test]
fn strategic_merge_carries_out_directives() {
    let document = json!({
        "metadata": {"finalizers": ["a", "b", "c"], "labels": {"x": "1", "y": "2"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "tolerations": [{"key": "k"}],
            "nodeSelector": {"p": "q"}, "volumes": [{"name": "v", "emptyDir": {}}]},
    });
    let patch = json!({
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "labels": {"$patch": "replace", "z": "3"}},
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}],
            "containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}],
            "tolerations": [{"key": "other"}], "nodeSelector": null,
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}],
        },
    });
    assert_eq!(
        pod(document, patch),
        Ok(json!({
            "metadata": {"finalizers": ["a", "c"], "labels": {"z": "3"}},
            "spec": {"containers": [{"name": "b"}, {"name": "c"}], "tolerations": [{"key": "other"}],
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
        }))
    );
}

#[test]
fn strategic_merge_replaces_a_whole_list_when_told() {
    let document = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    let patch = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}});
    assert_eq!(
        pod(document, patch),
        Ok(json!({"spec": {"containers": [{"name": "c"}]}}))
    );
}

#[test]
fn strategic_merge_joins_service_ports_by_port_alone() {
    let schema = builtin("", "v1", "Service").expect("a built-in kind");
    let document = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "dns"}]}});
    let patch = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}]}});
    let expected = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "dns"}]}});
    assert_eq!(strategic(&schema, document, patch), Ok(expected));
}

#[test]
fn strategic_merge_refuses_bad_patches() {
    let document = json!({"spec": {"containers": [{"name": "a"}]}});
    let bad_request = [
        json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
        json!({"spec": {"$setElementOrder/containers": {}}}),
        json!([]),
    ];
    for patch in bad_request {
        let result = pod(document.clone(), patch.clone());
        assert!(
            matches!(result, Err(StrategicError::BadRequest(_))),
            "{patch}"
        );
    }
    let failed = [
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
    ];
    for patch in failed {
        let result = pod(document.clone(), patch.clone());
        assert!(matches!(result, Err(StrategicError::Failed(_))), "{patch}");
    }
}
