//! A member of the fleet: its API server, its services, its agent.

use std::net::Ipv4Addr;

use fairlead_apiserver::{ApiServer, Controllers};
use fairlead_controller::{
    agent::{self, AgentConfig, AgentHandle},
    hub::apply_manifest,
    manifests,
};
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    Options,
    hub::{Hub, install},
};

/// A running member.
pub(crate) struct Member {
    number: usize,
    client: Client,
    slices: Vec<Mutex<EndpointSlice>>,
    _agent: AgentHandle,
    _server: ApiServer,
}

impl Member {
    pub(crate) async fn start(
        options: &Options,
        number: usize,
        hub: &Hub,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let server = ApiServer::builder()
            .controllers(Controllers::NONE)
            .build()
            .await?;
        let client = server.client();
        install(&client, |name| name.ends_with("multicluster.x-k8s.io")).await?;
        for manifest in manifests::agent(false) {
            apply_manifest(&client, &manifest).await?;
        }
        let shop =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
        apply_manifest(&client, &shop).await?;
        let mut slices = Vec::new();
        for service in 0..options.services {
            let made = furnish(&client, options, number, service).await?;
            slices.push(Mutex::new(made));
        }
        let name = format!("m{number}");
        let account = manifests::user(manifests::AGENT_ACCOUNT);
        let agent = agent::run(AgentConfig {
            member: name.clone(),
            local: server.client_as(&account, ["system:serviceaccounts", "system:authenticated"]),
            hub: hub.admit(&name).await?,
            properties_pods: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            downward: None,
            clock: clock.clone(),
        });
        Ok(Self {
            number,
            client,
            slices,
            _agent: agent,
            _server: server,
        })
    }

    /// An address that nobody has had.
    pub(crate) fn fresh_addr(&self, change: usize) -> Ipv4Addr {
        let change = u32::try_from(change).unwrap_or(u32::MAX);
        let number = u32::try_from(self.number).unwrap_or(u32::MAX);
        // 11.0.0.0/8 and on; the first ones are in 10.0.0.0/8.
        Ipv4Addr::from(0x0b00_0000 + change.wrapping_mul(65_536).wrapping_add(number))
    }

    /// The oldest endpoint of a service goes, this one comes; returns when that is acknowledged.
    pub(crate) async fn replace(&self, service: usize, ip: Ipv4Addr) -> anyhow::Result<()> {
        let mut slice = self.slices[service].lock().await;
        let endpoints = slice.endpoints.get_or_insert_default();
        endpoints.remove(0);
        endpoints.push(endpoint(ip));
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "shop");
        let name = slice.metadata.name.clone().unwrap_or_default();
        *slice = api.replace(&name, &PostParams::default(), &slice).await?;
        Ok(())
    }
}

async fn furnish(
    client: &Client,
    options: &Options,
    member: usize,
    service: usize,
) -> anyhow::Result<EndpointSlice> {
    let name = format!("s{service}");
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    apply_manifest(client, &object).await?;
    let object = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": name, "namespace": "shop" },
    });
    apply_manifest(client, &object).await?;
    let first = 0x0a00_0000 + u32::try_from(member * 256)?;
    let endpoints = (0..options.endpoints).map(|at| {
        let at = u32::try_from(at + 1).unwrap_or(0);
        endpoint(Ipv4Addr::from(first + at))
    });
    let mut slice = EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints.collect()),
        ports: Some(vec![EndpointPort {
            name: Some("http".to_owned()),
            protocol: Some("TCP".to_owned()),
            port: Some(8080),
            ..EndpointPort::default()
        }]),
        ..EndpointSlice::default()
    };
    slice.metadata.name = Some(format!("{name}-1"));
    slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name)].into());
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), "shop");
    Ok(api.create(&PostParams::default(), &slice).await?)
}

fn endpoint(ip: Ipv4Addr) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..EndpointConditions::default()
        }),
        ..Endpoint::default()
    }
}
