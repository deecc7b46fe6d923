mod epoch;
mod identity;
mod lifetimes;
mod reports;

use std::collections::BTreeMap;

use fairlead_api::{
    export::ExportRecord,
    mcs::ServiceImport,
    member::MemberCluster,
    proxy::ProxyGroup,
    service::{MultiClusterService, MultiClusterServiceStatus},
};
use fairlead_apiserver::ApiServer;
use fairlead_config::{
    snapshot::Snapshot,
    xds::{
        decoder::Decoder,
        proto::{
            core::{self, Node},
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
            fairlead::Import,
            unpack,
        },
        service::Client as XdsClient,
    },
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease, core::v1::Namespace, discovery::v1::EndpointSlice,
        events::v1::Event,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::*;
use crate::{
    board::Type,
    testing::{export, group, port, service, slice},
};

/// What takes longer has failed, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < patience {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

/// Waits until an event tells of an object.
async fn told(world: &World, about: &str, reason: &str, words: &str) {
    let events: Api<Event> = Api::all(world.client.clone());
    eventually(&format!("an event {reason} of {about}"), async || {
        let all = events.list(&ListParams::default()).await.ok()?.items;
        let mut all = all.into_iter();
        all.find(|one| {
            let regarding = one.regarding.as_ref();
            regarding.and_then(|of| of.name.as_deref()) == Some(about)
                && one.reason.as_deref() == Some(reason)
                && one.note.as_deref().unwrap_or_default().contains(words)
        })
    })
    .await;
}

struct World {
    server: ApiServer,
    client: Client,
    hub: Handle,
}

async fn world(tls: bool) -> World {
    let server = store().await;
    let hub = start_on(&server, tls, Clock::system()).await;
    World {
        client: server.client(),
        server,
        hub,
    }
}

/// An API server with what a hub needs.
async fn store() -> ApiServer {
    let server = ApiServer::builder().build().await.unwrap();
    let client = server.client();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in fairlead_api::crds() {
        crds.create(&PostParams::default(), &crd).await.unwrap();
    }
    for crd in fairlead_api::crds() {
        let name = crd.name_any();
        eventually("an established CRD", async || {
            let crd = crds.get(&name).await.ok()?;
            let conditions = crd.status?.conditions?;
            let established = |one: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition| {
                one.type_ == "Established" && one.status == "True"
            };
            conditions.iter().any(established).then_some(())
        })
        .await;
    }
    for manifest in crate::identity::of_hub() {
        apply_manifest(&client, &manifest).await.unwrap();
    }
    server
}

async fn start_on(server: &ApiServer, tls: bool, clock: Clock) -> Handle {
    let account = "system:serviceaccount:fairlead-system:fairlead-hub";
    let mut hub = run(HubConfig {
        client: server.client_as(account, ["system:serviceaccounts"]),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        names: vec!["127.0.0.1".into()],
        tls,
        replica: "hub-0".into(),
        api_server: None,
        settings: Settings::default(),
        clock,
    })
    .await
    .unwrap();
    hub.ready().await;
    hub
}

impl World {
    async fn member(&self, name: &str) {
        let api: Api<MemberCluster> = Api::all(self.client.clone());
        let object = MemberCluster::new(name, Default::default());
        api.create(&PostParams::default(), &object).await.unwrap();
        eventually("a prepared member", async || {
            let status = api.get(name).await.ok()?.status?;
            fairlead_api::conditions::is_true(&status.conditions, "ReadyToJoin").then_some(())
        })
        .await;
    }

    /// `shop/web` of a member, with an endpoint at each of these addresses.
    async fn exports(&self, member: &str, ips: &[&str]) {
        let ports = [port("http", "TCP", 80)];
        let record = export(member, "web", 0, ports.to_vec());
        let namespace = labels::member_namespace(member);
        let records: Api<ExportRecord> = Api::namespaced(self.client.clone(), &namespace);
        records
            .create(&PostParams::default(), &record)
            .await
            .unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
        let slice = slice(member, "web", "s", &ports, ips);
        slices.create(&PostParams::default(), &slice).await.unwrap();
    }

    async fn serves(&self) {
        let groups: Api<ProxyGroup> = Api::all(self.client.clone());
        groups
            .create(&PostParams::default(), &group("edge"))
            .await
            .unwrap();
        self.policy().await;
    }

    async fn policy(&self) {
        let services: Api<MultiClusterService> = Api::namespaced(self.client.clone(), "shop");
        let object = service("web", "web", "edge");
        eventually("namespace shop", async || {
            services.create(&PostParams::default(), &object).await.ok()
        })
        .await;
    }

    async fn status(&self) -> MultiClusterServiceStatus {
        let services: Api<MultiClusterService> = Api::namespaced(self.client.clone(), "shop");
        services
            .get("web")
            .await
            .unwrap()
            .status
            .unwrap_or_default()
    }

    async fn plain(&self, cluster: &str) -> Proxy {
        let channel = Channel::from_shared(format!("http://{}", self.hub.addr)).unwrap();
        Proxy::open(channel.connect().await.unwrap(), cluster, None)
            .await
            .unwrap()
    }
}

/// A client of the hub that keeps what it is told.
struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    decoder: Decoder,
    snapshot: Snapshot,
    imports: BTreeMap<String, Import>,
}

impl Proxy {
    async fn open(
        channel: Channel,
        cluster: &str,
        token: Option<&str>,
    ) -> Result<Self, tonic::Status> {
        let (requests, taken) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(taken));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        for of in Type::ALL {
            let first = DeltaDiscoveryRequest {
                node: Some(Node {
                    id: "proxy-0".into(),
                    cluster: cluster.into(),
                    ..Default::default()
                }),
                type_url: of.url().into(),
                ..Default::default()
            };
            requests.send(first).await.unwrap();
        }
        let mut client = XdsClient::new(channel);
        let answers = client
            .delta_aggregated_resources(request)
            .await?
            .into_inner();
        Ok(Self {
            requests,
            answers,
            decoder: Decoder::default(),
            snapshot: Snapshot::default(),
            imports: BTreeMap::new(),
        })
    }

    /// Takes one response in and answers it: with a refusal, if one is given.
    async fn take(&mut self, refusal: Option<&str>) {
        let next = tokio::time::timeout(PATIENCE, self.answers.message());
        let response = next.await.expect("a response comes").unwrap().unwrap();
        if response.type_url == Type::Import.url() {
            for resource in &response.resources {
                let import = unpack::<Import>(resource.resource.as_ref().unwrap()).unwrap();
                self.imports.insert(resource.name.clone(), import);
            }
            for gone in &response.removed_resources {
                self.imports.remove(gone);
            }
        } else {
            let decoded = self.decoder.decode(
                &response.type_url,
                &response.resources,
                &response.removed_resources,
            );
            assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
            let (_, problems) = self.snapshot.apply(decoded.delta);
            assert!(problems.is_empty(), "{problems:?}");
        }
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: refusal.map(|message| core::Status {
                message: message.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.requests.send(answer).await.unwrap();
    }

    async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            self.take(None).await;
        }
    }

    fn endpoints(&self) -> Vec<String> {
        let rows = self.snapshot.endpoints.values().flat_map(|row| row.keys());
        rows.map(|key| format!("{} {}", key.member, key.target))
            .collect()
    }
}

#[tokio::test]
async fn exports_of_members_reach_a_proxy_and_its_status_over_a_plain_stream() {
    let world = world(false).await;
    world.member("a").await;
    world.member("b").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.exports("b", &["10.0.1.1", "10.0.1.2"]).await;
    world.serves().await;
    let mut proxy = world.plain("edge").await;
    proxy
        .until(|proxy| proxy.endpoints().len() == 3 && proxy.snapshot.frontends.len() == 1)
        .await;
    let imports: Api<ServiceImport> = Api::namespaced(world.client.clone(), "shop");
    let import = eventually("the import's status", async || {
        imports
            .get("web")
            .await
            .ok()
            .filter(|one| one.status.is_some())
    })
    .await;
    assert_eq!(import.status.unwrap().clusters.len(), 2);
    let status = eventually("the frontend in status", async || {
        let status = world.status().await;
        (!status.frontends.is_empty()).then_some(status)
    })
    .await;
    let frontend = proxy.snapshot.frontends.values().next().unwrap();
    assert_eq!(i32::from(*frontend.ports.start()), status.frontends[0].port);
    let groups: Api<ProxyGroup> = Api::all(world.client.clone());
    eventually("the proxy in sync", async || {
        let status = groups.get("edge").await.ok()?.status?;
        (status.in_sync == 1 && status.frontend_count == 1).then_some(())
    })
    .await;

    let records: Api<ExportRecord> =
        Api::namespaced(world.client.clone(), &labels::member_namespace("b"));
    let name = labels::export_record_name("shop", "web");
    records
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    proxy
        .until(|proxy| proxy.endpoints() == ["a 10.0.0.1:8080"])
        .await;
    world.hub.stop().await;
}

#[tokio::test]
async fn a_refused_update_names_proxy_and_reason_in_the_service_status() {
    let world = world(false).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.serves().await;
    let mut proxy = world.plain("edge").await;
    proxy
        .take(Some(
            "cluster shop/web:http: policy.balancer: is not known here",
        ))
        .await;
    let message = eventually("the refusal", async || {
        let status = world.status().await;
        let found = fairlead_api::conditions::find(&status.conditions, "Programmed")?;
        (found.status == "False").then(|| found.message.clone())
    })
    .await;
    assert!(
        message.contains("proxy-0") && message.contains("policy.balancer"),
        "{message}"
    );
    told(&world, "web", "Refused", "policy.balancer").await;
    // A listener is named after its address, and shows at the service behind it.
    while proxy.snapshot.frontends.is_empty() {
        proxy.take(None).await;
    }
    let frontend = proxy.snapshot.frontends.values().next().unwrap();
    let listener = format!("tcp/{}:{}", frontend.ip, frontend.ports.start());
    let mut other = world.plain("edge").await;
    let message = format!("listener {listener}: is new");
    while other.snapshot.frontends.is_empty() {
        other.take(Some(&message)).await;
    }
    eventually("the refused listener", async || {
        let status = world.status().await;
        let found = fairlead_api::conditions::find(&status.conditions, "Programmed")?;
        found.message.contains(&message).then_some(())
    })
    .await;
    world.hub.stop().await;
}

#[tokio::test]
async fn an_edited_import_is_put_back_and_an_event_says_who_what_and_what_to_do() {
    let world = world(false).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    let imports = Api::<ServiceImport>::namespaced(world.client.clone(), "shop");
    let made = eventually("the import", async || imports.get("web").await.ok()).await;
    let edit = json!({ "spec": { "ports": [{ "port": 99, "protocol": "TCP" }] } });
    let params = PatchParams {
        field_manager: Some("kubectl-edit".to_owned()),
        ..PatchParams::default()
    };
    let edited = imports.patch("web", &params, &Patch::Merge(&edit)).await;
    assert_ne!(edited.unwrap().spec.ports, made.spec.ports);
    eventually("the edit put back", async || {
        let now = imports.get("web").await.ok()?;
        (now.spec.ports == made.spec.ports).then_some(())
    })
    .await;
    told(
        &world,
        "web",
        "EditUndone",
        "changed by kubectl-edit in spec.ports",
    )
    .await;
    world.hub.stop().await;
}

#[tokio::test]
async fn an_agent_gets_imports_and_loses_its_stream_when_its_member_is_taken_out() {
    let world = world(false).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    let mut agent = world.plain("member/a").await;
    let import = |agent: &Proxy| agent.imports.get("shop/web").cloned();
    let full = |agent: &Proxy| import(agent).is_some_and(|one| !one.endpoints.is_empty());
    agent.until(full).await;
    assert_eq!(agent.imports["shop/web"].endpoints[0].ip, "10.0.0.1");
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    members.delete("a", &DeleteParams::default()).await.unwrap();
    let ended = loop {
        match agent.answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), tonic::Code::PermissionDenied);
    eventually("the member to be gone with its namespace", async || {
        let gone = members.get_opt("a").await.ok()?.is_none();
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let empty = namespaces
            .get_opt("fairlead-member-a")
            .await
            .ok()?
            .is_none();
        (gone && empty).then_some(())
    })
    .await;
    let imports: Api<ServiceImport> = Api::namespaced(world.client.clone(), "shop");
    eventually("the import to be gone", async || {
        imports.get_opt("web").await.ok()?.is_none().then_some(())
    })
    .await;
    world.hub.stop().await;
}

#[tokio::test]
async fn a_heartbeat_makes_a_member_joined_and_healthy() {
    let world = world(false).await;
    world.member("a").await;
    let namespace = labels::member_namespace("a");
    let agent = world.server.client_as(
        "system:serviceaccount:fairlead-member-a:agent",
        ["system:serviceaccounts", "system:authenticated"],
    );
    let leases: Api<Lease> = Api::namespaced(agent.clone(), &namespace);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": labels::HEARTBEAT_LEASE },
        "spec": { "holderIdentity": "agent", "renewTime": "2026-01-01T00:00:00.000000Z" },
    });
    let params = PatchParams::apply("agent").force();
    leases
        .patch(labels::HEARTBEAT_LEASE, &params, &Patch::Apply(&lease))
        .await
        .unwrap();
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    eventually("a healthy member", async || {
        let status = members.get("a").await.ok()?.status?;
        let conditions = &status.conditions;
        let both = ["Joined", "Healthy"];
        both.iter()
            .all(|kind| fairlead_api::conditions::is_true(conditions, kind))
            .then_some(())
    })
    .await;
    told(&world, "a", "Joined", "").await;
    let taint = json!({ "spec": { "taints": [ { "key": "old", "effect": "NoSchedule" } ] } });
    let params = PatchParams::default();
    members
        .patch("a", &params, &Patch::Merge(&taint))
        .await
        .unwrap();
    told(&world, "a", "TaintsChanged", "old=:NoSchedule").await;
    let elsewhere: Api<Lease> = Api::namespaced(agent, "fairlead-member-b");
    let refused = elsewhere.get("heartbeat").await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    world.hub.stop().await;
}

impl World {
    async fn prepared(&self, name: &str) {
        let members: Api<MemberCluster> = Api::all(self.client.clone());
        eventually("a prepared member", async || {
            let status = members.get(name).await.ok()?.status?;
            fairlead_api::conditions::is_true(&status.conditions, "ReadyToJoin").then_some(())
        })
        .await;
    }

    async fn tls_channel(&self) -> Channel {
        let ca = tonic::transport::Certificate::from_pem(self.hub.bundle().unwrap());
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("127.0.0.1");
        let channel = Channel::from_shared(format!("https://{}", self.hub.addr)).unwrap();
        channel.tls_config(tls).unwrap().connect().await.unwrap()
    }
}

#[tokio::test]
async fn two_replicas_serve_the_same_and_the_second_writes_when_the_first_stops() {
    let world = world(false).await;
    let account = "system:serviceaccount:fairlead-system:fairlead-hub";
    let mut second = run(HubConfig {
        client: world.server.client_as(account, ["system:serviceaccounts"]),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        names: Vec::new(),
        tls: false,
        replica: "hub-1".into(),
        api_server: None,
        settings: Settings::default(),
        clock: Clock::system(),
    })
    .await
    .unwrap();
    second.ready().await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.serves().await;
    assert!(world.hub.leads() && !second.leads());
    let first = world.hub.shared.board.clone();
    eventually("the same decisions", async || {
        let one = first.read().hash("edge")?;
        let other = second.shared.board.read().hash("edge")?;
        let served = !first.read().snapshot("edge").frontends.is_empty();
        (served && one == other).then_some(())
    })
    .await;
    world.hub.stop().await;
    eventually("a new leader", async || second.leads().then_some(())).await;
    let services: Api<MultiClusterService> = Api::namespaced(world.client.clone(), "shop");
    services
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let groups: Api<ProxyGroup> = Api::all(world.client.clone());
    eventually("the port to be given back", async || {
        let status = groups.get("edge").await.ok()?.status?;
        (status.frontend_count == 0).then_some(())
    })
    .await;
    second.stop().await;
}
