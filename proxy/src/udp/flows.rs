//! The decisions about flows, for any world.

use std::time::Duration;

use fairlead_runtime::clock::Tick;

use crate::{
    access_log::{Reason, Traffic},
    metrics::DatagramDrop,
};

use super::{
    flow::{Closed, Ends, Flow, Left, Load, Standing},
    table::Table,
};

pub use crate::tcp::slab::Key;

/// What flows need to know of what is around them.
pub trait World {
    /// A service as a frontend offers it.
    type Service: Clone + PartialEq;
    /// An endpoint, counted as serving a flow while this lives.
    type Home;
    /// A place under the service's limits.
    type Permit;

    /// Which service takes what this client sends there.
    fn route(&mut self, ends: &Ends) -> Result<Self::Service, DatagramDrop>;
    /// A place for one more flow.
    fn admit(
        &mut self,
        service: &Self::Service,
        ends: &Ends,
        now: Tick,
    ) -> Result<Self::Permit, DatagramDrop>;
    /// An endpoint for a flow; not `refusing`, if there is any other.
    fn pick(
        &mut self,
        service: &Self::Service,
        ends: &Ends,
        refusing: Option<&Self::Home>,
        now: Tick,
    ) -> Result<Self::Home, DatagramDrop>;
    /// Whether both are the same endpoint.
    fn same_home(&self, one: &Self::Home, other: &Self::Home) -> bool;
    /// How an endpoint stands now. Asked for each datagram.
    fn standing(&self, home: &Self::Home, now: Tick) -> Standing;
    /// How long a flow of the service may be idle, and its endpoint drain.
    fn patience(&self, service: &Self::Service) -> Patience;
}

/// How long a flow may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a datagram in either direction.
    pub idle: Duration,
    /// At an endpoint that drains.
    pub draining: Duration,
}

/// What to do with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it through the flow's socket.
    Forward(Key),
    /// A new flow: open its socket, then send; if that fails, say so by [`Flows::abort`].
    Open(Key),
    /// The flow has another endpoint now: replace its socket, count what [`Flows::take_left`]
    /// returns, then send. If that fails, say so by [`Flows::abort`].
    Rehome(Key),
    /// Drop it.
    Drop(DatagramDrop),
}

/// The flows of one thread.
pub struct Flows<W: World> {
    table: Table<W>,
    flows_max: usize,
    routes: u32,
    due: Vec<u32>,
    left: Option<Left<W>>,
}

// === impl Flows ===

impl<W: World> Flows<W> {
    /// None yet, at most `flows_max`. `seed` keys the table.
    pub fn new(flows_max: usize, seed: u64, now: Tick) -> Self {
        Self {
            table: Table::new(seed, now),
            flows_max,
            routes: 0,
            due: Vec::new(),
            left: None,
        }
    }

    /// Live flows.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A flow that has not ended.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Flow<W>> {
        self.table.get_mut(key)
    }

    /// Frontends or allow-lists have changed: each flow is routed again at its next datagram.
    pub fn routes_changed(&mut self) {
        self.routes = self.routes.wrapping_add(1);
    }

    /// The flow with these ends.
    pub fn find(&self, ends: &Ends) -> Option<Key> {
        self.table.find(ends)
    }

    /// Datagrams came from a client. Flows that ended for it are appended to `closed`.
    ///
    /// For a flow that exists and stays where it is: one look-up, one look at the endpoint, no
    /// allocation.
    pub fn datagram(
        &mut self,
        world: &mut W,
        ends: &Ends,
        load: Load,
        now: Tick,
        closed: &mut Vec<Closed<W>>,
    ) -> Verdict {
        let Some(key) = self.table.find(ends) else {
            return self.open(world, ends, load, now, closed);
        };
        let flow = self.table.get_mut(key).expect("it was just found");
        if flow.routes != self.routes {
            match world.route(ends) {
                Ok(service) if service == flow.service => flow.routes = self.routes,
                elsewhere => {
                    self.close(key, Reason::FrontendRemoved, closed);
                    return match elsewhere {
                        Ok(_) => self.open(world, ends, load, now, closed),
                        Err(reason) => Verdict::Drop(reason),
                    };
                }
            }
        }
        let (verdict, left) = settle(world, flow, key, now);
        if left.is_some() {
            self.left = left;
        }
        if !matches!(verdict, Verdict::Drop(_)) {
            flow.active = now;
            flow.traffic.bytes_up += load.bytes;
            flow.traffic.datagrams_up += load.datagrams;
            flow.open_questions += load.datagrams;
        }
        verdict
    }

    /// Datagrams that were to be forwarded were not, after all.
    pub fn unsent(&mut self, key: Key, load: Load) {
        if let Some(flow) = self.table.get_mut(key) {
            flow.traffic.bytes_up -= load.bytes;
            flow.traffic.datagrams_up -= load.datagrams;
            flow.open_questions = flow.open_questions.saturating_sub(load.datagrams);
        }
    }

    /// Answers that were to be sent were not, after all.
    pub fn unanswered(&mut self, key: Key, load: Load) {
        if let Some(flow) = self.table.get_mut(key) {
            flow.traffic.bytes_down -= load.bytes;
            flow.traffic.datagrams_down -= load.datagrams;
        }
    }

    /// Late answers that were to be sent were not, after all.
    pub fn unanswered_late(&mut self, key: Key, load: Load) {
        if let Some(flow) = self.table.get_mut(key) {
            for traffic in [&mut flow.traffic, &mut flow.counted] {
                traffic.bytes_down -= load.bytes;
                traffic.datagrams_down -= load.datagrams;
            }
        }
    }

    /// An endpoint that the flow has left answered. Says where to send it.
    pub fn late_answer(&mut self, key: Key, load: Load, now: Tick) -> Option<Ends> {
        let flow = self.table.get_mut(key)?;
        flow.active = now;
        // Counted where it came from, so not once more for the endpoint of today.
        for traffic in [&mut flow.traffic, &mut flow.counted] {
            traffic.bytes_down += load.bytes;
            traffic.datagrams_down += load.datagrams;
        }
        Some(flow.ends)
    }

    /// The endpoint answered. Says where to send it, and whether it is the first answer of this
    /// endpoint, or since it refused.
    pub fn answer(&mut self, key: Key, load: Load, now: Tick) -> Option<(Ends, bool)> {
        let flow = self.table.get_mut(key)?;
        flow.active = now;
        flow.refused = false;
        flow.traffic.bytes_down += load.bytes;
        flow.traffic.datagrams_down += load.datagrams;
        flow.open_questions = flow.open_questions.saturating_sub(load.datagrams);
        let answer = (flow.ends, !flow.heard);
        flow.heard = true;
        if !flow.answered {
            self.table.prove(key, now);
        }
        Some(answer)
    }

    /// The endpoint's host refused a datagram or can't be reached: the client's next one goes
    /// elsewhere, if there is another endpoint.
    pub fn refused(&mut self, key: Key) {
        if let Some(flow) = self.table.get_mut(key) {
            flow.refused = true;
            flow.heard = false;
        }
    }

    /// What the last re-homed flow left.
    pub fn take_left(&mut self) -> Option<Left<W>> {
        self.left.take()
    }

    /// The time of some endpoints is over: their flows are re-homed by the next datagram, and wait
    /// if there is no other endpoint. O(n).
    pub fn expel(&mut self, is_meant: impl Fn(&W::Home) -> bool) {
        self.table
            .each_mut(|flow| flow.expelled |= is_meant(&flow.home));
    }

    /// A flow's socket couldn't be opened.
    pub fn abort(&mut self, key: Key, reason: Reason, closed: &mut Vec<Closed<W>>) {
        self.close(key, reason, closed);
    }

    /// Ends flows whose time has come, and hands over what the others carried since the last time
    /// to `count`; that is at most [`REPORT_INTERVAL`] old.
    pub fn fire(
        &mut self,
        world: &W,
        now: Tick,
        closed: &mut Vec<Closed<W>>,
        mut count: impl FnMut(&Flow<W>, Traffic),
    ) {
        let mut due = std::mem::take(&mut self.due);
        self.table.fire(now, &mut due);
        for index in due.drain(..) {
            let Some(key) = self.table.key_at(index) else {
                continue;
            };
            let flow = self.table.get_mut(key).expect("its slot is in use");
            let idle_at = flow.idle_at(world.patience(&flow.service).idle);
            if idle_at <= now {
                self.close(key, Reason::IdleTimeout, closed);
                continue;
            }
            let traffic = flow.take_traffic();
            count(flow, traffic);
            self.table.arm(key, idle_at.min(now + REPORT_INTERVAL));
        }
        self.due = due;
    }

    /// How long [`Self::fire`] can wait; `None` while there are no flows.
    pub fn wait(&self, now: Tick) -> Option<Duration> {
        self.table.wait(now)
    }

    /// Ends every flow.
    pub fn close_all(&mut self, reason: Reason, closed: &mut Vec<Closed<W>>) {
        while let Some(key) = self.table.any() {
            self.close(key, reason, closed);
        }
    }

    /// Takes every flow out, as if it had never been here.
    pub fn take_all(&mut self) -> Vec<(Key, Flow<W>)> {
        let mut all = Vec::with_capacity(self.len());
        while let Some(key) = self.table.any() {
            all.extend(self.table.remove(key).map(|flow| (key, flow)));
        }
        all
    }

    /// Goes on with a flow that began elsewhere; `proven`: its endpoint has answered. None when
    /// the table is full.
    pub fn adopt(&mut self, flow: Flow<W>, proven: bool, world: &W, now: Tick) -> Option<Key> {
        if self.len() >= self.flows_max || self.table.find(&flow.ends).is_some() {
            return None;
        }
        let idle_at = flow.idle_at(world.patience(&flow.service).idle);
        let key = self.table.insert(flow, now);
        if proven {
            self.table.prove(key, now);
        }
        self.table.arm(key, idle_at.min(now + REPORT_INTERVAL));
        Some(key)
    }

    /// The routes that flows are found by now.
    pub(super) fn routes(&self) -> u32 {
        self.routes
    }

    /// What must hold after each call; O(n), for tests.
    #[cfg(any(test, fuzzing))]
    pub fn check_invariants(&mut self) {
        assert!(self.len() <= self.flows_max);
        self.table.check_invariants();
    }

    fn open(
        &mut self,
        world: &mut W,
        ends: &Ends,
        load: Load,
        now: Tick,
        closed: &mut Vec<Closed<W>>,
    ) -> Verdict {
        match self.try_open(world, ends, load, now, closed) {
            Ok(key) => Verdict::Open(key),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn try_open(
        &mut self,
        world: &mut W,
        ends: &Ends,
        load: Load,
        now: Tick,
        closed: &mut Vec<Closed<W>>,
    ) -> Result<Key, DatagramDrop> {
        let service = world.route(ends)?;
        let permit = world.admit(&service, ends, now)?;
        let home = world.pick(&service, ends, None, now)?;
        if self.table.len() >= self.flows_max {
            let waiting = self.flows_max / WAITING_PART;
            let victim = self.table.victim(waiting, EVICTABLE_AFTER, now);
            let victim = victim.ok_or(DatagramDrop::TableFull)?;
            self.close(victim, Reason::Evicted, closed);
        }
        let idle = world.patience(&service).idle;
        let flow = Flow {
            ends: *ends,
            service,
            home,
            traffic: Traffic {
                bytes_up: load.bytes,
                datagrams_up: load.datagrams,
                ..Traffic::default()
            },
            rehomed: 0,
            opened: now,
            active: now,
            answered: false,
            heard: false,
            asked: now,
            open_questions: load.datagrams,
            refused: false,
            expelled: false,
            draining: None,
            routes: self.routes,
            counted: Traffic::default(),
            _permit: permit,
        };
        let key = self.table.insert(flow, now);
        self.table.arm(key, now + idle.min(REPORT_INTERVAL));
        Ok(key)
    }

    fn close(&mut self, key: Key, reason: Reason, closed: &mut Vec<Closed<W>>) {
        if let Some(flow) = self.table.remove(key) {
            closed.push(Closed { key, flow, reason });
        }
    }
}

impl<W: World> std::fmt::Debug for Flows<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Flows({} of {})", self.len(), self.flows_max)
    }
}

/// Where a flow's datagram goes, and the flow with it; the endpoint it leaves, if it does.
fn settle<W: World>(
    world: &mut W,
    flow: &mut Flow<W>,
    key: Key,
    now: Tick,
) -> (Verdict, Option<Left<W>>) {
    let stays = !flow.expelled
        && match world.standing(&flow.home, now) {
            Standing::Good => {
                flow.draining = None;
                true
            }
            Standing::Draining => {
                let since = *flow.draining.get_or_insert(now);
                now - since < world.patience(&flow.service).draining
            }
            Standing::Gone => false,
        };
    if stays && !flow.refused {
        return (Verdict::Forward(key), None);
    }
    let refusing = flow.refused.then_some(&flow.home);
    match world.pick(&flow.service, &flow.ends, refusing, now) {
        Ok(home) if world.same_home(&home, &flow.home) => {
            flow.refused = false;
            flow.expelled = false;
            (Verdict::Forward(key), None)
        }
        Ok(home) => {
            let traffic = flow.take_traffic();
            let left = Left {
                home: std::mem::replace(&mut flow.home, home),
                traffic,
                // Who refused answers nothing.
                awaited: flow.open_questions > 0 && !flow.refused,
            };
            flow.open_questions = 0;
            flow.rehomed += 1;
            flow.heard = false;
            flow.asked = now;
            flow.refused = false;
            flow.expelled = false;
            flow.draining = None;
            (Verdict::Rehome(key), Some(left))
        }
        // Nobody else: what still stands is better than nothing.
        Err(_) if stays => (Verdict::Forward(key), None),
        Err(reason) => (Verdict::Drop(reason), None),
    }
}

/// How stale a flow's part in the counters may be.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// One flow in so many may wait for its first answer in a full table; so an answer that is under way
/// finds its flow, and a flood takes no more than that from flows that work.
pub const WAITING_PART: usize = 8;
/// A flow that was answered and was idle for less is never evicted.
pub const EVICTABLE_AFTER: Duration = Duration::from_secs(1);
