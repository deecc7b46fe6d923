//! One session: ends, resets, bulk, timeouts.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
};

use fairlead_proxy::access_log::Reason;

use crate::support::{PATIENCE, Proxy, Server, exchange, file, free_addr, reset, wait};

#[test]
fn a_half_closed_client_gets_the_whole_answer() {
    let server = Server::start(|mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(&request).unwrap();
        stream.write_all(b" and more").unwrap();
    });
    let proxy = Proxy::start(1, &file("", &[server.addr]));
    let mut client = proxy.connect();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "request and more");
    proxy.wait_closed("m", Reason::Finished, 1);
    let member = proxy.member("m");
    assert_eq!(
        (member.bytes_up.value(), member.bytes_down.value()),
        (7, 16)
    );
    let line = &proxy.log(1)[0];
    assert_eq!(line["reason"], "finished");
    assert_eq!(
        (&line["bytesUp"], &line["bytesDown"]),
        (&7.into(), &16.into())
    );
    assert_eq!(line["endpoint"], server.addr.to_string());
}

#[test]
fn a_server_may_speak_first_and_finish_first() {
    let server = Server::start(|mut stream| {
        stream.write_all(b"220 hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye");
    });
    let proxy = Proxy::start(1, &file("", &[server.addr]));
    let mut client = proxy.connect();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "220 hello");
    client.write_all(b"bye").unwrap();
    drop(client);
    proxy.wait_closed("m", Reason::Finished, 1);
    assert_eq!(proxy.log(1)[0]["bytesUp"], 3);
}

#[test]
fn a_clients_reset_reaches_the_server() {
    let (seen, saw) = mpsc::channel();
    let server = Server::start(move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        seen.send(stream.read(&mut byte).unwrap_err().kind())
            .unwrap();
    });
    let proxy = Proxy::start(1, &file("", &[server.addr]));
    let mut client = proxy.connect();
    exchange(&mut client, b"x").unwrap();
    reset(client);
    assert_eq!(saw.recv().unwrap(), ErrorKind::ConnectionReset);
    proxy.wait_closed("m", Reason::ClientReset, 1);
    assert_eq!(proxy.log(1)[0]["code"], "CD");
}

#[test]
fn a_servers_reset_reaches_the_client() {
    let server = Server::start(|mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
        reset(stream);
    });
    let proxy = Proxy::start(1, &file("", &[server.addr]));
    let mut client = proxy.connect();
    exchange(&mut client, b"x").unwrap();
    client.write_all(b"y").unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    proxy.wait_closed("m", Reason::EndpointReset, 1);
    assert_eq!(proxy.log(1)[0]["code"], "SD");
}

#[test]
fn bulk_in_both_directions_is_byte_exact_while_readers_are_slow() {
    let server = Server::echo();
    let proxy = Proxy::start(1, &file("", &[server.addr]));
    let mut client = proxy.connect();
    let mut sender = client.try_clone().unwrap();
    let len: usize = 32 << 20;
    let byte_at = |at: usize| (at % 251) as u8 ^ (at / 65_536) as u8;
    let writer = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..len).map(byte_at).collect();
        sender.write_all(&bytes).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut at = 0;
    // Small reads at first, so that everything in between fills up.
    let mut buffer = vec![0; 300_000];
    loop {
        let room = if at < len / 2 { 1_500 } else { buffer.len() };
        let got = client.read(&mut buffer[..room]).unwrap();
        if got == 0 {
            break;
        }
        for (offset, byte) in buffer[..got].iter().enumerate() {
            assert_eq!(*byte, byte_at(at + offset), "at {}", at + offset);
        }
        at += got;
    }
    writer.join().unwrap();
    assert_eq!(at, len);
    proxy.wait_closed("m", Reason::Finished, 1);
    let line = &proxy.log(1)[0];
    assert_eq!(
        (&line["bytesUp"], &line["bytesDown"]),
        (&len.into(), &len.into())
    );
}

#[test]
fn a_refused_endpoint_costs_no_client_anything() {
    let server = Server::echo();
    let dead = free_addr();
    let proxy = Proxy::start(2, &file("", &[dead, server.addr]));
    for _ in 0..200 {
        assert_eq!(exchange(&mut proxy.connect(), b"hi").unwrap(), b"hi");
    }
    proxy.wait_closed("m", Reason::Finished, 200);
    assert!(
        proxy.service().retries.value() > 0,
        "the dead one was tried"
    );
    assert_eq!(proxy.service().sessions_unserved.sum(), 0);
}

#[test]
fn without_an_endpoint_that_answers_the_client_is_reset_and_told_why_in_the_log() {
    let proxy = Proxy::start(1, &file("", &[free_addr()]));
    let mut client = proxy.connect();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = &proxy.log(1)[0];
    assert_eq!(line["reason"], "connect-refused");
    assert!(line.get("endpoint").is_none());
    wait("the counter", || {
        proxy
            .service()
            .sessions_unserved
            .value(Reason::ConnectRefused)
            == 1
    });
}

#[test]
fn timeouts_end_idle_old_and_half_closed_sessions_with_a_reset() {
    let rows = [
        ("timeouts: { idle: 300ms }", Reason::IdleTimeout),
        ("timeouts: { lifetime: 300ms }", Reason::LifetimeTimeout),
        ("timeouts: { halfClosed: 300ms }", Reason::HalfClosedTimeout),
    ];
    for (policy, reason) in rows {
        // It keeps its side open, whatever the client does.
        let server = Server::start(|mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).ok();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut [0]).ok();
            wait("the end of the session", || {
                stream.write_all(b"").is_err() || gone(&stream)
            });
        });
        let proxy = Proxy::start(1, &file(policy, &[server.addr]));
        let mut client = proxy.connect();
        client.write_all(b"x").unwrap();
        if reason == Reason::HalfClosedTimeout {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{reason:?}");
        proxy.wait_closed("m", reason, 1);
        assert_eq!(proxy.log(1)[0]["reason"], reason.as_str());
    }
}

fn gone(stream: &TcpStream) -> bool {
    stream.take_error().map_or(true, |error| error.is_some()) || stream.peer_addr().is_err()
}

#[test]
fn traffic_in_one_direction_alone_keeps_a_session_alive() {
    let server = Server::start(|mut stream| {
        // Longer than the idle timeout, in steps far below it.
        for _ in 0..40 {
            if stream.write_all(b"tick").is_err() {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(60));
        }
    });
    let proxy = Proxy::start(1, &file("timeouts: { idle: 2s }", &[server.addr]));
    let mut all = String::new();
    proxy.connect().read_to_string(&mut all).unwrap();
    assert_eq!(all.len(), 160);
    proxy.wait_closed("m", Reason::Finished, 1);
}
