use super::*;

const LIMITS: Limits = Limits {
    shutdown_delay: Duration::from_secs(5),
    drain_timeout: Duration::from_secs(30),
};

fn at(seconds: u64) -> Tick {
    Tick::from_start(Duration::from_secs(seconds))
}

#[test]
fn it_accepts_for_the_delay_then_drains_until_the_deadline() {
    let mut departure = Departure::new(LIMITS);
    assert_eq!(departure.step(at(1), true), Phase::Serving);
    assert_eq!(departure.leave(at(10)), Phase::Announced);
    assert_eq!(departure.next_deadline(), Some(at(15)));
    assert_eq!(departure.step(at(14), true), Phase::Announced);
    assert_eq!(departure.step(at(15), false), Phase::Draining);
    assert_eq!(departure.step(at(44), false), Phase::Draining);
    assert_eq!(departure.step(at(45), false), Phase::Over);
    assert_eq!(departure.next_deadline(), None);
}

#[test]
fn it_is_over_at_once_when_nothing_lives() {
    let mut departure = Departure::new(LIMITS);
    departure.leave(at(0));
    assert_eq!(departure.step(at(5), true), Phase::Draining);
    assert_eq!(departure.step(at(5), true), Phase::Over);
}

#[test]
fn a_second_request_means_now_in_every_phase() {
    let mut announced = Departure::new(LIMITS);
    announced.leave(at(0));
    assert_eq!(announced.leave(at(1)), Phase::Over);
    let mut draining = Departure::new(LIMITS);
    draining.leave(at(0));
    draining.step(at(5), false);
    assert_eq!(draining.leave(at(6)), Phase::Over);
}

#[test]
fn with_a_successor_it_drains_at_once() {
    let mut departure = Departure::new(LIMITS);
    assert_eq!(departure.hand_over(at(3)), Phase::Draining);
    assert_eq!(departure.next_deadline(), Some(at(33)));
    assert_eq!(departure.leave(at(4)), Phase::Over);
    assert_eq!(departure.hand_over(at(5)), Phase::Over);
}

#[test]
fn no_delay_drains_at_once() {
    let limits = Limits {
        shutdown_delay: Duration::ZERO,
        ..LIMITS
    };
    let mut departure = Departure::new(limits);
    assert_eq!(departure.leave(at(3)), Phase::Draining);
}

#[tokio::test]
async fn watchers_see_the_phase_and_equal_phases_wake_nobody() {
    let (setter, mut watch) = channel();
    setter.set(Phase::Serving);
    assert!(!watch.0.has_changed().unwrap());
    setter.set(Phase::Draining);
    assert_eq!(
        watch.wait_for(|phase| *phase >= Phase::Announced).await,
        Phase::Draining
    );
    assert_eq!(watch.phase(), Phase::Draining);
}
