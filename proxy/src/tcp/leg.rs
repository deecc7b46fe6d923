//! One side of a session.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::sys::{poll::Ready, tcp};

/// How bytes travel on one side. TLS would be a second variant; the relay is chosen from the pair
/// once, and only two raw legs can be spliced.
#[derive(Debug)]
pub(crate) enum Leg {
    /// Plain TCP.
    Tcp(OwnedFd),
}

/// A leg and what is known of its readiness. Edge-triggered: a fact holds until a call disproves
/// it.
#[derive(Debug)]
pub(crate) struct Side {
    leg: Leg,
    /// A receive may find something.
    pub(crate) readable: bool,
    /// A send may find room.
    pub(crate) writable: bool,
    /// The peer has finished: after the bytes comes the end, without another edge.
    pub(crate) finished: bool,
    /// The socket failed: after the bytes comes its error.
    pub(crate) failed: bool,
    /// The bytes are out and the end is next.
    pub(crate) ended: bool,
    /// The poller also tells when there is room again.
    pub(crate) watched: Watched,
    /// Nagle is off.
    nodelay: bool,
    /// Something was sent.
    sent: bool,
}

/// What the poller knows of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Nothing yet.
    No,
    /// To tell of bytes.
    Read,
    /// To tell of bytes and of room.
    ReadWrite,
}

// === impl Side ===

impl Side {
    /// The side of an accepted client: it has room, may have bytes, and its listener set the
    /// options.
    pub(crate) fn accepted(fd: OwnedFd) -> Self {
        Self {
            leg: Leg::Tcp(fd),
            readable: true,
            writable: true,
            finished: false,
            failed: false,
            ended: false,
            watched: Watched::No,
            nodelay: true,
            sent: false,
        }
    }

    /// The side of an endpoint that was just connected to.
    pub(crate) fn connected(fd: OwnedFd) -> Self {
        Self {
            leg: Leg::Tcp(fd),
            readable: false,
            writable: true,
            finished: false,
            failed: false,
            ended: false,
            watched: Watched::ReadWrite,
            nodelay: false,
            sent: false,
        }
    }

    /// Notes what the poller told.
    pub(crate) fn note(&mut self, ready: Ready) {
        self.readable |= ready.readable();
        self.writable |= ready.writable();
        self.finished |= ready.finished();
        self.failed |= ready.failed();
    }

    /// The raw leg, where this is one.
    pub(crate) fn tcp(&self) -> BorrowedFd<'_> {
        match &self.leg {
            Leg::Tcp(fd) => fd.as_fd(),
        }
    }

    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = tcp::receive(self.tcp(), buffer);
        match &received {
            Ok(0) => self.ended = true,
            // A short read emptied the socket: no second call to be told so, or to be told of an
            // end that the poller announced.
            Ok(len) if *len < buffer.len() && !self.failed => {
                self.readable = false;
                self.ended = self.finished;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            _ => {}
        }
        received
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.before_send();
        let sent = tcp::send(self.tcp(), bytes);
        match &sent {
            Ok(len) if *len < bytes.len() => self.writable = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
            _ => {}
        }
        sent
    }

    /// The first segment never waits (Nagle holds back only while another one is unacknowledged),
    /// so a session of one request saves the call.
    pub(crate) fn before_send(&mut self) {
        if self.sent && !self.nodelay {
            self.nodelay = true;
            // The only failure is a socket that is gone, which the send will tell.
            let _gone = tcp::set_nodelay(self.tcp());
        }
        self.sent = true;
    }

    pub(crate) fn finish(&self) -> io::Result<()> {
        tcp::finish(self.tcp())
    }

    /// Closes with a RST.
    pub(crate) fn reset(self) {
        match self.leg {
            Leg::Tcp(fd) => tcp::reset(fd),
        }
    }
}
