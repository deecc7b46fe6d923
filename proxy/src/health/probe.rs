//! Which endpoint is probed when, and what the results add up to.
//!
//! Each probed endpoint is due every interval, jittered by a tenth; while a streak could change its
//! verdict, four times as often (never below 100 ms). A process sends at most [`BUDGET_PER_SECOND`] probes.
//! Where the services ask for more, due endpoints wait their turn, so every interval stretches by the
//! same factor; and each member has [`SAMPLES`] endpoints probed every second all the same, in turn,
//! ahead of the others. When all samples of a second fail twice in a row, the member is dead here:
//! each of its probed endpoints is down until a probe in it succeeds.
//!
//! A probed endpoint costs 36 bytes here and 8 in the queue.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use fairlead_config::{policy::HealthCheck, service::Service};
use fairlead_runtime::clock::Tick;

use super::verdict::Probed;
use crate::{
    balancer::hash::{Identity, mix},
    registry::{EndpointId, EndpointState, ServiceId},
};

pub mod grpc;
mod job;
mod pace;
mod samples;

pub use job::{Answer, Job, ProbeError};
pub use pace::BUDGET_PER_SECOND;
use pace::{Allowance, Moment};
use samples::Samples;

/// Everything that is probed.
#[derive(Debug, Default)]
pub struct Schedule {
    checks: BTreeMap<ServiceId, Checked>,
    slots: Vec<Slot>,
    due: BinaryHeap<Reverse<Due>>,
    members: BTreeMap<Identity, Samples>,
    /// Probes per 1,000 seconds that the services ask for.
    demand: u64,
    unverified: u32,
    allowance: Allowance,
    seed: u64,
}

/// A service that is probed.
#[derive(Debug)]
struct Checked {
    service: Arc<Service>,
    endpoints: u32,
}

/// An endpoint's place in the schedule, by its number.
#[derive(Debug, Default)]
struct Slot {
    endpoint: Option<Arc<EndpointState>>,
    service: u32,
    /// Its place in its member's list.
    place: u32,
    streak: u16,
    state: State,
    error: Option<ProbeError>,
    /// Its entry in the queue; others are stale.
    due: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Unverified,
    Good,
    Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Moment,
    endpoint: EndpointId,
}

/// What a result changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// Nothing.
    Same,
    /// The endpoint's own probes say something else now, or say it for another reason.
    Endpoint(Probed),
    /// Every probed endpoint of this member is to be looked at again.
    Member(Identity),
}

/// How far the budget reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// Probes a second that the services ask for.
    pub demand: f64,
    /// How much longer than configured the intervals are; 1 while the budget suffices.
    pub stretch: f64,
}

// === impl Schedule ===

impl Schedule {
    /// An empty schedule; the seed spreads the probes of this process.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Probes this endpoint from now on by the service's check; one already probed keeps its state.
    pub fn add(&mut self, endpoint: &Arc<EndpointState>, service: &Arc<Service>, now: Tick) {
        let id = endpoint.member.service.id;
        let Some(check) = &service.policy.health_check else {
            return;
        };
        let index = endpoint.id.0 as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        if self.slots[index].endpoint.is_some() {
            return;
        }
        let window = check.interval.min(FIRST_WITHIN);
        let after = window.mul_f64(self.spread(endpoint.id, now));
        let due = Moment::of(now.after(after));
        let samples = self.members.entry(endpoint.member.identity).or_default();
        self.slots[index] = Slot {
            endpoint: Some(endpoint.clone()),
            service: id.0,
            place: samples.add(endpoint.id),
            due,
            ..Slot::default()
        };
        let checked = self.checks.entry(id).or_insert_with(|| Checked {
            service: service.clone(),
            endpoints: 0,
        });
        checked.endpoints += 1;
        self.demand += per_kilosecond(check);
        self.unverified += 1;
        self.due.push(Reverse(Due {
            at: due,
            endpoint: endpoint.id,
        }));
    }

    /// Probes it no more.
    pub fn remove(&mut self, endpoint: &EndpointState) {
        let Some(slot) = self.slots.get_mut(endpoint.id.0 as usize) else {
            return;
        };
        if slot.endpoint.is_none() {
            return;
        }
        let Slot {
            service,
            place,
            state,
            ..
        } = std::mem::take(slot);
        self.unverified -= u32::from(state == State::Unverified);
        let service = ServiceId(service);
        if let Some(checked) = self.checks.get_mut(&service) {
            checked.endpoints -= 1;
            self.demand -= checked
                .service
                .policy
                .health_check
                .as_ref()
                .map_or(0, per_kilosecond);
            if checked.endpoints == 0 {
                self.checks.remove(&service);
            }
        }
        let member = endpoint.member.identity;
        if let Some(samples) = self.members.get_mut(&member) {
            if let Some(moved) = samples.remove(place) {
                self.slots[moved.0 as usize].place = place;
            } else if samples.endpoints().is_empty() {
                self.members.remove(&member);
            }
        }
    }

    /// Takes a service's changed row over for its probed endpoints. It must still have a check: one
    /// that has none any more has its endpoints removed instead.
    pub fn replace(&mut self, service: &Arc<Service>, id: ServiceId) {
        if let Some(checked) = self.checks.get_mut(&id) {
            let ask = |service: &Service| {
                service
                    .policy
                    .health_check
                    .as_ref()
                    .map_or(0, per_kilosecond)
            };
            let probed = u64::from(checked.endpoints);
            self.demand -= ask(&checked.service) * probed;
            self.demand += ask(service) * probed;
            checked.service = service.clone();
        }
    }

    /// The probes to send now, within the budget.
    pub fn take_due(&mut self, now: Tick) -> Vec<Job> {
        let mut jobs = Vec::new();
        self.allowance.refill(now);
        if self.is_stretched() {
            self.take_samples(now, &mut jobs);
        }
        while let Some(&Reverse(due)) = self.due.peek() {
            if due.at > Moment::of(now) {
                break;
            }
            if !self.is_current(due) {
                self.due.pop();
                continue;
            }
            if !self.allowance.take() {
                break;
            }
            self.due.pop();
            jobs.extend(self.job(due.endpoint, false));
        }
        jobs
    }

    /// When [`Self::take_due`] may have something.
    pub fn next_due(&self, now: Tick) -> Option<Tick> {
        let first = self.due.peek().map(|Reverse(due)| due.at.tick())?;
        let sampled = self.is_stretched().then(|| {
            let next = self.members.values().map(|samples| samples.next(now));
            next.min().unwrap_or(Tick::MAX)
        });
        let first = sampled.map_or(first, |sampled| sampled.min(first));
        // Late ones wait for the allowance, a few at a time.
        Some(if first <= now {
            now.after(ROUND)
        } else {
            first
        })
    }

    /// Adds a result up and plans the next probe.
    pub fn answered(&mut self, answer: &Answer, now: Tick) -> Judged {
        let Job {
            endpoint,
            is_sample,
            ..
        } = &answer.job;
        if let Ok(Some(took)) = answer.result {
            endpoint.member.record_time(took);
        }
        let good = match answer.result {
            Ok(_) => Some(true),
            Err(ProbeError::Ours) => None,
            Err(_) => Some(false),
        };
        let member = endpoint.member.identity;
        let error = answer.result.err();
        let samples = self.members.get_mut(&member);
        let member_changed =
            samples.is_some_and(|samples| samples.answered(good, error, *is_sample));
        let says = |schedule: &Self| (schedule.probed(endpoint.id), schedule.is_gone(endpoint.id));
        let before = says(self);
        self.observe(endpoint, good, error, now);
        let after = says(self);
        if member_changed {
            Judged::Member(member)
        } else if after == before {
            Judged::Same
        } else {
            Judged::Endpoint(after.0)
        }
    }

    fn observe(
        &mut self,
        endpoint: &Arc<EndpointState>,
        good: Option<bool>,
        error: Option<ProbeError>,
        now: Tick,
    ) {
        let Some(check) = self.check(endpoint.member.service.id).cloned() else {
            return;
        };
        let Some(slot) = self.slots.get_mut(endpoint.id.0 as usize) else {
            return;
        };
        // It may have left meanwhile.
        if slot
            .endpoint
            .as_ref()
            .is_none_or(|known| !Arc::ptr_eq(known, endpoint))
        {
            return;
        }
        if let Some(good) = good {
            let was_unverified = slot.state == State::Unverified;
            slot.observe(good, &check);
            if slot.state != State::Bad || error.is_some() {
                slot.error = error;
            }
            self.unverified -= u32::from(was_unverified && slot.state != State::Unverified);
        }
        self.plan(endpoint.id, &check, now);
    }

    /// What the probes of this endpoint, and of its member's samples, say.
    pub fn probed(&self, endpoint: EndpointId) -> Probed {
        let Some(slot) = self.slots.get(endpoint.0 as usize) else {
            return Probed::Unchecked;
        };
        let Some(state) = &slot.endpoint else {
            return Probed::Unchecked;
        };
        if self.is_dead(state.member.identity) {
            return Probed::Bad;
        }
        match slot.state {
            State::Unverified => Probed::Unverified,
            State::Good => Probed::Good,
            State::Bad => Probed::Bad,
        }
    }

    /// What its own probes say; none before they say anything.
    pub fn verdict(&self, endpoint: EndpointId) -> Option<bool> {
        let slot = self.slots.get(endpoint.0 as usize)?;
        match (slot.endpoint.as_ref(), slot.state) {
            (None, _) | (_, State::Unverified) => None,
            (_, state) => Some(state == State::Good),
        }
    }

    /// Whether its bad probes, or its member's samples, say that nobody is there
    /// ([`ProbeError::is_death`]).
    pub fn is_gone(&self, endpoint: EndpointId) -> bool {
        let slot = self.slots.get(endpoint.0 as usize);
        let Some((slot, state)) = slot.and_then(|slot| Some((slot, slot.endpoint.as_ref()?)))
        else {
            return false;
        };
        if slot.state == State::Bad {
            return slot.error.is_some_and(ProbeError::is_death);
        }
        let samples = self.members.get(&state.member.identity);
        samples.is_some_and(Samples::is_silent)
    }

    /// Takes over what an earlier process's probes said; of bad ones, whether nobody is there.
    pub fn restore(&mut self, endpoint: &EndpointState, good: bool, gone: bool) {
        if let Some(slot) = self.slots.get_mut(endpoint.id.0 as usize)
            && slot.endpoint.is_some()
        {
            self.unverified -= u32::from(slot.state == State::Unverified);
            slot.state = if good { State::Good } else { State::Bad };
            slot.error = (!good && gone).then_some(ProbeError::Unanswered);
        }
    }

    /// Why its probes count as bad: its own last error; none when its member is dead.
    pub fn error(&self, endpoint: EndpointId) -> Option<ProbeError> {
        let slot = self.slots.get(endpoint.0 as usize)?;
        slot.error.filter(|_| slot.state == State::Bad)
    }

    /// Whether every sample of the member failed twice.
    pub fn is_dead(&self, member: Identity) -> bool {
        self.members.get(&member).is_some_and(Samples::is_dead)
    }

    /// The probed endpoints of a member, in every service.
    pub fn of_member(&self, member: Identity) -> Vec<Arc<EndpointState>> {
        let ids = self
            .members
            .get(&member)
            .map_or(&[][..], Samples::endpoints);
        let slots = ids.iter().filter_map(|id| self.slots.get(id.0 as usize));
        slots.filter_map(|slot| slot.endpoint.clone()).collect()
    }

    /// Endpoints of which no streak has ended yet; 0 when the first round is over.
    pub fn unverified(&self) -> u32 {
        self.unverified
    }

    /// How far the budget reaches.
    pub fn reach(&self) -> Reach {
        let demand = self.demand as f64 / 1000.0;
        let samples = self.members.len() as f64 * SAMPLES as f64;
        let budget = BUDGET_PER_SECOND as f64;
        let stretch = if self.is_stretched() {
            demand / (budget - samples).max(budget / 2.0)
        } else {
            1.0
        };
        Reach { demand, stretch }
    }

    fn is_stretched(&self) -> bool {
        self.demand > BUDGET_PER_SECOND * 1000
    }

    /// Three endpoints of each member a second, fewer where there are too many members: half of the
    /// budget is left for the others.
    fn take_samples(&mut self, now: Tick, jobs: &mut Vec<Job>) {
        let members = self.members.len() as u64;
        let each = (BUDGET_PER_SECOND / 2 / members.max(1)).clamp(1, SAMPLES as u64) as usize;
        let mut chosen = Vec::new();
        for samples in self.members.values_mut() {
            if self.allowance.left < each as u64 * 1000 {
                break;
            }
            let ids = samples.take(each, now);
            self.allowance.left -= ids.len() as u64 * 1000;
            chosen.extend(ids);
        }
        jobs.extend(chosen.into_iter().filter_map(|id| self.job(id, true)));
    }

    fn job(&mut self, id: EndpointId, is_sample: bool) -> Option<Job> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        // Nothing is planned while it is under way; its answer plans the next one.
        slot.due = Moment(0);
        let service = ServiceId(slot.service);
        Some(Job {
            endpoint: slot.endpoint.clone()?,
            service: self.checks.get(&service)?.service.clone(),
            is_sample,
        })
    }

    fn plan(&mut self, id: EndpointId, check: &HealthCheck, now: Tick) {
        let spread = self.spread(id, now);
        let slot = &mut self.slots[id.0 as usize];
        let base = if slot.streak > 0 {
            (check.interval / 4)
                .max(EDGE_INTERVAL_MIN)
                .min(check.interval)
        } else {
            check.interval
        };
        let after = base.mul_f64(0.9 + spread / 5.0);
        slot.due = Moment::of(now.after(after));
        self.due.push(Reverse(Due {
            at: slot.due,
            endpoint: id,
        }));
    }

    fn is_current(&self, due: Due) -> bool {
        let slot = self.slots.get(due.endpoint.0 as usize);
        slot.is_some_and(|slot| slot.endpoint.is_some() && slot.due == due.at)
    }

    fn check(&self, service: ServiceId) -> Option<&HealthCheck> {
        self.checks
            .get(&service)?
            .service
            .policy
            .health_check
            .as_ref()
    }

    /// A fraction of one, different for each endpoint and time.
    fn spread(&self, id: EndpointId, now: Tick) -> f64 {
        let bits = mix(self.seed ^ mix(u64::from(id.0)) ^ now.0) >> 40;
        bits as f64 / f64::from(1 << 24)
    }
}

impl Slot {
    /// Moves the streak on: only results against the present state count.
    fn observe(&mut self, good: bool, check: &HealthCheck) {
        let (against, needed, next) = match self.state {
            // The first answer verifies; failures have to add up as from good.
            State::Unverified if good => (true, 1, State::Good),
            State::Unverified | State::Good => (!good, check.unhealthy_after, State::Bad),
            State::Bad => (good, check.healthy_after, State::Good),
        };
        self.streak = if against { self.streak + 1 } else { 0 };
        if self.streak >= needed {
            self.state = next;
            self.streak = 0;
        }
    }
}

fn per_kilosecond(check: &HealthCheck) -> u64 {
    1_000_000 / (check.interval.as_millis() as u64).max(1)
}

/// Endpoints of a member that are probed each second whatever the budget.
pub const SAMPLES: usize = 3;
/// The first probe of an endpoint comes within this, or within its interval.
const FIRST_WITHIN: Duration = Duration::from_millis(500);
const EDGE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often probes that wait for the budget are looked at.
const ROUND: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
