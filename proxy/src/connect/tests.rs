use std::collections::BTreeSet;

use fairlead_config::frontend::Protocol;

use super::*;
use crate::{
    balancer::{FlowKey, draw::Draw},
    registry::Flags,
    testing::services::{Fixture, service},
};

/// A session's connects over a fixture, with a log of what was asked.
struct Session {
    fixture: Fixture,
    connecting: Connecting,
    draw: Draw,
    now: Tick,
}

impl Session {
    fn of(text: &str) -> Self {
        Self::over(service(text).build())
    }

    fn over(fixture: Fixture) -> Self {
        let now = fixture.now;
        let connecting = Connecting::new(&fixture.view().service.policy, now);
        Self {
            fixture,
            connecting,
            draw: Draw::new(3),
            now,
        }
    }

    /// What was asked, in words: `dial 0 a`, `report a Refused`, `serve 0`, `give up …`.
    fn step(&mut self, event: Event) -> Vec<String> {
        let key = FlowKey {
            client: "192.0.2.9:1000".parse().unwrap(),
            local: "192.0.2.1:443".parse().unwrap(),
            protocol: Protocol::Tcp,
        };
        let view = self.fixture.view();
        let now = self.now;
        let draw = &mut self.draw;
        let actions = self
            .connecting
            .step(event, now, &mut |tried| view.pick(&key, draw, now, tried));
        actions.iter().map(say).collect()
    }

    fn wake(&mut self) -> Vec<String> {
        self.now = self.connecting.next_wake().expect("something is under way");
        self.step(Event::Woken)
    }

    fn refuse(&mut self, attempt: u8) -> Vec<String> {
        self.step(Event::Failed(AttemptId(attempt), Failure::Refused))
    }

    fn elapsed(&self) -> Duration {
        self.now.since(self.fixture.now)
    }
}

fn say(action: &Action) -> String {
    match action {
        Action::Dial { attempt, endpoint } => {
            format!("dial {} {}", attempt.0, endpoint.member.name)
        }
        Action::Report { endpoint, outcome } => match outcome {
            Outcome::Connected(_) => format!("report {} Connected", endpoint.member.name),
            outcome => format!("report {} {outcome:?}", endpoint.member.name),
        },
        Action::Serve { attempt, tier, .. } => format!("serve {} tier {tier}", attempt.0),
        Action::GiveUp(reason) => format!("give up {reason:?}"),
    }
}

#[test]
fn an_answered_connect_serves_at_once() {
    let mut session = Session::of("a:2");
    assert_eq!(session.step(Event::Begin), ["dial 0 a"]);
    assert_eq!(
        session.step(Event::Connected(AttemptId(0))),
        ["report a Connected", "serve 0 tier 0"]
    );
    assert_eq!(session.connecting.next_wake(), None);
    assert!(session.connecting.into_losers().is_empty());
}

#[test]
fn refused_goes_on_at_once_two_per_tier_and_the_last_tier_takes_the_rest() {
    let mut session = Session::of("a:5 | b:5");
    let mut said = session.step(Event::Begin);
    for attempt in 0..6 {
        said.extend(session.refuse(attempt));
    }
    let dialled: Vec<&str> = said
        .iter()
        .filter(|line| line.starts_with("dial"))
        .map(|line| &line[7..])
        .collect();
    assert_eq!(dialled, ["a", "a", "b", "b", "b", "b"]);
    assert_eq!(said.last().unwrap(), "give up Refused");
    assert_eq!(session.elapsed(), Duration::ZERO);
    assert_eq!(session.connecting.summary().retries, 5);
}

#[test]
fn an_unusable_later_tier_leaves_all_candidates_to_the_first() {
    let fixture = service("a:5 | b:3").build();
    for endpoint in &fixture.endpoints()[5..] {
        endpoint.change_flags(Flags::PROBE_DOWN, Flags::NONE);
    }
    let mut session = Session::over(fixture);
    let mut said = session.step(Event::Begin);
    for attempt in 0..6 {
        said.extend(session.refuse(attempt));
    }
    let dialled = said.iter().filter(|line| line.starts_with("dial"));
    assert_eq!(dialled.filter(|line| line.ends_with('a')).count(), 5);
    assert_eq!(said.last().unwrap(), "give up Refused");
}

#[test]
fn candidates_are_distinct_and_there_are_six_at_most() {
    for (text, expected) in [
        ("a:1", 1),
        ("a:3", 3),
        ("a:20", 6),
        ("a:1 b:1 c:1 | d:9", 6),
    ] {
        let mut session = Session::of(text);
        session.step(Event::Begin);
        for attempt in 0..6 {
            session.refuse(attempt);
        }
        let tried: BTreeSet<_> = session
            .fixture
            .endpoints()
            .iter()
            .filter(|endpoint| {
                endpoint
                    .counts
                    .attempts
                    .load(std::sync::atomic::Ordering::Relaxed)
                    > 0
            })
            .map(|endpoint| endpoint.id)
            .collect();
        assert_eq!(tried.len(), expected, "{text}");
        assert_eq!(
            usize::from(session.connecting.summary().attempts),
            expected,
            "{text}"
        );
    }
}

#[test]
fn a_slow_connect_is_raced_in_its_member_and_then_elsewhere() {
    let mut session = Session::of("a:3 | b:3");
    assert_eq!(session.step(Event::Begin), ["dial 0 a"]);
    assert_eq!(session.wake(), ["dial 1 a"]);
    assert_eq!(session.elapsed(), Duration::from_millis(100));
    assert_eq!(session.wake(), ["dial 2 b"]);
    assert_eq!(session.elapsed(), Duration::from_millis(200));
    // No third hedge; what comes next is the first one's strike.
    assert_eq!(session.wake(), ["report a TimedOut"]);
    assert_eq!(session.elapsed(), Duration::from_millis(300));
    assert_eq!(
        session.step(Event::Connected(AttemptId(2))),
        ["report b Connected", "serve 2 tier 1"]
    );
    let summary = session.connecting.summary();
    assert_eq!(
        (summary.attempts, summary.hedges, summary.won_by_hedge),
        (3, 2, true)
    );
    let struck: Vec<bool> = session
        .connecting
        .into_losers()
        .iter()
        .map(|loser| loser.late_at.is_none())
        .collect();
    assert_eq!(struck, [true, false]);
}

#[test]
fn the_second_candidate_comes_from_elsewhere_when_the_member_has_no_other() {
    let mut session = Session::of("a:1 b:1");
    let first = session.step(Event::Begin);
    let second = session.wake();
    assert_ne!(first[0][7..], second[0][7..]);
}

#[test]
fn the_hedge_delay_follows_the_members_p95_within_bounds() {
    for (millis, expected) in [(2, 20), (30, 60), (400, 200)] {
        let mut session = Session::of("a:2");
        let member = session.fixture.endpoints()[0].member.clone();
        for _ in 0..100 {
            member.record_time(Duration::from_millis(millis));
        }
        session.step(Event::Begin);
        session.wake();
        let (found, expected) = (session.elapsed().as_secs_f64(), f64::from(expected) / 1e3);
        assert!(
            found >= expected && found <= expected * 1.2,
            "{found} for {expected}"
        );
    }
}

#[test]
fn without_hedging_or_budget_a_slow_connect_is_waited_for() {
    let mut session = Session::over(service("a:2").policy(|policy| policy.hedge = false).build());
    session.step(Event::Begin);
    assert_eq!(session.wake(), ["report a TimedOut", "give up TimedOut"]);
    assert_eq!(session.elapsed(), Duration::from_secs(5));

    let mut session = Session::of("a:2");
    let hedges_at = session.now.after(Duration::from_millis(100));
    while session.fixture.state().hedges.take(hedges_at) {}
    session.step(Event::Begin);
    assert_eq!(session.wake(), [""; 0]);
    assert_eq!(session.connecting.summary().hedges_refused, 1);
    assert_eq!(session.wake(), ["report a TimedOut", "give up TimedOut"]);
}

#[test]
fn a_loser_that_answers_late_gives_a_sample_and_one_that_never_does_strikes_once() {
    let lost = || {
        let mut session = Session::of("a:2");
        session.step(Event::Begin);
        session.wake();
        session.step(Event::Connected(AttemptId(1)));
        (
            session.fixture.now,
            session.connecting.into_losers().pop().unwrap(),
        )
    };
    let (began, loser) = lost();
    let answered = loser.connected(began.after(Duration::from_millis(250)));
    assert_eq!(answered, Outcome::Connected(Duration::from_millis(250)));

    let (began, mut loser) = lost();
    assert_eq!(loser.next_wake(), began.after(Duration::from_millis(300)));
    assert_eq!(
        loser.woken(loser.next_wake()),
        (Some(Outcome::TimedOut), false)
    );
    assert_eq!(loser.next_wake(), began.after(Duration::from_secs(5)));
    assert_eq!(loser.woken(loser.next_wake()), (None, true));
    assert_eq!(loser.failed(Failure::Refused), None);
}

#[test]
fn a_far_member_gets_four_times_its_p95_before_a_lost_race_strikes() {
    let mut session = Session::of("a:2");
    let member = session.fixture.endpoints()[0].member.clone();
    for _ in 0..100 {
        member.record_time(Duration::from_millis(250));
    }
    session.step(Event::Begin);
    session.wake();
    session.step(Event::Connected(AttemptId(1)));
    let loser = session.connecting.into_losers().pop().unwrap();
    let patience = loser.next_wake().since(session.fixture.now);
    assert!(patience >= Duration::from_secs(1), "{patience:?}");
}

#[test]
fn a_near_member_gets_three_hundred_milliseconds_before_a_lost_race_strikes() {
    let session = Session::of("a:2");
    let member = session.fixture.endpoints()[0].member.clone();
    for _ in 0..100 {
        member.record_time(Duration::from_millis(2));
    }
    assert_eq!(late_after(&member), Duration::from_millis(300));
}

#[test]
fn a_loser_whose_connect_timeout_comes_first_strikes_then_and_once() {
    let fixture = service("a:2").policy(|policy| {
        policy.timeouts.connect = Duration::from_millis(200);
    });
    let mut session = Session::over(fixture.build());
    session.step(Event::Begin);
    session.wake();
    session.step(Event::Connected(AttemptId(1)));
    let began = session.fixture.now;
    let mut loser = session.connecting.into_losers().pop().unwrap();
    assert_eq!(loser.next_wake(), began.after(Duration::from_millis(200)));
    let ended = loser.woken(loser.next_wake());
    assert_eq!(ended, (Some(Outcome::TimedOut), true));
}

#[test]
fn our_own_faults_are_no_strikes() {
    let mut session = Session::of("a:3");
    session.step(Event::Begin);
    let out_of_ports = Event::Failed(AttemptId(0), Failure::OutOfPorts);
    assert_eq!(session.step(out_of_ports), ["report a Ours", "dial 1 a"]);
    let out_of_files = Event::Failed(AttemptId(1), Failure::OutOfResources);
    assert_eq!(
        session.step(out_of_files),
        ["report a Ours", "give up Ours(OutOfResources)"]
    );
}

#[test]
fn every_attempt_is_counted_at_its_endpoint_until_it_ends() {
    let mut session = Session::of("a:2");
    let inflight = |session: &Session| {
        session
            .fixture
            .endpoints()
            .iter()
            .map(|endpoint| endpoint.inflight())
            .sum::<u32>()
    };
    session.step(Event::Begin);
    session.wake();
    assert_eq!(inflight(&session), 2);
    session.refuse(0);
    assert_eq!(inflight(&session), 1);
    while session.connecting.next_wake().is_some() {
        session.wake();
    }
    assert_eq!(inflight(&session), 0);
}

#[test]
fn a_service_without_endpoints_says_so() {
    let mut session = Session::of("a:0");
    assert_eq!(session.step(Event::Begin), ["give up NoEndpoint(Empty)"]);
    let mut session = Session::of("a=0:3");
    assert_eq!(session.step(Event::Begin), ["give up NoEndpoint(Drained)"]);
}

#[test]
fn an_endpoint_never_has_more_attempts_than_its_limit() {
    let fixture = service("a:2")
        .policy(|policy| policy.limits.connections_per_endpoint = Some(1))
        .build();
    let held: Vec<_> = fixture
        .endpoints()
        .iter()
        .map(|endpoint| endpoint.begin())
        .collect();
    let mut session = Session::over(fixture);
    assert_eq!(session.step(Event::Begin), ["give up NoEndpoint(Full)"]);
    drop(held);
    let mut session = Session::over(session.fixture);
    assert_eq!(session.step(Event::Begin), ["dial 0 a"]);
}
