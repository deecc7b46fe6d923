//! What is put into the API servers of the fleet.

use std::net::Ipv4Addr;

use anyhow::Context;
use fairlead_controller::{hub::apply_manifest, manifests};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{START_PATIENCE, samples::Samples};

/// The sample service.
pub(super) const NAMESPACE: &str = "demo";
pub(super) const SERVICE: &str = "echo";
/// The proxy group of the one proxy.
pub(super) const GROUP: &str = "edge";

/// Installs all CRDs and waits until their kinds are served.
pub(super) async fn install_crds(client: &Client) -> anyhow::Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let params = PatchParams::apply("fairlead-up").force();
    let crds = fairlead_api::crds();
    for crd in &crds {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        api.patch(name, &params, &Patch::Apply(crd))
            .await
            .with_context(|| format!("CRD {name}"))?;
    }
    let deadline = Instant::now() + START_PATIENCE;
    for crd in &crds {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        loop {
            let seen = api.get(name).await?;
            let conditions = seen
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            if conditions
                .iter()
                .any(|one| one.type_ == "Established" && one.status == "True")
            {
                break;
            }
            anyhow::ensure!(Instant::now() < deadline, "CRD {name} is not established");
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// Puts objects, in order.
pub(super) async fn put_all(client: &Client, objects: &[Value]) -> anyhow::Result<()> {
    for object in objects {
        apply_manifest(client, object)
            .await
            .with_context(|| format!("{} {}", object["kind"], object["metadata"]["name"]))?;
    }
    Ok(())
}

/// The proxy group and the service with its frontends.
pub(super) fn of_hub(address: Ipv4Addr, port: u16) -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
        }),
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "ProxyGroup",
            "metadata": { "name": GROUP },
            "spec": {
                "addresses": [address.to_string()],
                "portRange": { "first": port, "last": port.saturating_add(99) },
            },
        }),
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "MultiClusterService",
            "metadata": { "name": SERVICE, "namespace": NAMESPACE },
            "spec": {
                "serviceImport": { "name": SERVICE },
                "frontends": [ { "proxyGroup": GROUP } ],
            },
        }),
    ]
}

/// The agent's rights and the exported sample service of a member.
pub(super) fn of_member(samples: &Samples) -> Vec<Value> {
    let mut objects = manifests::agent(false);
    objects.push(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    }));
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE },
        "spec": { "ports": [
            { "name": "line", "port": 7000, "targetPort": samples.tcp_port, "protocol": "TCP" },
            { "name": "datagram", "port": 7000, "targetPort": samples.udp_port, "protocol": "UDP" },
        ] },
    }));
    let endpoints: Vec<Value> = samples
        .addresses
        .iter()
        .map(|ip| {
            let conditions = json!({ "ready": true, "serving": true, "terminating": false });
            json!({ "addresses": [ip.to_string()], "conditions": conditions })
        })
        .collect();
    objects.push(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": SERVICE, "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": SERVICE },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [
            { "name": "line", "port": samples.tcp_port, "protocol": "TCP" },
            { "name": "datagram", "port": samples.udp_port, "protocol": "UDP" },
        ],
    }));
    objects.push(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE },
    }));
    objects
}

/// Between looks at something that is coming up.
pub(super) const POLL: std::time::Duration = std::time::Duration::from_millis(10);
