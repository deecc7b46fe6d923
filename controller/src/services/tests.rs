use fairlead_api::export::ExportRecord;
use k8s_openapi::api::core::v1::{ClientIPConfig, SessionAffinityConfig};
use proptest::prelude::*;

use super::*;
use crate::{
    testing::{member, port, time},
    world::{Kind, Object},
};

fn key() -> ServiceKey {
    ServiceKey::new("shop", "web")
}

fn export(member: &str, age: i64, ports: Vec<ServicePort>) -> ExportRecord {
    crate::testing::export(member, "web", age, ports)
}

fn world(exports: Vec<ExportRecord>) -> World {
    let mut world = World::new(Settings::default());
    for name in ["a", "b", "c", "d", "e"] {
        world.apply(Object::Member(Box::new(member(name))));
    }
    for record in exports {
        world.apply(Object::Export(Box::new(record)));
    }
    world
}

fn conflicts(aggregate: &Aggregate) -> Vec<Vec<&str>> {
    let outcomes = aggregate.outcomes.values();
    outcomes
        .filter_map(|outcome| match outcome {
            Outcome::Accepted { conflicts, .. } => {
                Some(conflicts.iter().map(|conflict| conflict.reason).collect())
            }
            Outcome::Refused { .. } => None,
        })
        .collect()
}

fn refused(aggregate: &Aggregate) -> Vec<(&str, &'static str)> {
    let outcomes = aggregate.outcomes.iter();
    outcomes
        .filter_map(|(slot, outcome)| match outcome {
            Outcome::Refused { reason, .. } => Some((slot.member.as_str(), *reason)),
            Outcome::Accepted { .. } => None,
        })
        .collect()
}

#[test]
fn the_oldest_export_wins_every_field_and_every_export_shows_it() {
    let mut old = export("b", 0, vec![port("http", "TCP", 80)]);
    old.spec.session_affinity = Some("ClientIP".into());
    old.spec.exported_labels = BTreeMap::from([("team".into(), "shop".into())]);
    let mut new = export("a", 5, vec![port("http", "TCP", 80)]);
    new.spec.kind = ServiceImportType::Headless;
    new.spec.exported_annotations = BTreeMap::from([("note".into(), "x".into())]);
    new.spec.internal_traffic_policy = Some("Local".into());
    new.spec.traffic_distribution = Some("PreferClose".into());
    new.spec.ip_families = vec!["IPv6".into()];
    let aggregate = aggregate(&world(vec![new, old]), &key());
    let import = aggregate.import.as_ref().unwrap();
    assert_eq!(import.kind, ServiceImportType::ClusterSetIP);
    assert_eq!(import.fields.session_affinity.as_deref(), Some("ClientIP"));
    assert_eq!(import.labels["team"], "shop");
    assert!(import.annotations.is_empty());
    let expected = vec![
        reason::TYPE_CONFLICT,
        reason::SESSION_AFFINITY_CONFLICT,
        reason::SESSION_AFFINITY_CONFIG_CONFLICT,
        reason::LABELS_CONFLICT,
        reason::ANNOTATIONS_CONFLICT,
        reason::INTERNAL_TRAFFIC_POLICY_CONFLICT,
        reason::TRAFFIC_DISTRIBUTION_CONFLICT,
        reason::IP_FAMILY_CONFLICT,
    ];
    assert_eq!(conflicts(&aggregate), vec![expected.clone(), expected]);
}

#[test]
fn a_conflict_names_the_winner_and_counts_who_disagrees() {
    let mut exports: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .enumerate()
        .map(|(age, name)| export(name, age as i64, vec![port("http", "TCP", 80)]))
        .collect();
    exports[2].spec.kind = ServiceImportType::Headless;
    exports[4].spec.kind = ServiceImportType::Headless;
    let aggregate = aggregate(&world(exports), &key());
    let Outcome::Accepted { conflicts, .. } = aggregate.outcomes.values().next().unwrap() else {
        panic!("refused");
    };
    assert_eq!(
        conflicts[0].message,
        "Conflicting type. Using \"ClusterSetIP\" from oldest service export in \"a\". 2/5 clusters disagree."
    );
}

#[test]
fn a_timeout_conflicts_only_where_there_is_affinity() {
    let with = |member: &str, age, seconds| {
        let mut record = export(member, age, vec![port("", "TCP", 80)]);
        record.spec.session_affinity = Some("ClientIP".into());
        record.spec.session_affinity_config = Some(SessionAffinityConfig {
            client_ip: Some(ClientIPConfig {
                timeout_seconds: Some(seconds),
            }),
        });
        record
    };
    let both = aggregate(&world(vec![with("a", 0, 10), with("b", 1, 20)]), &key());
    assert_eq!(
        conflicts(&both)[0],
        vec![reason::SESSION_AFFINITY_CONFIG_CONFLICT]
    );
    let same = aggregate(&world(vec![with("a", 0, 10), with("b", 1, 10)]), &key());
    assert!(conflicts(&same)[0].is_empty());
}

#[test]
fn ports_are_a_union_in_the_order_of_age_and_route_only_to_who_exposes_them() {
    let exports = vec![
        export(
            "b",
            0,
            vec![port("http", "TCP", 80), port("dns", "UDP", 53)],
        ),
        export(
            "a",
            5,
            vec![port("admin", "TCP", 9000), port("http", "TCP", 80)],
        ),
    ];
    let aggregate = aggregate(&world(exports), &key());
    let ports = &aggregate.import.as_ref().unwrap().ports;
    let names: Vec<_> = ports.iter().map(|port| port.port.name()).collect();
    assert_eq!(names, ["http", "dns", "admin"]);
    let who: Vec<Vec<&str>> = ports
        .iter()
        .map(|port| port.exposed_by.keys().map(MemberName::as_str).collect())
        .collect();
    assert_eq!(who, [vec!["a", "b"], vec!["b"], vec!["a"]]);
    assert!(conflicts(&aggregate)[0].is_empty());
}

#[test]
fn a_name_with_another_number_is_a_conflict_and_gets_no_traffic() {
    let exports = vec![
        export("a", 0, vec![port("http", "TCP", 80)]),
        export("b", 1, vec![port("http", "TCP", 8080)]),
    ];
    let aggregate = aggregate(&world(exports), &key());
    let ports = &aggregate.import.as_ref().unwrap().ports;
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].port.port, 80);
    assert_eq!(ports[0].exposed_by.len(), 1);
    assert_eq!(conflicts(&aggregate), vec![vec![reason::PORT_CONFLICT]; 2]);
    assert_eq!(aggregate.import.unwrap().members.len(), 2);
}

#[test]
fn a_number_under_another_name_is_a_conflict_and_still_served() {
    let exports = vec![
        export("a", 0, vec![port("http", "TCP", 80)]),
        export("b", 1, vec![port("web", "TCP", 80)]),
    ];
    let aggregate = aggregate(&world(exports), &key());
    let ports = &aggregate.import.as_ref().unwrap().ports;
    assert_eq!(ports.len(), 1);
    let b = MemberName::parse("b").unwrap();
    assert_eq!(ports[0].exposed_by[&b], "web");
    assert_eq!(conflicts(&aggregate)[0], vec![reason::PORT_CONFLICT]);
}

#[test]
fn equal_ages_are_settled_by_name() {
    let mut late = export("b", 0, vec![port("", "TCP", 80)]);
    late.spec.kind = ServiceImportType::Headless;
    let exports = vec![late, export("a", 0, vec![port("", "TCP", 80)])];
    let import = aggregate(&world(exports), &key()).import.unwrap();
    assert_eq!(import.kind, ServiceImportType::ClusterSetIP);
}

#[test]
fn each_attack_is_refused_with_its_reason() {
    let forged = {
        let mut record = export("a", 0, vec![port("", "TCP", 80)]);
        record.metadata.name = Some("export-of-somebody-else".into());
        record
    };
    let stranger = export("nobody", 0, vec![port("", "TCP", 80)]);
    let twice = export("c", 0, vec![port("x", "TCP", 80), port("y", "TCP", 80)]);
    let mut all = world(vec![forged, stranger, twice, export("b", 9, vec![])]);
    let mut picky = member("b");
    picky.spec.allow_exports = Some(vec!["shop/api".into(), "*/cart".into()]);
    all.apply(Object::Member(Box::new(picky)));
    assert_eq!(
        refused(&aggregate(&all, &key())),
        [
            ("a", reason::FORGED_ORIGIN),
            ("b", reason::NOT_ALLOWED),
            ("c", reason::INVALID_FIELD),
            ("nobody", reason::NOT_A_MEMBER),
        ]
    );
    let mut reserved = export("a", 0, vec![port("", "TCP", 443)]);
    reserved.spec.service_namespace = "kube-system".into();
    reserved.metadata.name = Some(labels::export_record_name("kube-system", "web"));
    let all = world(vec![reserved]);
    let found = aggregate(&all, &ServiceKey::new("kube-system", "web"));
    assert_eq!(refused(&found), [("a", reason::RESERVED_NAMESPACE)]);
    assert_eq!(found.import, None);
}

#[test]
fn a_member_that_leaves_takes_its_exports_along_and_others_go_on() {
    let exports = ["a", "b"].map(|name| export(name, 0, vec![port("", "TCP", 80)]));
    let mut all = world(exports.to_vec());
    // Deleted as usual, it is kept for as long as its exports are in use.
    let mut leaving = member("a");
    leaving.metadata.deletion_timestamp = Some(time(9));
    all.apply(Object::Member(Box::new(leaving.clone())));
    assert_eq!(refused(&aggregate(&all, &key())), []);
    let force = (labels::FORCE_LEAVE.to_owned(), "true".to_owned());
    leaving.metadata.annotations = Some([force].into());
    all.apply(Object::Member(Box::new(leaving)));
    let found = aggregate(&all, &key());
    assert_eq!(refused(&found), [("a", reason::NOT_A_MEMBER)]);
    let import = found.import.expect("b exports it still");
    let members: Vec<&str> = import.members.keys().map(MemberName::as_str).collect();
    assert_eq!(members, ["b"]);
}

#[test]
fn a_claimed_age_that_the_hub_cannot_have_seen_is_flagged_and_can_be_pinned() {
    let honest = export("a", 0, vec![port("", "TCP", 80)]);
    let mut forger = export("b", -1_000_000, vec![port("", "TCP", 80)]);
    forger.spec.kind = ServiceImportType::Headless;
    forger.metadata.creation_timestamp = Some(time(5000));
    let mut all = world(vec![honest, forger]);
    let flags: Vec<bool> = aggregate(&all, &key())
        .outcomes
        .values()
        .map(|outcome| {
            matches!(
                outcome,
                Outcome::Accepted {
                    unverified_age: true,
                    ..
                }
            )
        })
        .collect();
    assert_eq!(flags, [false, true]);
    all.settings.pin_first_seen = true;
    let import = aggregate(&all, &key()).import.unwrap();
    assert_eq!(
        import.kind,
        ServiceImportType::ClusterSetIP,
        "no takeover by a late joiner"
    );
}

#[test]
fn the_import_goes_with_its_last_export() {
    let mut all = world(vec![export("a", 0, vec![port("", "TCP", 80)])]);
    assert!(aggregate(&all, &key()).import.is_some());
    let name = labels::export_record_name("shop", "web");
    all.delete(Kind::Export, &labels::member_namespace("a"), &name);
    assert_eq!(aggregate(&all, &key()), Aggregate::default());
}

proptest! {
    #[test]
    fn the_order_of_events_never_shows(
        picks in proptest::collection::vec((0..5usize, 0..3i64, 0..4usize, any::<bool>()), 1..12),
        seed in any::<u64>(),
    ) {
        let sets = [
            vec![port("http", "TCP", 80)],
            vec![port("http", "TCP", 81), port("x", "TCP", 80)],
            vec![port("", "UDP", 53)],
            vec![port("http", "UDP", 80), port("y", "UDP", 53)],
        ];
        let mut latest = BTreeMap::new();
        for (who, age, ports, headless) in picks {
            let name = ["a", "b", "c", "d", "e"][who];
            let mut record = export(name, age, sets[ports].clone());
            if headless {
                record.spec.kind = ServiceImportType::Headless;
            }
            latest.insert(name, record);
        }
        let mut records: Vec<_> = latest.into_values().collect();
        let forward = aggregate(&world(records.clone()), &key());
        let len = records.len();
        records.rotate_left((seed as usize) % len);
        records.reverse();
        let mut replayed = records.clone();
        replayed.extend(records);
        prop_assert_eq!(&forward, &aggregate(&world(replayed), &key()));
        let import = forward.import.unwrap();
        for union in &import.ports {
            for (member, local) in &union.exposed_by {
                let theirs = &import.members[member].ports;
                let exposes = theirs.iter().any(|port| {
                    port.name() == local
                        && port.port == union.port.port
                        && port.protocol() == union.port.protocol()
                });
                prop_assert!(exposes);
            }
        }
    }
}
