use serde_json::{Value, json};

use super::*;

fn deployment() -> Arc<Schema> {
    builtin("apps", "v1", "Deployment").expect("a built-in kind")
}

#[test]
fn every_reference_in_the_table_resolves() {
    fn walk(schema: &Schema) {
        if let Some(name) = schema.reference_name() {
            assert!(definition(name).is_some(), "{name}");
            return;
        }
        schema
            .properties
            .iter()
            .for_each(|(_, schema)| walk(schema));
        schema.items.iter().for_each(|schema| walk(schema));
        schema.additional.iter().for_each(|schema| walk(schema));
    }
    assert!(builtin_kinds().count() > 150);
    for (group, version, kind, _) in builtin_kinds() {
        walk(&builtin(group, version, kind).expect("listed"));
    }
}

#[test]
fn service_ports_merge_by_two_keys_on_apply_and_one_in_strategic_merge() {
    let service = builtin("", "v1", "Service").expect("a built-in kind");
    let ports = service
        .field("spec")
        .and_then(|spec| spec.field("ports"))
        .expect("a field");
    assert_eq!(
        ports.list,
        ListKind::Map(vec!["port".into(), "protocol".into()])
    );
    assert_eq!(&*ports.patch.as_ref().expect("has keys").merge_key, "port");
    let protocol = ports
        .element()
        .and_then(|port| port.field("protocol"))
        .expect("a field");
    assert_eq!(protocol.default, Some(json!("TCP")));
}

#[test]
fn decoding_names_unknown_fields_and_drops_them() {
    let mut value = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "nome": 1},
        "spec": {"foo": 1, "template": {"spec": {"containers": [{"name": "a", "bar": {}}]}}},
    });
    let decoded = deployment().decode(&mut value).expect("decodes");
    assert_eq!(
        decoded.messages(),
        [
            "unknown field \"metadata.nome\"",
            "unknown field \"spec.foo\"",
            "unknown field \"spec.template.spec.containers[0].bar\""
        ]
    );
    assert_eq!(
        value["spec"],
        json!({"template": {"spec": {"containers": [{"name": "a"}]}}})
    );
}

#[test]
fn decoding_a_wrong_type_reads_as_go_prints_it() {
    let cases = [
        (
            json!({"kind": "Deployment", "spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"kind": "Deployment", "metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"kind": "Deployment", "spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"kind": "Deployment", "spec": []}),
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
    ];
    for (mut value, message) in cases {
        assert_eq!(deployment().decode(&mut value), Err(message.to_owned()));
    }
}

#[test]
fn decoding_drops_nulls_and_empty_optional_collections() {
    let mut value = json!({
        "metadata": {"name": "web", "labels": {}, "annotations": null, "finalizers": []},
        "spec": {"replicas": null, "selector": {}, "template": {"spec": {"containers": []}}},
    });
    deployment().decode(&mut value).expect("decodes");
    let expected = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {}, "template": {"spec": {"containers": []}}},
    });
    assert_eq!(value, expected);
}

#[test]
fn defaults_give_the_shape_of_the_struct() {
    let mut value = json!({
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": 80}]}]}}},
    });
    deployment().apply_defaults(&mut value);
    let expected = json!({
        "metadata": {"name": "web"}, "status": {},
        "spec": {"strategy": {}, "template": {"metadata": {}, "spec": {"containers": [
            {"name": "", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}
        ]}}},
    });
    assert_eq!(value, expected);
    let once = value.clone();
    deployment().apply_defaults(&mut value);
    assert_eq!(value, once);
}

#[test]
fn quantities_and_times_become_canonical() {
    let quantities = [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("0.5Gi", "512Mi"),
        ("1.5Gi", "1536Mi"),
        ("100", "100"),
        ("1000", "1k"),
        ("1500", "1500"),
        ("1e3", "1e3"),
        ("0", "0"),
        ("-5m", "-5m"),
        ("1.25", "1250m"),
        ("0.1Ki", "102400m"),
        ("1Ki", "1Ki"),
        ("12345678901", "12345678901"),
        ("2M", "2M"),
        (".5", "500m"),
    ];
    for (text, canonical) in quantities {
        assert_eq!(
            strings::canonical_quantity(text).as_deref(),
            Some(canonical),
            "{text}"
        );
    }
    for text in ["", "abc", "1x", "1.2.3", "1Kii", "--1"] {
        assert_eq!(strings::canonical_quantity(text), None, "{text}");
    }
    assert_eq!(strings::canonical_time("2026-11-24T06:35:46Z", false), None);
    assert_eq!(
        strings::canonical_time("2026-11-24T08:35:46.25+02:00", false),
        Some(Ok("2026-11-24T06:35:46Z".to_owned()))
    );
    assert_eq!(
        strings::canonical_time("2026-11-24T08:35:46.123456+02:00", true),
        Some(Ok("2026-11-24T06:35:46.123456Z".to_owned()))
    );
    let whole = strings::canonical_time("2026-11-24T06:35:46Z", true);
    assert!(
        whole.is_some_and(|r| r.is_err()),
        "a MicroTime has six digits"
    );
    assert!(strings::canonical_time("yesterday", false).is_some_and(|r| r.is_err()));
}

#[test]
fn json_duplicates_are_found_and_the_last_value_wins() {
    let parsed = parse_json(br#"{"spec":{"replicas":1,"replicas":2},"l":[{"a":1,"a":2}]}"#)
        .expect("is JSON");
    assert_eq!(
        parsed.value,
        json!({"spec": {"replicas": 2}, "l": [{"a": 2}]})
    );
    assert_eq!(
        parsed.messages(),
        [
            "duplicate field \"spec.replicas\"",
            "duplicate field \"l[0].a\""
        ]
    );
    assert!(parse_json(b"{} x").is_err());
}

#[test]
fn opaque_values_stay_as_they_are() {
    let revision = builtin("apps", "v1", "ControllerRevision").expect("a built-in kind");
    let mut value = json!({"data": {"anything": [null, {"a": null}]}, "revision": 1});
    let before = value.clone();
    assert_eq!(revision.decode(&mut value), Ok(Decoded::default()));
    assert_eq!(value, before);
}

#[test]
fn a_bad_secret_value_is_a_decoding_error() {
    let secret = builtin("", "v1", "Secret").expect("a built-in kind");
    let mut value: Value = json!({"data": {"a": "?"}});
    assert_eq!(
        secret.decode(&mut value),
        Err("illegal base64 data at input byte 0".to_owned())
    );
}
