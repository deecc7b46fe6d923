//! The port for the member's own proxies: they are told what came down from the hub, from memory and
//! disk, hub or no hub.
//!
//! A proxy shows a token of its ServiceAccount, which the member's own API server reviews; the
//! account's name is the only source of its group, and only the member's own group is served. A
//! stream ends with its token.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use fairlead_config::xds::{
    proto::{
        core::{ControlPlane, Node},
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
    service::{Aggregated, AggregatedServer, Answers},
};
use fairlead_runtime::tasks::TaskError;
use futures::StreamExt;
use http::Request as HttpRequest;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, codegen::Service};

use super::{AgentConfig, uplink::Shared};
use crate::{
    board::Type,
    hub::access::Access,
    identity::Subject,
    stream::{Heard, Stream},
};

/// Serves until it is dropped.
pub(super) async fn run(
    config: Arc<AgentConfig>,
    shared: Shared,
    listen: SocketAddr,
    bound: watch::Sender<Option<SocketAddr>>,
) -> Result<(), TaskError> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}; choose another --listen"))?;
    let addr = listener.local_addr()?;
    tracing::info!(%addr, "proxies of this member may connect");
    bound.send_replace(Some(addr));
    let relay = Relay {
        access: Access::new(config.local.clone(), config.clock.clone(), false),
        shared,
        version: config.version.clone().into(),
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((socket, _)) => {
                let relay = relay.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    serve(socket, relay).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, relay: Relay) {
    drop(socket.set_nodelay(true));
    let service = tower::service_fn(move |request: HttpRequest<Incoming>| {
        let mut service = AggregatedServer::new(Arc::new(relay.clone()));
        async move {
            let Ok(response) = service.call(request).await;
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(8);
    let served = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
    if let Err(error) = served.await {
        tracing::debug!(error, "a proxy's connection ended");
    }
}

/// What streams need.
#[derive(Clone)]
struct Relay {
    access: Access,
    shared: Shared,
    version: Arc<str>,
}

impl Aggregated for Relay {
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        let (group, life) = self.admit(request.metadata()).await?;
        let mut requests = request.into_inner();
        let first = first(&mut requests).await?;
        let (to, answers) = mpsc::channel(ANSWERS_QUEUE);
        let connection = Connection {
            relay: self.clone(),
            group,
            node: first.node.clone().unwrap_or_default(),
            stream: Stream::default(),
            to,
        };
        // It lives as long as the proxy reads: the connection owns the stream, not the server.
        let body = connection.run(first, requests, life);
        Ok(Response::new(Box::pin(driven(answers, body))))
    }
}

impl Relay {
    /// The group of a proxy of this member, and how long it may stay.
    async fn admit(
        &self,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<(String, Option<Duration>), Status> {
        let admitted = self.access.admit(metadata).await?;
        let group = match admitted.subject {
            Some(Subject::Proxy(group)) => group,
            Some(Subject::Agent(_)) | None => {
                return Err(Status::permission_denied(
                    "this port is for the member's own proxies, with a token of ServiceAccount \
                     fairlead-system/fairlead-proxy-<group>",
                ));
            }
        };
        self.refusal(&group).map_or(Ok((group, admitted.life)), Err)
    }

    /// Why a group is not served here, as far as that is known yet.
    fn refusal(&self, group: &str) -> Option<Status> {
        let received = self.shared.received.lock();
        let own = received.group();
        if !received.proxies_known() || own == Some(group) {
            return None;
        }
        let message = match own {
            Some(own) => format!("this member's proxy group is {own}, not {group}"),
            None => format!(
                "this member has no proxy group; make ProxyGroup {group} on the hub, with this \
                 member in spec.member"
            ),
        };
        Some(Status::permission_denied(message))
    }
}

/// One proxy's ADS stream.
struct Connection {
    relay: Relay,
    group: String,
    node: Node,
    stream: Stream,
    to: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Connection {
    async fn run(
        mut self,
        first: DeltaDiscoveryRequest,
        requests: Streaming<DeltaDiscoveryRequest>,
        life: Option<Duration>,
    ) {
        tracing::info!(proxy = self.node.id, "a proxy connected");
        if let Some(status) = self.serve(first, requests, life).await {
            drop(self.to.send(Err(status)).await);
        }
        tracing::info!(proxy = self.node.id, "a proxy is gone");
    }

    /// Serves until the proxy leaves or may stay no longer; the reason is told to it.
    async fn serve(
        &mut self,
        first: DeltaDiscoveryRequest,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        life: Option<Duration>,
    ) -> Option<Status> {
        let mut revision = self.relay.shared.revision();
        let mut end = std::pin::pin!(sleep_for(life));
        self.hear(&first);
        loop {
            if let Some(refusal) = self.relay.refusal(&self.group) {
                return Some(refusal);
            }
            for response in self.say() {
                if self.to.send(Ok(response)).await.is_err() {
                    return None;
                }
            }
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.hear(&request),
                    _ => return None,
                },
                changed = revision.changed() => changed.ok()?,
                () = &mut end => {
                    return Some(Status::unauthenticated(
                        "the token has run out; come back with a new one",
                    ));
                }
            }
        }
    }

    fn hear(&mut self, request: &DeltaDiscoveryRequest) {
        match self.stream.hear(request) {
            Heard::Refused(of, message) => {
                tracing::warn!(proxy = self.node.id, ?of, message, "an update was refused");
            }
            Heard::Unknown(url) => tracing::debug!(url, "a type that is not served"),
            Heard::Acknowledged(_) | Heard::Subscribed | Heard::Stale => {}
        }
    }

    /// Nothing is said before everything is known: less would be taken for all.
    fn say(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let received = self.relay.shared.received.lock();
        if !received.proxies_known() {
            return Vec::new();
        }
        let mut responses = self
            .stream
            .say(received.proxies(), received.revision(), &PROXY_TYPES);
        for response in &mut responses {
            response.control_plane = Some(ControlPlane {
                identifier: format!("fairlead-agent/{}", self.relay.version),
            });
        }
        responses
    }
}

async fn first<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_TIMEOUT, requests.message()).await {
        Ok(Ok(Some(first))) => Ok(first),
        Ok(Ok(None)) => Err(Status::cancelled("the stream ended before it began")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no request came on the stream")),
    }
}

async fn sleep_for(life: Option<Duration>) {
    match life {
        Some(life) => tokio::time::sleep(life).await,
        None => std::future::pending().await,
    }
}

/// The answers, with the task that makes them driven by whoever reads them.
fn driven<T: Send + 'static>(
    answers: mpsc::Receiver<T>,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl futures::Stream<Item = T> + Send + 'static {
    let mut answers = ReceiverStream::new(answers);
    let mut task = Box::pin(task);
    let mut running = true;
    futures::stream::poll_fn(move |context| {
        if running && task.as_mut().poll(context).is_ready() {
            running = false;
        }
        answers.poll_next_unpin(context)
    })
}

const PROXY_TYPES: [Type; 3] = [Type::Cluster, Type::Assignment, Type::Listener];
/// A member's own proxies, several times over.
const CONNECTIONS_MAX: usize = 1024;
/// Responses that wait for a slow proxy; further changes are put together meanwhile.
const ANSWERS_QUEUE: usize = 4;
/// A stream that says nothing is closed.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is noticed after two of these.
const KEEPALIVE: Duration = Duration::from_secs(15);
