//! The admin pages of the binary, over HTTP.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "tcp/support.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod support;

#[path = "process/harness.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use harness::Process;
use serde_json::Value;
use support::{PATIENCE, Server, exchange, file, free_addr, pages, wait};

#[test]
fn pages_show_a_live_session_and_a_drain_sends_the_next_one_away() {
    let server = Server::echo();
    let rig = Rig::start(&file("", &[server.addr]));
    let mut client = rig.process.connect();
    exchange(&mut client, b"hello").unwrap();
    // A raced second connect counts until it is closed.
    wait("one session in flight", || rig.endpoint()["inflight"] == 1);
    assert_eq!(rig.endpoint()["state"], "usable");

    assert_eq!(rig.status("POST", "/drain?member=m"), 200);
    assert!(
        rig.body("/explain?service=t/s:p")
            .contains("its weight is 0, so it drains")
    );
    exchange(&mut client, b"still served").unwrap();
    let mut refused = rig.process.connect();
    assert!(
        refused.read(&mut [0]).map_or(true, |count| count == 0),
        "no endpoint takes it"
    );
    let unserved = r#"fairlead_sessions_unserved_total{service="t/s:p",reason="no-endpoint"} 1"#;
    wait("the refusal to be counted", || {
        rig.body("/metrics").contains(unserved)
    });

    assert_eq!(rig.status("POST", "/drain?member=m&off=1"), 200);
    exchange(&mut rig.process.connect(), b"welcome again").unwrap();
    let opened = r#"fairlead_sessions_opened_total{service="t/s:p",member="m"} "#;
    assert!(rig.body("/metrics").contains(opened));
}

#[test]
fn a_refused_file_is_shown_until_a_good_one_comes() {
    let server = Server::echo();
    let rig = Rig::start(&file("", &[server.addr]));
    rig.process.write("services: [ { name: broken } ]");
    wait("the refusal", || {
        rig.json("/snapshot")["refused"].is_object()
    });
    let problems = rig.json("/snapshot")["refused"]["problems"].to_string();
    assert!(problems.contains("broken"), "{problems}");
    rig.write(&file("balancer: random,", &[server.addr]));
    wait("the good file", || {
        rig.json("/snapshot")["refused"].is_null()
    });
    assert_eq!(rig.json("/snapshot")["services"], 1);
}

#[test]
fn it_is_ready_until_it_is_asked_to_leave() {
    let server = Server::echo();
    let mut rig = Rig::with_arguments(&file("", &[server.addr]), &["--shutdown-delay", "1h"]);
    wait("readiness", || rig.status("GET", "/readyz") == 200);
    assert!(rig.body("/healthz").contains("ok"));
    rig.process.signal("TERM");
    wait("the end of readiness", || {
        rig.status("GET", "/readyz") == 503
    });
    assert!(rig.body("/readyz").contains("leaving"));
    assert!(rig.body("/healthz").contains("ok"), "it still answers");
    rig.process.signal("TERM");
    assert_eq!(rig.process.ended().code(), Some(0));
}

/// A service with a frontend, and `count` others with an endpoint each.
fn many(count: u32, server: &Server) -> String {
    let others = (0..count).map(|number| {
        format!(
            "  - {{ name: team-{number:05}/web:https, tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: \"{}\" }} ] }} ] }} ] }}\n",
            server.addr
        )
    });
    file("", &[server.addr]) + &others.collect::<String>()
}

#[test]
fn scrapes_that_nobody_reads_hold_neither_memory_nor_anybody_up() {
    let server = Server::echo();
    let rig = Rig::start(&many(4000, &server));
    let page = rig.body("/metrics?endpoints=1");
    assert!(page.len() > 5_000_000, "{}", page.len());
    let before = rig.process.anonymous();
    let stalled: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(rig.admin).unwrap();
            let head = "GET /metrics?endpoints=1 HTTP/1.1\r\nhost: x\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // Its beginning is there, so the page is under way.
            stream.read_exact(&mut [0; 64]).unwrap();
            stream
        })
        .collect();
    let grown = rig.process.anonymous().saturating_sub(before);
    assert!(grown < 20_000_000, "{grown} bytes for 40 readers");
    exchange(&mut rig.process.connect(), b"served").unwrap();
    rig.write(&many(3000, &server));
    wait("the reload", || rig.json("/snapshot")["services"] == 3001);
    drop(stalled);
}

#[test]
fn promtool_takes_the_metrics() {
    let server = Server::echo();
    let rig = Rig::start(&many(300, &server));
    for _ in 0..3 {
        exchange(&mut rig.process.connect(), b"hello").unwrap();
    }
    let pages = ["/metrics", "/metrics?endpoints=1"].map(|path| rig.body(path));
    for page in pages {
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]).stdin(Stdio::piped());
        let Ok(mut child) = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            println!("skipped: no promtool on PATH");
            return;
        };
        let mut input = child.stdin.take().unwrap();
        input.write_all(page.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

struct Rig {
    process: Process,
    admin: SocketAddr,
}

impl Rig {
    fn start(text: &str) -> Self {
        Self::with_arguments(text, &[])
    }

    fn with_arguments(text: &str, arguments: &[&str]) -> Self {
        let admin = free_addr();
        let text = with_admin(text, admin);
        let process = Process::start(&text, arguments);
        Self { process, admin }
    }

    fn write(&self, text: &str) {
        self.process.write(&with_admin(text, self.admin));
    }

    fn endpoint(&self) -> Value {
        let page = self.json("/services?service=t/s:p");
        page["services"][0]["tiers"][0]["members"][0]["endpoints"][0].clone()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.body(path)).unwrap()
    }

    fn body(&self, path: &str) -> String {
        pages::text(self.admin, path)
    }

    fn status(&self, method: &str, path: &str) -> u16 {
        pages::ask(self.admin, method, path).unwrap().status
    }
}

fn with_admin(text: &str, admin: SocketAddr) -> String {
    format!("admin: {admin}\n{text}")
}
