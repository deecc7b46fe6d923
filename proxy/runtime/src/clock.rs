//! Time as a value.
//!
//! Cores take a [`Tick`] as an argument, shells get one from a [`Clock`]. A manual clock stands
//! still until its test moves it, so traces of one seed are equal. Reading the system clock costs
//! one vDSO call (about 30 ns); loops read it once a round.

use std::{
    fmt,
    ops::{Add, Sub},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// Nanoseconds since an hour before the process started (584 years fit), so that times which a
/// former process noted can be told. Only comparable inside one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

/// Where time comes from: the system, or a test.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

// === impl Tick ===

impl Tick {
    /// Earlier than anything.
    pub const ZERO: Self = Self(0);
    /// Later than any tick that is reached.
    pub const MAX: Self = Self(u64::MAX);

    /// From a duration since tick zero.
    pub fn from_start(since: Duration) -> Self {
        Self(nanos(since))
    }

    /// How long after `earlier` this is; zero when it isn't.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This tick moved forward; saturates at [`Self::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.after(duration)
    }
}

impl Sub for Tick {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", Duration::from_nanos(self.0))
    }
}

// === impl Clock ===

impl Clock {
    /// The system's monotonic clock. The first call of a process fixes its start.
    pub fn system() -> Self {
        start();
        Self(Source::System)
    }

    /// A clock that stands at `at` until [`Self::advance`] moves it; clones share it.
    pub fn manual(at: Tick) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(at.0))))
    }

    /// Now.
    pub fn now(&self) -> Tick {
        match &self.0 {
            Source::System => Tick(nanos(start().0.elapsed() + BEFORE_START)),
            Source::Manual(at) => Tick(at.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock forward. A system clock can't be moved and stays.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            at.fetch_add(nanos(by), Ordering::Relaxed);
        }
    }

    /// The wall-clock time of a tick, for logs and status. Steps of the wall clock after the start
    /// of the process are not followed, so records stay in order. A manual clock starts at the
    /// Unix epoch.
    pub fn wall(&self, tick: Tick) -> SystemTime {
        let zero = match &self.0 {
            Source::System => start().1 - BEFORE_START,
            Source::Manual(_) => SystemTime::UNIX_EPOCH,
        };
        zero + Duration::from_nanos(tick.0)
    }

    /// When the process started; a manual clock starts at tick zero.
    pub fn started(&self) -> Tick {
        match &self.0 {
            Source::System => Tick::from_start(BEFORE_START),
            Source::Manual(_) => Tick::ZERO,
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => out.write_str("Clock(system)"),
            Source::Manual(_) => write!(out, "Clock({:?})", self.now()),
        }
    }
}

fn start() -> &'static (Instant, SystemTime) {
    static START: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "this module is where everybody else takes the time from"
    )]
    START.get_or_init(|| (Instant::now(), SystemTime::now()))
}

/// Older times of a former process count as this old.
const BEFORE_START: Duration = Duration::from_secs(3600);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_time_never_goes_back() {
        let clock = Clock::system();
        let earlier = clock.now();
        assert!(clock.now() >= earlier);
        assert!(clock.wall(Tick(5)) > clock.wall(Tick(4)));
        assert!(clock.now() >= clock.started());
        let age = clock
            .wall(clock.now())
            .duration_since(clock.wall(clock.started()));
        assert_eq!(
            age.unwrap() / 3600,
            Duration::ZERO,
            "the start is now, not an hour ago"
        );
    }

    #[test]
    fn a_manual_clock_moves_only_when_told_and_is_shared_by_clones() {
        let clock = Clock::manual(Tick(7));
        let clone = clock.clone();
        assert_eq!(clock.now(), Tick(7));
        clone.advance(Duration::from_nanos(3));
        assert_eq!(clock.now(), Tick(10));
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Tick::MAX + Duration::from_secs(1), Tick::MAX);
        assert_eq!(Tick(1).after(Duration::MAX), Tick::MAX);
        assert_eq!(Tick(1) - Tick(2), Duration::ZERO);
        assert_eq!(Tick(5) - Tick(2), Duration::from_nanos(3));
    }
}
