//! Clients and endpoints that misbehave at every step of a session: what they leave behind, and whether
//! metrics and access log agree on it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::{
    harness::Process,
    support::{Holdings, PATIENCE, Server, exchange, file, free_addr, pages, reset, wait},
};

/// A proxy whose service is behind three frontends: plain, by server name, and with PROXY headers.
struct Stage {
    process: Process,
    admin: SocketAddr,
    named: SocketAddr,
    headed: SocketAddr,
    _servers: [Server; 2],
}

impl Stage {
    fn start() -> Self {
        let [admin, named, headed] = [(); 3].map(|()| free_addr());
        // Does what the first byte says: answer, reset, or finish.
        let server = Server::start(|mut stream| {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                match buffer[0] {
                    b'R' => return reset(stream),
                    b'F' => return,
                    _ if stream.write_all(&buffer[..length]).is_err() => return,
                    _ => {}
                }
            }
        });
        let rude = Server::start(reset);
        let text = format!(
            r#"
services:
  - name: t/s:p
    frontends:
      - {{ protocol: tcp, address: "$FRONT" }}
      - {{ protocol: tcp, address: "{named}", sni: [a.example] }}
      - {{ protocol: tcp, address: "{headed}", proxyProtocol: {{ accept: any, from: [127.0.0.0/8] }} }}
    policy: {{ accessLog: "$LOG", balancer: round-robin, passive: {{ maxEjected: 0% }} }}
    tiers:
      - members:
          - {{ name: m, endpoints: [ {{ address: "{}" }}, {{ address: "{}" }} ] }}
"#,
            server.addr, rude.addr
        );
        let arguments = ["--workers", "2", "--admin", &admin.to_string()];
        Self {
            process: Process::start(&text, &arguments),
            admin,
            named,
            headed,
            _servers: [server, rude],
        }
    }

    /// What the process holds when nobody is served, after everybody was once.
    fn at_rest(&self) -> Holdings {
        for _ in 0..20 {
            drop(self.served());
        }
        wait("the first sessions to end", || {
            let counted = self.counted();
            !counted.is_empty() && counted == self.logged()
        });
        let rest = Holdings::at_rest(|| pages::text(self.admin, "/metrics"));
        assert_eq!(rest.flows, 0);
        rest
    }

    /// A client of the plain frontend whose endpoint answers.
    fn served(&self) -> TcpStream {
        loop {
            let mut client = self.process.connect();
            if exchange(&mut client, b"hello").is_ok() {
                return client;
            }
        }
    }

    /// What metrics say of sessions that are over, by reason.
    fn counted(&self) -> BTreeMap<String, u64> {
        let page = pages::text(self.admin, "/metrics");
        let families = [
            "fairlead_sessions_closed_total{",
            "fairlead_sessions_unserved_total{",
        ];
        let mut counts = BTreeMap::new();
        for line in page
            .lines()
            .filter(|line| families.iter().any(|it| line.starts_with(it)))
        {
            let (labels, value) = line.rsplit_once(' ').unwrap();
            let reason = labels.split("reason=\"").nth(1).unwrap();
            let reason = reason.split('"').next().unwrap().to_owned();
            *counts.entry(reason).or_default() += value.parse::<u64>().unwrap();
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// What the log says of them.
    fn logged(&self) -> BTreeMap<String, u64> {
        let text = std::fs::read_to_string(self.process.folder.path().join("log")).unwrap();
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let reason = line["reason"].as_str().unwrap().to_owned();
            *counts.entry(reason).or_default() += 1;
        }
        counts
    }
}

fn open(front: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(front).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A client's first flight of TLS that names `a.example`.
fn hello() -> Vec<u8> {
    let name = b"a.example";
    let entry = [&[0, 0, name.len() as u8][..], name].concat();
    let list = [&[0, entry.len() as u8][..], &entry].concat();
    let extension = [&[0, 0, 0, list.len() as u8][..], &list].concat();
    let tail = [&[0, extension.len() as u8][..], &extension].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &tail].concat();
    let handshake = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 1, 0, handshake.len() as u8][..], &handshake].concat()
}

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.9 203.0.113.1 4321 443\r\n";

#[test]
fn an_endpoint_that_resets_everybody_before_a_byte_is_taken_out() {
    let (good, rude) = (Server::echo(), Server::start(reset));
    let admin = free_addr();
    let text = file("balancer: round-robin", &[good.addr, rude.addr]);
    let process = Process::start(&text, &["--admin", &admin.to_string()]);
    wait("its ejection", || {
        // Half of them meet it.
        exchange(&mut process.connect(), b"hello").ok();
        pages::text(admin, "/metrics")
            .lines()
            .any(|line| line.starts_with("fairlead_ejections_total{") && !line.ends_with(" 0"))
    });
}

#[test]
fn whoever_sends_byte_by_byte_is_served_and_whoever_stops_is_cut() {
    let stage = Stage::start();
    let before = stage.at_rest();
    // As slow as it gets within the deadline: each byte in a segment of its own.
    let drip = |front, first: &[u8]| {
        let mut client = open(front);
        for byte in first {
            client.write_all(std::slice::from_ref(byte)).unwrap();
        }
        client
    };
    wait("a header byte by byte to be taken", || {
        exchange(&mut drip(stage.headed, HEADER), b"hello").is_ok()
    });
    let hello = hello();
    wait("a hello byte by byte to be taken", || {
        let mut client = drip(stage.named, &hello);
        let mut answer = vec![0; hello.len()];
        client.read_exact(&mut answer).is_ok() && answer == hello
    });
    let mut stalled: Vec<TcpStream> = Vec::new();
    for length in [0, 1, 5, 20] {
        for _ in 0..5 {
            stalled.push(drip(stage.headed, &HEADER[..length]));
            stalled.push(drip(stage.named, &hello[..length]));
        }
    }
    // Others are served meanwhile.
    drop(stage.served());
    for client in &mut stalled {
        assert!(
            matches!(client.read(&mut [0]), Ok(0) | Err(_)),
            "it was cut"
        );
    }
    drop(stalled);
    before.wait_for(|| pages::text(stage.admin, "/metrics"));
}

#[test]
fn a_reset_at_any_step_leaves_nothing_behind_and_is_told_alike_by_metrics_and_log() {
    let mut stage = Stage::start();
    let before = stage.at_rest();
    let hello = hello();
    let bulk = vec![b'x'; 1 << 20];
    for _ in 0..8 {
        // Before a byte, in the middle of what comes first, and right after it.
        for (front, first) in [
            (stage.process.front, &b""[..]),
            (stage.headed, HEADER),
            (stage.named, &hello),
        ] {
            for length in [0, first.len() / 2, first.len()] {
                let mut client = open(front);
                client.write_all(&first[..length]).unwrap();
                reset(client);
            }
        }
        // In the middle of the relay: by the client, by the endpoint, with bytes on their way.
        reset(stage.served());
        let mut cut = stage.served();
        cut.write_all(b"R").unwrap();
        assert!(cut.read(&mut [0]).is_err(), "the reset arrived");
        let flooding = stage.served();
        let mut sender = flooding.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.write_all(&bulk).ok());
            let mut some = [0; 1000];
            (&flooding).read_exact(&mut some).unwrap();
            socket2::SockRef::from(&flooding)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
            flooding.shutdown(std::net::Shutdown::Both).ok();
        });
        drop((sender, flooding));
        // In half-closed state, from either side.
        let half = stage.served();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        reset(half);
        let mut half = stage.served();
        half.write_all(b"F").unwrap();
        assert_eq!(half.read(&mut [0]).unwrap(), 0);
        reset(half);
    }
    before.wait_for(|| pages::text(stage.admin, "/metrics"));
    wait("metrics and log to agree", || {
        stage.counted() == stage.logged()
    });
    let counted = stage.counted();
    for reason in ["client-reset", "endpoint-reset", "finished"] {
        assert!(counted.contains_key(reason), "{counted:?}");
    }

    // During a drain.
    let live: Vec<TcpStream> = (0..10).map(|_| stage.served()).collect();
    stage.process.signal("TERM");
    wait("the listeners to close", || {
        TcpStream::connect(stage.process.front).is_err()
    });
    live.into_iter().for_each(reset);
    assert_eq!(stage.process.ended().code(), Some(0));
    let told = std::fs::read_to_string(stage.process.folder.path().join("stderr")).unwrap();
    assert!(!told.contains("panicked"), "{told}");
}
