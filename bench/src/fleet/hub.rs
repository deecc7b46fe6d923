//! The hub of the fleet, with its own identity and rights.

use std::net::SocketAddr;

use fairlead_api::{labels, member::MemberCluster};
use fairlead_apiserver::ApiServer;
use fairlead_controller::{
    hub::{self, HubConfig, apply_manifest},
    identity,
    world::Settings,
};
use fairlead_runtime::clock::Clock;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt, api::PostParams};
use serde_json::json;

use super::Options;

/// A running hub.
pub(crate) struct Hub {
    server: ApiServer,
    handle: hub::Handle,
}

impl Hub {
    pub(crate) async fn start(options: &Options, clock: &Clock) -> anyhow::Result<Self> {
        let server = ApiServer::builder().build().await?;
        let client = server.client();
        install(&client, |_| true).await?;
        for manifest in identity::of_hub() {
            apply_manifest(&client, &manifest).await?;
        }
        let group = json!({
            "apiVersion": "fairlead.dev/v1alpha1",
            "kind": "ProxyGroup",
            "metadata": { "name": "edge" },
            "spec": {
                "addresses": ["192.0.2.1"],
                "services": ["*/*"],
                "portRange": { "first": 20000, "last": 20000 + options.services },
            },
        });
        apply_manifest(&client, &group).await?;
        let account = "system:serviceaccount:fairlead-system:fairlead-hub";
        let handle = hub::run(HubConfig {
            client: server.client_as(account, ["system:serviceaccounts"]),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            names: Vec::new(),
            tls: false,
            replica: "bench".to_owned(),
            api_server: None,
            settings: Settings::default(),
            clock: clock.clone(),
        })
        .await?;
        Ok(Self { server, handle })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.handle.addr
    }

    /// Makes a member and waits until it may write.
    pub(crate) async fn admit(&self, name: &str) -> anyhow::Result<Client> {
        let members: Api<MemberCluster> = Api::all(self.server.client());
        let object = MemberCluster::new(name, Default::default());
        members.create(&PostParams::default(), &object).await?;
        loop {
            let status = members.get(name).await?.status.unwrap_or_default();
            if fairlead_api::conditions::is_true(&status.conditions, "ReadyToJoin") {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let namespace = labels::member_namespace(name);
        let account = format!(
            "system:serviceaccount:{namespace}:{}",
            labels::AGENT_ACCOUNT
        );
        Ok(self
            .server
            .client_as(&account, ["system:serviceaccounts", "system:authenticated"]))
    }

    /// Bytes told to proxies so far.
    pub(crate) fn sent_bytes(&self) -> f64 {
        self.metric("fairlead_hub_sent_bytes_total{peer=\"proxy\"} ")
    }

    /// Mean seconds of a plan.
    pub(crate) fn plan_seconds(&self) -> f64 {
        let sum = self.metric("fairlead_hub_plan_seconds_sum ");
        sum / self.metric("fairlead_hub_plan_seconds_count ").max(1.0)
    }

    fn metric(&self, name: &str) -> f64 {
        let all = self.handle.metrics.render();
        let line = all.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|text| text.trim().parse().ok());
        value.unwrap_or_default()
    }

    pub(crate) async fn stop(self) {
        self.handle.stop().await;
        self.server.shutdown().await;
    }
}

/// Installs our kinds, and waits until they are served.
pub(crate) async fn install(client: &Client, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in fairlead_api::crds() {
        let name = crd.name_any();
        if !wanted(&name) {
            continue;
        }
        api.create(&PostParams::default(), &crd).await?;
        loop {
            let status = api.get(&name).await?.status;
            let conditions = status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            let established = |one: &&k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition| {
                one.type_ == "Established" && one.status == "True"
            };
            if conditions.iter().any(|one| established(&one)) {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

const POLL: std::time::Duration = std::time::Duration::from_millis(5);
