//! The hub's one port: streams, joining, and tokens, over TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fairlead_config::xds::service::{AggregatedServer, LoadReportingServer};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, codegen::Service};

use super::{events::About, metrics::Metrics, streams::Streams};
use crate::{
    authority::{self, Holder, Replica},
    join::{
        self, JoinRequest, Refusal,
        io::{Registrar, RequestError},
    },
    stream::io::port::{self, Door, Guest, Tls},
};

/// What a connection is answered with.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) streams: Streams,
    /// Absent on a plain port: nobody joins over it.
    pub(super) registrar: Option<Arc<Registrar>>,
    pub(super) metrics: Metrics,
}

/// Who a client certificate stands for.
#[derive(Debug, Clone, Default)]
struct Peer {
    holder: Option<Holder>,
    replica: Option<Replica>,
}

/// Answers until `stop`; connections that are open then are closed.
pub(super) async fn run(
    listener: TcpListener,
    tls: Option<Tls>,
    server: Server,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let door = Door::new(listener, CONNECTIONS_MAX);
    loop {
        let Guest { socket, peer, slot } = tokio::select! {
            guest = door.next() => guest,
            () = stop.cancelled() => return,
        };
        let (server, tls, stop) = (server.clone(), tls.clone(), stop.clone());
        tasks.spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = connection(socket, peer, tls, server) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn connection(socket: TcpStream, peer: SocketAddr, tls: Option<Tls>, server: Server) {
    let Some(tls) = tls else {
        return serve(socket, server, Peer::default()).await;
    };
    let Some(stream) = port::greet(socket, peer, &tls).await else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|all| all.first());
    let peer = Peer {
        holder: certificate.and_then(|one| authority::holder(one)),
        replica: certificate.and_then(|one| authority::replica(one)),
    };
    serve(stream, server, peer).await;
}

async fn serve<S>(stream: S, server: Server, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = move |request| answer(request, server.clone(), peer.clone());
    port::serve(stream, STREAMS_MAX, answer).await;
}

async fn answer(mut request: Request<Incoming>, server: Server, peer: Peer) -> Response<Body> {
    if let Some(replica) = peer.replica {
        request.extensions_mut().insert(replica);
    }
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/join" | "/renew" | "/token") => match &server.registrar {
            Some(registrar) => identity(request, &path, registrar, peer.holder, &server).await,
            None => text(
                StatusCode::NOT_FOUND,
                "this port is plain; join over the TLS port",
            ),
        },
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok"),
        (_, "/join" | "/renew" | "/token") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "send a POST request")
        }
        (_, path) if path.starts_with("/envoy.service.load_stats.") => {
            let mut service = LoadReportingServer::new(Arc::new(server.streams));
            let Ok(response) = service.call(request).await;
            response
        }
        _ => {
            let mut service = AggregatedServer::new(Arc::new(server.streams));
            let Ok(response) = service.call(request).await;
            response
        }
    }
}

async fn identity(
    request: Request<Incoming>,
    path: &str,
    registrar: &Registrar,
    holder: Option<Holder>,
    server: &Server,
) -> Response<Body> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "a request has at most 64 KiB",
            );
        }
        Err(_) => {
            return text(
                StatusCode::REQUEST_TIMEOUT,
                "the request did not end in time",
            );
        }
    };
    let mut claimed = holder.as_ref().map(|holder| holder.member.clone());
    let answered = match path {
        "/join" => match decode::<JoinRequest>(&body) {
            Ok(request) => {
                claimed = join::member_of(&request.token)
                    .ok()
                    .map(|name| name.to_string());
                registrar.join(&request).await.map(|answer| json(&answer))
            }
            Err(message) => return text(StatusCode::BAD_REQUEST, &message),
        },
        "/renew" => match decode(&body) {
            Ok(request) => {
                let renewed = registrar.renew(holder.as_ref(), &request).await;
                renewed.map(|answer| json(&answer))
            }
            Err(message) => return text(StatusCode::BAD_REQUEST, &message),
        },
        _ => {
            let tokens = registrar.tokens(holder.as_ref()).await;
            tokens.map(|answer| json(&answer))
        }
    };
    match answered {
        Ok(response) => {
            server.metrics.requested(path, "ok");
            response
        }
        Err(error) => {
            let status = status_of(&error);
            server.metrics.requested(path, status.as_str());
            tracing::warn!(path, member = claimed, %error, "refused");
            if let Some(member) = claimed {
                let note = format!("{path} refused: {error}");
                let events = &server.streams.events;
                let action = action_of(&error);
                events.refused(About::Member(member), "IdentityRefused", action, note);
            }
            text(status, &error.to_string())
        }
    }
}

/// What was not done, so that refusals for different reasons are told apart.
fn action_of(error: &RequestError) -> &'static str {
    match error {
        RequestError::Refused(refusal) => match refusal {
            Refusal::NotAToken | Refusal::Unknown => "CheckToken",
            Refusal::Expired(_) => "CheckExpiry",
            Refusal::Taken { .. } => "ClaimName",
            Refusal::Leaving(_) | Refusal::NoMember(_) => "FindMember",
            Refusal::NoCertificate => "CheckCertificate",
        },
        RequestError::Certificate(_) => "SignCertificate",
        RequestError::Api(_) => "AskAPIServer",
    }
}

fn status_of(error: &RequestError) -> StatusCode {
    match error {
        RequestError::Refused(refusal) => match refusal {
            Refusal::NotAToken => StatusCode::BAD_REQUEST,
            Refusal::Unknown | Refusal::Expired(_) | Refusal::NoCertificate => {
                StatusCode::UNAUTHORIZED
            }
            Refusal::Taken { .. } | Refusal::Leaving(_) => StatusCode::CONFLICT,
            Refusal::NoMember(_) => StatusCode::FORBIDDEN,
        },
        RequestError::Certificate(_) => StatusCode::BAD_REQUEST,
        RequestError::Api(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the request cannot be read: {error}"))
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => respond(StatusCode::OK, "application/json", bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn text(status: StatusCode, message: &str) -> Response<Body> {
    respond(
        status,
        "text/plain; charset=utf-8",
        message.as_bytes().to_vec(),
    )
}

fn respond(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(bytes))));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Connections at a time: a thousand agents, their reports and standalone proxies, four times over.
const CONNECTIONS_MAX: usize = 16_384;
/// A request is a certificate request and little more.
const BODY_BYTES_MAX: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection's streams and requests at a time.
const STREAMS_MAX: u32 = 64;
