//! Keeping threads even.
//!
//! The kernel spreads connections over the threads' listeners by hash, so a few long ones may all
//! land on one thread. A thread whose load exceeds the least loaded's by more than
//! [`SLACK`] passes the connection it just accepted on, before it has registered it anywhere.
//!
//! The load is what will still be there in a moment: live sessions less as many as ended in the
//! last tenth of a second, but never less than stayed throughout it. Long connections count from
//! the first on; a storm of short ones counts for almost nothing, since by the time one of them
//! was passed on, the imbalance that it was passed for is gone.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use fairlead_runtime::clock::Tick;

/// The published loads of all data threads.
#[derive(Debug)]
pub(crate) struct Loads(Box<[Load]>);

/// A thread's load and the connections on their way to it, in one number, so that nobody reads one
/// without the other. On a cache line of its own: its thread writes it at every connection.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load(AtomicU32);

/// How one thread computes its load.
#[derive(Debug)]
pub(crate) struct Gauge {
    live: u32,
    window: Window,
    before: Window,
    began: Tick,
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    least: u32,
    ended: u32,
}

// === impl Loads ===

impl Loads {
    pub(crate) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Load::default()).collect())
    }

    /// Thread `index` has so many more (or fewer) than it said before.
    pub(crate) fn adjust(&self, index: usize, more: i32) {
        self.0[index].0.fetch_add(more.cast_unsigned(), Relaxed);
    }

    /// The thread that should take a connection instead of thread `index` with its `load`. It
    /// counts there at once; two threads never choose one by the same count of it.
    pub(crate) fn relief(&self, index: usize, load: u32) -> Option<usize> {
        loop {
            let loads = self.0.iter().map(|load| load.0.load(Relaxed)).enumerate();
            let others = loads.filter(|(other, _)| *other != index);
            let (least, least_load) = others.min_by_key(|(_, load)| *load)?;
            if load <= least_load + SLACK {
                return None;
            }
            let seen = &self.0[least].0;
            let chosen = seen.compare_exchange(least_load, least_load + 1, Relaxed, Relaxed);
            if chosen.is_ok() {
                return Some(least);
            }
        }
    }
}

// === impl Gauge ===

impl Gauge {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            live: 0,
            window: Window::default(),
            before: Window::default(),
            began: now,
        }
    }

    /// A session began.
    pub(crate) fn begin(&mut self) {
        self.live += 1;
    }

    /// A session ended.
    pub(crate) fn end(&mut self) {
        self.live -= 1;
        self.window.ended += 1;
        self.window.least = self.window.least.min(self.live);
    }

    /// Whether the load is all that lives, and will be without further events.
    pub(crate) fn is_settled(&self, load: u32) -> bool {
        load == self.live
    }

    /// The load now.
    pub(crate) fn load(&mut self, now: Tick) -> u32 {
        if now - self.began >= WINDOW {
            // After a gap of more than a window nothing ended lately.
            self.before = if now - self.began >= 2 * WINDOW {
                Window {
                    least: self.live,
                    ended: 0,
                }
            } else {
                self.window
            };
            self.window = Window {
                least: self.live,
                ended: 0,
            };
            self.began = now;
        }
        let ended = self.window.ended + self.before.ended;
        let stayed = self.window.least.min(self.before.least);
        self.live.saturating_sub(ended).max(stayed)
    }
}

/// Sessions that a thread may have more than the least loaded one.
const SLACK: u32 = 2;
/// Long against a short connection, short against the time in which people look at gauges.
pub(crate) const WINDOW: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn a_burst_of_long_connections_counts_in_full() {
        let mut gauge = Gauge::new(at(0));
        for expected in 1..=64 {
            assert_eq!(gauge.load(at(expected)), expected as u32 - 1);
            gauge.begin();
        }
    }

    #[test]
    fn short_connections_count_for_almost_nothing() {
        let mut gauge = Gauge::new(at(0));
        for milli in 0..1000 {
            gauge.load(at(milli));
            gauge.begin();
            gauge.begin();
            gauge.end();
            gauge.end();
        }
        for _ in 0..8 {
            gauge.begin();
        }
        assert_eq!(gauge.load(at(1000)), 0);
    }

    #[test]
    fn long_connections_count_also_among_short_ones() {
        let mut gauge = Gauge::new(at(0));
        for _ in 0..40 {
            gauge.begin();
        }
        for milli in 0..1000 {
            gauge.load(at(milli));
            gauge.begin();
            gauge.end();
        }
        assert_eq!(gauge.load(at(1000)), 40);
    }

    #[test]
    fn a_connection_is_passed_on_when_the_difference_exceeds_two() {
        let loads = Loads::new(3);
        loads.adjust(0, 3);
        loads.adjust(1, 2);
        loads.adjust(2, 1);
        assert_eq!(loads.relief(0, 3), None);
        assert_eq!(loads.relief(0, 4), Some(2));
        assert_eq!(loads.relief(0, 4), None, "thread 2 has it already");
        loads.adjust(2, -1);
        assert_eq!(loads.relief(0, 4), Some(2));
        assert_eq!(Loads::new(1).relief(0, 100), None);
    }
}
