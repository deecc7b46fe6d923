//! A proxy as the hub sees it: one ADS and one LRS stream, by token over TLS. It takes in and
//! acknowledges whatever it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use fairlead_config::{
    name::MemberName,
    snapshot::Snapshot,
    xds::{
        decoder::Decoder,
        endpoints::member_locality,
        proto::{
            Typed,
            cluster::Cluster,
            core::Node,
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
            endpoint::ClusterLoadAssignment,
            listener::Listener,
            load_stats::{ClusterStats, LoadStatsRequest, UpstreamLocalityStats},
        },
        service::Client,
    },
};
use fairlead_controller::join::io::make_proxy_token;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::{
    process::Hub,
    store::{Store, eventually},
};

/// A proxy of group `edge`.
pub(crate) struct Proxy {
    node: Node,
    state: Arc<Mutex<State>>,
    reports: mpsc::Sender<LoadStatsRequest>,
}

#[derive(Default)]
struct State {
    decoder: Decoder,
    snapshot: Snapshot,
    /// What it has, by type and name.
    versions: BTreeMap<String, BTreeMap<String, String>>,
    /// Resources received, and names that were taken away.
    received: usize,
    removed: usize,
}

impl Proxy {
    /// A new one.
    pub(crate) async fn open(store: &Store, hub: &Hub, node: &str) -> Self {
        let node = Node {
            id: node.to_owned(),
            ..Node::default()
        };
        let state = Arc::default();
        let reports = streams(store, hub, &node, &state).await;
        Self {
            node,
            state,
            reports,
        }
    }

    /// Comes back with what it has.
    pub(crate) async fn reopen(&mut self, store: &Store, hub: &Hub) {
        self.reports = streams(store, hub, &self.node, &self.state).await;
    }

    /// Waits until its endpoints are these.
    pub(crate) async fn until_endpoints(&self, ips: &[&str]) {
        let expected: BTreeSet<String> = ips.iter().map(|ip| format!("{ip}:8080")).collect();
        eventually(&format!("{expected:?}"), async || {
            (self.endpoints() == expected).then_some(())
        })
        .await;
    }

    /// How much it was sent so far, and how much taken away.
    pub(crate) fn heard(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.received, state.removed)
    }

    /// Says how many sessions it has to member a.
    pub(crate) async fn report(&self, active: u64) {
        self.reports.send(report(active)).await.unwrap();
    }

    fn endpoints(&self) -> BTreeSet<String> {
        let state = self.state.lock().unwrap();
        let rows = state.snapshot.endpoints.values();
        rows.flat_map(|row| row.keys())
            .map(|key| key.target.to_string())
            .collect()
    }
}

/// Opens both streams; the first is answered from a task that ends with it.
async fn streams(
    store: &Store,
    hub: &Hub,
    node: &Node,
    state: &Arc<Mutex<State>>,
) -> mpsc::Sender<LoadStatsRequest> {
    let life = Duration::from_secs(600);
    let token = make_proxy_token(&store.client(), "edge", life)
        .await
        .unwrap();
    let bundle = Certificate::from_pem(store.bundle().await);
    let tls = ClientTlsConfig::new().ca_certificate(bundle);
    let channel = Channel::from_shared(format!("https://{}", hub.addr)).unwrap();
    let channel = channel.tls_config(tls).unwrap().connect().await.unwrap();
    let mut client = Client::new(channel);
    let bearer: AsciiMetadataValue = format!("Bearer {}", token.token).parse().unwrap();

    let (requests, taken) = mpsc::channel(16);
    for url in [Cluster::URL, ClusterLoadAssignment::URL, Listener::URL] {
        let versions = state.lock().unwrap().versions.get(url).cloned();
        let first = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: url.to_owned(),
            initial_resource_versions: versions.unwrap_or_default(),
            ..Default::default()
        };
        requests.send(first).await.unwrap();
    }
    let mut request = Request::new(ReceiverStream::new(taken));
    let metadata = request.metadata_mut();
    metadata.insert("authorization", bearer.clone());
    let answers = client.delta_aggregated_resources(request).await.unwrap();
    tokio::spawn(take(answers.into_inner(), requests, state.clone()));

    let (reports, taken) = mpsc::channel(16);
    let first = LoadStatsRequest {
        node: Some(node.clone()),
        ..LoadStatsRequest::default()
    };
    reports.send(first).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(taken));
    request.metadata_mut().insert("authorization", bearer);
    let watched = client.stream_load_stats(request).await.unwrap();
    let mut watched = watched.into_inner();
    tokio::spawn(async move { while let Ok(Some(_)) = watched.message().await {} });
    reports
}

async fn take(
    mut answers: Streaming<DeltaDiscoveryResponse>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    state: Arc<Mutex<State>>,
) {
    while let Ok(Some(response)) = answers.message().await {
        let answer = state.lock().unwrap().take(response);
        if requests.send(answer).await.is_err() {
            return;
        }
    }
}

impl State {
    fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let decoded = self.decoder.decode(
            &response.type_url,
            &response.resources,
            &response.removed_resources,
        );
        assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
        let (_, problems) = self.snapshot.apply(decoded.delta);
        assert!(problems.is_empty(), "{problems:?}");
        let versions = self.versions.entry(response.type_url.clone()).or_default();
        for resource in &response.resources {
            versions.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            versions.remove(name);
        }
        self.received += response.resources.len();
        self.removed += response.removed_resources.len();
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        }
    }
}

fn report(active: u64) -> LoadStatsRequest {
    LoadStatsRequest {
        cluster_stats: vec![ClusterStats {
            cluster_name: "shop/web:http".into(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                locality: Some(member_locality(&MemberName::parse("a").unwrap())),
                total_requests_in_progress: active,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}
