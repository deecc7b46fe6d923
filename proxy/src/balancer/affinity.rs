//! Tier and member of a client that must come back to the same place.
//!
//! The tier comes from nested thresholds on the client's hash: a tier that takes less gives up the
//! clients above its new threshold, and gets the very same ones back. The member comes from weighted
//! rendezvous over the tier's effective weights: a weight that falls moves only that member's clients.

use super::{
    hash::{Identity, KeyHash},
    logarithm,
};

/// The tier whose interval holds the client's point; `shares` are fractions of 2^32 that sum to 2^32.
pub fn tier(key: KeyHash, shares: impl Iterator<Item = u64>) -> Option<usize> {
    let point = u64::from(key.tier_point());
    let mut threshold = 0;
    let mut last = None;
    for (index, share) in shares.enumerate() {
        if share == 0 {
            continue;
        }
        threshold += share;
        last = Some(index);
        if point < threshold {
            break;
        }
    }
    last
}

/// The member with the best score for its effective weight; members of weight 0 are passed over.
pub fn member(key: KeyHash, members: impl Iterator<Item = (Identity, u32)>) -> Option<usize> {
    let mut best: Option<(usize, u32, u32)> = None;
    for (index, (identity, weight)) in members.enumerate() {
        let point = (key.score(identity) >> 32) as u32;
        let leads = |(_, other, other_weight)| logarithm::beats(point, weight, other, other_weight);
        if weight != 0 && best.is_none_or(leads) {
            best = Some((index, point, weight));
        }
    }
    best.map(|(index, _, _)| index)
}
