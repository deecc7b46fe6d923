//! Sessions: two sockets, two directions, a scratch buffer for small reads and pipes for bulk.

use std::{
    io,
    net::{Shutdown, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{KIND_SESSION, token};
use crate::sys::{
    epoll::Epoll,
    splice::{Pipe, receive, send},
};

/// All live sessions and what they share.
pub(super) struct Sessions {
    slots: Vec<Option<Box<Session>>>,
    free: Vec<usize>,
    /// Closed in this round: their slots are reused only when no event of it can name them.
    dead: Vec<usize>,
    scratch: Box<[u8; SCRATCH]>,
    pipes: Vec<Pipe>,
}

struct Session {
    client: Socket,
    backend: Socket,
    connected: bool,
    /// The client, then the backend has finished sending: a short read is not the last one.
    finished: [bool; 2],
    /// Client to backend, then backend to client.
    halves: [Half; 2],
}

#[derive(Default)]
struct Half {
    /// Read but not yet written, outside a pipe.
    tail: Vec<u8>,
    pipe: Option<Pipe>,
    /// Large reads in a row while it copies, small passes in a row while it splices.
    streak: u8,
    bulk: bool,
    ended: bool,
    shut: bool,
}

/// The sockets of a direction, and whether the first has finished sending.
struct Way {
    from: RawFd,
    to: RawFd,
    finished: bool,
}

/// What a direction waits for.
enum Outcome {
    Waiting,
    Finished,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            dead: Vec::new(),
            scratch: Box::new([0; SCRATCH]),
            pipes: Vec::new(),
        }
    }

    /// Accepts what is there, eight at a time at most, and starts connecting.
    pub(super) fn accept(&mut self, epoll: &Epoll, listener: &Socket, to: SocketAddrV4) {
        while let Ok((client, _)) = listener.accept() {
            if client.set_nonblocking(true).is_err() {
                continue;
            }
            let Ok(backend) = connect(to) else { continue };
            let index = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            let watched = epoll
                .add(client.as_raw_fd(), token(KIND_SESSION, index << 1))
                .and_then(|()| epoll.add(backend.as_raw_fd(), token(KIND_SESSION, index << 1 | 1)));
            if watched.is_ok() {
                let halves = [Half::default(), Half::default()];
                let session = Session {
                    client,
                    backend,
                    connected: false,
                    finished: [false; 2],
                    halves,
                };
                self.slots[index] = Some(Box::new(session));
            } else {
                self.free.push(index);
            }
        }
    }

    /// Moves what can be moved in both directions. The lowest bit of `side` says whose event it is.
    pub(super) fn ready(&mut self, side: usize, flags: u32) {
        let (index, is_backend) = (side >> 1, side & 1 == 1);
        let Some(session) = self.slots.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        if !session.connected {
            if flags & libc::EPOLLERR as u32 != 0 {
                return self.close(index, true);
            }
            if !is_backend || flags & libc::EPOLLOUT as u32 == 0 {
                return;
            }
            session.connected = true;
        }
        let end = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
        session.finished[side & 1] |= flags & end as u32 != 0;
        let fds = [session.client.as_raw_fd(), session.backend.as_raw_fd()];
        let mut finished = 0;
        for (at, half) in session.halves.iter_mut().enumerate() {
            let way = Way {
                from: fds[at],
                to: fds[1 - at],
                finished: session.finished[at],
            };
            match pump(half, &way, &mut self.scratch, &mut self.pipes) {
                Ok(Outcome::Finished) => finished += 1,
                Ok(Outcome::Waiting) => {}
                Err(_) => return self.close(index, true),
            }
        }
        for (half, socket) in session
            .halves
            .iter_mut()
            .zip([&session.backend, &session.client])
        {
            if half.ended && !half.shut && half.tail.is_empty() && half.pipe.is_none() {
                half.shut = true;
                // A peer that is gone already needs no telling.
                drop(socket.shutdown(Shutdown::Write));
            }
        }
        if finished == 2 {
            self.close(index, false);
        }
    }

    /// Frees the slots of sessions that closed in the last round.
    pub(super) fn reap(&mut self) {
        self.free.append(&mut self.dead);
    }

    fn close(&mut self, index: usize, reset: bool) {
        let Some(session) = self.slots[index].take() else {
            return;
        };
        if reset {
            for socket in [&session.client, &session.backend] {
                // Already closed by the peer: nothing to reset.
                drop(socket.set_linger(Some(Duration::ZERO)));
            }
        }
        self.dead.push(index);
    }
}

fn connect(to: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SocketAddr::V4(to).into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

fn pump(
    half: &mut Half,
    way: &Way,
    scratch: &mut [u8; SCRATCH],
    pipes: &mut Vec<Pipe>,
) -> io::Result<Outcome> {
    loop {
        if !half.flush(way.to, pipes)? {
            return Ok(Outcome::Waiting);
        }
        if half.ended {
            return Ok(Outcome::Finished);
        }
        let more = match half.bulk {
            true => half.splice(way.from, pipes)?,
            false => half.copy(way, scratch)?,
        };
        if !more {
            return Ok(Outcome::Waiting);
        }
    }
}

impl Half {
    /// Sends what was read before; whether nothing of it is left.
    fn flush(&mut self, to: RawFd, pipes: &mut Vec<Pipe>) -> io::Result<bool> {
        while !self.tail.is_empty() {
            let Some(sent) = would_block(send(to, &self.tail))? else {
                return Ok(false);
            };
            self.tail.drain(..sent);
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held > 0) {
            if would_block(pipe.drain(to))?.is_none() {
                return Ok(false);
            }
        }
        pipes.extend(self.pipe.take());
        Ok(true)
    }

    /// Reads and writes at once; whether there may be more.
    fn copy(&mut self, way: &Way, scratch: &mut [u8; SCRATCH]) -> io::Result<bool> {
        let Some(count) = would_block(receive(way.from, scratch))? else {
            return Ok(false);
        };
        if count == 0 {
            self.ended = true;
            return Ok(true);
        }
        let sent = would_block(send(way.to, &scratch[..count]))?.unwrap_or(0);
        self.tail.extend_from_slice(&scratch[sent..count]);
        self.streak = if count == SCRATCH { self.streak + 1 } else { 0 };
        self.bulk = self.streak >= STREAK;
        if self.bulk {
            self.streak = 0;
        }
        // A short read means an empty socket; the next edge says when that changes, unless all of
        // them are past.
        Ok(count == SCRATCH || way.finished || !self.tail.is_empty())
    }

    /// Takes a pipe full of what is there; whether there was anything.
    fn splice(&mut self, from: RawFd, pipes: &mut Vec<Pipe>) -> io::Result<bool> {
        let mut pipe = match pipes.pop() {
            Some(pipe) => pipe,
            None => Pipe::new(PIPE)?,
        };
        let filled = would_block(pipe.fill(from, PIPE))?;
        if let Some(count) = filled {
            self.ended = count == 0;
            self.streak = if count < SMALL { self.streak + 1 } else { 0 };
            self.bulk = self.streak < STREAK;
            if !self.bulk {
                self.streak = 0;
            }
            self.pipe = Some(pipe);
        } else {
            pipes.push(pipe);
        }
        Ok(filled.is_some())
    }
}

fn would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Shared by all sessions of the thread.
const SCRATCH: usize = 64 * 1024;
/// Per pipe, as much as the kernel grants; pooled.
const PIPE: usize = 1024 * 1024;
/// So many reads that fill the scratch buffer are bulk, and so many passes that move less than
/// [`SMALL`] are not.
const STREAK: u8 = 2;
const SMALL: usize = 16 * 1024;
