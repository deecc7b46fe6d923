//! UDP flows: a connected socket each, found by the client's address.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use super::{KIND_FLOW, KIND_UDP, UNSPECIFIED, token};
use crate::sys::{
    datagram::{BATCH, Batch},
    epoll::Epoll,
};

/// All flows of all listening sockets.
pub(super) struct Flows {
    listeners: Vec<(UdpSocket, SocketAddrV4)>,
    flows: Vec<Flow>,
    by_client: HashMap<(usize, SocketAddrV4), usize>,
    /// From clients.
    batch: Batch,
    /// To clients, of one listener.
    answers: Batch,
    answering: usize,
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
            answers: Batch::new(),
            answering: 0,
        }
    }

    pub(super) fn listen(
        &mut self,
        epoll: &Epoll,
        socket: UdpSocket,
        backend: SocketAddrV4,
    ) -> io::Result<()> {
        epoll.add_level(socket.as_raw_fd(), token(KIND_UDP, self.listeners.len()))?;
        self.listeners.push((socket, backend));
        Ok(())
    }

    /// Forwards a batch of datagrams from clients; neighbours of one flow leave in one call.
    pub(super) fn forward_requests(&mut self, epoll: &Epoll, index: usize) {
        let socket = self.listeners[index].0.as_raw_fd();
        self.batch.clear();
        let Ok(received) = self.batch.receive(socket, BATCH) else {
            return;
        };
        let mut start = received.start;
        while start < received.end {
            let client = self.batch.source(start);
            let mut end = start;
            while end < received.end && self.batch.source(end) == client {
                self.batch.address(end, None);
                end += 1;
            }
            if let Ok(flow) = self.flow(epoll, index, client) {
                let upstream = self.flows[flow].upstream.as_raw_fd();
                // A full send buffer drops, as a router would.
                drop(self.batch.send(upstream, start..end));
            }
            start = end;
        }
    }

    /// Takes a backend's answer; [`Self::flush`] sends it with those of other flows.
    pub(super) fn take_answer(&mut self, index: usize) {
        let Flow {
            upstream,
            listener,
            client,
        } = &self.flows[index];
        let (upstream, listener, client) = (upstream.as_raw_fd(), *listener, *client);
        if listener != self.answering || self.answers.free() == 0 {
            self.flush();
        }
        self.answering = listener;
        if let Ok(received) = self.answers.receive(upstream, 1) {
            for index in received {
                self.answers.address(index, Some(client));
            }
        }
    }

    /// Sends the answers of this round in one call.
    pub(super) fn flush(&mut self) {
        let all = self.answers.all();
        if !all.is_empty() {
            let socket = self.listeners[self.answering].0.as_raw_fd();
            drop(self.answers.send(socket, all));
            self.answers.clear();
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
        epoll.add_level(upstream.as_raw_fd(), token(KIND_FLOW, index))?;
        self.flows.push(Flow {
            upstream,
            listener,
            client,
        });
        self.by_client.insert((listener, client), index);
        Ok(index)
    }
}
