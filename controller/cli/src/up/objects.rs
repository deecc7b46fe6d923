//! What is put into the API servers of the fleet.

use std::net::Ipv4Addr;

use anyhow::Context;
use fairlead_controller::{hub::apply_manifest, manifests};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use super::{block::Block, samples::Samples, wait};

/// The sample service.
pub(super) const NAMESPACE: &str = "demo";
pub(super) const SERVICE: &str = "echo";
/// The proxy group of the one proxy.
pub(super) const GROUP: &str = "edge";

/// A service by its name in all clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceName {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ServiceName {
    pub(super) fn sample() -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            name: SERVICE.to_owned(),
        }
    }

    /// Reads `NAMESPACE/NAME`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("write NAMESPACE/NAME".to_owned()),
        }
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// Installs all CRDs and waits until their kinds are served.
pub(super) async fn install_crds(client: &Client) -> anyhow::Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let params = PatchParams::apply(MANAGER).force();
    let crds = fairlead_api::crds();
    for crd in &crds {
        let name = crd.name_any();
        api.patch(&name, &params, &Patch::Apply(crd))
            .await
            .with_context(|| format!("CRD {name}"))?;
    }
    for crd in &crds {
        let name = crd.name_any();
        wait::until(&format!("CRD {name} to be established"), async || {
            let seen = api.get(&name).await?;
            let status = seen.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let established = conditions
                .iter()
                .any(|one| one.type_ == "Established" && one.status == "True");
            Ok(established
                .then_some(())
                .ok_or_else(|| format!("{conditions:?}")))
        })
        .await?;
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

/// The proxy group, and a MultiClusterService for each service that has none: what a person made of
/// it since stays.
pub(super) async fn put_hub(
    client: &Client,
    services: &[ServiceName],
    address: Ipv4Addr,
    block: &Block,
) -> anyhow::Result<()> {
    let ports = block.frontends();
    let group = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ProxyGroup",
        "metadata": { "name": GROUP },
        "spec": {
            "addresses": [address.to_string()],
            "portRange": { "first": ports.start(), "last": ports.end() },
        },
    });
    put_all(client, &[group]).await?;
    for service in services {
        put_missing(client, &namespace(service)).await?;
        let object = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "MultiClusterService",
            "metadata": { "name": service.name, "namespace": service.namespace },
            "spec": {
                "serviceImport": { "name": service.name },
                "frontends": [ { "proxyGroup": GROUP } ],
            },
        });
        put_missing(client, &object).await?;
    }
    Ok(())
}

/// What a member's agent needs; in a sample member also the service and where its servers are now.
pub(super) async fn put_member(
    client: &Client,
    samples: Option<&Samples>,
    exports: &[ServiceName],
) -> anyhow::Result<()> {
    put_all(client, &manifests::agent(false)).await?;
    for service in exports {
        if let Some(samples) = samples {
            put_missing(client, &namespace(service)).await?;
            put_all(client, &of_samples(service, samples)).await?;
        }
        let export = json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": { "name": service.name, "namespace": service.namespace },
        });
        put_missing(client, &export)
            .await
            .with_context(|| format!("{service} cannot be exported"))?;
    }
    Ok(())
}

/// Makes an object unless there is one of that name.
async fn put_missing(client: &Client, object: &Value) -> anyhow::Result<()> {
    let made: DynamicObject = serde_json::from_value(object.clone())?;
    let types = made.types.clone().unwrap_or_default();
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let api: Api<DynamicObject> = match made.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = made.name_any();
    if api.get_opt(&name).await?.is_none() {
        let params = PatchParams::apply(MANAGER);
        api.patch(&name, &params, &Patch::Apply(object))
            .await
            .with_context(|| format!("{} {name}", types.kind))?;
    }
    Ok(())
}

fn namespace(service: &ServiceName) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": service.namespace },
    })
}

fn of_samples(service: &ServiceName, samples: &Samples) -> [Value; 2] {
    let ServiceName { namespace, name } = service;
    let endpoints: Vec<Value> = samples
        .addresses
        .iter()
        .map(|ip| {
            let conditions = json!({ "ready": true, "serving": true, "terminating": false });
            json!({ "addresses": [ip.to_string()], "conditions": conditions })
        })
        .collect();
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace },
            "spec": { "ports": [
                { "name": "line", "port": 7000, "targetPort": samples.port, "protocol": "TCP" },
                { "name": "datagram", "port": 7000, "targetPort": samples.port, "protocol": "UDP" },
            ] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [
                { "name": "line", "port": samples.port, "protocol": "TCP" },
                { "name": "datagram", "port": samples.port, "protocol": "UDP" },
            ],
        }),
    ]
}

/// The field manager of what is put here.
const MANAGER: &str = "fairlead-up";
