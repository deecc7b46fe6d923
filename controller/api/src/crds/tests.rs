use std::path::PathBuf;

use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/fairlead/crds")
}

/// `FAIRLEAD_WRITE_CRDS=1 cargo test -p fairlead-api` writes the files anew.
#[test]
fn the_chart_holds_exactly_the_crds_of_these_types() {
    let write = std::env::var_os("FAIRLEAD_WRITE_CRDS").is_some();
    for crd in crds() {
        let name = crd.metadata.name.clone().unwrap();
        let path = folder().join(format!("{name}.yaml"));
        let text = serde_saphyr::to_string(&crd).unwrap();
        if write {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let have = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            have == text,
            "{} differs from the types; run FAIRLEAD_WRITE_CRDS=1 cargo test -p fairlead-api",
            path.display()
        );
    }
    let files = std::fs::read_dir(folder()).unwrap().count();
    assert_eq!(files, crds().len(), "a file without a type");
}

#[test]
fn schemas_are_structural_and_say_what_every_field_is() {
    for crd in crds() {
        let name = crd.metadata.name.clone().unwrap();
        for version in &crd.spec.versions {
            let schema = serde_json::to_value(&version.schema).unwrap();
            walk(&schema["openAPIV3Schema"], &name);
        }
    }
}

fn walk(schema: &serde_json::Value, path: &str) {
    for word in ["oneOf", "anyOf", "$ref"] {
        let int_or_string = schema.get("x-kubernetes-int-or-string").is_some();
        assert!(
            schema.get(word).is_none() || int_or_string,
            "{path}: {word}"
        );
    }
    let typed = schema.get("type").is_some()
        || schema.get("x-kubernetes-int-or-string").is_some()
        || schema.get("x-kubernetes-preserve-unknown-fields").is_some();
    assert!(typed, "{path}: no type in {schema}");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(part).filter(|inner| inner.is_object()) {
            walk(inner, &format!("{path}.{part}"));
        }
    }
}

#[test]
fn both_versions_of_the_standards_have_one_schema() {
    for crd in member_crds() {
        let name = crd.metadata.name.clone().unwrap();
        let [stored, served] = &crd.spec.versions[..] else {
            panic!("{name}: {} versions", crd.spec.versions.len());
        };
        assert_eq!((stored.storage, served.storage), (true, false), "{name}");
        assert_eq!(stored.schema, served.schema, "{name}");
    }
}

#[test]
fn lists_that_several_owners_write_are_maps() {
    let crd = member::MemberCluster::crd();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    let spec = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(
        spec["trafficClaims"]["x-kubernetes-list-map-keys"][0],
        "owner"
    );
    assert_eq!(
        spec["endpointCIDRs"]["items"]["x-kubernetes-validations"][0]["rule"],
        "isCIDR(self)"
    );
}
