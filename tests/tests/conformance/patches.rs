//! The four kinds of patches.

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    Case,
    objects::deployment,
    same,
    support::{causes, config_map, object, refused},
};

pub(crate) async fn a_merge_patch_sets_and_removes(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let patch = json!({ "data": { "key": null, "other": "2" } });
    let seen = api
        .patch("one", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    same!(
        seen.data,
        Some([("other".to_owned(), "2".to_owned())].into())
    );
    Ok(())
}

pub(crate) async fn a_json_patch_tests_before_it_writes(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let send =
        async |operations: Value| send(&case, "application/json-patch+json", &operations).await;
    let test = json!([
        { "op": "test", "path": "/data/key", "value": "no" },
        { "op": "replace", "path": "/data/key", "value": "2" },
    ]);
    let (code, status) = send(test).await?;
    same!((code, status["reason"].as_str()), (422, Some("Invalid")));
    let good = json!([
        { "op": "test", "path": "/data/key", "value": "1" },
        { "op": "add", "path": "/metadata/annotations", "value": {} },
        { "op": "add", "path": "/metadata/annotations/example.com~1a", "value": "3" },
        { "op": "remove", "path": "/data/key" },
    ]);
    let (code, seen) = send(good).await?;
    same!(
        (code, &seen["metadata"]["annotations"]),
        (200, &json!({ "example.com/a": "3" }))
    );
    same!(seen["data"], Value::Null);
    Ok(())
}

pub(crate) async fn a_json_patch_forgives_what_its_library_forgives(
    case: Case,
) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    for (operations, code, data) in [
        // A field need not be there to be replaced, its parent must.
        (
            json!([{ "op": "replace", "path": "/data/new", "value": "2" }]),
            200,
            json!({ "key": "1", "new": "2" }),
        ),
        (
            json!([{ "op": "replace", "path": "/none/new", "value": "2" }]),
            422,
            Value::Null,
        ),
        // No value is null.
        (
            json!([{ "op": "replace", "path": "/data" }]),
            200,
            Value::Null,
        ),
        (
            json!([{ "op": "add", "path": "/data", "value": { "key": "3" } }]),
            200,
            json!({ "key": "3" }),
        ),
        (json!([]), 200, json!({ "key": "3" })),
        (Value::Null, 200, json!({ "key": "3" })),
        (json!({}), 400, Value::Null),
    ] {
        let (found, seen) = send(&case, "application/json-patch+json", &operations).await?;
        ensure!(found == code, "{operations}: {found} {seen}");
        same!(seen["data"], data);
    }
    Ok(())
}

pub(crate) async fn a_patch_stays_with_its_kind(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    for (patch, code, reason) in [
        (json!({ "kind": "Secret" }), 422, "Invalid"),
        (json!({ "apiVersion": "v2" }), 422, "Invalid"),
        (json!({ "metadata": { "name": "two" } }), 400, "BadRequest"),
        (
            json!({ "metadata": { "namespace": "other" } }),
            400,
            "BadRequest",
        ),
        (json!(["a"]), 400, "BadRequest"),
        (json!("a"), 400, "BadRequest"),
        (Value::Null, 400, "BadRequest"),
    ] {
        let (found, status) = send(&case, "application/merge-patch+json", &patch).await?;
        let told = (found, status["reason"].as_str());
        ensure!(told == (code, Some(reason)), "{patch}: {found} {status}");
    }
    same!(api.get("one").await?.data, config_map("one", "1").data);
    Ok(())
}

/// Patches the ConfigMap `one`.
async fn send(case: &Case, content_type: &str, patch: &Value) -> anyhow::Result<(u16, Value)> {
    let uri = format!("/api/v1/namespaces/{}/configmaps/one", case.namespace);
    let request = http::Request::patch(uri)
        .header("content-type", content_type)
        .body(serde_json::to_vec(patch)?)?;
    case.raw(request).await
}

pub(crate) async fn a_strategic_patch_merges_containers_by_name(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Deployment>();
    api.create(&PostParams::default(), &deployment()?).await?;
    let patch = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "side", "image": "side:1" },
        { "name": "web", "image": "web:2" },
    ] } } } });
    let seen = api
        .patch("web", &PatchParams::default(), &Patch::Strategic(&patch))
        .await?;
    let template = seen.spec.template.spec.context("a pod spec")?;
    let mut images: Vec<_> = template
        .containers
        .iter()
        .filter_map(|container| container.image.clone())
        .collect();
    images.sort();
    same!(images, ["side:1", "web:2"]);
    let delete = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "side", "$patch": "delete" },
    ] } } } });
    let seen = api
        .patch("web", &PatchParams::default(), &Patch::Strategic(&delete))
        .await?;
    let template = seen.spec.template.spec.context("a pod spec")?;
    same!(template.containers.len(), 1);
    Ok(())
}

pub(crate) async fn apply_creates_and_owns(case: Case) -> anyhow::Result<()> {
    let seen = apply(&case, "ann", false, &json!({ "a": "1" })).await?;
    let entry = seen.managed_fields().first().context("an entry")?;
    same!(
        (
            entry.manager.as_deref(),
            entry.operation.as_deref(),
            entry.api_version.as_deref()
        ),
        (Some("ann"), Some("Apply"), Some("v1"))
    );
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    same!(fields, Some(&json!({ "f:data": { "f:a": {} } })));
    Ok(())
}

pub(crate) async fn apply_conflicts_name_the_owner(case: Case) -> anyhow::Result<()> {
    apply(&case, "ann", false, &json!({ "a": "1", "b": "1" })).await?;
    let result = apply(&case, "bob", false, &json!({ "a": "2", "c": "1" })).await;
    let status = refused(result, 409, "Conflict")?;
    same!(
        causes(&status),
        [("FieldManagerConflict".to_owned(), ".data.a".to_owned())]
    );
    same!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"ann\": .data.a"
    );
    // The same value is no conflict: both own it then.
    apply(&case, "bob", false, &json!({ "a": "1", "c": "1" })).await?;
    Ok(())
}

pub(crate) async fn apply_removes_what_it_no_longer_names(case: Case) -> anyhow::Result<()> {
    apply(
        &case,
        "ann",
        false,
        &json!({ "a": "1", "b": "1", "c": "1" }),
    )
    .await?;
    apply(&case, "bob", false, &json!({ "b": "1" })).await?;
    let seen = apply(&case, "ann", false, &json!({ "a": "1" })).await?;
    let keys: Vec<_> = seen.data.unwrap_or_default().into_keys().collect();
    same!(keys, ["a", "b"]);
    Ok(())
}

pub(crate) async fn forced_apply_takes_over(case: Case) -> anyhow::Result<()> {
    apply(&case, "ann", false, &json!({ "a": "1" })).await?;
    let seen = apply(&case, "bob", true, &json!({ "a": "2" })).await?;
    let managers: Vec<_> = seen
        .managed_fields()
        .iter()
        .filter_map(|entry| entry.manager.clone())
        .collect();
    same!(managers, ["bob"]);
    same!(seen.data, Some([("a".to_owned(), "2".to_owned())].into()));
    Ok(())
}

pub(crate) async fn applying_twice_changes_nothing(case: Case) -> anyhow::Result<()> {
    let first = apply(&case, "ann", false, &json!({ "a": "1" })).await?;
    let second = apply(&case, "ann", false, &json!({ "a": "1" })).await?;
    same!(second, first);
    Ok(())
}

pub(crate) async fn service_ports_merge_by_port_and_protocol_in_apply(
    case: Case,
) -> anyhow::Result<()> {
    let api = case.api::<Service>();
    let service = |ports: Value| {
        object::<Service>(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "dns" },
            "spec": { "selector": { "app": "dns" }, "ports": ports },
        }))
    };
    let tcp = service(json!([{ "name": "tcp", "port": 53, "protocol": "TCP" }]))?;
    let udp = service(json!([{ "name": "udp", "port": 53, "protocol": "UDP" }]))?;
    api.patch("dns", &PatchParams::apply("ann"), &Patch::Apply(&tcp))
        .await?;
    let seen = api
        .patch("dns", &PatchParams::apply("bob"), &Patch::Apply(&udp))
        .await?;
    let ports = seen.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let names: Vec<_> = ports
        .iter()
        .filter_map(|port| port.name.as_deref())
        .collect();
    same!(names, ["tcp", "udp"]);
    Ok(())
}

pub(crate) async fn updates_are_recorded_as_managed_fields(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let params = |manager: &str| PostParams {
        field_manager: Some(manager.to_owned()),
        ..PostParams::default()
    };
    api.create(&params("maker"), &config_map("one", "1"))
        .await?;
    let patch = json!({ "data": { "more": "2" } });
    let by = PatchParams {
        field_manager: Some("patcher".into()),
        ..PatchParams::default()
    };
    let seen = api.patch("one", &by, &Patch::Merge(&patch)).await?;
    let mut entries: Vec<_> = seen
        .managed_fields()
        .iter()
        .map(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| fields.0.clone());
            (
                entry.manager.clone().unwrap_or_default(),
                fields.unwrap_or_default(),
            )
        })
        .collect();
    entries.sort_by(|one, two| one.0.cmp(&two.0));
    let expected = [
        (
            "maker".to_owned(),
            json!({ "f:data": { ".": {}, "f:key": {} } }),
        ),
        ("patcher".to_owned(), json!({ "f:data": { "f:more": {} } })),
    ];
    ensure!(entries == expected, "{entries:?}");
    Ok(())
}

pub(crate) async fn nobody_owns_what_a_write_could_not_change(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Deployment>();
    let mut config = serde_json::to_value(deployment()?)?;
    config["apiVersion"] = json!("apps/v1");
    config["kind"] = json!("Deployment");
    config["status"] = json!({ "collisionCount": 7 });
    let by = PatchParams::apply("ann");
    api.patch("web", &by, &Patch::Apply(&config)).await?;
    config["status"] = json!({ "collisionCount": 8 });
    let by = PatchParams::apply("bob");
    let seen = api.patch_status("web", &by, &Patch::Apply(&config)).await?;
    same!(
        seen.status
            .as_ref()
            .and_then(|status| status.collision_count),
        Some(8)
    );
    for (manager, own, foreign) in [("ann", "f:spec", "f:status"), ("bob", "f:status", "f:spec")] {
        let mut entries = seen.managed_fields().iter();
        let entry = entries.find(|entry| entry.manager.as_deref() == Some(manager));
        let fields = &entry
            .and_then(|entry| entry.fields_v1.as_ref())
            .context(manager)?
            .0;
        ensure!(
            fields.get(own).is_some() && fields.get(foreign).is_none(),
            "{manager}: {fields}"
        );
    }
    Ok(())
}

async fn apply(case: &Case, manager: &str, force: bool, data: &Value) -> kube::Result<ConfigMap> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "one" },
        "data": data,
    });
    let params = PatchParams {
        force,
        ..PatchParams::apply(manager)
    };
    case.api()
        .patch("one", &params, &Patch::Apply(&object))
        .await
}
