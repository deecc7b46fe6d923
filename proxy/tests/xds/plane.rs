//! A control plane that serves one snapshot after the other and remembers what proxies report.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use fairlead_config::{
    snapshot::Snapshot,
    xds::{
        self, Type,
        envelope::Stamp,
        proto::{
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
            fairlead::Verdict,
            load_stats::{LoadStatsRequest, LoadStatsResponse},
        },
        service::{Aggregated, AggregatedServer, Answers, LoadReporting, LoadReportingServer},
    },
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, body::Body};
use tower::{Service, service_fn};

/// A control plane on a runtime of its own; dropping it cuts its connections.
pub(crate) struct Plane {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

struct Shared {
    /// By type and name.
    resources: watch::Sender<[BTreeMap<String, Resource>; 3]>,
    broken: Mutex<BTreeSet<String>>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    node: String,
    refusals: Vec<String>,
    verdicts: BTreeMap<(String, String), Verdict>,
    sessions: BTreeMap<String, u64>,
}

impl Plane {
    /// Listens, and knows of nothing: so it says when it is asked.
    pub(crate) fn start(addr: SocketAddr) -> Self {
        Self::start_with(addr, &Snapshot::default())
    }

    /// Listens, with this to say from the start.
    pub(crate) fn start_with(addr: SocketAddr, snapshot: &Snapshot) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            resources: watch::Sender::default(),
            broken: Mutex::default(),
            heard: Mutex::default(),
        });
        let listener = runtime.block_on(TcpListener::bind(addr)).unwrap();
        let plane = Self {
            addr,
            shared: shared.clone(),
            runtime,
        };
        plane.set(snapshot);
        plane.runtime.spawn(accept(listener, shared));
        plane
    }

    /// Serves `snapshot` from now on.
    pub(crate) fn set(&self, snapshot: &Snapshot) {
        let resources = xds::encode(snapshot, &Stamp::default());
        let broken = self.shared.broken.lock().unwrap();
        let all = [
            resources.clusters,
            resources.assignments,
            resources.listeners,
        ];
        let named = all.map(|all| {
            let pairs = all.into_iter().map(|mut resource| {
                if broken.contains(&resource.name) {
                    "broken".clone_into(&mut resource.version);
                    resource.resource.as_mut().unwrap().value = vec![0xff];
                }
                (resource.name.clone(), resource)
            });
            pairs.collect()
        });
        self.shared.resources.send_replace(named);
    }

    /// Damages what is sent of this name from the next [`Self::set`] on.
    pub(crate) fn break_cluster(&self, name: &str) {
        self.shared.broken.lock().unwrap().insert(name.to_owned());
    }

    pub(crate) fn refusals(&self) -> Vec<String> {
        self.shared.heard.lock().unwrap().refusals.clone()
    }

    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let heard = self.shared.heard.lock().unwrap();
        heard.verdicts.values().cloned().collect()
    }

    /// Sessions that reports have counted so far.
    pub(crate) fn sessions(&self, service: &str) -> u64 {
        let heard = self.shared.heard.lock().unwrap();
        heard.sessions.get(service).copied().unwrap_or_default()
    }

    pub(crate) fn node(&self) -> String {
        self.shared.heard.lock().unwrap().node.clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let discovery = AggregatedServer::new(Arc::new(Serving(shared.clone())));
        let load = LoadReportingServer::new(Arc::new(Serving(shared.clone())));
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (mut discovery, mut load) = (discovery.clone(), load.clone());
            let answer: Answer = match request.uri().path().contains("load_stats") {
                true => load.call(request),
                false => discovery.call(request),
            };
            answer
        });
        connections.spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new()).http2_only();
            let socket = TokioIo::new(socket);
            let service = TowerToHyperService::new(service);
            // Proxies are killed in these tests.
            server.serve_connection(socket, service).await.ok();
        });
    }
}

type Answer =
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + Send>>;

/// What the services of one connection share.
struct Serving(Arc<Shared>);

impl Aggregated for Serving {
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        let (answers, queue) = mpsc::channel(16);
        tokio::spawn(discover(self.0.clone(), request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

impl LoadReporting for Serving {
    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Answers<LoadStatsResponse>>, Status> {
        let (answers, queue) = mpsc::channel(1);
        let wants = LoadStatsResponse {
            send_all_clusters: true,
            watched: vec!["t/s:p".to_owned()],
            ..LoadStatsResponse::default()
        };
        answers.send(Ok(wants)).await.unwrap();
        let (shared, mut reports) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                shared.heard.lock().unwrap().note(report);
            }
            drop(answers);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

impl Heard {
    fn note(&mut self, report: LoadStatsRequest) {
        if let Some(node) = report.node {
            self.node = node.id;
        }
        for stats in report.cluster_stats {
            let members = stats.upstream_locality_stats.iter();
            let sessions: u64 = members.map(|it| it.total_issued_requests).sum();
            *self.sessions.entry(stats.cluster_name).or_default() += sessions;
        }
        for verdict in report.verdicts {
            let key = (verdict.service.clone(), format!("{:?}", verdict.address));
            self.verdicts.insert(key, verdict);
        }
    }
}

/// One stream: what differs from what was sent, whenever that changes.
async fn discover(
    shared: Arc<Shared>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut resources = shared.resources.subscribe();
    let mut asked = [false; 3];
    let mut sent: [BTreeMap<String, String>; 3] = Default::default();
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                // It tells endpoints whole: a request for chunks is of a type that it doesn't know.
                let known = KINDS.iter().position(|it| it.url() == request.type_url);
                let Some(kind) = known else { continue };
                asked[kind] = true;
                sent[kind].extend(request.initial_resource_versions);
                if let Some(error) = request.error_detail {
                    shared.heard.lock().unwrap().refusals.push(error.message);
                }
            }
            changed = resources.changed() => if changed.is_err() { return },
        }
        let now = resources.borrow_and_update().clone();
        for kind in 0..3 {
            let answer = asked[kind].then(|| difference(kind, &mut sent[kind], &now[kind]));
            if let Some(answer) = answer.flatten()
                && answers.send(Ok(answer)).await.is_err()
            {
                return;
            }
        }
    }
}

fn difference(
    kind: usize,
    sent: &mut BTreeMap<String, String>,
    now: &BTreeMap<String, Resource>,
) -> Option<DeltaDiscoveryResponse> {
    let new = now
        .values()
        .filter(|it| sent.get(&it.name) != Some(&it.version));
    let new: Vec<Resource> = new.cloned().collect();
    let gone = sent.keys().filter(|name| !now.contains_key(*name));
    let gone: Vec<String> = gone.cloned().collect();
    *sent = now
        .iter()
        .map(|(name, it)| (name.clone(), it.version.clone()))
        .collect();
    (!new.is_empty() || !gone.is_empty()).then(|| DeltaDiscoveryResponse {
        type_url: KINDS[kind].url().to_owned(),
        nonce: "n".to_owned(),
        resources: new,
        removed_resources: gone,
        ..DeltaDiscoveryResponse::default()
    })
}

/// What it serves.
const KINDS: [Type; 3] = [Type::Cluster, Type::Assignment, Type::Listener];
