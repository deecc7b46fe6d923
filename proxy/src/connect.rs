//! When a connect is retried, raced or given up.
//!
//! One [`Connecting`] per session, from its first candidate to the one that serves it. It never
//! dials: the shell tells it what happened and does what it answers.
//!
//! - *Refused or unreachable*: the next candidate at once, outside any budget. At most
//!   [`TIER_ATTEMPTS_MAX`](crate::balancer::TIER_ATTEMPTS_MAX) candidates a tier while a usable later
//!   tier exists, [`ATTEMPTS_MAX`] in all.
//! - *Slow*: a second connect races the first after twice the member's p95, within 20 and 200 ms (100 ms
//!   until the member has 20 samples): in the same member while that has another usable endpoint. One
//!   further hedge goes to another member or tier. Hedges have a [`budget`].
//! - *Lost the race*: the connect goes on as a [`Loser`] until it answers or times out. Its time is a
//!   sample; it is a strike only if it is unanswered after 300 ms and four times the p95. So a healthy
//!   member is never ejected for being far away.
//! - *Our own fault*: never a strike. Out of ports for this address, another may do; out of
//!   descriptors or memory, the session ends.
//!
//! Invariants: the candidates of a session are distinct and finite; every dialled attempt ends in one
//! of served, failed, lost or given up; each strikes at most once. Nothing is allocated before a
//! third candidate.

use std::{sync::Arc, time::Duration};

use fairlead_config::policy::Policy;
use fairlead_runtime::clock::Tick;
use smallvec::SmallVec;

use crate::{
    balancer::{Next, NoEndpoint, Pick, Tried},
    registry::{EndpointState, Live, MemberState, Outcome},
};

pub mod budget;
mod failure;
mod loser;

pub use failure::{Failure, GiveUp};
pub use loser::Loser;

/// The connects of one session.
#[derive(Debug)]
pub struct Connecting {
    hedge: bool,
    deadline: Tick,
    timeout: Duration,
    endpoint_max: Option<u32>,
    tried: Tried,
    inflight: SmallVec<[Attempt; 2]>,
    hedge_at: Option<Tick>,
    last_failure: Option<Failure>,
    summary: Summary,
}

/// One connect of a session; from 0, in the order of dialling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u8);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The session wants an endpoint.
    Begin,
    /// The endpoint answered.
    Connected(AttemptId),
    /// It won't.
    Failed(AttemptId, Failure),
    /// The time that [`Connecting::next_wake`] asked for has come (or an earlier one).
    Woken,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Connect to this endpoint and tell what came of it.
    Dial {
        /// The name of this connect from now on.
        attempt: AttemptId,
        /// Where to.
        endpoint: Arc<EndpointState>,
    },
    /// Hand this outcome to the health owner.
    Report {
        /// The endpoint.
        endpoint: Arc<EndpointState>,
        /// How it did.
        outcome: Outcome,
    },
    /// This connect serves the session; the others are losers now.
    Serve {
        /// The connect.
        attempt: AttemptId,
        /// Keeps the session counted at its endpoint.
        live: Live,
        /// The endpoint's tier.
        tier: u8,
    },
    /// Nothing can serve the session; connects under way are to be dropped.
    GiveUp(GiveUp),
}

/// What to do, in order.
pub type Actions = SmallVec<[Action; 2]>;

/// How a session came to its endpoint, for its record and the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Connects begun.
    pub attempts: u8,
    /// Of those, because an earlier one failed.
    pub retries: u8,
    /// Of those, because an earlier one was slow.
    pub hedges: u8,
    /// Hedges that the budget refused.
    pub hedges_refused: u8,
    /// A hedge serves the session.
    pub won_by_hedge: bool,
}

#[derive(Debug)]
struct Attempt {
    id: AttemptId,
    live: Live,
    tier: u8,
    started: Tick,
    is_hedge: bool,
    /// When it strikes, if a later connect races it by then.
    late_at: Tick,
    struck: bool,
}

/// Picks the next candidate.
pub type Choose<'a> = &'a mut dyn FnMut(&Tried) -> Result<Pick, NoEndpoint>;

impl Connecting {
    /// The connects of a session that begins now.
    pub fn new(policy: &Policy, now: Tick) -> Self {
        Self {
            hedge: policy.hedge,
            deadline: now.after(policy.timeouts.connect),
            timeout: policy.timeouts.connect,
            endpoint_max: policy.limits.connections_per_endpoint,
            tried: Tried::new(),
            inflight: SmallVec::new(),
            hedge_at: None,
            last_failure: None,
            summary: Summary::default(),
        }
    }

    /// Takes an event, answers what to do. `choose` is asked for each further candidate.
    pub fn step(&mut self, event: Event, now: Tick, choose: Choose<'_>) -> Actions {
        let mut actions = Actions::new();
        match event {
            Event::Begin => {
                if let Err(none) = self.dial(Next::Retry, now, choose, &mut actions) {
                    actions.push(Action::GiveUp(GiveUp::NoEndpoint(none)));
                }
            }
            Event::Connected(id) => self.connected(id, now, &mut actions),
            Event::Failed(id, failure) => self.failed(id, failure, now, choose, &mut actions),
            Event::Woken => self.woken(now, choose, &mut actions),
        }
        actions
    }

    /// When to send [`Event::Woken`]; none when nothing is under way.
    pub fn next_wake(&self) -> Option<Tick> {
        if self.inflight.is_empty() {
            return None;
        }
        let late = (0..self.inflight.len())
            .filter(|&place| self.is_raced(place) && !self.inflight[place].struck)
            .map(|place| self.inflight[place].late_at);
        late.chain(self.hedge_at).chain([self.deadline]).min()
    }

    /// How it went so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The connects that lost the race; ask after [`Action::Serve`].
    pub fn into_losers(self) -> SmallVec<[Loser; 2]> {
        let timeout = self.timeout;
        self.inflight
            .into_iter()
            .map(|attempt| Loser {
                attempt: attempt.id,
                live: attempt.live,
                started: attempt.started,
                late_at: (!attempt.struck).then_some(attempt.late_at),
                ends_at: attempt.started.after(timeout),
            })
            .collect()
    }

    fn connected(&mut self, id: AttemptId, now: Tick, actions: &mut Actions) {
        let Some(attempt) = self.take(id) else {
            return;
        };
        actions.push(Action::Report {
            endpoint: attempt.live.clone(),
            outcome: Outcome::Connected(now.since(attempt.started)),
        });
        self.summary.won_by_hedge = attempt.is_hedge;
        self.hedge_at = None;
        actions.push(Action::Serve {
            attempt: attempt.id,
            live: attempt.live,
            tier: attempt.tier,
        });
    }

    fn failed(
        &mut self,
        id: AttemptId,
        failure: Failure,
        now: Tick,
        choose: Choose<'_>,
        actions: &mut Actions,
    ) {
        let Some(attempt) = self.take(id) else {
            return;
        };
        // A late one that struck already has had its say.
        if !attempt.struck {
            actions.push(Action::Report {
                endpoint: attempt.live.clone(),
                outcome: failure.outcome(),
            });
        }
        drop(attempt);
        self.last_failure = Some(failure);
        if !failure.leaves_others_a_chance() {
            self.give_up(GiveUp::Ours(failure), actions);
            return;
        }
        let dialled = now < self.deadline && self.dial(Next::Retry, now, choose, actions).is_ok();
        if dialled {
            self.summary.retries += 1;
        } else if self.inflight.is_empty() {
            self.give_up(GiveUp::after(failure), actions);
        }
    }

    fn woken(&mut self, now: Tick, choose: Choose<'_>, actions: &mut Actions) {
        if self.inflight.is_empty() {
            return;
        }
        let over = now >= self.deadline;
        for place in 0..self.inflight.len() {
            let late = self.is_raced(place) && now >= self.inflight[place].late_at;
            let attempt = &mut self.inflight[place];
            if (late || over) && !attempt.struck {
                attempt.struck = true;
                actions.push(Action::Report {
                    endpoint: attempt.live.clone(),
                    outcome: Outcome::TimedOut,
                });
            }
        }
        if over {
            self.give_up(GiveUp::TimedOut, actions);
        } else if self.hedge_at.is_some_and(|at| now >= at) {
            self.hedge(now, choose, actions);
        }
    }

    fn hedge(&mut self, now: Tick, choose: Choose<'_>, actions: &mut Actions) {
        self.hedge_at = None;
        let next = match self.summary.hedges {
            0 => Next::SameMember,
            1 => Next::OtherMember,
            _ => return,
        };
        let Some(attempt) = self.inflight.last() else {
            return;
        };
        if !attempt.live.member.service.hedges.take(now) {
            self.summary.hedges_refused = self.summary.hedges_refused.saturating_add(1);
            return;
        }
        // Counted before it is dialled, so that the timer knows whether another one may follow.
        self.summary.hedges += 1;
        if self.dial(next, now, choose, actions).is_ok() {
            if let Some(attempt) = self.inflight.last_mut() {
                attempt.is_hedge = true;
            }
        } else {
            self.summary.hedges -= 1;
        }
    }

    fn dial(
        &mut self,
        next: Next,
        now: Tick,
        choose: Choose<'_>,
        actions: &mut Actions,
    ) -> Result<(), NoEndpoint> {
        self.tried.next = next;
        while self.tried.len() < ATTEMPTS_MAX {
            let pick = choose(&self.tried)?;
            self.tried.push(&pick);
            let live = match self.endpoint_max {
                None => Some(pick.begin()),
                Some(max) => pick.endpoint.try_begin(max),
            };
            // Another thread took the last place since the pick: that was no attempt, but it counts
            // as a candidate, so the loop ends.
            let Some(live) = live else {
                continue;
            };
            self.begin(live, pick.tier, now, actions);
            return Ok(());
        }
        Err(NoEndpoint::Exhausted)
    }

    fn begin(&mut self, live: Live, tier: u8, now: Tick, actions: &mut Actions) {
        let id = AttemptId(self.summary.attempts);
        self.summary.attempts += 1;
        live.count_attempt();
        let may_hedge = self.hedge && self.summary.hedges < HEDGES_MAX;
        self.hedge_at = may_hedge.then(|| now.after(hedge_delay(&live.member)));
        actions.push(Action::Dial {
            attempt: id,
            endpoint: live.clone(),
        });
        self.inflight.push(Attempt {
            id,
            late_at: now.after(late_after(&live.member)),
            live,
            tier,
            started: now,
            is_hedge: false,
            struck: false,
        });
    }

    fn give_up(&mut self, reason: GiveUp, actions: &mut Actions) {
        self.inflight.clear();
        self.hedge_at = None;
        actions.push(Action::GiveUp(reason));
    }

    fn take(&mut self, id: AttemptId) -> Option<Attempt> {
        let place = self.inflight.iter().position(|attempt| attempt.id == id)?;
        Some(self.inflight.remove(place))
    }

    /// Whether a later connect races this one.
    fn is_raced(&self, place: usize) -> bool {
        place + 1 < self.inflight.len()
    }
}

/// How long a connect to this member may take before it is raced.
pub fn hedge_delay(member: &MemberState) -> Duration {
    match member.times().and_then(|times| times.p95()) {
        Some(p95) => (p95 * 2).clamp(HEDGE_DELAY_MIN, HEDGE_DELAY_MAX),
        None => HEDGE_DELAY_UNKNOWN,
    }
}

/// How long an unanswered connect that is raced may take before it is a strike.
pub fn late_after(member: &MemberState) -> Duration {
    let p95 = member.times().and_then(|times| times.p95());
    p95.map_or(LATE_MIN, |p95| (p95 * 4).max(LATE_MIN))
}

/// Candidates of one session in all.
pub const ATTEMPTS_MAX: usize = 6;
/// Hedges of one session.
const HEDGES_MAX: u8 = 2;
/// Below it, a hedge would race ordinary scheduling delay.
const HEDGE_DELAY_MIN: Duration = Duration::from_millis(20);
/// Beyond it, a client notices.
const HEDGE_DELAY_MAX: Duration = Duration::from_millis(200);
/// For a member with fewer than 20 samples.
const HEDGE_DELAY_UNKNOWN: Duration = Duration::from_millis(100);
/// A lost race proves nothing before: a far member answers within 300 ms.
const LATE_MIN: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests;
