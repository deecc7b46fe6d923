//! Changes under live sessions: reload, drain, removal, ports in use.

use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use fairlead_proxy::{
    access_log::Reason,
    directory::Signal,
    health::probe::{Answer, Job, ProbeError},
};

use crate::support::{Proxy, Server, exchange, file, wait};

#[test]
fn a_hundred_reloads_under_load_fail_no_connection() {
    let servers = [Server::echo(), Server::echo(), Server::echo()];
    let addrs: Vec<SocketAddr> = servers.iter().map(|server| server.addr).collect();
    let mut proxy = Proxy::start(2, &file("", &addrs));
    let front = proxy.addr;
    let (stop, done, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut long = proxy.connect();
    exchange(&mut long, b"before").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let client = std::net::TcpStream::connect(front);
                    let answer = client.and_then(|mut client| exchange(&mut client, b"load"));
                    let counter = if answer.is_ok() { &done } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..100 {
            let some: Vec<SocketAddr> = addrs.iter().copied().skip(round % 3).collect();
            let balancer = ["p2c", "round-robin", "maglev"][round % 3];
            let before = done.load(Ordering::Relaxed);
            // The long session's endpoint may be among those left out.
            let policy = format!("balancer: {balancer}, drain: {{ removed: 1h }}");
            let applied = proxy.apply(&file(&policy, &some));
            assert!(applied.problems.is_empty(), "{:?}", applied.problems);
            wait("some load between reloads", || {
                done.load(Ordering::Relaxed) > before + 2
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert_eq!(exchange(&mut long, b"after").unwrap(), b"after");
    drop(long);
    wait("all to end", || proxy.fleet.sessions() == 0);
    assert_eq!(proxy.service().sessions_unserved.sum(), 0);
}

#[test]
fn sessions_of_a_removed_endpoint_go_on_until_the_deadline_and_others_are_untouched() {
    let (goes, stays) = (Server::echo(), Server::echo());
    let policy = "balancer: round-robin, drain: { removed: 200ms }";
    let mut proxy = Proxy::start(1, &file(policy, &[goes.addr, stays.addr]));
    let mut clients = [proxy.connect(), proxy.connect()];
    for client in &mut clients {
        exchange(client, b"one").unwrap();
    }
    proxy.apply(&file(policy, &[stays.addr]));
    for client in &mut clients {
        exchange(client, b"still here").unwrap();
    }
    let mut cut = 0;
    wait("the deadline", || {
        proxy.control.advance();
        let member = proxy.member("m");
        member.sessions_closed.value(Reason::EndpointRemoved) == 1
    });
    for mut client in clients {
        match exchange(&mut client, b"survived?") {
            Ok(answer) => assert_eq!(answer, b"survived?"),
            Err(_) => cut += 1,
        }
    }
    assert_eq!(cut, 1);
    let lines = proxy.log(2);
    let line = lines
        .iter()
        .find(|line| line["reason"] == "endpoint-removed");
    assert_eq!(line.unwrap()["endpoint"], goes.addr.to_string());
}

#[test]
fn an_endpoint_that_comes_back_before_the_deadline_keeps_its_sessions() {
    let (one, two) = (Server::echo(), Server::echo());
    let policy = "drain: { removed: 300ms }";
    let both = file(policy, &[one.addr, two.addr]);
    let mut proxy = Proxy::start(1, &both);
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        exchange(client, b"one").unwrap();
    }
    proxy.apply(&file(policy, &[two.addr]));
    proxy.apply(&both);
    let start = std::time::Instant::now();
    wait("the former deadline", || {
        proxy.control.advance();
        start.elapsed() > std::time::Duration::from_millis(400)
    });
    for client in &mut clients {
        assert_eq!(exchange(client, b"two").unwrap(), b"two");
    }
}

#[test]
fn resets_at_a_deadline_are_paced() {
    let (goes, stays) = (Server::echo(), Server::echo());
    let policy = "drain: { removed: 0s, resetsPerSecond: 50 }";
    let mut proxy = Proxy::start(1, &file(policy, &[goes.addr]));
    let mut clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        exchange(client, b"one").unwrap();
    }
    let start = std::time::Instant::now();
    proxy.apply(&file(policy, &[stays.addr]));
    let member = proxy.member("m");
    wait("all to be reset", || {
        proxy.control.advance();
        member.sessions_closed.value(Reason::EndpointRemoved) == 20
    });
    // Five at once, then 50 a second: the last one comes 300 ms later.
    assert!(start.elapsed() >= std::time::Duration::from_millis(250));
    for mut client in clients {
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn sessions_of_an_endpoint_that_fails_its_probes_are_kept_or_reset_as_the_policy_says() {
    for (unhealthy, is_reset) in [("keep", false), ("reset", true)] {
        let (fails, stays) = (Server::echo(), Server::echo());
        let policy = format!(
            "balancer: round-robin, drain: {{ unhealthy: {unhealthy}, resetsPerSecond: 50 }}, \
             healthCheck: {{ tcp: {{}}, interval: 100ms, timeout: 100ms, unhealthyAfter: 2 }}"
        );
        let mut proxy = Proxy::start(1, &file(&policy, &[fails.addr, stays.addr]));
        let mut clients: Vec<_> = (0..40).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            exchange(client, b"one").unwrap();
        }
        let member = proxy.member("m");
        let (mut failed, mut start) = (0, std::time::Instant::now());
        wait("two probes to fail", || {
            start = std::time::Instant::now();
            failed += answer_probes(&mut proxy, fails.addr);
            failed >= 2
        });
        if is_reset {
            wait("its sessions to be reset", || {
                proxy.control.advance();
                member.sessions_closed.value(Reason::EndpointUnhealthy) == 20
            });
            // Five at once, then 50 a second.
            assert!(start.elapsed() >= std::time::Duration::from_millis(250));
        }
        let answers = clients.iter_mut().map(|client| exchange(client, b"two"));
        let cut = answers.filter(Result::is_err).count();
        assert_eq!(cut, if is_reset { 20 } else { 0 }, "{unhealthy}");
        // Those that are cut, and those of the other endpoint, which it takes alone now.
        for _ in 0..4 {
            exchange(&mut proxy.connect(), b"new").unwrap();
        }
        let closed = member.sessions_closed.value(Reason::EndpointUnhealthy);
        assert_eq!(closed, if is_reset { 20 } else { 0 }, "{unhealthy}");
    }
}

/// Answers the probes that are due, badly for one endpoint; says how often that was asked.
fn answer_probes(proxy: &mut Proxy, bad: SocketAddr) -> usize {
    proxy.control.advance();
    let jobs = proxy.control.take_probes();
    let is_bad = |job: &Job| job.endpoint.addr == bad;
    let asked = jobs.iter().filter(|job| is_bad(job)).count();
    let answers = jobs.into_iter().map(|job| {
        let result = match is_bad(&job) {
            true => Err(ProbeError::Refused),
            false => Ok(None),
        };
        Signal::Answer(Answer { job, result })
    });
    let answers: Vec<_> = answers.collect();
    proxy.control.observe(answers);
    proxy.control.advance();
    asked
}

#[test]
fn a_frontend_that_goes_away_lets_its_sessions_finish() {
    let server = Server::echo();
    let mut proxy = Proxy::start(2, &file("", &[server.addr]));
    let mut client = proxy.connect();
    exchange(&mut client, b"one").unwrap();
    let elsewhere = file("", &[server.addr]).replace("$FRONT", "127.0.0.1:0");
    let moved = crate::support::free_addr();
    proxy.apply(&elsewhere.replace("127.0.0.1:0", &moved.to_string()));
    wait("the old listener to close", || {
        proxy.control.advance();
        let soon = std::time::Duration::from_millis(20);
        let client = std::net::TcpStream::connect_timeout(&proxy.addr, soon);
        client.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert_eq!(exchange(&mut client, b"two").unwrap(), b"two");
    let mut new = std::net::TcpStream::connect(moved).unwrap();
    assert_eq!(exchange(&mut new, b"new").unwrap(), b"new");
}

#[test]
fn a_port_in_use_is_a_problem_that_heals_when_the_holder_leaves() {
    let server = Server::echo();
    let mut proxy = Proxy::start(1, &file("", &[server.addr]));
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let moved = file("", &[server.addr]).replace("$FRONT", &taken.to_string());
    let applied = proxy.apply(&moved);
    let problem = applied.problems[0].to_string();
    assert!(problem.contains(&taken.to_string()), "{problem}");
    assert!(problem.contains("t/s:p#0"), "{problem}");
    drop(holder);
    wait("the port", || proxy.control.retry_listeners().is_empty());
    let mut client = std::net::TcpStream::connect(taken).unwrap();
    assert_eq!(exchange(&mut client, b"x").unwrap(), b"x");
}
