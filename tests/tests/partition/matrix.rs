//! The table of signals, case by case: control link, object state, probes.

use std::time::Duration;

use crate::fleet::Fleet;

/// Sessions of proxy 0 that go to cluster 1 within this time.
fn taken(fleet: &mut Fleet, proxy: usize, time: Duration) -> usize {
    let before = fleet.picks(proxy, 1);
    fleet.run_for(time);
    fleet.picks(proxy, 1) - before
}

const MINUTE: Duration = Duration::from_secs(60);
const DEATH: Duration = Duration::from_secs(3);

#[test]
fn a_member_whose_control_link_is_lost_keeps_serving_while_probes_are_good() {
    let mut fleet = Fleet::calm(1);
    fleet.clusters[1].link = false;
    fleet.run_for(10 * MINUTE);
    assert!(taken(&mut fleet, 0, MINUTE) > 100);
    fleet.check_converged();
}

#[test]
fn a_dead_member_gets_its_last_session_within_three_seconds() {
    let mut fleet = Fleet::calm(2);
    fleet.live(1, false);
    fleet.run_for(DEATH);
    assert_eq!(taken(&mut fleet, 0, MINUTE), 0);
    fleet.live(1, true);
    fleet.run_for(MINUTE);
    assert!(taken(&mut fleet, 0, MINUTE) > 100);
}

#[test]
fn a_member_that_one_proxy_cannot_reach_is_withdrawn_there_only() {
    let mut fleet = Fleet::calm(3);
    fleet.clusters[1].reachable[0] = false;
    fleet.run_for(DEATH);
    assert_eq!(taken(&mut fleet, 0, MINUTE), 0);
    assert!(taken(&mut fleet, 1, MINUTE) > 100);
}

#[test]
fn a_hub_that_is_gone_for_long_takes_nothing_away() {
    let mut fleet = Fleet::calm(4);
    for replica in 0..2 {
        fleet.crash_replica(replica, false);
    }
    fleet.run_for(10 * MINUTE);
    assert!(taken(&mut fleet, 0, MINUTE) > 100);
    fleet.heal();
    fleet.run_for(MINUTE);
    fleet.check_converged();
}

#[test]
fn members_that_fall_silent_together_lose_nothing() {
    let mut fleet = Fleet::calm(5);
    for cluster in 0..3 {
        fleet.clusters[cluster].link = false;
    }
    fleet.run_for(5 * MINUTE);
    assert!(taken(&mut fleet, 0, MINUTE) > 100);
    fleet.heal();
    fleet.run_for(MINUTE);
    fleet.check_converged();
}

#[test]
fn a_hub_cut_off_from_its_store_serves_what_it_knows() {
    let mut fleet = Fleet::calm(6);
    fleet.api = vec![false, false];
    fleet.run_for(5 * MINUTE);
    fleet.check_converged();
    fleet.heal();
    fleet.run_for(MINUTE);
    fleet.check_converged();
}

#[test]
fn a_restored_store_takes_nothing_back() {
    for (seed, raised, anew) in [
        (7, false, false),
        (8, false, true),
        (9, true, false),
        (10, true, true),
    ] {
        let mut fleet = Fleet::calm(seed);
        fleet.back_up();
        fleet.run_for(MINUTE);
        fleet.grow(1);
        fleet.run_for(Duration::from_secs(40));
        fleet.check_converged();
        fleet.restore(raised);
        if anew {
            for replica in 0..2 {
                fleet.crash_replica(replica, false);
                fleet.crash_replica(replica, true);
            }
            // What is said now is newer than all that proxies know.
            fleet.make_claim(0, Some(500));
        }
        fleet.run_for(2 * MINUTE);
        fleet.check_converged();
    }
}
