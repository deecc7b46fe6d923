use proptest::prelude::*;

use super::*;

#[test]
fn a_new_name_is_asked_at_once_and_again_when_its_ttl_ends() {
    let mut rig = Rig::new();
    rig.set("a", &["x"]);
    assert_eq!(rig.due(), ["x"]);
    assert_eq!(rig.due(), [""; 0], "it is being asked");
    assert_eq!(rig.found("x", &["10.0.0.1"], 30), ["a"]);
    assert_eq!(
        rig.names.next_deadline(),
        Some(rig.now + Duration::from_secs(30))
    );
    rig.pass(29);
    assert_eq!(rig.due(), [""; 0]);
    rig.pass(1);
    assert_eq!(rig.due(), ["x"]);
    assert_eq!(
        rig.found("x", &["10.0.0.1"], 30),
        [""; 0],
        "the same answer changes nothing"
    );
}

#[test]
fn ttls_are_clamped() {
    for (ttl, clamped) in [(0, 1), (1, 1), (300, 300), (86_400, 300)] {
        let mut rig = Rig::new();
        rig.set("a", &["x"]);
        rig.due();
        rig.found("x", &["10.0.0.1"], ttl);
        assert_eq!(
            rig.names.next_deadline(),
            Some(rig.now + Duration::from_secs(clamped))
        );
    }
}

#[test]
fn the_order_of_an_answer_means_nothing() {
    let mut rig = Rig::new();
    rig.set("a", &["x"]);
    rig.due();
    assert_eq!(rig.found("x", &["10.0.0.2", "::1", "10.0.0.1"], 1), ["a"]);
    rig.pass(1);
    rig.due();
    assert_eq!(
        rig.found("x", &["::1", "10.0.0.1", "10.0.0.2", "10.0.0.1"], 1),
        [""; 0]
    );
}

#[test]
fn a_failure_keeps_the_last_good_answer_and_backs_off_up_to_a_minute() {
    let mut rig = Rig::new();
    rig.set("a", &["x"]);
    rig.due();
    rig.found("x", &["10.0.0.1"], 5);
    rig.pass(5);
    let mut longest = Duration::ZERO;
    for round in 0..12 {
        assert_eq!(rig.due(), ["x"], "round {round}");
        assert_eq!(rig.failed("x"), [""; 0]);
        let delay = rig.names.next_deadline().unwrap() - rig.now;
        let full = RETRY_MIN.saturating_mul(1 << round.min(10)).min(RETRY_MAX);
        assert!(
            delay <= full && delay >= full.mul_f64(0.75),
            "round {round}: {delay:?}"
        );
        longest = longest.max(delay);
        rig.now = rig.now + delay;
        assert_eq!(
            rig.names.addresses("x"),
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
    }
    assert!(longest > Duration::from_secs(40));
    rig.due();
    rig.found("x", &["10.0.0.1"], 5);
    assert_eq!(
        rig.names.next_deadline(),
        Some(rig.now + Duration::from_secs(5))
    );
    rig.pass(5);
    rig.due();
    rig.failed("x");
    let delay = rig.names.next_deadline().unwrap() - rig.now;
    assert!(delay <= RETRY_MIN, "an answer ends the row: {delay:?}");
}

#[test]
fn an_address_gone_from_the_answer_is_gone() {
    let mut rig = Rig::new();
    rig.set("a", &["x"]);
    rig.set("b", &["x", "y"]);
    rig.due();
    rig.found("x", &["10.0.0.1", "10.0.0.2"], 5);
    rig.found("y", &["10.0.0.9"], 60);
    rig.pass(5);
    rig.due();
    assert_eq!(rig.found("x", &["10.0.0.2"], 5), ["a", "b"]);
    assert_eq!(rig.names.addresses("x").len(), 1);
}

#[test]
fn a_name_that_nobody_uses_is_forgotten_also_while_it_is_asked() {
    let mut rig = Rig::new();
    rig.set("a", &["x", "y"]);
    rig.due();
    rig.found("y", &["10.0.0.9"], 60);
    rig.set("a", &[]);
    assert_eq!(rig.names.next_deadline(), None);
    assert_eq!(rig.found("x", &["10.0.0.1"], 5), [""; 0]);
    assert_eq!(rig.names.addresses("x"), [] as [IpAddr; 0]);
    rig.set("a", &["x"]);
    assert_eq!(rig.due(), ["x"]);
}

#[test]
fn look_ups_at_a_time_are_limited() {
    let mut rig = Rig::new();
    let hosts: Vec<String> = (0..LOOKUPS_MAX + 5)
        .map(|number| format!("h{number:03}"))
        .collect();
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    rig.set("a", &names);
    assert_eq!(rig.due().len(), LOOKUPS_MAX);
    assert_eq!(rig.names.next_deadline(), None);
    rig.failed("h000");
    assert_eq!(rig.due().len(), 1);
    assert_eq!(rig.names.unanswered(), LOOKUPS_MAX + 4);
}

#[test]
fn a_huge_answer_is_cut_to_the_same_addresses_everywhere() {
    let many: Vec<IpAddr> = (0..1000_u32)
        .map(|bits| std::net::Ipv4Addr::from(bits).into())
        .collect();
    let answer = |addresses: Vec<IpAddr>| {
        let mut rig = Rig::new();
        rig.set("a", &["x"]);
        rig.due();
        let result = Ok(Found {
            addresses,
            ttl: Duration::from_secs(1),
        });
        rig.names.looked(
            Looked {
                host: "x".into(),
                result,
            },
            rig.now,
        );
        rig.names.addresses("x").to_vec()
    };
    let reversed = many.iter().rev().copied().collect();
    assert_eq!(answer(many.clone()), answer(reversed));
    assert_eq!(answer(many).len(), ADDRESSES_MAX);
}

proptest! {
    #[test]
    fn whatever_happens_every_name_in_use_is_asked_again(
        steps in prop::collection::vec((0..6_u8, 0..4_u8, 0..4_u8, 0..400_u64), 1..200),
    ) {
        let mut rig = Rig::new();
        let hosts = ["w", "x", "y", "z"];
        let mut asking: BTreeSet<&str> = BTreeSet::new();
        for (step, service, host, number) in steps {
            let service = ["a", "b", "c", "d"][usize::from(service)];
            let host = hosts[usize::from(host)];
            match step {
                0 => rig.set(service, &[host]),
                1 => rig.set(service, &hosts[..usize::from(number as u8) % 4]),
                2 => drop(rig.found(host, &["10.0.0.1"], number as u32)),
                3 => drop(rig.failed(host)),
                4 => rig.pass(number),
                _ => {
                    for due in rig.due() {
                        asking.extend(hosts.iter().copied().filter(|host| *host == due));
                    }
                }
            }
            rig.names.check_invariants();
        }
        // Everything in use comes up within the longest TTL.
        let used: BTreeSet<String> =
            rig.names.names.iter().filter(|(_, name)| name.next != Next::Asking)
                .map(|(host, _)| host.to_string()).collect();
        rig.names.asking = 0;
        rig.pass(TTL_MAX.as_secs() + 1);
        prop_assert_eq!(rig.due().into_iter().collect::<BTreeSet<_>>(), used);
    }
}

struct Rig {
    names: Names,
    now: Tick,
}

impl Rig {
    fn new() -> Self {
        Self {
            names: Names::new(3),
            now: Tick(1),
        }
    }

    fn set(&mut self, service: &str, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| Host::from(*host)).collect();
        self.names.set(&name(service), hosts, self.now);
        self.names.check_invariants();
    }

    fn due(&mut self) -> Vec<String> {
        let due = self.names.take_due(self.now);
        self.names.check_invariants();
        due.into_iter().map(String::from).collect()
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    fn found(&mut self, host: &str, addresses: &[&str], ttl: u32) -> Vec<String> {
        let addresses = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
        let ttl = Duration::from_secs(ttl.into());
        self.looked(host, Ok(Found { addresses, ttl }))
    }

    fn failed(&mut self, host: &str) -> Vec<String> {
        self.looked(host, Err(Failure::TimedOut))
    }

    fn looked(&mut self, host: &str, result: Result<Found, Failure>) -> Vec<String> {
        let host = host.into();
        let services = self.names.looked(Looked { host, result }, self.now);
        self.names.check_invariants();
        services
            .iter()
            .map(|service| service.parts().1.to_owned())
            .collect()
    }
}

fn name(service: &str) -> ServiceName {
    ServiceName::parse(&format!("t/{service}:p")).unwrap()
}
