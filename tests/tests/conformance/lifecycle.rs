//! Namespaces, finalizers and owners.

use std::fmt::Debug;

use anyhow::{Context, ensure};
use fairlead_tests::wait;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    Case, same,
    support::{config_map, object, refused},
};

pub(crate) async fn a_namespace_brings_its_service_account_and_root_ca(
    case: Case,
) -> anyhow::Result<()> {
    appears(&case.api::<ServiceAccount>(), "default").await?;
    let map = appears(&case.api::<ConfigMap>(), "kube-root-ca.crt").await?;
    let text = map
        .data
        .context("data")?
        .remove("ca.crt")
        .context("a certificate")?;
    ensure!(text.starts_with("-----BEGIN CERTIFICATE-----"));
    Ok(())
}

pub(crate) async fn a_deleted_namespace_takes_its_objects_along(case: Case) -> anyhow::Result<()> {
    case.api()
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    let namespaces = Api::<Namespace>::all(case.client());
    namespaces
        .delete(&case.namespace, &DeleteParams::default())
        .await?;
    goes(&namespaces, &case.namespace).await?;
    same!(case.api::<ConfigMap>().get_opt("one").await?, None);
    Ok(())
}

pub(crate) async fn a_terminating_namespace_takes_nothing_new(case: Case) -> anyhow::Result<()> {
    let mut held = config_map("held", "1");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &held).await?;
    let namespaces = Api::<Namespace>::all(case.client());
    namespaces
        .delete(&case.namespace, &DeleteParams::default())
        .await?;
    let phase = namespaces
        .get(&case.namespace)
        .await?
        .status
        .and_then(|status| status.phase);
    same!(phase.as_deref(), Some("Terminating"));
    let result = api
        .create(&PostParams::default(), &config_map("new", "1"))
        .await;
    let status = refused(result, 403, "Forbidden")?;
    ensure!(
        status.message.contains("because it is being terminated"),
        "{}",
        status.message
    );
    release(&api, "held").await?;
    goes(&namespaces, &case.namespace).await
}

pub(crate) async fn the_namespaces_of_every_cluster_stay(case: Case) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(case.client());
    let result = namespaces.delete("default", &DeleteParams::default()).await;
    let status = refused(result.map(drop), 403, "Forbidden")?;
    ensure!(
        status
            .message
            .ends_with("this namespace may not be deleted"),
        "{}",
        status.message
    );
    Ok(())
}

pub(crate) async fn a_finalizer_holds_an_object(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let mut held = config_map("held", "1");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    api.create(&PostParams::default(), &held).await?;
    api.delete("held", &DeleteParams::default()).await?;
    let seen = api.get("held").await?;
    ensure!(seen.metadata.deletion_timestamp.is_some());
    same!(seen.metadata.deletion_grace_period_seconds, Some(0));
    let more = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/late"] } });
    let result = api
        .patch("held", &PatchParams::default(), &Patch::Merge(&more))
        .await;
    refused(result, 422, "Invalid")?;
    release(&api, "held").await?;
    same!(api.get_opt("held").await?, None);
    Ok(())
}

pub(crate) async fn dependents_go_with_their_owner(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    own(&api, false).await?;
    api.delete("owner", &DeleteParams::background()).await?;
    goes(&api, "owned").await
}

pub(crate) async fn orphans_outlive_their_owner(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    own(&api, false).await?;
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    api.delete("owner", &orphan).await?;
    goes(&api, "owner").await?;
    let left = api.get("owned").await?;
    ensure!(left.owner_references().is_empty());
    Ok(())
}

pub(crate) async fn a_foreground_delete_waits_for_dependents(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    own(&api, true).await?;
    api.delete("owner", &DeleteParams::foreground()).await?;
    wait::until("the dependent to be marked", async || {
        let seen = api.get("owned").await?;
        Ok(if seen.metadata.deletion_timestamp.is_some() {
            Ok(())
        } else {
            Err(seen.metadata)
        })
    })
    .await?;
    let owner = api.get("owner").await?;
    same!(owner.finalizers(), ["foregroundDeletion"]);
    release(&api, "owned").await?;
    goes(&api, "owner").await
}

/// An owner and a dependent that blocks its deletion; with a finalizer of its own if asked.
async fn own(api: &Api<ConfigMap>, held: bool) -> anyhow::Result<()> {
    let owner = api
        .create(&PostParams::default(), &config_map("owner", "1"))
        .await?;
    let finalizers = if held {
        vec!["example.com/hold"]
    } else {
        Vec::new()
    };
    let owned = object(json!({
        "metadata": {
            "name": "owned",
            "finalizers": finalizers,
            "ownerReferences": [ {
                "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                "uid": owner.uid(), "blockOwnerDeletion": true,
            } ],
        },
    }))?;
    api.create(&PostParams::default(), &owned).await?;
    Ok(())
}

async fn release(api: &Api<ConfigMap>, name: &str) -> anyhow::Result<()> {
    let free = json!({ "metadata": { "finalizers": null } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(&free))
        .await?;
    Ok(())
}

async fn appears<K>(api: &Api<K>, name: &str) -> anyhow::Result<K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    wait::until(name, async || Ok(api.get_opt(name).await?.ok_or("nothing"))).await
}

async fn goes<K>(api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    wait::until(&format!("{name} to go"), async || {
        Ok(match api.get_opt(name).await? {
            None => Ok(()),
            Some(left) => Err(left.meta().clone()),
        })
    })
    .await
}
