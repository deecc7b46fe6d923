use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use proptest::prelude::*;

use super::{wire::Told, *};

#[test]
fn a_batch_comes_with_its_senders_and_the_address_it_came_to() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let (socket, at) = bound(any, Tell::LocalIp);
        let clients: Vec<_> = (0..3)
            .map(|_| UdpSocket::bind((at.ip(), 0)).unwrap())
            .collect();
        for (number, client) in clients.iter().enumerate() {
            client.send_to(&[number as u8; 5], at).unwrap();
        }
        let mut inbox = Inbox::new();
        receive_all(&mut inbox, &socket, 3);
        for (slot, client) in clients.iter().enumerate() {
            let message = inbox.message(slot);
            assert_eq!(message.source, Some(client.local_addr().unwrap()));
            assert_eq!(message.local.map(|local| local.ip), Some(at.ip()));
            assert_eq!((message.bytes, message.segment), (&[slot as u8; 5][..], 5));
            assert_eq!(message.datagrams(), 1);
        }
        let empty = inbox.receive(&socket, 1, true).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_batch_goes_to_many_from_the_address_asked_for() {
    let (socket, at) = bound("0.0.0.0:0", Tell::LocalIp);
    let clients: Vec<_> = (0..3).map(|_| client(Ipv4Addr::LOCALHOST.into())).collect();
    let from = LocalIp {
        ip: Ipv4Addr::new(127, 0, 0, 9).into(),
        interface: 0,
    };
    let messages = clients.iter().map(|client| Outgoing {
        to: Some(client.local_addr().unwrap()),
        from: Some(from),
        segment: 4,
        bytes: b"echo",
    });
    assert_eq!(Outbox::new().send(&socket, messages).unwrap(), 3);
    for client in &clients {
        let mut buffer = [0; 10];
        let (length, source) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"echo");
        assert_eq!(source, SocketAddr::new(from.ip, at.port()));
    }
}

#[test]
fn a_train_is_sent_in_one_message_and_arrives_as_its_datagrams() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let (socket, at) = bound(any, Tell::Nothing);
        let train: Vec<u8> = (0..950_u32).map(|byte| byte as u8).collect();
        let upstream = connect(at).unwrap();
        let message = Outgoing {
            to: None,
            from: None,
            segment: 100,
            bytes: &train,
        };
        assert_eq!(
            Outbox::new()
                .send(&upstream, std::iter::once(message))
                .unwrap(),
            1
        );

        // The receiver asked for trains, so it gets this one whole.
        let mut inbox = Inbox::new();
        receive_all(&mut inbox, &socket, 1);
        let message = inbox.message(0);
        assert_eq!((message.bytes, message.segment), (&train[..], 100));
        assert_eq!(message.datagrams(), 10);

        // A receiver that didn't ask gets ten datagrams.
        let plain = client(at.ip());
        let to = plain.local_addr().unwrap();
        let message = Outgoing {
            to: Some(to),
            from: None,
            segment: 100,
            bytes: &train,
        };
        Outbox::new()
            .send(&socket, std::iter::once(message))
            .unwrap();
        let mut buffer = [0; 200];
        let lengths: Vec<_> = (0..10).map(|_| plain.recv(&mut buffer).unwrap()).collect();
        assert_eq!(lengths, [100, 100, 100, 100, 100, 100, 100, 100, 100, 50]);
    }
}

#[test]
fn a_refused_datagram_is_told_and_leaves_nothing_in_the_queue() {
    for ip in ["127.0.0.1", "::1"] {
        let closed = client(ip.parse().unwrap()).local_addr().unwrap();
        let upstream = connect(closed).unwrap();
        send(&upstream, b"x").unwrap();
        let mut inbox = Inbox::new();
        let error = loop {
            match inbox.receive(&upstream, 4, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        drain_errors(upstream.as_fd());
        let mut byte = [std::mem::MaybeUninit::new(0)];
        let queued = socket2::SockRef::from(&upstream)
            .recv_with_flags(&mut byte, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT);
        assert_eq!(queued.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_full_inbox_takes_no_more_until_it_is_cleared() {
    let (socket, at) = bound("127.0.0.1:0", Tell::Nothing);
    let sender = client(at.ip());
    let mut inbox = Inbox::new();
    for _ in 0..INBOX_SLOTS {
        sender.send_to(b"x", at).unwrap();
    }
    receive_all(&mut inbox, &socket, INBOX_SLOTS);
    sender.send_to(b"y", at).unwrap();
    assert!(inbox.receive(&socket, 1, true).is_err());
    inbox.clear();
    receive_all(&mut inbox, &socket, 1);
    assert_eq!(inbox.message(0).bytes, b"y");
}

proptest! {
    #[test]
    fn names_are_read_back(addr: SocketAddr, scope: u32) {
        let mut addr = addr;
        if let SocketAddr::V6(addr) = &mut addr {
            addr.set_scope_id(scope);
            addr.set_flowinfo(0);
        }
        let mut name = Name::default();
        let length = name.write(addr);
        prop_assert_eq!(name.read(length as usize), Some(addr));
        prop_assert_eq!(name.read(1), None);
    }

    #[test]
    fn whatever_stands_in_a_control_buffer_is_read_without_harm(bytes: [[u8; 32]; 3], length in 0..200_usize) {
        let mut control = Control::default();
        let mut flat = bytes.concat();
        // Lengths that are plausible find their way further in.
        flat[1..8].fill(0);
        control.fill_for_test(&flat);
        let _told: Told = control.read(length);
    }
}

fn bound(any: &str, tell: Tell) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(any).unwrap();
    let mut at = socket.local_addr().unwrap();
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            "::1".parse().unwrap()
        });
    }
    prepare(socket.as_fd(), at.is_ipv6(), tell).unwrap();
    (socket, at)
}

fn client(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

/// Loopback delivers before the send returns, so there is nothing to wait for.
fn receive_all(inbox: &mut Inbox, socket: &UdpSocket, count: usize) {
    assert_eq!(inbox.receive(socket, INBOX_SLOTS, true).unwrap(), count);
}
