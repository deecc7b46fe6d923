//! Each probe against a real socket that behaves, and against some that don't.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use fairlead_config::{name::MemberName, policy::Policy};
use http_body_util::{StreamBody, combinators::BoxBody};
use hyper::{body::Frame, service::service_fn};
use tokio::net::TcpListener;

use super::*;
use crate::{
    balancer::hash,
    registry::{EndpointId, EndpointState, MemberState, ServiceId, ServiceState},
    testing::services::service,
};

type Peer = Pin<Box<dyn Future<Output = ()>>>;

/// Probes `addr` while `peer` runs.
async fn ask_while(
    peer: impl Future<Output = ()>,
    addr: SocketAddr,
    probe: Probe,
) -> Result<bool, ProbeError> {
    let mut check = HealthCheck::new(probe);
    check.timeout = Duration::from_secs(5);
    run(peer, addr, check).await
}

async fn run(
    peer: impl Future<Output = ()>,
    addr: SocketAddr,
    check: HealthCheck,
) -> Result<bool, ProbeError> {
    let fixture = service("a:1")
        .policy(|policy: &mut Policy| policy.health_check = Some(check))
        .build();
    let name = MemberName::parse("a").unwrap();
    let state = ServiceState::new(ServiceId(0), fixture.name.clone());
    let member = MemberState::new(name, Arc::new(state));
    assert_eq!(member.identity, hash::member("a"));
    let mut prober = Prober::new(Clock::default());
    prober.start(Job {
        endpoint: Arc::new(EndpointState::new(EndpointId(0), addr, Arc::new(member))),
        service: fixture.snapshot.services[&fixture.name].clone(),
        is_sample: false,
    });
    let signal = tokio::select! {
        signal = prober.answer() => signal,
        () = peer => panic!("the peer ended first"),
    };
    assert_eq!(prober.pending(), 0);
    let Signal::Answer(answer) = signal else {
        panic!("a prober answers");
    };
    answer.result.map(|took| took.is_some())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Accepts one connection, reads once, says `answer` and closes.
async fn says(answer: &'static [u8]) -> (Peer, SocketAddr) {
    let (listener, addr) = listener().await;
    let peer = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _read = stream.read(&mut request).await;
        // The prober may have closed already.
        let _written = stream.write_all(answer).await;
        drop(stream);
        std::future::pending().await
    };
    (Box::pin(peer), addr)
}

fn tcp(send: &[u8], expect: &[u8]) -> Probe {
    Probe::Tcp {
        send: send.into(),
        expect: expect.into(),
    }
}

fn http_probe(statuses: (u16, u16)) -> Probe {
    Probe::Http {
        path: "/healthz".into(),
        host: None,
        statuses,
    }
}

#[tokio::test]
async fn a_tcp_probe_asks_for_a_connection_or_for_an_answer() {
    let (_listener, addr) = listener().await;
    let idle = std::future::pending();
    assert_eq!(ask_while(idle, addr, tcp(b"", b"")).await, Ok(true));

    let (peer, addr) = says(b"+PONG\r\n").await;
    assert_eq!(
        ask_while(peer, addr, tcp(b"PING\r\n", b"PONG")).await,
        Ok(true)
    );

    let (peer, addr) = says(b"-LOADING\r\n").await;
    let found = ask_while(peer, addr, tcp(b"PING\r\n", b"PONG")).await;
    assert_eq!(found, Err(ProbeError::Unexpected));

    let (peer, addr) = says(b"").await;
    let found = ask_while(peer, addr, tcp(b"PING\r\n", b"PONG")).await;
    assert_eq!(found, Err(ProbeError::Closed));
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (listener, addr) = listener().await;
    drop(listener);
    for probe in [tcp(b"", b""), http_probe((200, 299))] {
        let found = ask_while(std::future::pending(), addr, probe).await;
        assert_eq!(found, Err(ProbeError::Refused));
    }
}

#[tokio::test]
async fn a_silent_peer_times_out() {
    let (_listener, addr) = listener().await;
    let mut check = HealthCheck::new(http_probe((200, 299)));
    check.timeout = Duration::from_millis(20);
    let found = run(std::future::pending(), addr, check).await;
    assert_eq!(found, Err(ProbeError::TimedOut));
}

#[tokio::test]
async fn an_unanswered_connect_is_told_from_a_slow_answer() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = listener.unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    // The queue is full from here on, and whoever comes next is not answered.
    let _queued = TcpStream::connect(addr).await.unwrap();
    let mut check = HealthCheck::new(http_probe((200, 299)));
    check.timeout = Duration::from_millis(20);
    let found = run(std::future::pending(), addr, check).await;
    assert_eq!(found, Err(ProbeError::Unanswered));
}

#[tokio::test]
async fn an_http_probe_goes_by_the_status() {
    let ok = b"HTTP/1.1 204 No Content\r\n\r\n";
    let (peer, addr) = says(ok).await;
    assert_eq!(
        ask_while(peer, addr, http_probe((200, 299))).await,
        Ok(true)
    );

    let (peer, addr) = says(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    let found = ask_while(peer, addr, http_probe((200, 299))).await;
    assert_eq!(found, Err(ProbeError::Status(503)));

    let (peer, addr) = says(b"SSH-2.0-OpenSSH\r\n").await;
    let found = ask_while(peer, addr, http_probe((200, 599))).await;
    assert_eq!(found, Err(ProbeError::Unexpected));
}

#[tokio::test]
async fn a_udp_probe_expects_an_answer() {
    for (expect, expected) in [
        (&b"pong"[..], Ok(false)),
        (b"other", Err(ProbeError::Unexpected)),
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let peer = async move {
            let mut datagram = [0; 64];
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            assert_eq!(&datagram[..length], b"ping");
            socket.send_to(b"a pong", from).await.unwrap();
            std::future::pending().await
        };
        let probe = Probe::Udp {
            send: b"ping"[..].into(),
            expect: expect.into(),
        };
        assert_eq!(ask_while(peer, addr, probe).await, expected);
    }
}

#[tokio::test]
async fn a_udp_probe_sees_that_nobody_listens() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    drop(socket);
    let probe = Probe::Udp {
        send: b"ping"[..].into(),
        expect: b""[..].into(),
    };
    let found = ask_while(std::future::pending(), addr, probe.clone()).await;
    assert_eq!(found, Err(ProbeError::Refused));

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let mut check = HealthCheck::new(probe);
    check.timeout = Duration::from_millis(20);
    let found = run(std::future::pending(), addr, check).await;
    assert_eq!(found, Err(ProbeError::Unanswered));
}

/// A gRPC server that answers one call with these bytes and this code.
async fn grpc_server(body: &'static [u8], code: &'static str) -> (Peer, SocketAddr) {
    let (listener, addr) = listener().await;
    let peer = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = service_fn(move |request: Request<Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            let frames = [
                Frame::data(Bytes::from_static(body)),
                Frame::trailers(trailers),
            ];
            let stream = futures::stream::iter(frames.map(Ok::<_, Infallible>));
            let body: BoxBody<Bytes, Infallible> = BoxBody::new(StreamBody::new(stream));
            let response = Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(response.body(body).unwrap())
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // Ends with the prober's reset.
        let _ended = server.serve_connection(TokioIo::new(stream), answer).await;
        std::future::pending().await
    };
    (Box::pin(peer), addr)
}

#[tokio::test]
async fn a_grpc_probe_goes_by_the_serving_status() {
    let rows: [(&[u8], &str, Result<bool, ProbeError>); 4] = [
        (&[0, 0, 0, 0, 2, 8, 1], "0", Ok(true)),
        (&[0, 0, 0, 0, 2, 8, 2], "0", Err(ProbeError::NotServing(2))),
        (&[], "5", Err(ProbeError::Grpc(5))),
        (&[7], "0", Err(ProbeError::Unexpected)),
    ];
    for (body, code, expected) in rows {
        let (peer, addr) = grpc_server(body, code).await;
        let probe = Probe::Grpc {
            service: "shop.Checkout".into(),
        };
        assert_eq!(
            ask_while(peer, addr, probe).await,
            expected,
            "{body:?} {code}"
        );
    }
}
