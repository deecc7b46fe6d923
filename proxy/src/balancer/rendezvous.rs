//! By hash: the highest score for its weight, over the configured set.
//!
//! Exactly minimal: an endpoint that leaves moves its own clients and no others, and they come back
//! with it. Looks at each endpoint of the member: about 3 ns each.

use super::{hash::KeyHash, logarithm, pool::Pool};
use crate::registry::RAMP_FULL;

/// Picks from the pool; `None` when nothing is eligible.
///
/// A ramping endpoint takes the growing share of its clients whose lower score half is below its ramp:
/// those that came back stay.
pub fn pick(pool: &Pool<'_>, key: KeyHash) -> Option<usize> {
    let mut best: Option<(usize, u32, u32)> = None;
    let mut refused_by_ramp: Option<(usize, u32, u32)> = None;
    for (index, entry) in pool.entries().iter().enumerate() {
        let score = key.score(entry.state.identity);
        let (point, weight) = ((score >> 32) as u32, u32::from(entry.weight));
        let leads = |leader: Option<(usize, u32, u32)>| {
            leader.is_none_or(|(_, other, other_weight)| {
                logarithm::beats(point, weight, other, other_weight)
            })
        };
        if !leads(best) || !pool.is_eligible(index) {
            continue;
        }
        if takes(score, pool.ramp(index)) {
            best = Some((index, point, weight));
        } else if leads(refused_by_ramp) {
            refused_by_ramp = Some((index, point, weight));
        }
    }
    best.or(refused_by_ramp).map(|(index, _, _)| index)
}

/// Whether an endpoint with this ramp takes the client with this score.
pub(super) fn takes(score: u64, ramp: u32) -> bool {
    ramp == RAMP_FULL || (score as u32) < (u64::from(ramp) << 22) as u32
}
