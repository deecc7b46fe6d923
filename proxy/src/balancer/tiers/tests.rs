use proptest::prelude::*;

use super::*;

/// Healthy and all endpoints, tier by tier.
type Health = &'static [(u32, u32)];

fn member(weight: u32, healthy: u32, all: u32) -> Counts {
    Counts {
        weight: weight * 1000,
        all,
        healthy,
        doubtful: all,
        hopeful: all,
        draining: 0,
        ramp: RAMP_FULL,
        suspect: false,
    }
}

fn tier(healthy: u32, all: u32) -> Vec<Counts> {
    vec![member(100, healthy, all)]
}

fn decide(tiers: &[Vec<Counts>], change: impl FnOnce(&mut Policy)) -> Distribution {
    let mut policy = Policy::default();
    change(&mut policy);
    distribute(tiers, &policy, &mut Holds::default(), Tick(0))
}

fn percent(share: u64) -> u64 {
    (share * 100 + ONE / 2) / ONE
}

/// Percent per tier, with fresh holds.
fn percents(tiers: &[Vec<Counts>], change: impl FnOnce(&mut Policy)) -> Vec<u64> {
    let decided = decide(tiers, change);
    decided
        .tiers
        .iter()
        .map(|tier| percent(tier.share))
        .collect()
}

fn modes(tiers: &[Vec<Counts>], change: impl FnOnce(&mut Policy)) -> Vec<Mode> {
    decide(tiers, change)
        .tiers
        .iter()
        .map(|tier| tier.mode)
        .collect()
}

#[test]
fn a_tier_takes_its_health_times_the_factor_and_spills_the_rest() {
    let rows: [(u32, u32, [u64; 2]); 6] = [
        (10, 1400, [100, 0]),
        (8, 1400, [100, 0]),
        (7, 1400, [98, 2]),
        (5, 1400, [70, 30]),
        (0, 1400, [0, 100]),
        (9, 1000, [90, 10]),
    ];
    for (healthy, factor, expected) in rows {
        let tiers = [tier(healthy, 10), tier(10, 10)];
        let found = percents(&tiers, |policy| policy.spill_factor = factor);
        assert_eq!(found, expected, "{healthy} of 10, factor {factor}");
    }
}

#[test]
fn what_spills_cascades_and_what_nobody_can_take_is_spread() {
    let rows: [(Health, &[u64]); 5] = [
        (&[(5, 10), (1, 10), (10, 10)], &[70, 14, 16]),
        (&[(0, 10), (5, 10), (10, 10)], &[0, 70, 30]),
        (&[(5, 10), (2, 10)], &[71, 29]),
        (&[(2, 10), (1, 10)], &[67, 33]),
        (&[(0, 10), (0, 10)], &[100, 0]),
    ];
    for (health, expected) in rows {
        let tiers: Vec<_> = health
            .iter()
            .map(|&(healthy, all)| tier(healthy, all))
            .collect();
        assert_eq!(percents(&tiers, |_| {}), expected, "{health:?}");
    }
}

#[test]
fn leaving_and_weightless_endpoints_count_for_nothing() {
    let mut leaving = member(100, 1, 1);
    leaving.draining = 9;
    let tiers = [vec![leaving, member(0, 0, 50)], tier(10, 10)];
    assert_eq!(percents(&tiers, |_| {}), [100, 0]);
}

#[test]
fn a_members_weight_is_scaled_by_its_own_health() {
    let tiers = [vec![
        member(100, 10, 10),
        member(100, 5, 10),
        member(100, 0, 10),
    ]];
    let decided = decide(&tiers, |_| {});
    let [full, half, none] = decided.tiers[0].members[..] else {
        panic!("three members");
    };
    assert_eq!((full, half / 1000, none), (100_000, 69, 0));
}

#[test]
fn a_member_in_slow_start_gets_the_ramped_part_of_its_weight() {
    let mut ramping = member(100, 10, 10);
    ramping.ramp = RAMP_FULL / 4;
    let decided = decide(&[vec![member(100, 10, 10), ramping]], |_| {});
    assert_eq!(decided.tiers[0].members, [100_000, 25_000]);
}

#[test]
fn a_tier_below_min_healthy_takes_nothing_while_another_can() {
    let few = |policy: &mut Policy| policy.min_healthy = 3;
    assert_eq!(percents(&[tier(2, 2), tier(10, 10)], few), [0, 100]);
    assert_eq!(percents(&[tier(3, 3), tier(10, 10)], few), [100, 0]);
    // The other one can take a part only, or nothing.
    assert_eq!(percents(&[tier(2, 2), tier(5, 10)], few), [30, 70]);
    assert_eq!(percents(&[tier(2, 2), tier(0, 10)], few), [100, 0]);
    assert_eq!(percents(&[tier(2, 2)], few), [100]);
}

#[test]
fn a_tier_that_is_held_returns_before_one_below_min_healthy_helps_out() {
    let policy = Policy {
        min_healthy: 3,
        ..Policy::default()
    };
    let mut holds = Holds::default();
    distribute(&[tier(2, 2), tier(0, 10)], &policy, &mut holds, Tick(0));
    let decided = distribute(&[tier(2, 2), tier(10, 10)], &policy, &mut holds, Tick(1));
    assert!(decided.tiers[1].held_until.is_some());
    let shares = decided.tiers.iter().map(|tier| percent(tier.share));
    assert_eq!(shares.collect::<Vec<_>>(), [0, 100]);
}

#[test]
fn without_fallback_later_tiers_are_never_used() {
    for healthy in [0, 2, 10] {
        let tiers = [tier(healthy, 10), tier(10, 10)];
        assert_eq!(
            percents(&tiers, |policy| policy.no_fallback = true),
            [100, 0]
        );
    }
}

#[test]
fn a_tier_panics_only_where_no_later_tier_can_take_its_share() {
    use Mode::{Doubtful, Hopeful, Usable};
    let rows: [(Health, u8, &[Mode]); 7] = [
        (&[(4, 10), (10, 10)], 50, &[Usable, Usable]),
        (&[(4, 10)], 50, &[Doubtful]),
        (&[(5, 10)], 50, &[Usable]),
        (&[(4, 10)], 30, &[Usable]),
        (&[(0, 10), (4, 10)], 50, &[Usable, Doubtful]),
        (&[(0, 10), (0, 10)], 50, &[Hopeful, Usable]),
        (&[(2, 10), (2, 10)], 50, &[Doubtful, Doubtful]),
    ];
    for (health, panic_below, expected) in rows {
        let tiers: Vec<_> = health
            .iter()
            .map(|&(healthy, all)| tier(healthy, all))
            .collect();
        let found = modes(&tiers, |policy| policy.panic_below = panic_below);
        assert_eq!(found, expected, "{health:?} {panic_below}");
    }
}

#[test]
fn panic_rescues_the_doubtful_and_leaves_the_dead_out_while_anything_is_healthy() {
    let mut near = member(100, 2, 10);
    near.doubtful = 5;
    let mut gone = member(100, 0, 10);
    gone.doubtful = 0;
    let few = decide(&[vec![near, gone]], |policy| policy.spill_factor = 1000);
    assert_eq!(few.tiers[0].mode, Mode::Doubtful);
    assert_eq!(few.tiers[0].members, [50_000, 0], "half of it");
    near.healthy = 0;
    let none = decide(&[vec![near, gone]], |_| {});
    assert_eq!(none.tiers[0].mode, Mode::Hopeful);
    assert_eq!(none.tiers[0].members, [100_000, 100_000]);
}

#[test]
fn with_panic_off_a_dead_service_takes_nothing() {
    assert_eq!(
        percents(&[tier(0, 10)], |policy| policy.panic_below = 0),
        [0]
    );
}

#[test]
fn endpoints_that_are_not_ready_are_no_hope_in_panic() {
    let mut dead = member(100, 0, 10);
    (dead.doubtful, dead.hopeful) = (0, 0);
    assert_eq!(percents(&[vec![dead], tier(0, 10)], |_| {}), [0, 100]);
    assert_eq!(percents(&[vec![dead]], |_| {}), [0]);
}

#[test]
fn leaving_endpoints_serve_when_nothing_else_is_healthy() {
    let mut leaving = member(100, 0, 1);
    leaving.draining = 2;
    assert_eq!(modes(&[vec![leaving]], |_| {}), [Mode::Draining]);
    assert_eq!(percents(&[vec![leaving], tier(1, 1)], |_| {}), [0, 100]);
    assert_eq!(
        modes(&[tier(0, 3), vec![leaving]], |_| {}),
        [Mode::Usable, Mode::Draining]
    );
}

#[test]
fn a_suspect_member_takes_nothing_while_another_member_or_allowed_tier_can() {
    let mut suspect = member(100, 10, 10);
    suspect.suspect = true;
    let beside = decide(&[vec![suspect, member(100, 10, 10)], tier(10, 10)], |_| {});
    assert_eq!(beside.tiers[0].members, [0, 100_000]);
    assert_eq!(percent(beside.tiers[0].share), 70);
    assert_eq!(percents(&[vec![suspect], tier(10, 10)], |_| {}), [0, 100]);
    let strict = |policy: &mut Policy| policy.no_fallback = true;
    assert_eq!(percents(&[vec![suspect], tier(10, 10)], strict), [100, 0]);
    assert_eq!(decide(&[vec![suspect]], |_| {}).tiers[0].members, [100_000]);
    // In panic, too: what is left takes all.
    let few = decide(&[vec![suspect, member(100, 1, 10)]], |_| {});
    assert_eq!(few.tiers[0].mode, Mode::Doubtful);
    assert_eq!(few.tiers[0].members, [0, 100_000]);
}

/// Shares of the first tier, percent, as its health goes through `steps` of (second, healthy of 10).
fn over_time(steps: &[(u64, u32)], other: u32) -> Vec<u64> {
    let policy = Policy::default();
    let mut holds = Holds::default();
    steps
        .iter()
        .map(|&(second, healthy)| {
            let tiers = [tier(healthy, 10), tier(other, 10)];
            let now = Tick::from_start(Duration::from_secs(second));
            percent(distribute(&tiers, &policy, &mut holds, now).tiers[0].share)
        })
        .collect()
}

#[test]
fn a_tier_falls_at_once_and_rises_after_it_stayed_good() {
    let steps = [(0, 10), (1, 5), (2, 10), (11, 10), (12, 10)];
    assert_eq!(over_time(&steps, 10), [100, 70, 70, 70, 100]);
}

#[test]
fn a_flapping_tier_stays_low_and_endpoints_that_return_one_by_one_are_not_added_up() {
    let flapping = [
        (0, 10),
        (1, 0),
        (5, 10),
        (9, 0),
        (14, 10),
        (20, 10),
        (23, 10),
        (24, 10),
    ];
    assert_eq!(over_time(&flapping, 10), [100, 0, 0, 0, 0, 0, 0, 100]);
    let staircase = [
        (0, 0),
        (1, 2),
        (2, 4),
        (3, 10),
        (10, 10),
        (11, 10),
        (12, 10),
        (13, 10),
    ];
    assert_eq!(over_time(&staircase, 10), [0, 0, 0, 0, 0, 28, 56, 100]);
}

#[test]
fn a_held_tier_returns_early_when_the_others_cannot_take_its_share() {
    assert_eq!(over_time(&[(0, 10), (1, 0), (2, 10)], 0), [100, 100, 100]);
    assert_eq!(over_time(&[(0, 10), (1, 0), (2, 10)], 5), [100, 0, 30]);
}

#[test]
fn a_return_is_announced_so_that_somebody_decides_again() {
    let policy = Policy::default();
    let mut holds = Holds::default();
    let at = |second| Tick::from_start(Duration::from_secs(second));
    let decide = |healthy, second, holds: &mut Holds| {
        distribute(
            &[tier(healthy, 10), tier(10, 10)],
            &policy,
            holds,
            at(second),
        )
    };
    assert_eq!(decide(10, 0, &mut holds).again, None);
    assert_eq!(decide(0, 1, &mut holds).again, None);
    let held = decide(10, 2, &mut holds);
    assert_eq!(held.again, Some(at(12)));
    assert_eq!(held.tiers[0].held_until, Some(at(12)));
    assert_eq!(decide(10, 12, &mut holds).again, None);
}

prop_compose! {
    fn counts()(
        weight in prop_oneof![Just(0u32), 1..=1_000_000u32],
        all in 0u32..20,
        healthy in 0u32..20,
        unready in 0u32..20,
        dead in 0u32..20,
        draining in 0u32..3,
        suspect in prop::bool::weighted(0.2),
        ramp in 102..=RAMP_FULL,
    ) -> Counts {
        let healthy = healthy.min(all);
        let hopeful = all.saturating_sub(unready).max(healthy);
        let doubtful = hopeful.saturating_sub(dead).max(healthy);
        Counts { weight, all, healthy, doubtful, hopeful, draining, ramp, suspect }
    }
}

prop_compose! {
    fn policies()(
        spill_factor in 1000u32..3000,
        min_healthy in 0u32..5,
        no_fallback: bool,
        panic_below in 0u8..=100,
    ) -> Policy {
        Policy { spill_factor, min_healthy, no_fallback, panic_below, ..Policy::default() }
    }
}

proptest! {
    #[test]
    fn shares_sum_to_one_or_to_none_and_go_only_where_somebody_can(
        tiers in prop::collection::vec(prop::collection::vec(counts(), 0..5), 0..5),
        policy in policies(),
    ) {
        let decided = distribute(&tiers, &policy, &mut Holds::default(), Tick(0)).tiers;
        let total: u64 = decided.iter().map(|tier| tier.share).sum();
        prop_assert!(total == ONE || total == 0, "{total}");
        let used = if policy.no_fallback { 1 } else { tiers.len() };
        let someone_healthy = tiers
            .iter()
            .take(used)
            .flatten()
            .any(|member| member.weight > 0 && member.healthy > 0);
        prop_assert!(total == ONE || !someone_healthy);
        for (position, (members, tier)) in tiers.iter().zip(&decided).enumerate() {
            if tier.share > 0 {
                prop_assert!(position < used);
                prop_assert!(tier.members.iter().any(|&weight| weight > 0));
            }
            for (member, &weight) in members.iter().zip(&tier.members) {
                let able = match tier.mode {
                    Mode::Usable => member.healthy,
                    Mode::Doubtful => member.doubtful,
                    Mode::Hopeful => member.hopeful,
                    Mode::Draining => member.draining,
                };
                prop_assert!(weight == 0 || able > 0 && member.weight > 0);
                prop_assert!(weight <= member.weight);
                // While somebody is healthy, panic is for the doubtful: never for the dead.
                let last_resort = matches!(tier.mode, Mode::Draining | Mode::Hopeful);
                prop_assert!(!last_resort || !someone_healthy);
            }
        }
    }

    #[test]
    fn a_tier_never_takes_less_because_another_one_got_worse(
        mut health in prop::collection::vec(0u32..=10, 2..5),
        victim in 0usize..5,
    ) {
        let victim = victim % health.len();
        let tiers = |health: &[u32]| health.iter().map(|&healthy| tier(healthy, 10)).collect::<Vec<_>>();
        let before = decide(&tiers(&health), |_| {});
        health[victim] = health[victim].saturating_sub(3);
        prop_assume!(health.iter().any(|&healthy| healthy > 0));
        let after = decide(&tiers(&health), |_| {});
        for (position, (before, after)) in before.tiers.iter().zip(&after.tiers).enumerate() {
            // A unit of rounding where shares are spread.
            prop_assert!(position == victim || after.share + 4 >= before.share, "{position}");
        }
    }

    #[test]
    fn what_is_held_back_never_exceeds_what_the_tier_could_take_in_the_last_ten_seconds(
        steps in prop::collection::vec((0u64..4_000, 0u32..=10), 1..60),
    ) {
        let policy = Policy::default();
        let mut holds = Holds::default();
        let mut now = Tick(0);
        let mut past: Vec<(Tick, u32)> = Vec::new();
        for (millis, healthy) in steps {
            now = now.after(Duration::from_millis(millis));
            past.push((now, healthy));
            let tiers = [tier(healthy, 10), tier(10, 10)];
            let found = distribute(&tiers, &policy, &mut holds, now).tiers[0].share;
            // The shadow model: the least health at any moment of the last ten seconds.
            let recent = past.iter().enumerate().filter(|&(index, _)| {
                past.get(index + 1).is_none_or(|&(until, _)| now.since(until) < policy.return_after)
            });
            let least = recent.map(|(_, &(_, healthy))| healthy).min().unwrap();
            let expected = by_health(least, 10, policy.spill_factor);
            prop_assert_eq!(found, expected);
        }
    }
}
