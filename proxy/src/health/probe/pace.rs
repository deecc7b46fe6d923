//! When probes are due, and how many may start.

use fairlead_runtime::clock::Tick;

/// Hundredths of a second since the start of the process; 497 days fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Moment(pub(super) u32);

/// Probes that may start now: a bucket of a twentieth of a second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowance {
    /// Thousandths of a probe.
    pub(super) left: u64,
    at: Tick,
}

impl Moment {
    /// The first hundredth that isn't before `tick`; never 0, which stands for none.
    pub(super) fn of(tick: Tick) -> Self {
        Self((tick.0 / 10_000_000 + 1) as u32)
    }

    pub(super) fn tick(self) -> Tick {
        Tick(u64::from(self.0) * 10_000_000)
    }
}

impl Allowance {
    pub(super) fn refill(&mut self, now: Tick) {
        let earned = now.since(self.at).as_micros() as u64 * BUDGET_PER_SECOND / 1000;
        self.left = (self.left + earned).min(BUDGET_PER_SECOND * 1000 / 20);
        self.at = now;
    }

    pub(super) fn take(&mut self) -> bool {
        let enough = self.left >= 1000;
        self.left -= if enough { 1000 } else { 0 };
        enough
    }
}

/// Probes a second from one process: some 3 % of a core, and no storm for whoever is probed.
pub const BUDGET_PER_SECOND: u64 = 2000;
