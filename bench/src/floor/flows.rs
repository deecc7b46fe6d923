//! UDP flows: a connected socket each, found by the client's address.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use super::{KIND_FLOW, KIND_UDP, UNSPECIFIED, token};
use crate::sys::{datagram::Batch, epoll::Epoll};

/// All flows of all listening sockets.
pub(super) struct Flows {
    listeners: Vec<(UdpSocket, SocketAddrV4)>,
    flows: Vec<Flow>,
    by_client: HashMap<(usize, SocketAddrV4), usize>,
    batch: Batch,
}

struct Flow {
    upstream: UdpSocket,
    listener: usize,
    client: SocketAddrV4,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            listeners: Vec::new(),
            flows: Vec::new(),
            by_client: HashMap::new(),
            batch: Batch::new(),
        }
    }

    pub(super) fn listen(
        &mut self,
        epoll: &Epoll,
        socket: UdpSocket,
        backend: SocketAddrV4,
    ) -> io::Result<()> {
        epoll.add(socket.as_raw_fd(), token(KIND_UDP, self.listeners.len()))?;
        self.listeners.push((socket, backend));
        Ok(())
    }

    /// Forwards datagrams from clients; neighbours of one flow leave in one call.
    pub(super) fn forward_requests(&mut self, epoll: &Epoll, index: usize) {
        loop {
            let socket = self.listeners[index].0.as_raw_fd();
            let Ok(count) = self.batch.receive(socket) else {
                return;
            };
            let mut start = 0;
            while start < count {
                let client = self.batch.source(start);
                let mut end = start + 1;
                while end < count && self.batch.source(end) == client {
                    end += 1;
                }
                if let Ok(flow) = self.flow(epoll, index, client) {
                    let upstream = self.flows[flow].upstream.as_raw_fd();
                    // A full send buffer drops, as a router would.
                    drop(self.batch.send(upstream, start..end, None));
                }
                start = end;
            }
        }
    }

    /// Forwards a backend's answers.
    pub(super) fn forward_answers(&mut self, index: usize) {
        let Flow {
            upstream,
            listener,
            client,
        } = &self.flows[index];
        let socket = self.listeners[*listener].0.as_raw_fd();
        while let Ok(count) = self.batch.receive(upstream.as_raw_fd()) {
            drop(self.batch.send(socket, 0..count, Some(*client)));
        }
    }

    fn flow(&mut self, epoll: &Epoll, listener: usize, client: SocketAddrV4) -> io::Result<usize> {
        if let Some(flow) = self.by_client.get(&(listener, client)) {
            return Ok(*flow);
        }
        let upstream = UdpSocket::bind(SocketAddr::V4(UNSPECIFIED))?;
        upstream.set_nonblocking(true)?;
        upstream.connect(SocketAddr::V4(self.listeners[listener].1))?;
        let index = self.flows.len();
        epoll.add(upstream.as_raw_fd(), token(KIND_FLOW, index))?;
        self.flows.push(Flow {
            upstream,
            listener,
            client,
        });
        self.by_client.insert((listener, client), index);
        Ok(index)
    }
}
