use std::time::Duration;

use fairlead_config::policy::{HealthCheck, Probe};

use super::*;
use crate::{
    directory::Signal,
    health::{
        Report,
        probe::{Answer, ProbeError},
    },
    registry::{Flags, Outcome},
    testing::services::{Fixture, service},
};

fn probed() -> Fixture {
    let mut builder = service("a:4");
    let probe = Probe::Tcp {
        send: [].into(),
        expect: [].into(),
    };
    builder.service.policy.health_check = Some(HealthCheck::new(probe));
    builder.build()
}

/// Through JSON, as it travels.
fn pass_on(from: &Fixture, to: &mut Fixture) {
    let learned: Vec<Learned> = from.directory.learned(from.now).collect();
    let text = serde_json::to_string(&learned).unwrap();
    let learned: Vec<Learned> = serde_json::from_str(&text).unwrap();
    for learned in &learned {
        to.directory.learn(learned, to.now);
    }
}

fn strike(fixture: &mut Fixture, index: usize) {
    let endpoint = fixture.endpoints()[index].clone();
    let report = |strikes| {
        Signal::Report(Report {
            endpoint: endpoint.clone(),
            outcome: Outcome::Refused,
            strikes,
        })
    };
    let now = fixture.now;
    fixture
        .directory
        .observe([report(1), report(2), report(3)], now);
}

#[test]
fn ejections_connect_times_and_slow_starts_go_on_in_the_successor() {
    let mut old = service("a:4").build();
    let now = old.now;
    strike(&mut old, 0);
    old.endpoints()[1].record(Outcome::Connected(Duration::from_millis(7)), now);
    let id = old.state().id;
    let ramping = old.endpoints()[2].clone();
    old.directory.ramp(id, &ramping, now);
    old.now = now + Duration::from_millis(400);

    let mut new = service("a:4").build();
    pass_on(&old, &mut new);
    let endpoints = new.endpoints();
    assert!(endpoints[0].flags().has(Flags::EJECTED));
    assert_eq!(endpoints[1].connect_time(), Some(Duration::from_millis(7)));
    let slow_start = Duration::from_secs(10);
    assert_eq!(
        endpoints[2].ramp(slow_start, new.now),
        ramping.ramp(slow_start, old.now)
    );
    assert!(endpoints[3].is_usable());

    // The ejection was for a second and a jitter, of which 400 ms have passed.
    new.now = new.now + Duration::from_millis(500);
    new.directory.advance(new.now);
    assert!(!endpoints[0].flags().has(Flags::TRIAL));
    new.now = new.now + Duration::from_millis(400);
    new.directory.advance(new.now);
    assert!(endpoints[0].flags().has(Flags::TRIAL));
}

#[test]
fn what_probes_said_counts_from_the_first_session_on() {
    let mut old = probed();
    for _ in 0..2 {
        old.now = old.now + Duration::from_secs(2);
        for job in old.directory.take_probes(old.now) {
            let good = job.endpoint.addr.ip() != old.endpoints()[0].addr.ip();
            let result = if good {
                Ok(None)
            } else {
                Err(ProbeError::Refused)
            };
            let answer = Signal::Answer(Answer { job, result });
            let now = old.now;
            old.directory.observe([answer], now);
        }
    }
    assert!(old.endpoints()[0].flags().has(Flags::PROBE_DOWN));
    let mut new = probed();
    assert_eq!(new.directory.unverified(), 4);
    pass_on(&old, &mut new);
    assert_eq!(new.directory.unverified(), 0, "no first round is needed");
    assert!(new.endpoints()[0].flags().has(Flags::PROBE_DOWN));
    assert!(new.endpoints()[0].flags().has(Flags::DEAD_HERE));
    assert!(new.endpoints()[1].is_usable());
}

#[test]
fn a_tier_that_is_held_back_stays_so_for_the_rest_of_its_time() {
    let mut old = service("a:2 | b:2").build();
    for index in [0, 1] {
        let endpoint = old.endpoints()[index].clone();
        endpoint.change_flags(Flags::PROBE_DOWN, Flags::NONE);
    }
    let name = old.name.clone();
    old.apply(vec![]);
    old.directory.apply(
        &old.snapshot,
        std::slice::from_ref(&name),
        &|_| Vec::new(),
        old.now,
    );
    old.now = old.now + Duration::from_secs(60);
    for index in [0, 1] {
        let endpoint = old.endpoints()[index].clone();
        endpoint.change_flags(Flags::NONE, Flags::PROBE_DOWN);
    }
    old.directory
        .apply(&old.snapshot, &[name], &|_| Vec::new(), old.now);
    let held = old.view().tiers[0].held_until.expect("it is held back");
    old.now = old.now + Duration::from_secs(4);

    let mut new = service("a:2 | b:2").build();
    new.now = new.now + Duration::from_secs(600);
    pass_on(&old, &mut new);
    let left = held - old.now;
    let held = new.view().tiers[0].held_until.expect("it still is");
    assert_eq!(held - new.now, left);
}

#[test]
fn hedging_knows_from_the_first_session_on_how_far_a_member_is() {
    let old = service("a:2 b:2").build();
    let far = old.endpoints()[0].member.clone();
    (0..30).for_each(|_| far.record_time(Duration::from_millis(80)));
    let mut new = service("a:2 b:2").build();
    pass_on(&old, &mut new);
    let endpoints = new.endpoints();
    let p95 = |index: usize| endpoints[index].member.times()?.p95();
    assert!(p95(0).is_some());
    assert_eq!(p95(0), far.times().unwrap().p95());
    assert_eq!(p95(2), None, "nobody connected there");
}

#[test]
fn what_is_not_there_any_more_is_ignored() {
    let mut old = service("a:4").build();
    strike(&mut old, 3);
    let mut new = service("a:2").build();
    pass_on(&old, &mut new);
    assert!(new.endpoints().iter().all(|endpoint| endpoint.is_usable()));
    let unknown = Learned {
        service: "other/service:http".to_owned(),
        holds: Vec::new(),
        members: Vec::new(),
        endpoints: Vec::new(),
    };
    new.directory.learn(&unknown, new.now);
}
