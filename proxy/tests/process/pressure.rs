//! Files and memory that run out, and how many frontends fit into the files there are.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use crate::{
    harness::{PROGRAM, Process},
    support::{PATIENCE, Server, exchange, file, free_addr, free_ports, wait},
};

/// Services of one frontend and one endpoint each, with the address of each frontend; the first is
/// `$FRONT`.
fn frontends(count: u32, server: &Server) -> (String, Vec<SocketAddr>) {
    let port = free_ports(1);
    let addr = |number| SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + number), port));
    let others: Vec<_> = (1..count).map(addr).collect();
    let rows = others.iter().map(|front| {
        let name = front.to_string().replace(['.', ':'], "-");
        format!(
            "  - {{ name: \"t/at-{name}:p\", frontends: [ {{ protocol: tcp, address: \"{front}\" }} ], \
             tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: \"{}\" }} ] }} ] }} ] }}\n",
            server.addr
        )
    });
    (file("", &[server.addr]) + &rows.collect::<String>(), others)
}

/// Whether a process may be started with this limit of open files.
fn may_limit(files: &str) -> bool {
    let mut command = Command::new("prlimit");
    let status = command.args([files, "true"]).status();
    let may = status.is_ok_and(|status| status.success());
    if !may {
        println!("skipped: prlimit is not there or not allowed");
    }
    may
}

#[test]
fn ten_thousand_frontends_are_served_with_twenty_thousand_files() {
    let files = "--nofile=20000:20000";
    if !may_limit(files) {
        return;
    }
    let server = Server::echo();
    let (text, others) = frontends(10_000, &server);
    let mut process = Process::start(&file("", &[server.addr]), &[]);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    process.write(&text);
    let program = Path::new("prlimit");
    let path = process.path();
    let arguments = [
        files,
        PROGRAM,
        "--config",
        path.to_str().unwrap(),
        "--workers",
        "1",
    ];
    process.child = process.run(program, &arguments);
    wait("the frontends", || {
        TcpStream::connect(process.front).is_ok()
    });
    let mut sessions = Vec::new();
    for front in others.iter().step_by(97).chain(others.last()) {
        let mut client = TcpStream::connect(front).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(&mut client, b"hello").unwrap();
        sessions.push(client);
    }
    assert!(process.fds() < 10_300, "{} files", process.fds());
}

#[test]
fn a_frontend_too_many_ends_the_start_with_the_limit_and_what_to_do() {
    let files = "--nofile=400:400";
    if !may_limit(files) {
        return;
    }
    let server = Server::echo();
    let (text, _) = frontends(252, &server);
    let process = Process::start(&file("", &[server.addr]), &[]);
    process.write(&text.replace("$FRONT", &free_addr().to_string()));
    let output = Command::new("prlimit")
        .args([files, PROGRAM, "--workers", "1", "--config"])
        .arg(process.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    for needle in [
        "beyond the 250 listening sockets that a limit of 400 open files has room for",
        "LimitNOFILE=",
    ] {
        assert!(message.contains(needle), "{needle} in {message}");
    }
    let named = message.matches("is beyond").count();
    assert_eq!(named, 2, "each that doesn't fit is named: {message}");
}

#[test]
fn out_of_descriptors_it_sheds_the_newest_keeps_the_rest_and_recovers() {
    let server = Server::echo();
    let process = Process::start(&file("", &[server.addr]), &["--workers", "1"]);
    exchange(&mut process.connect(), b"x").unwrap();
    let limit = (process.fds() + 60).to_string();
    let pid = process.child.id().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={limit}:{limit}")])
        .status();
    if !limited.is_ok_and(|status| status.success()) {
        println!("skipped: prlimit is not there or not allowed");
        return;
    }
    let mut served: Vec<TcpStream> = Vec::new();
    let mut shed = 0;
    for _ in 0..100 {
        let mut client = process.connect();
        match exchange(&mut client, b"hello") {
            Ok(_) => served.push(client),
            Err(_) => shed += 1,
        }
    }
    assert!(served.len() >= 20, "{} served", served.len());
    assert!(shed >= 40, "{shed} shed");
    let before = cpu_ticks(&process);
    for client in &mut served {
        assert_eq!(exchange(client, b"still").unwrap(), b"still");
    }
    let spent = cpu_ticks(&process) - before;
    assert!(spent < 50, "spun for {spent} ticks");
    served.clear();
    wait("room for a new session", || {
        exchange(&mut process.connect(), b"again").is_ok()
    });
}

/// CPU time in hundredths of a second.
fn cpu_ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    let fields: Vec<&str> = after.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
