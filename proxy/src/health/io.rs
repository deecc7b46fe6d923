//! The probes themselves.
//!
//! A [`Prober`] owns its probes as futures: whoever polls it drives them, and dropping it ends them. At
//! most [`RUNNING_MAX`] run at a time (an fd each); others wait their turn. Every job comes back as one
//! answer.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use fairlead_config::policy::{HealthCheck, Probe};
use fairlead_runtime::clock::Clock;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::probe::{Answer, Job, ProbeError, grpc};
use crate::{connect::Failure, directory::Signal};

/// The probes under way.
pub struct Prober {
    clock: Clock,
    running: FuturesUnordered<BoxFuture<'static, Answer>>,
    waiting: VecDeque<Job>,
}

// === impl Prober ===

impl Prober {
    /// A prober without probes.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            running: FuturesUnordered::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Sends a probe, or queues it.
    pub fn start(&mut self, job: Job) {
        if self.running.len() < RUNNING_MAX {
            self.running.push(Box::pin(probe(job, self.clock.clone())));
        } else {
            self.waiting.push_back(job);
        }
    }

    /// The next answer; waits for ever while there is no probe.
    ///
    /// Cancel safe: a probe goes on at the next call.
    pub async fn answer(&mut self) -> Signal {
        let Some(answer) = self.running.next().await else {
            return std::future::pending().await;
        };
        if let Some(job) = self.waiting.pop_front() {
            self.running.push(Box::pin(probe(job, self.clock.clone())));
        }
        Signal::Answer(answer)
    }

    /// Probes under way or queued.
    pub fn pending(&self) -> usize {
        self.running.len() + self.waiting.len()
    }
}

/// Sends one probe and waits for what comes of it.
async fn probe(job: Job, clock: Clock) -> Answer {
    let Some(check) = &job.service.policy.health_check else {
        let result = Err(ProbeError::Ours);
        return Answer { job, result };
    };
    let mut addr = job.endpoint.addr;
    addr.set_port(check.port.unwrap_or(addr.port()));
    let result = ask(check, addr, &clock).await;
    Answer { job, result }
}

async fn ask(
    check: &HealthCheck,
    addr: SocketAddr,
    clock: &Clock,
) -> Result<Option<Duration>, ProbeError> {
    let unanswered = |_| ProbeError::Unanswered;
    if let Probe::Udp { send, expect } = &check.probe {
        let asked = timeout(check.timeout, ask_udp(addr, send, expect)).await;
        return asked.map_err(unanswered)?.map(|()| None);
    }
    let began = clock.now();
    let connected = timeout(check.timeout, TcpStream::connect(addr)).await;
    let stream = connected.map_err(unanswered)?.map_err(fault)?;
    let took = clock.now().since(began);
    let left = check.timeout.saturating_sub(took);
    let asked = timeout(left, ask_stream(stream, check, addr)).await;
    asked.unwrap_or(Err(ProbeError::TimedOut))?;
    Ok(Some(took))
}

/// Asks what the check says over a connection.
async fn ask_stream(
    stream: TcpStream,
    check: &HealthCheck,
    addr: SocketAddr,
) -> Result<(), ProbeError> {
    // Closed by a reset: two thousand probes a second would fill the table of TIME_WAIT.
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .map_err(fault)?;
    match &check.probe {
        Probe::Tcp { send, expect } => ask_tcp(stream, send, expect).await?,
        Probe::Http {
            path,
            host,
            statuses,
        } => {
            let host = host
                .as_deref()
                .map_or_else(|| addr.to_string(), str::to_owned);
            let status = ask_http(stream, path, &host).await?;
            if !(statuses.0..=statuses.1).contains(&status) {
                return Err(ProbeError::Status(status));
            }
        }
        Probe::Grpc { service } => ask_grpc(stream, addr, service).await?,
        Probe::Udp { .. } => {}
    }
    Ok(())
}

async fn ask_tcp(mut stream: TcpStream, send: &[u8], expect: &[u8]) -> Result<(), ProbeError> {
    stream.write_all(send).await.map_err(fault)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !contains(&answer, expect) {
        let length = stream.read(&mut chunk).await.map_err(fault)?;
        if length == 0 {
            return Err(if answer.is_empty() {
                ProbeError::Closed
            } else {
                ProbeError::Unexpected
            });
        }
        answer.extend_from_slice(&chunk[..length]);
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(ProbeError::Unexpected);
        }
    }
    Ok(())
}

async fn ask_udp(addr: SocketAddr, send: &[u8], expect: &[u8]) -> Result<(), ProbeError> {
    let local = match addr {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(local).await.map_err(|_| ProbeError::Ours)?;
    socket.connect(addr).await.map_err(fault)?;
    socket.send(send).await.map_err(fault)?;
    let mut datagram = [0; 4096];
    let length = socket.recv(&mut datagram).await.map_err(fault)?;
    if contains(&datagram[..length], expect) {
        Ok(())
    } else {
        Err(ProbeError::Unexpected)
    }
}

async fn ask_http(stream: TcpStream, path: &str, host: &str) -> Result<u16, ProbeError> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "fairlead-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProbeError::Ours)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| ProbeError::Closed)?;
    let response = drive(sender.send_request(request), connection).await;
    response
        .map(|response| response.status().as_u16())
        .map_err(broken)
}

async fn ask_grpc(stream: TcpStream, addr: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let request = Request::post(format!("http://{addr}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "fairlead-probe")
        .body(Full::new(Bytes::from(grpc::request(service))))
        .map_err(|_| ProbeError::Ours)?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(|_| ProbeError::Closed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        read_grpc(response).await
    };
    drive(answer, connection).await
}

/// Polls a connection until the answer is there. A connection that ends has told its streams, so the
/// answer comes by itself then.
async fn drive<A>(answer: impl Future<Output = A>, connection: impl Future) -> A {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = connection => {}
    }
    answer.await
}

async fn read_grpc(response: Response<Incoming>) -> Result<(), ProbeError> {
    if response.status() != http::StatusCode::OK {
        return Err(ProbeError::Status(response.status().as_u16()));
    }
    let code = |headers: &http::HeaderMap| {
        let code = headers.get("grpc-status")?.to_str().ok()?;
        code.parse::<u8>().ok()
    };
    // A call that fails at once has its code among the headers.
    if let Some(code) = code(response.headers()).filter(|&code| code != 0) {
        return Err(ProbeError::Grpc(code));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|_| ProbeError::Closed)?;
    if let Some(code) = body.trailers().and_then(code).filter(|&code| code != 0) {
        return Err(ProbeError::Grpc(code));
    }
    match grpc::status(&body.to_bytes()) {
        Some(grpc::SERVING) => Ok(()),
        Some(status) => Err(ProbeError::NotServing(status)),
        None => Err(ProbeError::Unexpected),
    }
}

fn contains(answer: &[u8], expect: &[u8]) -> bool {
    expect.is_empty() || answer.windows(expect.len()).any(|window| window == expect)
}

fn broken(error: hyper::Error) -> ProbeError {
    if error.is_parse() {
        ProbeError::Unexpected
    } else {
        ProbeError::Closed
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "used as a function value for `map_err`"
)]
fn fault(error: std::io::Error) -> ProbeError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionReset | ConnectionAborted | BrokenPipe
    ) {
        return ProbeError::Closed;
    }
    match error.raw_os_error().map(Failure::from_errno) {
        Some(Failure::Refused) => ProbeError::Refused,
        Some(Failure::TimedOut) => ProbeError::TimedOut,
        Some(Failure::OutOfPorts | Failure::OutOfResources) => ProbeError::Ours,
        Some(Failure::Unreachable) | None => ProbeError::Unreachable,
    }
}

/// Probes under way, each with an fd.
pub const RUNNING_MAX: usize = 1024;
/// What is read of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests;
