//! The cells that counts are kept in. All writes are relaxed: a scrape sees each cell whole, and
//! different cells a moment apart.

use std::{
    fmt,
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Only ever grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

/// Goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicI64);

/// One counter for each value of a closed enum. Takes memory once it has counted: of tens of thousands
/// of services and members most never do.
pub struct CounterBy<L> {
    cells: OnceLock<Box<[Counter]>>,
    label: PhantomData<L>,
}

/// How long things took, in buckets.
#[derive(Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    over: Counter,
    micros: Counter,
}

/// A label with a closed set of values.
pub trait LabelValue: Copy + 'static {
    /// Every value, in order of its index.
    const VALUES: &'static [Self];
    /// From 0, below the number of values.
    fn index(self) -> usize;
    /// As it stands in the text format.
    fn as_str(self) -> &'static str;
}

/// Declares an enum whose values are label values, with their text.
macro_rules! label_enum {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $value,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];

            /// The value as a label and a log field show it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl $crate::metrics::LabelValue for $name {
            const VALUES: &'static [Self] = Self::ALL;

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                Self::as_str(self)
            }
        }
    };
}
pub(crate) use label_enum;

// === impl Counter ===

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// So far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.value())
    }
}

// === impl Gauge ===

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// To `value`.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Now.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.value())
    }
}

// === impl CounterBy ===

impl<L: LabelValue> CounterBy<L> {
    /// One more of `label`.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// `count` more of `label`.
    pub fn add(&self, label: L, count: u64) {
        let fresh = || L::VALUES.iter().map(|_| Counter::default()).collect();
        self.cells.get_or_init(fresh)[label.index()].add(count);
    }

    /// So far of `label`.
    pub fn value(&self, label: L) -> u64 {
        let cells = self.cells.get();
        cells.map_or(0, |cells| cells[label.index()].value())
    }

    /// So far of all together.
    pub fn sum(&self) -> u64 {
        let cells = self.cells.get().into_iter().flatten();
        cells.map(Counter::value).sum()
    }
}

impl<L: LabelValue> Default for CounterBy<L> {
    fn default() -> Self {
        Self {
            cells: OnceLock::new(),
            label: PhantomData,
        }
    }
}

impl<L: LabelValue> fmt::Debug for CounterBy<L> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = L::VALUES
            .iter()
            .map(|label| (label.as_str(), self.value(*label)))
            .filter(|(_, count)| *count > 0);
        out.debug_map().entries(counted).finish()
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts one that took `time`.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        match BOUNDS.iter().position(|bound| micros <= bound.micros) {
            Some(bucket) => self.buckets[bucket].inc(),
            None => self.over.inc(),
        }
        self.micros.add(micros);
    }

    /// How many so far.
    pub fn count(&self) -> u64 {
        self.cumulative().last().map_or(0, |(_, count)| count) + self.over.value()
    }

    /// The sum so far, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.micros.value() as f64 / 1e6
    }

    /// For each upper bound, in seconds as text, how many were no longer than that.
    pub fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut count = 0;
        BOUNDS
            .iter()
            .zip(&self.buckets)
            .map(move |(bound, bucket)| {
                count += bucket.value();
                (bound.seconds, count)
            })
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} in {} s", self.count(), self.sum_seconds())
    }
}

struct Bound {
    micros: u64,
    seconds: &'static str,
}

/// From a connect in the same rack to one that a hedge has long overtaken.
const BOUNDS: [Bound; 12] = [
    bound(100, "0.0001"),
    bound(250, "0.00025"),
    bound(500, "0.0005"),
    bound(1_000, "0.001"),
    bound(2_500, "0.0025"),
    bound(5_000, "0.005"),
    bound(10_000, "0.01"),
    bound(25_000, "0.025"),
    bound(50_000, "0.05"),
    bound(100_000, "0.1"),
    bound(500_000, "0.5"),
    bound(2_500_000, "2.5"),
];

const fn bound(micros: u64, seconds: &'static str) -> Bound {
    Bound { micros, seconds }
}
