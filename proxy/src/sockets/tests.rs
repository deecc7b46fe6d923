use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::{io::BindError, *};
use crate::sys::tcp::Liveness;

/// Ports of a frontend.
fn asked(rows: &[(&str, u16, u16)]) -> BTreeMap<Bind, FrontendName> {
    let mut asked = BTreeMap::new();
    for (name, port, count) in rows {
        for port in *port..port + count {
            let bind = Bind {
                protocol: Protocol::Tcp,
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            };
            asked.insert(bind, FrontendName::parse(name).unwrap());
        }
    }
    asked
}

const NONE: Held = Held {
    addresses: 0,
    sockets: 0,
};

/// As many sockets, spread or not.
fn budget(sockets: usize) -> Budget {
    Budget {
        spread: sockets,
        most: sockets,
        files: 2 * sockets,
    }
}

const LIVENESS: Liveness = Liveness {
    keepalive: None,
    user_timeout: None,
};

#[test]
fn within_the_budget_each_address_has_a_socket_on_every_thread() {
    let plan = plan(asked(&[("a", 80, 1), ("b", 100, 3)]), NONE, 4, budget(16));
    assert_eq!(plan.binds.len(), 4);
    assert!(
        plan.binds
            .values()
            .all(|planned| planned.spread == Spread::Every)
    );
    assert!(plan.refused.is_empty());
}

#[test]
fn beyond_the_budget_addresses_have_one_socket_and_threads_take_turns() {
    let plan = plan(asked(&[("a", 100, 6)]), NONE, 4, budget(12));
    let spreads: Vec<_> = plan.binds.values().map(|planned| planned.spread).collect();
    let one = Spread::One;
    assert_eq!(
        spreads,
        [Spread::Every, Spread::Every, one(2), one(3), one(0), one(1)]
    );
    let sockets: usize = spreads.iter().map(|spread| spread.threads(4).len()).sum();
    assert!(sockets <= 12);
}

#[test]
fn what_not_even_one_socket_is_left_for_is_refused_by_name() {
    let plan = plan(asked(&[("a", 100, 3)]), NONE, 4, budget(2));
    assert_eq!(plan.binds.len(), 2);
    assert_eq!(plan.refused[0].0.addr.port(), 102);
    assert_eq!(plan.refused[0].1.as_str(), "a");
}

#[test]
fn what_is_held_counts_against_the_budget() {
    let spread = |addresses, sockets| {
        let held = Held { addresses, sockets };
        let budget = Budget {
            spread: 12,
            most: 14,
            files: 24,
        };
        let plan = plan(asked(&[("a", 80, 1)]), held, 4, budget);
        plan.binds.values().next().map(|planned| planned.spread)
    };
    assert_eq!(spread(2, 8), Some(Spread::Every));
    assert_eq!(spread(3, 9), Some(Spread::One(3)));
    assert_eq!(spread(3, 12), Some(Spread::One(3)), "one more all the same");
    assert_eq!(spread(3, 13), Some(Spread::One(3)));
    assert_eq!(spread(3, 14), None);
    assert_eq!(spread(14, 14), None);
}

#[test]
fn ten_thousand_addresses_fit_into_twenty_thousand_files_and_leave_room_for_sessions() {
    let budget = Budget::of_files(20_000);
    for threads in [1, 8] {
        let plan = plan(asked(&[("a", 2_000, 10_000)]), NONE, threads, budget);
        assert_eq!((plan.binds.len(), plan.refused.len()), (10_000, 0));
    }
    // Whatever comes, and in whatever order: flows have a quarter, sessions an eighth.
    for batch in [1, 700, 40_000] {
        let (mut held, mut port) = (NONE, 1);
        for _ in 0..40_000 / batch {
            let asked = asked(&[("a", port, batch)]);
            port += batch;
            let plan = plan(asked, held, 8, budget);
            held.addresses += plan.binds.len();
            let sockets = plan
                .binds
                .values()
                .map(|planned| planned.spread.threads(8).len());
            held.sockets += sockets.sum::<usize>();
        }
        assert!(held.addresses > 8_000, "{held:?} in batches of {batch}");
        assert!(held.sockets <= 12_500, "{held:?} in batches of {batch}");
    }
}

fn taken(protocol: Protocol, addr: SocketAddr) -> String {
    let bind = Bind { protocol, addr };
    let name = FrontendName::parse("shop/checkout:https#0").unwrap();
    let error = io::bind(bind, 2, &LIVENESS, &name, true).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_port_in_use_is_named_with_who_asked_for_it() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let message = taken(Protocol::Tcp, addr);
    assert!(message.contains(&addr.to_string()), "{message}");
    assert!(message.contains("shop/checkout:https#0"), "{message}");
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    taken(Protocol::Udp, holder.local_addr().unwrap());
}

// SO_REUSEPORT alone would let both bind, and each would get half the connections.
#[test]
fn a_port_that_another_proxy_shares_among_its_threads_is_in_use() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let name = FrontendName::parse("other").unwrap();
        let any = Bind {
            protocol,
            addr: "127.0.0.1:0".parse().unwrap(),
        };
        let holder = io::bind(any, 1, &LIVENESS, &name, true).unwrap();
        let addr = crate::sys::tcp::local_addr(&holder[0]).unwrap();
        taken(protocol, addr);
        let again = Bind { protocol, addr };
        let shared = io::bind(again, 2, &LIVENESS, &name, false).unwrap();
        assert_eq!(shared.len(), 2, "without the probe the kernel lets it in");
    }
}

#[test]
fn an_address_of_another_host_is_explained() {
    let bind = Bind {
        protocol: Protocol::Tcp,
        addr: "192.0.2.1:80".parse().unwrap(),
    };
    let name = FrontendName::parse("a").unwrap();
    let error = io::bind(bind, 1, &LIVENESS, &name, true).unwrap_err();
    assert!(
        error.to_string().contains("no address of this host"),
        "{error}"
    );
}
