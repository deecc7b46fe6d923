//! A connect that lost its race.

use fairlead_runtime::clock::Tick;

use super::{AttemptId, Failure};
use crate::registry::{Live, Outcome};

/// A connect that goes on after another one serves the session, for what its time says.
#[derive(Debug)]
pub struct Loser {
    /// Which of the session's connects it was.
    pub attempt: AttemptId,
    /// Its endpoint, where it stays counted.
    pub live: Live,
    pub(super) started: Tick,
    /// When it strikes; none when it did.
    pub(super) late_at: Option<Tick>,
    pub(super) ends_at: Tick,
}

impl Loser {
    /// When to call [`Self::woken`].
    pub fn next_wake(&self) -> Tick {
        self.late_at
            .map_or(self.ends_at, |late| late.min(self.ends_at))
    }

    /// Its time came: what to report, and whether to close it now.
    pub fn woken(&mut self, now: Tick) -> (Option<Outcome>, bool) {
        let over = now >= self.ends_at;
        let late = self.late_at.is_some_and(|late| now >= late) || over && self.late_at.is_some();
        if late {
            self.late_at = None;
        }
        (late.then_some(Outcome::TimedOut), over)
    }

    /// It was answered: what to report before closing it.
    pub fn connected(&self, now: Tick) -> Outcome {
        Outcome::Connected(now.since(self.started))
    }

    /// It failed: what to report.
    pub fn failed(&self, failure: Failure) -> Option<Outcome> {
        self.late_at.is_some().then(|| failure.outcome())
    }
}
