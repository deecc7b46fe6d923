//! The scale subresource: whose the number of replicas is.

use anyhow::{Context, ensure};
use http::{Request, header::CONTENT_TYPE};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::{Case, objects::deployment, same};

pub(crate) async fn a_scale_is_applied_with_owners_and_conflicts(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Deployment>();
    // Paused, so that no controller has anything to do.
    let mut made = deployment()?;
    made.spec.paused = Some(true);
    let by = PatchParams::apply("ann");
    let mut config = serde_json::to_value(&made)?;
    config["apiVersion"] = json!("apps/v1");
    config["kind"] = json!("Deployment");
    config["spec"]["replicas"] = json!(2);
    api.patch("web", &by, &Patch::Apply(&config)).await?;
    same!(owners(&case).await?, ["ann Apply"]);

    let (code, status) = apply(&case, "bob", 3, false).await?;
    same!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let message = "Apply failed with 1 conflict: conflict with \"ann\": .spec.replicas";
    same!(status["message"], message);
    let (code, scale) = apply(&case, "bob", 2, false).await?;
    same!((code, scale["spec"]["replicas"].as_i64()), (200, Some(2)));
    same!(owners(&case).await?, ["ann Apply", "bob Apply scale"]);
    let (code, scale) = apply(&case, "bob", 3, true).await?;
    same!((code, scale["spec"]["replicas"].as_i64()), (200, Some(3)));
    same!(owners(&case).await?, ["bob Apply scale"]);
    let refused = api.patch("web", &by, &Patch::Apply(&config)).await;
    let told = refused.err().context("a conflict")?.to_string();
    ensure!(
        told.contains("conflict with \"bob\" with subresource \"scale\""),
        "{told}"
    );

    let four = json!({ "spec": { "replicas": 4 } }).to_string();
    let (code, _) = patch(&case, "fieldManager=cat", MERGE, &four).await?;
    same!(
        (code, owners(&case).await?),
        (200, vec!["cat Update scale".to_owned()])
    );
    let (code, status) = apply(&case, "bob", 5, false).await?;
    let message = "conflict with \"cat\" with subresource \"scale\" using autoscaling/v1";
    same!(
        (code, &status["details"]["causes"][0]["message"]),
        (409, &json!(message))
    );
    // A Scale doesn't show zero, so nobody owns it.
    let none = json!({ "spec": { "replicas": 0 } }).to_string();
    let (code, _) = patch(&case, "fieldManager=cat", MERGE, &none).await?;
    same!((code, owners(&case).await?.len()), (200, 0));
    Ok(())
}

pub(crate) async fn what_is_no_scale_is_refused(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Deployment>();
    api.create(&PostParams::default(), &deployment()?).await?;
    let version = r#"{"apiVersion": "v1", "kind": "Scale", "spec": {"replicas": 1}}"#;
    for (query, content_type, body, code) in [
        ("", MERGE, "[1]", 400),
        ("", MERGE, "1", 400),
        ("", MERGE, "null", 400),
        ("", MERGE, r#"{"spec": {"replicas": "many"}}"#, 422),
        ("", MERGE, r#"{"spec": []}"#, 422),
        ("", MERGE, r#"{"spec": {"replicas": -1}}"#, 422),
        ("", MERGE, r#"{"kind": "Scales"}"#, 422),
        (
            "",
            "application/json-patch+json",
            r#"[{"op": "replace", "path": "", "value": 1}]"#,
            422,
        ),
        ("fieldManager=a", APPLY, "[]", 400),
        ("fieldManager=a", APPLY, version, 400),
        (
            "",
            APPLY,
            r#"{"apiVersion": "autoscaling/v1", "kind": "Scale"}"#,
            422,
        ),
        ("", "text/plain", "{}", 415),
    ] {
        let (found, status) = patch(&case, query, content_type, body).await?;
        ensure!(found == code, "{content_type} {body}: {found} {status}");
    }
    same!(api.get("web").await?.spec.replicas, Some(0));
    Ok(())
}

pub(crate) async fn a_scale_is_shown_as_a_table(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Deployment>();
    api.create(&PostParams::default(), &deployment()?).await?;
    let request = Request::get(uri(&case))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let (code, table) = case.raw(request).await?;
    same!((code, table["kind"].as_str()), (200, Some("Table")));
    let columns = table["columnDefinitions"].as_array().context("columns")?;
    let columns: Vec<_> = columns
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    same!(columns, ["Name", "Desired", "Available", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().context("cells")?;
    same!(cells[..3], [json!("web"), json!(0), json!(0)]);
    Ok(())
}

/// Who owns the number of replicas: manager, operation, subresource.
async fn owners(case: &Case) -> anyhow::Result<Vec<String>> {
    let seen = case.api::<Deployment>().get("web").await?;
    let entries = seen.metadata.managed_fields.unwrap_or_default();
    let owns = entries.iter().filter(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    });
    let titles = owns.map(|entry| {
        let parts = [&entry.manager, &entry.operation, &entry.subresource];
        let parts: Vec<_> = parts.into_iter().flatten().map(String::as_str).collect();
        parts.join(" ")
    });
    let mut titles: Vec<_> = titles.collect();
    titles.sort();
    Ok(titles)
}

async fn apply(
    case: &Case,
    manager: &str,
    replicas: i64,
    force: bool,
) -> anyhow::Result<(u16, Value)> {
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": { "name": "web" }, "spec": { "replicas": replicas },
    });
    let query = format!("fieldManager={manager}&force={force}");
    patch(case, &query, APPLY, &scale.to_string()).await
}

async fn patch(
    case: &Case,
    query: &str,
    content_type: &str,
    body: &str,
) -> anyhow::Result<(u16, Value)> {
    let request = Request::patch(format!("{}?{query}", uri(case)))
        .header(CONTENT_TYPE, content_type)
        .body(body.as_bytes().to_vec())?;
    case.raw(request).await
}

fn uri(case: &Case) -> String {
    format!(
        "/apis/apps/v1/namespaces/{}/deployments/web/scale",
        case.namespace
    )
}

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
