use std::collections::BTreeMap;

use fairlead_config::policy::Probe;

use super::*;
use crate::testing::services::{Fixture, service};

fn check(interval: Duration) -> HealthCheck {
    let mut check = HealthCheck::new(Probe::Tcp {
        send: [].into(),
        expect: [].into(),
    });
    check.interval = interval;
    check
}

/// A schedule over a fixture whose probes the test answers.
struct Harness {
    fixture: Fixture,
    schedule: Schedule,
    now: Tick,
}

impl Harness {
    fn of(text: &str, interval: Duration) -> Self {
        // The fixture's directory has a schedule of its own; this one is the test's.
        let fixture = service(text)
            .policy(|policy| policy.health_check = Some(check(interval)))
            .build();
        let now = fixture.now;
        let mut schedule = Schedule::new(1);
        let row = fixture.snapshot.services[&fixture.name].clone();
        for endpoint in fixture.endpoints() {
            schedule.add(&endpoint, &row, now);
        }
        Self {
            fixture,
            schedule,
            now,
        }
    }

    /// Answers every probe until `until`, by `answer`; the answer is the probes per endpoint.
    fn run(
        &mut self,
        until: Duration,
        mut answer: impl FnMut(&Job, Tick) -> Result<Option<Duration>, ProbeError>,
    ) -> BTreeMap<EndpointId, u32> {
        let end = self.now.after(until);
        let mut probes = BTreeMap::new();
        while let Some(next) = self.schedule.next_due(self.now).filter(|&next| next <= end) {
            self.now = next.max(self.now);
            for job in self.schedule.take_due(self.now) {
                *probes.entry(job.endpoint.id).or_default() += 1;
                let result = answer(&job, self.now);
                self.schedule.answered(&Answer { job, result }, self.now);
            }
        }
        self.now = end;
        probes
    }

    fn probed(&self, index: usize) -> Probed {
        self.schedule.probed(self.fixture.endpoints()[index].id)
    }
}

const GOOD: Result<Option<Duration>, ProbeError> = Ok(None);
const BAD: Result<Option<Duration>, ProbeError> = Err(ProbeError::Refused);

#[test]
fn the_first_round_comes_within_half_a_second_and_verifies() {
    let mut harness = Harness::of("a:50", Duration::from_secs(10));
    assert_eq!(harness.probed(0), Probed::Unverified);
    assert_eq!(harness.schedule.unverified(), 50);
    let probes = harness.run(Duration::from_millis(520), |_, _| GOOD);
    assert_eq!(probes.len(), 50);
    assert_eq!(harness.probed(0), Probed::Good);
    assert_eq!(harness.schedule.unverified(), 0);
}

#[test]
fn each_endpoint_is_probed_every_interval_with_a_tenth_of_jitter() {
    let mut harness = Harness::of("a:20", Duration::from_secs(1));
    let mut last = BTreeMap::new();
    harness.run(Duration::from_secs(30), |job, now| {
        if let Some(before) = last.insert(job.endpoint.id, now) {
            let gap = now.since(before).as_secs_f64();
            assert!((0.89..=1.13).contains(&gap), "{gap}");
        }
        GOOD
    });
    assert_eq!(last.len(), 20);
}

#[test]
fn verdicts_need_their_streaks() {
    let mut harness = Harness::of("a:1", Duration::from_secs(1));
    let row = harness.fixture.snapshot.services[&harness.fixture.name].clone();
    let endpoint = harness.fixture.endpoints()[0].clone();
    let mut answer = |result| {
        let job = Job {
            endpoint: endpoint.clone(),
            service: row.clone(),
            is_sample: false,
        };
        let now = harness.now;
        harness.schedule.answered(&Answer { job, result }, now);
        harness.schedule.probed(endpoint.id)
    };
    let rows = [
        (BAD, Probed::Unverified),
        (Err(ProbeError::Ours), Probed::Unverified),
        (GOOD, Probed::Good),
        (BAD, Probed::Good),
        (GOOD, Probed::Good),
        (BAD, Probed::Good),
        (Err(ProbeError::Ours), Probed::Good),
        (BAD, Probed::Bad),
        (GOOD, Probed::Bad),
        (BAD, Probed::Bad),
        (GOOD, Probed::Bad),
        (GOOD, Probed::Good),
    ];
    for (step, (result, expected)) in rows.into_iter().enumerate() {
        assert_eq!(answer(result), expected, "step {step}");
    }
}

#[test]
fn a_failing_endpoint_is_asked_again_soon() {
    let mut harness = Harness::of("a:1", Duration::from_secs(4));
    harness.run(Duration::from_secs(1), |_, _| GOOD);
    let mut times = Vec::new();
    harness.run(Duration::from_secs(12), |_, now| {
        times.push(now);
        BAD
    });
    let first_gap = times[1].since(times[0]);
    assert!(first_gap < Duration::from_millis(1150), "{first_gap:?}");
    assert_eq!(harness.probed(0), Probed::Bad);
    assert!(times[2].since(times[1]) > Duration::from_secs(3));
}

#[test]
fn the_budget_holds_and_stretches_every_interval_alike() {
    let mut harness = Harness::of("a:2500 b:2500", Duration::from_secs(1));
    let reach = harness.schedule.reach();
    assert!((reach.demand - 5000.0).abs() < 1.0, "{reach:?}");
    assert!(reach.stretch > 2.4 && reach.stretch < 2.6, "{reach:?}");
    harness.run(Duration::from_secs(3), |_, _| GOOD);
    let probes = harness.run(Duration::from_secs(20), |_, _| GOOD);
    let total: u32 = probes.values().sum();
    assert!((36_000..=40_100).contains(&total), "{total}");
    assert_eq!(probes.len(), 5000);
    let (least, most) = (
        probes.values().min().unwrap(),
        probes.values().max().unwrap(),
    );
    assert!(*least >= 6 && *most <= 10, "{least} {most}");
}

#[test]
fn within_the_budget_nothing_is_sampled() {
    let mut harness = Harness::of("a:100", Duration::from_secs(1));
    harness.run(Duration::from_secs(5), |job, _| {
        assert!(!job.is_sample);
        GOOD
    });
    assert!((harness.schedule.reach().stretch - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_member_whose_samples_all_fail_twice_is_dead_within_seconds_until_one_answers() {
    // A thousand times over the budget: an endpoint's own turn comes every few minutes.
    let mut harness = Harness::of("a:9000 b:9000", Duration::from_millis(100));
    harness.run(Duration::from_secs(3), |_, _| GOOD);
    let member = harness.fixture.endpoints()[0].member.identity;
    let began = harness.now;
    let dead_in = |harness: &mut Harness, dead_member: bool| {
        for _ in 0..10 {
            harness.run(Duration::from_millis(500), |job, _| {
                if job.endpoint.member.identity == member {
                    BAD
                } else {
                    GOOD
                }
            });
            if harness.schedule.is_dead(member) == dead_member {
                return harness.now.since(began);
            }
        }
        panic!("the verdict never came");
    };
    assert!(dead_in(&mut harness, true) <= Duration::from_secs(3));
    let (first, last) = (harness.probed(0), harness.probed(9000));
    assert_eq!((first, last), (Probed::Bad, Probed::Good));
    assert_eq!(harness.schedule.of_member(member).len(), 9000);
    harness.run(Duration::from_millis(1500), |_, _| GOOD);
    assert!(!harness.schedule.is_dead(member));
}

#[test]
fn a_removed_endpoint_is_not_probed_and_its_answer_changes_nothing() {
    let mut harness = Harness::of("a:3", Duration::from_secs(1));
    let endpoint = harness.fixture.endpoints()[1].clone();
    harness.now = harness.now.after(Duration::from_secs(1));
    let jobs = harness.schedule.take_due(harness.now);
    harness.schedule.remove(&endpoint);
    for job in jobs {
        let judged = harness
            .schedule
            .answered(&Answer { job, result: BAD }, harness.now);
        assert_eq!(judged, Judged::Same);
    }
    let probes = harness.run(Duration::from_secs(5), |_, _| GOOD);
    assert_eq!(probes.len(), 2);
    assert_eq!(harness.probed(1), Probed::Unchecked);
    assert_eq!(harness.schedule.unverified(), 0);
    for endpoint in harness.fixture.endpoints() {
        harness.schedule.remove(&endpoint);
    }
    assert!(harness.schedule.reach().demand.abs() < f64::EPSILON);
    harness.run(Duration::from_secs(2), |_, _| {
        unreachable!("nothing is probed")
    });
    assert_eq!(harness.schedule.next_due(harness.now), None);
}

#[test]
fn connect_times_of_probes_are_samples_of_their_member() {
    let mut harness = Harness::of("a:10", Duration::from_secs(1));
    harness.run(Duration::from_secs(5), |_, _| {
        Ok(Some(Duration::from_millis(40)))
    });
    let p95 = harness.fixture.endpoints()[0]
        .member
        .times()
        .unwrap()
        .p95()
        .unwrap();
    assert!(
        p95 >= Duration::from_millis(40) && p95 < Duration::from_millis(50),
        "{p95:?}"
    );
}
