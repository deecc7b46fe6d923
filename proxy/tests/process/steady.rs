//! Changes that never end under sessions that live on.

use std::net::{SocketAddr, TcpStream};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::LocalRuntime,
};

use crate::{
    harness::Process,
    support::{exchange, file, free_addr, pages::applied, wait},
};

/// An echo for any number of clients, on one thread.
fn echo() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        LocalRuntime::new().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    addr
}

#[test]
fn ten_thousand_changes_under_a_thousand_sessions_keep_memory_flat() {
    let server = echo();
    let admin = free_addr();
    // `count` endpoints that nobody saw before, beside the one that has the sessions.
    let text = |round: u32, count: u32| {
        let others = (0..count).map(|index| {
            let number = round * count + index;
            SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0001 + number), 80))
        });
        file("", &[&[server][..], &others.collect::<Vec<_>>()].concat())
    };
    let admin_flag = admin.to_string();
    let arguments = ["--workers", "2", "--admin", &admin_flag];
    let process = Process::start(&text(0, 0), &arguments);
    let mut sessions: Vec<TcpStream> = (0..SESSIONS).map(|_| process.connect()).collect();
    let say = |sessions: &mut [TcpStream], what: u32| {
        for (number, session) in sessions.iter_mut().enumerate() {
            let words = format!("session {number}, word {what}");
            let answer = exchange(session, words.as_bytes()).unwrap();
            assert_eq!(answer, words.as_bytes());
        }
    };
    say(&mut sessions, 0);
    let first = applied(admin);
    let mut early = 0;
    for round in 1..=ROUNDS {
        process.write(&text(round, CHANGES));
        wait("the change to take effect", || {
            applied(admin) >= first + u64::from(round)
        });
        let some = (round as usize * 10) % SESSIONS;
        say(&mut sessions[some..some + 10], round);
        // A hundred endpoints came and a hundred went: two thousand changes by the tenth round.
        if round * CHANGES * 2 == 2000 {
            early = process.anonymous();
        }
    }
    say(&mut sessions, ROUNDS + 1);
    let late = process.anonymous();
    assert!(early > 0, "it was looked at");
    assert!(
        late < early + SLACK,
        "{early} bytes after 2,000 changes, {late} after {}",
        ROUNDS * CHANGES * 2
    );
}

const SESSIONS: usize = 1000;
const CHANGES: u32 = 100;
/// More than are asked for: a leak of a hundred bytes a change is 1.8 MB by then.
const ROUNDS: u32 = 100;
/// What an allocator may keep back.
const SLACK: u64 = 1_000_000;
