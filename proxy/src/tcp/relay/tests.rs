use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
};

use super::*;
use crate::{
    sys::poll::{Interest, Poller},
    tcp::leg::Watched,
};

/// A client and a server with a relay between them, on real sockets.
struct Bench {
    client: TcpStream,
    server: TcpStream,
    relay: Relay,
    shared: Shared,
    poller: Poller,
}

impl Bench {
    fn new() -> Self {
        let (client, down) = pair();
        let (up, server) = pair();
        let poller = Poller::new(16).unwrap();
        poller.add(&down, 0, Interest::ReadWrite).unwrap();
        poller.add(&up, 1, Interest::ReadWrite).unwrap();
        let mut down = Side::accepted(OwnedFd::from(nonblocking(down)));
        down.watched = Watched::ReadWrite;
        let up = Side::connected(OwnedFd::from(nonblocking(up)));
        Self {
            client,
            server,
            relay: Relay::new(down, up),
            shared: Shared::new(),
            poller,
        }
    }

    /// Turns until `done` says so or the relay ends.
    fn run(&mut self, mut done: impl FnMut(&Relay) -> bool) -> Turn {
        loop {
            let turn = self.relay.turn(&mut self.shared);
            if matches!(turn, Turn::Finished | Turn::Failed(..)) || done(&self.relay) {
                return turn;
            }
            if turn == Turn::Waits {
                let ready = self.poller.wait(Some(PATIENCE)).unwrap();
                assert!(
                    ready > 0,
                    "nothing happened for {PATIENCE:?}: {:?}",
                    self.relay
                );
            }
            for index in 0.. {
                match self.poller.event(index) {
                    Some((0, ready)) => self.relay.down.note(ready),
                    Some((_, ready)) => self.relay.up.note(ready),
                    None => break,
                }
            }
        }
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    one.set_read_timeout(Some(PATIENCE)).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    (one, other)
}

fn nonblocking(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(true).unwrap();
    stream
}

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn small_messages_pass_both_ways_and_an_idle_session_owns_nothing() {
    let mut bench = Bench::new();
    bench.client.write_all(b"ping").unwrap();
    bench.run(|relay| relay.upward.bytes == 4);
    bench.server.write_all(b"pong!").unwrap();
    bench.run(|relay| relay.downward.bytes == 5);
    let mut answer = [0; 5];
    bench.client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong!");
    assert!(matches!(bench.relay.upward.pending, Pending::Nothing));
    assert_eq!(bench.shared.pipes.count(), 0);
}

#[test]
fn the_end_of_one_stream_is_passed_on_and_leaves_the_other_open() {
    let mut bench = Bench::new();
    bench.client.write_all(b"request").unwrap();
    bench.client.shutdown(Shutdown::Write).unwrap();
    bench.run(|relay| relay.is_half_closed());
    let mut request = Vec::new();
    bench.server.read_to_end(&mut request).unwrap();
    assert_eq!(request, b"request");
    bench.server.write_all(b"answer").unwrap();
    bench.run(|relay| relay.downward.bytes == 6);
    bench.server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.run(|_| false), Turn::Finished);
    drop(bench.relay);
    let mut answer = Vec::new();
    bench.client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn a_reset_of_either_side_is_told_with_its_side() {
    for which in [Which::Down, Which::Up] {
        let mut bench = Bench::new();
        let (goes, stays) = match which {
            Which::Down => (
                bench.client.try_clone().unwrap(),
                bench.server.try_clone().unwrap(),
            ),
            Which::Up => (
                bench.server.try_clone().unwrap(),
                bench.client.try_clone().unwrap(),
            ),
        };
        drop((
            std::mem::replace(&mut bench.client, stays.try_clone().unwrap()),
            std::mem::replace(&mut bench.server, stays),
        ));
        crate::sys::tcp::reset(goes.into());
        assert_eq!(bench.run(|_| false), Turn::Failed(which, Failure::Reset));
    }
}

#[test]
fn a_reset_is_seen_while_its_stream_is_blocked_or_over() {
    let mut bench = Bench::new();
    // The client has finished, so nothing is read from it any more.
    bench.client.shutdown(Shutdown::Write).unwrap();
    bench.run(|relay| relay.is_half_closed());
    crate::sys::tcp::reset(bench.client.try_clone().unwrap().into());
    drop(std::mem::replace(
        &mut bench.client,
        bench.server.try_clone().unwrap(),
    ));
    // The last reference decides; the clone above was closed with linger 0.
    let turn = bench.run(|_| false);
    assert_eq!(turn, Turn::Failed(Which::Down, Failure::Reset));
}

#[test]
fn bulk_is_spliced_byte_exact_in_both_directions_at_once() {
    let mut bench = Bench::new();
    let len = 24 << 20;
    let mut threads = Vec::new();
    // Made before anybody waits for it, which takes its time on a busy machine.
    let (one, two) = (Arc::new(pattern(len, 1)), Arc::new(pattern(len, 2)));
    for (stream, goes, comes) in [(&bench.client, &one, &two), (&bench.server, &two, &one)] {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = stream.try_clone().unwrap();
        let (goes, comes) = (Arc::clone(goes), Arc::clone(comes));
        threads.push(std::thread::spawn(move || {
            writer.write_all(&goes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }));
        threads.push(std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            assert!(bytes == *comes, "{} bytes differ", bytes.len());
        }));
    }
    assert_eq!(bench.run(|_| false), Turn::Finished);
    bench.relay.release(&mut bench.shared);
    assert_eq!(bench.relay.upward.bytes, len as u64);
    assert_eq!(bench.relay.downward.bytes, len as u64);
    assert!(
        bench.shared.spliced > len as u64,
        "most of it went through pipes"
    );
    bench.shared.pipes.trim();
    bench.shared.pipes.trim();
    assert_eq!(bench.shared.pipes.count(), 0, "every pipe came back");
    drop(bench.relay);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_stream_of_bulk_that_runs_dry_is_spliced_until_it_trickles() {
    let mut bench = Bench::new();
    bench.relay.upward.mode = Mode::Splice(0);
    let mut pass = |bytes: &[u8]| {
        let until = bench.relay.upward.bytes + bytes.len() as u64;
        bench.client.write_all(bytes).unwrap();
        bench.run(|relay| relay.upward.bytes == until);
        // Finds the socket empty.
        assert_eq!(bench.relay.turn(&mut bench.shared), Turn::Waits);
        (bench.shared.spliced, bench.shared.copied)
    };
    assert_eq!(pass(b"one"), (3, 0));
    assert_eq!(pass(b"two"), (6, 0));
    assert_eq!(pass(b"three"), (6, 5), "two small passes are a trickle");
    bench.server.read_exact(&mut [0; 11]).unwrap();
}

#[test]
fn a_slow_reader_stops_the_sender_and_loses_nothing() {
    let mut bench = Bench::new();
    let mut sender = nonblocking(bench.client.try_clone().unwrap());
    let bytes = pattern(1 << 20, 7);
    // Fill everything between the two until no side takes another byte.
    let mut written = 0_usize;
    let mut stuck = 0;
    while stuck < 3 {
        match sender.write(&bytes[written % bytes.len()..]) {
            Ok(len) => {
                written += len;
                stuck = 0;
            }
            Err(_) => {
                stuck += 1;
                bench
                    .poller
                    .wait(Some(std::time::Duration::from_millis(20)))
                    .unwrap();
            }
        }
        for index in 0.. {
            match bench.poller.event(index) {
                Some((0, ready)) => bench.relay.down.note(ready),
                Some((_, ready)) => bench.relay.up.note(ready),
                None => break,
            }
        }
        let turn = bench.relay.turn(&mut bench.shared);
        assert!(matches!(turn, Turn::Waits | Turn::More), "{turn:?}");
    }
    assert!(!bench.relay.up.writable);
    bench.client.set_nonblocking(false).unwrap();
    bench.client.shutdown(Shutdown::Write).unwrap();
    let mut reader = bench.server.try_clone().unwrap();
    let read = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    bench.run(|relay| relay.upward.state == State::Ended);
    let all = read.join().unwrap();
    assert_eq!(all.len(), written);
    assert!(
        all.iter()
            .zip(bytes.iter().cycle())
            .all(|(got, want)| got == want)
    );
}

#[test]
fn the_state_of_an_idle_session_is_small() {
    assert!(size_of::<Relay>() <= 104, "{} bytes", size_of::<Relay>());
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
