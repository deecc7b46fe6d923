//! Between two network namespaces: the binary in one, clients and endpoints in the other. What
//! loopback can't show: addresses that aren't loopback's, a real MTU, hosts that don't answer.
//!
//! Needs root and `ip`; says so and passes where it has neither.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

#[path = "tcp/support.rs"]
#[allow(dead_code, reason = "shared with the TCP tests")]
mod support;

use support::{Holdings, PATIENCE, pages, wait};

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    Stage::play("inside_answers", &config("", "0.0.0.0:5000", &[ECHO_V4]));
    Stage::play("inside_answers", &config("", "[::]:5000", &[ECHO_V6]));
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_answers() {
    let echo = Echo::start();
    for front in echo.fronts(&["10.99.0.1", "10.99.0.3"], &["fd99::1", "fd99::3"]) {
        let client = client(front.ip());
        assert_eq!(ask(&client, front, b"who"), Some((b"who".to_vec(), front)));
    }
}

#[test]
fn datagrams_larger_than_the_path_are_fragmented_and_trains_arrive() {
    Stage::play("inside_large", &config("", "0.0.0.0:5000", &[ECHO_V4]));
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_large() {
    let _echo = Echo::start();
    let front = "10.99.0.1:5000".parse().unwrap();
    let client = client("10.99.0.2".parse().unwrap());
    for length in [1, 1472, 1473, 8000, 60_000] {
        let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
        assert_eq!(
            ask(&client, front, &payload),
            Some((payload, front)),
            "{length} bytes"
        );
    }
    // A train in one call; the kernel may split it anywhere on its way, and nothing may be lost.
    let socket = socket2::SockRef::from(&client);
    let train: Vec<u8> = (0..12_000_u32).map(|byte| (byte / 1200) as u8).collect();
    let parts: Vec<_> = train.chunks(1200).collect();
    for part in &parts {
        socket.send_to(part, &front.into()).unwrap();
    }
    let mut seen: Vec<u8> = parts
        .iter()
        .map(|_| receive(&client).unwrap().0[0])
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<u8>>());
}

#[test]
fn an_endpoint_without_a_way_to_it_costs_no_datagram() {
    let endpoints = ["10.99.77.1:7000", ECHO_V4];
    Stage::play("inside_no_way", &config("", "0.0.0.0:5000", &endpoints));
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_no_way() {
    let _echo = Echo::start();
    let front = "10.99.0.1:5000".parse().unwrap();
    for _ in 0..20 {
        let client = client("10.99.0.2".parse().unwrap());
        assert!(ask(&client, front, b"x").is_some());
    }
}

#[test]
fn a_flow_leaves_a_host_that_is_gone_or_refuses() {
    let endpoints = ["10.99.0.66:7000", "10.99.0.2:7009", ECHO_V4];
    Stage::play("inside_gone", &config("", "0.0.0.0:5000", &endpoints));
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_gone() {
    let _echo = Echo::start();
    let front = "10.99.0.1:5000".parse().unwrap();
    // Nobody is at .66, so its neighbours say it is unreachable; nothing listens at port 7009.
    for _ in 0..6 {
        let client = client("10.99.0.2".parse().unwrap());
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        wait("an answer from the endpoint that lives", || {
            ask(&client, front, b"x").is_some()
        });
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(
            ask(&client, front, b"again").is_some(),
            "the flow stays there"
        );
    }
    let page = metrics();
    let rehomed = value(&page, "fairlead_flows_rehomed_total");
    assert!(rehomed >= 1, "{rehomed}");
    assert_eq!(value(&page, "fairlead_flows_active"), 6);
}

#[test]
fn a_flood_from_many_sources_stays_within_its_files_and_starves_nobody() {
    Stage::play(
        "inside_flood",
        &format!("{}{FLOODED}", config("", "0.0.0.0:5000", &[ECHO_V4])),
    );
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_flood() {
    let _echo = Echo::start();
    // Takes everything and says nothing, so that its sources look made up.
    let _silent = UdpSocket::bind("10.99.0.2:7001").unwrap();
    serve_sessions();
    let files: u64 = value(&metrics(), "fairlead_fds_limit");
    let front = "10.99.0.1:5000".parse().unwrap();
    let known = client("10.99.0.2".parse().unwrap());
    assert!(ask(&known, front, b"before").is_some());
    let before = Holdings::at_rest(metrics);
    let sources = u32::try_from(files).unwrap().min(40_000);
    for source in 0..sources {
        let ip = Ipv4Addr::from(0x0a64_0000 + source);
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.send_to(b"flood", "10.99.0.1:5002").unwrap();
        if source % 500 == 0 {
            let mut session = TcpStream::connect("10.99.0.1:5001").unwrap();
            session.set_read_timeout(Some(PATIENCE)).unwrap();
            session.write_all(b"x").unwrap();
            let mut answer = [0];
            session.read_exact(&mut answer).unwrap();
        }
    }
    assert!(ask(&known, front, b"after").is_some(), "its flow is kept");
    let page = metrics();
    let flows = sum(&page, "fairlead_flows_active{");
    assert!(flows <= files / 4, "{flows} flows for {files} files");
    assert!(value(&page, "fairlead_fds_open") < files / 2);
    // The last of the flood may still be under way, and a page is no instant.
    wait("each that went to be counted", || {
        let page = metrics();
        let flows = sum(&page, "fairlead_flows_active{");
        let turned_away = sum(&page, "fairlead_flows_closed_total{")
            + sum(&page, "fairlead_datagrams_dropped_total{");
        let came = sum(&page, "fairlead_flows_opened_total{");
        came > files / 4 && turned_away + flows >= came
    });
    wait("the flood to be forgotten", || {
        ask(&known, front, b"still").is_some() && Holdings::at_rest(metrics) == before
    });
}

#[test]
fn peers_that_vanish_are_noticed_and_leave_nothing_behind() {
    Stage::play(
        "inside_vanishing",
        &format!("{}{VANISHING}", config("", "0.0.0.0:5000", &[ECHO_V4])),
    );
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_vanishing() {
    for number in 0..2 {
        ip(&[
            "addr",
            "add",
            &format!("10.99.0.{}/32", 4 + number),
            "dev",
            "b0",
        ]);
    }
    let _echo = Echo::start();
    keep_sessions();
    let session = |from: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let from = SocketAddr::from((from, 0));
        socket.bind(&from.into()).unwrap();
        let front: SocketAddr = "10.99.0.1:5001".parse().unwrap();
        socket.connect(&front.into()).unwrap();
        let mut session = TcpStream::from(socket);
        session.set_read_timeout(Some(PATIENCE)).unwrap();
        session.write_all(b"x").unwrap();
        session.read_exact(&mut [0]).unwrap();
        session
    };
    drop(session([10, 99, 0, 2]));
    let before = Holdings::at_rest(metrics);
    // Clients at one address, an endpoint at another one; then both hosts are gone without a word.
    let live: Vec<_> = (0..40).map(|_| session([10, 99, 0, 5])).collect();
    let mut stays = session([10, 99, 0, 2]);
    for number in 0..2 {
        ip(&[
            "addr",
            "del",
            &format!("10.99.0.{}/32", 4 + number),
            "dev",
            "b0",
        ]);
    }
    let closed = |reason: &str| {
        let page = metrics();
        let mut lines = page.lines().filter(|line| {
            line.starts_with("fairlead_sessions_closed_total{") && line.contains(reason)
        });
        lines.any(|line| !line.ends_with(" 0"))
    };
    wait("the clients to be missed", || closed("client-unreachable"));
    wait("their sessions to end", || {
        sum(&metrics(), "fairlead_thread_sessions{") <= 1
    });
    // It was at the endpoint that stays, or it has been reset.
    if stays.write_all(b"y").is_ok() {
        stays.read_exact(&mut [0]).ok();
    }
    drop(stays);
    wait("nothing to be left", || {
        Holdings::at_rest(metrics) == before
    });
    drop(live);
}

#[test]
fn a_host_that_falls_silent_costs_no_client_its_connection_and_is_taken_out() {
    Stage::play(
        "inside_hole",
        &format!("{}{HOLE}", config("", "0.0.0.0:5000", &[ECHO_V4])),
    );
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn inside_hole() {
    let second = ["addr", "add", "10.99.0.4/32", "dev", "b0"];
    ip(&second);
    let _echo = Echo::start();
    serve_sessions();
    let ask = || {
        let mut session = TcpStream::connect("10.99.0.1:5001").unwrap();
        session.set_read_timeout(Some(PATIENCE)).unwrap();
        session.write_all(b"x").unwrap();
        session.read_exact(&mut [0]).unwrap();
    };
    let served = || sum(&metrics(), "fairlead_sessions_opened_total{");
    wait("both to have served often enough to be known", || {
        (0..20).for_each(|_| ask());
        served() > 200
    });
    // From here on the address is nobody's, and what is sent there is heard by nobody.
    ip(&["addr", "del", "10.99.0.4/32", "dev", "b0"]);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    wait("the silent host to be ejected", || {
        for _ in 0..10 {
            let at = Instant::now();
            ask();
            slowest = slowest.max(at.elapsed());
        }
        sum(&metrics(), "fairlead_ejections_total{") > 0
    });
    println!(
        "out after {:?}, slowest connect {slowest:?}",
        began.elapsed()
    );
    let page = metrics();
    assert!(
        sum(&page, "fairlead_hedges_won_total{") > 0,
        "hedges helped"
    );
    assert_eq!(sum(&page, "fairlead_sessions_unserved_total{"), 0);
}

fn serve_sessions() {
    let server = TcpListener::bind("0.0.0.0:7000").unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut byte = [0];
            // Whoever has gone wants no answer.
            stream.read_exact(&mut byte).ok();
            stream.write_all(&byte).ok();
        }
    });
}

/// Answers each byte until its client has finished.
fn keep_sessions() {
    let server = TcpListener::bind("0.0.0.0:7000").unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    if stream.write_all(&byte).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Two namespaces joined by a veth pair, and the proxy in the first.
struct Stage {
    names: [String; 2],
    proxy: Option<Child>,
}

impl Stage {
    /// Runs the ignored test `inside` beside a proxy with this file.
    fn play(inside: &str, config: &str) {
        if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
            eprintln!("skipped: needs root and ip");
            return;
        }
        let mut stage = Self::build(inside);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.yaml");
        std::fs::write(&path, config).unwrap();
        let mut proxy = stage.inside(0, env!("CARGO_BIN_EXE_fairlead-proxy"));
        proxy.arg("--config").arg(&path).stderr(Stdio::null());
        stage.proxy = Some(proxy.spawn().unwrap());
        let program = std::env::current_exe().unwrap();
        let mut test = stage.inside(1, program.to_str().unwrap());
        test.args(["--ignored", "--exact", inside, "--nocapture"]);
        let output = test.output().unwrap();
        let (out, err) = (&output.stdout, &output.stderr);
        let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
        let passed = output.status.success() && out.contains("1 passed");
        assert!(passed, "{err}\n{out}");
    }

    fn build(inside: &str) -> Self {
        // Several stages stand at a time, one a test.
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let prefix = format!("flu{}-{number}-{}", std::process::id(), inside.len());
        let names = ["p", "s"].map(|role| format!("{prefix}{role}"));
        let [proxy, server] = &names;
        for name in &names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let stage = Self {
            names: names.clone(),
            proxy: None,
        };
        ip(&[
            "-n", proxy, "link", "add", "a0", "type", "veth", "peer", "name", "b0", "netns", server,
        ]);
        for (name, link, addresses) in [
            (
                proxy,
                "a0",
                &["10.99.0.1/24", "10.99.0.3/24", "fd99::1/64", "fd99::3/64"][..],
            ),
            (server, "b0", &["10.99.0.2/24", "fd99::2/64"]),
        ] {
            for address in addresses {
                // Without duplicate detection, which would keep an address back for a second.
                let family = if address.contains(':') { "-6" } else { "-4" };
                let mut arguments = vec!["-n", name, family, "addr", "add", address, "dev", link];
                arguments.extend((family == "-6").then_some("nodad"));
                ip(&arguments);
            }
            ip(&[
                "-n",
                name,
                "link",
                "set",
                link,
                "address",
                MACS[usize::from(link == "b0")],
            ]);
            ip(&["-n", name, "link", "set", link, "up"]);
        }
        // Known neighbours need no answer in time, which a busy machine might not give.
        for (name, link, mac, neighbours) in [
            (
                proxy,
                "a0",
                MACS[1],
                &["10.99.0.2", "10.99.0.4", "fd99::2"][..],
            ),
            (
                server,
                "b0",
                MACS[0],
                &["10.99.0.1", "10.99.0.3", "fd99::1", "fd99::3"],
            ),
        ] {
            for neighbour in neighbours {
                let entry = ["neigh", "add", neighbour, "lladdr", mac, "dev", link];
                ip(&[&["-n", name.as_str()], &entry[..]].concat());
            }
        }
        route(proxy, server);
        stage.hurry();
        stage
    }

    /// A host that doesn't answer is given up within 100 ms instead of seconds.
    fn hurry(&self) {
        let setting = "net.ipv4.neigh.a0.retrans_time_ms=30";
        let set = self.inside(0, "sysctl").args(["-qw", setting]).status();
        assert!(set.unwrap().success());
    }

    fn inside(&self, index: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[index], program]);
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            proxy.kill().ok();
            proxy.wait().ok();
        }
        for name in &self.names {
            Command::new("ip")
                .args(["netns", "del", name])
                .status()
                .ok();
        }
    }
}

/// Routes beyond the link: one to nowhere, one to a great many clients in the second namespace.
fn route(proxy: &str, server: &str) {
    ip(&["-n", proxy, "route", "add", "unreachable", "10.99.77.0/24"]);
    let many = "10.100.0.0/16";
    ip(&["-n", proxy, "route", "add", many, "via", "10.99.0.2"]);
    ip(&["-n", server, "route", "add", "local", many, "dev", "lo"]);
}

/// Answers on both families, until the test ends.
struct Echo;

impl Echo {
    fn start() -> Self {
        for addr in [ECHO_V4, ECHO_V6] {
            let socket = UdpSocket::bind(addr).unwrap();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).ok();
                }
            });
        }
        // The admin port listens before the frontends are bound, so that a connect says nothing: a
        // datagram sent too early is refused by the proxy's host.
        wait("the proxy to be ready", || {
            pages::ask(admin(), "GET", "/readyz").is_ok_and(|page| page.status == 200)
        });
        Self
    }

    /// The addresses of the family that the proxy serves.
    fn fronts(&self, v4: &[&str], v6: &[&str]) -> Vec<SocketAddr> {
        let all = v4
            .iter()
            .chain(v6)
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), 5000));
        let listens_v6 = pages::text(admin(), "/services").contains("fd99");
        all.filter(|front| front.is_ipv6() == listens_v6).collect()
    }
}

fn config(policy: &str, front: &str, endpoints: &[&str]) -> String {
    let rows: Vec<_> = endpoints
        .iter()
        .map(|addr| format!("{{ address: \"{addr}\" }}"))
        .collect();
    format!(
        r#"
admin: {ADMIN}
workers: 2
services:
  - name: t/e:p
    frontends: [ {{ protocol: udp, address: "{front}" }} ]
    policy: {{ balancer: round-robin, {policy} }}
    tiers: [ {{ members: [ {{ name: m, endpoints: [ {} ] }} ] }} ]
"#,
        rows.join(", ")
    )
}

fn client(near: IpAddr) -> UdpSocket {
    let any = if near.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ask(client: &UdpSocket, front: SocketAddr, payload: &[u8]) -> Option<(Vec<u8>, SocketAddr)> {
    client.send_to(payload, front).unwrap();
    receive(client)
}

fn receive(client: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    let (length, from) = client.recv_from(&mut buffer).ok()?;
    buffer.truncate(length);
    Some((buffer, from))
}

fn metrics() -> String {
    pages::text(admin(), "/metrics")
}

fn admin() -> SocketAddr {
    ADMIN.parse().unwrap()
}

/// The value of the only series of a family.
fn value(page: &str, family: &str) -> u64 {
    let heads = [format!("{family}{{"), format!("{family} ")];
    let line = page
        .lines()
        .find(|line| heads.iter().any(|head| line.starts_with(head)));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// All series that begin like this, added up.
fn sum(page: &str, head: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with(head));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().unwrap();
    assert!(done.success(), "ip {arguments:?}");
}

/// A service that nobody answers for, and one for sessions.
const FLOODED: &str = r#"
  - name: t/q:p
    frontends: [ { protocol: udp, address: "0.0.0.0:5002" } ]
    policy: { timeouts: { udpIdle: 15s } }
    tiers: [ { members: [ { name: m, endpoints: [ { address: "10.99.0.2:7001" } ] } ] } ]
  - name: t/s:p
    frontends: [ { protocol: tcp, address: "0.0.0.0:5001" } ]
    tiers: [ { members: [ { name: m, endpoints: [ { address: "10.99.0.2:7000" } ] } ] } ]
"#;
/// A service of two hosts, which are missed soon.
const VANISHING: &str = r#"
  - name: t/v:p
    frontends: [ { protocol: tcp, address: "0.0.0.0:5001" } ]
    policy:
      balancer: round-robin
      keepalive: { idle: 1s, interval: 1s, probes: 2 }
    tiers:
      - members:
          - name: m
            endpoints: [ { address: "10.99.0.2:7000" }, { address: "10.99.0.4:7000" } ]
"#;
/// A service of two hosts.
const HOLE: &str = r#"
  - name: t/h:p
    frontends: [ { protocol: tcp, address: "0.0.0.0:5001" } ]
    policy: { balancer: round-robin }
    tiers:
      - members:
          - name: m
            endpoints: [ { address: "10.99.0.2:7000" }, { address: "10.99.0.4:7000" } ]
"#;
const ECHO_V4: &str = "10.99.0.2:7000";
const ECHO_V6: &str = "[fd99::2]:7000";
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
const ADMIN: &str = "10.99.0.1:9900";
