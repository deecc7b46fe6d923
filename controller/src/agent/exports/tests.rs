use fairlead_api::conditions::{find, is_true};
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::agent::{local::Object, workloads::Workload};

fn read<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn service(annotations: Value) -> Object {
    Object::Service(Box::new(read(json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "1", "annotations": annotations },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "selector": { "app": "web" },
            "ports": [ { "name": "http", "port": 80 } ],
        },
    }))))
}

fn export(annotations: Value) -> Object {
    Object::Export(Box::new(read(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": {
            "namespace": "shop", "name": "web", "generation": 1, "annotations": annotations,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {},
    }))))
}

fn slice(name: &str, addresses: &[&str]) -> Object {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| {
            json!({
                "addresses": [address], "zone": "a", "nodeName": "n1", "hostname": "web-0",
                "conditions": { "ready": false, "serving": true, "terminating": true },
            })
        })
        .collect();
    Object::Slice(Box::new(read(json!({
        "metadata": {
            "namespace": "shop", "name": name,
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [ { "name": "http", "port": 8080, "protocol": "TCP" } ],
    }))))
}

fn workload(annotation: &str) -> Object {
    Object::Workload(Box::new(Workload {
        kind: "Deployment".into(),
        key: ("shop".into(), "web".into()),
        uid: "2".into(),
        annotations: [("fairlead.dev/export".to_owned(), annotation.to_owned())].into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ports: vec![("tcp-80".into(), "TCP".into(), 80)],
    }))
}

fn local(objects: impl IntoIterator<Item = Object>) -> Local {
    let mut local = Local::default();
    objects.into_iter().for_each(|object| local.apply(object));
    local
}

fn web() -> Key {
    ("shop".into(), "web".into())
}

fn writes(local: &Local) -> Vec<Write> {
    let now = Time(Timestamp::from_second(1_800_000_000).unwrap());
    plan(
        local,
        &Member {
            name: "eu-1".into(),
            now,
        },
        &web(),
    )
}

/// Plans and makes the writes until nothing is missing.
fn settle(local: &mut Local) {
    for _ in 0..5 {
        let missing = writes(local);
        if missing.is_empty() {
            return;
        }
        for write in missing {
            match write {
                Write::PutRecord(record) => local.apply(Object::Record(record)),
                Write::PutMirror(mirror) => local.apply(Object::Mirror(mirror)),
                Write::PutExport(export) => local.apply(Object::Export(export)),
                Write::PutService(service) => local.apply(Object::Service(service)),
                Write::DeleteRecord(_) => drop(local.records.remove(&web())),
                Write::DeleteMirror(name) => {
                    drop(
                        local
                            .mirrors
                            .get_mut(&web())
                            .and_then(|all| all.remove(&name)),
                    );
                }
                Write::DeleteExport(key) => drop(local.exports.remove(&key)),
                Write::Status(key, conditions) => {
                    let export = local.exports.get_mut(&key).unwrap();
                    export.status.get_or_insert_default().conditions = conditions;
                }
            }
        }
    }
    panic!("the plan does not come to rest: {:?}", writes(local));
}

fn conditions(local: &Local) -> &[Condition] {
    &local.exports[&web()].status.as_ref().unwrap().conditions
}

#[test]
fn an_export_brings_its_record_and_mirrors_and_then_rests() {
    let mut local = local([
        service(json!({})),
        export(json!({})),
        slice("web-1", &["10.1.0.1"]),
    ]);
    settle(&mut local);
    let record = &local.records[&web()];
    assert_eq!(
        record.metadata.namespace.as_deref(),
        Some("fairlead-member-eu-1")
    );
    assert_eq!(record.spec.ports[0].port, 80);
    assert_eq!(record.spec.weight, None);
    let mirror = local.mirrors[&web()].values().next().unwrap();
    let endpoint = &mirror.endpoints.as_ref().unwrap()[0];
    assert_eq!(
        (endpoint.zone.as_deref(), &endpoint.node_name),
        (Some("a"), &None)
    );
    assert_eq!(endpoint.hostname.as_deref(), Some("web-0"));
    let conditions = endpoint.conditions.clone().unwrap();
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(false), Some(true), Some(true))
    );
    assert!(
        !mirror
            .metadata
            .labels
            .as_ref()
            .unwrap()
            .contains_key("kubernetes.io/service-name")
    );
}

#[test]
fn a_slice_that_goes_takes_its_mirror_along() {
    let mut local = local([
        service(json!({})),
        export(json!({})),
        slice("web-1", &["10.1.0.1"]),
        slice("web-2", &["10.1.0.2"]),
    ]);
    settle(&mut local);
    assert_eq!(local.mirrors[&web()].len(), 2);
    local.delete(&slice("web-1", &[]));
    settle(&mut local);
    assert_eq!(local.mirrors[&web()].len(), 1);
}

#[test]
fn an_export_without_a_service_says_so_and_withdraws() {
    let mut local = local([
        service(json!({})),
        export(json!({})),
        slice("s", &["10.1.0.1"]),
    ]);
    settle(&mut local);
    local.delete(&service(json!({})));
    settle(&mut local);
    assert!(local.records.is_empty());
    let valid = find(conditions(&local), "Valid").unwrap();
    assert_eq!(
        (valid.status.as_str(), valid.reason.as_str()),
        ("False", "NoService")
    );
    assert!(valid.message.contains("create it, or delete this export"));
}

#[test]
fn an_external_name_cannot_be_exported() {
    let external = Object::Service(Box::new(read(json!({
        "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "type": "ExternalName", "externalName": "example.com" },
    }))));
    let mut local = local([external, export(json!({}))]);
    settle(&mut local);
    assert!(local.records.is_empty());
    assert_eq!(
        find(conditions(&local), "Valid").unwrap().reason,
        "InvalidServiceType"
    );
}

#[test]
fn an_annotated_service_is_exported_until_the_annotation_goes() {
    let mut local = local([service(json!({ "fairlead.dev/export": "true" }))]);
    settle(&mut local);
    assert!(local.records.contains_key(&web()));
    local.apply(service(json!({})));
    settle(&mut local);
    assert!(local.records.is_empty() && local.exports.is_empty());
}

#[test]
fn a_users_own_export_outlives_annotations() {
    let mut local = local([
        service(json!({ "fairlead.dev/export": "false" })),
        export(json!({})),
    ]);
    settle(&mut local);
    assert!(local.exports.contains_key(&web()) && local.records.contains_key(&web()));
}

#[test]
fn a_bad_annotation_keeps_the_earlier_state_and_says_so() {
    let mut local = local([service(json!({ "fairlead.dev/export": "true" }))]);
    settle(&mut local);
    local.apply(service(json!({ "fairlead.dev/export": "maybe" })));
    settle(&mut local);
    assert!(local.records.contains_key(&web()));
    let valid = find(conditions(&local), "Valid").unwrap();
    assert_eq!(valid.reason, "InvalidAnnotation");
    assert!(valid.message.contains("\"maybe\"") && valid.message.contains("earlier state stays"));
}

#[test]
fn a_bad_weight_keeps_the_earlier_weight() {
    let weight = |value: &str| export(json!({ "fairlead.dev/weight": value }));
    let mut local = local([service(json!({})), weight("7")]);
    settle(&mut local);
    assert_eq!(local.records[&web()].spec.weight, Some(7));
    local.apply(weight("heavy"));
    settle(&mut local);
    assert_eq!(local.records[&web()].spec.weight, Some(7));
    assert!(!is_true(conditions(&local), "Valid"));
}

#[test]
fn an_annotated_workload_exports_the_services_that_select_it() {
    let mut local = local([service(json!({})), workload("true")]);
    settle(&mut local);
    assert!(local.records.contains_key(&web()));
}

#[test]
fn an_annotated_workload_without_a_service_gets_one() {
    let mut local = local([workload("true")]);
    settle(&mut local);
    let made = &local.services[&web()];
    assert_eq!(
        made.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port,
        80
    );
    assert!(local.records.contains_key(&web()));
}

#[test]
fn reserved_namespaces_export_nothing() {
    let key = ("kube-system".to_owned(), "web".to_owned());
    let verdict = judge(&key, None).unwrap_err();
    assert_eq!(verdict.reason, "ReservedNamespace");
}
