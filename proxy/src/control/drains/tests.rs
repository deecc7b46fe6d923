use super::*;
use crate::testing::services::service;

#[test]
fn a_drained_member_counts_with_weight_0_and_comes_back() {
    let fixture = service("a:2 b:2").build();
    let names = [fixture.name.clone()];
    let drain = member("a", None);
    let mut drains = Drains::default();
    assert!(matches!(
        drains.overlay(&fixture.snapshot, &names),
        Cow::Borrowed(_)
    ));
    assert!(drains.set(drain.clone(), true));
    assert!(!drains.set(drain.clone(), true), "it was drained already");
    let rows = drains.overlay(&fixture.snapshot, &names);
    let weights: Vec<_> = weights(&rows, &fixture.name);
    assert_eq!(weights, [("a".to_owned(), 0), ("b".to_owned(), 100_000)]);
    assert!(drains.set(drain, false));
    assert!(matches!(
        drains.overlay(&fixture.snapshot, &names),
        Cow::Borrowed(_)
    ));
}

#[test]
fn a_drained_endpoint_counts_as_terminating_and_the_others_as_before() {
    let fixture = service("a:3").build();
    let addr = fixture.endpoints()[1].addr;
    let drain = Drain {
        service: None,
        what: Drained::Endpoint(addr),
    };
    assert!(drain.matches(&fixture.snapshot, &fixture.name));
    let mut drains = Drains::default();
    drains.set(drain, true);
    let rows = drains.overlay(&fixture.snapshot, std::slice::from_ref(&fixture.name));
    for (key, row) in &*rows.endpoints[&fixture.name] {
        let drained = key.target == Target::Addr(addr);
        assert_eq!(row.state == ObjectState::Draining, drained);
    }
}

#[test]
fn a_drain_of_one_service_leaves_the_others() {
    let fixture = service("a:1").build();
    let other = ServiceName::parse("shop/other:http").unwrap();
    let drain = member("a", Some(other.clone()));
    assert!(!drain.matches(&fixture.snapshot, &fixture.name));
    let mut drains = Drains::default();
    drains.set(drain, true);
    let rows = drains.overlay(&fixture.snapshot, &[fixture.name.clone(), other]);
    assert_eq!(weights(&rows, &fixture.name), [("a".to_owned(), 100_000)]);
}

#[test]
fn what_no_service_has_matches_nothing() {
    let fixture = service("a:1").build();
    assert!(!member("z", None).matches(&fixture.snapshot, &fixture.name));
    let nowhere = Drain {
        service: None,
        what: Drained::Endpoint("192.0.2.1:1".parse().unwrap()),
    };
    assert!(!nowhere.matches(&fixture.snapshot, &fixture.name));
}

fn member(name: &str, service: Option<ServiceName>) -> Drain {
    Drain {
        service,
        what: Drained::Member(MemberName::parse(name).unwrap()),
    }
}

fn weights(rows: &Snapshot, name: &ServiceName) -> Vec<(String, u32)> {
    let members = rows.services[name]
        .tiers
        .iter()
        .flat_map(|tier| &tier.members);
    members
        .map(|member| (member.name.to_string(), member.weight.thousandths()))
        .collect()
}
