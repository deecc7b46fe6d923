//! The server on a socket: HTTPS or plain HTTP, HTTP/1.1 and HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::local::deliver;
use super::{ApiServer, ServerError, certificate};
use crate::auth::User;
use crate::controllers;
use crate::error::ApiError;
use crate::faults::Disconnected;
use crate::http::{Body, Syntax, status};
use crate::rest;

/// What protects a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// HTTPS with a certificate of the server's own CA.
    Tls,
    /// HTTP, for the loopback interface.
    Plain,
}

/// A listener; it closes when this is dropped.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    kubeconfig: String,
    _stop: DropGuard,
}

/// Connections at once; more wait in the accept queue.
const CONNECTIONS_MAX: usize = 16_384;
/// A connection must finish its TLS handshake in this time.
const HANDSHAKE_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// A request's head must arrive in this time, and the next request's on an idle connection.
const HEADER_TIME: std::time::Duration = std::time::Duration::from_secs(120);
/// HTTP/2 connections whose peer has vanished are found and closed.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(30);
/// Requests under way finish in this time at shutdown; watches end at once.
const SHUTDOWN_TIME: std::time::Duration = std::time::Duration::from_secs(5);

impl Handle {
    /// Where it listens: the port that the kernel chose, if zero was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A kubeconfig for the administrator at this listener.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }
}

pub(super) async fn serve(
    server: &ApiServer,
    addr: SocketAddr,
    security: Security,
) -> Result<Handle, ServerError> {
    let fault = |source| ServerError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(fault)?;
    let addr = listener.local_addr().map_err(fault)?;
    let acceptor = match security {
        Security::Plain => None,
        Security::Tls => {
            let config = server.0.identity.tls_config(addr.ip())?;
            Some(TlsAcceptor::from(Arc::new(config)))
        }
    };
    controllers::bootstrap::advertise(&server.0.core, addr).await;
    let stop = server.0.stop.child_token();
    let kubeconfig = server.0.identity.kubeconfig(addr, security);
    let task = accept(server.clone_weak(), listener, acceptor, stop.clone());
    server.0.tasks.lock().spawn(task);
    Ok(Handle {
        addr,
        kubeconfig,
        _stop: stop.drop_guard(),
    })
}

async fn accept(
    server: Weak,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: let connections end before the next try.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (server, acceptor, watcher) = (server.clone(), acceptor.clone(), graceful.watcher());
        connections.spawn(async move {
            if let Err(error) = converse(server, stream, acceptor, watcher).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(tokio::time::timeout(SHUTDOWN_TIME, graceful.shutdown()).await);
    connections.shutdown().await;
}

async fn converse(
    server: Weak,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE);
    match acceptor {
        None => {
            let service = service_fn(move |request| answer(server.clone(), None, request));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            watcher.watch(connection.into_owned()).await
        }
        Some(acceptor) => {
            let stream = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await??;
            let certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(<[_]>::first);
            let user = certificate
                .and_then(|der| certificate::user(der))
                .map(Arc::new);
            let service = service_fn(move |request| answer(server.clone(), user.clone(), request));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            watcher.watch(connection.into_owned()).await
        }
    }
}

/// `certified` is the user of the connection's client certificate.
async fn answer(
    server: Weak,
    certified: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Disconnected> {
    let (head, body) = request.into_parts();
    let Some(server) = server.upgrade() else {
        let error = ApiError::unavailable("the server is shutting down");
        return Ok(status(&error, Syntax::Json));
    };
    let core = &server.0.core;
    let now = core.now().as_second();
    let user = match certified {
        Some(user) => Ok(user),
        None => core
            .authentication
            .authenticate(&head.headers, now, &**core)
            .map(Arc::new),
    };
    let Ok(user) = user else {
        return Ok(status(
            &ApiError::unauthorized(),
            Syntax::of_error(&head.headers),
        ));
    };
    deliver(rest::handle(&server.0.core, &user, &head, body).await)
}

/// A server that a listener does not keep alive.
#[derive(Debug, Clone)]
struct Weak(std::sync::Weak<super::Inner>);

impl Weak {
    fn upgrade(&self) -> Option<ApiServer> {
        self.0.upgrade().map(ApiServer)
    }
}

impl ApiServer {
    fn clone_weak(&self) -> Weak {
        Weak(Arc::downgrade(&self.0))
    }
}
