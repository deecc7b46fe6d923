//! The process: start, reload, leave, pressure, leaks; seen from outside.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "tcp/support.rs"]
#[allow(dead_code, reason = "shared with the other test program")]
mod support;

#[path = "process/faults.rs"]
mod faults;
#[path = "process/flows.rs"]
mod flows;
#[path = "process/harness.rs"]
mod harness;
#[path = "process/pressure.rs"]
mod pressure;
#[path = "process/reload.rs"]
mod reload;
#[path = "process/steady.rs"]
mod steady;
#[path = "process/upgrade.rs"]
mod upgrade;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use harness::Process;
use support::{Holdings, Server, exchange, file, free_addr, pages, wait};

#[test]
fn asked_to_leave_it_lets_sessions_finish_and_exits_with_success() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &["--workers", "2"]);
    let mut client = process.connect();
    exchange(&mut client, b"before").unwrap();
    process.signal("TERM");
    wait("the listeners to close", || {
        TcpStream::connect(process.front).is_err()
    });
    assert_eq!(exchange(&mut client, b"during").unwrap(), b"during");
    assert!(process.child.try_wait().unwrap().is_none());
    drop(client);
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn without_sessions_it_leaves_at_once() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &["--drain-timeout", "1h"]);
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn it_accepts_for_the_shutdown_delay() {
    let server = Server::echo();
    let arguments = ["--shutdown-delay", "1h", "--drain-timeout", "1h"];
    let mut process = Process::start(&file("", &[server.addr]), &arguments);
    process.signal("TERM");
    for _ in 0..50 {
        exchange(&mut process.connect(), b"still welcome").unwrap();
    }
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0), "a second signal means now");
}

#[test]
fn what_lives_at_the_drain_timeout_is_reset() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &["--drain-timeout", "300ms"]);
    let mut client = process.connect();
    exchange(&mut client, b"x").unwrap();
    process.signal("TERM");
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn a_written_file_takes_effect_and_a_bad_one_changes_nothing() {
    let (one, two) = (greeter("one"), greeter("two"));
    let process = Process::start(&file("", &[one.addr]), &[]);
    assert_eq!(greeting(&process), "one");
    process.write("services: [ { name: broken } ]");
    process.write(&file("", &[two.addr]));
    wait("the new endpoint", || greeting(&process) == "two");
    process.write("services: [ { name: broken } ]");
    assert_eq!(greeting(&process), "two");
    process.signal("HUP");
    assert_eq!(greeting(&process), "two");
}

fn greeter(text: &'static str) -> Server {
    Server::start(move |mut stream| {
        stream.write_all(text.as_bytes()).ok();
    })
}

fn greeting(process: &Process) -> String {
    let mut text = String::new();
    process.connect().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_bad_file_or_a_taken_port_ends_the_start_with_every_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let text = file("accessLog: off", &[taken]).replace("accessLog: \"$LOG\", ", "");
    let rows = [
        (
            "services: [ { name: x } ]\nworker: 2",
            vec!["worker", "name"],
        ),
        (
            &*text.replace("$FRONT", &taken.to_string()),
            vec!["t/s:p#0", "in use"],
        ),
    ];
    for (text, needles) in rows {
        std::fs::write(&path, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_fairlead-proxy"))
            .arg("--config")
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        for needle in needles {
            assert!(message.contains(needle), "{needle} in {message}");
        }
    }
}

#[test]
fn a_thousand_sessions_leave_no_descriptor_behind() {
    let server = Server::echo();
    let admin = free_addr();
    let admin_flag = admin.to_string();
    let arguments = ["--workers", "2", "--admin", &admin_flag];
    let process = Process::start(&file("", &[server.addr]), &arguments);
    // What opens last at a start is the watch of the file.
    process.write(&file("balancer: random", &[server.addr]));
    wait("the reload", || pages::applied(admin) == 1);
    exchange(&mut process.connect(), b"x").unwrap();
    let page = || pages::text(admin, "/metrics");
    let before = Holdings::at_rest(page);
    for round in 0..10 {
        let mut clients: Vec<TcpStream> = (0..100).map(|_| process.connect()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            if index % 3 != round % 3 {
                exchange(client, &[7; 1000]).unwrap();
            }
        }
        for (index, client) in clients.into_iter().enumerate() {
            match index % 2 {
                0 => drop(client),
                _ => support::reset(client),
            }
        }
    }
    before.wait_for(page);
}

#[test]
fn a_restart_that_drains_resets_nobody_who_was_accepted() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &["--workers", "2"]);
    let front = process.front;
    let (stop, reset) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Refused after the end is right; an answer that is cut off is not.
                    let Ok(mut client) = TcpStream::connect(front) else {
                        return;
                    };
                    client.write_all(b"x\n").ok();
                    let mut line = String::new();
                    if BufReader::new(client).read_line(&mut line).is_err() {
                        reset.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..50 {
            exchange(&mut process.connect(), b"warm").unwrap();
        }
        process.signal("TERM");
        assert_eq!(process.ended().code(), Some(0));
        stop.store(true, Ordering::Relaxed);
    });
    let lost = reset.load(Ordering::Relaxed);
    assert_eq!(lost, 0, "connections were cut");
}
