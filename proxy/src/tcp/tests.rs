//! A host that runs out of something: the newest session pays, everybody else goes on.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::AtomicU32,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fairlead_config::{
    name::{MemberName, ServiceName},
    snapshot, yaml,
};

use super::*;
use crate::{
    access_log::sink::Sinks,
    control::{Control, Options},
    metrics::{ConnectResult, Fault, MemberMetrics},
    sockets::Budget,
    sys::faults::{Call, Faults},
};

#[test]
fn a_connection_that_cannot_be_accepted_for_want_of_memory_waits_until_it_can() {
    for errno in [libc::ENOMEM, libc::ENOBUFS] {
        let rig = Rig::start();
        let mut before = rig.session();
        rig.faults.fail(Call::Accept, errno, 0, 3);
        rig.session();
        assert_eq!(rig.faults.left(Call::Accept), 0);
        assert_eq!(rig.fleet.metrics.process.faults.value(Fault::Memory), 3);
        assert_eq!(exchange(&mut before), "hello");
        drop(before);
        rig.end();
    }
}

#[test]
fn a_connection_for_which_no_file_is_left_is_reset_at_once() {
    for errno in [libc::EMFILE, libc::ENFILE] {
        let rig = Rig::start();
        let mut before = rig.session();
        rig.faults.fail(Call::Accept, errno, 0, 1);
        rig.shed();
        let process = &rig.fleet.metrics.process;
        assert_eq!(process.faults.value(Fault::Fds), 1);
        wait("the count", || {
            process.unrouted.value(Reason::FdPressure) == 1
        });
        assert_eq!(exchange(&mut before), "hello");
        drop(before);
        rig.session();
        rig.end();
    }
}

#[test]
fn a_session_without_a_socket_or_a_watch_for_its_endpoint_is_shed_and_strikes_nobody() {
    let rows = [
        (Call::Socket, libc::ENOMEM, Fault::Memory),
        (Call::Socket, libc::ENOBUFS, Fault::Memory),
        (Call::Socket, libc::EMFILE, Fault::Fds),
        (Call::Watch, libc::ENOMEM, Fault::Memory),
        (Call::Watch, libc::ENOSPC, Fault::Memory),
    ];
    for (call, errno, fault) in rows {
        let rig = Rig::start();
        let mut before = rig.session();
        rig.faults.fail(call, errno, 0, 1);
        rig.shed();
        let reason = match fault {
            Fault::Fds => Reason::FdPressure,
            _ => Reason::MemoryPressure,
        };
        let service = rig.service();
        wait("the count", || service.sessions_unserved.value(reason) == 1);
        assert_eq!(rig.fleet.metrics.process.faults.value(fault), 1);
        let connects = &rig.member().connects;
        assert_eq!(connects.value(ConnectResult::LocalFault), 1, "{call:?}");
        assert_eq!(connects.value(ConnectResult::Unreachable), 0, "{call:?}");
        assert_eq!(exchange(&mut before), "hello");
        drop(before);
        rig.session();
        assert_eq!(service.ejections.value(), 0);
        rig.end();
    }
}

#[test]
fn a_served_session_that_cannot_be_watched_is_shed_and_the_next_one_served() {
    let rig = Rig::start();
    let mut before = rig.session();
    // The endpoint's socket is watched first, the client's when there is nothing to do.
    rig.faults.fail(Call::Watch, libc::ENOMEM, 1, 1);
    rig.shed();
    let member = rig.member();
    wait("the count", || {
        member.sessions_closed.value(Reason::MemoryPressure) == 1
    });
    assert_eq!(rig.fleet.metrics.process.faults.value(Fault::Memory), 1);
    assert_eq!(exchange(&mut before), "hello");
    drop(before);
    rig.session();
    rig.end();
}

#[test]
fn bulk_passes_whole_where_there_are_no_pipes() {
    for errno in [libc::EMFILE, libc::ENOMEM] {
        let rig = Rig::start();
        rig.faults.fail(Call::Pipe, errno, 0, u32::MAX);
        let bytes: Vec<u8> = (0..8_u32 << 20).map(|at| (at % 251) as u8).collect();
        let mut client = rig.connect();
        let mut sender = client.try_clone().unwrap();
        let mut answer = vec![0; bytes.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| sender.write_all(&bytes).unwrap());
            client.read_exact(&mut answer).unwrap();
        });
        assert!(answer == bytes);
        assert!(rig.faults.left(Call::Pipe) < u32::MAX, "it was asked for");
        assert_eq!(rig.fleet.metrics.thread(0).pipes.value(), 0);
        drop((client, sender));
        rig.end();
    }
}

/// One data thread whose system calls can fail, and an echo behind it.
struct Rig {
    fleet: Arc<Fleet>,
    control: Control,
    addr: SocketAddr,
    faults: Faults,
    thread: JoinHandle<io::Result<()>>,
}

impl Rig {
    fn start() -> Self {
        let metrics = Metrics::new(1);
        let clock = Clock::system();
        let fleet = Fleet::new(1, metrics.clone(), clock.clone()).unwrap();
        let options = Options {
            seed: 7,
            budget: Budget::of_files(16),
            ..Options::default()
        };
        let control = Control::new(fleet.clone(), clock, Sinks::new(1, metrics), options);
        let faults = Faults::default();
        let (running, failing) = (fleet.clone(), faults.clone());
        let thread = std::thread::spawn(move || {
            failing.install();
            running.run(0, 7)
        });
        let mut rig = Self {
            fleet,
            control,
            addr: free_addr(),
            faults,
            thread,
        };
        let text = format!(
            "services: [ {{ name: t/s:p, frontends: [ {{ protocol: tcp, address: \"{}\" }} ], \
             policy: {{ hedge: false }}, \
             tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: \"{}\" }} ] }} ] }} ] }} ]",
            rig.addr,
            echo()
        );
        let file = yaml::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
        let delta = snapshot::diff(rig.control.snapshot(), &file.snapshot);
        assert_eq!(rig.control.apply(delta).problems, []);
        rig.session();
        rig
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.addr).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A client that was served.
    fn session(&self) -> TcpStream {
        let mut client = self.connect();
        assert_eq!(exchange(&mut client), "hello");
        client
    }

    /// A client that is turned away.
    fn shed(&self) {
        let mut client = self.connect();
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    }

    fn service(&self) -> Arc<crate::metrics::ServiceMetrics> {
        let name = ServiceName::parse("t/s:p").unwrap();
        self.fleet.metrics.service(&name)
    }

    fn member(&self) -> Arc<MemberMetrics> {
        self.service().member(&MemberName::parse("m").unwrap())
    }

    /// Nothing lives when every client has left.
    fn end(self) {
        let name = ServiceName::parse("t/s:p").unwrap();
        let mut control = self.control;
        let state = control.directory().service(&name).unwrap().clone();
        wait("every session to end", || {
            let view = state.view();
            let mut endpoints = view.as_ref().unwrap().endpoints();
            self.fleet.sessions() == 0 && endpoints.all(|(_, entry)| entry.state.inflight() == 0)
        });
        self.fleet.end();
        self.thread.join().unwrap().unwrap();
    }
}

fn exchange(client: &mut TcpStream) -> String {
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    String::from_utf8(answer.to_vec()).unwrap()
}

fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 65_536];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// On a loopback address that nobody else uses: no client's port is in the way there.
fn free_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nth = NEXT.fetch_add(1, Relaxed) + std::process::id() * 64;
    let ip = Ipv4Addr::from(0x7f80_0000 + nth % 0x7f_0000);
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
