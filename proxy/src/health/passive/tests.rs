use super::*;
use crate::testing::services::service;

/// Ejections of a service with `count` endpoints, driven by hand.
struct Harness {
    endpoints: Vec<Arc<EndpointState>>,
    ejections: Ejections,
    max_ejected: u8,
    now: Tick,
}

impl Harness {
    fn of(count: usize) -> Self {
        Self {
            endpoints: service(&format!("a:{count}")).build().endpoints(),
            ejections: Ejections::default(),
            max_ejected: 50,
            now: Tick::from_start(Duration::from_secs(1000)),
        }
    }

    fn census(&self) -> Census {
        Census {
            all: self.endpoints.len() as u32,
            usable: self
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.is_usable())
                .count() as u32,
            max_ejected: self.max_ejected,
        }
    }

    fn strike(&mut self, index: usize, outcome: Outcome) -> Option<Passed> {
        let endpoint = self.endpoints[index].clone();
        let in_a_row = endpoint.record(outcome, self.now);
        let census = self.census();
        self.ejections
            .strike(&endpoint, (outcome, in_a_row), || census, self.now)
    }

    fn eject(&mut self, index: usize) -> bool {
        (0..3).any(|_| self.strike(index, Outcome::Refused).is_some())
    }

    /// Moves to the next deadline; the answer is how long that took.
    fn pass(&mut self) -> Duration {
        let next = self.ejections.next_deadline().unwrap();
        let took = next.since(self.now);
        self.now = next;
        self.ejections.advance(self.now);
        took
    }

    fn out(&self) -> Vec<usize> {
        let out = |index: &usize| self.endpoints[*index].flags().has(Flags::EJECTED);
        (0..self.endpoints.len()).filter(out).collect()
    }
}

#[test]
fn three_strikes_in_a_row_eject_and_two_do_not() {
    let mut harness = Harness::of(4);
    assert_eq!(harness.strike(0, Outcome::Refused), None);
    assert_eq!(harness.strike(0, Outcome::TimedOut), None);
    harness.endpoints[0].record(Outcome::Connected(Duration::ZERO), harness.now);
    assert_eq!(harness.strike(0, Outcome::Refused), None);
    assert_eq!(harness.strike(0, Outcome::Refused), None);
    let ejected = Passed::Ejected(harness.endpoints[0].clone());
    assert_eq!(harness.strike(0, Outcome::Refused), Some(ejected));
    assert_eq!(harness.out(), [0]);
}

#[test]
fn the_share_of_ejections_is_capped_rounded_up() {
    for (count, percent, expected) in [
        (4, 50, 2),
        (5, 50, 3),
        (3, 10, 1),
        (10, 0, 0),
        (3, 100, 2),
        (1, 100, 0),
    ] {
        let mut harness = Harness::of(count);
        harness.max_ejected = percent;
        for index in 0..count {
            harness.eject(index);
        }
        assert_eq!(harness.out().len(), expected, "{count} at {percent} %");
    }
}

#[test]
fn the_last_usable_endpoint_is_never_ejected_whatever_took_the_others() {
    let mut harness = Harness::of(3);
    harness.max_ejected = 100;
    harness.endpoints[0].change_flags(Flags::PROBE_DOWN, Flags::NONE);
    harness.endpoints[1].change_flags(Flags::NOT_READY, Flags::NONE);
    assert!(!harness.eject(2));
    assert_eq!(harness.ejections.prevented(), 1);
}

#[test]
fn an_ejection_lasts_twice_as_long_each_time_up_to_a_minute_with_a_quarter_of_jitter() {
    let mut harness = Harness::of(4);
    assert!(harness.eject(0));
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let took = harness.pass().as_secs_f64();
        let least = f64::from(seconds);
        assert!(
            took >= least && took <= least * 1.25,
            "{took} for {seconds}"
        );
        // Its trial fails.
        assert!(harness.endpoints[0].take_trial());
        assert!(harness.strike(0, Outcome::Refused).is_some());
    }
}

#[test]
fn those_that_went_out_together_return_at_different_times() {
    let mut harness = Harness::of(64);
    for index in 0..32 {
        assert!(harness.eject(index));
    }
    let began = harness.now;
    let mut returns = Vec::new();
    while harness.ejections.out() > 0 {
        harness.now = harness.ejections.next_deadline().unwrap();
        for passed in harness.ejections.advance(harness.now) {
            let Passed::OnTrial(endpoint) = passed else {
                panic!("{passed:?}")
            };
            let after = harness.now.since(began).as_secs_f64();
            returns.push((after * 1000.0) as u32);
            assert!(endpoint.take_trial());
            harness.ejections.good(&endpoint, true, harness.now);
        }
    }
    assert_eq!(returns.len(), 32);
    // Over all of the quarter second, and no crowd in any part of it.
    for part in 0..5 {
        let from = 1000 + part * 50;
        let count = returns
            .iter()
            .filter(|at| (from..from + 50).contains(*at))
            .count();
        assert!((1..=16).contains(&count), "{count} from {from} ms on");
    }
}

#[test]
fn one_connection_tries_and_decides() {
    let mut harness = Harness::of(4);
    harness.eject(0);
    harness.pass();
    let endpoint = harness.endpoints[0].clone();
    assert!(endpoint.flags().is_on_trial());
    // What fails before the trial was taken began before the ejection.
    assert_eq!(harness.strike(0, Outcome::TimedOut), None);
    assert!(endpoint.take_trial());
    assert!(!endpoint.take_trial());
    let returned = harness.ejections.good(&endpoint, true, harness.now);
    assert_eq!(returned, Some(Passed::Returned(endpoint.clone())));
    assert!(endpoint.is_usable());
    assert_eq!(harness.ejections.out(), 0);
}

#[test]
fn a_trial_that_nobody_reports_on_is_given_again() {
    let mut harness = Harness::of(4);
    harness.eject(0);
    harness.pass();
    assert!(harness.endpoints[0].take_trial());
    assert_eq!(harness.pass(), Duration::from_secs(10));
    assert!(harness.endpoints[0].take_trial());
}

#[test]
fn resets_before_data_are_ended_by_data_not_by_a_connect() {
    let mut harness = Harness::of(4);
    for _ in 0..3 {
        harness.endpoints[0].record(Outcome::Connected(Duration::ZERO), harness.now);
        harness.strike(0, Outcome::ResetBeforeData);
    }
    assert_eq!(harness.out(), [0]);
    let endpoint = harness.endpoints[0].clone();
    assert_eq!(harness.ejections.good(&endpoint, true, harness.now), None);
    assert!(
        harness
            .ejections
            .good(&endpoint, false, harness.now)
            .is_some()
    );
}

#[test]
fn a_quiet_minute_makes_it_start_from_one_second_again() {
    let mut harness = Harness::of(4);
    harness.eject(0);
    let endpoint = harness.endpoints[0].clone();
    harness.ejections.good(&endpoint, false, harness.now);
    assert_eq!(harness.pass(), Duration::from_secs(60));
    assert_eq!(harness.ejections.next_deadline(), None);
    harness.eject(0);
    assert!(harness.pass() < Duration::from_secs(2));
}

#[test]
fn ejections_end_early_when_others_leave() {
    let mut harness = Harness::of(4);
    harness.eject(0);
    harness.now = harness.now.after(Duration::from_millis(10));
    harness.eject(1);
    // Two of four are out; with two endpoints left only one may be, and the oldest returns first.
    let census = Census {
        all: 2,
        usable: 0,
        max_ejected: 50,
    };
    let now = harness.now;
    let passed = harness.ejections.enforce(census, now, |_| true);
    assert_eq!(passed, [Passed::Returned(harness.endpoints[0].clone())]);
    assert_eq!(harness.out(), [1]);
}

#[test]
fn an_endpoint_that_fails_otherwise_is_no_help_when_nothing_is_usable() {
    let mut harness = Harness::of(4);
    harness.eject(0);
    harness.now = harness.now.after(Duration::from_millis(10));
    harness.eject(1);
    let broken = harness.endpoints[0].clone();
    broken.change_flags(Flags::PROBE_DOWN, Flags::NONE);
    let census = Census {
        usable: 0,
        ..harness.census()
    };
    let now = harness.now;
    let passed = harness
        .ejections
        .enforce(census, now, |endpoint| *endpoint != *broken);
    assert_eq!(passed, [Passed::Returned(harness.endpoints[1].clone())]);
}
