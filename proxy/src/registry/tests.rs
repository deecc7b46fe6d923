use std::{mem::size_of, time::Duration};

use fairlead_config::{endpoint::ObjectState, snapshot::Change};

use super::*;
use crate::testing::services::service;

// A million endpoints have to fit beside their rows: 10,000 services with 100 each in 400 MB.
#[test]
fn an_endpoint_costs_at_most_104_bytes_with_its_counts() {
    let arc_counts = 2 * size_of::<usize>();
    assert!(
        size_of::<EndpointState>() + arc_counts <= 104,
        "{}",
        size_of::<EndpointState>()
    );
}

#[test]
fn live_sessions_are_counted_while_their_guard_lives() {
    let endpoint = service("a:1").build().endpoints()[0].clone();
    let first = endpoint.begin();
    let second = endpoint.try_begin(2).unwrap();
    assert!(endpoint.try_begin(2).is_none());
    assert_eq!(endpoint.inflight(), 2);
    drop((first, second));
    assert_eq!(endpoint.inflight(), 0);
}

#[test]
fn strikes_count_in_a_row() {
    let endpoint = service("a:1").build().endpoints()[0].clone();
    let connected = Outcome::Connected(Duration::from_millis(1));
    let rows = [
        (Outcome::Refused, 1),
        (Outcome::TimedOut, 2),
        (connected, 0),
        (Outcome::Unreachable, 1),
        (Outcome::Ours, 0),
        (Outcome::Refused, 2),
        (Outcome::Served, 0),
        // An answered connect says nothing about the reset that may follow.
        (Outcome::ResetBeforeData, 1),
        (connected, 0),
        (Outcome::ResetBeforeData, 2),
        (connected, 0),
        (Outcome::ResetBeforeData, 3),
    ];
    for (step, (outcome, strikes)) in rows.into_iter().enumerate() {
        assert_eq!(endpoint.record(outcome, Tick(0)), strikes, "step {step}");
    }
}

#[test]
fn only_one_taker_gets_the_trial() {
    let endpoint = service("a:1").build().endpoints()[0].clone();
    endpoint.change_flags(Flags::EJECTED.with(Flags::TRIAL), Flags::NONE);
    assert!(endpoint.flags().is_on_trial());
    assert!(endpoint.take_trial());
    assert!(!endpoint.take_trial());
    assert!(!endpoint.is_usable());
}

#[test]
fn a_slow_start_grows_from_a_tenth_to_all() {
    let endpoint = service("a:1").build().endpoints()[0].clone();
    let start = Tick::from_start(Duration::from_secs(100));
    let ten = Duration::from_secs(10);
    assert_eq!(endpoint.ramp(ten, start), RAMP_FULL);
    endpoint.set_ramp(Some(start));
    let shares =
        [0, 5, 10, 3600].map(|second| endpoint.ramp(ten, start.after(Duration::from_secs(second))));
    assert_eq!(
        shares,
        [RAMP_FULL / 10, RAMP_FULL / 2, RAMP_FULL, RAMP_FULL]
    );
    assert_eq!(endpoint.ramp(Duration::ZERO, start), RAMP_FULL);
}

#[test]
fn an_endpoint_keeps_its_state_across_snapshots() {
    let mut fixture = service("a:2 b:1").build();
    let before = fixture.endpoints();
    fixture.change(1, |endpoint| endpoint.weight = 7);
    fixture.change(0, |endpoint| endpoint.state = ObjectState::Draining);
    let after = fixture.endpoints();
    for (old, new) in before.iter().zip(&after) {
        assert!(Arc::ptr_eq(old, new));
    }
    assert!(after[0].flags().is_draining());
}

#[test]
fn a_removed_endpoint_that_comes_back_while_held_is_the_same_one() {
    let mut fixture = service("a:2").build();
    let held = fixture.endpoints()[1].clone();
    let session = held.begin();
    let name = fixture.name.clone();
    let rows: Vec<_> = fixture.snapshot.endpoints[&name]
        .values()
        .map(|row| (**row).clone())
        .collect();
    fixture.apply(vec![Change::Endpoints(name.clone(), rows[..1].to_vec())]);
    assert!(held.flags().has(Flags::REMOVED));
    fixture.apply(vec![Change::Endpoints(name.clone(), rows.clone())]);
    assert!(Arc::ptr_eq(&fixture.endpoints()[1], &held));
    assert!(held.is_usable());
    drop(session);

    fixture.apply(vec![Change::Endpoints(name, rows[..1].to_vec())]);
    let number = held.id;
    drop(held);
    fixture.directory.take_changes();
    assert_eq!(fixture.directory.registry().sweep(), [number]);
    assert_eq!(fixture.directory.registry().leaving(), 0);
}

#[test]
fn a_removed_service_is_freed_with_its_view() {
    let mut fixture = service("a:2").build();
    let service = Arc::downgrade(fixture.state());
    let name = fixture.name.clone();
    fixture.apply(vec![Change::RemoveService(name)]);
    fixture.directory.take_changes();
    fixture
        .directory
        .advance(fixture.now.after(Duration::from_secs(1)));
    assert_eq!(service.strong_count(), 0);
}
