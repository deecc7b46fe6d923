use fairlead_api::{
    labels,
    mcs::ServicePort,
    member::TrafficClaim,
    proxy::Locality,
    service::{Affinity as ApiAffinity, Failover, MemberWeight, Relative, TierSpec},
};
use fairlead_config::{
    endpoint::ObjectState,
    policy::{Affinity, Probe},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::*;
use crate::testing::{export, group, member, port, service, slice};

fn key() -> ServiceKey {
    ServiceKey::new("shop", "web")
}

fn ports() -> Vec<ServicePort> {
    vec![port("http", "TCP", 80), port("dns", "UDP", 53)]
}

/// Members a (eu-1), b (eu-2) and c (us-1) export `shop/web` with one endpoint each.
fn world(policy: MultiClusterService) -> World {
    let mut world = World::new(Default::default());
    for (at, (name, region, zone)) in [("a", "eu", "1"), ("b", "eu", "2"), ("c", "us", "1")]
        .into_iter()
        .enumerate()
    {
        let mut object = member(name);
        object.metadata.labels = Some(BTreeMap::from([
            (labels::REGION.to_owned(), region.to_owned()),
            (labels::ZONE.to_owned(), zone.to_owned()),
            ("team".to_owned(), "shop".to_owned()),
        ]));
        world.apply(object.into());
        world.apply(export(name, "web", at as i64, ports()).into());
        let ip = format!("10.0.{at}.1");
        world.apply(slice(name, "web", "s", &ports(), &[&ip]).into());
    }
    let mut edge = group("edge");
    edge.spec.locality = Some(Locality {
        region: Some("eu".into()),
        zone: Some("2".into()),
    });
    world.apply(edge.into());
    world.apply(policy.into());
    world
}

fn policy() -> MultiClusterService {
    service("web", "web", "edge")
}

/// The rows of group edge.
fn told(world: &World) -> Rows {
    let aggregate = world.aggregate(&key());
    let backend = backend(world, &key(), aggregate.import.as_ref().unwrap());
    rows(world, &key(), &backend, &world.views["edge"], None)
}

/// Members and weights in points, tier by tier, of port http.
fn tiers(world: &World) -> Vec<Vec<(String, u32)>> {
    let rows = told(world);
    let http = rows
        .services
        .iter()
        .find(|one| one.name.parts().2 == "http");
    let tiers = http.unwrap().tiers.iter();
    tiers
        .map(|tier| {
            let members = tier.members.iter();
            members
                .map(|one| (one.name.to_string(), one.weight.thousandths() / 1000))
                .collect()
        })
        .collect()
}

fn relative(relative: Relative) -> TierSpec {
    TierSpec {
        relative: Some(relative),
        ..Default::default()
    }
}

#[test]
fn tiers_are_seen_from_where_the_proxies_are() {
    let mut near = policy();
    near.spec.tiers = vec![
        relative(Relative::SameZone),
        relative(Relative::SameRegion),
        TierSpec {
            selector: Some(LabelSelector::default()),
            ..Default::default()
        },
    ];
    let mut world = world(near);
    let one = |name: &str| vec![(name.to_owned(), 100)];
    assert_eq!(tiers(&world), [one("b"), one("a"), one("c")]);
    let mut moved = group("edge");
    moved.spec.member = Some("c".into());
    world.apply(moved.into());
    let rest = vec![("a".to_owned(), 100), ("b".to_owned(), 100)];
    assert_eq!(tiers(&world), [one("c"), rest]);
}

#[test]
fn a_member_is_in_the_first_tier_that_selects_it_or_in_none() {
    let mut named = policy();
    named.spec.tiers = vec![
        TierSpec {
            members: vec!["c".into()],
            ..Default::default()
        },
        TierSpec {
            members: vec!["c".into(), "a".into()],
            ..Default::default()
        },
    ];
    let world = world(named);
    let one = |name: &str| vec![(name.to_owned(), 100)];
    assert_eq!(tiers(&world), [one("c"), one("a")], "b is in none");
}

#[test]
fn a_weight_is_the_members_own_else_its_tiers_else_the_exports_else_a_hundred() {
    let mut weighted = policy();
    weighted.spec.weights = vec![MemberWeight {
        member: "a".into(),
        weight: 7,
    }];
    weighted.spec.tiers = vec![
        TierSpec {
            members: vec!["a".into(), "b".into()],
            weight: Some(30),
            ..Default::default()
        },
        relative(Relative::SameRegion),
        TierSpec {
            members: vec!["c".into()],
            ..Default::default()
        },
    ];
    let mut world = world(weighted);
    let mut stated = export("c", "web", 2, ports());
    stated.spec.weight = Some(55);
    world.apply(stated.into());
    let named = |all: &[(&str, u32)]| -> Vec<(String, u32)> {
        let all = all.iter();
        all.map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect()
    };
    assert_eq!(
        tiers(&world),
        [named(&[("a", 7), ("b", 30)]), named(&[("c", 55)])]
    );
    let mut claimed = member("c");
    claimed.spec.traffic_claims = vec![TrafficClaim {
        owner: "run".into(),
        permille: 200,
        reason: String::new(),
        since: None,
        services: None,
    }];
    world.apply(claimed.into());
    assert_eq!(tiers(&world)[1], named(&[("c", 11)]));
}

#[test]
fn endpoints_keep_their_conditions_and_each_refused_address_its_reason() {
    let mut world = world(policy());
    let ips = ["10.0.0.1", "169.254.169.254", "10.0.0.2"];
    let mut object = slice("a", "web", "s", &ports(), &ips);
    let endpoints = object.endpoints.as_mut().unwrap();
    let leaving = endpoints[2].conditions.as_mut().unwrap();
    (leaving.ready, leaving.serving, leaving.terminating) = (Some(false), Some(true), Some(true));
    world.apply(object.into());
    let rows = told(&world);
    let (_, http) = rows
        .endpoints
        .iter()
        .find(|(name, _)| name.parts().2 == "http")
        .unwrap();
    let a = MemberName::parse("a").unwrap();
    let states: Vec<ObjectState> = http.of_member(&a).iter().map(|row| row.state).collect();
    assert_eq!(states, [ObjectState::Ready, ObjectState::Draining]);
    let aggregate = world.aggregate(&key());
    let part = &backend(&world, &key(), aggregate.import.as_ref().unwrap()).members[&a];
    assert_eq!((part.endpoints, part.ready), (2, 1));
    assert!(part.refused[0].0 == "169.254.169.254" && part.refused[0].1.contains("link-local"));
}

#[test]
fn what_a_policy_says_is_what_proxies_are_told_and_the_rest_are_their_defaults() {
    let mut said = policy();
    said.spec.affinity = Some(ApiAffinity::FiveTuple);
    said.spec.failover = Some(Failover {
        spill_factor: Some(1000),
        no_fallback: Some(true),
        ..Default::default()
    });
    said.spec.health_check = Some(fairlead_api::service::HealthCheck {
        http: Some(fairlead_api::service::HttpProbe {
            path: "/ready".into(),
            host: None,
        }),
        interval: Some("2s".parse().unwrap()),
        timeout: Some("5s".parse().unwrap()),
        ..Default::default()
    });
    let rows = told(&world(said));
    let policy = &rows
        .services
        .iter()
        .find(|one| one.name.parts().2 == "http")
        .unwrap()
        .policy;
    assert_eq!(
        (policy.affinity, policy.spill_factor),
        (Affinity::FiveTuple, 1000)
    );
    assert!(policy.no_fallback && policy.hedge);
    let check = policy.health_check.as_ref().unwrap();
    assert!(matches!(&check.probe, Probe::Http { path, .. } if &**path == "/ready"));
    assert_eq!(
        check.timeout, check.interval,
        "a timeout is at most the interval"
    );
}

#[test]
fn a_port_routes_only_to_members_that_expose_it() {
    let mut world = world(policy());
    world.apply(export("b", "web", 1, vec![port("http", "TCP", 80)]).into());
    let rows = told(&world);
    let who: Vec<Vec<String>> = rows
        .endpoints
        .iter()
        .map(|(_, all)| all.keys().map(|key| key.member.to_string()).collect())
        .collect();
    assert_eq!(who, [vec!["a", "b", "c"], vec!["a", "c"]]);
}
