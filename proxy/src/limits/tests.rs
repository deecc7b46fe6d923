use std::{collections::BTreeMap, net::Ipv4Addr};

use proptest::prelude::*;

use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[test]
fn without_limits_everything_is_admitted_and_counted() {
    let limiter = limiter(&Limits::default(), 1);
    let held: Vec<_> = (0..100)
        .map(|_| limiter.admit_session(CLIENT, Tick::ZERO).unwrap())
        .collect();
    assert_eq!(limiter.sessions(), 100);
    drop(held);
    assert_eq!(limiter.sessions(), 0);
}

#[test]
fn live_sessions_and_flows_have_a_limit_each() {
    let limiter = limiter(
        &limits(|limits| (limits.connections, limits.flows) = (Some(2), Some(1))),
        1,
    );
    let one = limiter.admit_session(CLIENT, Tick::ZERO).unwrap();
    let _two = limiter.admit_session(CLIENT, Tick::ZERO).unwrap();
    let _flow = limiter.admit_flow(CLIENT, Tick::ZERO).unwrap();
    assert_eq!(
        limiter.admit_session(CLIENT, Tick::ZERO).unwrap_err(),
        Reason::LimitConnections
    );
    assert_eq!(
        limiter.admit_flow(CLIENT, Tick::ZERO).unwrap_err(),
        Reason::LimitConnections
    );
    drop(one);
    assert!(limiter.admit_session(CLIENT, Tick::ZERO).is_ok());
}

#[test]
fn flows_of_a_client_are_no_sessions_of_it() {
    let limiter = limiter(&limits(|limits| limits.connections_per_client = Some(1)), 1);
    let _flows = [(); 5].map(|()| limiter.admit_flow(CLIENT, Tick::ZERO).unwrap());
}

#[test]
fn threads_together_take_every_place_and_never_one_more() {
    let limiter = limiter(&limits(|limits| limits.connections = Some(7)), 1);
    for round in 0..200 {
        let start = std::sync::Barrier::new(4);
        let take = || {
            start.wait();
            let offers = (0..5).map(|_| limiter.admit_session(CLIENT, Tick::ZERO));
            offers.filter_map(Result::ok).collect::<Vec<_>>()
        };
        let held: Vec<Admitted> = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(held.len(), 7, "round {round}");
        assert_eq!(limiter.sessions(), 7);
        drop(held);
        assert_eq!(limiter.sessions(), 0);
    }
}

#[test]
fn a_refused_session_takes_nothing() {
    let limiter = limiter(
        &limits(|limits| {
            limits.connections = Some(10);
            limits.connections_per_client = Some(1);
            limits.new_per_second = Some(2);
        }),
        1,
    );
    let held = limiter.admit_session(CLIENT, Tick::ZERO).unwrap();
    for _ in 0..10 {
        let refused = limiter.admit_session(CLIENT, Tick::ZERO).unwrap_err();
        assert_eq!(refused, Reason::LimitConnectionsPerClient);
    }
    assert_eq!(limiter.sessions(), 1);
    let other = "192.0.2.2".parse().unwrap();
    assert!(
        limiter.admit_session(other, Tick::ZERO).is_ok(),
        "the rate has a token left"
    );
    assert_eq!(
        limiter.admit_session(other, Tick::ZERO).unwrap_err(),
        Reason::LimitRate
    );
    drop(held);
    let later = Tick::from_start(Duration::from_secs(1));
    assert!(limiter.admit_session(CLIENT, later).is_ok());
}

#[test]
fn a_rate_of_zero_admits_nobody() {
    let limiter = limiter(&limits(|limits| limits.new_per_second = Some(0)), 1);
    for second in 0..5 {
        let now = Tick::from_start(Duration::from_secs(second));
        assert_eq!(
            limiter.admit_session(CLIENT, now).unwrap_err(),
            Reason::LimitRate
        );
    }
}

#[test]
fn new_limits_hold_for_sessions_that_were_counted_without_any() {
    let limiter = limiter(&Limits::default(), 1);
    let held: Vec<_> = (0..3)
        .map(|_| limiter.admit_session(CLIENT, Tick::ZERO))
        .collect();
    limiter.update(&limits(|limits| limits.connections = Some(3)));
    assert!(limiter.admit_session(CLIENT, Tick::ZERO).is_err());
    drop(held);
    assert!(limiter.admit_session(CLIENT, Tick::ZERO).is_ok());
}

#[test]
fn an_ipv6_client_is_its_64_and_an_ipv4_one_the_same_in_both_notations() {
    let key = |ip: &str| ClientKey::new(ip.parse().unwrap());
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    assert_ne!(key("192.0.2.2"), key("192.0.2.1"));
}

#[test]
fn a_million_clients_are_admitted_in_bounded_memory() {
    let limiter = limiter(
        &limits(|limits| limits.new_per_second_per_client = Some(1)),
        1,
    );
    for client in 0..1_000_000_u32 {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(client));
        assert!(
            limiter.admit_session(ip, Tick(u64::from(client))).is_ok(),
            "{ip}"
        );
    }
    assert!(
        limiter.metrics.clients_untracked.value() > 900_000,
        "what was forgotten is counted"
    );
    assert_eq!(limiter.sessions(), 0);
}

proptest! {
    #[test]
    fn a_rate_lets_exactly_its_share_through(
        rate in 1..2000_u32,
        offers in prop::collection::vec(0..3_000_000_u64, 1..400),
    ) {
        let limiter = limiter(&limits(|limits| limits.new_per_second = Some(rate)), 1);
        // The model: tokens in billionths, refilled continuously, never above one second's worth.
        let interval = u128::from(interval_nanos(rate));
        let full = interval * u128::from(rate);
        let (mut tokens, mut now) = (full, 0);
        for gap in offers {
            now += gap;
            tokens = (tokens + u128::from(gap)).min(full);
            let admitted = limiter.admit_session(CLIENT, Tick(now)).is_ok();
            prop_assert_eq!(admitted, tokens >= interval);
            if admitted {
                tokens -= interval;
            }
        }
    }

    #[test]
    fn few_clients_are_counted_exactly(
        live_max in 1..4_u32,
        steps in prop::collection::vec((0..20_u32, any::<bool>()), 1..300),
    ) {
        let limiter = limiter(&limits(|limits| limits.connections_per_client = Some(live_max)), 9);
        let mut held: BTreeMap<u32, Vec<Admitted>> = BTreeMap::new();
        for (client, open) in steps {
            let own = held.entry(client).or_default();
            if open {
                let ip = IpAddr::V4(Ipv4Addr::from_bits(client));
                let admitted = limiter.admit_session(ip, Tick::ZERO);
                prop_assert_eq!(admitted.is_ok(), own.len() < live_max as usize);
                own.extend(admitted);
            } else {
                own.pop();
            }
        }
        let live: usize = held.values().map(Vec::len).sum();
        prop_assert_eq!(limiter.sessions() as usize, live);
        prop_assert_eq!(limiter.metrics.clients_untracked.value(), 0);
    }

    #[test]
    fn both_limits_per_client_survive_their_packing(live: Option<u32>, rate: Option<u32>) {
        let most = |limit: Option<u32>| limit.map(|limit| limit.min(u32::MAX - 2));
        let (live, rate) = (most(live), most(rate));
        prop_assert_eq!(unpack(pack(live, rate)), (live, rate));
    }
}

fn limiter(limits: &Limits, seed: u64) -> Arc<Limiter> {
    Limiter::new(limits, seed, Arc::default())
}

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}
