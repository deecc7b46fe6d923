//! The process under a control plane, seen from outside: real sockets, a real binary.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "tcp/support.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod support;

#[path = "xds/plane.rs"]
mod plane;

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use fairlead_config::{snapshot::Snapshot, xds::proto::fairlead::VerdictKind, yaml};
use plane::Plane;
use support::{Server, exchange, file, free_addr, pages, wait};

/// The binary, fed by a control plane.
struct Proxy {
    child: Child,
    admin: SocketAddr,
}

impl Proxy {
    fn start(plane: SocketAddr, state: &Path) -> Self {
        Self::start_with(plane, state, &[])
    }

    fn start_with(plane: SocketAddr, state: &Path, arguments: &[&str]) -> Self {
        let server = format!("http://{plane}");
        let admin = free_addr();
        let child = Command::new(env!("CARGO_BIN_EXE_fairlead-proxy"))
            .args(["--xds", &server, "--node", "proxy-1", "--workers", "1"])
            .arg("--xds-state")
            .arg(state)
            .args(["--admin", &admin.to_string()])
            .args(arguments)
            .stderr(Stdio::null())
            .spawn();
        Self {
            child: child.unwrap(),
            admin,
        }
    }

    /// An admin page; empty while it can't be had.
    fn page(&self, path: &str) -> String {
        let page = pages::ask(self.admin, "GET", path);
        page.map_or_else(|_| String::new(), |page| page.body)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn snapshot(front: SocketAddr, policy: &str, endpoints: &[SocketAddr]) -> Snapshot {
    let text = file(policy, endpoints)
        .replace("$FRONT", &front.to_string())
        .replace("$LOG", "off");
    let file = yaml::parse(text.as_bytes());
    file.unwrap_or_else(|problems| panic!("{problems}"))
        .snapshot
}

/// Whether a connection to `front` is answered by an echo.
fn serves(front: SocketAddr) -> bool {
    let client = TcpStream::connect(front);
    client.is_ok_and(|mut client| exchange(&mut client, b"hello").is_ok())
}

/// Waits until the next connections are served by somebody who answers with `answer`.
fn wait_for_answer(front: SocketAddr, answer: &[u8]) {
    wait("the other server's answer", || {
        use std::io::Read;
        let Ok(mut client) = TcpStream::connect(front) else {
            return false;
        };
        let mut found = vec![0; answer.len()];
        client.read_exact(&mut found).is_ok() && found == answer
    });
}

fn saying(text: &'static [u8]) -> Server {
    use std::io::Write;
    Server::start(move |mut client| {
        client.write_all(text).ok();
    })
}

#[test]
fn it_serves_what_the_control_plane_says_and_follows_changes() {
    let (one, two) = (saying(b"one"), saying(b"two"));
    let front = free_addr();
    let plane = Plane::start(free_addr());
    plane.set(&snapshot(front, "", &[one.addr]));
    let folder = tempfile::tempdir().unwrap();
    let _proxy = Proxy::start(plane.addr, &folder.path().join("state"));
    wait_for_answer(front, b"one");
    plane.set(&snapshot(front, "", &[two.addr]));
    wait_for_answer(front, b"two");
    plane.set(&Snapshot::default());
    wait("the frontend to go", || TcpStream::connect(front).is_err());
}

#[test]
fn it_goes_on_without_the_control_plane_and_starts_without_it() {
    let server = Server::echo();
    let front = free_addr();
    let plane = Plane::start(free_addr());
    plane.set(&snapshot(front, "", &[server.addr]));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let addr = plane.addr;
    let proxy = Proxy::start(addr, &state);
    wait("the first session", || serves(front));
    wait("the state on disk", || state.exists());
    let connected = |proxy: &Proxy, is: u8| {
        let line = format!("\nfairlead_control_plane_connected {is}\n");
        wait("the connection in metrics", || {
            proxy.page("/metrics").contains(&line)
        });
    };
    connected(&proxy, 1);
    let page = proxy.page("/snapshot").replace(char::is_whitespace, "");
    assert!(
        page.contains("\"controlPlane\":{\"connected\":true"),
        "{page}"
    );
    drop(plane);
    connected(&proxy, 0);
    for _ in 0..20 {
        assert!(serves(front), "the control plane is gone, nothing else is");
    }
    drop(proxy);
    let _proxy = Proxy::start(addr, &state);
    wait("the first session of the second process", || serves(front));
}

#[test]
fn a_refused_resource_is_named_to_the_control_plane_and_the_rest_serves() {
    let server = Server::echo();
    let front = free_addr();
    let plane = Plane::start(free_addr());
    let mut wanted = snapshot(front, "", &[server.addr]);
    let extra = file("", &[])
        .replace("t/s:p", "t/broken:p")
        .replace("$FRONT", &free_addr().to_string())
        .replace("$LOG", "off");
    let extra = yaml::parse(extra.as_bytes()).unwrap().snapshot;
    wanted.services.extend(extra.services);
    plane.break_cluster("t/broken:p");
    plane.set(&wanted);
    let folder = tempfile::tempdir().unwrap();
    let _proxy = Proxy::start(plane.addr, &folder.path().join("state"));
    wait("the good service", || serves(front));
    wait("the refusal", || {
        let refusals = plane.refusals();
        refusals
            .iter()
            .any(|text| text.contains("cluster t/broken:p"))
    });
}

#[test]
fn it_is_not_ready_before_it_knows_what_to_serve() {
    let server = Server::echo();
    let (front, addr) = (free_addr(), free_addr());
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(addr, &folder.path().join("state"));
    wait("the reason", || {
        proxy
            .page("/readyz")
            .contains("the control plane's first answer")
    });
    let _plane = Plane::start_with(addr, &snapshot(front, "", &[server.addr]));
    wait("readiness", || {
        pages::ask(proxy.admin, "GET", "/readyz").is_ok_and(|page| page.status == 200)
    });
    assert!(serves(front));
}

#[test]
fn an_upgrade_under_a_control_plane_refuses_no_connection() {
    let server = Server::echo();
    let front = free_addr();
    let plane = Plane::start(free_addr());
    plane.set(&snapshot(front, "", &[server.addr]));
    let folder = tempfile::tempdir().unwrap();
    let (state, door) = (folder.path().join("state"), folder.path().join("door"));
    let takeover = ["--takeover", door.to_str().unwrap()];
    let old = Proxy::start_with(plane.addr, &state, &takeover);
    wait("the first session", || serves(front));
    wait("the door", || door.exists());
    // Without its state, the successor learns all of it from the control plane.
    let none = folder.path().join("none");
    let new = Proxy::start_with(plane.addr, &none, &takeover);
    let mut old = old;
    wait("the old process to leave", || {
        assert!(serves(front));
        old.child.try_wait().unwrap().is_some()
    });
    assert!(serves(front));
    drop(new);
}

#[test]
fn load_and_verdicts_come_back() {
    let server = Server::echo();
    let dead = free_addr();
    let front = free_addr();
    let plane = Plane::start(free_addr());
    let check = "healthCheck: { tcp: {}, interval: 100ms }";
    plane.set(&snapshot(front, check, &[server.addr, dead]));
    let folder = tempfile::tempdir().unwrap();
    let _proxy = Proxy::start(plane.addr, &folder.path().join("state"));
    wait("the verdict on the dead endpoint", || {
        let verdicts = plane.verdicts();
        let bad = verdicts
            .iter()
            .filter(|it| it.kind() == VerdictKind::ProbeFailed);
        bad.count() == 1
    });
    let before = plane.sessions("t/s:p");
    for _ in 0..25 {
        assert!(serves(front));
    }
    wait("25 sessions in reports", || {
        plane.sessions("t/s:p") >= before + 25
    });
    assert_eq!(plane.node(), "proxy-1");
}
