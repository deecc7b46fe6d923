use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use fairlead_config::name::ServiceName;

use super::{io::BindError, *};
use crate::sys::tcp::Liveness;

fn frontend(name: &str, port: u16, count: u16) -> Frontend {
    Frontend {
        name: FrontendName::parse(name).unwrap(),
        protocol: Protocol::Tcp,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: port..=port + count - 1,
        service: ServiceName::parse("shop/checkout:https").unwrap(),
        sni: Vec::new(),
        allow: Vec::new(),
        proxy_protocol: None,
    }
}

const LIVENESS: Liveness = Liveness {
    keepalive: None,
    user_timeout: None,
};

#[test]
fn within_the_budget_each_address_has_a_socket_on_every_thread() {
    let plan = plan(&[frontend("a", 80, 1), frontend("b", 100, 3)], 4, 16);
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
    let plan = plan(&[frontend("a", 100, 6)], 4, 12);
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
    let plan = plan(&[frontend("a", 100, 3)], 4, 2);
    assert_eq!(plan.binds.len(), 2);
    assert_eq!(plan.refused[0].0.addr.port(), 102);
    assert_eq!(plan.refused[0].1.as_str(), "a");
}

#[test]
fn frontends_of_one_address_share_its_sockets() {
    let plan = plan(&[frontend("a", 80, 1), frontend("b", 80, 1)], 2, 100);
    assert_eq!(plan.binds.len(), 1);
    assert_eq!(plan.binds.values().next().unwrap().asked_by.as_str(), "a");
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
