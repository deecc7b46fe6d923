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
};

use harness::Process;
use serde_json::Value;
use support::{PATIENCE, Server, exchange, file, free_addr, wait};

#[test]
fn pages_show_a_live_session_and_a_drain_sends_the_next_one_away() {
    let server = Server::echo();
    let rig = Rig::start(&file("", &[server.addr]));
    let mut client = rig.process.connect();
    exchange(&mut client, b"hello").unwrap();
    // A raced second connect counts until it is closed.
    wait("one session in flight", || rig.endpoint()["inflight"] == 1);
    assert_eq!(rig.endpoint()["state"], "usable");

    let drained = rig.ask("POST", "/drain?member=m");
    assert!(drained.starts_with("HTTP/1.1 200"), "{drained}");
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

    rig.ask("POST", "/drain?member=m&off=1");
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
    wait("readiness", || {
        rig.ask("GET", "/readyz").starts_with("HTTP/1.1 200")
    });
    assert!(rig.body("/healthz").contains("ok"));
    rig.process.signal("TERM");
    wait("the end of readiness", || {
        rig.ask("GET", "/readyz").starts_with("HTTP/1.1 503")
    });
    assert!(rig.body("/readyz").contains("leaving"));
    assert!(rig.body("/healthz").contains("ok"), "it still answers");
    rig.process.signal("TERM");
    assert_eq!(rig.process.ended().code(), Some(0));
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
        let answer = self.ask("GET", path);
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn with_admin(text: &str, admin: SocketAddr) -> String {
    format!("admin: {admin}\n{text}")
}
