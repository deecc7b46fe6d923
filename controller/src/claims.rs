//! Requests for less traffic to a member, and what is left of its weight.

use fairlead_api::member::TrafficClaim;
use fairlead_config::service::{MemberWeight, WEIGHT_POINTS_MAX};

use crate::world::{ServiceKey, matches_pattern};

/// A member's weight for a service, and what it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight<'c> {
    /// What was asked for, in weight points.
    pub configured: u16,
    /// What is left, in thousandths of a point.
    pub effective: MemberWeight,
    /// The claim that decided, if any.
    pub claim: Option<&'c TrafficClaim>,
}

/// Configured weight times the smallest claim on this service.
///
/// Of equally small claims the first by owner is named, so that the answer doesn't depend on the
/// order they were made in.
pub fn weigh<'c>(configured: u16, claims: &'c [TrafficClaim], key: &ServiceKey) -> Weight<'c> {
    let configured = configured.min(WEIGHT_POINTS_MAX);
    let claim = claims
        .iter()
        .filter(|claim| concerns(claim, key))
        .min_by_key(|claim| (claim.permille, &claim.owner));
    let permille = claim.map_or(1000, |claim| claim.permille.clamp(0, 1000).unsigned_abs());
    let thousandths = u32::from(configured) * permille;
    Weight {
        configured,
        effective: MemberWeight::from_thousandths(thousandths)
            .expect("at most 1000 points times 1000 thousandths"),
        claim,
    }
}

fn concerns(claim: &TrafficClaim, key: &ServiceKey) -> bool {
    match &claim.services {
        None => true,
        Some(patterns) => patterns.iter().any(|pattern| matches_pattern(pattern, key)),
    }
}

/// The weight of a member of which nothing is said.
pub const WEIGHT_DEFAULT: u16 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(owner: &str, permille: i32, services: Option<&[&str]>) -> TrafficClaim {
        TrafficClaim {
            owner: owner.to_owned(),
            permille,
            reason: String::new(),
            since: None,
            services: services.map(|all| all.iter().map(|text| (*text).to_owned()).collect()),
        }
    }

    #[test]
    fn the_smallest_claim_counts_and_is_named() {
        let key = ServiceKey::new("shop", "web");
        let claims = [
            claim("run", 500, None),
            claim("user", 0, None),
            claim("a", 0, None),
        ];
        let weight = weigh(100, &claims, &key);
        assert!(weight.effective.is_drain());
        assert_eq!(weight.claim.unwrap().owner, "a");
        assert_eq!(
            weigh(100, &claims[..1], &key).effective.thousandths(),
            50_000
        );
        assert_eq!(weigh(100, &[], &key).effective.thousandths(), 100_000);
    }

    #[test]
    fn a_claim_on_other_services_does_not_count() {
        let key = ServiceKey::new("shop", "web");
        let claims = [
            claim("a", 0, Some(&["shop/api"])),
            claim("b", 700, Some(&["shop/*"])),
            claim("c", 0, Some(&[])),
        ];
        assert_eq!(weigh(10, &claims, &key).effective.thousandths(), 7_000);
    }

    #[test]
    fn giving_a_claim_back_restores_the_weight_exactly() {
        let key = ServiceKey::new("shop", "web");
        for points in [0, 1, 333, 1000] {
            let before = weigh(points, &[], &key).effective;
            let after = weigh(points, &[claim("x", 1000, None)], &key).effective;
            assert_eq!(before, after);
        }
    }
}
