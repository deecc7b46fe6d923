//! The port where the member's own proxies connect, over TLS.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use fairlead_config::xds::service::{AggregatedServer, LoadReportingServer};
use fairlead_runtime::tasks::TaskError;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tonic::codegen::Service;

use super::{
    AgentConfig,
    certificate::{self, Certificate},
    relay::Relay,
    reports::Upward,
    uplink::Shared,
};
use crate::hub::{access::Access, events::Announcer};

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
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut keeping => return Err("the certificate is not kept any more".into()),
        };
        match accepted {
            Ok((socket, _)) => {
                let (relay, tls) = (relay.clone(), tls.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    connection(socket, relay, tls).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, relay: Relay, tls: certificate::Tls) {
    drop(socket.set_nodelay(true));
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.read()));
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            return;
        }
    };
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let relay = Arc::new(relay.clone());
        async move {
            let reports = request.uri().path().starts_with(REPORTS_PATH);
            let Ok(response) = match reports {
                true => LoadReportingServer::new(relay).call(request).await,
                false => AggregatedServer::new(relay).call(request).await,
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX);
    let io = TokioIo::new(stream);
    if let Err(error) = builder
        .serve_connection(io, TowerToHyperService::new(service))
        .await
    {
        tracing::debug!(error, "a proxy's connection ended");
    }
}

const REPORTS_PATH: &str = "/envoy.service.load_stats.";
/// A member's own proxies, several times over.
const CONNECTIONS_MAX: usize = 1024;
/// A proxy opens two.
const STREAMS_MAX: u32 = 8;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is noticed after two of these.
const KEEPALIVE: Duration = Duration::from_secs(15);
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
