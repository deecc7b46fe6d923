//! How many hedges a service may send: a tenth of its connects, and 100 a second in any case.
//!
//! Counted per second. Threads add their connects in tens, so that the shared counter is written once
//! in ten connects; a hedge writes it once.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use fairlead_runtime::clock::Tick;

/// The budget of one service, over all threads.
#[derive(Debug, Default)]
pub struct HedgeBudget {
    /// Tens of connects since the start, wrapping.
    tens: AtomicU32,
    /// The current second (upper half) and the hedges sent in it.
    window: AtomicU64,
    /// `tens` when the second began, and what the second before allowed on top of the floor.
    tens_before: AtomicU32,
    earned: AtomicU32,
}

impl HedgeBudget {
    /// Adds ten connects.
    pub fn add_ten(&self) {
        self.tens.fetch_add(1, Relaxed);
    }

    /// Takes one hedge out of this second's budget, if there is one left.
    pub fn take(&self, now: Tick) -> bool {
        let second = (now.0 / Duration::from_secs(1).as_nanos() as u64) & 0xffff_ffff;
        let seen = self.window.load(Relaxed);
        if seen >> 32 != second {
            let began = self
                .window
                .compare_exchange(seen, second << 32, Relaxed, Relaxed);
            if began.is_ok() {
                self.begin_second(second.saturating_sub(seen >> 32));
            }
        }
        let hedges = (self.window.fetch_add(1, Relaxed) & 0xffff_ffff) as u32;
        hedges < self.earned.load(Relaxed).max(FLOOR_PER_SECOND)
    }

    fn begin_second(&self, elapsed: u64) {
        let tens = self.tens.load(Relaxed);
        let before = self.tens_before.swap(tens, Relaxed);
        let per_second = u64::from(tens.wrapping_sub(before)) / elapsed.max(1);
        self.earned.store(per_second as u32, Relaxed);
    }
}

/// Hedges a second that are always allowed.
pub const FLOOR_PER_SECOND: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &HedgeBudget, tries: u32, now: Tick) -> u32 {
        (0..tries).filter(|_| budget.take(now)).count() as u32
    }

    #[test]
    fn a_quiet_service_may_hedge_a_hundred_times_a_second() {
        let budget = HedgeBudget::default();
        let second = |number| Tick::from_start(Duration::from_secs(number));
        assert_eq!(taken(&budget, 500, second(0)), 100);
        assert_eq!(taken(&budget, 500, second(0)), 0);
        assert_eq!(taken(&budget, 500, second(1)), 100);
    }

    #[test]
    fn a_busy_service_may_hedge_a_tenth_of_its_connects() {
        let budget = HedgeBudget::default();
        assert!(budget.take(Tick::from_start(Duration::from_secs(7))));
        for _ in 0..500 {
            budget.add_ten();
        }
        assert_eq!(
            taken(&budget, 2_000, Tick::from_start(Duration::from_secs(8))),
            500
        );
        assert_eq!(
            taken(&budget, 2_000, Tick::from_start(Duration::from_secs(9))),
            100
        );
    }
}
