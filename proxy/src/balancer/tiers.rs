//! How much of the new sessions each tier and each member takes.
//!
//! A tier's health is healthy ÷ all of its endpoints; weight-0 members and leaving endpoints are in
//! neither count, so a planned drain spills nothing. A tier can take `min(1, health × factor)`, in
//! order of preference; the rest spills. Where the tiers together can't take everything, in this
//! order: a tier that is held back returns early, a tier below `minHealthy` helps out, and then what
//! there is takes all, each tier below `panicBelow` also with the endpoints against which only soft
//! evidence stands (ejected, wrong answers to probes, out of touch): while anything is healthy, an
//! endpoint that our own probes find dead is never used. When nothing in any tier that may be used is
//! healthy, leaving endpoints serve, and where there are none, the first tier with hope tries them all.
//!
//! A tier gives up sessions at once, and takes back only what it could have taken all the time of the
//! last `returnAfter`.
//! Pure: equal counts, holds and time give equal shares. Costs O(members).

use std::time::Duration;

use fairlead_config::policy::Policy;
use fairlead_runtime::clock::Tick;
use smallvec::SmallVec;

use super::pool::Mode;
use crate::{
    directory::learned::{before, millis},
    registry::RAMP_FULL,
};

/// What a member brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Its weight in thousandths; 0 drains it.
    pub weight: u32,
    /// Endpoints that are not leaving.
    pub all: u32,
    /// Those of them that take sessions.
    pub healthy: u32,
    /// Those of them against which only soft evidence stands, and the healthy ones.
    pub doubtful: u32,
    /// Those of them that only our own observations stand against, and the doubtful ones.
    pub hopeful: u32,
    /// Endpoints that are leaving and still serve.
    pub draining: u32,
    /// How much of its endpoints' weight counts during slow start, of [`RAMP_FULL`].
    pub ramp: u32,
    /// Most of its recent connects failed.
    pub suspect: bool,
}

/// How long tiers are held back; one value per service, kept across views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds(Vec<Hold>);

/// What a tier could take at any time of the last `returnAfter`, as far as it matters: rising
/// values, each with the time until which it held. The last one holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hold {
    past: SmallVec<[(u64, Tick); 2]>,
    present: u64,
}

/// A tier's clocks as a successor gets them: each value with how long ago it ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LearnedHold {
    /// Rising values, and milliseconds since each.
    pub past: Vec<(u64, u64)>,
    /// The value that holds.
    pub present: u64,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    /// In order of preference.
    pub tiers: Vec<TierShare>,
    /// When a tier that is held back returns; decide again then.
    pub again: Option<Tick>,
}

/// A tier's part of it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TierShare {
    /// Its part of new sessions, of [`ONE`]. All tiers together have [`ONE`], or 0 when nothing can
    /// take a session.
    pub share: u64,
    /// Healthy endpoints that count.
    pub healthy: u32,
    /// All endpoints that count.
    pub all: u32,
    /// What it could take by its health, of [`ONE`].
    pub available: u64,
    /// Until when it is held back.
    pub held_until: Option<Tick>,
    /// It has fewer healthy endpoints than `minHealthy`.
    pub below_min: bool,
    /// Which of its endpoints are used.
    pub mode: Mode,
    /// Each member's weight against the others of the tier, in thousandths, scaled by its own health.
    pub members: Vec<u32>,
}

/// Decides the shares of `tiers` (a list of members each) and moves the holds on.
pub fn distribute(
    tiers: &[Vec<Counts>],
    policy: &Policy,
    holds: &mut Holds,
    now: Tick,
) -> Distribution {
    let used = if policy.no_fallback {
        tiers.len().min(1)
    } else {
        tiers.len()
    };
    let another_can = tiers[..used]
        .iter()
        .flatten()
        .any(|member| member.weight > 0 && member.healthy > 0 && !member.suspect);
    let mut decided: Vec<TierShare> = tiers
        .iter()
        .map(|members| assess(members, policy, another_can))
        .collect();
    let again = holds.advance(&mut decided, policy.return_after, now);
    let left = allocate(&mut decided[..used], holds);
    if left > 0 {
        stretch(tiers, &mut decided[..used], policy, another_can);
    }
    Distribution {
        tiers: decided,
        again,
    }
}

/// What a tier could do by its own health.
fn assess(members: &[Counts], policy: &Policy, another_can: bool) -> TierShare {
    let counted = members.iter().filter(|member| member.weight > 0);
    let healthy = counted
        .clone()
        .map(|member| able(member, another_can))
        .sum();
    let all = counted.map(|member| member.all).sum();
    TierShare {
        share: 0,
        healthy,
        all,
        available: by_health(healthy, all, policy.spill_factor),
        held_until: None,
        below_min: healthy < policy.min_healthy,
        mode: Mode::Usable,
        members: members
            .iter()
            .map(|member| {
                let own = by_health(able(member, another_can), member.all, policy.spill_factor);
                scaled(ramped(member), own)
            })
            .collect(),
    }
}

/// Hands out [`ONE`] in order of preference; the answer is what nobody can take.
fn allocate(tiers: &mut [TierShare], holds: &Holds) -> u64 {
    let mut left = ONE;
    let mut give = |tiers: &mut [TierShare], limit: &dyn Fn(usize, &TierShare) -> u64| {
        for (index, tier) in tiers.iter_mut().enumerate() {
            let more = limit(index, tier).saturating_sub(tier.share).min(left);
            tier.share += more;
            left -= more;
        }
    };
    give(tiers, &|index, tier| {
        if tier.below_min {
            0
        } else {
            holds.allowed(index).min(tier.available)
        }
    });
    give(tiers, &|_, tier| {
        if tier.below_min { 0 } else { tier.available }
    });
    give(tiers, &|_, tier| tier.available);
    left
}

/// The tiers together can't take everything: what there is takes all, in panic where it must.
fn stretch(tiers: &[Vec<Counts>], decided: &mut [TierShare], policy: &Policy, another_can: bool) {
    let taken: u64 = decided.iter().map(|tier| tier.share).sum();
    if taken == 0 {
        resort(tiers, decided, policy);
        return;
    }
    let mut running = 0;
    let mut given = 0;
    for (members, tier) in tiers.iter().zip(decided) {
        running += tier.share;
        let up_to = portion(ONE, running, taken);
        tier.share = up_to - given;
        given = up_to;
        if tier.share > 0 && panics(tier, policy) {
            tier.mode = Mode::Doubtful;
            tier.members = members
                .iter()
                .map(|member| {
                    let shunned = member.suspect && another_can;
                    let usable = if shunned { 0 } else { member.doubtful };
                    let own = by_health(usable, member.all, policy.spill_factor);
                    scaled(ramped(member), own)
                })
                .collect();
        }
    }
}

/// Nothing is healthy: leaving endpoints that still serve, else all that there is hope for in the
/// first tier that has any.
fn resort(tiers: &[Vec<Counts>], decided: &mut [TierShare], policy: &Policy) {
    type Count = fn(&Counts) -> u32;
    let draining: Count = |member| member.draining;
    let hopeful: Count = |member| member.hopeful;
    let ways = [(Mode::Draining, draining), (Mode::Hopeful, hopeful)];
    for (mode, count) in ways {
        if mode == Mode::Hopeful && policy.panic_below == 0 {
            return;
        }
        for (members, tier) in tiers.iter().zip(decided.iter_mut()) {
            let able = |member: &Counts| member.weight > 0 && count(member) > 0;
            if members.iter().any(able) {
                tier.share = ONE;
                tier.mode = mode;
                tier.members = members
                    .iter()
                    .map(|member| if able(member) { member.weight } else { 0 })
                    .collect();
                return;
            }
        }
    }
}

fn panics(tier: &TierShare, policy: &Policy) -> bool {
    u64::from(tier.healthy) * 100 < u64::from(tier.all) * u64::from(policy.panic_below)
}

/// The endpoints of a member that take sessions; none of a suspect one while another member can.
fn able(member: &Counts, another_can: bool) -> u32 {
    if member.suspect && another_can {
        0
    } else {
        member.healthy
    }
}

/// `min(1, healthy ÷ all × factor)` of [`ONE`].
fn by_health(healthy: u32, all: u32, factor: u32) -> u64 {
    if all == 0 {
        return 0;
    }
    portion(
        ONE,
        u64::from(healthy) * u64::from(factor),
        u64::from(all) * 1000,
    )
    .min(ONE)
}

/// A weight during slow start; only 0 becomes 0.
fn ramped(member: &Counts) -> u32 {
    let weight =
        u64::from(member.weight) * u64::from(member.ramp.min(RAMP_FULL)) / u64::from(RAMP_FULL);
    (weight as u32).max(u32::from(member.weight > 0))
}

fn scaled(weight: u32, part: u64) -> u32 {
    let scaled = portion(weight.into(), part, ONE) as u32;
    scaled.max(u32::from(weight > 0 && part > 0))
}

fn portion(whole: u64, part: u64, of: u64) -> u64 {
    (u128::from(whole) * u128::from(part) / u128::from(of)) as u64
}

// === impl Holds ===

impl Holds {
    /// Lets each tier fall at once and rise only to what it could take all the time since; the answer
    /// is the next return.
    fn advance(
        &mut self,
        tiers: &mut [TierShare],
        return_after: Duration,
        now: Tick,
    ) -> Option<Tick> {
        self.0.truncate(tiers.len());
        for (index, tier) in tiers.iter_mut().enumerate() {
            let available = if tier.below_min { 0 } else { tier.available };
            match self.0.get_mut(index) {
                Some(hold) => tier.held_until = hold.advance(available, return_after, now),
                // A tier not seen before has nothing to prove: it holds for nobody.
                None => self.0.push(Hold {
                    past: SmallVec::new(),
                    present: available,
                }),
            }
        }
        tiers.iter().filter_map(|tier| tier.held_until).min()
    }

    /// The clocks of tiers that are held back, for a successor; none when no tier is.
    pub fn learned(&self, now: Tick) -> Vec<LearnedHold> {
        if self.0.iter().all(|hold| hold.past.is_empty()) {
            return Vec::new();
        }
        let learned = self.0.iter().map(|hold| LearnedHold {
            past: hold
                .past
                .iter()
                .map(|&(value, until)| (value, millis(now - until)))
                .collect(),
            present: hold.present,
        });
        learned.collect()
    }

    /// Takes the clocks of an earlier process over.
    pub fn restore(&mut self, learned: &[LearnedHold], now: Tick) {
        if !learned.is_empty() {
            let holds = learned.iter().map(|hold| Hold {
                past: hold
                    .past
                    .iter()
                    .map(|&(value, ago)| (value, before(now, ago)))
                    .collect(),
                present: hold.present,
            });
            self.0 = holds.collect();
        }
    }

    fn allowed(&self, tier: usize) -> u64 {
        let hold = &self.0[tier];
        hold.past.first().map_or(hold.present, |&(least, _)| least)
    }
}

impl Hold {
    fn advance(&mut self, available: u64, return_after: Duration, now: Tick) -> Option<Tick> {
        if available > self.present {
            self.past.push((self.present, now));
        }
        self.present = available;
        self.past
            .retain(|&mut (value, until)| value < available && now < until.after(return_after));
        if self.past.len() > STEPS_MAX {
            // Two steps become one: the lower value, held as long as the higher one.
            let (_, until) = self.past.remove(1);
            self.past[0].1 = until;
        }
        self.past
            .first()
            .map(|&(_, until)| until.after(return_after))
    }
}

/// Everything, as shares count: 2^32.
pub const ONE: u64 = 1 << 32;
/// Values of a tier's past that are told apart.
const STEPS_MAX: usize = 16;

#[cfg(test)]
mod tests;
