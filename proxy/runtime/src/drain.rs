//! How a process leaves.
//!
//! ```text
//! Serving ──leave──▶ Announced ──shutdown delay──▶ Draining ──idle or deadline──▶ Over
//!    │                   └───────────second leave─────┴──────────────▶ Over       ▲
//!    └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`Departure`] is the pure state machine; [`channel`] spreads its phase to everyone who must act
//! on it. *Announced* is not ready but still accepting, so that whoever sends traffic here has time
//! to notice.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Tick;

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Ready and accepting.
    #[default]
    Serving,
    /// Not ready, still accepting.
    Announced,
    /// No longer accepting; live sessions finish.
    Draining,
    /// What still lives is cut; the process ends.
    Over,
}

/// The pure state machine of leaving.
#[derive(Debug, Clone)]
pub struct Departure {
    limits: Limits,
    phase: Phase,
    until: Option<Tick>,
}

/// How long leaving may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the process still accepts after it was asked to leave.
    pub shutdown_delay: Duration,
    /// How long live sessions may go on after that.
    pub drain_timeout: Duration,
}

/// Sets the phase that every [`PhaseWatch`] sees.
#[derive(Debug)]
pub struct PhaseSetter(watch::Sender<Phase>);

/// Sees the phase change.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<Phase>);

/// A phase's setter and its first watch.
pub fn channel() -> (PhaseSetter, PhaseWatch) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (PhaseSetter(sender), PhaseWatch(receiver))
}

// === impl Departure ===

impl Departure {
    /// Serving.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Serving,
            until: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When [`Self::step`] has to be called at the latest.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.until
    }

    /// The process was asked to leave; a second time means now.
    pub fn leave(&mut self, now: Tick) -> Phase {
        match self.phase {
            Phase::Serving => {
                self.phase = Phase::Announced;
                self.until = Some(now + self.limits.shutdown_delay);
                self.step(now, false)
            }
            Phase::Announced | Phase::Draining | Phase::Over => self.over(),
        }
    }

    /// A successor accepts now: drains from here on, without a delay.
    pub fn hand_over(&mut self, now: Tick) -> Phase {
        if self.phase < Phase::Draining {
            self.phase = Phase::Draining;
            self.until = Some(now + self.limits.drain_timeout);
        }
        self.phase
    }

    /// Time passed, or the last session ended (`idle`): the phase that holds now.
    pub fn step(&mut self, now: Tick, idle: bool) -> Phase {
        let due = self.until.is_some_and(|until| now >= until);
        match self.phase {
            Phase::Announced if due => {
                self.phase = Phase::Draining;
                self.until = Some(now + self.limits.drain_timeout);
                self.phase
            }
            Phase::Draining if due || idle => self.over(),
            phase => phase,
        }
    }

    fn over(&mut self) -> Phase {
        self.until = None;
        self.phase = Phase::Over;
        self.phase
    }
}

// === impl PhaseSetter ===

impl PhaseSetter {
    /// Tells everyone; the same phase again wakes nobody.
    pub fn set(&self, phase: Phase) {
        self.0
            .send_if_modified(|old| std::mem::replace(old, phase) != phase);
    }
}

// === impl PhaseWatch ===

impl PhaseWatch {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until `wanted` holds of the phase. Pends forever when the setter is gone before.
    pub async fn wait_for(&mut self, wanted: impl FnMut(&Phase) -> bool) -> Phase {
        match self.0.wait_for(wanted).await {
            Ok(phase) => *phase,
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
