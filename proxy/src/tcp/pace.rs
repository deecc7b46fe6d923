//! How fast sessions may be reset: resets of thousands of clients at once would all come back at
//! once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fairlead_runtime::clock::Tick;

/// A pace shared by all data threads: `per_second` resets a second, a tenth of them at a time.
#[derive(Debug)]
pub struct Pace {
    interval_nanos: AtomicU64,
    /// When the next reset would be due at an even pace.
    next: AtomicU64,
}

// === impl Pace ===

impl Pace {
    /// `per_second` resets a second; 0 is taken for 1.
    pub fn new(per_second: u32) -> Self {
        let pace = Self {
            interval_nanos: AtomicU64::new(0),
            next: AtomicU64::new(0),
        };
        pace.set(per_second);
        pace
    }

    /// Changes the pace.
    pub fn set(&self, per_second: u32) {
        let interval = SECOND / u64::from(per_second.max(1));
        self.interval_nanos.store(interval.max(1), Relaxed);
    }

    /// Takes leave for one reset, if it is due.
    pub fn take(&self, now: Tick) -> bool {
        let interval = self.interval_nanos.load(Relaxed);
        let burst = (SECOND / 10).max(interval);
        let taken = self.next.fetch_update(Relaxed, Relaxed, |next| {
            let next = next.max(now.0.saturating_sub(burst)) + interval;
            (next <= now.0).then_some(next)
        });
        taken.is_ok()
    }
}

const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn resets_keep_to_the_pace_with_a_tenth_at_a_time() {
        let pace = Pace::new(500);
        let start = Tick::from_start(Duration::from_secs(10));
        let at_once = (0..1000).filter(|_| pace.take(start)).count();
        assert_eq!(at_once, 50);
        let mut total = 0;
        for milli in 1..=1000 {
            let now = start + Duration::from_millis(milli);
            total += (0..100).filter(|_| pace.take(now)).count();
        }
        assert_eq!(total, 500);
    }

    #[test]
    fn the_slowest_pace_still_resets() {
        let pace = Pace::new(0);
        assert!(pace.take(Tick::from_start(Duration::from_secs(5))));
        assert!(!pace.take(Tick::from_start(Duration::from_millis(5_900))));
        assert!(pace.take(Tick::from_start(Duration::from_secs(6))));
    }
}
