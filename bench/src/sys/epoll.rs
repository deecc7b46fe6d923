//! epoll: edge-triggered for sessions, level-triggered for datagrams.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// An epoll instance; tokens are the caller's.
pub(crate) struct Epoll(OwnedFd);

/// A buffer for ready events.
pub(crate) struct Events(Vec<libc::epoll_event>);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `fd` for both directions, edge-triggered.
    pub(crate) fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.watch(
            fd,
            token,
            libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        )
    }

    /// Watches `fd` for something to read, as long as there is something.
    pub(crate) fn add_level(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.watch(fd, token, libc::EPOLLIN)
    }

    fn watch(&self, fd: RawFd, token: u64, flags: i32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: flags as u32,
            u64: token,
        };
        // SAFETY: `event` lives through the call; a bad descriptor yields EBADF.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        })?;
        Ok(())
    }

    /// Waits for events; `(token, flags)` each.
    pub(crate) fn wait<'e>(
        &self,
        events: &'e mut Events,
    ) -> io::Result<impl Iterator<Item = (u64, u32)> + use<'e>> {
        let capacity = events.0.capacity();
        // SAFETY: the buffer has room for `capacity` events.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.0.as_mut_ptr(),
                capacity as i32,
                -1,
            )
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel filled the first `count` events.
        unsafe { events.0.set_len(count) };
        Ok(events.0.iter().map(|event| (event.u64, event.events)))
    }
}

impl Events {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }
}

/// Turns -1 into the error that errno names.
pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
