//! A hub, a member with its own API server, and clients of the agent's port.

use std::collections::BTreeSet;

use fairlead_api::{export::ExportRecord, labels, member::MemberCluster, proxy::ProxyGroup};
use fairlead_apiserver::{ApiServer, Builder};
use fairlead_config::xds::{
    proto::{
        core::Node,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        fairlead::ProxyState,
        load_stats::{LoadStatsRequest, LoadStatsResponse},
    },
    service::Client as XdsClient,
};
use fairlead_tests::wait;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authentication::v1::TokenRequest,
        core::v1::{ConfigMap, Namespace, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::{
    agent::{self, AgentConfig, AgentHandle, Credentials, Downward, INVITATION, Port, Uplink},
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
        Self::start_with(ApiServer::builder()).await
    }

    /// With a member of this kind.
    pub(super) async fn start_with(member: Builder) -> Self {
        let hub_server = server(ApiServer::builder()).await;
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
        let member = server(member).await;
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
                port: Some(Port {
                    addr: "127.0.0.1:0".parse().unwrap(),
                    names: Vec::new(),
                    publish: true,
                }),
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

    /// What pods are given to check the agent's port against.
    pub(super) async fn bundle(&self) -> String {
        let maps = Api::<ConfigMap>::namespaced(self.member.client(), labels::SYSTEM_NAMESPACE);
        eventually("the published bundle", async || {
            let map = maps.get(manifests::AGENT_ACCOUNT).await.ok()?;
            map.data?.get(manifests::BUNDLE_KEY).cloned()
        })
        .await
    }

    /// A channel to the agent's port, as a proxy's pod has it; by then the agent has been told its
    /// proxy group. Before, it refuses what it has been told nothing of.
    pub(super) async fn channel(&self, agent: &AgentHandle) -> Channel {
        let status = agent.status().unwrap();
        eventually("the member's proxy group at its agent", async || {
            status.shared.received.lock().group().map(drop)
        })
        .await;
        let addr = agent.proxies_addr().await.unwrap();
        let ca = Certificate::from_pem(self.bundle().await);
        let tls = ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("fairlead-agent.fairlead-system.svc");
        let endpoint = Channel::from_shared(format!("https://{addr}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// The member's API server, with the agent's rights.
    pub(super) fn agent_client(&self) -> Client {
        let groups = ["system:serviceaccounts", "system:authenticated"];
        self.member
            .client_as(&manifests::user(manifests::AGENT_ACCOUNT), groups)
    }

    /// The agent's Secret, as `fairlead join` makes it.
    pub(super) async fn invitation(&self, line: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": manifests::AGENT_ACCOUNT, "namespace": labels::SYSTEM_NAMESPACE },
            "stringData": { INVITATION: line },
        });
        apply_manifest(&self.member.client(), &secret)
            .await
            .unwrap();
    }

    pub(super) async fn own_proxies_gone(&self, name: &str) {
        let groups: Api<ProxyGroup> = Api::all(self.hub_client());
        groups.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// An annotated Deployment `shop/NAME` without a Service.
    pub(super) async fn annotated(&self, name: &str) {
        let labels = json!({ "app": name });
        let container = json!({
            "name": "c", "image": "i", "ports": [ { "containerPort": 80 } ],
        });
        let manifest = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": name, "namespace": "shop",
                "annotations": { "fairlead.dev/export": "true" },
            },
            "spec": {
                "replicas": 0, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
            },
        });
        apply_manifest(&self.member.client(), &manifest)
            .await
            .unwrap();
    }

    /// A pod `shop/NAME` on a node, which asks for so much CPU.
    pub(super) async fn pod(&self, name: &str, cpu: &str) {
        let container = json!({
            "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu } },
        });
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "nodeName": "n", "containers": [container] },
        });
        apply_manifest(&self.member.client(), &manifest)
            .await
            .unwrap();
    }

    pub(super) async fn annotation_gone(&self, name: &str) {
        let api = Api::<Deployment>::namespaced(self.member.client(), "shop");
        let patch = json!({ "metadata": { "annotations": { "fairlead.dev/export": null } } });
        let params = PatchParams::default();
        api.patch(name, &params, &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    /// No new sessions to a member.
    pub(super) async fn drain(&self, member: &str) {
        let members: Api<MemberCluster> = Api::all(self.hub_client());
        let claim = json!({ "spec": { "trafficClaims": [ { "owner": "user", "permille": 0 } ] } });
        let params = PatchParams::default();
        members
            .patch(member, &params, &Patch::Merge(&claim))
            .await
            .unwrap();
    }

    pub(super) fn hub_client(&self) -> Client {
        self.hub_server.client()
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
async fn server(builder: Builder) -> ApiServer {
    let server = builder.build().await.unwrap();
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
    /// It was told all there is: that a name which it asked for is not there comes last.
    pub(super) answered: bool,
}

impl Proxy {
    pub(super) async fn open(channel: Channel, token: &str) -> Result<Self, Status> {
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
    pub(super) async fn refused(channel: Channel, token: &str) -> Status {
        match Self::open(channel, token).await {
            Err(status) => status,
            Ok(mut proxy) => proxy.end().await,
        }
    }

    /// Takes whatever comes until the stream ends, and says why.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            let next = tokio::time::timeout(wait::PATIENCE, self.answers.message());
            match next.await.expect("an answer") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    }

    /// Takes answers in until it is so.
    pub(super) async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            let next = tokio::time::timeout(wait::PATIENCE, self.answers.message());
            let response = next.await.expect("an answer comes").unwrap().unwrap();
            self.answered = !response.removed_resources.is_empty();
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

/// A stream of reports of proxy-0, opened with an empty one.
pub(super) async fn reports(
    channel: Channel,
    token: &str,
) -> (mpsc::Sender<LoadStatsRequest>, Streaming<LoadStatsResponse>) {
    let (reports, taken) = mpsc::channel(16);
    let first = LoadStatsRequest {
        node: Some(Node {
            id: "proxy-0".into(),
            ..Node::default()
        }),
        ..LoadStatsRequest::default()
    };
    reports.send(first).await.unwrap();
    let mut request = tonic::Request::new(ReceiverStream::new(taken));
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let answers = XdsClient::new(channel).stream_load_stats(request).await;
    (reports, answers.unwrap().into_inner())
}

/// A report of this many sessions.
pub(super) fn sessions(number: u64) -> LoadStatsRequest {
    LoadStatsRequest {
        proxy: Some(ProxyState {
            version: "test".into(),
            sessions: number,
            ..ProxyState::default()
        }),
        ..LoadStatsRequest::default()
    }
}

/// A standing in a folder, as a join leaves it.
pub(super) async fn standing(folder: &std::path::Path) -> Credentials {
    for name in ["hub", "member", "identity.pem", "bundle.pem", "api-server"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
    Credentials::open(folder).await.unwrap().unwrap()
}

/// A value that should come: on a busy machine, too.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = wait::until(what, async || Ok(look().await.ok_or("nothing")));
    found.await.unwrap()
}
