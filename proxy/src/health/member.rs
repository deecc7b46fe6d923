//! Members of which most recent connects failed.
//!
//! A member is suspect when at least half of at least 20 connects in the last second failed. It takes
//! no new sessions then, while another one can, for 2 s; each time that it turns suspect again within
//! a minute, twice as long, up to 30 s. Kept per service: a broken service says nothing about its neighbours.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use fairlead_runtime::clock::Tick;

/// Connects of the last second, in eighths. 72 bytes; threads add with relaxed atomics.
#[derive(Debug, Default)]
pub struct Window {
    /// The current eighth, counted since the start of the process.
    at: AtomicU32,
    /// Answered connects in the lower halves, failed ones in the upper.
    cells: [AtomicU64; CELLS],
}

/// Whether one member is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suspicion {
    until: Option<Tick>,
    last_end: Tick,
    /// How often it turned suspect lately.
    times: u32,
}

// === impl Window ===

impl Window {
    /// Adds a connect.
    pub fn add(&self, answered: bool, now: Tick) {
        self.advance(now);
        let cell = &self.cells[eighth(now) as usize % CELLS];
        cell.fetch_add(if answered { 1 } else { FAILED }, Relaxed);
    }

    /// Connects answered and failed in the last second.
    pub fn counts(&self, now: Tick) -> (u32, u32) {
        self.advance(now);
        let cells = self.cells.iter().map(|cell| cell.load(Relaxed));
        cells.fold((0, 0), |(answered, failed), cell| {
            (answered + cell as u32, failed + (cell >> 32) as u32)
        })
    }

    /// Empties the cells that time has passed since the last call. The thread that moves the window on
    /// does it; what others add at that moment may be lost.
    fn advance(&self, now: Tick) {
        let current = eighth(now);
        let seen = self.at.load(Relaxed);
        // Threads read the clock at different moments: never go back.
        let passed = current.wrapping_sub(seen);
        if passed == 0 || passed > u32::MAX / 2 {
            return;
        }
        if self
            .at
            .compare_exchange(seen, current, Relaxed, Relaxed)
            .is_ok()
        {
            for step in 0..passed.min(CELLS as u32) {
                self.cells[current.wrapping_sub(step) as usize % CELLS].store(0, Relaxed);
            }
        }
    }
}

// === impl Suspicion ===

impl Suspicion {
    /// Looks at the member's last second after a failure; true when it turns suspect now.
    pub fn observe(&mut self, (answered, failed): (u32, u32), now: Tick) -> bool {
        let total = answered + failed;
        if self.until.is_some() || total < CONNECTS_MIN || failed * 2 < total {
            return false;
        }
        if now.since(self.last_end) > FORGET_AFTER {
            self.times = 0;
        }
        let hold = (HOLD * 2u32.saturating_pow(self.times)).min(HOLD_MAX);
        self.times = (self.times + 1).min(8);
        self.until = Some(now.after(hold));
        true
    }

    /// Ends the suspicion when its time is up; true when it ends now.
    pub fn advance(&mut self, now: Tick) -> bool {
        if self.until.is_none_or(|until| now < until) {
            return false;
        }
        self.until = None;
        self.last_end = now;
        true
    }

    /// Until when it is suspect.
    pub fn until(&self) -> Option<Tick> {
        self.until
    }

    /// Whether nothing is remembered that could matter.
    pub fn is_over(&self, now: Tick) -> bool {
        self.until.is_none() && now.since(self.last_end) > FORGET_AFTER
    }
}

fn eighth(now: Tick) -> u32 {
    (now.0 / 125_000_000) as u32
}

const CELLS: usize = 8;
const FAILED: u64 = 1 << 32;
/// Connects in a second before their outcome says something about the member.
const CONNECTS_MIN: u32 = 20;
const HOLD: Duration = Duration::from_secs(2);
const HOLD_MAX: Duration = Duration::from_secs(30);
const FORGET_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_start(Duration::from_secs(10) + Duration::from_millis(millis))
    }

    fn window(answered: u32, failed: u32) -> (u32, u32) {
        let window = Window::default();
        (0..answered).for_each(|_| window.add(true, at(0)));
        (0..failed).for_each(|_| window.add(false, at(0)));
        window.counts(at(0))
    }

    #[test]
    fn a_member_is_suspect_when_half_of_twenty_connects_failed() {
        for (answered, failed, expected) in [
            (10, 10, true),
            (11, 10, false),
            (0, 19, false),
            (0, 20, true),
            (90, 80, false),
        ] {
            let mut suspicion = Suspicion::default();
            assert_eq!(
                suspicion.observe(window(answered, failed), at(0)),
                expected,
                "{answered} {failed}"
            );
            assert_eq!(suspicion.until().is_some(), expected);
        }
    }

    #[test]
    fn the_window_forgets_after_a_second_and_never_goes_back() {
        let window = Window::default();
        window.add(false, at(0));
        window.add(true, at(500));
        assert_eq!(window.counts(at(990)), (1, 1));
        assert_eq!(window.counts(at(1000)), (1, 0));
        window.add(true, at(400));
        assert_eq!(window.counts(at(1000)).1, 0);
        assert_eq!(window.counts(at(60_000)), (0, 0));
    }

    #[test]
    fn a_member_that_turns_suspect_again_is_out_twice_as_long() {
        let mut suspicion = Suspicion::default();
        let mut now = at(0);
        let mut holds = Vec::new();
        for _ in 0..6 {
            assert!(suspicion.observe((0, 20), now));
            let until = suspicion.until().unwrap();
            assert!(!suspicion.advance(Tick(until.0 - 1)));
            assert!(suspicion.advance(until));
            holds.push(until.since(now).as_secs());
            now = until;
        }
        assert_eq!(holds, [2, 4, 8, 16, 30, 30]);
        now = now.after(Duration::from_secs(61));
        assert!(suspicion.is_over(now));
        suspicion.observe((0, 20), now);
        assert_eq!(suspicion.until(), Some(now.after(Duration::from_secs(2))));
    }
}
