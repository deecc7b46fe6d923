//! What comes down into the members: ServiceImports, derived Services and their slices.

use std::collections::BTreeSet;

use fairlead_api::mcs::v1beta1::ServiceImport;
use fairlead_tests::{fleet::Fleet, wait};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{Stage, same};

/// Also with Kubernetes' own controllers beside the agent: none of them takes its objects for its own.
pub(crate) async fn an_import_is_served_in_every_member(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let pods = all_pods(&fleet).await?;
    for member in &fleet.ready.members {
        served(&fleet, &member.name, &pods, None).await?;
    }
    for member in &fleet.ready.members {
        let services = Api::<Service>::namespaced(fleet.member(&member.name).await?, "demo");
        let near = json!({ "spec": { "trafficDistribution": "PreferClose" } });
        let patch = Patch::Merge(&near);
        let params = PatchParams::default();
        services.patch("echo", &params, &patch).await?;
    }
    for member in &fleet.ready.members {
        served(&fleet, &member.name, &pods, Some("PreferClose")).await?;
    }
    // What somebody breaks is put right.
    let client = fleet.member("member-2").await?;
    let imports = Api::<ServiceImport>::namespaced(client.clone(), "demo");
    let edit = json!({ "spec": { "ips": ["192.0.2.7"] } });
    let params = PatchParams::default();
    imports.patch("echo", &params, &Patch::Merge(&edit)).await?;
    let all = slices(&client).await?;
    let api = Api::<EndpointSlice>::namespaced(client.clone(), "demo");
    let first = all.first().map(ResourceExt::name_any).unwrap_or_default();
    api.delete(&first, &DeleteParams::default()).await?;
    served(&fleet, "member-2", &pods, Some("PreferClose")).await?;
    let services = Api::<Service>::namespaced(client.clone(), "demo");
    let derived = derived(&client).await?.unwrap_or_default().name_any();
    services.delete(&derived, &DeleteParams::default()).await?;
    served(&fleet, "member-2", &pods, Some("PreferClose")).await?;
    for member in &fleet.ready.members {
        let services = Api::<Service>::namespaced(fleet.member(&member.name).await?, "demo");
        let far = json!({ "spec": { "trafficDistribution": null } });
        let params = PatchParams::default();
        services.patch("echo", &params, &Patch::Merge(&far)).await?;
    }
    Ok(())
}

pub(crate) async fn a_namespace_that_goes_takes_its_exports_and_imports_along(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let client = fleet.member("member-1").await?;
    let mut pods = all_pods(&fleet).await?;
    served(&fleet, "member-1", &pods, None).await?;
    let own = own_pods(&client).await?;
    // Where there is no kubelet, nobody else ends pods.
    let running = Api::<Pod>::namespaced(client.clone(), "demo");
    let now = DeleteParams::default().grace_period(0);
    running
        .delete_collection(&now, &ListParams::default())
        .await?;
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.delete("demo", &DeleteParams::default()).await?;
    pods.retain(|pod| !own.contains(pod));
    served(&fleet, "member-2", &pods, None).await?;
    wait::until("the namespace to be gone", async || {
        let there = namespaces.get_opt("demo").await?;
        Ok(there.map_or(Ok(()), Err))
    })
    .await?;
    // Made again, it has the others' exports at once.
    let demo: Namespace = serde_json::from_value(json!({ "metadata": { "name": "demo" } }))?;
    namespaces.create(&PostParams::default(), &demo).await?;
    served(&fleet, "member-1", &pods, None).await
}

/// Waits until a member serves `demo/echo` with these pods: import, Service and slices agree.
async fn served(
    fleet: &Fleet,
    member: &str,
    pods: &BTreeSet<String>,
    near: Option<&str>,
) -> anyhow::Result<()> {
    let client = fleet.member(member).await?;
    let imports = Api::<ServiceImport>::namespaced(client.clone(), "demo");
    let what = format!("{member} to serve {pods:?}, {near:?}");
    let (import, service) = wait::until(&what, async || {
        let import = imports.get_opt("echo").await?;
        let service = derived(&client).await?;
        let slices = slices(&client).await?;
        let addresses = addresses(&slices);
        let (Some(import), Some(service)) = (import, service) else {
            return Ok(Err("no import, or no Service".to_owned()));
        };
        let said = import.status.clone().unwrap_or_default().conditions;
        let ready = said
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        let spec = service.spec.clone().unwrap_or_default();
        let ips = spec.cluster_ips.clone().unwrap_or_default();
        let whole = ready
            && import.spec.ips == ips
            && addresses == *pods
            && spec.traffic_distribution.as_deref() == near
            && import.spec.traffic_distribution.as_deref() == near;
        let seen = format!("{addresses:?}, {:?}, {spec:?}, {said:?}", import.spec);
        Ok(if whole {
            Ok((import, service))
        } else {
            Err(seen)
        })
    })
    .await?;
    same!(import.spec.ips.len(), 1);
    same!(import.spec.ports.len(), 2);
    let spec = service.spec.clone().unwrap_or_default();
    same!(spec.ports.unwrap_or_default().len(), 2);
    same!(spec.selector.unwrap_or_default().len(), 0);
    same!(
        service.owner_references()[0].uid,
        import.uid().unwrap_or_default()
    );
    Ok(())
}

/// The pods of all members, by their own slices.
async fn all_pods(fleet: &Fleet) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for member in &fleet.ready.members {
        all.extend(own_pods(&fleet.member(&member.name).await?).await?);
    }
    Ok(all)
}

async fn own_pods(client: &Client) -> anyhow::Result<BTreeSet<String>> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), "demo");
    let own = ListParams::default().labels("kubernetes.io/service-name=echo");
    Ok(addresses(&api.list(&own).await?.items))
}

/// The agent's.
async fn slices(client: &Client) -> anyhow::Result<Vec<EndpointSlice>> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), "demo");
    Ok(api.list(&derived_from_echo()).await?.items)
}

async fn derived(client: &Client) -> anyhow::Result<Option<Service>> {
    let api = Api::<Service>::namespaced(client.clone(), "demo");
    Ok(api.list(&derived_from_echo()).await?.items.pop())
}

fn derived_from_echo() -> ListParams {
    ListParams::default().labels("multicluster.kubernetes.io/service-name=echo")
}

fn addresses(slices: &[EndpointSlice]) -> BTreeSet<String> {
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    endpoints
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect()
}
