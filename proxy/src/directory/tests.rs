use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fairlead_config::{
    endpoint::{Endpoint, ObjectState},
    frontend::Protocol,
    policy::{HealthCheck, Policy, Probe},
    service::MemberWeight,
    snapshot,
};

use super::*;
use crate::{
    balancer::{FlowKey, Tried, draw::Draw, pool::Mode},
    health::{
        note,
        probe::ProbeError,
        verdict::{Cause, Reason},
    },
    registry::RAMP_FULL,
    testing::services::{Fixture, endpoint, service},
};

fn checked(policy: &mut Policy) {
    policy.health_check = Some(HealthCheck::new(Probe::Tcp {
        send: [].into(),
        expect: [].into(),
    }));
}

impl Fixture {
    fn outcome(&mut self, index: usize, outcome: Outcome) {
        let endpoint = self.endpoints()[index].clone();
        let report = note(&endpoint, outcome, self.now);
        self.directory.observe(report.map(Signal::Report), self.now);
    }

    fn refuse_thrice(&mut self, index: usize) {
        (0..3).for_each(|_| self.outcome(index, Outcome::Refused));
    }

    /// Moves time on, deadline by deadline; probes are answered by `answer`.
    fn pass(
        &mut self,
        time: Duration,
        answer: impl Fn(&EndpointState) -> Result<Option<Duration>, ProbeError>,
    ) {
        let end = self.now.after(time);
        while let Some(next) = self
            .directory
            .next_deadline(self.now)
            .filter(|&next| next <= end)
        {
            self.now = next.max(self.now);
            self.directory.advance(self.now);
            let jobs = self.directory.take_probes(self.now);
            let answers = jobs.into_iter().map(|job| {
                let result = answer(&job.endpoint);
                Signal::Answer(Answer { job, result })
            });
            self.directory
                .observe(answers.collect::<Vec<_>>(), self.now);
        }
        self.now = end;
        self.directory.advance(self.now);
    }

    fn kinds(&mut self) -> Vec<ChangeKind> {
        let changes = self.directory.take_changes();
        changes.into_iter().map(|change| change.kind).collect()
    }

    fn rounded_shares(&self) -> Vec<i64> {
        self.shares()
            .values()
            .map(|share| (share * 100.0).round() as i64)
            .collect()
    }
}

#[test]
fn three_refusals_take_an_endpoint_out_at_once_and_a_good_trial_brings_it_back() {
    let mut fixture = service("a:3 | b:3").build();
    fixture.refuse_thrice(0);
    let ejected = ChangeKind::Unhealthy(Verdict::Down(Cause::Ejected));
    assert_eq!(fixture.kinds(), [ejected]);
    assert_eq!(fixture.rounded_shares(), [93, 7]);
    let report = fixture
        .directory
        .explain(&fixture.name, fixture.now)
        .unwrap();
    let reason = report.tiers[0].members[0].endpoints[0].reason;
    let expected = Reason::Ejected {
        outcome: Outcome::Refused,
        times: 1,
    };
    assert_eq!(reason, expected);

    fixture.pass(Duration::from_millis(1300), |_| Ok(None));
    let endpoint = fixture.endpoints()[0].clone();
    assert!(endpoint.flags().is_on_trial());
    assert!(endpoint.take_trial());
    fixture.outcome(0, Outcome::Connected(Duration::from_millis(1)));
    assert_eq!(fixture.kinds(), [ChangeKind::Usable]);
    assert!(endpoint.ramp(Duration::from_secs(10), fixture.now) < RAMP_FULL);
    fixture.pass(Duration::from_secs(11), |_| Ok(None));
    assert_eq!(
        endpoint.ramp(Duration::from_secs(10), fixture.now),
        RAMP_FULL
    );
    assert_eq!(fixture.rounded_shares(), [100, 0]);
}

#[test]
fn a_good_probe_ends_an_ejection() {
    let mut fixture = service("a:3").policy(checked).build();
    fixture.pass(Duration::from_secs(1), |_| Ok(None));
    fixture.refuse_thrice(0);
    assert!(!fixture.endpoints()[0].is_usable());
    fixture.pass(Duration::from_millis(1200), |_| Ok(None));
    assert!(fixture.endpoints()[0].is_usable());
}

#[test]
fn failed_probes_withdraw_within_seconds_and_are_not_capped() {
    let mut fixture = service("a:2 | b:1").policy(checked).build();
    fixture.pass(Duration::from_secs(2), |_| Ok(None));
    assert_eq!(fixture.directory.unverified(), 0);
    let down = |endpoint: &EndpointState| match endpoint.member.name.as_str() {
        "a" => Err(ProbeError::TimedOut),
        _ => Ok(None),
    };
    fixture.pass(Duration::from_millis(2500), down);
    assert_eq!(fixture.rounded_shares(), [0, 100]);
    let report = fixture
        .directory
        .explain(&fixture.name, fixture.now)
        .unwrap();
    let endpoint = &report.tiers[0].members[0].endpoints[0];
    assert_eq!(endpoint.reason, Reason::Probe(ProbeError::TimedOut));
    assert!(endpoint.since.unwrap() < Duration::from_millis(2500));

    // Good again: the tier takes back only after `returnAfter`.
    fixture.pass(Duration::from_secs(5), |_| Ok(None));
    assert!(fixture.endpoints()[0].is_usable());
    assert_eq!(fixture.rounded_shares(), [0, 100]);
    fixture.pass(Duration::from_secs(10), |_| Ok(None));
    assert_eq!(fixture.rounded_shares(), [100, 0]);
}

#[test]
fn in_panic_those_who_answer_badly_are_tried_and_those_who_do_not_answer_are_not() {
    let mut fixture = service("a:4").policy(checked).build();
    let endpoints = fixture.endpoints();
    fixture.pass(Duration::from_secs(2), |_| Ok(None));
    let first = [
        Err(ProbeError::Status(503)),
        Err(ProbeError::TimedOut),
        Err(ProbeError::Refused),
        Ok(None),
    ];
    let answers = |answers: [Result<Option<Duration>, ProbeError>; 4]| {
        let endpoints = endpoints.clone();
        move |endpoint: &EndpointState| {
            let place = endpoints.iter().position(|known| **known == *endpoint);
            answers[place.unwrap()]
        }
    };
    let dead = || {
        let flags = endpoints.iter().map(|endpoint| endpoint.flags());
        flags
            .map(|flags| flags.has(Flags::DEAD_HERE))
            .collect::<Vec<_>>()
    };
    fixture.pass(Duration::from_secs(3), answers(first));
    assert_eq!(dead(), [false, false, true, false]);
    assert_eq!(fixture.view().tiers[0].mode, Mode::Doubtful);
    let candidates = |fixture: &Fixture| {
        let mut draw = Draw::new(1);
        let mut tried = Tried::new();
        let key = key(7);
        while let Ok(pick) = fixture.view().pick(&key, &mut draw, fixture.now, &tried) {
            tried.push(&pick);
        }
        endpoints
            .iter()
            .map(|endpoint| tried.contains(endpoint.id))
            .collect::<Vec<_>>()
    };
    assert_eq!(candidates(&fixture), [true, true, false, true]);

    // The reason can change while it is down, both ways.
    let then = [
        Err(ProbeError::Unanswered),
        Err(ProbeError::TimedOut),
        Err(ProbeError::Status(500)),
        Ok(None),
    ];
    fixture.pass(Duration::from_secs(2), answers(then));
    assert_eq!(dead(), [true, false, false, false]);
    assert_eq!(candidates(&fixture), [false, true, true, true]);

    // When nothing is healthy, all are tried.
    fixture.pass(
        Duration::from_secs(3),
        answers([Err(ProbeError::Refused); 4]),
    );
    assert_eq!(dead(), [true; 4]);
    assert_eq!(fixture.view().tiers[0].mode, Mode::Hopeful);
    assert_eq!(candidates(&fixture), [true; 4]);
}

#[test]
fn the_last_usable_endpoint_stays_and_ejections_end_when_probes_take_the_rest() {
    let mut fixture = service("a:3").policy(checked).build();
    fixture.pass(Duration::from_secs(2), |_| Ok(None));
    fixture.refuse_thrice(0);
    let ejected = fixture.endpoints()[0].clone();
    // From here on its own probes say nothing, and the others' fail.
    let answer = |endpoint: &EndpointState| {
        if *endpoint == *ejected {
            Err(ProbeError::Ours)
        } else {
            Err(ProbeError::Refused)
        }
    };
    fixture.pass(Duration::from_millis(900), answer);
    fixture.pass(Duration::from_secs(2), answer);
    let usable: Vec<bool> = fixture
        .endpoints()
        .iter()
        .map(|endpoint| endpoint.is_usable())
        .collect();
    assert_eq!(usable, [true, false, false]);
}

#[test]
fn a_member_with_most_connects_failing_is_suspect_and_tried_again() {
    let mut fixture = service("a:40 b:40").build();
    for index in 0..20 {
        fixture.outcome(index, Outcome::TimedOut);
    }
    assert_eq!(fixture.rounded_shares(), [0, 100]);
    let report = fixture
        .directory
        .explain(&fixture.name, fixture.now)
        .unwrap();
    assert!(report.tiers[0].members[0].suspect.is_some());
    fixture.pass(Duration::from_millis(2010), |_| Ok(None));
    assert_eq!(fixture.rounded_shares(), [50, 50]);
}

#[test]
fn a_suspect_member_without_alternative_keeps_its_sessions() {
    let mut fixture = service("a:40").build();
    for index in 0..25 {
        fixture.outcome(index, Outcome::TimedOut);
    }
    assert_eq!(fixture.rounded_shares(), [100]);
}

#[test]
fn a_planned_drain_spills_nothing() {
    let mut fixture = service("a:10 | b:1").build();
    for index in 0..9 {
        fixture.change(index, |endpoint| endpoint.state = ObjectState::Draining);
        assert_eq!(fixture.rounded_shares(), [100, 0]);
    }
    assert_eq!(fixture.kinds(), vec![ChangeKind::Draining; 9]);
    // The last one leaves too: nobody is left in the tier.
    fixture.change(9, |endpoint| endpoint.state = ObjectState::Draining);
    assert_eq!(fixture.rounded_shares(), [0, 100]);
}

#[test]
fn a_member_of_weight_0_drains_and_one_that_weighs_again_takes_back() {
    let mut fixture = service("a:2 b:2").build();
    let mut weigh = |points: u16| {
        let mut row = (*fixture.snapshot.services[&fixture.name]).clone();
        row.tiers[0].members[0].weight = MemberWeight::from_points(points).unwrap();
        fixture.apply(vec![snapshot::Change::Service(Box::new(row))]);
        (fixture.rounded_shares(), fixture.kinds())
    };
    assert_eq!(weigh(0), (vec![0, 100], vec![ChangeKind::Draining; 2]));
    assert_eq!(weigh(100), (vec![50, 50], vec![ChangeKind::Usable; 2]));
}

#[test]
fn removed_endpoints_are_told_and_new_ones_start_slowly_but_not_with_their_service() {
    let mut fixture = service("a:4").build();
    let name = fixture.name.clone();
    let slow_start = Duration::from_secs(10);
    let ramps = |fixture: &Fixture| {
        let endpoints = fixture.endpoints();
        endpoints
            .iter()
            .map(|endpoint| endpoint.ramp(slow_start, fixture.now))
            .collect::<Vec<_>>()
    };
    assert_eq!(ramps(&fixture), [RAMP_FULL; 4]);
    let rows: Vec<_> = fixture.snapshot.endpoints[&name]
        .values()
        .map(|row| (**row).clone())
        .collect();
    fixture.apply(vec![snapshot::Change::Endpoints(
        name.clone(),
        rows[..3].to_vec(),
    )]);
    assert_eq!(fixture.kinds(), [ChangeKind::Removed]);
    fixture.apply(vec![snapshot::Change::Endpoints(
        name.clone(),
        rows.clone(),
    )]);
    assert_eq!(ramps(&fixture), [RAMP_FULL; 4], "a service that starts");
    fixture.apply(vec![snapshot::Change::Endpoints(
        name.clone(),
        rows[..3].to_vec(),
    )]);
    fixture.pass(slow_start, |_| Ok(None));
    fixture.apply(vec![snapshot::Change::Endpoints(name, rows)]);
    assert_eq!(
        ramps(&fixture),
        [RAMP_FULL, RAMP_FULL, RAMP_FULL, RAMP_FULL / 10]
    );
}

#[test]
fn a_lost_member_is_withdrawn_only_where_nothing_probes() {
    let lost = MemberName::parse("a").unwrap();
    for (is_checked, expected) in [(false, [0, 100]), (true, [50, 50])] {
        let mut fixture = service("a:2 b:2")
            .policy(|policy| {
                if is_checked {
                    checked(policy)
                }
            })
            .build();
        let now = fixture.now;
        fixture
            .directory
            .observe([Signal::Link(lost.clone(), Link::Lost)], now);
        assert_eq!(fixture.rounded_shares(), expected);
        fixture
            .directory
            .observe([Signal::Link(lost.clone(), Link::Present)], now);
        fixture.pass(Duration::from_secs(10), |_| Ok(None));
        assert_eq!(fixture.rounded_shares(), [50, 50]);
    }
}

#[test]
fn a_check_that_is_taken_away_takes_its_verdicts_along() {
    let mut fixture = service("a:2 b:2").policy(checked).build();
    let down = |endpoint: &EndpointState| match endpoint.member.name.as_str() {
        "a" => Err(ProbeError::Refused),
        _ => Ok(None),
    };
    fixture.pass(Duration::from_secs(3), down);
    assert_eq!(fixture.rounded_shares(), [0, 100]);
    let mut row = (*fixture.snapshot.services[&fixture.name]).clone();
    row.policy.health_check = None;
    row.policy.slow_start = Duration::ZERO;
    fixture.apply(vec![snapshot::Change::Service(Box::new(row))]);
    assert_eq!(fixture.rounded_shares(), [50, 50]);
    assert_eq!(
        fixture
            .directory
            .take_probes(fixture.now.after(Duration::from_secs(9)))
            .len(),
        0
    );
}

#[test]
fn dns_names_stand_for_every_address_they_yield() {
    let mut fixture = service("a:1").build();
    let name = fixture.name.clone();
    let mut row = (**fixture.snapshot.endpoints[&name].values().next().unwrap()).clone();
    row.key.target = fairlead_config::endpoint::Target::Dns {
        host: "checkout.internal".into(),
        port: 8443,
    };
    let change = snapshot::Change::Endpoint(name.clone(), row);
    fixture.snapshot.apply(snapshot::Delta {
        changes: vec![change],
    });
    let resolve = |host: &str| {
        assert_eq!(host, "checkout.internal");
        vec!["10.9.9.1".parse().unwrap(), "10.9.9.2".parse().unwrap()]
    };
    fixture
        .directory
        .apply(&fixture.snapshot, &[name], &resolve, fixture.now);
    let addrs: Vec<_> = fixture
        .endpoints()
        .iter()
        .map(|endpoint| endpoint.addr.to_string())
        .collect();
    assert_eq!(addrs, ["10.0.0.0:80", "10.9.9.1:8443", "10.9.9.2:8443"]);
}

#[test]
fn no_pick_fails_while_endpoints_are_replaced_or_give_way_to_new_ones() {
    let mut fixture = service("a:1").build();
    let [one, two] = [0, 1].map(|index| endpoint(&fixture.view().members[0].state.name, 0, index));
    let gives_way = |row: &Endpoint| Endpoint {
        state: ObjectState::NotReady,
        ..row.clone()
    };
    let steps = [
        vec![gives_way(&one), two.clone()],
        vec![two],
        vec![one.clone()],
    ];
    let (state, ended) = (fixture.state().clone(), AtomicBool::new(false));
    let picked = std::thread::scope(|scope| {
        let picker = scope.spawn(|| {
            let mut draw = Draw::new(1);
            let mut picks = 0_u32;
            while !ended.load(Ordering::Relaxed) {
                let picked = state.pick(&key(picks), &mut draw, Tick::ZERO, &Tried::new());
                if let Err(none) = picked {
                    return Err((none, picks));
                }
                picks = picks.wrapping_add(1);
            }
            Ok(picks)
        });
        for step in steps.iter().cycle().take(6_000) {
            let change = snapshot::Change::Endpoints(fixture.name.clone(), step.clone());
            fixture.apply(vec![change]);
        }
        ended.store(true, Ordering::Relaxed);
        picker.join().unwrap()
    });
    assert!(picked.is_ok_and(|picks| picks > 0), "{picked:?}");
}

fn key(client: u32) -> FlowKey {
    FlowKey {
        client: ([192, 0, 2, 7], client as u16).into(),
        local: ([192, 0, 2, 1], 443).into(),
        protocol: Protocol::Tcp,
    }
}
