//! When a piece of load is due.

use std::io;

use tokio::{io::unix::AsyncFd, time::Instant};

use crate::sys::timer::Timer;

/// Waits for one time after another. Each costs three system calls, so it is for loads at a rate.
pub(super) struct Alarm(AsyncFd<Timer>);

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Timer::new()?.register()?))
    }

    /// Waits until `due`; returns at once when that is past.
    pub(super) async fn until(&self, due: Instant) -> io::Result<()> {
        let Some(left) = due.checked_duration_since(Instant::now()) else {
            return Ok(());
        };
        self.0.get_ref().arm(left)?;
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(taken) = ready.try_io(|timer| timer.get_ref().take()) {
                return taken;
            }
        }
    }
}
