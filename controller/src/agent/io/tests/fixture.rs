//! A hub, a member with its own API server, and clients of the agent's port.

use std::{collections::BTreeSet, time::Duration};

use fairlead_api::{export::ExportRecord, labels, member::MemberCluster, proxy::ProxyGroup};
use fairlead_apiserver::ApiServer;
use fairlead_config::xds::{
    proto::{
        core::Node,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
    service::Client as XdsClient,
};
use k8s_openapi::{
    api::{
        authentication::v1::TokenRequest,
        core::v1::{Namespace, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    agent::{self, AgentConfig, AgentHandle, Downward, Uplink},
    board::Type,
    hub::{self, HubConfig, apply_manifest},
    manifests,
    testing::{export, group, port, slice},
    world::Settings,
};

/// A hub and member b.
pub(super) struct Fleet {
    hub_server: ApiServer,
    hub: Option<hub::Handle>,
    hub_addr: std::net::SocketAddr,
    pub(super) member: ApiServer,
    folder: tempfile::TempDir,
}

impl Fleet {
    pub(super) async fn start() -> Self {
        let hub_server = server().await;
        let client = hub_server.client();
        for manifest in crate::identity::of_hub() {
            apply_manifest(&client, &manifest).await.unwrap();
        }
        let account = manifests::user(crate::identity::HUB_ACCOUNT);
        let mut hub = hub::run(HubConfig {
            client: hub_server.client_as(&account, ["system:serviceaccounts"]),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            names: Vec::new(),
            tls: false,
            replica: "hub-0".into(),
            api_server: None,
            settings: Settings::default(),
            clock: fairlead_runtime::clock::Clock::system(),
        })
        .await
        .unwrap();
        hub.ready().await;
        let member = server().await;
        for manifest in manifests::agent(false) {
            apply_manifest(&member.client(), &manifest).await.unwrap();
        }
        let fleet = Self {
            hub_server,
            hub_addr: hub.addr,
            hub: Some(hub),
            member,
            folder: tempfile::tempdir().unwrap(),
        };
        fleet.join("a").await;
        fleet.join("b").await;
        fleet
    }

    async fn join(&self, name: &str) {
        let members: Api<MemberCluster> = Api::all(self.hub_server.client());
        let object = MemberCluster::new(name, Default::default());
        members
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        eventually("a prepared member", async || {
            let status = members.get(name).await.ok()?.status?;
            fairlead_api::conditions::is_true(&status.conditions, "ReadyToJoin").then_some(())
        })
        .await;
    }

    /// The agent of member b, with the rights of its manifests.
    pub(super) fn agent(&self) -> AgentHandle {
        let account = format!(
            "system:serviceaccount:fairlead-member-b:{}",
            labels::AGENT_ACCOUNT
        );
        let groups = ["system:serviceaccounts", "system:authenticated"];
        agent::run(AgentConfig {
            member: "b".into(),
            local: self
                .member
                .client_as(&manifests::user(manifests::AGENT_ACCOUNT), groups),
            hub: self.hub_server.client_as(&account, groups),
            properties_pods: false,
            version: "test".into(),
            clock: fairlead_runtime::clock::Clock::system(),
            downward: Some(Downward {
                uplink: Uplink {
                    server: format!("http://{}", self.hub_addr),
                    ..Uplink::default()
                },
                data: self.folder.path().to_owned(),
                listen: Some("127.0.0.1:0".parse().unwrap()),
            }),
        })
    }

    /// `shop/web` of a member, with an endpoint at each of these addresses.
    pub(super) async fn exports(&self, member: &str, ips: &[&str]) {
        let ports = [port("http", "TCP", 80)];
        let record = export(member, "web", 0, ports.to_vec());
        let namespace = labels::member_namespace(member);
        let client = || self.hub_server.client();
        let records: Api<ExportRecord> = Api::namespaced(client(), &namespace);
        records
            .create(&PostParams::default(), &record)
            .await
            .unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(client(), &namespace);
        let slice = slice(member, "web", "s", &ports, ips);
        slices.create(&PostParams::default(), &slice).await.unwrap();
    }

    pub(super) async fn withdraw(&self, member: &str) {
        let namespace = labels::member_namespace(member);
        let records: Api<ExportRecord> = Api::namespaced(self.hub_server.client(), &namespace);
        let name = labels::export_record_name("shop", "web");
        records
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// A proxy group of a member that serves every import.
    pub(super) async fn own_proxies(&self, member: &str, name: &str) {
        let groups: Api<ProxyGroup> = Api::all(self.hub_server.client());
        let mut object = group(name);
        object.spec.member = Some(member.into());
        object.spec.services = vec!["*/*".into()];
        groups
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// Makes a namespace in the member.
    pub(super) async fn namespace(&self, name: &str) {
        let namespaces = Api::<Namespace>::all(self.member.client());
        let object: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        let made = namespaces.create(&PostParams::default(), &object).await;
        assert!(!matches!(made, Err(error) if !error.to_string().contains("already exists")));
    }

    pub(super) async fn proxy_token(&self, group: &str, audience: &str) -> String {
        let account = crate::identity::proxy_subject(group);
        self.token_of(labels::SYSTEM_NAMESPACE, &account, audience)
            .await
    }

    /// A token of an account of the member, which is made when missing.
    pub(super) async fn token_of(&self, namespace: &str, account: &str, audience: &str) -> String {
        self.namespace(namespace).await;
        let manifest = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": namespace },
        });
        apply_manifest(&self.member.client(), &manifest)
            .await
            .unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(self.member.client(), namespace);
        let request: TokenRequest = serde_json::from_value(json!({
            "spec": { "audiences": [audience], "expirationSeconds": 3600 },
        }))
        .unwrap();
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .unwrap();
        answer.status.unwrap().token.unwrap()
    }

    /// Waits until what came down is on disk, with a cluster in it.
    pub(super) async fn saved(&self) {
        let path = self.folder.path().join("received.bin");
        eventually("the state on disk", async || {
            let bytes = std::fs::read(&path).ok()?;
            let resources = fairlead_config::xds::saved::decode(&bytes).ok()?;
            let mut urls = resources.iter().map(|(url, _)| url.as_str());
            urls.any(|url| url == Type::Cluster.url()).then_some(())
        })
        .await;
    }

    /// The hub goes away, with its API server.
    pub(super) async fn hub_away(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.stop().await;
        }
        self.hub_server.shutdown().await;
    }

    pub(super) async fn stop(mut self) {
        if let Some(hub) = self.hub.take() {
            hub.stop().await;
        }
    }
}

/// An API server with all CRDs.
async fn server() -> ApiServer {
    let server = ApiServer::builder().build().await.unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(server.client());
    for crd in fairlead_api::crds() {
        crds.create(&PostParams::default(), &crd).await.unwrap();
    }
    for crd in fairlead_api::crds() {
        let name = crd.name_any();
        eventually("an established CRD", async || {
            let conditions = crds.get(&name).await.ok()?.status?.conditions?;
            let mut all = conditions.iter();
            all.any(|one| one.type_ == "Established" && one.status == "True")
                .then_some(())
        })
        .await;
    }
    server
}

/// A proxy of the member, as far as its stream goes.
pub(super) struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    pub(super) clusters: BTreeSet<String>,
    pub(super) answered: bool,
}

impl Proxy {
    pub(super) async fn open(addr: std::net::SocketAddr, token: &str) -> Result<Self, Status> {
        let (requests, taken) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(taken));
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let first = DeltaDiscoveryRequest {
            node: Some(Node {
                id: "proxy-0".into(),
                ..Node::default()
            }),
            type_url: Type::Cluster.url().into(),
            resource_names_subscribe: vec!["*".into(), "none".into()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let channel = Channel::from_shared(format!("http://{addr}")).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut client: XdsClient<Channel> = XdsClient::new(channel);
        let answers = client.delta_aggregated_resources(request).await?;
        Ok(Self {
            requests,
            answers: answers.into_inner(),
            clusters: BTreeSet::new(),
            answered: false,
        })
    }

    /// Why a stream is refused, at once or after its first request.
    pub(super) async fn refused(addr: std::net::SocketAddr, token: &str) -> Status {
        match Self::open(addr, token).await {
            Err(status) => status,
            Ok(mut proxy) => {
                let next = tokio::time::timeout(PATIENCE, proxy.answers.message());
                next.await.expect("an answer").expect_err("a refusal")
            }
        }
    }

    /// Takes answers in until it is so.
    pub(super) async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            let next = tokio::time::timeout(PATIENCE, self.answers.message());
            let response = next.await.expect("an answer comes").unwrap().unwrap();
            self.answered = true;
            let named = response.resources.iter().map(|one| one.name.clone());
            self.clusters.extend(named);
            for gone in &response.removed_resources {
                self.clusters.remove(gone);
            }
            let answer = DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            };
            self.requests.send(answer).await.unwrap();
        }
    }
}

/// A value that should come: on a busy machine, too.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} did not come"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
