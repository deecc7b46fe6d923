//! What a member's cluster needs: CRDs, the agent's rights, and the cluster's id.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use fairlead_api::{about::ClusterProperty, labels};
use fairlead_controller::{hub::apply_manifest, manifests};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

/// The objects, in the order to apply them.
pub(super) struct Preparation {
    member: Option<String>,
    crds: Vec<CustomResourceDefinition>,
    rights: Vec<Value>,
}

impl Preparation {
    /// For a member that is known by an invitation, or for any.
    pub(super) fn new(member: Option<&str>, pods: bool) -> Self {
        Self {
            member: member.map(str::to_owned),
            crds: fairlead_api::crds::member_crds(),
            rights: manifests::agent(pods),
        }
    }

    /// For `kubectl apply -f -`.
    pub(super) fn yaml(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for crd in &self.crds {
            text += &format!("---\n{}", serde_saphyr::to_string(crd)?);
        }
        for object in self.rights.iter().chain(&self.property()) {
            text += &format!("---\n{}", serde_saphyr::to_string(object)?);
        }
        Ok(text)
    }

    /// Whether the cluster can be that member: its id, where it has one, must be the member's name.
    pub(super) async fn check(&self, local: &Client) -> anyhow::Result<()> {
        let properties = Api::<ClusterProperty>::all(local.clone());
        let id = labels::CLUSTER_ID_PROPERTY;
        let have = match properties.get(id).await {
            Ok(have) => Some(have),
            // Also where nobody has defined the kind yet.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => return Err(error).context("the member's API server"),
        };
        match (have, &self.member) {
            (Some(have), Some(member)) if have.spec.value != *member => bail!(
                "this cluster's id is {:?} already (ClusterProperty {id}); join as that name, or delete the property",
                have.spec.value
            ),
            _ => Ok(()),
        }
    }

    /// Applies everything. CRDs that are newer, or somebody else's, are kept.
    pub(super) async fn apply(&self, local: &Client) -> anyhow::Result<()> {
        let definitions = Api::<CustomResourceDefinition>::all(local.clone());
        for crd in &self.crds {
            let name = crd.name_any();
            let have = definitions.get_opt(&name).await?;
            if let Some(why) = have.and_then(|have| keep(&have, crd)) {
                println!("CRD {name} is kept as it is: {why}");
                continue;
            }
            let params = PatchParams::apply(MANAGER).force();
            definitions
                .patch(&name, &params, &Patch::Apply(crd))
                .await
                .with_context(|| format!("CRD {name}"))?;
        }
        for object in self.rights.iter().chain(&self.property()) {
            // A kind that was defined a moment ago is served a moment later.
            apply_soon(local, object)
                .await
                .with_context(|| title(object))?;
        }
        Ok(())
    }

    fn property(&self) -> Option<Value> {
        let member = self.member.as_ref()?;
        Some(json!({
            "apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty",
            "metadata": { "name": labels::CLUSTER_ID_PROPERTY }, "spec": { "value": member },
        }))
    }
}

/// What an object is called in an error.
pub(super) fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

/// Why a CRD that is there stays as it is; `None` when ours may take its place.
fn keep(have: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> Option<String> {
    let names = |crd: &CustomResourceDefinition| -> BTreeSet<String> {
        let versions = crd.spec.versions.iter();
        versions.map(|version| version.name.clone()).collect()
    };
    let newer: Vec<String> = names(have).difference(&names(ours)).cloned().collect();
    let owners = have.managed_fields().iter().filter_map(owner);
    let owners: BTreeSet<&str> = owners.collect();
    let owners: Vec<&str> = owners.into_iter().collect();
    let owner = match owners[..] {
        [] => String::new(),
        _ => format!("it belongs to {}", owners.join(" and ")),
    };
    match (newer.is_empty(), owner.is_empty()) {
        (true, true) => None,
        (true, false) => Some(owner),
        (false, true) => Some(format!(
            "it has versions unknown here: {}",
            newer.join(", ")
        )),
        (false, false) => Some(format!(
            "{owner}, and has versions unknown here: {}",
            newer.join(", ")
        )),
    }
}

/// Who else set part of a definition. Its status is the API server's own.
fn owner(entry: &ManagedFieldsEntry) -> Option<&str> {
    let manager = entry.manager.as_deref()?;
    let is_spec = entry.subresource.as_deref().unwrap_or_default().is_empty();
    (is_spec && !OURS.contains(&manager)).then_some(manager)
}

async fn apply_soon(local: &Client, object: &Value) -> Result<(), kube::Error> {
    let deadline = tokio::time::Instant::now() + SERVED_WITHIN;
    loop {
        match apply_manifest(local, object).await {
            Err(kube::Error::Api(status))
                if matches!(status.code, 404 | 429) && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

const MANAGER: &str = "fairlead-join";
/// Field managers of ours, and the API server's own.
const OURS: &[&str] = &[MANAGER, "fairlead-up", "fairlead-hub", "kube-apiserver"];
const SERVED_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);
const AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(manager: &str, subresource: Option<&str>) -> CustomResourceDefinition {
        let mut crd = fairlead_api::crds::member_crds().remove(1);
        crd.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            subresource: subresource.map(str::to_owned),
            ..ManagedFieldsEntry::default()
        }]);
        crd
    }

    #[test]
    fn a_definition_of_ours_is_replaced() {
        let ours = definition(MANAGER, None);
        assert_eq!(keep(&ours, &ours), None);
        let judged = definition("some-controller", Some("status"));
        assert_eq!(keep(&judged, &ours), None);
    }

    #[test]
    fn a_foreign_or_newer_definition_stays_and_its_owner_is_named() {
        let ours = definition(MANAGER, None);
        let mut foreign = definition("helm", None);
        assert_eq!(keep(&foreign, &ours).unwrap(), "it belongs to helm");
        let mut version = foreign.spec.versions[0].clone();
        version.name = "v1".to_owned();
        foreign.spec.versions.push(version);
        let why = keep(&foreign, &ours).unwrap();
        assert_eq!(why, "it belongs to helm, and has versions unknown here: v1");
        foreign.metadata.managed_fields = None;
        let why = keep(&foreign, &ours).unwrap();
        assert_eq!(why, "it has versions unknown here: v1");
    }
}
