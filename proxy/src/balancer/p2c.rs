//! The better of two: both drawn by weight, the one with fewer live sessions for its weight wins.
//!
//! The first one wins a tie, so that idle endpoints get new sessions exactly by weight. Never worse
//! than a random pick, and the fullest endpoint is at most about log log n ahead of the rest.
//! A connect that nothing answers counts as live, so a silent endpoint is passed over even before it is
//! ejected.

use super::{draw::Draw, pool::Pool};

/// Picks from the pool; `None` when nothing is eligible.
pub fn pick(pool: &Pool<'_>, draw: &mut Draw) -> Option<usize> {
    let first = pool.draw(draw, None)?;
    if pool.entries().len() == 1 {
        return Some(first);
    }
    let Some(second) = pool.draw(draw, Some(first)) else {
        return Some(first);
    };
    Some(if is_freer(pool, second, first) {
        second
    } else {
        first
    })
}

/// Whether `a` has fewer live sessions for its weight than `b`.
pub(super) fn is_freer(pool: &Pool<'_>, a: usize, b: usize) -> bool {
    u64::from(pool.inflight(a)) * u64::from(pool.weight(b))
        < u64::from(pool.inflight(b)) * u64::from(pool.weight(a))
}
