//! Exports that can't be served, and what is said of them.

use anyhow::{Context, ensure};
use fairlead_api::mcs::v1beta1::ServiceExport;
use fairlead_tests::{fleet::Fleet, wait};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::{Stage, attacks, same, start::weigh};

pub(crate) async fn an_export_that_cannot_be_served_says_what_to_do(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let client = fleet.member("member-1").await?;
    export(&client, "missing").await?;
    let message = condition(&client, "missing", "Valid", "False").await?;
    ensure!(message.contains("Service"), "{message}");

    let external = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "outside", "namespace": "demo" },
        "spec": { "type": "ExternalName", "externalName": "example.org" },
    });
    let services = Api::<Service>::namespaced(client.clone(), "demo");
    let external = serde_json::from_value(external)?;
    services.create(&PostParams::default(), &external).await?;
    export(&client, "outside").await?;
    let message = condition(&client, "outside", "Valid", "False").await?;
    ensure!(message.contains("ExternalName"), "{message}");
    // Real clusters outlive the case.
    for export in ["missing", "outside"] {
        let exports = Api::<ServiceExport>::namespaced(client.clone(), "demo");
        exports.delete(export, &DeleteParams::default()).await?;
    }
    services.delete("outside", &DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn exports_that_disagree_say_who_wins(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let members = &fleet.ready.members;
    let mut ages = Vec::new();
    for member in members {
        let client = fleet.member(&member.name).await?;
        let exports = Api::<ServiceExport>::namespaced(client, "demo");
        let created = exports.get("echo").await?.metadata.creation_timestamp;
        ages.push((created, &member.name));
    }
    let (_, youngest) = ages.into_iter().max().context("there are members")?;
    // The port's name stays, its number changes: the oldest export keeps its word.
    let client = fleet.member(youngest).await?;
    renumber(&client, 7001).await?;
    let word = format!("1/{} clusters disagree", members.len());
    for member in members {
        let client = fleet.member(&member.name).await?;
        let message = condition(&client, "echo", "Conflict", "True").await?;
        ensure!(message.contains(&word), "{}: {message}", member.name);
        attacks::told_in(client, "echo", &word).await?;
    }
    attacks::told(&fleet, "echo", &word).await?;
    let text = fleet.must(&["explain", "service", "demo/echo"]).await?;
    ensure!(text.contains("PortConflict"), "{text}");
    renumber(&client, 7000).await?;
    condition(&client, "echo", "Conflict", "False").await?;
    Ok(())
}

pub(crate) async fn a_bad_annotation_keeps_the_earlier_state_and_says_so(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let client = fleet.member("member-1").await?;
    weigh(client.clone(), 40).await?;
    wait_for_weight(&fleet, "40").await?;
    let exports = Api::<ServiceExport>::namespaced(client.clone(), "demo");
    let bad = json!({ "metadata": { "annotations": { "fairlead.dev/weight": "heavy" } } });
    let params = PatchParams::default();
    exports.patch("echo", &params, &Patch::Merge(&bad)).await?;
    let message = wait::until("word of the annotation", async || {
        let found = exports.get("echo").await?;
        let found = serde_json::to_value(&found.status)?.to_string();
        Ok(if found.contains("heavy") {
            Ok(found)
        } else {
            Err(found)
        })
    })
    .await?;
    ensure!(message.contains("fairlead.dev/weight"), "{message}");
    wait_for_weight(&fleet, "40").await
}

pub(crate) async fn a_schema_refuses_with_the_field_and_why(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let client = fleet.hub().await?;
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name }, "spec": spec,
        })
    };
    let long = "m".repeat(48);
    let cases = [
        (
            object("MemberCluster", &long, json!({})),
            "at most 47 characters",
        ),
        (
            object("MemberCluster", "m", json!({ "heartbeatPeriodSeconds": 0 })),
            "spec.heartbeatPeriodSeconds",
        ),
        (
            object(
                "MemberCluster",
                "m",
                json!({ "endpointCIDRs": ["10.0.0.0/99"] }),
            ),
            "spec.endpointCIDRs",
        ),
        (
            object(
                "MemberCluster",
                "m",
                json!({ "trafficClaims": [ { "owner": "a", "permille": 1001 } ] }),
            ),
            "spec.trafficClaims[0].permille",
        ),
        (
            object(
                "ProxyGroup",
                "g",
                json!({ "portRange": { "first": 9, "last": 8 } }),
            ),
            "the first port must not be above the last",
        ),
        (
            object("ProxyGroup", "g", json!({ "addresses": ["here"] })),
            "spec.addresses",
        ),
        (
            object("ProxyGroup", "g", json!({ "services": ["no-slash"] })),
            "spec.services",
        ),
    ];
    for (object, word) in cases {
        let made: DynamicObject = serde_json::from_value(object.clone())?;
        let kind = object["kind"].as_str().unwrap_or_default();
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("fairlead.dev", "v1alpha1", kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        match api.create(&PostParams::default(), &made).await {
            Err(kube::Error::Api(status)) => {
                same!(status.code, 422);
                ensure!(status.message.contains(word), "{word}: {}", status.message);
            }
            other => anyhow::bail!("{object} is not refused: {other:?}"),
        }
    }
    Ok(())
}

/// Gives the first port of the service this number.
async fn renumber(client: &Client, port: u16) -> anyhow::Result<()> {
    let services = Api::<Service>::namespaced(client.clone(), "demo");
    let patch = json!([{ "op": "replace", "path": "/spec/ports/0/port", "value": port }]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
    services
        .patch("echo", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn export(client: &Client, name: &str) -> anyhow::Result<()> {
    let export = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": name, "namespace": "demo" }, "spec": {},
    });
    let exports = Api::<ServiceExport>::namespaced(client.clone(), "demo");
    let export = serde_json::from_value(export)?;
    exports.create(&PostParams::default(), &export).await?;
    Ok(())
}

/// Waits for a condition of an export; its message.
async fn condition(
    client: &Client,
    name: &str,
    kind: &str,
    status: &str,
) -> anyhow::Result<String> {
    let exports = Api::<ServiceExport>::namespaced(client.clone(), "demo");
    wait::until(&format!("{kind}={status} of {name}"), async || {
        let found = exports.get(name).await?;
        let found = serde_json::to_value(&found.status)?;
        let conditions = found["conditions"].as_array().cloned().unwrap_or_default();
        let one = conditions
            .iter()
            .find(|one| one["type"] == kind && one["status"] == status);
        let message = one
            .and_then(|one| one["message"].as_str())
            .map(str::to_owned);
        Ok(message.ok_or(found))
    })
    .await
}

async fn wait_for_weight(fleet: &Fleet, weight: &str) -> anyhow::Result<()> {
    wait::until(&format!("weight {weight}"), async || {
        let text = fleet.must(&["status"]).await?;
        let services = text.split("SERVICE").nth(1).unwrap_or_default();
        let row = services.lines().find(|line| line.contains("member-1"));
        let found = row.and_then(|row| row.split_whitespace().nth(2));
        Ok((found == Some(weight)).then_some(()).ok_or(text))
    })
    .await
}
