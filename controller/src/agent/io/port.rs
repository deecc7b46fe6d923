//! The port where the member's own proxies connect, over TLS.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use fairlead_config::xds::service::{AggregatedServer, LoadReportingServer};
use fairlead_runtime::tasks::TaskError;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::TaskTracker;
use tonic::{body::Body, codegen::Service};

use super::{AgentConfig, certificate::Certificate, relay::Relay, reports::Upward, uplink::Shared};
use crate::{
    hub::{access::Access, events::Announcer},
    stream::io::port::{self, Door, Guest, Tls},
};

/// Where the member's proxies connect.
#[derive(Debug, Clone)]
pub struct Port {
    /// Port 0 takes a free one.
    pub addr: SocketAddr,
    /// Names and addresses that proxies know the port by, besides those of the Service
    /// `fairlead-system/fairlead-agent`.
    pub names: Vec<String>,
    /// Whether what proxies check the port against is also put into ConfigMap
    /// `fairlead-system/fairlead-agent`, for pods; it is always in the agent's folder.
    pub publish: bool,
}

/// Serves until it is dropped.
pub(super) async fn run(
    config: Arc<AgentConfig>,
    (port, folder): (Port, PathBuf),
    (shared, upward, events): (Shared, Upward, Announcer),
    bound: watch::Sender<Option<SocketAddr>>,
) -> Result<(), TaskError> {
    let listen = port.addr;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}; choose another --listen"))?;
    let addr = listener.local_addr()?;
    let certificate = Certificate::load(folder, &port, addr, config.clock.clone()).await?;
    let tls = certificate.tls();
    bound.send_replace(Some(addr));
    tracing::info!(%addr, "proxies of this member may connect");
    let relay = Relay {
        access: Access::new(config.local.clone(), config.clock.clone(), false),
        shared,
        upward,
        events,
        version: config.version.clone().into(),
        tasks: TaskTracker::new(),
    };
    let local = port.publish.then(|| config.local.clone());
    let mut keeping = std::pin::pin!(certificate.keep(local));
    let door = Door::new(listener, CONNECTIONS_MAX);
    let mut connections = JoinSet::new();
    loop {
        let Guest { socket, peer, slot } = tokio::select! {
            guest = door.next() => guest,
            Some(_) = connections.join_next() => continue,
            () = &mut keeping => return Err("the certificate is not kept any more".into()),
        };
        let (relay, tls) = (relay.clone(), tls.clone());
        connections.spawn(async move {
            let _slot = slot;
            connection(socket, peer, relay, tls).await;
        });
    }
}

async fn connection(socket: TcpStream, peer: SocketAddr, relay: Relay, tls: Tls) {
    if let Some(stream) = port::greet(socket, peer, &tls).await {
        let answer = move |request| answer(request, relay.clone());
        port::serve(stream, STREAMS_MAX, answer).await;
    }
}

async fn answer(request: Request<Incoming>, relay: Relay) -> Response<Body> {
    let relay = Arc::new(relay);
    let reports = request.uri().path().starts_with(REPORTS_PATH);
    let Ok(response) = match reports {
        true => LoadReportingServer::new(relay).call(request).await,
        false => AggregatedServer::new(relay).call(request).await,
    };
    response
}

const REPORTS_PATH: &str = "/envoy.service.load_stats.";
/// A member's own proxies, several times over.
const CONNECTIONS_MAX: usize = 1024;
/// A proxy opens two.
const STREAMS_MAX: u32 = 8;
