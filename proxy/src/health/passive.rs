//! Ejection of endpoints by what sessions see of them.
//!
//! Three strikes in a row eject: for 1 s, twice as long each further time, at most 60 s, plus up to a
//! quarter of it so that endpoints don't return in step. Then one connection may try: it decides, or a good
//! probe does. A minute without another ejection and it starts from one second again.
//!
//! At most `maxEjected` percent of the service's endpoints (rounded up, over all tiers) are out at a
//! time, and never the last usable one: when others leave or fail, ejections end early rather than break
//! that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_runtime::clock::Tick;

use crate::{
    balancer::hash::mix,
    directory::learned::{before, millis},
    registry::{EndpointId, EndpointState, Flags, Outcome},
};

/// The ejections of one service.
#[derive(Debug, Default)]
pub struct Ejections {
    by_endpoint: BTreeMap<EndpointId, Ejection>,
    /// Ejections that the cap or the last-usable rule prevented, wrapping.
    prevented: u32,
}

#[derive(Debug)]
struct Ejection {
    endpoint: Arc<EndpointState>,
    phase: Phase,
    /// From 1.
    times: u32,
    /// The last strike.
    outcome: Outcome,
    since: Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Takes nothing.
    Out { until: Tick },
    /// One connection may try, or is trying; another may from `again` on.
    Trial { again: Tick },
    /// It came back; forgotten from `forget` on.
    Back { forget: Tick },
}

/// An ejection as a successor gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedEjection {
    /// It takes nothing; otherwise this only counts for the next ejection.
    pub is_out: bool,
    /// For so long from now on.
    pub until_millis: u64,
    /// How often lately.
    pub times: u32,
    /// It came from resets, which a good connect doesn't disprove.
    pub reset: bool,
    /// How long ago.
    pub since_millis: u64,
}

/// What the rules look at besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Endpoints of the service.
    pub all: u32,
    /// Those that take sessions now, in members and tiers that may be used.
    pub usable: u32,
    /// Percent of `all` that may be ejected.
    pub max_ejected: u8,
}

/// What changed for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// It is out.
    Ejected(Arc<EndpointState>),
    /// One connection may try it.
    OnTrial(Arc<EndpointState>),
    /// It is back.
    Returned(Arc<EndpointState>),
}

impl Ejections {
    /// A strike of this endpoint. Costs O(log n) beside the census, which is asked for only when an
    /// ejection is due.
    pub fn strike(
        &mut self,
        endpoint: &Arc<EndpointState>,
        (outcome, in_a_row): (Outcome, u32),
        census: impl FnOnce() -> Census,
        now: Tick,
    ) -> Option<Passed> {
        let known = self.by_endpoint.get(&endpoint.id);
        let times = match known.map(|ejection| (ejection.phase, ejection.times)) {
            Some((Phase::Out { .. }, _)) => return None,
            // Until the trial is taken, what fails began before it.
            Some((Phase::Trial { .. }, _)) if endpoint.flags().has(Flags::TRIAL) => return None,
            Some((Phase::Trial { .. }, times)) => times,
            Some((Phase::Back { .. }, times)) if in_a_row >= STRIKES => times,
            None if in_a_row >= STRIKES => 0,
            Some((Phase::Back { .. }, _)) | None => return None,
        };
        let already_out = endpoint.flags().has(Flags::EJECTED);
        if !already_out && !self.may_eject(endpoint, census()) {
            self.prevented = self.prevented.wrapping_add(1);
            return None;
        }
        self.eject(endpoint, outcome, times, now);
        Some(Passed::Ejected(endpoint.clone()))
    }

    /// A connection (or its first byte) was good, or a probe was. Ends the ejection.
    ///
    /// A connect alone doesn't end one that came from resets: those come after it.
    pub fn good(
        &mut self,
        endpoint: &EndpointState,
        connect_only: bool,
        now: Tick,
    ) -> Option<Passed> {
        let ejection = self.by_endpoint.get_mut(&endpoint.id)?;
        let is_out = !matches!(ejection.phase, Phase::Back { .. });
        if !is_out || connect_only && ejection.outcome == Outcome::ResetBeforeData {
            return None;
        }
        Some(ejection.come_back(now))
    }

    /// What time alone brings about.
    pub fn advance(&mut self, now: Tick) -> Vec<Passed> {
        let mut passed = Vec::new();
        self.by_endpoint.retain(|_, ejection| match ejection.phase {
            Phase::Out { until } if now >= until => {
                passed.push(ejection.put_on_trial(now));
                true
            }
            // The one that took the trial never told: let another try.
            Phase::Trial { again } if now >= again => {
                if ejection.endpoint.flags().has(Flags::TRIAL) {
                    // Nobody came by yet.
                    ejection.phase = Phase::Trial {
                        again: now.after(TRIAL_PATIENCE),
                    };
                } else {
                    passed.push(ejection.put_on_trial(now));
                }
                true
            }
            Phase::Back { forget } => now < forget,
            Phase::Out { .. } | Phase::Trial { .. } => true,
        });
        passed
    }

    /// Ends ejections early until the cap holds again and something is usable. `stands` says whether
    /// an endpoint would take sessions but for its ejection.
    pub fn enforce(
        &mut self,
        mut census: Census,
        now: Tick,
        stands: impl Fn(&EndpointState) -> bool,
    ) -> Vec<Passed> {
        let mut passed = Vec::new();
        let mut out = self.out();
        let mut oldest: Vec<(Tick, EndpointId)> = self
            .by_endpoint
            .values()
            .filter(|ejection| ejection.is_out())
            .map(|ejection| (ejection.since, ejection.endpoint.id))
            .collect();
        oldest.sort_unstable();
        for (_, id) in oldest {
            let over = out > cap(census);
            let ejection = self.by_endpoint.get_mut(&id).expect("listed above");
            let needed = census.usable == 0 && stands(&ejection.endpoint);
            if over || needed {
                census.usable += u32::from(stands(&ejection.endpoint));
                passed.push(ejection.come_back(now));
                out -= 1;
            }
        }
        passed
    }

    /// Forgets an endpoint that left; its flags stay.
    pub fn remove(&mut self, endpoint: &EndpointState) {
        self.by_endpoint.remove(&endpoint.id);
    }

    /// When [`Self::advance`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.by_endpoint
            .values()
            .map(|ejection| match ejection.phase {
                Phase::Out { until } => until,
                Phase::Trial { again } => again,
                Phase::Back { forget } => forget,
            })
            .min()
    }

    /// Endpoints that are ejected now.
    pub fn out(&self) -> u32 {
        self.by_endpoint
            .values()
            .filter(|ejection| ejection.is_out())
            .count() as u32
    }

    /// Ejections prevented by the cap or because nothing else was usable, wrapping.
    pub fn prevented(&self) -> u32 {
        self.prevented
    }

    /// Why an endpoint is out: the last strike, how often lately, since when.
    pub fn reason(&self, endpoint: EndpointId) -> Option<(Outcome, u32, Tick)> {
        let ejection = self.by_endpoint.get(&endpoint)?;
        ejection
            .is_out()
            .then_some((ejection.outcome, ejection.times, ejection.since))
    }

    /// An ejection, or what is remembered of one, for a successor.
    pub fn learned(&self, endpoint: EndpointId, now: Tick) -> Option<LearnedEjection> {
        let ejection = self.by_endpoint.get(&endpoint)?;
        let (is_out, until) = match ejection.phase {
            Phase::Out { until } => (true, until),
            // The successor puts it on trial at once.
            Phase::Trial { .. } => (true, now),
            Phase::Back { forget } => (false, forget),
        };
        Some(LearnedEjection {
            is_out,
            until_millis: millis(until - now),
            times: ejection.times,
            reset: ejection.outcome == Outcome::ResetBeforeData,
            since_millis: millis(now - ejection.since),
        })
    }

    /// Takes an ejection over from an earlier process.
    pub fn restore(&mut self, endpoint: &Arc<EndpointState>, learned: &LearnedEjection, now: Tick) {
        let until = now.after(Duration::from_millis(learned.until_millis).min(EJECTION_MAX * 2));
        let outcome = match learned.reset {
            true => Outcome::ResetBeforeData,
            false => Outcome::Refused,
        };
        let phase = match learned.is_out {
            true => Phase::Out { until },
            false => Phase::Back { forget: until },
        };
        let ejection = Ejection {
            endpoint: endpoint.clone(),
            phase,
            times: learned.times,
            outcome,
            since: before(now, learned.since_millis),
        };
        self.by_endpoint.insert(endpoint.id, ejection);
        if learned.is_out {
            endpoint.change_flags(Flags::EJECTED, Flags::TRIAL);
        }
    }

    fn may_eject(&self, endpoint: &EndpointState, census: Census) -> bool {
        let others = census.usable - u32::from(endpoint.is_usable()).min(census.usable);
        self.out() < cap(census) && others > 0
    }

    fn eject(&mut self, endpoint: &Arc<EndpointState>, outcome: Outcome, times: u32, now: Tick) {
        let span = (EJECTION * 2u32.saturating_pow(times.min(16))).min(EJECTION_MAX);
        let spread = mix(u64::from(endpoint.id.0) ^ now.0) as u32;
        let jitter = Duration::from_secs_f64(
            span.as_secs_f64() / 4.0 * f64::from(spread) / f64::from(u32::MAX),
        );
        self.by_endpoint.insert(
            endpoint.id,
            Ejection {
                endpoint: endpoint.clone(),
                phase: Phase::Out {
                    until: now.after(span + jitter),
                },
                times: times + 1,
                outcome,
                since: now,
            },
        );
        endpoint.change_flags(Flags::EJECTED, Flags::TRIAL);
    }
}

impl Ejection {
    fn is_out(&self) -> bool {
        !matches!(self.phase, Phase::Back { .. })
    }

    fn put_on_trial(&mut self, now: Tick) -> Passed {
        self.phase = Phase::Trial {
            again: now.after(TRIAL_PATIENCE),
        };
        // From here on each strike is news of the trial, not of the row that led here.
        self.endpoint.clear_strikes();
        self.endpoint.change_flags(Flags::TRIAL, Flags::NONE);
        Passed::OnTrial(self.endpoint.clone())
    }

    fn come_back(&mut self, now: Tick) -> Passed {
        self.phase = Phase::Back {
            forget: now.after(FORGET_AFTER),
        };
        self.endpoint.clear_strikes();
        self.endpoint
            .change_flags(Flags::NONE, Flags::EJECTED.with(Flags::TRIAL));
        Passed::Returned(self.endpoint.clone())
    }
}

/// How many endpoints may be ejected at a time.
fn cap(census: Census) -> u32 {
    (u64::from(census.all) * u64::from(census.max_ejected)).div_ceil(100) as u32
}

/// Strikes in a row that eject.
pub const STRIKES: u32 = 3;
const EJECTION: Duration = Duration::from_secs(1);
const EJECTION_MAX: Duration = Duration::from_secs(60);
/// Longer than a connect may take by default and its first byte may be waited for.
const TRIAL_PATIENCE: Duration = Duration::from_secs(10);
const FORGET_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
