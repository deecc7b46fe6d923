use std::sync::Arc;

use fairlead_config::{
    name::MemberName,
    xds::{
        endpoints::member_locality,
        envelope::{Stamp, seal},
        proto::{
            core,
            discovery::Resource,
            endpoint::{
                ClusterLoadAssignment, LbEndpoint, LbEndpointList, LedsClusterLocalityConfig,
                LocalityLbEndpoints,
            },
            unpack,
        },
    },
};
use proptest::prelude::*;

use super::*;

fn resource(name: &str, version: u64) -> Arc<Resource> {
    Arc::new(Resource {
        name: name.into(),
        version: version.to_string(),
        ..Default::default()
    })
}

fn request(of: Type) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: of.url().into(),
        ..Default::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: error.map(|message| core::Status {
            message: message.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn names(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    let all = responses.iter();
    all.flat_map(|response| {
        let new = response
            .resources
            .iter()
            .map(|one| format!("+{}", one.name));
        let gone = response
            .removed_resources
            .iter()
            .map(|one| format!("-{one}"));
        new.chain(gone).collect::<Vec<_>>()
    })
    .collect()
}

fn table() -> Table {
    let mut table = Table::default();
    for of in [Type::Listener, Type::Assignment, Type::Cluster] {
        table.put(of, resource(&format!("{of:?}"), 1), 1);
    }
    table
}

#[test]
fn updates_come_in_the_order_that_breaks_nothing_and_removals_the_other_way_round() {
    let (mut stream, mut table) = (Stream::default(), table());
    for of in Type::ALL {
        assert_eq!(stream.hear(&request(of)), Heard::Subscribed);
    }
    let first = stream.say(&table, 1, &Type::ALL);
    assert_eq!(names(&first), ["+Cluster", "+Assignment", "+Listener"]);
    assert_eq!(names(&stream.say(&table, 1, &Type::ALL)), [""; 0]);
    for of in Type::ALL {
        table.remove(of, &format!("{of:?}"), 2);
    }
    table.put(Type::Cluster, resource("new", 1), 2);
    let second = stream.say(&table, 2, &Type::ALL);
    assert_eq!(
        names(&second),
        ["+new", "-Listener", "-Assignment", "-Cluster"]
    );
}

/// Outlines of services with a member each, and their chunks.
fn outlined(services: &[&str]) -> Table {
    let mut table = Table::default();
    for service in services {
        let outline = ClusterLoadAssignment {
            cluster_name: (*service).into(),
            endpoints: vec![LocalityLbEndpoints {
                locality: Some(member_locality(&MemberName::parse("m").unwrap())),
                leds_cluster_locality_config: Some(LedsClusterLocalityConfig {
                    leds_collection_name: format!("{service}/m/*"),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        table.put(
            Type::Assignment,
            seal(service, &outline, &Stamp::default()).into(),
            1,
        );
        put_chunk(&mut table, service, 80, 1);
    }
    table
}

fn put_chunk(table: &mut Table, service: &str, port: u16, revision: u64) {
    let list = LbEndpointList {
        lb_endpoints: vec![LbEndpoint {
            load_balancing_weight: Some(port.into()),
            ..Default::default()
        }],
    };
    let chunk = seal(&format!("{service}/m/"), &list, &Stamp::default());
    table.put(Type::Chunk, chunk.into(), revision);
}

#[test]
fn who_asks_for_chunks_gets_them_before_their_assignment_and_nothing_twice() {
    let mut table = outlined(&["a/b:c", "a/b:d"]);
    let mut stream = Stream::default();
    stream.hear(&request(Type::Chunk));
    let mut one = request(Type::Assignment);
    one.resource_names_subscribe = vec!["a/b:c".into()];
    stream.hear(&one);
    let first = stream.say(&table, 1, &Type::ALL);
    assert_eq!(names(&first), ["+a/b:c/m/", "+a/b:c"]);
    put_chunk(&mut table, "a/b:c", 81, 2);
    put_chunk(&mut table, "a/b:d", 81, 2);
    assert_eq!(names(&stream.say(&table, 2, &Type::ALL)), ["+a/b:c/m/"]);
    let mut other = request(Type::Assignment);
    other.resource_names_subscribe = vec!["a/b:d".into()];
    other.resource_names_unsubscribe = vec!["a/b:c".into()];
    stream.hear(&other);
    put_chunk(&mut table, "a/b:c", 82, 3);
    let more = stream.say(&table, 3, &Type::ALL);
    assert_eq!(names(&more), ["+a/b:d/m/", "+a/b:d"]);
    table.remove(Type::Chunk, "a/b:d/m/", 4);
    let gone = stream.say(&table, 4, &Type::ALL);
    assert_eq!(names(&gone), ["+a/b:d/m/"]);
    assert!(chunks::is_gone(&gone[0].resources[0]));
}

#[test]
fn who_does_not_ask_for_chunks_gets_whole_assignments_also_when_a_chunk_changes() {
    let mut table = outlined(&["a/b:c"]);
    let mut stream = Stream::default();
    stream.hear(&request(Type::Assignment));
    let weight = |said: &[DeltaDiscoveryResponse]| {
        assert_eq!(names(said), ["+a/b:c"]);
        let any = said[0].resources[0].resource.as_ref().unwrap();
        let message: ClusterLoadAssignment = unpack(any).unwrap();
        let locality = &message.endpoints[0];
        assert_eq!(locality.leds_cluster_locality_config, None);
        locality.lb_endpoints[0].load_balancing_weight.unwrap()
    };
    assert_eq!(weight(&stream.say(&table, 1, &Type::ALL)), 80);
    assert_eq!(names(&stream.say(&table, 1, &Type::ALL)), [""; 0]);
    put_chunk(&mut table, "a/b:c", 81, 2);
    assert_eq!(weight(&stream.say(&table, 2, &Type::ALL)), 81);
}

#[test]
fn who_is_too_far_behind_to_hear_of_removals_has_to_come_back() {
    let mut table = outlined(&["a/b:c"]);
    let mut stream = Stream::default();
    for of in [Type::Chunk, Type::Assignment] {
        stream.hear(&request(of));
    }
    stream.say(&table, 1, &Type::ALL);
    for revision in 2..70_000 {
        put_chunk(&mut table, "a/b:x", 80, revision);
        table.remove(Type::Chunk, "a/b:x/m/", revision);
    }
    assert!(!stream.is_lost());
    stream.say(&table, 70_000, &Type::ALL);
    assert!(stream.is_lost());
}

#[test]
fn a_listener_goes_in_the_answer_that_brings_the_one_in_its_place() {
    let (mut stream, mut table) = (Stream::default(), table());
    for of in Type::ALL {
        stream.hear(&request(of));
    }
    stream.say(&table, 1, &Type::ALL);
    table.remove(Type::Listener, "Listener", 2);
    table.put(Type::Listener, resource("moved", 1), 2);
    let answers = stream.say(&table, 2, &Type::ALL);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].resources[0].name, "moved");
    assert_eq!(answers[0].removed_resources, ["Listener"]);
}

#[test]
fn a_client_that_comes_back_is_sent_only_what_it_lacks() {
    let mut table = table();
    table.put(Type::Cluster, resource("other", 1), 1);
    let mut stream = Stream::default();
    let mut back = request(Type::Cluster);
    back.initial_resource_versions = [("Cluster", "1"), ("other", "0"), ("gone", "5")]
        .map(|(a, b)| (a.into(), b.into()))
        .into();
    stream.hear(&back);
    assert_eq!(
        names(&stream.say(&table, 1, &Type::ALL)),
        ["+other", "-gone"]
    );
}

#[test]
fn named_subscriptions_get_their_names_only_and_hear_of_missing_ones() {
    let mut table = table();
    table.put(Type::Cluster, resource("other", 1), 1);
    let mut stream = Stream::default();
    let mut some = request(Type::Cluster);
    some.resource_names_subscribe = vec!["other".into(), "missing".into()];
    stream.hear(&some);
    assert_eq!(
        names(&stream.say(&table, 1, &Type::ALL)),
        ["+other", "-missing"]
    );
    table.put(Type::Cluster, resource("missing", 1), 2);
    table.put(Type::Cluster, resource("Cluster", 2), 2);
    assert_eq!(names(&stream.say(&table, 2, &Type::ALL)), ["+missing"]);
    let mut fewer = request(Type::Cluster);
    fewer.resource_names_unsubscribe = vec!["other".into()];
    stream.hear(&fewer);
    table.put(Type::Cluster, resource("other", 2), 3);
    assert_eq!(names(&stream.say(&table, 3, &Type::ALL)), [""; 0]);
}

#[test]
fn answers_are_matched_and_a_refusal_stays_until_something_is_acknowledged() {
    let (mut stream, mut table) = (Stream::default(), table());
    stream.hear(&request(Type::Cluster));
    let sent = stream.say(&table, 1, &Type::ALL);
    assert!(!stream.is_settled());
    let refused = stream.hear(&answer(&sent[0], Some("cluster x: bad")));
    assert_eq!(
        refused,
        Heard::Refused(Type::Cluster, "cluster x: bad".into())
    );
    assert!(!stream.is_settled());
    assert_eq!(
        stream.refused().collect::<Vec<_>>(),
        [(Type::Cluster, "cluster x: bad")]
    );
    table.put(Type::Cluster, resource("Cluster", 2), 2);
    let sent = stream.say(&table, 2, &Type::ALL);
    assert_eq!(
        stream.hear(&answer(&sent[0], None)),
        Heard::Acknowledged(Type::Cluster)
    );
    assert!(stream.is_settled());
    assert_eq!(stream.applied(), Some(table.hash().as_str()));
    assert_eq!(stream.hear(&answer(&sent[0], None)), Heard::Stale);
}

#[test]
fn a_client_runs_on_the_newest_state_whichever_types_changed_last() {
    let (mut stream, mut table) = (Stream::default(), table());
    for of in [Type::Cluster, Type::Assignment, Type::Listener] {
        stream.hear(&request(of));
    }
    let settle = |stream: &mut Stream, table: &Table, revision| {
        let sent = stream.say(table, revision, &Type::ALL);
        for response in &sent {
            let before = stream.applied().map(str::to_owned);
            assert_ne!(before, Some(table.hash()), "not before the last answer");
            stream.hear(&answer(response, None));
        }
        sent.len()
    };
    assert_eq!(settle(&mut stream, &table, 1), 3);
    assert_eq!(stream.applied(), Some(table.hash().as_str()));
    table.put(Type::Assignment, resource("Assignment", 2), 2);
    assert_eq!(settle(&mut stream, &table, 2), 1);
    assert_eq!(
        stream.applied(),
        Some(table.hash().as_str()),
        "an endpoint only"
    );
    table.put(Type::Import, resource("elsewhere", 1), 3);
    assert_eq!(settle(&mut stream, &table, 3), 0);
    assert_eq!(
        stream.applied(),
        Some(table.hash().as_str()),
        "nothing to this client"
    );
}

#[test]
fn large_states_are_cut_into_messages_that_every_client_takes() {
    let mut table = Table::default();
    for n in 0..4 {
        let big = Resource {
            name: n.to_string(),
            version: "x".repeat(RESPONSE_BYTES_MAX / 2 - 100),
            ..Default::default()
        };
        table.put(Type::Cluster, big.into(), 1);
    }
    let mut stream = Stream::default();
    stream.hear(&request(Type::Cluster));
    let counts: Vec<usize> = stream
        .say(&table, 1, &Type::ALL)
        .iter()
        .map(|response| response.resources.len())
        .collect();
    assert_eq!(counts, [2, 2]);
}

proptest! {
    /// Whatever happens between two looks, the client ends with what the table holds.
    #[test]
    fn a_client_always_ends_with_what_the_table_holds(
        steps in proptest::collection::vec((0..6u8, 0..3u64, any::<bool>()), 1..60),
    ) {
        let (mut stream, mut table) = (Stream::default(), Table::default());
        stream.hear(&request(Type::Cluster));
        let mut client: BTreeMap<String, String> = BTreeMap::new();
        for (revision, (name, version, look)) in steps.into_iter().enumerate() {
            let revision = revision as u64 + 1;
            let name = name.to_string();
            if version == 0 {
                table.remove(Type::Cluster, &name, revision);
            } else {
                table.put(Type::Cluster, resource(&name, version), revision);
            }
            if !look {
                continue;
            }
            for response in stream.say(&table, revision, &Type::ALL) {
                for one in &response.resources {
                    let old = client.insert(one.name.clone(), one.version.clone());
                    prop_assert_ne!(old.as_ref(), Some(&one.version), "sent twice");
                }
                for gone in &response.removed_resources {
                    prop_assert!(client.remove(gone).is_some(), "removed what was never sent");
                }
            }
            let holds: BTreeMap<String, String> = table
                .all(Type::Cluster)
                .map(|(name, one)| (name.to_owned(), one.version.clone()))
                .collect();
            prop_assert_eq!(&client, &holds);
        }
    }
}
