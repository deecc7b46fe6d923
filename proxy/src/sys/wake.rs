//! Waking a thread that waits in [`super::poll`].

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, eventfd};

/// A counter that is readable once it was raised.
#[derive(Debug)]
pub struct Waker(OwnedFd);

// === impl Waker ===

impl Waker {
    /// Not raised.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Makes it readable. Raising it again before it is lowered changes nothing.
    pub fn raise(&self) {
        // The only failure is a full counter, and then it is readable anyway.
        let _full = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable until it is raised again.
    pub fn lower(&self) {
        // The only failure is that it wasn't raised.
        let _lowered = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
