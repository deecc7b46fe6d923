//! Reading and writing single objects and lists.

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, ResourceExt,
    api::{
        DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
        ValidationDirective,
    },
};
use serde_json::json;

use crate::{
    Case, same,
    support::{causes, config_map, object, refused},
};

pub(crate) async fn a_created_object_has_identity_and_can_be_read(
    case: Case,
) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let made = api
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    ensure!(
        made.uid().is_some_and(|uid| uid.len() == 36),
        "a uid of 36 characters"
    );
    ensure!(
        made.resource_version()
            .is_some_and(|version| version.parse::<u64>().is_ok())
    );
    ensure!(made.creation_timestamp().is_some());
    same!(made.namespace().as_deref(), Some(case.namespace.as_str()));
    let read = api.get("one").await?;
    same!(read, made);
    Ok(())
}

pub(crate) async fn a_missing_object_is_not_found_with_its_name(case: Case) -> anyhow::Result<()> {
    let status = refused(case.api::<ConfigMap>().get("none").await, 404, "NotFound")?;
    same!(status.message, "configmaps \"none\" not found");
    let details = status.details.clone().context("details")?;
    same!(
        (details.name.as_str(), details.kind.as_str()),
        ("none", "configmaps")
    );
    Ok(())
}

pub(crate) async fn a_second_create_already_exists(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let second = api
        .create(&PostParams::default(), &config_map("one", "2"))
        .await;
    let status = refused(second, 409, "AlreadyExists")?;
    same!(status.message, "configmaps \"one\" already exists");
    Ok(())
}

pub(crate) async fn a_stale_update_conflicts(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let first = api
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let mut changed = first.clone();
    changed.data = config_map("one", "2").data;
    api.replace("one", &PostParams::default(), &changed).await?;
    let status = refused(
        api.replace("one", &PostParams::default(), &changed).await,
        409,
        "Conflict",
    )?;
    ensure!(
        status
            .message
            .contains("the object has been modified; please apply your changes"),
        "{}",
        status.message
    );
    Ok(())
}

pub(crate) async fn an_update_without_a_version_wins(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let first = api
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let second = api
        .replace("one", &PostParams::default(), &config_map("one", "2"))
        .await?;
    same!(second.uid(), first.uid());
    ensure!(second.resource_version() != first.resource_version());
    let again = api
        .replace("one", &PostParams::default(), &config_map("one", "2"))
        .await?;
    same!(again.resource_version(), second.resource_version());
    Ok(())
}

pub(crate) async fn a_generated_name_extends_its_prefix(case: Case) -> anyhow::Result<()> {
    let mut nameless = config_map("x", "1");
    nameless.metadata.name = None;
    let status = refused(
        case.api().create(&PostParams::default(), &nameless).await,
        422,
        "Invalid",
    )?;
    same!(
        causes(&status),
        [("FieldValueRequired".to_owned(), "metadata.name".to_owned())]
    );
    nameless.metadata.generate_name = Some("made-".into());
    let made = case.api().create(&PostParams::default(), &nameless).await?;
    ensure!(made.name_any().len() == 10 && made.name_any().starts_with("made-"));
    Ok(())
}

pub(crate) async fn an_invalid_name_is_refused_with_its_field(case: Case) -> anyhow::Result<()> {
    let wrong = config_map("Not_A_Name", "1");
    let status = refused(
        case.api().create(&PostParams::default(), &wrong).await,
        422,
        "Invalid",
    )?;
    same!(
        causes(&status),
        [("FieldValueInvalid".to_owned(), "metadata.name".to_owned())]
    );
    ensure!(
        status
            .message
            .starts_with("ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value")
    );
    Ok(())
}

pub(crate) async fn a_dry_run_changes_nothing(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let made = api.create(&dry, &config_map("one", "1")).await?;
    ensure!(made.uid().is_some());
    refused(api.get("one").await, 404, "NotFound")?;
    let before = api
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    refused(
        api.create(&dry, &config_map("one", "2")).await,
        409,
        "AlreadyExists",
    )?;
    let seen = api.replace("one", &dry, &config_map("one", "2")).await?;
    same!(seen.data, config_map("one", "2").data);
    let patch = Patch::Merge(json!({ "data": { "key": "3" } }));
    let by = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    same!(
        api.patch("one", &by, &patch).await?.data,
        config_map("one", "3").data
    );
    let delete = DeleteParams {
        dry_run: true,
        ..DeleteParams::default()
    };
    api.delete("one", &delete).await?;
    api.delete_collection(&delete, &ListParams::default())
        .await?;
    same!(api.get("one").await?, before);
    Ok(())
}

pub(crate) async fn strict_validation_refuses_unknown_fields(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let patch = json!({ "data": { "key": "2" }, "surplus": { "deep": 1 } });
    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let result = api.patch("one", &strict, &Patch::Merge(&patch)).await;
    // A patch that leads to a bad object is invalid; a bad object as such is a bad request.
    let status = refused(result, 422, "Invalid")?;
    ensure!(
        status.message.contains("unknown field \"surplus\""),
        "{}",
        status.message
    );
    let body = json!({ "metadata": { "name": "two" }, "data": {}, "surplus": 1 });
    let uri = format!(
        "/api/v1/namespaces/{}/configmaps?fieldValidation=Strict",
        case.namespace
    );
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body)?)?;
    let (code, status) = case.raw(request).await?;
    same!((code, status["reason"].as_str()), (400, Some("BadRequest")));
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("strict decoding error: unknown field \"surplus\""),
        "{message}"
    );
    Ok(())
}

pub(crate) async fn lists_filter_by_labels_and_fields(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    for (name, tier) in [("a", "front"), ("b", "back"), ("c", "none")] {
        let mut made = config_map(name, "1");
        made.labels_mut().insert("tier".into(), tier.into());
        api.create(&PostParams::default(), &made).await?;
    }
    for (selector, expected) in [
        ("tier=front", vec!["a"]),
        ("tier in (front,back)", vec!["a", "b"]),
        ("tier notin (front),tier", vec!["b", "c"]),
        ("tier!=none,!missing", vec!["a", "b"]),
    ] {
        let list = api.list(&ListParams::default().labels(selector)).await?;
        let names: Vec<_> = list
            .iter()
            .map(ResourceExt::name_any)
            .filter(|name| name.len() == 1)
            .collect();
        same!(names, expected);
    }
    let list = api
        .list(&ListParams::default().fields("metadata.name=b"))
        .await?;
    same!(
        list.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        ["b"]
    );
    Ok(())
}

pub(crate) async fn lists_come_in_pages_of_one_state(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    for index in 0..5 {
        let mut made = config_map(&format!("page-{index}"), "1");
        made.labels_mut().insert("paged".into(), "yes".into());
        api.create(&PostParams::default(), &made).await?;
    }
    let page = ListParams::default().labels("paged=yes").limit(2);
    let first = api.list(&page).await?;
    same!(first.items.len(), 2);
    let token = first
        .metadata
        .continue_
        .clone()
        .context("a continue token")?;
    api.delete("page-4", &DeleteParams::default()).await?;
    let second = api.list(&page.clone().continue_token(&token)).await?;
    same!(
        second.metadata.resource_version,
        first.metadata.resource_version
    );
    let token = second
        .metadata
        .continue_
        .clone()
        .context("a second token")?;
    let third = api.list(&page.continue_token(&token)).await?;
    same!(
        third.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        ["page-4"]
    );
    ensure!(
        third
            .metadata
            .continue_
            .as_deref()
            .unwrap_or_default()
            .is_empty()
    );
    Ok(())
}

pub(crate) async fn a_bad_selector_is_a_bad_request(case: Case) -> anyhow::Result<()> {
    let bad = ListParams::default().labels("a=b=c");
    refused(case.api::<ConfigMap>().list(&bad).await, 400, "BadRequest")?;
    let bad = ListParams::default().fields("data.key=1");
    refused(case.api::<ConfigMap>().list(&bad).await, 400, "BadRequest")?;
    Ok(())
}

pub(crate) async fn a_precondition_guards_a_delete(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let made = api
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let with = |uid: Option<String>| {
        let preconditions = Preconditions {
            uid,
            ..Preconditions::default()
        };
        DeleteParams::default().preconditions(preconditions)
    };
    let other = "00000000-0000-0000-0000-000000000000".to_owned();
    refused(api.delete("one", &with(Some(other))).await, 409, "Conflict")?;
    let version = |resource_version| {
        let preconditions = Preconditions {
            resource_version,
            ..Preconditions::default()
        };
        DeleteParams::default().preconditions(preconditions)
    };
    let old = version(Some("1".to_owned()));
    refused(api.delete("one", &old).await, 409, "Conflict")?;
    let by_version = DeleteParams {
        dry_run: true,
        ..version(made.resource_version())
    };
    api.delete("one", &by_version).await?;
    api.delete("one", &with(made.uid())).await?;
    refused(api.get("one").await, 404, "NotFound")?;
    Ok(())
}

pub(crate) async fn an_update_of_another_object_conflicts(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let mut other = config_map("one", "2");
    other.metadata.uid = Some("00000000-0000-0000-0000-000000000000".into());
    let result = api.replace("one", &PostParams::default(), &other).await;
    let status = refused(result, 409, "Conflict")?;
    ensure!(
        status
            .message
            .contains("Precondition failed: UID in precondition"),
        "{}",
        status.message
    );
    Ok(())
}

pub(crate) async fn a_collection_is_deleted_by_selector(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    for (name, keep) in [("a", "yes"), ("b", "no"), ("c", "no")] {
        let mut made = config_map(name, "1");
        made.labels_mut().insert("keep".into(), keep.into());
        api.create(&PostParams::default(), &made).await?;
    }
    let selected = ListParams::default().labels("keep=no");
    api.delete_collection(&DeleteParams::default(), &selected)
        .await?;
    let left = api.list(&ListParams::default().labels("keep")).await?;
    same!(
        left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        ["a"]
    );
    Ok(())
}

pub(crate) async fn a_spec_change_raises_the_generation(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Deployment>();
    let made = api.create(&PostParams::default(), &deployment()?).await?;
    same!(made.metadata.generation, Some(1));
    let labelled = json!({ "metadata": { "labels": { "a": "b" } } });
    let second = api
        .patch("web", &PatchParams::default(), &Patch::Merge(&labelled))
        .await?;
    same!(second.metadata.generation, Some(1));
    let scaled = json!({ "spec": { "paused": true } });
    let third = api
        .patch("web", &PatchParams::default(), &Patch::Merge(&scaled))
        .await?;
    same!(third.metadata.generation, Some(2));
    Ok(())
}

pub(crate) async fn status_and_spec_are_written_apart(case: Case) -> anyhow::Result<()> {
    let api = Api::<Namespace>::all(case.client());
    let through_spec = json!({ "status": { "phase": "Terminating" } });
    let seen = api
        .patch(
            &case.namespace,
            &PatchParams::default(),
            &Patch::Merge(&through_spec),
        )
        .await?;
    same!(
        seen.status.and_then(|status| status.phase).as_deref(),
        Some("Active")
    );
    let deployments = case.api::<Deployment>();
    deployments
        .create(&PostParams::default(), &deployment()?)
        .await?;
    let patch = json!({ "spec": { "replicas": 7 }, "status": { "observedGeneration": 1, "collisionCount": 3 } });
    let seen = deployments
        .patch_status("web", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    same!(seen.spec.replicas, Some(0));
    same!(
        seen.status.and_then(|status| status.collision_count),
        Some(3)
    );
    Ok(())
}

pub(crate) async fn a_table_has_columns_and_rows(case: Case) -> anyhow::Result<()> {
    case.api()
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let uri = format!(
        "/api/v1/namespaces/{}/configmaps?fieldSelector=metadata.name%3Done",
        case.namespace
    );
    let request = http::Request::get(uri)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let (code, table) = case.raw(request).await?;
    same!((code, table["kind"].as_str()), (200, Some("Table")));
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .context("columns")?
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    same!(columns, ["Name", "Data", "Age"]);
    same!(table["rows"][0]["cells"][0], json!("one"));
    same!(table["rows"][0]["cells"][1], json!(1));
    same!(
        table["rows"][0]["object"]["kind"],
        json!("PartialObjectMetadata")
    );
    Ok(())
}

pub(crate) async fn metadata_can_be_asked_for_alone(case: Case) -> anyhow::Result<()> {
    case.api()
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let meta = case.api::<ConfigMap>().get_metadata("one").await?;
    same!(meta.name_any(), "one");
    let list = case
        .api::<ConfigMap>()
        .list_metadata(&ListParams::default())
        .await?;
    ensure!(list.iter().any(|item| item.name_any() == "one"));
    Ok(())
}

pub(crate) async fn malformed_json_is_a_bad_request(case: Case) -> anyhow::Result<()> {
    let uri = format!("/api/v1/namespaces/{}/configmaps", case.namespace);
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(b"{\"metadata\": ".to_vec())?;
    let (code, status) = case.raw(request).await?;
    same!((code, status["reason"].as_str()), (400, Some("BadRequest")));
    Ok(())
}

pub(crate) async fn a_wrong_content_type_is_unsupported(case: Case) -> anyhow::Result<()> {
    let uri = format!("/api/v1/namespaces/{}/configmaps", case.namespace);
    let request = http::Request::post(uri)
        .header("content-type", "text/csv")
        .body(b"a,b".to_vec())?;
    let (code, status) = case.raw(request).await?;
    same!(
        (code, status["reason"].as_str()),
        (415, Some("UnsupportedMediaType"))
    );
    Ok(())
}

pub(crate) async fn an_unknown_path_is_not_found(case: Case) -> anyhow::Result<()> {
    let request = http::Request::get("/apis/nowhere.example/v1/things").body(Vec::new())?;
    let (code, _) = case.raw(request).await?;
    same!(code, 404);
    Ok(())
}

/// A Deployment without replicas, so that no controller has anything to do.
pub(crate) fn deployment() -> anyhow::Result<Deployment> {
    object(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [ { "name": "web", "image": "web:1" } ] },
            },
        },
    }))
}
