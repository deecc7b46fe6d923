//! UDP flows over a hand-over: endpoints see the same peer, clients lose no datagram.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
};

use fairlead_proxy::upgrade::wire::Message;

use crate::{
    harness::{PROGRAM, Process},
    support::{PATIENCE, Server, file, free_addr, wait},
};

/// Answers each datagram with the port that it came from.
fn teller() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            socket
                .send_to(peer.port().to_string().as_bytes(), peer)
                .ok();
        }
    });
    addr
}

struct Client {
    socket: UdpSocket,
    front: SocketAddr,
}

impl Client {
    fn new(front: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, front }
    }

    /// The port from which the endpoint sees this client.
    fn seen_as(&self) -> String {
        self.socket.send_to(b"who am I", self.front).unwrap();
        let mut buffer = [0; 64];
        let len = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }
}

struct Rig {
    process: Process,
    text: String,
    path: std::path::PathBuf,
    clients: Vec<Client>,
    seen: Vec<String>,
    _server: Server,
    _folder: tempfile::TempDir,
}

fn rig() -> Rig {
    let server = Server::echo();
    let (front, endpoint) = (free_addr(), teller());
    let udp = format!(
        "  - name: t/u:p
    frontends: [ {{ protocol: udp, address: \"{front}\" }} ]
    tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: \"{endpoint}\" }} ] }} ] }} ]
"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("take-over");
    let arguments = ["--workers", "2", "--takeover", path.to_str().unwrap()];
    let text = file("", &[server.addr]) + &udp;
    let process = Process::start(&text, &arguments);
    wait("the door", || path.exists());
    let clients: Vec<Client> = (0..100).map(|_| Client::new(front)).collect();
    let seen = clients.iter().map(Client::seen_as).collect();
    Rig {
        process,
        text,
        path,
        clients,
        seen,
        _server: server,
        _folder: folder,
    }
}

#[test]
fn flows_go_on_in_the_successor_from_the_same_ports() {
    let mut rig = rig();
    // They began long ago, so that a limit of new ones is none of theirs.
    let limited = "  - name: t/u:p\n    policy: { limits: { newPerSecond: 1 } }";
    let text = rig.text.replace("  - name: t/u:p", limited);
    rig.process.write(&text);
    for workers in ["2", "1", "3"] {
        let arguments = [
            "--workers",
            workers,
            "--takeover",
            rig.path.to_str().unwrap(),
        ];
        let next = rig.process.spawn(Path::new(PROGRAM), &arguments);
        let mut former = std::mem::replace(&mut rig.process.child, next);
        // Without a pause, so that some datagrams fall into the hand-over itself.
        while former.try_wait().unwrap().is_none() {
            for (client, seen) in rig.clients.iter().zip(&rig.seen) {
                assert_eq!(client.seen_as(), *seen);
            }
        }
        assert_eq!(former.wait().unwrap().code(), Some(0));
        for (client, seen) in rig.clients.iter().zip(&rig.seen) {
            assert_eq!(client.seen_as(), *seen, "with {workers} workers");
        }
    }
}

#[tokio::test]
async fn a_taker_that_crashes_while_it_takes_flows_leaves_them_with_the_old_one() {
    let rig = rig();
    for taken in [0, 1] {
        let (channel, batches) = crate::upgrade::welcomed(&rig.path).await;
        for batch in 0..batches {
            channel.receive(PATIENCE, "sent").await.unwrap();
            channel.send(&Message::Taken { batch }, &[]).await.unwrap();
        }
        channel.send(&Message::Ready, &[]).await.unwrap();
        for batch in 0..=taken {
            let (message, fds) = channel.receive(PATIENCE, "sent flows").await.unwrap();
            assert!(matches!(message, Message::Flows { .. }), "{message:?}");
            assert!(!fds.is_empty());
            if batch < taken {
                channel.send(&Message::Taken { batch }, &[]).await.unwrap();
            }
        }
        drop(channel);
        for (client, seen) in rig.clients.iter().zip(&rig.seen) {
            assert_eq!(client.seen_as(), *seen);
        }
    }
}
