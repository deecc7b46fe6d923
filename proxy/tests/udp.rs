//! UDP through a whole proxy on real sockets: bytes, metrics and log asserted together.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use fairlead_proxy::{access_log::Reason, metrics::DatagramDrop};

#[path = "tcp/support.rs"]
#[allow(dead_code, reason = "shared with the TCP tests")]
mod support;

use support::{PATIENCE, Proxy, free_addr, wait};

#[test]
fn clients_get_their_own_answers_over_every_thread() {
    let echoes = [Echo::start(b"a"), Echo::start(b"b")];
    let proxy = Proxy::start(2, &file("", &[echoes[0].addr, echoes[1].addr]));
    let clients: Vec<_> = (0..40).map(|_| client()).collect();
    for round in 0..5_u8 {
        for (number, client) in clients.iter().enumerate() {
            client.send_to(&[number as u8, round], proxy.addr).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            let (answer, from) = receive(client);
            assert_eq!(&answer[1..], [number as u8, round]);
            assert_eq!(from, proxy.addr);
        }
    }
    let live = || -> i64 {
        let threads = proxy.metrics.threads().iter();
        threads.map(|thread| thread.flows_active.value()).sum()
    };
    assert_eq!(live(), 40);
    assert_eq!(proxy.service().flows_active.value(), 40);
    let member = proxy.member("m");
    assert_eq!(member.flows_opened.value(), 40);
    proxy.fleet.end();
    let lines = proxy.log(40);
    assert!(
        lines
            .iter()
            .all(|line| line["kind"] == "flow" && line["datagramsUp"] == 5)
    );
    assert_eq!(
        (member.datagrams_up.value(), member.datagrams_down.value()),
        (200, 200)
    );
    assert_eq!(
        (
            member.datagram_bytes_up.value(),
            member.datagram_bytes_down.value()
        ),
        (400, 600)
    );
    assert_eq!((live(), proxy.service().flows_active.value()), (0, 0));
}

#[test]
fn a_flow_moves_when_its_endpoint_is_removed_and_stays_when_others_are() {
    let echoes = [Echo::start(b"a"), Echo::start(b"b"), Echo::start(b"c")];
    let all: Vec<_> = echoes.iter().map(|echo| echo.addr).collect();
    let mut proxy = Proxy::start(1, &file("", &all));
    let client = client();
    let home = ask(&client, &proxy);
    let stays: Vec<_> = all
        .iter()
        .copied()
        .filter(|addr| *addr != all[index(home)])
        .collect();
    // Another endpoint goes: nothing happens to the flow.
    let other = stays[0];
    proxy.apply(&file(
        "",
        &all.iter()
            .copied()
            .filter(|addr| *addr != other)
            .collect::<Vec<_>>(),
    ));
    assert_eq!(ask(&client, &proxy), home);
    assert_eq!(proxy.service().flows_rehomed.value(), 0);
    // Its own goes: the next datagram is answered by what is left.
    proxy.apply(&file("", &stays[1..]));
    let next = ask(&client, &proxy);
    assert_eq!(all[index(next)], stays[1]);
    assert_eq!(proxy.service().flows_rehomed.value(), 1);
    proxy.fleet.end();
    let line = &proxy.log(1)[0];
    assert_eq!(
        (&line["rehomed"], &line["datagramsUp"]),
        (&1.into(), &3.into())
    );
    assert_eq!(line["endpoint"], stays[1].to_string());
}

#[test]
fn affinity_brings_a_client_back_to_its_endpoint() {
    let echoes = [Echo::start(b"a"), Echo::start(b"b"), Echo::start(b"c")];
    let all: Vec<_> = echoes.iter().map(|echo| echo.addr).collect();
    let proxy = Proxy::start(2, &file("affinity: client-ip", &all));
    let home = ask(&client(), &proxy);
    for _ in 0..20 {
        assert_eq!(
            ask(&client(), &proxy),
            home,
            "another port of the same address"
        );
    }
}

#[test]
fn a_frontend_that_moves_to_another_port_is_served_there() {
    let echo = Echo::start(b"a");
    let mut proxy = Proxy::start(1, &file("", &[echo.addr]));
    let client = client();
    ask(&client, &proxy);
    proxy.addr = free_addr();
    let applied = proxy.apply(&file("", &[echo.addr]));
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
    ask(&client, &proxy);
    let service = proxy.service();
    wait("the flow of the old frontend", || {
        service.flows_closed.value(Reason::FrontendRemoved) == 1
    });
    assert_eq!(service.flows_active.value(), 1);
}

#[test]
fn limits_hold_over_all_threads() {
    let echo = Echo::start(b"a");
    let proxy = Proxy::start(2, &file("limits: { flows: 7 }", &[echo.addr]));
    let clients: Vec<_> = (0..20).map(|_| client()).collect();
    for client in &clients {
        client.send_to(b"x", proxy.addr).unwrap();
    }
    let service = proxy.service();
    wait("13 refusals", || {
        service.datagrams_dropped.value(DatagramDrop::LimitFlows) == 13
    });
    assert_eq!(service.flows_active.value(), 7);
}

#[test]
fn a_flow_without_datagrams_ends_after_the_idle_timeout() {
    let echo = Echo::start(b"a");
    let proxy = Proxy::start(1, &file("timeouts: { udpIdle: 200ms }", &[echo.addr]));
    ask(&client(), &proxy);
    let lines = proxy.log(1);
    assert_eq!(
        (&lines[0]["reason"], &lines[0]["code"]),
        (&"idle-timeout".into(), &"cD".into())
    );
    let service = proxy.service();
    assert_eq!(service.flows_active.value(), 0);
    assert_eq!(service.flows_closed.value(Reason::IdleTimeout), 1);
}

#[test]
fn without_an_endpoint_datagrams_are_dropped_and_counted() {
    let proxy = Proxy::start(1, &file("", &[]));
    client().send_to(b"x", proxy.addr).unwrap();
    let service = proxy.service();
    wait("the drop", || {
        service.datagrams_dropped.value(DatagramDrop::NoEndpoint) == 1
    });
}

/// Answers each datagram with its tag in front, until dropped.
struct Echo {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(tag: &'static [u8]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let answer = [tag, &buffer[..length]].concat();
                let _gone = socket.send_to(&answer, from);
            }
        });
        Self {
            addr,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        client().send_to(b"stop", self.addr).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(client: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

/// The tag of the endpoint that answers.
fn ask(client: &UdpSocket, proxy: &Proxy) -> u8 {
    client.send_to(b"who", proxy.addr).unwrap();
    let (answer, from) = receive(client);
    assert_eq!((&answer[1..], from), (&b"who"[..], proxy.addr));
    answer[0]
}

fn index(tag: u8) -> usize {
    usize::from(tag - b'a')
}

fn file(policy: &str, endpoints: &[SocketAddr]) -> String {
    support::file(policy, endpoints).replace("protocol: tcp", "protocol: udp")
}
