use std::{sync::Arc, time::Duration};

use fairlead_config::{
    frontend::Frontend,
    snapshot::Snapshot,
    xds::{
        self, Resources,
        proto::{cluster::Cluster, core::INVALID_ARGUMENT, listener::Listener, unpack},
    },
    yaml,
};
use proptest::prelude::*;

use super::*;

mod envoy;
pub(in crate::source) mod plane;
mod stream;

/// A snapshot with the services `a/s<i>:p`, each with one endpoint of the given weight.
fn snapshot(services: std::ops::Range<usize>, weight: u16) -> Snapshot {
    let mut text = String::from("services:");
    for index in services {
        let port = 1000 + index;
        text.push_str(&format!(
            "\n  - name: a/s{index}:p
    frontends: [ {{ protocol: tcp, address: '127.0.0.1:{port}' }} ]
    tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: '10.0.0.1:{port}', weight: {weight} }} ] }} ] }} ]"
        ));
    }
    if text.ends_with(':') {
        text.push_str(" []");
    }
    let file = yaml::parse(text.as_bytes());
    file.unwrap_or_else(|problems| panic!("{problems}"))
        .snapshot
}

fn stamp(as_of: u64) -> Stamp {
    Stamp {
        as_of,
        epoch: "one".to_owned(),
    }
}

fn encode(snapshot: &Snapshot, as_of: u64) -> Resources {
    xds::encode(snapshot, &stamp(as_of))
}

fn response(of: Type, resources: &[Resource]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: of.url().to_owned(),
        nonce: format!("nonce-{of:?}"),
        resources: resources.to_vec(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn at(seconds: u64) -> Tick {
    Tick::from_start(Duration::from_secs(seconds))
}

/// A client and what a control thread would run on.
struct Proxy {
    ads: Ads,
    running: Snapshot,
}

impl Proxy {
    fn new() -> Self {
        Self {
            ads: Ads::new(Node::default()),
            running: Snapshot::default(),
        }
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse, now: Tick) -> Step {
        let step = self.ads.receive(response, now);
        self.run(&step);
        step
    }

    fn run(&mut self, step: &Step) {
        let (_, problems) = self.running.apply(step.delta.clone());
        assert_eq!(problems, []);
    }

    fn receive_all(&mut self, resources: &Resources, now: Tick) {
        self.receive(response(Type::Cluster, &resources.clusters), now);
        self.receive(response(Type::Assignment, &resources.assignments), now);
        self.receive(response(Type::Listener, &resources.listeners), now);
    }

    fn weight_of_first(&self) -> u16 {
        let rows = self.running.endpoints.values().next().expect("a service");
        rows.values().next().expect("an endpoint").weight
    }
}

#[test]
fn a_new_stream_asks_for_everything_and_names_what_is_in_force() {
    let mut proxy = Proxy::new();
    let requests = proxy.ads.connect();
    assert_eq!(requests.len(), 3, "no assignment is known yet");
    assert!(requests[0].node.is_some() && requests[1].node.is_none());
    proxy.receive_all(&encode(&snapshot(0..2, 1), 5), at(0));
    let requests = proxy.ads.connect();
    let types: Vec<&str> = requests.iter().map(|it| it.type_url.as_str()).collect();
    assert_eq!(types, Type::OF_PROXIES.map(Type::url));
    assert_eq!(requests[2].resource_names_subscribe, ["a/s0:p", "a/s1:p"]);
    assert_eq!(requests[0].resource_names_subscribe, [WILDCARD]);
    assert_eq!(requests[0].initial_resource_versions.len(), 2);
    let held = &encode(&snapshot(0..2, 1), 9).clusters[0];
    let version = &requests[0].initial_resource_versions["a/s0:p"];
    assert_eq!(*version, held.version);
}

#[test]
fn clusters_bring_a_request_for_their_endpoints_and_an_acknowledgement() {
    let mut proxy = Proxy::new();
    proxy.ads.connect();
    let resources = encode(&snapshot(0..2, 1), 1);
    let step = proxy.receive(response(Type::Cluster, &resources.clusters), at(0));
    let [ack, ask] = step.requests.as_slice() else {
        panic!("{:?}", step.requests);
    };
    assert_eq!(
        (ack.response_nonce.as_str(), &ack.error_detail),
        ("nonce-Cluster", &None)
    );
    assert_eq!(ask.type_url, Type::Assignment.url());
    assert_eq!(ask.resource_names_subscribe, ["a/s0:p", "a/s1:p"]);
    assert_eq!(proxy.ads.waiting(), ["a/s0:p", "a/s1:p"]);
    let gone = DeltaDiscoveryResponse {
        removed_resources: vec!["a/s0:p".to_owned()],
        ..response(Type::Cluster, &[])
    };
    let step = proxy.receive(gone, at(1));
    assert_eq!(step.requests[1].resource_names_unsubscribe, ["a/s0:p"]);
}

#[test]
fn a_refusal_names_the_resource_and_the_reason_and_the_others_take_force() {
    let mut proxy = Proxy::new();
    let mut resources = encode(&snapshot(0..2, 1), 1);
    resources.clusters[0].resource.as_mut().unwrap().value = vec![0xff];
    let step = proxy.receive(response(Type::Cluster, &resources.clusters), at(0));
    let status = step.requests[0].error_detail.as_ref().expect("a refusal");
    assert_eq!(status.code, INVALID_ARGUMENT);
    assert!(
        status.message.starts_with("cluster a/s0:p: is no valid"),
        "{}",
        status.message
    );
    proxy.receive(response(Type::Assignment, &resources.assignments), at(0));
    assert_eq!(proxy.running.services.len(), 1);
    let requests = proxy.ads.connect();
    assert_eq!(
        requests[0].initial_resource_versions.len(),
        1,
        "the refused one is not held"
    );
    let counts = proxy.ads.counts();
    assert_eq!((counts.accepted, counts.refused), (3, 1));
}

#[test]
fn a_listener_whose_port_is_anothers_binds_it_once_that_one_is_gone() {
    let mut proxy = Proxy::new();
    let resources = encode(&snapshot(0..1, 1), 1);
    proxy.receive_all(&resources, at(0));
    let any = resources.listeners[0].resource.as_ref().unwrap();
    let mut listener: Listener = unpack(any).unwrap();
    listener.name = "other".to_owned();
    let other = envelope::seal("other", &listener, &stamp(2));
    let step = proxy.receive(response(Type::Listener, &[other]), at(1));
    assert_eq!(step.problems.len(), 1);
    let gone = DeltaDiscoveryResponse {
        removed_resources: vec![resources.listeners[0].name.clone()],
        ..response(Type::Listener, &[])
    };
    let step = proxy.receive(gone, at(2));
    assert_eq!(step.requests[0].error_detail, None);
    assert_eq!(
        proxy.running.frontends.len(),
        1,
        "it goes and comes at once"
    );
    let held = proxy.ads.in_force();
    assert!(held.iter().any(|(_, held)| held.name == "other"));
    assert_eq!(proxy.ads.counts().fitted_later, 1);
}

#[test]
fn two_listeners_of_one_answer_swap_their_addresses() {
    let mut proxy = Proxy::new();
    let before = encode(&snapshot(0..2, 1), 1);
    proxy.receive_all(&before, at(0));
    let mut swapped = snapshot(0..2, 1);
    let mut rows: Vec<Frontend> = swapped
        .frontends
        .values()
        .map(|row| (**row).clone())
        .collect();
    let ports = [rows[1].ports.clone(), rows[0].ports.clone()];
    for (row, ports) in rows.iter_mut().zip(ports) {
        row.ports = ports;
        swapped
            .frontends
            .insert(row.name.clone(), Arc::new(row.clone()));
    }
    let after = encode(&swapped, 2);
    let names =
        |all: &Resources| -> Vec<_> { all.listeners.iter().map(|one| one.name.clone()).collect() };
    assert_eq!(names(&before), names(&after));
    let step = proxy.receive(response(Type::Listener, &after.listeners), at(1));
    assert_eq!(step.requests[0].error_detail, None);
    assert_eq!(proxy.running.frontends, swapped.frontends);
    assert_eq!(proxy.ads.counts().refused, 0);
}

/// A cluster takes over the endpoints of another one, which goes.
fn hand_over(proxy: &mut Proxy) -> (Resources, Step) {
    let resources = encode(&snapshot(0..1, 3), 1);
    proxy.receive_all(&resources, at(0));
    let any = resources.clusters[0].resource.as_ref().unwrap();
    let mut cluster: Cluster = unpack(any).unwrap();
    cluster.name = "a/other:p".to_owned();
    cluster.eds_cluster_config.as_mut().unwrap().service_name = "a/s0:p".to_owned();
    let other = envelope::seal("a/other:p", &cluster, &stamp(2));
    let step = proxy.receive(response(Type::Cluster, &[other]), at(1));
    assert_eq!(step.problems.len(), 1);
    let gone = DeltaDiscoveryResponse {
        removed_resources: vec!["a/s0:p".to_owned()],
        ..response(Type::Cluster, &[])
    };
    let step = proxy.receive(gone, at(2));
    (resources, step)
}

#[test]
fn without_contents_such_endpoints_are_asked_for_anew() {
    let mut proxy = Proxy::new();
    proxy.ads.forget_content();
    let (resources, step) = hand_over(&mut proxy);
    assert_eq!(proxy.ads.in_force(), []);
    let name = ["a/s0:p".to_owned()];
    let [_, gives_up, asks] = &step.requests[..] else {
        panic!("{:?}", step.requests);
    };
    assert_eq!(gives_up.resource_names_unsubscribe, name);
    assert_eq!(asks.resource_names_subscribe, name);
    proxy.receive(response(Type::Assignment, &resources.assignments), at(3));
    assert!(proxy.ads.waiting().is_empty());
    assert_eq!(proxy.weight_of_first(), 3);
}

#[test]
fn a_cluster_whose_endpoints_are_anothers_gets_them_once_that_one_is_gone() {
    let mut proxy = Proxy::new();
    hand_over(&mut proxy);
    assert!(
        proxy.ads.waiting().is_empty(),
        "they are here, nobody sends them again"
    );
    let services: Vec<_> = proxy
        .running
        .services
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(services, ["a/other:p"]);
    assert_eq!(proxy.weight_of_first(), 3);
}

#[test]
fn a_type_that_was_not_asked_for_is_refused() {
    let mut proxy = Proxy::new();
    let other = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/other".to_owned(),
        ..response(Type::Cluster, &[])
    };
    let step = proxy.receive(other, at(0));
    assert!(step.requests[0].error_detail.is_some());
    assert_eq!(step.delta.changes, []);
}

#[test]
fn equal_content_is_ignored() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..2, 1), 5), at(0));
    let step = proxy.receive(
        response(Type::Cluster, &encode(&snapshot(0..2, 1), 7).clusters),
        at(1),
    );
    assert_eq!(step.delta.changes, []);
    assert_eq!(proxy.ads.counts().unchanged, 2);
}

#[test]
fn an_older_view_is_held_back_and_then_accepted_and_counted() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..1, 5), 50), at(0));
    let older = encode(&snapshot(0..1, 4), 40);
    let step = proxy.receive(response(Type::Assignment, &older.assignments), at(1));
    assert_eq!(step.requests[0].error_detail, None, "it is acknowledged");
    assert_eq!(proxy.weight_of_first(), 5);
    assert_eq!(proxy.ads.next_deadline(), Some(at(11)));
    assert_eq!(proxy.ads.release(at(10)), Step::default());
    let step = proxy.ads.release(at(11));
    proxy.run(&step);
    assert_eq!(proxy.weight_of_first(), 4);
    assert_eq!(proxy.ads.counts().accepted_stale, 1);
    assert_eq!(proxy.ads.next_deadline(), None);
}

#[test]
fn a_new_stream_begins_with_what_is_in_force_and_forgets_what_was_held_back() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..1, 5), 50), at(0));
    let older = encode(&snapshot(0..1, 4), 40);
    proxy.receive(response(Type::Assignment, &older.assignments), at(1));
    assert!(proxy.ads.next_deadline().is_some());
    let requests = proxy.ads.connect();
    let node = requests[0].node.clone().unwrap();
    assert_eq!(envelope::node_stamp(&node), stamp(50));
    assert_eq!(proxy.ads.next_deadline(), None);
    assert_eq!(proxy.weight_of_first(), 5);
}

#[test]
fn something_newer_ends_the_wait_of_an_older_view() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..1, 5), 50), at(0));
    let send = |proxy: &mut Proxy, weight, as_of, now| {
        let resources = encode(&snapshot(0..1, weight), as_of);
        proxy.receive(response(Type::Assignment, &resources.assignments), now);
    };
    send(&mut proxy, 4, 40, at(1));
    send(&mut proxy, 6, 60, at(2));
    assert_eq!(proxy.weight_of_first(), 6);
    assert_eq!(proxy.ads.next_deadline(), None);
    send(&mut proxy, 5, 55, at(3));
    send(&mut proxy, 6, 58, at(4));
    assert_eq!(
        proxy.ads.next_deadline(),
        None,
        "what is in force was said again"
    );
}

#[test]
fn a_replica_that_is_behind_takes_no_chunk_away_before_its_time() {
    let mut proxy = Proxy::new();
    let told = snapshot(0..1, 5);
    let (service, rows) = (
        told.services.values().next(),
        told.endpoints.values().next(),
    );
    let (service, rows) = (service.unwrap(), rows.unwrap());
    let chunk = chunks::cut(rows.values().as_slice()).next().unwrap();
    let name = chunks::name(&service.name, chunk).unwrap();
    let outline = chunks::outline(service);
    let outline = envelope::seal(service.name.as_str(), &outline, &stamp(50));
    let chunk = envelope::seal(&name, &chunks::message(chunk), &stamp(50));
    let clusters = encode(&told, 50).clusters;
    proxy.receive(response(Type::Cluster, &clusters), at(0));
    proxy.receive(response(Type::Chunk, &[chunk]), at(0));
    proxy.receive(response(Type::Assignment, &[outline]), at(0));
    assert_eq!(proxy.weight_of_first(), 5);
    let gone = chunks::gone(&name, &stamp(40));
    proxy.receive(response(Type::Chunk, &[gone]), at(1));
    assert_eq!(proxy.weight_of_first(), 5);
    let step = proxy.ads.release(at(11));
    proxy.run(&step);
    assert!(proxy.running.endpoints.values().all(|rows| rows.is_empty()));
    assert_eq!(proxy.ads.in_force().len(), 2, "an empty chunk is not kept");
}

#[test]
fn what_was_removed_comes_back_at_once_only_when_it_is_newer() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..1, 5), 50), at(0));
    let gone = |proxy: &mut Proxy, now| {
        let gone = DeltaDiscoveryResponse {
            removed_resources: vec!["tcp/127.0.0.1:1000".to_owned()],
            ..response(Type::Listener, &[])
        };
        proxy.receive(gone, now);
    };
    gone(&mut proxy, at(1));
    proxy.receive(
        response(Type::Listener, &encode(&snapshot(0..1, 5), 50).listeners),
        at(2),
    );
    assert!(
        proxy.running.frontends.is_empty(),
        "a replica that is behind still has it"
    );
    assert_eq!(proxy.ads.next_deadline(), Some(at(12)));
    gone(&mut proxy, at(3));
    assert_eq!(proxy.ads.next_deadline(), None, "it has caught up");
    proxy.receive(
        response(Type::Listener, &encode(&snapshot(0..1, 5), 51).listeners),
        at(4),
    );
    assert_eq!(proxy.running.frontends.len(), 1);
}

#[test]
fn a_restored_control_plane_takes_force_at_once() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..1, 5), 50), at(0));
    let other_life = Stamp {
        as_of: 3,
        epoch: "two".to_owned(),
    };
    let restored = xds::encode(&snapshot(0..1, 9), &other_life);
    proxy.receive(response(Type::Assignment, &restored.assignments), at(1));
    assert_eq!(proxy.weight_of_first(), 9);
}

#[test]
fn what_was_saved_serves_again_and_damage_is_noticed() {
    let mut proxy = Proxy::new();
    proxy.receive_all(&encode(&snapshot(0..3, 1), 5), at(0));
    let bytes = saved::encode(&proxy.ads.in_force());
    let mut again = Proxy::new();
    let step = again.ads.restore(saved::decode(&bytes).unwrap());
    again.run(&step);
    assert_eq!(again.running, proxy.running);
    assert_eq!(
        again.ads.connect(),
        proxy.ads.connect(),
        "nothing is sent twice"
    );
    assert_eq!(again.ads.stamp(), stamp(5));

    assert_eq!(saved::decode(b"services: []"), Err(saved::Unusable::Form));
    let cut = &bytes[..bytes.len() - 1];
    assert_eq!(saved::decode(cut), Err(saved::Unusable::Checksum));
    let mut changed = bytes.clone();
    changed[40] ^= 1;
    assert_eq!(saved::decode(&changed), Err(saved::Unusable::Checksum));
}

proptest! {
    /// However the answers are cut and repeated, the proxy ends up with the last state.
    #[test]
    fn any_batching_ends_in_the_same_state(
        states in proptest::collection::vec((0..4_usize, 1..5_u16), 1..5),
        cut in 1..4_usize,
        twice: bool,
    ) {
        let mut proxy = Proxy::new();
        let mut last = Snapshot::default();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (as_of, (services, weight)) in (1..).zip(&states) {
            last = snapshot(0..*services, *weight);
            let resources = encode(&last, as_of);
            let all = [&resources.clusters, &resources.assignments, &resources.listeners];
            for (kind, all) in WHOLE.into_iter().zip(all) {
                for part in all.chunks(cut) {
                    proxy.receive(response(kind, part), at(as_of));
                    if twice {
                        proxy.receive(response(kind, part), at(as_of));
                    }
                }
            }
            let now: BTreeSet<String> = resources.clusters.iter().map(|it| it.name.clone()).collect();
            let gone: Vec<String> = names.difference(&now).cloned().collect();
            let ports = gone.iter().map(|name| {
                let index: usize = name[3..name.len() - 2].parse().unwrap();
                format!("tcp/127.0.0.1:{}", 1000 + index)
            });
            let listeners = DeltaDiscoveryResponse {
                removed_resources: ports.collect(),
                ..response(Type::Listener, &[])
            };
            proxy.receive(listeners, at(as_of));
            let clusters = DeltaDiscoveryResponse { removed_resources: gone, ..response(Type::Cluster, &[]) };
            proxy.receive(clusters, at(as_of));
            names = now;
        }
        prop_assert_eq!(&proxy.running, &last);
        prop_assert!(proxy.ads.waiting().is_empty());
    }

    #[test]
    fn a_saved_state_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(saved::decode(&bytes).is_err());
    }
}

/// What a control plane sends that tells endpoints whole.
const WHOLE: [Type; 3] = [Type::Cluster, Type::Assignment, Type::Listener];
