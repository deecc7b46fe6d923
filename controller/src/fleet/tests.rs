use fairlead_config::xds::{
    endpoints::{address, member_locality},
    proto::{
        core::SocketProtocol,
        fairlead::{ProxyState, Verdict},
        load_stats::{ClusterStats, UpstreamLocalityStats},
    },
};

use super::*;
use crate::testing::time;

fn at(second: u64) -> Tick {
    Tick::from_start(Duration::from_secs(second))
}

fn id(node: &str) -> ProxyId {
    ProxyId {
        group: "edge".into(),
        node: node.into(),
    }
}

fn report(active: u64, verdicts: &[(&str, VerdictKind)]) -> LoadStatsRequest {
    let member = MemberName::parse("a").unwrap();
    LoadStatsRequest {
        cluster_stats: vec![ClusterStats {
            cluster_name: "shop/web:http".into(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                locality: Some(member_locality(&member)),
                total_active_connections: active,
                ..Default::default()
            }],
            ..Default::default()
        }],
        verdicts: verdicts
            .iter()
            .map(|(addr, kind)| Verdict {
                service: "shop/web:http".into(),
                member: "a".into(),
                address: Some(address(addr.parse().unwrap(), SocketProtocol::Tcp)),
                kind: (*kind).into(),
                reason: "refused 2 times".into(),
                since_unix_millis: 1,
            })
            .collect(),
        ..Default::default()
    }
}

fn load(fleet: &Fleet, second: u64) -> Load {
    let loads = fleet.loads(
        &ServiceKey::new("shop", "web"),
        |group| group == "edge",
        at(second),
    );
    loads.into_values().next().unwrap_or_default()
}

#[test]
fn sessions_add_up_and_are_unknown_while_a_live_proxy_is_silent() {
    let mut fleet = Fleet::default();
    fleet.connected(&id("p1"), "0.1.0");
    fleet.reported(&id("p1"), &report(3, &[]), true, at(0), &time(0));
    assert_eq!(load(&fleet, 1).active, Some(3));
    fleet.connected(&id("p2"), "0.1.0");
    assert_eq!(load(&fleet, 1).active, None, "p2 has not reported");
    fleet.reported(&id("p2"), &report(4, &[]), true, at(2), &time(2));
    assert_eq!(load(&fleet, 2).active, Some(7));
    fleet.reported(&id("p2"), &report(4, &[]), false, at(40), &time(40));
    assert_eq!(load(&fleet, 40).active, None, "p1 fell silent");
    let elsewhere = fleet.loads(&ServiceKey::new("shop", "web"), |_| false, at(40));
    let active = elsewhere.into_values().next().unwrap().active;
    assert_eq!(
        active,
        Some(7),
        "who doesn't serve it need not report on it"
    );
}

#[test]
fn sessions_are_unknown_from_the_beginning_of_a_stream_to_its_first_report() {
    let mut fleet = Fleet::default();
    fleet.connected(&id("p1"), "0.1.0");
    fleet.connected(&id("p2"), "0.1.0");
    for proxy in ["p1", "p2"] {
        fleet.reported(&id(proxy), &report(3, &[]), true, at(0), &time(0));
    }
    assert_eq!(load(&fleet, 1).active, Some(6));
    let name = LoadStatsRequest::default();
    fleet.reported(&id("p1"), &name, true, at(1), &time(1));
    assert_eq!(load(&fleet, 1).active, None, "three are not all there is");
    fleet.reported(&id("p1"), &report(2, &[]), false, at(2), &time(2));
    assert_eq!(load(&fleet, 2).active, Some(5));
}

#[test]
fn verdicts_are_counted_and_the_first_report_of_a_stream_replaces_them() {
    let mut fleet = Fleet::default();
    let bad = VerdictKind::ProbeFailed;
    let both = [("10.0.0.1:80", bad), ("10.0.0.2:80", VerdictKind::Healthy)];
    fleet.reported(&id("p1"), &report(0, &both), true, at(0), &time(0));
    let found = load(&fleet, 0);
    assert_eq!((found.healthy, found.unhealthy), (1, 1));
    fleet.take_dirty(&BTreeSet::new(), at(0));
    fleet.reported(&id("p1"), &report(0, &both[1..]), true, at(1), &time(1));
    let found = load(&fleet, 1);
    assert_eq!((found.healthy, found.unhealthy), (1, 0));
    let (_, services) = fleet.take_dirty(&BTreeSet::new(), at(1));
    assert!(services.contains(&ServiceKey::new("shop", "web")));
    let verdicts = fleet.verdicts(&ServiceKey::new("shop", "web"));
    assert_eq!(verdicts[0].address, "10.0.0.2:80");
}

#[test]
fn a_number_of_sessions_waits_unless_its_service_is_watched_or_the_last_one_ended() {
    let mut fleet = Fleet::default();
    let key = ServiceKey::new("shop", "web");
    let (nobody, watched) = (BTreeSet::new(), BTreeSet::from([key.clone()]));
    fleet.reported(&id("p1"), &report(3, &[]), true, at(0), &time(0));
    assert!(
        fleet.take_dirty(&nobody, at(10)).1.contains(&key),
        "the first report"
    );
    fleet.reported(&id("p1"), &report(4, &[]), false, at(11), &time(11));
    assert!(fleet.take_dirty(&nobody, at(11)).1.is_empty());
    assert!(fleet.take_dirty(&watched, at(11)).1.contains(&key));
    fleet.reported(&id("p1"), &report(5, &[]), false, at(12), &time(12));
    assert!(
        fleet.take_dirty(&nobody, at(20)).1.contains(&key),
        "ten seconds later"
    );
    fleet.reported(&id("p1"), &report(0, &[]), false, at(21), &time(21));
    assert!(
        fleet.take_dirty(&nobody, at(21)).1.contains(&key),
        "the last one ended"
    );
}

#[test]
fn a_refusal_shows_at_its_service_and_its_group_until_it_is_taken_back() {
    let mut fleet = Fleet::default();
    let key = ServiceKey::new("shop", "web");
    fleet.connected(&id("p1"), "0.1.0");
    let refusal = Refusal {
        resource: "Cluster".into(),
        reason: "service shop/web:http: policy.balancer: is new".into(),
    };
    fleet.answered(&id("p1"), None, false, vec![refusal]);
    assert!(fleet.refusals(&key)[0].contains("p1"));
    let of_chunk = "endpoints shop/cart:http/a/10.0.0.1:80: lb_endpoints[0]: has no address";
    assert!(services_in(of_chunk).contains(&ServiceKey::new("shop", "cart")));
    let status = fleet.status("edge", Some("h"), &ProxyGroupStatus::default(), &time(0));
    let programmed = conditions::find(&status.conditions, "Programmed").unwrap();
    assert!(programmed.status == "False" && programmed.message.contains("shop/web:http"));
    assert_eq!((status.connected, status.in_sync), (1, 0));
    let (_, services) = fleet.take_dirty(&BTreeSet::new(), at(0));
    assert!(services.contains(&key));
    fleet.answered(&id("p1"), Some("h"), true, Vec::new());
    assert!(fleet.refusals(&key).is_empty());
    let status = fleet.status("edge", Some("h"), &status, &time(1));
    assert_eq!(status.in_sync, 1);
}

#[test]
fn a_proxy_that_went_stays_in_status_for_a_while() {
    let mut fleet = Fleet::default();
    fleet.connected(&id("p1"), "0.1.0");
    fleet.disconnected(&id("p1"), at(0));
    fleet.sweep(at(599));
    let old = ProxyGroupStatus::default();
    let status = fleet.status("edge", None, &old, &time(0));
    assert_eq!((status.proxies.len(), status.connected), (1, 0));
    fleet.sweep(at(600));
    assert_eq!(fleet.status("edge", None, &old, &time(0)).proxies, []);
}

#[test]
fn what_a_follower_hands_on_counts_as_if_it_were_heard_directly() {
    let proxies = ["p1", "p2"];
    let mut follower = Fleet::default();
    for (at_second, node) in (1..).zip(proxies) {
        follower.connected(&id(node), "0.1.0");
        follower.answered(&id(node), Some("hash"), true, Vec::new());
        let verdicts = [("10.0.0.1:8080", VerdictKind::ProbeFailed)];
        let report = report(at_second, &verdicts);
        follower.reported(&id(node), &report, true, at(0), &time(0));
    }
    let (mut leader, mut source) = (Fleet::default(), Source::default());
    for node in proxies {
        let message = follower.handed_whole(&id(node), true);
        leader.take_handed(&mut source, &message, at(1), &time(1));
    }
    let old = ProxyGroupStatus::default();
    let mut expected = follower.status("edge", Some("hash"), &old, &time(1));
    for proxy in &mut expected.proxies {
        proxy.last_report = Some(time(1));
    }
    let status = leader.status("edge", Some("hash"), &old, &time(1));
    assert_eq!(status, expected);
    assert_eq!((status.connected, status.in_sync), (2, 2));
    let key = ServiceKey::new("shop", "web");
    assert_eq!(leader.verdicts(&key), follower.verdicts(&key));
    assert_eq!(load(&leader, 2), load(&follower, 2));
    assert_eq!(load(&leader, 2).active, Some(3));

    leader.take_handed(
        &mut source,
        &follower.handed(&id("p1"), false),
        at(3),
        &time(3),
    );
    assert_eq!(leader.status("edge", None, &old, &time(3)).connected, 1);
    leader.end_handed(source, at(4));
    assert_eq!(leader.status("edge", None, &old, &time(4)).connected, 0);
    assert_eq!(
        load(&leader, 40).active,
        None,
        "nobody says what p1 and p2 do now"
    );
}

#[test]
fn a_proxy_that_an_earlier_leader_knew_is_unknown_until_it_is_heard_and_not_for_ever() {
    let mut fleet = Fleet::default();
    fleet.connected(&id("p1"), "0.1.0");
    fleet.reported(&id("p1"), &report(0, &[]), true, at(0), &time(0));
    fleet.expect(&id("p1"), "0.1.0", at(0));
    assert_eq!(load(&fleet, 1).active, Some(0), "p1 is here");
    fleet.expect(&id("p2"), "0.1.0", at(0));
    assert_eq!(load(&fleet, 1).active, None, "p2 may have sessions");
    let status = fleet.status("edge", None, &ProxyGroupStatus::default(), &time(1));
    assert_eq!(status.connected, 2);
    fleet.reported(&id("p2"), &report(4, &[]), true, at(2), &time(2));
    assert_eq!(load(&fleet, 3).active, Some(4));
    fleet.expect(&id("p3"), "0.1.0", at(5));
    fleet.sweep(at(20));
    assert_eq!(load(&fleet, 20).active, None);
    fleet.sweep(at(35));
    fleet.reported(&id("p1"), &report(0, &[]), false, at(35), &time(35));
    fleet.reported(&id("p2"), &report(4, &[]), false, at(35), &time(35));
    assert_eq!(load(&fleet, 35).active, Some(4), "p3 never came");
}

#[test]
fn a_proxy_that_vanished_leaves_sessions_unknown_and_one_that_said_it_leaves_none() {
    let mut fleet = Fleet::default();
    for node in ["stays", "vanishes", "leaves"] {
        fleet.connected(&id(node), "0.1.0");
        fleet.reported(&id(node), &report(2, &[]), true, at(0), &time(0));
    }
    let mut last = report(1, &[]);
    last.proxy = Some(ProxyState {
        leaving: true,
        ..ProxyState::default()
    });
    fleet.reported(&id("leaves"), &last, false, at(1), &time(1));
    fleet.disconnected(&id("leaves"), at(2));
    fleet.reported(&id("stays"), &report(2, &[]), false, at(31), &time(31));
    fleet.reported(&id("vanishes"), &report(2, &[]), false, at(31), &time(31));
    assert_eq!(load(&fleet, 32).active, Some(4), "who left has no sessions");
    fleet.disconnected(&id("vanishes"), at(33));
    fleet.reported(&id("stays"), &report(2, &[]), false, at(62), &time(62));
    assert_eq!(
        load(&fleet, 63).active,
        None,
        "who vanished may still serve"
    );
}

#[test]
fn a_service_is_counted_anew_when_a_proxy_falls_silent_or_is_heard_again() {
    let mut fleet = Fleet::default();
    let none = BTreeSet::new();
    fleet.connected(&id("p1"), "0.1.0");
    fleet.reported(&id("p1"), &report(3, &[]), true, at(0), &time(0));
    fleet.sweep(at(1));
    fleet.take_dirty(&none, at(1));
    fleet.sweep(at(29));
    assert!(fleet.take_dirty(&none, at(29)).1.is_empty());
    fleet.sweep(at(30));
    assert_eq!(fleet.take_dirty(&none, at(30)).1.len(), 1, "it fell silent");
    fleet.reported(&id("p1"), &report(3, &[]), false, at(31), &time(31));
    fleet.sweep(at(32));
    assert_eq!(fleet.take_dirty(&none, at(32)).1.len(), 1, "it is back");
    fleet.expect(&id("p2"), "0.1.0", at(33));
    fleet.sweep(at(33));
    assert_eq!(
        fleet.take_dirty(&none, at(33)).1.len(),
        1,
        "somebody is missing"
    );
}

#[test]
fn the_sessions_of_a_proxy_are_news_of_its_group_every_ten_seconds_and_a_still_one_every_minute() {
    let mut fleet = Fleet::default();
    let none = BTreeSet::new();
    let mut say = |sessions: u64, first: bool, second: u64| {
        let message = LoadStatsRequest {
            proxy: Some(ProxyState {
                sessions,
                ..ProxyState::default()
            }),
            ..LoadStatsRequest::default()
        };
        fleet.reported(&id("one"), &message, first, at(second), &time(0));
        let (groups, _) = fleet.take_dirty(&none, at(second));
        groups.contains("edge")
    };
    assert!(say(0, true, 10), "the first report");
    assert!(!say(0, false, 20), "nothing new");
    assert!(say(1, false, 30), "a session");
    assert!(!say(2, false, 35), "too early");
    assert!(say(2, false, 40), "in time");
    assert!(!say(2, false, 90), "a still proxy");
    assert!(say(2, false, 110), "a minute later");
}

#[test]
fn verdicts_are_counted_as_they_come_change_and_go() {
    let mut fleet = Fleet::default();
    let id = ProxyId {
        group: "edge".into(),
        node: "one".into(),
    };
    let mut tell = |verdicts: &[(&str, VerdictKind)], first| {
        fleet.reported(&id, &report(1, verdicts), first, at(1), &time(1));
        let proxy = &fleet.proxies[&id];
        let held: usize = proxy.verdicts.values().map(BTreeMap::len).sum();
        assert_eq!(proxy.verdicts_held, held);
        held
    };
    let (one, two) = ("10.0.0.1:80", "10.0.0.2:80");
    let (well, out) = (VerdictKind::Healthy, VerdictKind::Ejected);
    assert_eq!(tell(&[(one, well), (two, well)], true), 2);
    assert_eq!(tell(&[(one, out), (one, well)], false), 2);
    let unknown = VerdictKind::Unknown;
    assert_eq!(tell(&[(one, unknown), (one, unknown)], false), 1);
    assert_eq!(tell(&[(two, unknown)], false), 0);
    assert_eq!(tell(&[(two, well)], true), 1);
}
