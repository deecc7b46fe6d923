use fairlead_config::xds::{
    endpoints::{address, member_locality},
    proto::{
        core::SocketProtocol,
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
                total_requests_in_progress: active,
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
