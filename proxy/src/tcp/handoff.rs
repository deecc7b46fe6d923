//! Keeping threads even.
//!
//! The kernel spreads connections over the threads' listeners by hash, so a few long ones may all
//! land on one thread. A thread whose load exceeds the least loaded's by more than
//! [`SLACK`] passes the connection it just accepted on, before it has registered it anywhere.
//!
//! The load is what will still be there in a moment: sessions older than a tenth of a second, and of
//! the younger ones as many as exceed those that ended at such an age lately. Long connections
//! count from the first on; a storm of short ones counts for almost nothing, since by the time one
//! of them was passed on, the imbalance that it was passed for is gone.

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
    /// Live sessions that are older than both windows.
    old: u32,
    window: Window,
    before: Window,
}

/// A stretch of time, up to the next one.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Tick,
    /// Live sessions that began in it.
    begun: u32,
    /// Sessions that ended in it, not older than it and the one before.
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

    /// The thread that should take a connection instead of thread `index`. It counts there at once;
    /// two threads never choose one by the same count of it. What is on its way to thread `index`
    /// counts as well: it may already be too much.
    pub(crate) fn relief(&self, index: usize) -> Option<usize> {
        loop {
            let load = self.0[index].0.load(Relaxed) + 1;
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
            old: 0,
            window: Window::new(now),
            before: Window::new(now),
        }
    }

    /// A session began that was accepted then.
    pub(crate) fn begin(&mut self, accepted: Tick) {
        *self.of(accepted) += 1;
    }

    /// A session ended that was accepted then.
    pub(crate) fn end(&mut self, accepted: Tick) {
        *self.of(accepted) -= 1;
        self.window.ended += u32::from(accepted >= self.before.start);
    }

    /// Whether the load is all that lives, and will be without further events.
    pub(crate) fn is_settled(&self, load: u32) -> bool {
        load == self.old + self.window.begun + self.before.begun
    }

    /// The load now.
    pub(crate) fn load(&mut self, now: Tick) -> u32 {
        if now - self.window.start >= WINDOW {
            self.old += self.before.begun;
            self.before = self.window;
            // After a gap of more than a window nothing is young, and nothing ended lately.
            if now - self.before.start >= 2 * WINDOW {
                self.old += self.before.begun;
                self.before = Window::new(now);
            }
            self.window = Window::new(now);
        }
        let young = self.window.begun + self.before.begun;
        let ended = self.window.ended + self.before.ended;
        self.old + young.saturating_sub(ended)
    }

    /// Where a session counts that was accepted then: the same place at its begin and its end, as
    /// far as the windows have not moved on.
    fn of(&mut self, accepted: Tick) -> &mut u32 {
        if accepted >= self.window.start {
            &mut self.window.begun
        } else if accepted >= self.before.start {
            &mut self.before.begun
        } else {
            &mut self.old
        }
    }
}

// === impl Window ===

impl Window {
    fn new(start: Tick) -> Self {
        Self {
            start,
            begun: 0,
            ended: 0,
        }
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
            gauge.begin(at(expected));
        }
    }

    #[test]
    fn short_connections_count_for_almost_nothing() {
        let mut gauge = Gauge::new(at(0));
        for milli in 0..1000 {
            gauge.load(at(milli));
            gauge.begin(at(milli));
            gauge.begin(at(milli));
            gauge.end(at(milli));
            gauge.end(at(milli));
        }
        for _ in 0..8 {
            gauge.begin(at(1000));
        }
        assert_eq!(gauge.load(at(1000)), 0);
        assert!(!gauge.is_settled(0));
        assert_eq!(gauge.load(at(1200)), 8, "they were long ones after all");
        assert!(gauge.is_settled(8));
    }

    #[test]
    fn long_connections_count_also_among_short_ones() {
        let mut gauge = Gauge::new(at(0));
        for _ in 0..40 {
            gauge.begin(at(0));
        }
        for milli in 0..1000 {
            gauge.load(at(milli));
            gauge.begin(at(milli));
            gauge.end(at(milli));
        }
        assert_eq!(gauge.load(at(1000)), 40);
        for _ in 0..40 {
            gauge.end(at(0));
        }
        assert_eq!(gauge.load(at(1000)), 0);
    }

    /// 20,000 connections of 5 ms over four threads, 40 to 60 at a time, spread at random.
    #[test]
    fn hand_offs_stay_below_one_percent_of_short_connections() {
        const LIFE: Duration = Duration::from_millis(5);
        let loads = Loads::new(4);
        let mut gauges: Vec<Gauge> = (0..4).map(|_| Gauge::new(at(0))).collect();
        let mut published = [0_u32; 4];
        let mut ends = std::collections::VecDeque::new();
        let (mut passed, mut state) = (0, 1_u64);
        for number in 0..20_000_u64 {
            let now = Tick::from_start(Duration::from_micros(number * 100));
            while ends.front().is_some_and(|(end, _)| *end <= now) {
                let (end, thread): (Tick, usize) = ends.pop_front().unwrap();
                gauges[thread].end(Tick(end.0 - LIFE.as_nanos() as u64));
            }
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let mut thread = (state >> 62) as usize;
            let load = gauges[thread].load(now);
            loads.adjust(thread, load.cast_signed() - published[thread].cast_signed());
            published[thread] = load;
            if let Some(other) = loads.relief(thread) {
                passed += 1;
                loads.adjust(other, -1);
                thread = other;
            }
            gauges[thread].begin(now);
            ends.push_back((now + LIFE, thread));
            let load = gauges[thread].load(now);
            loads.adjust(thread, load.cast_signed() - published[thread].cast_signed());
            published[thread] = load;
        }
        assert!(passed < 200, "{passed} of 20,000");
    }

    #[test]
    fn a_connection_is_passed_on_when_the_difference_exceeds_two() {
        let loads = Loads::new(3);
        loads.adjust(0, 2);
        loads.adjust(1, 2);
        loads.adjust(2, 1);
        assert_eq!(loads.relief(0), None);
        loads.adjust(0, 1);
        assert_eq!(loads.relief(0), Some(2));
        assert_eq!(loads.relief(0), None, "thread 2 has it already");
        loads.adjust(2, -1);
        assert_eq!(loads.relief(0), Some(2));
        assert_eq!(Loads::new(1).relief(0), None);
    }

    /// However connections are spread, and however late the threads take what was passed to them.
    #[test]
    fn threads_end_even_although_connections_are_under_way_between_them() {
        for seed in 0..500_u64 {
            let loads = Loads::new(8);
            let mut live = [0_u32; 8];
            let mut under_way = Vec::new();
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) % below
            };
            for _ in 0..64 {
                // Half of the threads get nearly all.
                let among = if random(10) > 0 { 4 } else { 8 };
                let thread = random(among) as usize;
                if let Some(other) = loads.relief(thread) {
                    under_way.push(other);
                } else {
                    loads.adjust(thread, 1);
                    live[thread] += 1;
                }
                while random(3) == 0 && !under_way.is_empty() {
                    let index = random(under_way.len() as u64) as usize;
                    live[under_way.swap_remove(index)] += 1;
                }
            }
            for thread in under_way {
                live[thread] += 1;
            }
            assert!(
                live.iter().all(|live| (6..=10).contains(live)),
                "seed {seed}: {live:?}"
            );
        }
    }
}
