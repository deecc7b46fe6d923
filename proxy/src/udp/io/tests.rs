//! Real sockets on loopback; bytes, counters and log together.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
};

use arc_swap::ArcSwap;
use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    frontend::{Frontend, Protocol},
    name::{FrontendName, MemberName, ServiceName},
    policy::{AccessLog, Policy},
    service::{Member, MemberWeight, Service as ServiceRow, Tier},
    snapshot::{Change, Delta, Snapshot},
};

use super::*;
use crate::{
    access_log::sink::Sinks,
    directory::Directory,
    limits::Limiter,
    metrics::ServiceMetrics,
    registry::{EndpointState, Flags, FrontendId},
    sys::poll::{Interest, Poller},
    tcp::{
        pace::Pace,
        route::{Entry, Group, Route},
    },
    testing::allocation,
    udp::flows::World as _,
};

mod former;

#[test]
fn an_echo_comes_back_and_is_counted_and_logged_once() {
    for (front, back) in [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("127.0.0.1", "::1"),
    ] {
        let mut rig = Rig::new(front, &[back], |_| {});
        let client = socket(front);
        for round in 0..3_u8 {
            assert_eq!(
                rig.echo(&client, &[round; 700]),
                Some((0, vec![round; 700]))
            );
        }
        rig.datagrams.close_all(Reason::Shutdown);
        let member = rig.metrics().member(&member());
        assert_eq!(member.flows_opened.value(), 1);
        assert_eq!(
            (member.datagrams_up.value(), member.datagrams_down.value()),
            (3, 3)
        );
        assert_eq!(
            (
                member.datagram_bytes_up.value(),
                member.datagram_bytes_down.value()
            ),
            (2100, 2100)
        );
        assert_eq!(rig.metrics().flows_closed.value(Reason::Shutdown), 1);
        assert_eq!(rig.metrics().flows_active.value(), 0);
        let lines = rig.log();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["client"], client.local_addr().unwrap().to_string());
        assert_eq!(
            lines[0]["endpoint"],
            rig.backends[0].local_addr().unwrap().to_string()
        );
        assert_eq!(
            (&lines[0]["datagramsUp"], &lines[0]["bytesDown"]),
            (&3.into(), &2100.into())
        );
        assert_eq!(lines[0]["reason"], "shutdown");
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    for (any, asked) in [("0.0.0.0", "127.0.0.7"), ("::", "::1")] {
        let back = if any == "::" { "::1" } else { "127.0.0.1" };
        let mut rig = Rig::new(any, &[back], |_| {});
        let client = socket(back);
        let to = SocketAddr::new(asked.parse().unwrap(), rig.front.port());
        client.send_to(b"who", to).unwrap();
        rig.turn();
        rig.answer(0);
        rig.turn();
        let mut buffer = [0; 10];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (3, to));
        rig.datagrams.close_all(Reason::Shutdown);
        assert_eq!(rig.log()[0]["local"], to.to_string());
    }
}

#[test]
fn two_addresses_of_one_wildcard_are_two_flows() {
    let mut rig = Rig::new("0.0.0.0", &["127.0.0.1"], |_| {});
    let client = socket("127.0.0.1");
    for ip in ["127.0.0.1", "127.0.0.2"] {
        client.send_to(b"x", (ip, rig.front.port())).unwrap();
        rig.turn();
    }
    assert_eq!(rig.datagrams.flows(), 2);
}

#[test]
fn a_flow_is_rehomed_when_its_endpoint_is_removed_or_ejected() {
    for flag in [Flags::EJECTED, Flags::PROBE_DOWN, Flags::REMOVED] {
        let mut rig = Rig::new("127.0.0.1", &["127.0.0.1", "127.0.0.1"], |_| {});
        let client = socket("127.0.0.1");
        let (home, _) = rig.echo(&client, b"one").unwrap();
        rig.endpoint(home).change_flags(flag, Flags::NONE);
        let (next, _) = rig.echo(&client, b"two").unwrap();
        assert_ne!(home, next);
        assert_eq!(rig.endpoint(home).inflight(), 0);
        assert_eq!(rig.metrics().flows_rehomed.value(), 1);
        rig.datagrams.close_all(Reason::Shutdown);
        let line = &rig.log()[0];
        assert_eq!(
            (&line["rehomed"], &line["datagramsUp"]),
            (&1.into(), &2.into())
        );
    }
}

#[test]
fn a_draining_endpoint_keeps_its_flows_and_gets_no_new_ones() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1", "127.0.0.1"], |_| {});
    let client = socket("127.0.0.1");
    let (home, _) = rig.echo(&client, b"one").unwrap();
    rig.endpoint(home)
        .change_flags(Flags::DRAINING, Flags::NONE);
    assert_eq!(rig.echo(&client, b"two").unwrap().0, home);
    for _ in 0..4 {
        assert_ne!(rig.echo(&socket("127.0.0.1"), b"new").unwrap().0, home);
    }
}

#[test]
fn a_refused_datagram_is_a_strike_and_the_next_one_goes_elsewhere() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1", "127.0.0.1"], |_| {});
    let client = socket("127.0.0.1");
    let (home, _) = rig.echo(&client, b"one").unwrap();
    rig.lose(home);
    assert_eq!(rig.echo(&client, b"lost"), None, "nobody is there");
    rig.turn();
    let strikes: Vec<_> = rig.datagrams.take_reports().collect();
    assert_eq!(strikes.len(), 1);
    assert_eq!(
        (strikes[0].outcome, strikes[0].strikes),
        (Outcome::Refused, 1)
    );
    let (next, _) = rig.echo(&client, b"two").unwrap();
    assert_ne!(next, home);
}

#[test]
fn an_endpoint_that_refuses_from_the_start_costs_one_datagram() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    rig.lose(0);
    let client = socket("127.0.0.1");
    for _ in 0..3 {
        assert_eq!(rig.echo(&client, b"lost"), None);
        rig.turn();
    }
    let in_a_row: Vec<_> = rig
        .datagrams
        .take_reports()
        .map(|report| report.strikes)
        .collect();
    assert_eq!(in_a_row, [1, 2, 3]);
    let dropped = &rig.metrics().datagrams_dropped;
    assert_eq!(dropped.value(DatagramDrop::Unreachable), 3);
}

#[test]
fn a_train_passes_as_a_train_in_both_directions() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    let client = socket("127.0.0.1");
    let train: Vec<u8> = (0..2050_u32).map(|byte| byte as u8).collect();
    let message = Outgoing {
        to: Some(rig.front),
        from: None,
        segment: 500,
        bytes: &train,
    };
    Outbox::new()
        .send(&client, std::iter::once(message))
        .unwrap();
    rig.turn();

    datagram::prepare(rig.backends[0].as_fd(), false, Tell::Nothing).unwrap();
    let mut lengths = Vec::new();
    let mut buffer = vec![0; 5000];
    let mut from = None;
    while let Ok((length, source)) = rig.backends[0].recv_from(&mut buffer) {
        lengths.push(length);
        from = Some(source);
        if lengths.iter().sum::<usize>() == train.len() {
            break;
        }
    }
    assert_eq!(lengths, [500, 500, 500, 500, 50]);
    let message = Outgoing {
        to: from,
        from: None,
        segment: 500,
        bytes: &train,
    };
    Outbox::new()
        .send(&rig.backends[0], std::iter::once(message))
        .unwrap();
    rig.turn();
    let lengths: Vec<_> = (0..5).map(|_| client.recv(&mut buffer).unwrap()).collect();
    assert_eq!(lengths, [500, 500, 500, 500, 50]);
    rig.datagrams.close_all(Reason::Shutdown);
    let member = rig.metrics().member(&member());
    assert_eq!(
        (member.datagrams_up.value(), member.datagrams_down.value()),
        (5, 5)
    );
}

#[test]
fn the_largest_datagram_passes() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    let payload = vec![7; 65_507];
    assert_eq!(rig.echo(&socket("127.0.0.1"), &payload), Some((0, payload)));
}

#[test]
fn an_empty_datagram_passes() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    assert_eq!(rig.echo(&socket("127.0.0.1"), b""), Some((0, Vec::new())));
}

#[test]
fn what_nobody_can_take_is_dropped_and_counted_with_its_reason() {
    let mut rig = Rig::new("127.0.0.1", &[], |_| {});
    assert_eq!(rig.echo(&socket("127.0.0.1"), b"x"), None);
    assert_eq!(
        rig.metrics()
            .datagrams_dropped
            .value(DatagramDrop::NoEndpoint),
        1
    );
    assert_eq!(rig.datagrams.flows(), 0);

    let allow = "192.0.2.0/24".parse().unwrap();
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |frontend| {
        frontend.allow = vec![allow]
    });
    assert_eq!(rig.echo(&socket("127.0.0.1"), b"x"), None);
    assert_eq!(
        rig.metrics()
            .datagrams_dropped
            .value(DatagramDrop::NotAllowed),
        1
    );
}

#[test]
fn a_source_that_is_a_frontend_of_ours_is_refused() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    let forged = Ends {
        client: rig.front,
        local: rig.front,
    };
    assert_eq!(
        rig.datagrams.ground.route(&forged).err(),
        Some(DatagramDrop::NotAllowed)
    );
    let other_port = SocketAddr::new(rig.front.ip(), rig.front.port() ^ 1);
    let honest = Ends {
        client: other_port,
        local: rig.front,
    };
    assert!(rig.datagrams.ground.route(&honest).is_ok());
}

#[test]
fn a_multicast_datagram_is_nobody_s() {
    let mut rig = Rig::new("0.0.0.0", &["127.0.0.1"], |_| {});
    let group: Ipv4Addr = "239.1.2.3".parse().unwrap();
    let listener = rig.datagrams.listeners[0].as_ref().unwrap();
    let joined =
        socket2::SockRef::from(&listener.socket).join_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
    joined.unwrap();
    let client = socket("127.0.0.1");
    socket2::SockRef::from(&client)
        .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
        .unwrap();
    client.send_to(b"all", (group, rig.front.port())).unwrap();
    wait_for(&mut rig, |rig| {
        let process = &rig.datagrams.settings.metrics.process;
        process.datagrams_unrouted.value(DatagramDrop::NoFrontend) == 1
    });
    assert_eq!(rig.datagrams.flows(), 0);
}

#[test]
fn many_sources_never_take_more_sockets_than_the_budget() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    let proven = socket("127.0.0.1");
    rig.echo(&proven, b"x").unwrap();
    let clients: Vec<_> = (0..4 * FLOWS_MAX).map(|_| socket("127.0.0.1")).collect();
    for client in &clients {
        client.send_to(b"flood", rig.front).unwrap();
        rig.turn();
    }
    assert_eq!(rig.datagrams.flows(), FLOWS_MAX);
    let sockets = |rig: &Rig| rig.datagrams.upstreams.iter().flatten().count();
    assert_eq!(sockets(&rig), FLOWS_MAX);
    assert_eq!(rig.endpoint(0).inflight() as usize, FLOWS_MAX);
    assert_eq!(
        rig.metrics().flows_closed.value(Reason::Evicted) as usize,
        3 * FLOWS_MAX + 1
    );
    rig.answer_all(0);
    assert!(rig.echo(&proven, b"still here").is_some());
    rig.datagrams.close_all(Reason::Shutdown);
    assert_eq!((sockets(&rig), rig.endpoint(0).inflight()), (0, 0));
}

#[test]
fn a_listener_that_goes_takes_its_flows_with_it() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1"], |_| {});
    rig.echo(&socket("127.0.0.1"), b"x").unwrap();
    let watch = Polled(&rig.poller);
    rig.datagrams.unlisten(&watch, 1, Reason::FrontendRemoved);
    assert_eq!(rig.datagrams.flows(), 0);
    assert_eq!(rig.metrics().flows_closed.value(Reason::FrontendRemoved), 1);
    assert_eq!(rig.endpoint(0).inflight(), 0);
}

#[test]
fn datagrams_of_known_flows_allocate_nothing_in_the_shell_either() {
    let mut rig = Rig::new("0.0.0.0", &["127.0.0.1", "127.0.0.1"], |_| {});
    let clients: Vec<_> = (0..20).map(|_| socket("127.0.0.1")).collect();
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), rig.front.port());
    let mut buffer = [0; 100];
    let mut before = 0;
    for round in 0..30 {
        if round == 10 {
            before = allocation::count();
        }
        for client in &clients {
            client.send_to(b"ping", to).unwrap();
        }
        rig.turn();
        for backend in &rig.backends {
            while let Ok((length, from)) = backend.recv_from(&mut buffer) {
                backend.send_to(&buffer[..length], from).unwrap();
            }
        }
        rig.turn();
        for client in &clients {
            client.recv(&mut buffer).unwrap();
        }
    }
    assert_eq!(allocation::count() - before, 0);
}

/// One thread's datagrams, a poller, and endpoints that answer when told to.
struct Rig {
    datagrams: Datagrams,
    poller: Poller,
    front: SocketAddr,
    backends: Vec<UdpSocket>,
    _directory: Directory,
    route: Entry,
    endpoints: Vec<Arc<EndpointState>>,
    folder: tempfile::TempDir,
    sinks: Option<Sinks>,
}

struct Polled<'a>(&'a Poller);

impl Watch for Polled<'_> {
    fn listener(&self, socket: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
        self.0
            .add(socket, u64::from(slot) | LISTENER, Interest::Level)
    }

    fn flow(&self, socket: BorrowedFd<'_>, key: Key) -> io::Result<()> {
        let token = u64::from(key.index) | u64::from(key.generation) << 32;
        self.0.add(socket, token, Interest::Level)
    }

    fn forget(&self, socket: BorrowedFd<'_>) {
        self.0.remove(socket).unwrap();
    }
}

impl Rig {
    fn new(front: &str, backends: &[&str], change: impl FnOnce(&mut Frontend)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backends: Vec<_> = backends.iter().map(|ip| nonblocking(ip)).collect();
        let log = folder.path().join("log").to_str().unwrap().into();
        let (directory, snapshot) = directory(&backends, AccessLog::File(log));
        let view = directory.service(&service_name()).unwrap().view().clone();
        let view = view.unwrap();
        let endpoint = |backend: &UdpSocket| {
            let addr = backend.local_addr().unwrap();
            let mut all = view.endpoints().map(|(_, entry)| &entry.state);
            Arc::clone(all.find(|state| state.addr == addr).unwrap())
        };
        let endpoints = backends.iter().map(endpoint).collect();

        let socket = socket(front);
        let addr = socket.local_addr().unwrap();
        let mut frontend = frontend(addr);
        change(&mut frontend);
        let metrics = Metrics::new(1);
        let sinks = Sinks::new(1, Arc::clone(&metrics));
        let route = route(frontend, &directory, &snapshot, (&metrics, &sinks));
        let route: Entry = Arc::new(ArcSwap::from_pointee(route));
        let group = Arc::new(Group::of([&route]));
        let routes = RouteTable::default().with([(addr, Some(group))]);
        let settings = Settings {
            thread: 0,
            flows_max: FLOWS_MAX,
            seed: 5,
            metrics,
            clock: Clock::system(),
        };
        let mut datagrams = Datagrams::new(settings, Arc::new(routes));
        let poller = Poller::new(64).unwrap();
        datagrams
            .listen(&Polled(&poller), 1, Arc::new(socket.into()), addr, false)
            .unwrap();
        Self {
            datagrams,
            poller,
            front: addr,
            backends,
            _directory: directory,
            route,
            endpoints,
            folder,
            sinks: Some(sinks),
        }
    }

    /// Handles what the poller tells until it tells nothing. Loopback delivers before a send
    /// returns, so nothing can come later.
    fn turn(&mut self) {
        let zero = Some(Duration::ZERO);
        loop {
            let ready = self.poller.wait(zero).unwrap();
            let now = self.datagrams.settings.clock.now();
            for index in 0..ready {
                let (token, _) = self.poller.event(index).unwrap();
                let key = Key {
                    index: token as u32,
                    generation: (token >> 32) as u32 & 0x00ff_ffff,
                };
                if token & LISTENER == 0 {
                    self.datagrams.flow_ready(key, now);
                } else {
                    self.datagrams
                        .listener_ready(&Polled(&self.poller), key.index, now);
                }
            }
            self.datagrams.finish_round();
            self.datagrams.fire(now);
            if ready == 0 {
                return;
            }
        }
    }

    /// Lets endpoint `index` answer one datagram with itself.
    fn answer(&mut self, index: usize) -> bool {
        let mut buffer = vec![0; 70_000];
        let Ok((length, from)) = self.backends[index].recv_from(&mut buffer) else {
            return false;
        };
        self.backends[index]
            .send_to(&buffer[..length], from)
            .unwrap();
        true
    }

    /// Closes the socket of an endpoint.
    fn lose(&mut self, index: usize) {
        self.backends[index] = nonblocking("127.0.0.1");
    }

    fn answer_all(&mut self, index: usize) {
        while self.answer(index) {}
        self.turn();
    }

    /// Sends, and returns who answered what.
    fn echo(&mut self, client: &UdpSocket, payload: &[u8]) -> Option<(usize, Vec<u8>)> {
        client.send_to(payload, self.front).unwrap();
        self.turn();
        let who = (0..self.backends.len()).find(|index| self.answer(*index))?;
        self.turn();
        let mut buffer = vec![0; 70_000];
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(from, self.front);
        buffer.truncate(length);
        Some((who, buffer))
    }

    fn endpoint(&self, index: usize) -> &EndpointState {
        &self.endpoints[index]
    }

    fn metrics(&self) -> Arc<ServiceMetrics> {
        Arc::clone(&self.route.load().metrics)
    }

    /// The lines of the access log; nothing is logged afterwards.
    fn log(&mut self) -> Vec<serde_json::Value> {
        let route = self.route.load_full();
        let silent = Route {
            id: route.id,
            frontend: Arc::clone(&route.frontend),
            state: Arc::clone(&route.state),
            service: Arc::clone(&route.service),
            limiter: Arc::clone(&route.limiter),
            metrics: Arc::clone(&route.metrics),
            members: route.members.clone(),
            log: None,
            pace: Arc::clone(&route.pace),
        };
        drop(route);
        self.route.store(Arc::new(silent));
        drop(self.sinks.take());
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Multicast comes by way of the device's queue, so it may take a moment.
fn wait_for(rig: &mut Rig, done: impl Fn(&Rig) -> bool) {
    let clock = rig.datagrams.settings.clock.clone();
    let began = clock.now();
    while !done(rig) {
        assert!(
            clock.now() - began < Duration::from_secs(20),
            "it never came"
        );
        rig.turn();
        std::thread::yield_now();
    }
}

fn frontend(addr: SocketAddr) -> Frontend {
    Frontend {
        name: FrontendName::parse("shop/dns:udp#0").unwrap(),
        protocol: Protocol::Udp,
        ip: addr.ip(),
        ports: addr.port()..=addr.port(),
        service: service_name(),
        sni: Vec::new(),
        allow: Vec::new(),
        proxy_protocol: None,
    }
}

fn route(
    frontend: Frontend,
    directory: &Directory,
    snapshot: &Snapshot,
    (metrics, sinks): (&Arc<Metrics>, &Sinks),
) -> Route {
    let name = service_name();
    let state = Arc::clone(directory.service(&name).unwrap());
    let service = Arc::clone(&snapshot.services[&name]);
    let counted = metrics.service(&name);
    let view = state.view().clone().unwrap();
    let members = view.members.iter().map(|member| {
        let name = &member.state.name;
        (member.state.identity, counted.member(name))
    });
    Route {
        id: FrontendId(0),
        frontend: Arc::new(frontend),
        members: members.collect(),
        limiter: Limiter::new(&service.policy.limits, 1, Arc::clone(&counted)),
        metrics: counted,
        log: sinks.sink(&service.policy.access_log).unwrap(),
        pace: Arc::new(Pace::new(500)),
        state,
        service,
    }
}

fn directory(backends: &[UdpSocket], access_log: AccessLog) -> (Directory, Snapshot) {
    let endpoints = backends.iter().map(|backend| Endpoint {
        key: EndpointKey {
            member: member(),
            target: Target::Addr(backend.local_addr().unwrap()),
        },
        weight: 1,
        zone: None,
        state: ObjectState::Ready,
        hop: Hop::Direct,
    });
    let name = service_name();
    let service = ServiceRow {
        name: name.clone(),
        policy: Policy {
            access_log,
            ..Policy::default()
        },
        tiers: vec![Tier {
            members: vec![Member {
                name: member(),
                weight: MemberWeight::DEFAULT,
            }],
        }],
    };
    let changes = vec![
        Change::Service(Box::new(service)),
        Change::Endpoints(name, endpoints.collect()),
    ];
    let mut snapshot = Snapshot::default();
    let (touched, problems) = snapshot.apply(Delta { changes });
    assert_eq!(problems, []);
    let mut directory = Directory::new(1);
    directory.apply(&snapshot, &touched.services, &|_| Vec::new(), Tick::ZERO);
    (directory, snapshot)
}

fn service_name() -> ServiceName {
    ServiceName::parse("shop/dns:udp").unwrap()
}

fn member() -> MemberName {
    MemberName::parse("eu-1").unwrap()
}

fn nonblocking(ip: &str) -> UdpSocket {
    let socket = socket(ip);
    socket.set_nonblocking(true).unwrap();
    socket
}

fn socket(ip: &str) -> UdpSocket {
    let ip: IpAddr = ip.parse().unwrap();
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

const FLOWS_MAX: usize = 40;
const LISTENER: u64 = 1 << 63;
