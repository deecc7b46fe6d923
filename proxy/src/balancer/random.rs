//! By weight alone.

use super::{draw::Draw, pool::Pool};

/// Picks from the pool; `None` when nothing is eligible.
pub fn pick(pool: &Pool<'_>, draw: &mut Draw) -> Option<usize> {
    pool.draw(draw, None)
}
