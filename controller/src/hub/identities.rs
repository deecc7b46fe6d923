//! Makes and removes what a member needs on the hub.

use std::time::Duration;

use fairlead_api::{labels, member::MemberCluster};
use fairlead_config::name::MemberName;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::engine::Command;
use crate::{identity, leader::io::Leadership};

/// Something to do for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    /// Make its namespace and identity.
    Prepare(MemberName),
    /// Remove them: it leaves.
    Dismantle(MemberName),
}

/// Works on one task at a time until the engine is gone.
pub(super) async fn run(
    client: Client,
    leadership: Leadership,
    mut tasks: mpsc::Receiver<Task>,
    engine: mpsc::Sender<Command>,
) {
    while let Some(task) = tasks.recv().await {
        if !leadership.is_mine() {
            continue;
        }
        let work = async {
            match &task {
                Task::Prepare(member) => {
                    prepare(&client, member).await?;
                    drop(engine.send(Command::Prepared(member.clone())).await);
                    Ok(())
                }
                Task::Dismantle(member) => dismantle(&client, member).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(?task, %error, "identity work failed; tried again"),
            Err(_) => tracing::warn!(?task, "identity work got no answer; tried again"),
        }
    }
}

/// Applies a manifest, whatever its kind.
pub async fn apply(client: &Client, manifest: &Value) -> Result<(), kube::Error> {
    let object: DynamicObject =
        serde_json::from_value(manifest.clone()).map_err(kube::Error::SerdeError)?;
    let types = object.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types).map_err(|error| {
        kube::Error::Service(format!("a manifest of ours has no kind: {error}").into())
    })?;
    let resource = ApiResource::from_gvk(&gvk);
    let name = object.name_any();
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply(labels::HUB_MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(manifest))
        .await
        .map(drop)
}

async fn prepare(client: &Client, member: &MemberName) -> Result<(), kube::Error> {
    let members: Api<MemberCluster> = Api::all(client.clone());
    let finalizer = json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "MemberCluster",
        "metadata": { "name": member.as_str(), "finalizers": [labels::MEMBER_FINALIZER] },
    });
    let params = PatchParams::apply(FINALIZER_MANAGER).force();
    members
        .patch(member.as_str(), &params, &Patch::Apply(&finalizer))
        .await?;
    for manifest in identity::of_member(member) {
        apply(client, &manifest).await?;
    }
    Ok(())
}

/// Its tokens die with the ServiceAccount, its facts with the namespace; then it may go.
async fn dismantle(client: &Client, member: &MemberName) -> Result<(), kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = labels::member_namespace(member.as_str());
    let members: Api<MemberCluster> = Api::all(client.clone());
    let Some(object) = members.get_opt(member.as_str()).await? else {
        return Ok(());
    };
    let forced = object
        .annotations()
        .get(labels::FORCE_LEAVE)
        .map(String::as_str)
        == Some("true");
    if let Some(namespace) = namespaces.get_opt(&name).await? {
        if namespace.metadata.deletion_timestamp.is_none() {
            namespaces.delete(&name, &DeleteParams::default()).await?;
        }
        let gone = namespaces.get_opt(&name).await?.is_none();
        if !gone && !forced {
            return Ok(());
        }
    }
    let keep: Vec<&String> = object
        .finalizers()
        .iter()
        .filter(|one| *one != labels::MEMBER_FINALIZER)
        .collect();
    let body = json!({
        "metadata": {
            "finalizers": keep,
            "resourceVersion": object.resource_version(),
        },
    });
    members
        .patch(
            member.as_str(),
            &PatchParams::default(),
            &Patch::Merge(&body),
        )
        .await
        .map(drop)
}

/// Apart from the field manager of statuses, so that neither takes the other's fields away.
const FINALIZER_MANAGER: &str = "fairlead-hub-members";
/// Five writes.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Members that wait.
pub(super) const QUEUE: usize = 2048;
