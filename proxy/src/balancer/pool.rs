//! The endpoints of one member that may be picked now.
//!
//! A pool is a view of a member's configured endpoints through what is known this moment: flags,
//! limits, slow start and what the session tried. Health is applied at lookup, so an ejection counts
//! at once, before the view is rebuilt. Random draws go over the candidates that were ready when the
//! view was built, by weight; a draw that hits something ineligible is repeated a few times and then
//! replaced by one exact pass over all. So a draw costs O(log n) as a rule and O(n) at worst.

use std::time::Duration;

use fairlead_config::policy::Balancer;
use fairlead_runtime::clock::Tick;

use super::{
    Tried,
    draw::{Draw, scale},
};
use crate::{
    registry::{EndpointState, Flags, RAMP_FULL},
    view::{Entry, MemberView},
};

/// Which endpoints count as usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Those that nothing stands against.
    #[default]
    Usable,
    /// Panic: also those against which only soft evidence stands. Never one that is known to be dead
    /// here, because something in the tier is healthy.
    Doubtful,
    /// Nothing is healthy: also those that only our own observations stand against, the dead too.
    Hopeful,
    /// Those about to leave, when there is nothing else.
    Draining,
}

/// How the service picks; the same for all its members.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The balancer.
    pub balancer: Balancer,
    /// The length of a slow start.
    pub slow_start: Duration,
    /// Live sessions an endpoint may have.
    pub connections_max: Option<u32>,
}

/// A member's endpoints as one pick sees them.
#[derive(Debug)]
pub struct Pool<'v> {
    member: &'v MemberView,
    rules: &'v Rules,
    tried: &'v Tried,
    mode: Mode,
    now: Tick,
}

impl<'v> Pool<'v> {
    /// The member's endpoints in `mode`, without those tried.
    pub fn new(
        member: &'v MemberView,
        rules: &'v Rules,
        tried: &'v Tried,
        mode: Mode,
        now: Tick,
    ) -> Self {
        Self {
            member,
            rules,
            tried,
            mode,
            now,
        }
    }

    /// The service's balancer.
    pub fn balancer(&self) -> Balancer {
        self.rules.balancer
    }

    /// The member whose endpoints these are.
    pub fn member(&self) -> &'v MemberView {
        self.member
    }

    /// Configured endpoints, in the order of their addresses.
    pub fn entries(&self) -> &'v [Entry] {
        &self.member.endpoints
    }

    /// Whether this one may be picked. An ejected endpoint whose trial is open may, once.
    pub fn is_eligible(&self, index: usize) -> bool {
        let endpoint = &*self.member.endpoints[index].state;
        self.is_open(endpoint) && !self.is_full(endpoint) && !self.tried.contains(endpoint.id)
    }

    /// Its weight now, slow start applied: weight × [`RAMP_FULL`] when it isn't ramping.
    pub fn weight(&self, index: usize) -> u32 {
        let entry = &self.member.endpoints[index];
        u32::from(entry.weight) * entry.state.ramp(self.rules.slow_start, self.now)
    }

    /// How much of its weight counts now, of [`RAMP_FULL`].
    pub fn ramp(&self, index: usize) -> u32 {
        self.member.endpoints[index]
            .state
            .ramp(self.rules.slow_start, self.now)
    }

    /// Live sessions.
    pub fn inflight(&self, index: usize) -> u32 {
        self.member.endpoints[index].state.inflight()
    }

    /// Draws an eligible endpoint by weight, other than `besides`.
    pub fn draw(&self, draw: &mut Draw, besides: Option<usize>) -> Option<usize> {
        for _ in 0..DRAWS_MAX {
            let index = self
                .member
                .candidates
                .at(draw.next_random(), self.member.endpoints.len())?;
            if Some(index) != besides && self.is_eligible(index) {
                let ramp = self.ramp(index);
                if ramp == RAMP_FULL || draw.below(RAMP_FULL) < ramp {
                    return Some(index);
                }
            }
        }
        self.draw_exactly(draw, besides)
    }

    /// Like [`Self::draw`], in two passes over all.
    fn draw_exactly(&self, draw: &mut Draw, besides: Option<usize>) -> Option<usize> {
        let weight = |index: usize| {
            if Some(index) != besides && self.is_eligible(index) {
                u64::from(self.weight(index))
            } else {
                0
            }
        };
        let indexes = 0..self.member.endpoints.len();
        let total: u64 = indexes.clone().map(weight).sum();
        if total == 0 {
            return None;
        }
        let point = u64::from(draw.next_random()) << 32 | u64::from(draw.next_random());
        let mut left = ((u128::from(point) * u128::from(total)) >> 64) as u64;
        let mut last = None;
        for index in indexes {
            let weight = weight(index);
            if weight == 0 {
                continue;
            }
            last = Some(index);
            if left < weight {
                break;
            }
            left -= weight;
        }
        // Flags may have changed between the passes; the last eligible one is as good as any.
        last
    }

    fn is_open(&self, endpoint: &EndpointState) -> bool {
        self.mode.admits(endpoint.flags())
    }

    fn is_full(&self, endpoint: &EndpointState) -> bool {
        self.rules
            .connections_max
            .is_some_and(|max| endpoint.inflight() >= max)
    }
}

impl Mode {
    /// Whether an endpoint with these flags counts; one that waits for its trial does.
    pub fn admits(self, flags: Flags) -> bool {
        match self {
            Self::Usable => flags.is_usable() || flags.is_on_trial(),
            Self::Doubtful => flags.is_doubtful(),
            Self::Hopeful => flags.is_hopeful(),
            Self::Draining => flags.is_draining(),
        }
    }
}

/// Which endpoints a draw goes over, and with what weight.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidates {
    /// Positions in the member's list; `None` when it is all of them.
    positions: Option<Box<[u32]>>,
    /// Running sums of weights; `None` when they are equal.
    sums: Option<Box<[u32]>>,
}

impl Candidates {
    /// The endpoints whose weight isn't 0.
    pub fn new(weights: impl ExactSizeIterator<Item = u16>) -> Self {
        let count = weights.len();
        let chosen: Vec<(u32, u16)> = (0..)
            .zip(weights)
            .filter(|&(_, weight)| weight != 0)
            .collect();
        let equal = chosen.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let sums = (!equal).then(|| {
            let mut sum = 0;
            let running = chosen.iter().map(|&(_, weight)| {
                sum += u32::from(weight);
                sum
            });
            running.collect()
        });
        let all = chosen.len() == count && count != 0;
        let positions = (!all).then(|| chosen.iter().map(|&(position, _)| position).collect());
        Self { positions, sums }
    }

    /// The candidate at `point`, a fraction of 2^32, of a member with `count` endpoints.
    pub fn at(&self, point: u32, count: usize) -> Option<usize> {
        let count = self
            .positions
            .as_ref()
            .map_or(count, |positions| positions.len());
        if count == 0 {
            return None;
        }
        let place = match &self.sums {
            None => scale(point, count as u32) as usize,
            Some(sums) => {
                let target = scale(point, *sums.last()?);
                sums.partition_point(|&sum| sum <= target)
            }
        };
        Some(match &self.positions {
            None => place,
            Some(positions) => positions[place] as usize,
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.positions
            .as_ref()
            .is_some_and(|positions| positions.is_empty())
    }
}

/// Draws before the exact pass: with half of the weight ineligible, one pick in 250 needs it.
const DRAWS_MAX: usize = 8;
