//! The sample servers of a member: real TCP and UDP servers on loopback addresses. Each answers a
//! line (TCP) or a datagram (UDP) with `MEMBER POD TEXT`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use anyhow::Context;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
};

/// The servers of one member.
pub(super) struct Samples {
    /// One address a pod; all of them use the same port, for TCP and for UDP.
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) port: u16,
    listeners: Vec<Arc<TcpListener>>,
    silent: watch::Sender<bool>,
    /// Connections that fill the accept queues while the member is silent.
    fillers: Vec<Socket>,
    tasks: JoinSet<()>,
}

impl Samples {
    /// Starts a server on each address, all of them at this port.
    pub(super) async fn start(
        member: &str,
        addresses: Vec<Ipv4Addr>,
        port: u16,
    ) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        let mut sockets = Vec::new();
        for ip in &addresses {
            let addr = SocketAddrV4::new(*ip, port);
            let taken = || format!("a sample server cannot listen on {addr}");
            listeners.push(TcpListener::bind(addr).await.with_context(taken)?);
            sockets.push(UdpSocket::bind(addr).await.with_context(taken)?);
        }
        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
        let (silent, silence) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (index, (listener, socket)) in listeners.iter().zip(sockets).enumerate() {
            let name: Arc<str> = format!("{member} echo-{index}").into();
            tasks.spawn(accept(listener.clone(), name.clone(), silence.clone()));
            tasks.spawn(answer_datagrams(socket, name));
        }
        Ok(Self {
            addresses,
            port,
            listeners,
            silent,
            fillers: Vec::new(),
            tasks,
        })
    }

    /// Makes the listeners answer no SYN any more: the queues are cut to nothing and filled. Live
    /// connections and datagrams stall once the process is stopped.
    pub(super) fn fall_silent(&mut self) -> io::Result<()> {
        self.silent.send_replace(true);
        for listener in &self.listeners {
            SockRef::from(&**listener).listen(0)?;
            let addr = listener.local_addr()?;
            for _ in 0..FILLERS {
                let filler = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
                match filler.connect(&addr.into()) {
                    Err(error)
                        if error.kind() != io::ErrorKind::WouldBlock
                            && error.raw_os_error()
                                != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
                    {
                        return Err(error);
                    }
                    _ => self.fillers.push(filler),
                }
            }
        }
        Ok(())
    }

    /// Makes them answer again.
    pub(super) fn speak(&mut self) -> io::Result<()> {
        self.fillers.clear();
        for listener in &self.listeners {
            SockRef::from(&**listener).listen(BACKLOG)?;
        }
        self.silent.send_replace(false);
        Ok(())
    }

    /// Waits for the end of any server: none ever should.
    pub(super) async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}

/// Pods' addresses: `127.SUBNET.0.1` and so on.
pub(super) fn addresses(subnet: u8, pods: u8) -> Vec<Ipv4Addr> {
    (1..=pods)
        .map(|pod| Ipv4Addr::new(127, subnet, 0, pod))
        .collect()
}

async fn accept(listener: Arc<TcpListener>, name: Arc<str>, mut silence: watch::Receiver<bool>) {
    let mut sessions = JoinSet::new();
    loop {
        if silence.wait_for(|silent| !silent).await.is_err() {
            return;
        }
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that was reset before it was accepted is nobody's concern.
                if let Ok((stream, _)) = accepted {
                    sessions.spawn(answer_lines(stream, name.clone()));
                }
            }
            Some(_) = sessions.join_next() => {}
            _ = silence.changed() => {}
        }
    }
}

async fn answer_lines(mut stream: TcpStream, name: Arc<str>) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if write
            .write_all(format!("{name} {line}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error of an earlier answer is no reason to stop.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..count]);
        drop(
            socket
                .send_to(format!("{name} {}", text.trim_end()).as_bytes(), from)
                .await,
        );
    }
}

const BACKLOG: i32 = 1024;
/// A queue of length 0 holds one connection; the second one fills what the kernel allows beyond.
const FILLERS: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    async fn ask(samples: &Samples) -> io::Result<String> {
        let addr = SocketAddrV4::new(samples.addresses[0], samples.port);
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(b"hello\n").await?;
        let mut answer = vec![0; 64];
        let count = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
    }

    #[tokio::test]
    async fn a_silent_member_answers_no_syn_until_it_speaks_again() {
        let mut samples = Samples::start("eu-1", addresses(251, 2), 17_000)
            .await
            .unwrap();
        assert_eq!(ask(&samples).await.unwrap(), "eu-1 echo-0 hello\n");
        samples.fall_silent().unwrap();
        // Long enough for a SYN and its first retransmission.
        let silence = timeout(Duration::from_millis(1200), ask(&samples)).await;
        assert!(silence.is_err(), "{silence:?}");
        samples.speak().unwrap();
        let answer = timeout(Duration::from_secs(10), ask(&samples))
            .await
            .unwrap();
        assert_eq!(answer.unwrap(), "eu-1 echo-0 hello\n");
    }

    #[tokio::test]
    async fn datagrams_are_answered_with_member_and_pod() {
        let samples = Samples::start("eu-1", addresses(252, 2), 17_000)
            .await
            .unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client
            .send_to(b"hi", (samples.addresses[1], samples.port))
            .await
            .unwrap();
        let mut answer = [0; 64];
        let count = client.recv(&mut answer).await.unwrap();
        assert_eq!(&answer[..count], b"eu-1 echo-1 hi");
    }
}
