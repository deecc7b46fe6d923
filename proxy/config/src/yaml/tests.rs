use std::{fmt::Write, net::SocketAddr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    endpoint::{ObjectState, Target},
    frontend::{AcceptedVersions, Protocol, SniPattern},
    name::{FrontendName, MemberName, ServiceName},
    policy::{AccessLog, Affinity, Balancer, Policy, Probe},
    service::MemberWeight,
    tests::arbitrary,
};

/// The file that the documentation shows.
const FULL: &str = r#"
admin: 127.0.0.1:9900
workers: 2                             # default: one per core
services:
  - name: shop/checkout:https          # namespace/name:port
    frontends:
      - { protocol: tcp, address: "127.0.0.1:8443" }
      - protocol: tcp
        address: "[::]:9000-9010"
        sni: [A.example, "*.b.example"]
        allow: [10.0.0.0/8, 192.0.2.1]
        proxyProtocol: {accept: any, from: [10.0.0.0/8]}
    policy:
      balancer: p2c
      affinity: none
      healthCheck: { tcp: {}, interval: 1s, timeout: 500ms, unhealthyAfter: 2, healthyAfter: 2 }
      returnAfter: 10s
    tiers:
      - members:
          - name: eu-1
            weight: 80                 # 0-1000; 0 = drain
            endpoints:
              - { address: "10.0.0.1:8443", weight: 1, zone: a }
          - { name: eu-2, weight: 20, endpoints: [ { address: "10.1.0.1:8443" }, { dns: "checkout.internal:8443" } ] }
      - members: [ { name: us-1, endpoints: [ { address: "10.2.0.1:8443" } ] } ]
"#;

fn service_name() -> ServiceName {
    ServiceName::parse("shop/checkout:https").unwrap()
}

/// A file with one service, whose parts are given.
fn with(policy: &str, frontend: &str, members: &str) -> String {
    format!(
        "services:\n  - name: a/b:c\n    frontends: [{frontend}]\n    policy: {{{policy}}}\n    \
         tiers: [{{members: [{members}]}}]\n"
    )
}

fn policy_of(policy: &str) -> Policy {
    let file = parse(with(policy, "", "").as_bytes()).unwrap_or_else(|p| panic!("{p}"));
    file.snapshot
        .services
        .values()
        .next()
        .unwrap()
        .policy
        .clone()
}

fn problems(text: &str) -> Vec<String> {
    let problems = parse(text.as_bytes()).expect_err("has problems");
    problems.list.iter().map(ToString::to_string).collect()
}

/// The only problem of a file.
fn problem(text: &str) -> String {
    let mut all = problems(text);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn the_documented_file_says_what_it_says() {
    let file = parse(FULL.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(file.settings.admin, "127.0.0.1:9900".parse().ok());
    assert_eq!(file.settings.workers, Some(2));
    let service = &file.snapshot.services[&service_name()];
    assert_eq!(service.tiers.len(), 2);
    let eu_1 = &service.tiers[0].members[0];
    assert_eq!(eu_1.weight, MemberWeight::from_points(80).unwrap());
    assert_eq!(service.tiers[1].members[0].weight, MemberWeight::DEFAULT);
    let check = service.policy.health_check.as_ref().unwrap();
    assert!(
        matches!(&check.probe, Probe::Tcp { send, expect } if send.is_empty() && expect.is_empty())
    );
    let name = FrontendName::parse("shop/checkout:https#1").unwrap();
    let frontend = &file.snapshot.frontends[&name];
    assert_eq!(frontend.protocol, Protocol::Tcp);
    assert_eq!(frontend.ports, 9000..=9010);
    let sni = [
        SniPattern::Exact("a.example".to_owned()),
        SniPattern::Suffix("b.example".to_owned()),
    ];
    assert_eq!(frontend.sni, sni);
    assert_eq!(frontend.allow[1].to_string(), "192.0.2.1/32");
    let accept = frontend.proxy_protocol.as_ref().unwrap();
    assert_eq!(accept.versions, AcceptedVersions::Any);
    let endpoints = &file.snapshot.endpoints[&service_name()];
    assert_eq!(endpoints.len(), 4);
    let dns = Target::Dns {
        host: "checkout.internal".into(),
        port: 8443,
    };
    assert!(endpoints.keys().any(|key| key.target == dns));
}

#[test]
fn a_service_without_a_policy_has_every_default() {
    let file = parse(b"services: [{name: a/b:c, tiers: []}]").unwrap();
    let service = file.snapshot.services.values().next().unwrap();
    assert_eq!(service.policy, Policy::default());
    assert_eq!(policy_of(""), Policy::default());
}

#[test]
fn every_key_of_the_policy_reaches_its_field() {
    let policy = policy_of(
        "balancer: maglev, affinity: client-ip, affinitySeed: 7, spillFactor: 1.25, minHealthy: 2, \
         noFallback: true, panicBelow: 30%, returnAfter: off, slowStart: 1m30s, passive: {maxEjected: 10 %}, \
         hedge: off, timeouts: {connect: 1s, idle: off, udpIdle: 5s, lifetime: 1h, halfClosed: off, user: off}, \
         keepalive: {idle: off, interval: 5s, probes: 9}, \
         drain: {draining: 1s, removed: 0s, unhealthy: reset, resetsPerSecond: 1}, \
         limits: {connections: 1, connectionsPerClient: 2, connectionsPerEndpoint: 6, newPerSecond: 3, \
         newPerSecondPerClient: 4, flows: off}, proxyProtocol: v2, accessLog: ./log",
    );
    assert_eq!(
        (policy.balancer, policy.affinity),
        (Balancer::Maglev, Affinity::ClientIp)
    );
    assert_eq!(
        (
            policy.affinity_seed,
            policy.spill_factor,
            policy.min_healthy
        ),
        (7, 1250, 2)
    );
    assert_eq!(
        (policy.no_fallback, policy.panic_below, policy.hedge),
        (true, 30, false)
    );
    assert_eq!(
        (policy.return_after, policy.slow_start),
        (Duration::ZERO, Duration::from_secs(90))
    );
    assert_eq!(policy.passive.max_ejected, 10);
    assert_eq!(policy.timeouts.idle, None);
    assert_eq!(policy.timeouts.lifetime, Some(Duration::from_secs(3600)));
    assert_eq!(
        (policy.timeouts.half_closed, policy.timeouts.user),
        (None, None)
    );
    assert_eq!(policy.keepalive.idle, Duration::ZERO);
    assert_eq!(policy.keepalive.probes, 9);
    assert_eq!(policy.drain.removed, Duration::ZERO);
    assert_eq!(policy.limits.connections_per_client, Some(2));
    assert_eq!(policy.limits.connections_per_endpoint, Some(6));
    assert_eq!(policy.limits.flows, None);
    assert_eq!(policy.access_log, AccessLog::File("./log".into()));
}

#[test]
fn probes_are_read_with_their_bytes_and_ranges() {
    let probe = |text: &str| {
        policy_of(&format!("healthCheck: {{{text}}}"))
            .health_check
            .unwrap()
    };
    let http = probe("http: {path: /healthz, host: a, statuses: 200-204}").probe;
    let Probe::Http {
        path,
        host,
        statuses,
    } = http
    else {
        panic!("an HTTP probe");
    };
    assert_eq!(
        (&*path, host.as_deref(), statuses),
        ("/healthz", Some("a"), (200, 204))
    );
    let udp = probe(r#"udp: {send: {hex: "00fF"}, expect: "pong\n"}, interval: 200ms, port: 99"#);
    let Probe::Udp { send, expect } = &udp.probe else {
        panic!("a UDP probe");
    };
    assert_eq!((&**send, &**expect), (&[0, 255][..], &b"pong\n"[..]));
    assert_eq!(
        (udp.timeout, udp.port),
        (Duration::from_millis(200), Some(99))
    );
    assert!(matches!(probe("grpc: {}").probe, Probe::Grpc { service } if service.is_empty()));
}

#[test]
fn endpoints_carry_weight_zone_and_state() {
    let member = r#"{name: m, weight: 0.5, endpoints: [{address: "[fd00::1]:80", weight: 9, zone: z, state: draining, hop: direct}]}"#;
    let file = parse(with("", "", member).as_bytes()).unwrap();
    let row = file.snapshot.endpoints.values().next().unwrap();
    let endpoint = row.values().next().unwrap();
    let addr: SocketAddr = "[fd00::1]:80".parse().unwrap();
    assert_eq!(endpoint.key.target, Target::Addr(addr));
    assert_eq!((endpoint.weight, endpoint.zone.as_deref()), (9, Some("z")));
    assert_eq!(endpoint.state, ObjectState::Draining);
    let service = file.snapshot.services.values().next().unwrap();
    assert_eq!(service.tiers[0].members[0].weight.thousandths(), 500);
}

#[test]
fn all_problems_come_at_once_with_line_column_and_path() {
    let text = "admin: nowhere
serivces: []
services:
  - name: shop
    tiers:
      - members:
          - name: eu-1
            wieght: 5
            endpoints:
              - { address: checkout:80, weight: 0 }
    policy: { balancer: p2x, returnAfter: 10, panicBelow: 101 }
";
    let expected = [
        "1:8: admin: nowhere is no address with a port, such as 127.0.0.1:9900",
        "2:1: serivces: unknown key; did you mean services?",
        "4:11: services[0].name: shop has no namespace; write namespace/name:port",
        "8:13: services[0].tiers[0].members[0].wieght: unknown key; did you mean weight?",
        "10:28: services[0].tiers[0].members[0].endpoints[0].address: \"checkout:80\" is no IP \
         address with a port; for a name write dns instead of address",
        "10:49: services[0].tiers[0].members[0].endpoints[0].weight: 0 is out of range; use 1 to 1000",
        "11:25: services[0].policy.balancer: p2x is not one of p2c, round-robin, least-connections, \
         random, maglev, rendezvous; did you mean p2c?",
        "11:43: services[0].policy.returnAfter: 10 is no duration; use a number with a unit, such \
         as 500ms, 1s, 5m or 1h",
        "11:59: services[0].policy.panicBelow: 101 is out of range; use 0 to 100",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn what_stands_twice_is_refused() {
    let twice = "services:
  - { name: a/b:c, tiers: [] }
  - { name: a/b:c, tiers: [], tiers: [] }
  - name: a/b:d
    tiers:
      - members: [ { name: m, endpoints: [ { address: '1.1.1.1:1' }, { address: '1.1.1.1:1' } ] } ]
      - members: [ { name: m } ]
";
    let expected = [
        "3:13: services[1].name: a/b:c stands in line 2 already",
        "3:31: services[1].tiers: stands here twice",
        "6:70: services[2].tiers[0].members[0].endpoints[1]: 1.1.1.1:1 is in this member already, in line 6",
        "7:28: services[2].tiers[1].members[0].name: m is in this service already, in line 6",
    ];
    assert_eq!(problems(twice), expected);
}

#[test]
fn frontends_that_share_clients_are_refused_and_others_are_not() {
    let two = |left: &str, right: &str| {
        let frontend = |rest: &str| format!("{{protocol: tcp, {rest}}}");
        with("", &format!("{}, {}", frontend(left), frontend(right)), "")
    };
    let at = |ports: &str, sni: &str| format!("address: '0.0.0.0:{ports}', sni: [{sni}]");
    let plain = |ports: &str| format!("address: '0.0.0.0:{ports}'");
    let message = problem(&two(&plain("80-90"), &plain("85")));
    assert_eq!(
        message,
        "3:60: services[0].frontends[1]: takes tcp/0.0.0.0:85, which services[0].frontends[0] in line 3 takes already"
    );
    let proxy = |rest: &str| format!("{rest}, proxyProtocol: {{from: [10.0.0.0/8]}}");
    let differ = two(&proxy(&at("80", "a")), &at("80", "b"));
    assert!(problem(&differ).contains("differs in proxyProtocol"));
    let agree = two(&proxy(&at("80", "a")), &proxy(&at("80", "b")));
    assert!(parse(agree.as_bytes()).is_ok());
    assert!(problem(&two(&at("80", "a, '*.b'"), &at("80", "c, '*.b'"))).contains("for *.b"));
    for good in [
        two(&plain("80-84"), &plain("85")),
        two(&plain("80"), &at("80", "a")),
        two(&at("80", "a"), &at("80", "b")),
        two(&plain("80"), "address: '127.0.0.1:80'"),
    ] {
        assert!(parse(good.as_bytes()).is_ok(), "{good}");
    }
    let wide_first = "{protocol: tcp, address: '0.0.0.0:1-99'}, {protocol: tcp, address: '0.0.0.0:5'}, \
                      {protocol: tcp, address: '0.0.0.0:50'}";
    assert_eq!(problems(&with("", wide_first, "")).len(), 2);
}

#[test]
fn a_gateway_hop_is_refused_until_it_is_built() {
    let member = "{name: m, endpoints: [{address: '1.1.1.1:1', hop: {via: {gateway: '2.2.2.2:2', serverName: x}}}]}";
    assert!(problem(&with("", "", member)).contains("gateways are not supported yet"));
}

#[test]
fn values_of_a_policy_are_refused_with_what_is_allowed() {
    let policies = [
        ("healthCheck: {}", "exactly one of tcp, http, grpc, udp"),
        ("healthCheck: {tcp: {}, http: {}}", "exactly one of"),
        ("healthCheck: {tcp: {}, interval: 50ms}", "use 100ms to 1h"),
        (
            "healthCheck: {tcp: {}, interval: 1s, timeout: 2s}",
            "use 1ms to 1s",
        ),
        (
            "healthCheck: {tcp: {send: {hex: 0}}}",
            "pairs of hexadecimal digits",
        ),
        ("healthCheck: {http: {path: x}}", "is no path"),
        (
            "healthCheck: {http: {statuses: 299-200}}",
            "is no range of HTTP statuses",
        ),
        ("spillFactor: 0.5", "a number, 1 to 10"),
        ("spillFactor: 1.0001", "a number, 1 to 10"),
        ("keepalive: {idle: 1500ms}", "whole number of seconds"),
        ("keepalive: {interval: 0s}", "use 1s to 32767s"),
        ("limits: {connections: 0}", "use 1 to"),
        ("accessLog: stdot", "is not off, stdout or the path"),
        ("timeouts: {connect: off}", "is no duration"),
        ("timeouts: 5s", "is a single value; expected a map"),
        ("noFallback: yes", "is not one of true, false"),
        ("minHealthy: -1", "is no number"),
        ("balancer: ", "is without a value"),
        ("proxyProtocol: v3", "is not one of off, v1, v2"),
    ];
    for (policy, wanted) in policies {
        let message = problem(&with(policy, "", ""));
        assert!(message.contains(wanted), "{policy}: {message}");
    }
}

#[test]
fn values_of_a_frontend_are_refused_with_what_is_allowed() {
    let frontends = [
        (
            "{protocol: tcp, address: '0.0.0.0:0'}",
            "is no address with a port",
        ),
        (
            "{protocol: tcp, address: '0.0.0.0:9-8'}",
            "is no address with a port",
        ),
        ("{protocol: tcp, address: '224.0.0.1:9'}", "multicast"),
        (
            "{protocol: udp, address: '0.0.0.0:9', sni: [a]}",
            "TCP frontends only",
        ),
        ("{protocol: tcp, address: '0.0.0.0:9', sni: []}", "is empty"),
        (
            "{protocol: tcp, address: '0.0.0.0:9', sni: ['*']}",
            "is no server name",
        ),
        (
            "{protocol: tcp, address: '0.0.0.0:9', sni: [a, A]}",
            "stands here twice",
        ),
        (
            "{protocol: tcp, address: '0.0.0.0:9', allow: [10.1.0.0/8]}",
            "use 10.0.0.0/8",
        ),
        (
            "{protocol: tcp, address: '0.0.0.0:9', allow: [10/8]}",
            "is no network",
        ),
        (
            "{protocol: tcp, address: '0.0.0.0:9', proxyProtocol: {}}",
            "from is missing",
        ),
        ("{address: '0.0.0.0:9'}", "protocol is missing"),
    ];
    for (frontend, wanted) in frontends {
        let message = problem(&with("", frontend, ""));
        assert!(message.contains(wanted), "{frontend}: {message}");
    }
}

#[test]
fn values_of_a_member_are_refused_with_what_is_allowed() {
    let members = [
        ("{name: m, weight: 1001}", "0 to 1000"),
        ("{name: M}", "is no DNS label"),
        ("{name: m, endpoints: [{}]}", "needs address or dns"),
        (
            "{name: m, endpoints: [{address: '1.1.1.1:1', dns: 'a.b:1'}]}",
            "one of the two",
        ),
        (
            "{name: m, endpoints: [{dns: '1.1.1.1:1'}]}",
            "write address instead",
        ),
        (
            "{name: m, endpoints: [{address: '0.0.0.0:1'}]}",
            "cannot be connected to",
        ),
        (
            "{name: m, endpoints: [{dns: 'a.b'}]}",
            "is no host name with a port",
        ),
    ];
    for (member, wanted) in members {
        let message = problem(&with("", "", member));
        assert!(message.contains(wanted), "{member}: {message}");
    }
}

#[test]
fn documents_that_are_no_configuration_are_refused() {
    let cases: [(&[u8], &str); 9] = [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"admin: 127.0.0.1:1", "services is missing"),
        (b"[]", "is a list; expected a map with the keys admin"),
        (b"services: []\n---\nservices: []", "a second document"),
        (b"services: !!seq []", "tags are not supported"),
        (b"services: [", "is no valid YAML"),
        (b"services: \xff", "is no UTF-8 text"),
        (b"services: &a [*a]", "an alias"),
    ];
    for (bytes, wanted) in cases {
        let problems = parse(bytes).expect_err("refused");
        let text = problems.to_string();
        assert!(
            text.contains(wanted),
            "{:?}: {text}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn aliases_stand_for_their_anchor() {
    let text = "services:
  - { name: a/b:c, policy: &p { balancer: random }, tiers: [] }
  - { name: a/b:d, policy: *p, tiers: [] }
";
    let file = parse(text.as_bytes()).unwrap();
    let mut policies = file
        .snapshot
        .services
        .values()
        .map(|service| &service.policy);
    assert!(policies.all(|policy| policy.balancer == Balancer::Random));
    assert!(problem("services: []\n<<: {a: b}").contains("merge keys are not supported"));
}

#[test]
fn depth_aliases_size_and_problems_have_limits() {
    let deep = format!("services: {}{}", "[".repeat(40), "]".repeat(40));
    assert!(problem(&deep).contains("nested deeper than 32"));
    let deep_block: String = (0..60)
        .map(|depth| format!("{:1$}a:\n", "", depth))
        .collect();
    assert!(problem(&deep_block).contains("nested deeper than 32"));

    let many = format!("services: [&a x{}]", ", *a".repeat(tree::ALIASES_MAX + 1));
    assert!(problem(&many).contains("more than 10000 aliases"));

    // Each level names the one before ten times: a billion values in a hundred bytes.
    let mut laughs = String::from("a0: &a0 [x]\n");
    for level in 1..10 {
        let names = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{names}]").unwrap();
    }
    assert!(problem(&laughs).contains("more than 8000000 values"));

    let large = vec![b' '; FILE_BYTES_MAX + 1];
    let problems = parse(&large).expect_err("too large");
    assert!(
        problems
            .to_string()
            .contains("is the limit; use a control plane")
    );

    let wrong: String = (0..250).map(|key| format!("x{key}: 1\n")).collect();
    let problems = parse(wrong.as_bytes()).expect_err("250 unknown keys, no services");
    assert_eq!((problems.list.len(), problems.more), (100, 151));
    assert!(problems.to_string().ends_with("and 151 more"));
}

#[test]
fn durations_read_and_write() {
    for (text, millis) in [
        ("1s", 1000),
        ("500ms", 500),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("1m30s", 90_000),
        ("0s", 0),
    ] {
        assert_eq!(
            rule::parse_duration(text),
            Some(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "",
        "5",
        "s",
        "1.5s",
        "1s1m",
        "1s1s",
        "-1s",
        "1d",
        "99999999999999999999s",
        "1 s",
    ] {
        assert_eq!(rule::parse_duration(text), None, "{text}");
    }
}

#[test]
fn the_quick_start_is_a_valid_file() {
    let text = include_bytes!("../../../../examples/quickstart.yaml");
    let file = parse(text).unwrap_or_else(|problems| panic!("{problems}"));
    let protocols = file
        .snapshot
        .frontends
        .values()
        .map(|frontend| frontend.protocol);
    assert!(protocols.clone().any(|protocol| protocol == Protocol::Tcp));
    assert!(protocols.clone().any(|protocol| protocol == Protocol::Udp));
}

/// What the fuzz target `config` checks, on its corpus.
#[test]
fn the_corpus_is_refused_with_reasons_or_survives_writing() {
    let mut accepted = 0;
    for (name, bytes) in arbitrary::corpus("config") {
        match parse(&bytes) {
            Ok(file) => {
                let text = encode(&file.settings, &file.snapshot);
                assert_eq!(parse(text.as_bytes()), Ok(file), "{name}");
                accepted += 1;
            }
            Err(problems) => assert!(!problems.list.is_empty(), "{name}"),
        }
    }
    assert!(accepted > 3, "the corpus has good files, too");
}

#[test]
#[ignore = "prints what a file costs on this machine"]
fn cost_of_a_thousand_endpoints() {
    let mut text = String::from("services:\n");
    for service in 0..100 {
        writeln!(text, "  - name: shop/s{service}:http\n    tiers:\n      - members:\n          - name: m\n            endpoints:").unwrap();
        for endpoint in 0..1000 {
            writeln!(
                text,
                "              - {{ address: \"10.{service}.{}.{}:80\", weight: 1 }}",
                endpoint / 250,
                endpoint % 250 + 1
            )
            .unwrap();
        }
    }
    let before = resident_peak_kb();
    let start = std::time::Instant::now();
    let file = parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    let read = start.elapsed();
    let peak = resident_peak_kb() - before;
    let start = std::time::Instant::now();
    let written = encode(&file.settings, &file.snapshot);
    println!(
        "per 1,000 endpoints: {} kB of file, read in {:?} with {} kB at the peak, written in {:?}",
        text.len() / 100_000,
        read / 100,
        peak / 100,
        start.elapsed() / 100,
    );
    assert!(!written.is_empty());
}

/// VmHWM of this process.
fn resident_peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(snapshot in arbitrary::snapshot(), workers in proptest::option::of(1..=1024_u16), allow: bool) {
        let settings = Settings {
            admin: workers.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
            workers,
            drain_timeout: workers.map(|n| Duration::from_millis(n.into())),
            shutdown_delay: None,
            allow_mass_removal: allow,
        };
        let text = encode(&settings, &snapshot);
        let file = parse(text.as_bytes()).map_err(|p| TestCaseError::fail(format!("{p}\n{text}")))?;
        prop_assert_eq!(file, File { settings, snapshot });
    }

    #[test]
    fn durations_survive_writing(nanos in 0..u64::MAX / 2) {
        let value = Duration::from_nanos(nanos);
        prop_assert_eq!(rule::parse_duration(&rule::write_duration(value)), Some(value));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(problems) = parse(&bytes) {
            prop_assert!(!problems.list.is_empty());
        }
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_parser_panic(
        cuts in proptest::collection::vec((0..FULL.len(), "[\\[\\]{}:,&*!|>'\"%@`#?\n -]{0,3}"), 1..4),
    ) {
        let mut text = FULL.to_owned();
        for (at, insert) in cuts {
            let at = at.min(text.len());
            if text.is_char_boundary(at) {
                let end = (at + insert.len()).min(text.len());
                if text.is_char_boundary(end) {
                    text.replace_range(at..end, &insert);
                }
            }
        }
        if let Err(problems) = parse(text.as_bytes()) {
            prop_assert!(!problems.list.is_empty());
        }
    }
}

#[test]
fn member_names_in_two_services_are_two_members() {
    let text = "services:
  - { name: a/b:c, tiers: [ { members: [ { name: m } ] } ] }
  - { name: a/b:d, tiers: [ { members: [ { name: m } ] } ] }
";
    let file = parse(text.as_bytes()).unwrap();
    let m = MemberName::parse("m").unwrap();
    assert!(
        file.snapshot
            .services
            .values()
            .all(|service| service.tiers[0].members[0].name == m)
    );
}
