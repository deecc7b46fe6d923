//! In turn, by weight.
//!
//! The weights, divided by their greatest common divisor, lay out W slots; turn `t` takes slot
//! `t × stride mod W`, where the stride is coprime to W: so each W turns in a row hit each slot once,
//! whatever the number of threads, and equal weights go round in order. With unequal weights the stride is near W
//! divided by the golden ratio, which spreads the slots of a heavy endpoint out. An
//! ineligible endpoint hands its turn on to the next slots; a ramping one does for a part of its turns.

use super::{hash::mix, pool::Pool};
use crate::registry::RAMP_FULL;

/// Picks from the pool for this turn; `None` when nothing is eligible.
pub fn pick(pool: &Pool<'_>, round: &Round, turn: u32) -> Option<usize> {
    if round.slots() == 0 {
        return None;
    }
    for step in 0..STEPS_MAX {
        let index = round.at(turn.wrapping_add(step));
        if pool.is_eligible(index) && takes_its_turn(pool, index, turn) {
            return Some(index);
        }
    }
    // Then the endpoints themselves, in order from where the turn stands.
    let start = round.at(turn);
    let count = pool.entries().len();
    (start..count)
        .chain(0..start)
        .find(|&index| pool.is_eligible(index))
}

fn takes_its_turn(pool: &Pool<'_>, index: usize, turn: u32) -> bool {
    let ramp = pool.ramp(index);
    ramp == RAMP_FULL || (mix(turn.into()) % u64::from(RAMP_FULL)) < u64::from(ramp)
}

/// How turns map to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    slots: u32,
    stride: u32,
    /// Running sums of the divided weights; `None` when every slot is one endpoint.
    sums: Option<Box<[u32]>>,
}

impl Round {
    /// Lays out the slots of a member's configured endpoints.
    pub fn new(weights: impl Iterator<Item = u16> + Clone) -> Self {
        let divisor = weights
            .clone()
            .fold(0, |divisor, weight| gcd(divisor, weight.into()))
            .max(1);
        let mut slots = 0;
        let sums: Box<[u32]> = weights
            .map(|weight| {
                slots += u32::from(weight) / divisor;
                slots
            })
            .collect();
        if slots as usize == sums.len() {
            return Self {
                slots,
                stride: 1,
                sums: None,
            };
        }
        let near = ((u64::from(slots) * 0x9e37_79b9) >> 32) as u32;
        let stride = (near.max(1)..)
            .find(|&stride| gcd(stride, slots) == 1)
            .unwrap_or(1);
        Self {
            slots,
            stride,
            sums: Some(sums),
        }
    }

    /// Slots of a whole round.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Whose turn it is. Not to be asked when there are no slots.
    pub fn at(&self, turn: u32) -> usize {
        let slot = (u64::from(turn) * u64::from(self.stride) % u64::from(self.slots)) as u32;
        match &self.sums {
            None => slot as usize,
            Some(sums) => sums.partition_point(|&sum| sum <= slot),
        }
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Slots tried before the endpoints are gone through in order.
const STEPS_MAX: u32 = 16;
