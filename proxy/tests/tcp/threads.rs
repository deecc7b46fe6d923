//! Many sessions on several threads: evenness, hand-off, nothing left behind.

use std::net::TcpStream;

use fairlead_proxy::{access_log::Reason, metrics::Handoff};

use crate::support::{Proxy, Server, exchange, file, wait};

fn passed(proxy: &Proxy) -> u64 {
    let threads = proxy.metrics.threads().iter();
    threads
        .map(|thread| thread.handoffs.value(Handoff::Passed))
        .sum()
}

#[test]
fn sixty_four_long_connections_end_even_over_eight_threads() {
    let server = Server::echo();
    let proxy = Proxy::start(8, &file("", &[server.addr]));
    let mut clients: Vec<TcpStream> = (0..64).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(exchange(client, b"hello").unwrap(), b"hello");
    }
    let live = |thread: &fairlead_proxy::metrics::ThreadMetrics| thread.sessions_active.value();
    let counts: Vec<i64> = proxy.metrics.threads().iter().map(live).collect();
    assert_eq!(counts.iter().sum::<i64>(), 64);
    assert!(
        counts.iter().all(|count| (6..=10).contains(count)),
        "{counts:?}"
    );
    drop(clients);
    proxy.wait_closed("m", Reason::Finished, 64);
}

#[test]
fn short_connections_stay_where_they_were_accepted() {
    let server = Server::echo();
    let proxy = Proxy::start(4, &file("", &[server.addr]));
    std::thread::scope(|scope| {
        // Three at a time: on a machine so busy that each lasts for long, more would be long ones.
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..700 {
                    exchange(&mut proxy.connect(), b"x").unwrap();
                }
            });
        }
    });
    proxy.wait_closed("m", Reason::Finished, 2100);
    assert!(passed(&proxy) < 21, "{} of 2100", passed(&proxy));
}

#[test]
fn accepted_is_what_was_closed_and_pipes_go_back() {
    let server = Server::echo();
    let proxy = Proxy::start(2, &file("", &[server.addr]));
    let bytes = vec![7; 1 << 20];
    for round in 0..40 {
        let mut client = proxy.connect();
        if round % 4 == 0 {
            let mut sender = client.try_clone().unwrap();
            let half = bytes.clone();
            let writer = std::thread::spawn(move || {
                std::io::Write::write_all(&mut sender, &half).ok();
            });
            let mut first = [0; 1000];
            std::io::Read::read_exact(&mut client, &mut first).unwrap();
            crate::support::reset(client);
            writer.join().unwrap();
        } else {
            exchange(&mut client, b"x").unwrap();
        }
    }
    let member = proxy.member("m");
    wait("all sessions to end", || member.sessions_closed.sum() == 40);
    let accepted = proxy
        .metrics
        .threads()
        .iter()
        .map(|thread| thread.accepted.value());
    assert_eq!(accepted.sum::<u64>(), 40);
    wait("the pipes to be closed", || {
        let pipes = proxy
            .metrics
            .threads()
            .iter()
            .map(|thread| thread.pipes.value());
        pipes.sum::<i64>() == 0
    });
    assert_eq!(proxy.log(40).len(), 40);
}
