//! epoll.
//!
//! Descriptors are registered once and never removed: closing the last reference to one takes it
//! out of the set, which saves a system call a socket. Sockets are edge-triggered, so their owner
//! remembers readiness until a call says `EAGAIN` or comes back short.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};

/// A set of descriptors to wait for.
pub struct Poller {
    epoll: OwnedFd,
    events: Box<[Event]>,
    ready: usize,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to accept or to take, told again as long as it is there.
    Level,
    /// Bytes or the end of the stream, told once.
    Read,
    /// The same, and room to send.
    ReadWrite,
}

/// What has become possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready(EventFlags);

// === impl Poller ===

impl Poller {
    /// An empty set that yields at most `batch` events a wait.
    pub fn new(batch: usize) -> io::Result<Self> {
        let nothing = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: vec![nothing; batch].into_boxed_slice(),
            ready: 0,
        })
    }

    /// Adds a descriptor. What is ready already is told at the next wait.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        #[cfg(test)]
        super::faults::check(super::faults::Call::Watch)?;
        let data = EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, fd, data, interest.flags())?)
    }

    /// Changes what is waited for; tells again what is ready.
    pub fn change(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token);
        Ok(epoll::modify(&self.epoll, fd, data, interest.flags())?)
    }

    /// Takes a descriptor out that stays open, here or in another process.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready or `timeout` (rounded up to milliseconds) has passed, and
    /// returns the number of events. An interrupted wait returns none.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        self.ready = 0;
        match epoll::wait(&self.epoll, &mut *self.events, timeout.as_ref()) {
            Ok(ready) => self.ready = ready,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.ready)
    }

    /// The event at `index` of the last wait.
    pub fn event(&self, index: usize) -> Option<(u64, Ready)> {
        let event = self.events[..self.ready].get(index)?;
        Some((event.data.u64(), Ready(event.flags)))
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Poller({:?})", self.epoll)
    }
}

// === impl Interest ===

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Level => EventFlags::IN,
            Self::Read => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            Self::ReadWrite => {
                EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
            }
        }
    }
}

// === impl Ready ===

impl Ready {
    /// A read won't block: bytes, the end of the stream or an error is there.
    pub fn readable(self) -> bool {
        let read = EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.0.intersects(read)
    }

    /// A send won't block: there is room, or an error to tell.
    pub fn writable(self) -> bool {
        self.0
            .intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR)
    }

    /// The peer has finished sending, so a short read proves nothing: the end comes after it.
    pub fn finished(self) -> bool {
        self.0
            .intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
    }

    /// The socket failed; its error waits to be taken.
    pub fn failed(self) -> bool {
        self.0.contains(EventFlags::ERR)
    }
}
