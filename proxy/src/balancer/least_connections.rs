//! The fewest live sessions for their weight among all.
//!
//! Looks at each endpoint of the member, at most [`SCAN_MAX`] from a drawn start: beyond that size
//! the best of a thousand is as good as the best of all, and a pick stays below 10 µs. Among equals,
//! the choice is drawn by weight.

use super::{draw::Draw, pool::Pool};

/// Picks from the pool; `None` when nothing is eligible.
pub fn pick(pool: &Pool<'_>, draw: &mut Draw) -> Option<usize> {
    let count = pool.entries().len();
    if count == 0 {
        return None;
    }
    let start = draw.below(count as u32) as usize;
    let mut best: Option<usize> = None;
    let mut weight_of_equals = 0;
    for index in (start..count).chain(0..start).take(SCAN_MAX) {
        if !pool.is_eligible(index) {
            continue;
        }
        let weight = u64::from(pool.weight(index));
        let Some(leader) = best else {
            (best, weight_of_equals) = (Some(index), weight);
            continue;
        };
        let mine = u64::from(pool.inflight(index)) * u64::from(pool.weight(leader));
        let theirs = u64::from(pool.inflight(leader)) * weight;
        if mine < theirs {
            (best, weight_of_equals) = (Some(index), weight);
        } else if mine == theirs {
            weight_of_equals += weight;
            if (u64::from(draw.next_random()) * weight_of_equals) >> 32 < weight {
                best = Some(index);
            }
        }
    }
    // Beyond the scan there may be one: a member with a thousand full endpoints in a row.
    best.or_else(|| pool.draw(draw, None))
}

/// Endpoints looked at per pick.
pub const SCAN_MAX: usize = 1024;
