//! Pipes for `splice(2)`: pages move from socket to socket without being copied.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice};

/// A pipe that only this process uses, neither end ever blocking.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: u32,
}

// === impl Pipe ===

impl Pipe {
    /// A pipe of `capacity` bytes, or of the size that the kernel allows: it shrinks pipes of a
    /// user who holds more than `fs.pipe-user-pages-soft` to two pages.
    pub fn new(capacity: usize) -> io::Result<Self> {
        #[cfg(test)]
        super::faults::check(super::faults::Call::Pipe)?;
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let granted = fcntl_setpipe_size(&write, capacity).or_else(|_| fcntl_getpipe_size(&write));
        Ok(Self {
            read,
            write,
            capacity: u32::try_from(granted?).unwrap_or(u32::MAX),
        })
    }

    /// In bytes. Small segments use up a page each, so it may be full before.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Moves bytes from a socket into the pipe; 0 is the end of the stream. `WouldBlock` means an
    /// empty socket or a full pipe, so callers keep the pipe drained to tell them apart.
    pub fn fill(&self, socket: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(splice(
            socket,
            None,
            &self.write,
            None,
            self.capacity(),
            flags,
        )?)
    }

    /// Moves up to `len` bytes from the pipe into a socket.
    pub fn drain(&self, socket: impl AsFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(splice(&self.read, None, socket, None, len, flags)?)
    }
}
