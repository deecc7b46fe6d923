//! Ids, and the state that outlives snapshots.
//!
//! A [`ServiceState`] holds the swapped view; a [`MemberState`] what is learned about a member of one
//! service; an [`EndpointState`] what is learned about one endpoint. Sessions and flows hold their
//! endpoint, never a view, so an old view dies with its last reader.
//!
//! Everything here is shared by all threads and written with relaxed atomics: counters need no order,
//! and flags are advice that a later look confirms. Flags are written by the control thread alone,
//! but for [`Flags::TRIAL`], which one data thread takes. An endpoint costs 104 bytes; a test
//! holds it there.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use fairlead_config::name::{MemberName, ServiceName};
use fairlead_runtime::clock::Tick;

use crate::{
    balancer::{
        FlowKey, NoEndpoint, Pick, Tried,
        draw::Draw,
        hash::{self, Identity},
    },
    connect::budget::HedgeBudget,
    health::{member::Window, times::ConnectTimes},
    view::ServiceView,
};

mod table;

pub use table::{Registry, Row, RowMember, Synced, WantedEndpoint, WantedMember, Withdrawn};

macro_rules! id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub u32);
    };
}

id! {
    /// A frontend; small, stable while the name is known, reused afterwards.
    FrontendId
}
id! {
    /// A service; small, stable while the name is known, reused afterwards.
    ServiceId
}
id! {
    /// An endpoint; small, stable while anything holds the endpoint, reused afterwards.
    EndpointId
}

/// What is known about a service beyond its snapshot.
#[derive(Debug)]
pub struct ServiceState {
    /// Its number.
    pub id: ServiceId,
    /// Its name.
    pub name: ServiceName,
    /// How many hedges it may send.
    pub hedges: HedgeBudget,
    view: ArcSwapOption<ServiceView>,
}

/// What is known about one member of one service.
#[derive(Debug)]
pub struct MemberState {
    /// The member's name.
    pub name: MemberName,
    /// What it hashes as; the same in every service and process.
    pub identity: Identity,
    /// The service that this knowledge is about.
    pub service: Arc<ServiceState>,
    /// Its connects of the last second.
    pub window: Window,
    times: OnceLock<Box<ConnectTimes>>,
    turn: AtomicU32,
}

/// What is known about one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    /// Its number.
    pub id: EndpointId,
    /// Where to connect.
    pub addr: SocketAddr,
    /// What it hashes as.
    pub identity: Identity,
    /// Its member.
    pub member: Arc<MemberState>,
    /// Counted since the process started, wrapping.
    pub counts: EndpointCounts,
    flags: AtomicU32,
    inflight: AtomicU32,
    /// Milliseconds since the start of the process, 0 when not ramping.
    ramp_from: AtomicU32,
    /// Smoothed connect time in microseconds, 0 before the first.
    connect_micros: AtomicU32,
    /// Strikes in a row: failed connects in the low half, resets before data in the high half.
    strikes: AtomicU32,
}

/// What happened at an endpoint; each wraps at 2^32.
#[derive(Debug, Default)]
pub struct EndpointCounts {
    /// Sessions and flows that it served.
    pub sessions: AtomicU32,
    /// Connects begun, hedges and retries included.
    pub attempts: AtomicU32,
    /// Connects refused, unreachable or not answered in time, and sessions reset before the endpoint
    /// sent a byte.
    pub failures: AtomicU32,
}

/// What stands against an endpoint. It is usable when nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

/// What came of an endpoint's work, as the one who asked saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The connect was answered after this time.
    Connected(Duration),
    /// The first byte came, or the session ended in order without one.
    Served,
    /// Connection refused.
    Refused,
    /// No route, or an ICMP error.
    Unreachable,
    /// Nothing answered in time.
    TimedOut,
    /// Reset before the first byte.
    ResetBeforeData,
    /// Our own fault: no port, no descriptor, no buffer. Never a strike.
    Ours,
}

/// One live session or flow of an endpoint, or one attempt to connect; counts while it lives.
#[derive(Debug)]
pub struct Live(Arc<EndpointState>);

// === impl ServiceState ===

impl ServiceState {
    /// A service without a view.
    pub fn new(id: ServiceId, name: ServiceName) -> Self {
        Self {
            id,
            name,
            hedges: HedgeBudget::default(),
            view: ArcSwapOption::empty(),
        }
    }

    /// The view to use now; none before the service is known or after it was removed.
    ///
    /// Costs a few nanoseconds; don't hold it across a wait.
    pub fn view(&self) -> Guard<Option<Arc<ServiceView>>> {
        self.view.load()
    }

    /// Picks from the view. Where that has none, because it was replaced meanwhile, from the new one.
    pub fn pick(
        &self,
        key: &FlowKey,
        draw: &mut Draw,
        now: Tick,
        tried: &Tried,
    ) -> Result<Pick, NoEndpoint> {
        let mut view = self.view();
        loop {
            let picked = match view.as_deref() {
                Some(view) => view.pick(key, draw, now, tried),
                None => Err(NoEndpoint::Empty),
            };
            if picked.is_ok() {
                return picked;
            }
            let newer = self.view();
            let pointer = |view: &Guard<Option<Arc<ServiceView>>>| view.as_ref().map(Arc::as_ptr);
            if pointer(&view) == pointer(&newer) {
                return picked;
            }
            view = newer;
        }
    }

    /// Replaces the view. `None` also cuts the cycle view → endpoint → service, so that a removed
    /// service is freed.
    pub fn swap_view(&self, view: Option<Arc<ServiceView>>) {
        self.view.store(view);
    }
}

// === impl MemberState ===

impl MemberState {
    /// A member of which nothing is known yet.
    pub fn new(name: MemberName, service: Arc<ServiceState>) -> Self {
        Self {
            identity: hash::member(name.as_str()),
            name,
            service,
            window: Window::default(),
            times: OnceLock::new(),
            turn: AtomicU32::new(0),
        }
    }

    /// How long connects to this member took lately; none before the first.
    pub fn times(&self) -> Option<&ConnectTimes> {
        self.times.get().map(|times| &**times)
    }

    /// Adds a connect time, of a session or of a probe.
    pub fn record_time(&self, took: Duration) {
        self.times.get_or_init(Box::default).record(took);
    }

    /// Adds what an earlier process knew of connect times.
    pub fn restore_times(&self, samples: &[(u8, u32)]) {
        self.times.get_or_init(Box::default).restore(samples);
    }

    /// The next number of its round-robin.
    pub fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Relaxed)
    }
}

// === impl EndpointState ===

impl EndpointState {
    /// An endpoint that nothing stands against.
    pub fn new(id: EndpointId, addr: SocketAddr, member: Arc<MemberState>) -> Self {
        Self {
            id,
            addr,
            identity: hash::endpoint(member.name.as_str(), addr),
            member,
            counts: EndpointCounts::default(),
            flags: AtomicU32::new(0),
            inflight: AtomicU32::new(0),
            ramp_from: AtomicU32::new(0),
            connect_micros: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
        }
    }

    /// Counts one more session, flow or attempt until the answer is dropped.
    pub fn begin(self: &Arc<Self>) -> Live {
        self.inflight.fetch_add(1, Relaxed);
        Live(Arc::clone(self))
    }

    /// Like [`Self::begin`], but never beyond `max`: the count is exact over all threads.
    pub fn try_begin(self: &Arc<Self>, max: u32) -> Option<Live> {
        if self.inflight.fetch_add(1, Relaxed) < max {
            return Some(Live(Arc::clone(self)));
        }
        self.inflight.fetch_sub(1, Relaxed);
        None
    }

    /// Live sessions, flows and attempts.
    pub fn inflight(&self) -> u32 {
        self.inflight.load(Relaxed)
    }

    /// Counts a connect that begins.
    pub fn count_attempt(&self) {
        self.counts.attempts.fetch_add(1, Relaxed);
    }

    /// Counts a session or flow that it serves.
    pub fn count_session(&self) {
        self.counts.sessions.fetch_add(1, Relaxed);
    }

    /// What stands against it now.
    pub fn flags(&self) -> Flags {
        Flags(self.flags.load(Relaxed))
    }

    /// Whether it takes new sessions.
    pub fn is_usable(&self) -> bool {
        self.flags().is_usable()
    }

    /// Raises and lowers flags. The control thread's alone.
    pub fn change_flags(&self, raise: Flags, lower: Flags) {
        self.flags.fetch_and(!lower.0, Relaxed);
        self.flags.fetch_or(raise.0, Relaxed);
    }

    /// Takes the one trial connection of an ejected endpoint; the taker's outcome decides.
    pub fn take_trial(&self) -> bool {
        self.flags().has(Flags::TRIAL)
            && Flags(self.flags.fetch_and(!Flags::TRIAL.0, Relaxed)).has(Flags::TRIAL)
    }

    /// The smoothed connect time; none before the first.
    pub fn connect_time(&self) -> Option<Duration> {
        match self.connect_micros.load(Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }

    /// Takes over the smoothed connect time that an earlier process knew.
    pub fn restore_connect_time(&self, smoothed: Duration) {
        let micros = u32::try_from(smoothed.as_micros()).unwrap_or(u32::MAX);
        self.connect_micros.store(micros.max(1), Relaxed);
    }

    /// Starts (`Some`) or ends the slow start. The control thread's alone.
    pub fn set_ramp(&self, from: Option<Tick>) {
        self.ramp_from
            .store(from.map_or(0, |from| millis(from).max(1)), Relaxed);
    }

    /// How much of its weight counts now, of [`RAMP_FULL`]: it grows evenly from a tenth over
    /// `slow_start`.
    pub fn ramp(&self, slow_start: Duration, now: Tick) -> u32 {
        match self.ramp_from.load(Relaxed) {
            0 => RAMP_FULL,
            from => ramp_share(millis(now).wrapping_sub(from), slow_start),
        }
    }

    /// Takes note of an outcome; the answer is the number of strikes in a row, 0 when it was none.
    ///
    /// A few relaxed writes; the caller reports strikes to the health owner.
    pub fn record(&self, outcome: Outcome, now: Tick) -> u32 {
        let strike = match outcome {
            Outcome::Connected(took) => {
                self.record_connect(took);
                self.member.window.add(true, now);
                return 0;
            }
            Outcome::Served => {
                if self.strikes.load(Relaxed) != 0 {
                    self.strikes.store(0, Relaxed);
                }
                return 0;
            }
            Outcome::Ours => return 0,
            Outcome::Refused | Outcome::Unreachable | Outcome::TimedOut => STRIKE_CONNECT,
            Outcome::ResetBeforeData => STRIKE_RESET,
        };
        self.counts.failures.fetch_add(1, Relaxed);
        if strike == STRIKE_CONNECT {
            self.member.window.add(false, now);
        }
        let before = self.strikes.load(Relaxed);
        let saturated = before & 0xffff >= STRIKES_MAX || before >> 16 >= STRIKES_MAX;
        let strikes = if saturated {
            before
        } else {
            self.strikes.fetch_add(strike, Relaxed) + strike
        };
        (strikes & 0xffff) + (strikes >> 16)
    }

    /// Forgets its strikes. The control thread's, when an ejection ends.
    pub fn clear_strikes(&self) {
        self.strikes.store(0, Relaxed);
    }

    fn record_connect(&self, took: Duration) {
        // An answered connect ends a row of failed ones, but not a row of resets: those come after.
        let strikes = self.strikes.load(Relaxed);
        if strikes & 0xffff != 0 {
            self.strikes.store(strikes & !0xffff, Relaxed);
        }
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let smoothed = match self.connect_micros.load(Relaxed) {
            0 => micros,
            before => before - before / 8 + micros / 8,
        };
        self.connect_micros.store(smoothed.max(1), Relaxed);
        self.member.record_time(took);
    }
}

impl PartialEq for EndpointState {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for EndpointState {}

// === impl Flags ===

impl Flags {
    /// Nothing stands against it.
    pub const NONE: Self = Self(0);
    /// Its objects say that it isn't ready.
    pub const NOT_READY: Self = Self(1);
    /// It is leaving: no new sessions while another one in the member is usable.
    pub const DRAINING: Self = Self(1 << 1);
    /// It is gone from the snapshot.
    pub const REMOVED: Self = Self(1 << 2);
    /// Probes from here fail, or its member is dead to them.
    pub const PROBE_DOWN: Self = Self(1 << 3);
    /// Three strikes in a row.
    pub const EJECTED: Self = Self(1 << 4);
    /// Its member is out of touch with the hub, and nothing probes it.
    pub const LINK_LOST: Self = Self(1 << 5);
    /// Ejected, and one connection may try it.
    pub const TRIAL: Self = Self(1 << 6);
    /// Probes from here find nobody there: refused, reset, or no answer to the connect. Only ever up
    /// together with [`Self::PROBE_DOWN`].
    pub const DEAD_HERE: Self = Self(1 << 7);

    /// What this process found out by itself.
    const SEEN_HERE: Self = Self(0b1111_1000);
    const UNUSABLE: Self = Self(0b11_1111);
    const HOPELESS: Self = Self(0b111);

    /// Whether any of `flags` is up.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Takes new sessions.
    pub fn is_usable(self) -> bool {
        !self.has(Self::UNUSABLE)
    }

    /// May be tried when nothing is healthy: what stands against it is only what we saw ourselves.
    pub fn is_hopeful(self) -> bool {
        !self.has(Self::HOPELESS)
    }

    /// May be tried when a tier panics: what stands against it, if anything does, is soft. It was
    /// ejected, answers its probes wrongly or is out of touch, but isn't known to be dead.
    pub fn is_doubtful(self) -> bool {
        self.is_hopeful() && !self.has(Self::DEAD_HERE)
    }

    /// Usable but for being about to leave.
    pub fn is_draining(self) -> bool {
        self.0 & Self::UNUSABLE.0 == Self::DRAINING.0
    }

    /// Ejected for nothing else than its strikes, and one connection may try it.
    pub fn is_on_trial(self) -> bool {
        self.has(Self::TRIAL) && self.0 & Self::UNUSABLE.0 == Self::EJECTED.0
    }

    /// All of both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

// === impl Live ===

impl std::ops::Deref for Live {
    type Target = Arc<EndpointState>;

    fn deref(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Relaxed);
    }
}

/// [`EndpointState::ramp`] of an endpoint that isn't ramping.
pub const RAMP_FULL: u32 = 1024;

fn ramp_share(elapsed_millis: u32, slow_start: Duration) -> u32 {
    let whole = slow_start.as_millis() as u64;
    let elapsed = u64::from(elapsed_millis);
    if elapsed >= whole {
        return RAMP_FULL;
    }
    (elapsed * u64::from(RAMP_FULL) / whole).max(u64::from(RAMP_FULL) / 10) as u32
}

fn millis(tick: Tick) -> u32 {
    (tick.0 / 1_000_000) as u32
}

const STRIKE_CONNECT: u32 = 1;
const STRIKE_RESET: u32 = 1 << 16;
/// Rows are not counted beyond this, so that the halves never run into each other.
const STRIKES_MAX: u32 = 0x7fff;

#[cfg(test)]
mod tests;
