//! A port on which streams are served: accept, TLS, HTTP/2.
//!
//! Clients may show a certificate; what needs one says so. The serving certificate and the trusted
//! bundle are replaced while the port stays open. A port holds a limited number of connections: the
//! next one waits in the kernel until one of them ends.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::body::Body;

/// The TLS settings in force; replaced by rotation.
pub(crate) type Tls = Arc<RwLock<Arc<ServerConfig>>>;

/// Where connections come in.
pub(crate) struct Door {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

/// A connection that came in, and its place among those that may be open.
pub(crate) struct Guest {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) slot: OwnedSemaphorePermit,
}

impl Door {
    /// At most so many connections at a time.
    pub(crate) fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self {
            listener,
            slots: Arc::new(Semaphore::new(connections_max)),
        }
    }

    /// The next connection. May be dropped and called anew at any time.
    pub(crate) async fn next(&self) -> Guest {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.expect("the door never closes its semaphore");
        loop {
            match self.listener.accept().await {
                Ok((socket, peer)) => {
                    drop(socket.set_nodelay(true));
                    return Guest { socket, peer, slot };
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

/// TLS settings for this certificate and bundle.
pub(crate) fn tls_config(
    certificate: &str,
    key: &str,
    bundle: &str,
) -> Result<Arc<ServerConfig>, String> {
    let parse = |pem: &str| -> Result<Vec<CertificateDer<'static>>, String> {
        let all = CertificateDer::pem_slice_iter(pem.as_bytes());
        all.collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    };
    let mut roots = RootCertStore::empty();
    for root in parse(bundle)? {
        roots.add(root).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(clients)
        .with_single_cert(parse(certificate)?, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The TLS of a connection; `None`, and a line in the log, where it comes to nothing.
pub(crate) async fn greet(
    socket: TcpStream,
    peer: SocketAddr,
    tls: &Tls,
) -> Option<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.read()));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "a TLS handshake took too long");
            None
        }
    }
}

/// Answers what comes on a connection, until it ends.
pub(crate) async fn serve<S, A, F>(stream: S, streams_max: u32, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = tower::service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max);
    let served = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(error, "a connection ended");
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is noticed after two of these.
const KEEPALIVE: Duration = Duration::from_secs(15);
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
