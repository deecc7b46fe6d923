use fairlead_config::xds::{
    envelope::seal,
    intake::HELD_BACK,
    proto::{fairlead::ImportPort, listener::Listener},
    saved,
};
use proptest::prelude::*;

use super::*;

fn import(name: &str, port: u32, as_of: u64) -> Resource {
    let (namespace, short) = name.split_once('/').unwrap();
    let message = Import {
        namespace: namespace.into(),
        name: short.into(),
        ports: vec![ImportPort {
            port,
            ..ImportPort::default()
        }],
        ..Import::default()
    };
    let stamp = Stamp {
        as_of,
        epoch: "e".into(),
    };
    seal(name, &message, &stamp)
}

fn response(resources: &[Resource], removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: Type::Import.url().into(),
        nonce: "1".into(),
        resources: resources.to_vec(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn port_of(received: &Received, name: &str) -> Option<u32> {
    Some(received.import(name)?.ports[0].port)
}

#[test]
fn all_is_known_only_once_the_hub_says_that_it_was_all() {
    let mut received = Received::new("a", "1");
    let requests = received.connect();
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[0].node.as_ref().unwrap().cluster, "member/a");
    let imports = requests
        .iter()
        .find(|one| one.type_url == Type::Import.url());
    assert_eq!(imports.unwrap().resource_names_subscribe, ["*", END]);
    let (ack, changed) = received.receive(response(&[import("shop/web", 80, 1)], &[]), Tick(0));
    assert!(changed && ack.error_detail.is_none() && ack.response_nonce == "1");
    assert!(!received.imports_known() && received.kept().is_none());
    received.receive(response(&[], &[END]), Tick(0));
    assert!(received.imports_known() && !received.proxies_known());
    let kept = received.kept().unwrap();
    let mut again = Received::new("a", "1");
    let bytes = saved::encode(&kept);
    assert_eq!(again.restore(saved::decode(&bytes).unwrap()), 1);
    assert!(again.imports_known() && !again.proxies_known());
    assert_eq!(port_of(&again, "shop/web"), Some(80));
    let versions = &again.connect()[4].initial_resource_versions;
    assert_eq!(versions.len(), 1, "the hub sends only what is different");
}

#[test]
fn a_replica_that_is_behind_is_waited_out_for_ten_seconds() {
    let mut received = Received::new("a", "1");
    received.receive(response(&[import("shop/web", 80, 10)], &[]), Tick(0));
    let (_, changed) = received.receive(response(&[import("shop/web", 81, 9)], &[]), Tick(0));
    assert!(!changed);
    assert_eq!(port_of(&received, "shop/web"), Some(80));
    let due = received.next_deadline().unwrap();
    assert_eq!(due, Tick(0) + HELD_BACK);
    assert!(received.release(due));
    assert_eq!(
        port_of(&received, "shop/web"),
        Some(81),
        "by then it is the truth"
    );
    assert_eq!(received.counts().accepted_stale, 1);
    // What was removed does not come back from such a replica either.
    received.receive(response(&[import("shop/db", 1, 20)], &[]), Tick(0));
    received.receive(response(&[], &["shop/db"]), Tick(0));
    received.receive(response(&[import("shop/db", 1, 20)], &[]), Tick(0));
    assert_eq!(port_of(&received, "shop/db"), None);
    received.receive(response(&[import("shop/db", 2, 21)], &[]), Tick(0));
    assert_eq!(port_of(&received, "shop/db"), Some(2));
}

#[test]
fn an_import_that_cannot_be_read_is_refused_by_name_and_the_earlier_one_stays() {
    let mut received = Received::new("a", "1");
    received.receive(response(&[import("shop/web", 80, 1)], &[]), Tick(0));
    let mut broken = import("shop/web", 81, 2);
    broken.resource.as_mut().unwrap().value = vec![0xff];
    let mut renamed = import("shop/other", 82, 2);
    renamed.name = "shop/db".into();
    let good = import("shop/mail", 25, 2);
    let (answer, _) = received.receive(response(&[broken, renamed, good], &[]), Tick(0));
    let message = answer.error_detail.unwrap().message;
    assert!(message.contains("import shop/web:"), "{message}");
    assert!(
        message.contains("import shop/db: it says that it is shop/other"),
        "{message}"
    );
    assert_eq!(port_of(&received, "shop/web"), Some(80));
    assert_eq!(port_of(&received, "shop/mail"), Some(25));
    assert_eq!(received.counts().refused, 2);
}

#[test]
fn a_listener_may_take_the_place_of_one_that_the_same_answer_removes() {
    let file = fairlead_config::yaml::parse(
        b"
services:
  - name: shop/web:http
    frontends: [ { protocol: tcp, address: '127.0.0.1:80' } ]
    tiers: [ { members: [ { name: m, endpoints: [ { address: '10.0.0.1:80' } ] } ] } ]",
    );
    let resources = fairlead_config::xds::encode(&file.unwrap().snapshot, &Stamp::default());
    let old = &resources.listeners[0];
    let mut message: Listener = unpack(old.resource.as_ref().unwrap()).unwrap();
    message.name = "new".to_owned();
    let new = seal("new", &message, &Stamp::default());
    let said = |listeners: &[Resource], removed: &[&str]| DeltaDiscoveryResponse {
        type_url: Type::Listener.url().to_owned(),
        ..response(listeners, removed)
    };
    let mut received = Received::new("a", "1");
    received.receive(said(std::slice::from_ref(old), &[]), Tick(0));
    assert_eq!(received.snapshot().frontends.len(), 1);
    received.receive(said(&[new], &[&old.name]), Tick(0));
    assert_eq!(
        received.snapshot().frontends.len(),
        1,
        "the derived Service goes on"
    );
    let names = received.proxies().all(Type::Listener);
    assert_eq!(names.map(|(name, _)| name).collect::<Vec<_>>(), ["new"]);
}

#[test]
fn two_listeners_may_swap_what_they_have() {
    let resources = |ports: [u16; 2]| {
        let service = |(name, port): (&str, u16)| {
            format!(
                "\n  - name: shop/{name}:http
    frontends: [ {{ protocol: tcp, address: '127.0.0.1:{port}' }} ]
    tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: '10.0.0.1:80' }} ] }} ] }} ]"
            )
        };
        let text = ["web", "db"].into_iter().zip(ports).map(service);
        let text = format!("services:{}", text.collect::<String>());
        let file = fairlead_config::yaml::parse(text.as_bytes()).unwrap();
        fairlead_config::xds::encode(&file.snapshot, &Stamp::default()).listeners
    };
    let said = |listeners: &[Resource]| DeltaDiscoveryResponse {
        type_url: Type::Listener.url().to_owned(),
        ..response(listeners, &[])
    };
    let mut received = Received::new("a", "1");
    received.receive(said(&resources([80, 81])), Tick(0));
    let swapped = resources([81, 80]);
    // Of two answers, too.
    for part in swapped.chunks(1) {
        received.receive(said(part), Tick(0));
    }
    let frontends = received.snapshot().frontends.values();
    let ports: Vec<_> = frontends
        .map(|row| (row.service.as_str().to_owned(), *row.ports.start()))
        .collect();
    let expected = [("shop/db:http", 80), ("shop/web:http", 81)];
    assert_eq!(ports, expected.map(|(name, port)| (name.to_owned(), port)));
}

#[test]
fn the_group_comes_along_and_is_kept() {
    let mut received = Received::new("a", "1");
    let mut clusters = response(&[], &[END]);
    clusters.type_url = Type::Cluster.url().into();
    clusters.proxy_group = "edge".into();
    let (_, changed) = received.receive(clusters.clone(), Tick(0));
    assert!(changed && received.proxies_known());
    assert_eq!(received.group(), Some("edge"));
    received.receive(response(&[], &[END]), Tick(0));
    assert_eq!(received.group(), None, "the member has none any more");
    received.receive(clusters, Tick(0));
    let mut again = Received::new("a", "1");
    again.restore(saved::decode(&saved::encode(&received.kept().unwrap())).unwrap());
    assert_eq!(again.group(), Some("edge"));
}

proptest! {
    #[test]
    fn bytes_are_those_of_what_is_held_and_a_restored_state_is_the_same(
        steps in proptest::collection::vec((0u32..5, any::<bool>(), 1u32..100), 0..40),
    ) {
        let mut received = Received::new("a", "1");
        received.receive(response(&[], &[END]), Tick(0));
        for (as_of, (name, gone, port)) in (1..).zip(steps) {
            let name = format!("shop/s{name}");
            let said = match gone {
                true => response(&[], &[&name]),
                false => response(&[import(&name, port, as_of)], &[]),
            };
            received.receive(said, Tick(0));
        }
        let held: usize = received.imports().all(Type::Import).map(|(_, one)| one.encoded_len()).sum();
        prop_assert_eq!(received.bytes(), held);
        let mut again = Received::new("a", "1");
        again.restore(saved::decode(&saved::encode(&received.kept().unwrap())).unwrap());
        prop_assert_eq!(again.imports().hash(), received.imports().hash());
        prop_assert_eq!(again.bytes(), held);
    }
}
