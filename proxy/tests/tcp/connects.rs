//! Finding an endpoint that answers, and the addresses that clients come by.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use fairlead_proxy::{access_log::Reason, directory::Signal, metrics::ConnectResult};

use crate::support::{Proxy, Server, exchange, file, free_addr, free_ports, reset, wait};

/// An address that swallows connects: its queue is full and nobody accepts.
struct BlackHole {
    addr: SocketAddr,
    _held: (socket2::Socket, Vec<socket2::Socket>),
}

impl BlackHole {
    fn new() -> Self {
        let kind = socket2::Type::STREAM;
        let listener = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let fill = (0..8).map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&addr.into()).ok();
            socket
        });
        let fill = fill.collect();
        Self {
            addr,
            _held: (listener, fill),
        }
    }
}

#[test]
fn a_black_holed_endpoint_costs_no_client_anything_and_is_taken_out() {
    let hole = BlackHole::new();
    let servers: Vec<Server> = (0..4).map(|_| Server::echo()).collect();
    let mut endpoints: Vec<SocketAddr> = servers.iter().map(|server| server.addr).collect();
    endpoints.push(hole.addr);
    let mut proxy = Proxy::start(
        2,
        &file(
            "balancer: round-robin, timeouts: { connect: 1s }",
            &endpoints,
        ),
    );
    let member = proxy.member("m");
    let mut sessions = 0;
    wait("the black hole to be ejected", || {
        for _ in 0..10 {
            assert_eq!(exchange(&mut proxy.connect(), b"hi").unwrap(), b"hi");
            sessions += 1;
        }
        observe(&mut proxy);
        proxy.service().ejections.value() > 0
    });
    assert!(proxy.service().hedges_won.value() > 0);
    wait("its connects to time out", || {
        member.connects.value(ConnectResult::TimedOut) > 0
    });
    wait("all to end", || {
        member.sessions_closed.value(Reason::Finished) == sessions
    });
    assert_eq!(proxy.service().sessions_unserved.sum(), 0);
    // Out of rotation: no connect to it, so none is hedged.
    let before = proxy.service().hedges.value();
    for _ in 0..50 {
        exchange(&mut proxy.connect(), b"hi").unwrap();
    }
    let hedged = proxy.service().hedges.value() - before;
    assert!(hedged <= 2, "{hedged} of 50 after the ejection");
}

#[test]
fn three_sessions_in_a_row_that_are_reset_before_data_eject_and_later_resets_do_not() {
    // One reads and resets; the other answers first.
    let early = Server::start(|mut stream| {
        stream.read_exact(&mut [0]).ok();
        reset(stream);
    });
    let late = Server::start(|mut stream| {
        stream.read_exact(&mut [0]).ok();
        stream.write_all(b"a").ok();
        // Its client has the answer before it asks to be reset.
        stream.read_exact(&mut [0]).ok();
        reset(stream);
    });
    let policy = "balancer: round-robin, passive: { maxEjected: 100 }";
    let mut proxy = Proxy::start(1, &file(policy, &[early.addr, late.addr]));
    let member = proxy.member("m");
    let mut sessions = 0;
    let mut session = |proxy: &Proxy| {
        let mut client = proxy.connect();
        client.write_all(b"x").ok();
        let answered = client.read_exact(&mut [0]).is_ok();
        client.write_all(b"x").ok();
        assert!(client.read_exact(&mut [0]).is_err(), "it was reset");
        sessions += 1;
        // What a session says of its endpoint, it says at its end.
        wait("the end", || {
            member.sessions_closed.value(Reason::EndpointReset) == sessions
        });
        answered
    };
    let (mut early_ones, mut strikes) = (0, Vec::new());
    wait("the ejection", || {
        early_ones += u32::from(!session(&proxy));
        strikes.extend(observe(&mut proxy));
        proxy.service().ejections.value() > 0
    });
    for _ in 0..6 {
        assert!(session(&proxy), "the other one alone");
        strikes.extend(observe(&mut proxy));
    }
    assert_eq!(early_ones, 3);
    assert_eq!(strikes, [early.addr; 3], "a reset after data is none");
    assert_eq!(proxy.service().ejections.value(), 1);
}

/// Takes over what the data threads saw; says whose strikes that were.
fn observe(proxy: &mut Proxy) -> Vec<SocketAddr> {
    let reports = proxy.fleet.reports.take();
    let strikes = reports.iter().filter(|report| report.strikes > 0);
    let strikes = strikes.map(|report| report.endpoint.addr).collect();
    proxy
        .control
        .observe(reports.into_iter().map(Signal::Report));
    proxy.control.advance();
    strikes
}

#[test]
fn a_wildcard_a_range_and_an_exact_address_each_find_their_service() {
    let (wild, exact) = (greeter("wild"), greeter("exact"));
    let port = free_ports(3);
    let service = |name: &str, front: &str, endpoint: SocketAddr| {
        format!(
            "  - name: t/{name}:p
    frontends: [ {{ protocol: tcp, address: \"{front}\" }} ]
    tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: \"{endpoint}\" }} ] }} ] }} ]
"
        )
    };
    let range = format!("0.0.0.0:{port}-{}", port + 2);
    let text = format!(
        "services:\n{}{}",
        service("wild", &range, wild.addr),
        service("exact", &format!("127.0.0.9:{}", port + 1), exact.addr)
    );
    let proxy = Proxy::start(2, &text);
    for (addr, expected) in [
        (format!("127.0.0.1:{port}"), "wild"),
        (format!("127.0.0.9:{port}"), "wild"),
        (format!("127.0.0.1:{}", port + 1), "wild"),
        (format!("127.0.0.9:{}", port + 1), "exact"),
        (format!("127.0.0.3:{}", port + 2), "wild"),
    ] {
        let mut answer = String::new();
        let mut client = TcpStream::connect(&addr).unwrap();
        std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
        assert_eq!(answer, expected, "{addr}");
    }
    drop(proxy);
}

#[test]
fn an_ipv6_wildcard_takes_ipv6_alone_and_leaves_ipv4_to_others() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 here");
        return;
    }
    let server = greeter("six");
    let port = free_addr().port();
    let other = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let text = file("accessLog: off", &[server.addr])
        .replace("accessLog: \"$LOG\", ", "")
        .replace("$FRONT", &format!("[::]:{port}"));
    let _proxy = Proxy::start(1, &text);
    let mut answer = String::new();
    let mut client = TcpStream::connect(("::1", port)).unwrap();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
    assert_eq!(answer, "six");
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (accepted, _) = other.accept().unwrap();
    assert!(accepted.as_raw_fd() != client.as_raw_fd());
}

fn greeter(text: &'static str) -> Server {
    Server::start(move |mut stream| {
        std::io::Write::write_all(&mut stream, text.as_bytes()).ok();
    })
}
