//! The admin server: a few pages over HTTP/1.1.
//!
//! Pages are a table ([`Pages`]) of path, help and handler; `/` lists them. Reading is open to
//! whoever can connect. Changing (POST) is for loopback peers only, unless said otherwise, and
//! never for a browser that was sent here by another site.
//!
//! A large page is made in [`Parts`] while it is read, and waits for its reader.
//!
//! Limits: [`CONNECTIONS_MAX`] connections, [`HEAD_BYTES_MAX`] and [`HEADERS_MAX`] a head,
//! [`BODY_BYTES_MAX`] a body, [`HEAD_TIMEOUT`] for the head, [`ANSWER_TIMEOUT`] for the body and the
//! first of the answer, and [`STALL_TIMEOUT`] for a reader that takes nothing.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, ORIGIN},
};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use body::Sending;
pub use body::{Body, Parts};
use patient::Patient;

mod body;
mod patient;

#[cfg(test)]
mod tests;

/// The pages of a server.
#[derive(Clone, Default)]
pub struct Pages(BTreeMap<&'static str, Page>);

/// What a handler gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The query, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The body; empty for GET.
    pub body: Bytes,
}

/// What a handler answers.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The content type.
    pub content_type: &'static str,
    /// The content.
    pub body: Body,
}

/// A bound server that doesn't answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    allow_remote: bool,
}

/// An address that can't be served at.
#[derive(Debug, thiserror::Error)]
#[error("admin address {addr} can't be listened on; is another process there?")]
pub struct BindError {
    /// As asked for.
    pub addr: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

type Handler = Arc<dyn Fn(Request) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

#[derive(Clone)]
struct Page {
    method: Method,
    help: &'static str,
    handler: Handler,
}

// === impl Pages ===

impl Pages {
    /// None but `/`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a page to read.
    #[must_use]
    pub fn get<H, F>(self, path: &'static str, help: &'static str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::GET, path, help, handler)
    }

    /// Adds a page that changes something.
    #[must_use]
    pub fn post<H, F>(self, path: &'static str, help: &'static str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::POST, path, help, handler)
    }

    fn add<H, F>(
        mut self,
        method: Method,
        path: &'static str,
        help: &'static str,
        handler: H,
    ) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        let page = Page {
            method,
            help,
            handler,
        };
        self.0.insert(path, page);
        self
    }

    fn index(&self) -> Answer {
        let lines = self.0.iter().map(|(path, page)| {
            let (method, help) = (page.method.as_str(), page.help);
            format!("{method:<5} {path:<12} {help}\n")
        });
        Answer::text(lines.collect::<String>())
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

// === impl Request ===

impl Request {
    /// The first value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

// === impl Answer ===

impl Answer {
    /// Text, 200.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: Body::Whole(body.into()),
        }
    }

    /// A content that is made while it is read, 200.
    pub fn parts(content_type: &'static str, parts: Parts) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: Body::Parts(parts),
        }
    }

    /// JSON for people and programs, 200.
    pub fn json(value: &serde_json::Value) -> Self {
        Self {
            content_type: "application/json",
            ..Self::text(format!("{value:#}\n"))
        }
    }

    /// A problem, in one sentence that says what to do.
    pub fn problem(status: StatusCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.push('\n');
        Self {
            status,
            ..Self::text(message)
        }
    }
}

// === impl Server ===

impl Server {
    /// Binds. Port 0 is any free one; [`Self::addr`] says which. `allow_remote`: changes may come
    /// from other hosts. Call it where a tokio runtime runs.
    pub fn bind(addr: SocketAddr, allow_remote: bool) -> Result<Self, BindError> {
        let listener =
            std::net::TcpListener::bind(addr).map_err(|source| BindError { addr, source })?;
        Self::adopt(listener, addr, allow_remote)
    }

    /// Takes a socket over that an earlier process bound to `addr`.
    pub fn adopt(
        listener: std::net::TcpListener,
        addr: SocketAddr,
        allow_remote: bool,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { addr, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        Ok(Self {
            addr: listener.local_addr().map_err(failed)?,
            listener,
            allow_remote,
        })
    }

    /// Where it is bound.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The socket once more, for a successor.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Serves until dropped; all connections end with it.
    pub async fn serve(&self, pages: Pages) {
        let pages = Arc::new(pages);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_ended) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "an admin connection couldn't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Beyond the limit a connection is closed at once, which its peer sees.
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                let may_change = self.allow_remote || peer.ip().to_canonical().is_loopback();
                connections.spawn(converse(stream, Arc::clone(&pages), may_change, place));
            }
        }
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    pages: Arc<Pages>,
    may_change: bool,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(respond(&pages, request, may_change).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, STALL_TIMEOUT)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended badly");
    }
}

async fn respond(
    pages: &Pages,
    request: http::Request<Incoming>,
    may_change: bool,
) -> Response<Sending> {
    let is_head = request.method() == Method::HEAD;
    let answer =
        match tokio::time::timeout(ANSWER_TIMEOUT, answer(pages, request, may_change)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = "no answer in time; the process is busy, try again";
                (
                    Answer::problem(StatusCode::SERVICE_UNAVAILABLE, message),
                    None,
                )
            }
        };
    let (
        Answer {
            status,
            content_type,
            body,
        },
        allow,
    ) = answer;
    let body = if is_head {
        Body::Whole(Bytes::new())
    } else {
        body
    };
    let mut response = Response::new(Sending::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    if let Some(allow) = allow.and_then(|method: Method| method.as_str().parse().ok()) {
        headers.insert(ALLOW, allow);
    }
    response
}

/// The answer, and the method that would have been right.
async fn answer(
    pages: &Pages,
    request: http::Request<Incoming>,
    may_change: bool,
) -> (Answer, Option<Method>) {
    let path = request.uri().path();
    if path == "/" {
        return (pages.index(), None);
    }
    let Some(page) = pages.0.get(path) else {
        let message = format!("no page {path}; / lists them");
        return (Answer::problem(StatusCode::NOT_FOUND, message), None);
    };
    let asked = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    if asked != page.method {
        let message = format!("{path} takes {}", page.method);
        let answer = Answer::problem(StatusCode::METHOD_NOT_ALLOWED, message);
        return (answer, Some(page.method.clone()));
    }
    if page.method == Method::POST {
        let refusal = if !may_change {
            Some("changes are taken from this host only; see --admin-allow-remote")
        } else if request.headers().contains_key(ORIGIN) {
            Some("changes are not taken from web pages")
        } else {
            None
        };
        if let Some(message) = refusal {
            return (Answer::problem(StatusCode::FORBIDDEN, message), None);
        }
    }
    let query = decode_query(request.uri().query().unwrap_or_default());
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            let message = format!("the body is larger than {BODY_BYTES_MAX} bytes or broke off");
            return (
                Answer::problem(StatusCode::PAYLOAD_TOO_LARGE, message),
                None,
            );
        }
    };
    ((page.handler)(Request { query, body }).await, None)
}

/// `a=b&c` with percent signs and pluses decoded; what can't be decoded stays as it is.
fn decode_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.first_chunk::<2>().filter(|_| *first == b'%');
        let digits = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Connections at a time; a scraper and a few people.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// From the connection, or the last answer, to the end of the next head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// From the head to the beginning of the answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader may take nothing of its answer.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Out of descriptors, most likely: they don't come back within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
