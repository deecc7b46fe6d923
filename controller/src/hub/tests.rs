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
    api::{coordination::v1::Lease, core::v1::Namespace, discovery::v1::EndpointSlice},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::*;
use crate::{
    board::Type,
    join::{self, Admission, JoinRequest, Tokens},
    testing::{export, group, port, service, slice},
};

/// A value that should come within ten seconds: far more than ever needed, so no test waits for
/// nothing.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

struct World {
    server: ApiServer,
    client: Client,
    hub: Handle,
}

async fn world(tls: bool) -> World {
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
    let account = "system:serviceaccount:fairlead-system:fairlead-hub";
    let mut hub = run(HubConfig {
        client: server.client_as(account, ["system:serviceaccounts"]),
        listen: "127.0.0.1:0".parse().unwrap(),
        names: vec!["127.0.0.1".into()],
        tls,
        replica: "hub-0".into(),
        api_server: None,
        settings: Settings::default(),
        clock: Clock::system(),
    })
    .await
    .unwrap();
    hub.ready().await;
    World {
        server,
        client,
        hub,
    }
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
        let next = tokio::time::timeout(Duration::from_secs(10), self.answers.message());
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
    let elsewhere: Api<Lease> = Api::namespaced(agent, "fairlead-member-b");
    let refused = elsewhere.get("heartbeat").await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    world.hub.stop().await;
}

fn request() -> (rcgen::KeyPair, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, request)
}

/// Posts to the hub, with a client certificate if one is given.
async fn post(
    hub: &Handle,
    path: &str,
    body: &serde_json::Value,
    identity: Option<(&str, &str)>,
) -> (u16, String) {
    use http_body_util::BodyExt;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let bundle = hub.bundle().unwrap();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    let socket = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
    let name = rustls::pki_types::ServerName::from(hub.addr.ip());
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post(path)
        .header("host", "hub")
        .body(body.to_string())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_member_joins_once_by_its_token_and_gets_tokens_for_its_certificate() {
    let world = world(true).await;
    let member = fairlead_config::name::MemberName::parse("a").unwrap();
    let clock = Clock::system();
    let token = join::io::make_token(&world.client, &clock, &member)
        .await
        .unwrap();
    world.prepared("a").await;
    let (key, csr) = request();
    let ask = |token: &str, uid: &str| {
        serde_json::to_value(JoinRequest {
            token: token.into(),
            request: csr.clone(),
            cluster_uid: uid.into(),
        })
        .unwrap()
    };
    let (status, body) = post(&world.hub, "/join", &ask(&token, "uid-1"), None).await;
    assert_eq!(status, 200, "{body}");
    let admission: Admission = serde_json::from_str(&body).unwrap();
    let (status, body) = post(&world.hub, "/join", &ask(&token, "uid-1"), None).await;
    assert_eq!(status, 401, "replayed: {body}");
    eventually("an event about the replay", async || {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(world.client.clone());
        let all = events.list(&Default::default()).await.ok()?;
        let told = |event: &k8s_openapi::api::events::v1::Event| {
            let about = event.regarding.as_ref().and_then(|one| one.name.as_deref());
            let note = event.note.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("IdentityRefused")
                && about == Some("a")
                && note.contains("used already")
        };
        all.iter().any(told).then_some(())
    })
    .await;
    let second = join::io::make_token(&world.client, &clock, &member)
        .await
        .unwrap();
    let (status, body) = post(&world.hub, "/join", &ask(&second, "uid-2"), None).await;
    assert_eq!(status, 409, "another cluster took the name: {body}");

    let (status, body) = post(&world.hub, "/token", &json!({}), None).await;
    assert_eq!(status, 401, "{body}");
    let key = key.serialize_pem();
    let identity = Some((admission.certificate.as_str(), key.as_str()));
    let (status, body) = post(&world.hub, "/token", &json!({}), identity).await;
    assert_eq!(status, 200, "{body}");
    let tokens: Tokens = serde_json::from_str(&body).unwrap();
    assert_eq!(tokens.member, "a");

    let channel = world.tls_channel().await;
    let refused = Proxy::open(channel.clone(), "", None).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let wrong = Some(tokens.kubernetes.token.as_str());
    let refused = Proxy::open(channel.clone(), "", wrong).await.err().unwrap();
    assert_eq!(
        refused.code(),
        tonic::Code::Unauthenticated,
        "the wrong audience"
    );
    world.exports("a", &["10.0.0.1"]).await;
    let right = Some(tokens.xds.token.as_str());
    let mut agent = Proxy::open(channel, "", right).await.unwrap();
    agent.until(|agent| !agent.imports.is_empty()).await;

    let members: Api<MemberCluster> = Api::all(world.client.clone());
    members.delete("a", &DeleteParams::default()).await.unwrap();
    eventually("the member to be gone", async || {
        members.get_opt("a").await.ok()?.is_none().then_some(())
    })
    .await;
    let (status, body) = post(&world.hub, "/token", &json!({}), identity).await;
    assert_eq!(status, 403, "taken out: {body}");
    world.member("a").await;
    let (status, body) = post(&world.hub, "/token", &json!({}), identity).await;
    assert_eq!(
        status, 401,
        "a certificate of an earlier membership: {body}"
    );
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
async fn sessions_and_verdicts_that_a_proxy_reports_show_in_the_service_status() {
    use fairlead_config::xds::proto::{
        core::SocketProtocol,
        fairlead::{Verdict, VerdictKind},
        load_stats::{ClusterStats, LoadStatsRequest, UpstreamLocalityStats},
    };
    let world = world(false).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.serves().await;
    let mut proxy = world.plain("edge").await;
    proxy.until(|proxy| proxy.endpoints().len() == 1).await;
    let (reports, taken) = mpsc::channel(4);
    let report = |active| LoadStatsRequest {
        node: Some(Node {
            id: "proxy-0".into(),
            cluster: "edge".into(),
            ..Default::default()
        }),
        cluster_stats: vec![ClusterStats {
            cluster_name: "shop/web:http".into(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                locality: Some(fairlead_config::xds::endpoints::member_locality(
                    &fairlead_config::name::MemberName::parse("a").unwrap(),
                )),
                total_requests_in_progress: active,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    reports.send(report(5)).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", world.hub.addr)).unwrap();
    let mut client = XdsClient::new(channel.connect().await.unwrap());
    let mut answers = client
        .stream_load_stats(tonic::Request::new(ReceiverStream::new(taken)))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().unwrap().send_all_clusters);
    eventually("five sessions", async || {
        let status = world.status().await;
        (status.members.first()?.active_sessions == Some(5)).then_some(())
    })
    .await;
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    let drain = json!({ "spec": { "trafficClaims": [{ "owner": "user", "permille": 0 }] } });
    members
        .patch("a", &PatchParams::default(), &Patch::Merge(&drain))
        .await
        .unwrap();
    let asked = loop {
        let answer = answers.message().await.unwrap().unwrap();
        if !answer.watched.is_empty() {
            break answer.watched;
        }
    };
    assert_eq!(
        asked,
        ["shop/web:http"],
        "a drained service is reported on every second"
    );
    let mut drained = report(0);
    drained.verdicts = vec![Verdict {
        service: "shop/web:http".into(),
        member: "a".into(),
        address: Some(fairlead_config::xds::endpoints::address(
            "10.0.0.1:8080".parse().unwrap(),
            SocketProtocol::Tcp,
        )),
        kind: VerdictKind::ProbeFailed.into(),
        reason: "refused".into(),
        since_unix_millis: 1,
    }];
    reports.send(drained).await.unwrap();
    eventually("the drain to be over", async || {
        let status = world.status().await;
        let member = status.members.first()?;
        let draining = member.state == fairlead_api::service::MemberState::Draining;
        (draining && member.active_sessions == Some(0)).then_some(())
    })
    .await;
    let key = crate::world::ServiceKey::new("shop", "web");
    let explained = world.hub.view().explain(&key);
    assert_eq!(explained["verdicts"][0]["verdict"], "ProbeFailed");
    world.hub.stop().await;
}

#[tokio::test]
async fn two_replicas_serve_the_same_and_the_second_writes_when_the_first_stops() {
    let world = world(false).await;
    let account = "system:serviceaccount:fairlead-system:fairlead-hub";
    let mut second = run(HubConfig {
        client: world.server.client_as(account, ["system:serviceaccounts"]),
        listen: "127.0.0.1:0".parse().unwrap(),
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

#[tokio::test]
async fn a_standalone_proxy_is_of_the_group_its_token_says() {
    let world = world(true).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.serves().await;
    let life = Duration::from_secs(600);
    let token = join::io::make_proxy_token(&world.client, "edge", life)
        .await
        .unwrap();
    let channel = world.tls_channel().await;
    let mut proxy = Proxy::open(channel.clone(), "another", Some(&token.token))
        .await
        .unwrap();
    proxy.until(|proxy| proxy.endpoints().len() == 1).await;
    let other = join::io::make_proxy_token(&world.client, "empty", life)
        .await
        .unwrap();
    let mut empty = Proxy::open(channel, "edge", Some(&other.token))
        .await
        .unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), empty.answers.message()).await;
    assert!(
        silence.is_err(),
        "a group that serves nothing is told nothing"
    );
    world.hub.stop().await;
}
