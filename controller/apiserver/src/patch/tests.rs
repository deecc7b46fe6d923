use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::schema::{Schema, builtin};

mod laws;
mod merging;

fn config_map() -> Arc<Schema> {
    builtin("", "v1", "ConfigMap").expect("a built-in kind")
}

fn deployment() -> Arc<Schema> {
    builtin("apps", "v1", "Deployment").expect("a built-in kind")
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now: "2026-11-24T07:00:00Z",
    }
}

fn later(manager: &str) -> Writer<'_> {
    Writer {
        now: "2026-11-24T08:00:00Z",
        ..writer(manager)
    }
}

fn applying(
    schema: Option<&Schema>,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Applied, ApplyError> {
    let reset = &none();
    let terms = Terms {
        writer,
        reset,
        force,
    };
    apply(schema, live, config, terms)
}

fn none() -> FieldSet {
    FieldSet::default()
}

fn created(manager: &str, data: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "web", "namespace": "default", "uid": "1"}, "data": data,
    });
    record_update(
        Some(&config_map()),
        None,
        &mut object,
        writer(manager),
        &none(),
    );
    object
}

fn config(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "web", "namespace": "default"}, "data": data,
    })
}

fn applied(live: Option<&Value>, manager: &str, data: Value) -> Result<Value, ApplyError> {
    let schema = config_map();
    applying(Some(&schema), live, &config(data), writer(manager), false).map(|a| a.object)
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["manager"] == manager);
    entry
        .map(|entry| entry["fieldsV1"].clone())
        .unwrap_or_default()
}

#[test]
fn creating_an_object_records_its_fields_under_the_writer() {
    let object = created("kubectl-create", json!({"a": "1", "b": "2"}));
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "v1",
            "time": "2026-11-24T07:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {".": {}, "f:a": {}, "f:b": {}}},
        }])
    );
}

#[test]
fn a_created_deployment_has_the_field_set_of_a_real_server() {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "containers": [{"name": "web", "image": "nginx", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            }},
        },
        "status": {},
    });
    let create = Writer {
        api_version: "apps/v1",
        ..writer("kubectl-create")
    };
    record_update(Some(&deployment()), None, &mut object, create, &none());
    assert_eq!(
        fields(&object, "kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                    "f:containers": {"k:{\"name\":\"web\"}": {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                            ".": {}, "f:containerPort": {}, "f:protocol": {}
                        }},
                    }},
                }},
            },
        })
    );
}

#[test]
fn an_update_takes_what_it_changes_and_leaves_the_rest() {
    let live = created("one", json!({"a": "1", "b": "2"}));
    let mut new = live.clone();
    new["data"] = json!({"a": "9", "c": "3"});
    record_update(
        Some(&config_map()),
        Some(&live),
        &mut new,
        later("two"),
        &none(),
    );
    assert_eq!(fields(&new, "one"), json!({"f:data": {}}));
    assert_eq!(
        fields(&new, "two"),
        json!({"f:data": {"f:a": {}, "f:c": {}}})
    );
    assert_eq!(
        new["metadata"]["managedFields"][1]["time"],
        "2026-11-24T08:00:00Z"
    );
}

#[test]
fn an_update_that_changes_nothing_keeps_entries_and_times() {
    let live = created("one", json!({"a": "1"}));
    for sent in [live["metadata"]["managedFields"].clone(), Value::Null] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = sent;
        new["metadata"]["resourceVersion"] = json!("7");
        record_update(
            Some(&config_map()),
            Some(&live),
            &mut new,
            later("one"),
            &none(),
        );
        assert_eq!(
            new["metadata"]["managedFields"],
            live["metadata"]["managedFields"]
        );
    }
}

#[test]
fn an_update_of_what_the_writer_owns_moves_only_its_time() {
    let live = created("one", json!({"a": "1", "b": "2"}));
    let mut second = live.clone();
    second["data"]["c"] = json!("3");
    let schema = config_map();
    record_update(
        Some(&schema),
        Some(&live),
        &mut second,
        later("two"),
        &none(),
    );
    let mut new = second.clone();
    new["data"]["a"] = json!("9");
    let by = Writer {
        now: "2026-11-24T09:00:00Z",
        ..writer("one")
    };
    record_update(Some(&schema), Some(&second), &mut new, by, &none());
    let entries = new["metadata"]["managedFields"].as_array().expect("a list");
    let order: Vec<_> = entries
        .iter()
        .map(|entry| (&entry["manager"], &entry["time"]))
        .collect();
    assert_eq!(
        order,
        [
            (&json!("two"), &json!("2026-11-24T08:00:00Z")),
            (&json!("one"), &json!("2026-11-24T09:00:00Z"))
        ]
    );
    assert_eq!(fields(&new, "one"), fields(&second, "one"));
}

#[test]
fn clients_clear_and_rewrite_entries_of_the_object_but_not_through_a_subresource() {
    let live = created("one", json!({"a": "1"}));
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset.clone();
        record_update(
            Some(&config_map()),
            Some(&live),
            &mut new,
            later("two"),
            &none(),
        );
        assert!(new["metadata"].get("managedFields").is_none());
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset;
        let status = Writer {
            subresource: "status",
            ..later("two")
        };
        record_update(Some(&config_map()), Some(&live), &mut new, status, &none());
        assert_eq!(
            new["metadata"]["managedFields"],
            live["metadata"]["managedFields"]
        );
    }
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["manager"] = json!("other");
    record_update(
        Some(&config_map()),
        Some(&live),
        &mut new,
        later("two"),
        &none(),
    );
    assert_eq!(fields(&new, "other"), fields(&live, "one"));
}

#[test]
fn fields_that_a_write_cannot_change_are_not_recorded() {
    let status = FieldSet::of_fields(&[&["status"]]);
    let mut object = json!({"metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"y": 1}});
    record_update(None, None, &mut object, writer("one"), &status);
    assert_eq!(
        fields(&object, "one"),
        json!({"f:spec": {".": {}, "f:x": {}}})
    );
}

#[test]
fn at_most_ten_updaters_are_kept_and_the_oldest_become_one() {
    let mut live = created("m00", json!({"k00": "0"}));
    for at in 1..14 {
        let (manager, now) = (format!("m{at:02}"), format!("2026-11-24T07:{at:02}:00Z"));
        let mut new = live.clone();
        new["data"][format!("k{at:02}")] = json!("0");
        let by = Writer {
            now: &now,
            ..writer(&manager)
        };
        record_update(Some(&config_map()), Some(&live), &mut new, by, &none());
        live = new;
    }
    let entries = live["metadata"]["managedFields"]
        .as_array()
        .expect("a list");
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(
        entries[0]["fieldsV1"],
        json!({"f:data": {".": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}, "f:k03": {}, "f:k04": {}}})
    );
    assert_eq!(entries[0]["time"], "2026-11-24T07:04:00Z");
}

#[test]
fn applying_creates_with_one_apply_entry() {
    let object = applied(None, "me", json!({"a": "1"})).expect("no conflict");
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["fieldsV1"], json!({"f:data": {"f:a": {}}}));
}

#[test]
fn applying_what_another_owns_conflicts_in_the_words_of_kubernetes() {
    let live = created("kubectl-edit", json!({"a": "1", "b": "2"}));
    let Err(ApplyError::Conflict { message, causes }) =
        applied(Some(&live), "me", json!({"a": "9"}))
    else {
        panic!("no conflict");
    };
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a"
    );
    assert_eq!(causes[0].field, ".data.a");
    assert_eq!(causes[0].reason.as_str(), "FieldManagerConflict");
    assert_eq!(causes[0].message, "conflict with \"kubectl-edit\" using v1");

    let Err(ApplyError::Conflict { message, .. }) =
        applied(Some(&live), "me", json!({"a": "9", "b": "9"}))
    else {
        panic!("no conflict");
    };
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using v1:\n- .data.a\n- .data.b"
    );
}

#[test]
fn applying_the_same_value_shares_ownership_and_force_takes_it() {
    let live = applied(None, "one", json!({"a": "1"})).expect("no conflict");
    let shared = applied(Some(&live), "two", json!({"a": "1"})).expect("the same value");
    assert_eq!(fields(&shared, "one"), fields(&shared, "two"));
    let schema = config_map();
    let forced = applying(
        Some(&schema),
        Some(&shared),
        &config(json!({"a": "2"})),
        writer("two"),
        true,
    )
    .expect("forced");
    assert_eq!(forced.object["data"], json!({"a": "2"}));
    assert_eq!(fields(&forced.object, "one"), Value::Null);
}

#[test]
fn fields_dropped_from_the_configuration_go_unless_somebody_else_owns_them() {
    let live = applied(None, "one", json!({"a": "1", "b": "2"})).expect("no conflict");
    let live = applied(Some(&live), "two", json!({"b": "2"})).expect("the same value");
    let live = applied(Some(&live), "one", json!({"c": "3"})).expect("its own fields");
    assert_eq!(live["data"], json!({"b": "2", "c": "3"}));
    let live = applied(Some(&live), "two", json!({})).expect("its own fields");
    assert_eq!(live["data"], json!({"c": "3"}));
    let last = applied(Some(&live), "one", json!({})).expect("its own fields");
    assert_eq!(last.get("data"), None);
}

#[test]
fn fields_set_by_updates_stay_when_an_applier_drops_others() {
    let live = applied(None, "one", json!({"a": "1"})).expect("no conflict");
    let mut new = live.clone();
    new["data"]["b"] = json!("2");
    record_update(
        Some(&config_map()),
        Some(&live),
        &mut new,
        later("two"),
        &none(),
    );
    let live = applied(Some(&new), "one", json!({})).expect("its own fields");
    assert_eq!(live["data"], json!({"b": "2"}));
}

#[test]
fn service_ports_are_told_apart_by_port_and_protocol() {
    let schema = builtin("", "v1", "Service").expect("a built-in kind");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"}, "spec": {"ports": ports}});
    let run = |live: Option<&Value>, manager: &str, ports: Value| {
        applying(Some(&schema), live, &service(ports), writer(manager), false)
            .map(|applied| applied.object)
    };
    let live = run(None, "one", json!([{"port": 53, "name": "tcp"}])).expect("no conflict");
    let both = run(
        Some(&live),
        "two",
        json!([{"port": 53, "protocol": "UDP", "name": "udp"}]),
    )
    .expect("another element");
    assert_eq!(both["spec"]["ports"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        fields(&both, "one"),
        json!({"f:spec": {"f:ports": {"k:{\"port\":53,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}}}})
    );
    let explicit = json!([{"port": 53, "protocol": "TCP", "name": "other"}]);
    let Err(ApplyError::Conflict { message, .. }) = run(Some(&both), "two", explicit) else {
        panic!("no conflict");
    };
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=53,protocol=\"TCP\"].name"
    );
    let double = run(
        Some(&both),
        "two",
        json!([{"port": 1}, {"port": 1, "protocol": "TCP"}]),
    );
    assert_eq!(
        double.expect_err("two with one key").to_string(),
        "failed to create typed patch object (/dns; /v1, Kind=Service): .spec.ports: duplicate entries for key \
         [port=1,protocol=\"TCP\"]"
    );
}

#[test]
fn unknown_fields_in_an_applied_configuration_are_refused() {
    let schema = deployment();
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "a"},
        "spec": {"foo": 1},
    });
    let by = Writer {
        api_version: "apps/v1",
        ..writer("me")
    };
    let error = applying(Some(&schema), None, &config, by, false).expect_err("unknown field");
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (a/web; apps/v1, Kind=Deployment): .spec.foo: field not \
         declared in schema"
    );
}

#[test]
fn list_elements_keep_their_order_and_atomic_lists_are_replaced() {
    let schema = deployment();
    let config = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let run = |live: Option<&Value>, manager: &str, containers: Value| {
        let by = Writer {
            api_version: "apps/v1",
            ..writer(manager)
        };
        applying(Some(&schema), live, &config(containers), by, true)
            .expect("forced")
            .object
    };
    let live = run(
        None,
        "one",
        json!([{"name": "a", "args": ["x", "y"]}, {"name": "b"}]),
    );
    let live = run(
        Some(&live),
        "two",
        json!([{"name": "c"}, {"name": "a", "args": ["z"]}]),
    );
    let containers = &live["spec"]["template"]["spec"]["containers"];
    let names: Vec<_> = containers
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["c", "a", "b"]);
    assert_eq!(containers[1]["args"], json!(["z"]));
    let live = run(Some(&live), "one", json!([{"name": "b"}]));
    let containers = &live["spec"]["template"]["spec"]["containers"];
    let names: Vec<_> = containers
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["c", "a", "b"], "the second applier still owns a");
}

#[test]
fn an_untracked_object_belongs_to_before_first_apply() {
    let mut live = created("one", json!({"a": "1"}));
    live["metadata"]
        .as_object_mut()
        .expect("an object")
        .shift_remove("managedFields");
    let Err(ApplyError::Conflict { message, .. }) = applied(Some(&live), "me", json!({"a": "2"}))
    else {
        panic!("no conflict");
    };
    assert!(
        message.contains("\"before-first-apply\" using v1: .data.a"),
        "{message}"
    );
}

#[test]
fn kubectl_may_apply_over_what_its_client_side_apply_set() {
    let last =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web"},"data":{"a":"1"}}"#;
    let mut live = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "web", "uid": "1",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}},
        "data": {"a": "1"},
    });
    let by = writer("kubectl-client-side-apply");
    record_update(Some(&config_map()), None, &mut live, by, &none());
    let new = applied(Some(&live), "kubectl", json!({"a": "2"})).expect("kubectl's own field");
    assert_eq!(new["data"]["a"], "2");
    let annotations = &new["metadata"]["annotations"];
    let synced = annotations["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    assert!(
        synced.is_some_and(|text| text.contains(r#""a":"2""#)),
        "{synced:?}"
    );
    assert!(applied(Some(&live), "me", json!({"a": "2"})).is_err());
}

#[test]
fn an_apply_names_its_version_and_no_managers() {
    let schema = config_map();
    let mut wrong = config(json!({}));
    wrong["apiVersion"] = json!("v2");
    let error = applying(Some(&schema), None, &wrong, writer("me"), false);
    assert!(matches!(error, Err(ApplyError::BadRequest(_))));
    let mut managed = config(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let error = applying(Some(&schema), None, &managed, writer("me"), false);
    assert_eq!(
        error,
        Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".to_owned()
        ))
    );
}
