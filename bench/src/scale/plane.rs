//! A control plane that serves one proxy: incremental ADS over HTTP/2, without TLS.
//!
//! Clusters first, assignments as they are asked for, listeners last, in answers of at most
//! [`ANSWER_BYTES`]: as the hub does it. Everything is encoded before the clock starts, so that what is
//! measured is the proxy.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::ensure;
use fairlead_config::xds::{
    self, Resources, Type,
    envelope::Stamp,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    service::{Aggregated, AggregatedServer, Answers},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::world::World;

/// A running control plane.
pub(crate) struct Plane {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Runs it.
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    first: Vec<DeltaDiscoveryResponse>,
    clusters: Vec<DeltaDiscoveryResponse>,
    /// By name, until they are asked for.
    assignments: HashMap<String, Resource>,
    listeners: Vec<DeltaDiscoveryResponse>,
    stream: Option<mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>>,
    sent: u64,
    acknowledged: u64,
}

impl Plane {
    /// Listens, and serves the first service; the others wait for [`Self::send_all`].
    pub(crate) fn start(world: &World) -> anyhow::Result<Self> {
        let first = encode(world, 0..1);
        let rest = encode(world, 1..world.services);
        let by_name = |resource: Resource| (resource.name.clone(), resource);
        let state = State {
            first: [first.clusters, first.listeners]
                .into_iter()
                .zip([Type::Cluster, Type::Listener])
                .flat_map(|(resources, of)| answers(of, resources))
                .collect(),
            clusters: answers(Type::Cluster, rest.clusters),
            assignments: [first.assignments, rest.assignments]
                .into_iter()
                .flatten()
                .map(by_name)
                .collect(),
            listeners: answers(Type::Listener, rest.listeners),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let addr = listener.local_addr()?;
        runtime.spawn(accept(listener, shared.clone()));
        Ok(Self {
            addr,
            shared,
            _runtime: runtime,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends everything that was kept back.
    pub(crate) fn send_all(&self) {
        let (clusters, stream) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.clusters), state.stream.clone())
        };
        self.send_each(clusters, stream);
    }

    /// One service's assignment with its first endpoint ready or not.
    pub(crate) fn encode_ready(
        &self,
        world: &World,
        number: u32,
        ready: bool,
    ) -> DeltaDiscoveryResponse {
        let snapshot = world.with_first(number, ready);
        let resources = xds::encode(&snapshot, &Stamp::default());
        answer(Type::Assignment, resources.assignments)
    }

    pub(crate) fn send(&self, answer: DeltaDiscoveryResponse) {
        let stream = self.shared.lock().stream.clone();
        self.send_each(vec![answer], stream);
    }

    /// Waits until the proxy has answered all that was sent.
    pub(crate) fn wait_for_acknowledgements(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let state = self.shared.lock();
            if state.acknowledged >= state.sent {
                return Ok(());
            }
            drop(state);
            ensure!(began.elapsed() < PATIENCE, "the proxy acknowledges nothing");
            std::thread::park_timeout(Duration::from_micros(200));
        }
    }

    fn send_each(
        &self,
        answers: Vec<DeltaDiscoveryResponse>,
        stream: Option<mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>>,
    ) {
        let Some(stream) = stream else {
            return;
        };
        for answer in answers {
            self.shared.lock().sent += 1;
            // A proxy that is gone is noticed by whoever waits for it.
            stream.blocking_send(Ok(answer)).ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Takes a request; what to send in answer.
    fn take(&self, request: &DeltaDiscoveryRequest) -> Vec<DeltaDiscoveryResponse> {
        let mut state = self.lock();
        if !request.response_nonce.is_empty() {
            state.acknowledged += 1;
        }
        if let Some(error) = &request.error_detail {
            eprintln!("the proxy refuses: {}", error.message);
        }
        let mut sends = Vec::new();
        if request.type_url == Type::Listener.url() && request.response_nonce.is_empty() {
            sends.append(&mut state.first);
        }
        if request.type_url == Type::Assignment.url() {
            let names = request.resource_names_subscribe.iter();
            let asked = names.filter_map(|name| state.assignments.remove(name));
            sends.extend(answers(Type::Assignment, asked.collect()));
            if state.clusters.is_empty() && state.assignments.is_empty() {
                sends.append(&mut state.listeners);
            }
        }
        state.sent += sends.len() as u64;
        sends
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let service = AggregatedServer::new(Arc::new(Serving(shared.clone())));
        tokio::spawn(async move {
            socket.set_nodelay(true).ok();
            let server = auto::Builder::new(TokioExecutor::new()).http2_only();
            let service = TowerToHyperService::new(service);
            // The proxy is ended at the end.
            server
                .serve_connection(TokioIo::new(socket), service)
                .await
                .ok();
        });
    }
}

struct Serving(Arc<Shared>);

impl Aggregated for Serving {
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        let (sender, queue) = mpsc::channel(4);
        let shared = self.0.clone();
        shared.lock().stream = Some(sender.clone());
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            while let Ok(Some(request)) = requests.message().await {
                for answer in shared.take(&request) {
                    if sender.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

fn encode(world: &World, numbers: std::ops::Range<u32>) -> Resources {
    let mut all = Resources::default();
    // A few at a time: the tables of a million endpoints are not what this process is for.
    for number in numbers {
        let snapshot = world.snapshot(std::iter::once(number));
        let one = xds::encode(&snapshot, &Stamp::default());
        all.clusters.extend(one.clusters);
        all.assignments.extend(one.assignments);
        all.listeners.extend(one.listeners);
    }
    all
}

/// In answers of at most [`ANSWER_BYTES`].
fn answers(of: Type, resources: Vec<Resource>) -> Vec<DeltaDiscoveryResponse> {
    let mut answers = Vec::new();
    let mut some = Vec::new();
    let mut bytes = 0;
    for resource in resources {
        bytes += resource.resource.as_ref().map_or(0, |any| any.value.len());
        some.push(resource);
        if bytes > ANSWER_BYTES {
            answers.push(answer(of, std::mem::take(&mut some)));
            bytes = 0;
        }
    }
    if !some.is_empty() {
        answers.push(answer(of, some));
    }
    answers
}

fn answer(of: Type, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: of.url().to_owned(),
        nonce: "n".to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

const ANSWER_BYTES: usize = 3 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);
