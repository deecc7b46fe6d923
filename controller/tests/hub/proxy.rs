//! A proxy as the hub sees it: one ADS and one LRS stream, by token over TLS. It takes in and
//! acknowledges whatever it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use fairlead_config::{
    name::MemberName,
    snapshot::Snapshot,
    xds::{
        decoder::Decoder,
        endpoints::member_locality,
        envelope::{self, Stamp},
        proto::{
            Typed,
            cluster::Cluster,
            core::Node,
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
            endpoint::ClusterLoadAssignment,
            fairlead::ProxyState,
            listener::Listener,
            load_stats::{ClusterStats, LoadStatsRequest, UpstreamLocalityStats},
        },
        service::Client,
    },
};
use fairlead_controller::join::io::make_proxy_token;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::{
    process::Hub,
    store::{Store, eventually},
};

/// A proxy of group `edge`. When its streams end it comes back, until it is dropped.
pub(crate) struct Proxy {
    node: Node,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
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
    /// The newest stamp, and the endpoints after each answer.
    stamp: Stamp,
    past: Vec<BTreeSet<String>>,
    /// Sessions to member a, once it says so, and where it says it.
    active: Option<u64>,
    reports: Option<mpsc::Sender<LoadStatsRequest>>,
}

/// Where a hub is, and what opens its door.
struct Door {
    addr: SocketAddr,
    bundle: String,
    token: String,
}

impl Proxy {
    /// A new one.
    pub(crate) async fn open(store: &Store, hub: &Hub, node: &str) -> Self {
        let node = Node {
            id: node.to_owned(),
            ..Node::default()
        };
        let state = Arc::default();
        let door = Door::of(store, hub).await;
        let task = tokio::spawn(follow(door, node.clone(), Arc::clone(&state)));
        Self { node, state, task }
    }

    /// Goes to this hub, with what it has.
    pub(crate) async fn reopen(&mut self, store: &Store, hub: &Hub) {
        self.task.abort();
        let door = Door::of(store, hub).await;
        self.task = tokio::spawn(follow(door, self.node.clone(), Arc::clone(&self.state)));
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
    pub(crate) fn report(&self, active: u64) {
        let mut state = self.state.lock().unwrap();
        state.active = Some(active);
        state.say();
    }

    /// Its endpoints after each answer since one first brought this one.
    pub(crate) fn since(&self, first: &str) -> Vec<BTreeSet<String>> {
        let state = self.state.lock().unwrap();
        let past = state.past.iter();
        past.skip_while(|ips| !ips.contains(first))
            .cloned()
            .collect()
    }

    fn endpoints(&self) -> BTreeSet<String> {
        self.state.lock().unwrap().endpoints()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn of(store: &Store, hub: &Hub) -> Self {
        let life = Duration::from_secs(600);
        let token = make_proxy_token(&store.client(), "edge", life).await;
        Self {
            addr: hub.addr,
            bundle: store.bundle().await,
            token: token.unwrap().token,
        }
    }

    async fn enter(&self) -> Option<Client<Channel>> {
        let bundle = Certificate::from_pem(&self.bundle);
        let tls = ClientTlsConfig::new().ca_certificate(bundle);
        let channel = Channel::from_shared(format!("https://{}", self.addr)).unwrap();
        let channel = channel.tls_config(tls).unwrap().connect().await.ok()?;
        Some(Client::new(channel))
    }

    fn request<T>(&self, body: T) -> Request<T> {
        let bearer: AsciiMetadataValue = format!("Bearer {}", self.token).parse().unwrap();
        let mut request = Request::new(body);
        request.metadata_mut().insert("authorization", bearer);
        request
    }
}

async fn follow(door: Door, node: Node, state: Arc<Mutex<State>>) {
    loop {
        if let Some(client) = door.enter().await {
            one_stream(&door, client, &node, &state).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Both streams, until the first one ends.
async fn one_stream(
    door: &Door,
    mut client: Client<Channel>,
    node: &Node,
    state: &Mutex<State>,
) -> Option<()> {
    let (requests, taken) = mpsc::channel(16);
    for url in [Cluster::URL, ClusterLoadAssignment::URL, Listener::URL] {
        requests
            .try_send(state.lock().unwrap().first(url, node))
            .unwrap();
    }
    let request = door.request(ReceiverStream::new(taken));
    let mut answers = client
        .delta_aggregated_resources(request)
        .await
        .ok()?
        .into_inner();
    let (reports, taken) = mpsc::channel(16);
    {
        let mut state = state.lock().unwrap();
        state.reports = Some(reports);
        state.say_first(node);
    }
    let request = door.request(ReceiverStream::new(taken));
    let mut watched = client.stream_load_stats(request).await.ok()?.into_inner();
    loop {
        tokio::select! {
            answer = answers.message() => {
                let answer = state.lock().unwrap().take(answer.ok()??);
                requests.send(answer).await.ok()?;
            }
            said = watched.message() => drop(said.ok()??),
        }
    }
}

impl State {
    fn first(&self, url: &str, node: &Node) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(Node {
                metadata: envelope::node_metadata(&self.stamp),
                ..node.clone()
            }),
            type_url: url.to_owned(),
            initial_resource_versions: self.versions.get(url).cloned().unwrap_or_default(),
            ..Default::default()
        }
    }

    fn say_first(&self, node: &Node) {
        let first = LoadStatsRequest {
            node: Some(node.clone()),
            ..self.load_report()
        };
        self.reports.as_ref().unwrap().try_send(first).unwrap();
    }

    fn say(&self) {
        if let Some(reports) = &self.reports {
            // Where the stream has ended, the next one begins with it.
            reports.try_send(self.load_report()).ok();
        }
    }

    fn load_report(&self) -> LoadStatsRequest {
        let locality = |active| UpstreamLocalityStats {
            locality: Some(member_locality(&MemberName::parse("a").unwrap())),
            total_active_connections: active,
            ..Default::default()
        };
        LoadStatsRequest {
            cluster_stats: vec![ClusterStats {
                cluster_name: "shop/web:http".into(),
                upstream_locality_stats: self.active.into_iter().map(locality).collect(),
                ..Default::default()
            }],
            proxy: Some(ProxyState {
                epoch: self.stamp.epoch.clone(),
                as_of: self.stamp.as_of,
                ..ProxyState::default()
            }),
            ..Default::default()
        }
    }

    fn endpoints(&self) -> BTreeSet<String> {
        let rows = self.snapshot.endpoints.values();
        rows.flat_map(|row| row.keys())
            .map(|key| key.target.to_string())
            .collect()
    }

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
            let new = envelope::stamp(resource);
            if new.epoch != self.stamp.epoch || new.as_of > self.stamp.as_of {
                self.stamp = new;
            }
        }
        for name in &response.removed_resources {
            versions.remove(name);
        }
        self.received += response.resources.len();
        self.removed += response.removed_resources.len();
        self.past.push(self.endpoints());
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        }
    }
}
