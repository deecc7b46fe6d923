use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    endpoint::{EndpointKey, Hop, ObjectState},
    service::{ENDPOINTS_MAX, Member, MemberWeight, Tier},
    snapshot::Snapshot,
    xds::{
        decoder::Decoder,
        envelope::{Stamp, seal},
        policy,
        proto::{Typed, cluster::Cluster, core::SocketProtocol},
    },
};

/// By member, last number of the address, and weight.
type State = BTreeMap<(u8, u16), u16>;

fn member(number: u8) -> MemberName {
    // One name begins like another and goes on with less than a slash.
    let name = ["m", "m-a", "m1"][usize::from(number % 3)];
    MemberName::parse(name).unwrap()
}

fn rows(state: &State) -> Endpoints {
    let all = state.iter().map(|((of, number), weight)| {
        let [high, low] = number.to_be_bytes();
        Arc::new(Endpoint {
            key: EndpointKey {
                member: member(*of),
                target: Target::Addr(([10, 0, high, low], 8080).into()),
            },
            weight: *weight,
            zone: Some("eu-west-1a".into()),
            state: ObjectState::Ready,
            hop: Hop::Direct,
        })
    });
    all.collect()
}

fn service(rows: &Endpoints) -> Service {
    let names: BTreeSet<MemberName> = rows.keys().map(|key| key.member.clone()).collect();
    let members = names.into_iter().map(|name| Member {
        name,
        weight: MemberWeight::DEFAULT,
    });
    Service {
        name: ServiceName::parse("shop/web:http").unwrap(),
        policy: crate::policy::Policy::default(),
        tiers: vec![Tier {
            members: members.collect(),
        }],
    }
}

fn sealed(service: &Service, rows: &Endpoints) -> BTreeMap<String, Resource> {
    let mut all = BTreeMap::new();
    for number in 0..3 {
        for chunk in cut(rows.of_member(&member(number))) {
            let name = name(&service.name, chunk).unwrap();
            let resource = seal(&name, &message(chunk), &Stamp::default());
            assert!(all.insert(name, resource).is_none(), "two of one name");
        }
    }
    all
}

/// A proxy that is told what differs, `batch` chunks at a time.
#[derive(Default)]
struct Proxy {
    decoder: Decoder,
    snapshot: Snapshot,
    has: BTreeMap<String, Resource>,
}

impl Proxy {
    fn hear(&mut self, url: &str, resources: &[Resource], removed: &[String]) {
        let decoded = self.decoder.decode(url, resources, removed);
        assert_eq!(decoded.problems, []);
        let (_, problems) = self.snapshot.apply(decoded.delta);
        assert_eq!(problems, []);
    }

    fn follow(&mut self, state: &State, batch: usize, removals_first: bool) {
        let rows = rows(state);
        let service = service(&rows);
        let chunks = sealed(&service, &rows);
        let news = chunks
            .values()
            .filter(|it| self.has.get(&it.name) != Some(it));
        let news: Vec<Resource> = news.cloned().collect();
        let gone = self.has.keys().filter(|name| !chunks.contains_key(*name));
        let gone: Vec<String> = gone.cloned().collect();
        let cluster = policy::cluster(&service, &rows);
        let cluster = seal("shop/web:http", &cluster, &Stamp::default());
        self.hear(Cluster::URL, &[cluster], &[]);
        if removals_first {
            self.hear(URL, &[], &gone);
        }
        for part in news.chunks(batch) {
            self.hear(URL, part, &[]);
        }
        self.hear(URL, &[], &gone);
        let outline = seal("shop/web:http", &outline(&service), &Stamp::default());
        self.hear(ClusterLoadAssignment::URL, &[outline], &[]);
        self.has = chunks;
        let told = self.snapshot.endpoints.values().next().unwrap();
        assert_eq!(**told, rows);
        assert_eq!(*self.snapshot.services[service.name.as_str()], service);
    }
}

#[test]
fn a_change_of_one_endpoint_is_less_than_a_kibibyte_however_many_there_are() {
    let mut state: State = (0..5000).map(|number| ((0, number), 100)).collect();
    let before = sealed(&service(&rows(&state)), &rows(&state));
    let mean = state.len() / before.len();
    assert!((3..=5).contains(&mean), "{mean} endpoints a chunk");
    let (mut most, mut all) = (0, 0);
    for number in (0..5000).step_by(100) {
        state.insert((0, number), 1);
        let after = sealed(&service(&rows(&state)), &rows(&state));
        let changed = after.values().filter(|it| before.get(&it.name) != Some(it));
        let bytes: usize = changed.map(Message::encoded_len).sum();
        most = most.max(bytes);
        all += bytes;
        state.insert((0, number), 100);
    }
    assert!(all / 50 < 1024, "{} bytes in the mean", all / 50);
    assert!(most < 8 * 1024, "{most} bytes");
}

#[test]
fn names_say_what_a_chunk_belongs_to() {
    let found = parts("shop/web:http/m-a/10.0.0.1:80");
    assert_eq!(found, Some(("shop/web:http", "m-a")));
    assert_eq!(parts("shop/web:http/m-a/"), Some(("shop/web:http", "m-a")));
    for broken in ["", "shop", "shop/web:http", "shop/web:http/m"] {
        assert_eq!(parts(broken), None, "{broken:?}");
    }
}

#[test]
fn a_chunk_with_a_fault_changes_nothing_and_says_where_it_is() {
    let mut proxy = Proxy::default();
    let state: State = (0..20).map(|number| ((0, number), 100)).collect();
    proxy.follow(&state, 100, false);
    let before = proxy.snapshot.clone();
    let mut broken = proxy.has.values().next().unwrap().clone();
    let list = LbEndpointList {
        lb_endpoints: vec![LbEndpoint::default()],
    };
    broken.resource = Some(crate::xds::proto::pack(&list));
    let decoded = proxy.decoder.decode(URL, &[broken.clone()], &[]);
    assert_eq!(decoded.delta.changes, []);
    let text = decoded.problems[0].to_string();
    assert!(text.contains(&broken.name), "{text}");
    assert!(text.contains("lb_endpoints[0]"), "{text}");
    assert_eq!(proxy.snapshot, before);
}

#[test]
fn a_foreign_collection_is_refused() {
    let rows = rows(&State::from([((0, 1), 100)]));
    let mut outline = outline(&service(&rows));
    let config = &mut outline.endpoints[0].leds_cluster_locality_config;
    config.as_mut().unwrap().leds_collection_name = "xdstp://other/*".into();
    let resource = seal("shop/web:http", &outline, &Stamp::default());
    let mut decoder = Decoder::default();
    let decoded = decoder.decode(ClusterLoadAssignment::URL, &[resource], &[]);
    let text = decoded.problems[0].to_string();
    assert!(text.contains("xdstp://other/*"), "{text}");
}

#[test]
fn what_goes_takes_its_chunks_along() {
    let mut proxy = Proxy::default();
    let state = State::from([((0, 1), 100), ((1, 2), 100)]);
    proxy.follow(&state, 100, false);
    let name = "shop/web:http".to_owned();
    proxy.hear(ClusterLoadAssignment::URL, &[], std::slice::from_ref(&name));
    assert_eq!(proxy.snapshot.endpoints[name.as_str()].len(), 0);
    let rows = rows(&state);
    let outline = seal(&name, &outline(&service(&rows)), &Stamp::default());
    proxy.hear(ClusterLoadAssignment::URL, &[outline], &[]);
    assert_eq!(proxy.snapshot.endpoints[name.as_str()].len(), 0);
    proxy.has.clear();
    proxy.follow(&state, 100, false);
    assert_eq!(
        crate::xds::Type::OF_PROXIES[1].url(),
        URL,
        "chunks come before assignments"
    );
}

/// A chunk of one member, which needs no more than one here, with so many endpoints.
fn chunk_of(number: u8, count: u32) -> Resource {
    let addr = |index: u32| {
        std::net::SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + index), 80))
    };
    let row = |index| LbEndpoint {
        host: Some(crate::xds::proto::endpoint::HostIdentifier::Endpoint(
            crate::xds::proto::endpoint::Endpoint {
                address: Some(endpoints::address(addr(index), SocketProtocol::Tcp)),
                hostname: String::new(),
            },
        )),
        ..LbEndpoint::default()
    };
    let list = LbEndpointList {
        lb_endpoints: (0..count).map(row).collect(),
    };
    let name = format!("shop/web:http/{}/", member(number));
    seal(&name, &list, &Stamp::default())
}

#[test]
fn chunks_that_hold_more_endpoints_than_a_service_may_have_are_refused_until_they_fit() {
    let mut proxy = Proxy::default();
    proxy.follow(&State::from([((0, 1), 100), ((1, 1), 100)]), 100, false);
    let old: Vec<String> = proxy.has.keys().cloned().collect();
    let half = u32::try_from(ENDPOINTS_MAX / 2).unwrap();
    proxy.hear(URL, &[chunk_of(0, half)], &old);
    let decoded = proxy.decoder.decode(URL, &[chunk_of(1, half + 1)], &[]);
    assert_eq!(decoded.delta.changes, []);
    let name = format!("shop/web:http/{}/", member(1));
    assert_eq!(
        decoded.displaced,
        std::slice::from_ref(&name),
        "it may fit later"
    );
    let text = decoded.problems[0].to_string();
    assert!(
        text.contains(&name) && text.contains("100001 endpoints"),
        "{text}"
    );
    // What is full takes what comes in the place of something that goes, whoever is told first.
    proxy.hear(URL, &[chunk_of(1, half)], &[]);
    proxy.hear(URL, &[chunk_of(1, half - 1), chunk_of(0, half + 1)], &[]);
    assert_eq!(
        proxy.snapshot.endpoints["shop/web:http"].len(),
        ENDPOINTS_MAX
    );
    let decoded = proxy.decoder.decode(URL, &[chunk_of(0, 2 * half + 1)], &[]);
    assert!(decoded.displaced.is_empty() && decoded.problems.len() == 1);
}

fn states() -> impl Strategy<Value = Vec<State>> {
    let state = prop::collection::btree_map((0_u8..3, 0_u16..40), 1_u16..3, 1..60);
    prop::collection::vec(state, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Endpoints come, go, change and move from one chunk to another.
    #[test]
    fn whatever_changes_the_proxy_ends_with_what_is_so(
        states in states(), batch in 1_usize..20, removals_first: bool,
    ) {
        let mut proxy = Proxy::default();
        for state in &states {
            proxy.follow(state, batch, removals_first);
        }
    }

    #[test]
    fn an_outline_and_its_chunks_are_the_whole_assignment(states in states()) {
        let rows = rows(&states[0]);
        let service = service(&rows);
        let chunks = sealed(&service, &rows);
        let outline = seal("shop/web:http", &outline(&service), &Stamp::default());
        let mut whole = whole(&outline, chunks.values()).unwrap();
        let mut expected = endpoints::assignment(&service, &rows);
        // Chunks come in the order of names, not of addresses.
        for locality in whole.endpoints.iter_mut().chain(&mut expected.endpoints) {
            locality.lb_endpoints.sort_by_key(Message::encode_to_vec);
        }
        prop_assert_eq!(whole, expected);
    }
}
