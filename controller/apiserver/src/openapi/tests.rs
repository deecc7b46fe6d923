use serde_json::{Value, json};

use super::*;
use crate::resource::Registry;

fn served() -> Vec<Arc<Resource>> {
    Registry::default().all()
}

fn built(group: &str, version: &str) -> Value {
    document(group, version, &served(), &|_| None).expect("is served")
}

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.push(
                    reference
                        .trim_start_matches("#/components/schemas/")
                        .to_owned(),
                );
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_document_is_closed_under_its_references() {
    let served = served();
    for resource in &served {
        let document = document(&resource.group, &resource.version, &served, &|_| None);
        let document = document.expect("is served");
        let schemas = &document["components"]["schemas"];
        let mut found = Vec::new();
        references(&document, &mut found);
        for name in found {
            assert!(
                schemas.get(&name).is_some(),
                "{name} in {}",
                resource.api_version()
            );
        }
    }
    assert!(document("nope.example.com", "v1", &served, &|_| None).is_none());
}

#[test]
fn the_index_names_each_group_and_version_with_a_stable_hash() {
    let index = index(&served());
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap_or_default();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert!(index["paths"]["api/v1"].is_object());
    assert_eq!(super::index(&served()), index);
}

#[test]
fn kubectl_finds_merge_keys_and_field_validation() {
    let core = built("", "v1");
    let ports =
        &core["components"]["schemas"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["port", "protocol"])
    );
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(
        ports["items"]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.ServicePort"
    );
    let patch = &core["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "Service"})
    );
    let names: Vec<_> = patch["parameters"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(
        names,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    let service = &core["components"]["schemas"]["io.k8s.api.core.v1.Service"];
    assert_eq!(
        service["x-kubernetes-group-version-kind"][0]["kind"],
        "Service"
    );
}

#[test]
fn paths_name_their_group_and_version() {
    assert_eq!(place("/apis/apps/v1"), Some(("apps", "v1")));
    assert_eq!(place("/api/v1"), Some(("", "v1")));
    assert_eq!(place("/apis/apps"), None);
}
