//! What the outside asks of the process by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: leave; a second one means now.
    Leave,
    /// SIGHUP: read the configuration again, and confirm what needs confirmation.
    Reload,
    /// SIGUSR2: hand over to a new process of the binary on disk.
    Upgrade,
}

/// The signals of this process. Construct before anything that takes long, since until then their
/// default action applies.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

// === impl Signals ===

impl Signals {
    /// Takes over SIGTERM, SIGINT, SIGHUP and SIGUSR2. Needs a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next request. Signals of one kind that arrive faster than they are read count once.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Leave,
            _ = self.interrupt.recv() => Request::Leave,
            _ = self.hangup.recv() => Request::Reload,
            _ = self.upgrade.recv() => Request::Upgrade,
        }
    }
}
