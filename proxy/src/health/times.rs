//! How long connects to a member took lately.
//!
//! A histogram of 48 buckets, each a fifth wider than the one before, from 2 ms to about 10 s: what
//! hedging asks for lies between 10 ms and some seconds. Counts are halved when there are 1,024, so
//! that it follows changes. Threads add with relaxed atomics; a lost update costs one sample.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Connect times of one member. 200 bytes.
#[derive(Debug)]
pub struct ConnectTimes {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU32,
    /// Microseconds; brought up to date by the samples themselves.
    p95_micros: AtomicU32,
}

impl Default for ConnectTimes {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicU32::new(0),
            p95_micros: AtomicU32::new(0),
        }
    }
}

impl ConnectTimes {
    /// Adds a sample.
    pub fn record(&self, took: Duration) {
        self.buckets[bucket(took)].fetch_add(1, Relaxed);
        let count = self.count.fetch_add(1, Relaxed) + 1;
        if count >= HALVE_AT {
            self.halve();
        }
        // Often while there are few, then every 16th: one pass over the buckets is some 20 ns.
        if count <= 64 || count.is_multiple_of(16) {
            self.p95_micros.store(self.compute_p95(), Relaxed);
        }
    }

    /// The time that 95 of 100 connects stayed within, rounded up to its bucket; `None` with fewer
    /// than [`SAMPLES_MIN`] samples.
    pub fn p95(&self) -> Option<Duration> {
        (self.count.load(Relaxed) >= SAMPLES_MIN)
            .then(|| Duration::from_micros(self.p95_micros.load(Relaxed).into()))
    }

    /// The samples, as numbers of a bucket and how many it has.
    pub fn samples(&self) -> Vec<(u8, u32)> {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let filled = (0..).zip(counts).filter(|(_, count)| *count > 0);
        filled.collect()
    }

    /// Adds samples of an earlier process; buckets that this version doesn't have are left out.
    pub fn restore(&self, samples: &[(u8, u32)]) {
        for (bucket, count) in samples {
            if let Some(bucket) = self.buckets.get(usize::from(*bucket)) {
                let count = (*count).min(HALVE_AT - 1);
                bucket.fetch_add(count, Relaxed);
                self.count.fetch_add(count, Relaxed);
            }
        }
        self.p95_micros.store(self.compute_p95(), Relaxed);
    }

    fn compute_p95(&self) -> u32 {
        let counts: [u32; BUCKETS] = std::array::from_fn(|index| self.buckets[index].load(Relaxed));
        let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let mut left = (total * 95).div_ceil(100);
        for (count, end) in counts.iter().zip(BUCKET_ENDS) {
            left = left.saturating_sub(u64::from(*count));
            if left == 0 {
                return end;
            }
        }
        BUCKET_ENDS[BUCKETS - 1]
    }

    fn halve(&self) {
        let mut count = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Relaxed) / 2;
            bucket.store(half, Relaxed);
            count += half;
        }
        self.count.store(count, Relaxed);
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    BUCKET_ENDS
        .partition_point(|&end| end < micros)
        .min(BUCKETS - 1)
}

/// The last microsecond of each bucket.
const BUCKET_ENDS: [u32; BUCKETS] = {
    let mut ends = [0; BUCKETS];
    let mut end = 2_000u64;
    let mut index = 0;
    while index < BUCKETS {
        ends[index] = end as u32;
        end = end * 6 / 5;
        index += 1;
    }
    ends
};

const BUCKETS: usize = 48;
const HALVE_AT: u32 = 1024;
/// Samples before a percentile means anything.
pub const SAMPLES_MIN: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: impl IntoIterator<Item = u64>) -> Option<Duration> {
        let times = ConnectTimes::default();
        for millis in samples {
            times.record(Duration::from_millis(millis));
        }
        times.p95()
    }

    #[test]
    fn there_is_no_percentile_before_twenty_samples() {
        assert_eq!(after([10; 19]), None);
        assert!(after([10; 20]).is_some());
    }

    #[test]
    fn the_percentile_is_at_most_a_fifth_above_the_sample() {
        for millis in [3, 10, 35, 90, 180, 700, 2_500] {
            let found = after([millis; 100]).unwrap().as_secs_f64();
            let exact = millis as f64 / 1000.0;
            assert!(
                found >= exact && found <= exact * 1.21,
                "{found} for {exact}"
            );
        }
    }

    #[test]
    fn eight_slow_ones_in_160_do_not_count_and_nine_do() {
        let with_slow = |slow: usize| {
            (0..160).map(move |index| {
                if index % 16 == 5 && index / 16 < slow {
                    900
                } else {
                    10
                }
            })
        };
        assert!(after(with_slow(8)).unwrap() < Duration::from_millis(15));
        assert!(after(with_slow(9)).unwrap() > Duration::from_millis(800));
    }

    #[test]
    fn it_forgets_what_was_long_ago() {
        let samples = [900; 1000].into_iter().chain([10; 8000]);
        assert!(after(samples).unwrap() < Duration::from_millis(15));
    }
}
