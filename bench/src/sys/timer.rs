//! A timer that fires to the microsecond; tokio's own tick in milliseconds.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

use super::epoll::check;

/// A timer that becomes readable when it has fired.
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// To be waited for.
    pub(crate) fn register(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the timer owns its descriptor, and nobody can take that out or replace it.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        registered.map_err(|error| error.into_parts().1)
    }

    /// Lets it fire once, `after` from now.
    pub(crate) fn arm(&self, after: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let after = after.max(Duration::from_nanos(1));
        let never = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::itimerspec {
            it_interval: never,
            it_value: libc::timespec {
                tv_sec: after.as_secs().cast_signed(),
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        // SAFETY: `value` lives through the call, and the old value is not asked for.
        check(unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const value, ptr::null_mut())
        })?;
        Ok(())
    }

    /// Takes the note that it has fired; `WouldBlock` before.
    pub(crate) fn take(&self) -> io::Result<()> {
        let mut count = [0; 8];
        // SAFETY: pointer and length describe `count`.
        let read = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        if read < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_timer_fires_once_and_not_before_its_time() {
        let timer = Timer::new().unwrap();
        let (start, after) = (Instant::now(), Duration::from_micros(300));
        timer.arm(after).unwrap();
        while let Err(error) = timer.take() {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            std::thread::yield_now();
        }
        assert!(start.elapsed() >= after);
        assert!(timer.take().is_err(), "it fires once");
    }
}
