use super::*;

fn member(weight: u32, healthy: u32, all: u32) -> Counts {
    Counts {
        weight: weight * 1000,
        all,
        healthy,
        hopeful: all,
        draining: 0,
        ramp: RAMP_FULL,
        suspect: false,
    }
}

/// Percent per tier, with fresh holds.
fn percents(tiers: &[Vec<Counts>], change: impl FnOnce(&mut Policy)) -> Vec<u64> {
    let mut policy = Policy::default();
    change(&mut policy);
    let decided = distribute(tiers, &policy, &mut Holds::default(), Tick(0));
    decided
        .tiers
        .iter()
        .map(|tier| (tier.share * 100 + ONE / 2) / ONE)
        .collect()
}

#[test]
fn a_tier_takes_its_health_times_the_factor_and_spills_the_rest() {
    let full = vec![member(100, 10, 10)];
    let of = |healthy| vec![member(100, healthy, 10)];
    let rows: [(u32, u32, [u64; 2]); 6] = [
        (10, 1400, [100, 0]),
        (8, 1400, [100, 0]),
        (7, 1400, [98, 2]),
        (5, 1400, [70, 30]),
        (0, 1400, [0, 100]),
        (9, 1000, [90, 10]),
    ];
    for (healthy, factor, expected) in rows {
        let found = percents(&[of(healthy), full.clone()], |policy| {
            policy.spill_factor = factor
        });
        assert_eq!(found, expected, "{healthy} of 10, factor {factor}");
    }
}
