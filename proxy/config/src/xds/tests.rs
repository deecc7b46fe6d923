use proptest::{prelude::*, sample::Index};
use prost::Message;

use super::{
    decoder::{Decoded, Decoder},
    envelope::{Stamp, content_hash, stamp},
    proto::{
        Any, Typed,
        cluster::{Cluster, ClusterDiscoveryType, DiscoveryType, LbPolicy},
        core::{AddressKind, Locality, SocketProtocol, TransportSocket},
        endpoint::{ClusterLoadAssignment, HostIdentifier, LbEndpoint, LocalityLbEndpoints},
        fairlead::{Import, ImportPort, ImportType},
        filter::{ClusterSpecifier, ProxyProtocol, TcpProxy, UdpProxyConfig, UdpRouteSpecifier},
        listener::{Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter},
        pack, unpack,
    },
    *,
};
use crate::{
    endpoint::ObjectState,
    frontend::Protocol,
    name::{FrontendName, MemberName, ServiceName},
    policy::{Balancer, Policy},
    service::MemberWeight,
    snapshot::Change,
    tests::arbitrary,
    yaml,
};

mod moves;
mod recorded;

fn of_file(text: &str) -> Snapshot {
    yaml::parse(text.as_bytes())
        .unwrap_or_else(|p| panic!("{p}"))
        .snapshot
}

fn web() -> Snapshot {
    of_file(include_str!("../../recorded/0.1/snapshot.yaml"))
}

/// Decodes in the given order of (type, resources) into an empty snapshot.
fn decode<'r>(parts: impl IntoIterator<Item = (&'r str, &'r Vec<Resource>)>) -> Snapshot {
    let mut decoder = Decoder::default();
    let mut snapshot = Snapshot::default();
    for (url, resources) in parts {
        let decoded = decoder.decode(url, resources, &[]);
        assert_eq!(decoded.problems, [], "all are good");
        let (_, problems) = snapshot.apply(decoded.delta);
        assert_eq!(problems, []);
    }
    // A row without endpoints is the same as none.
    snapshot.endpoints.retain(|_, rows| !rows.is_empty());
    snapshot
}

fn parts(resources: &Resources) -> [(&str, &Vec<Resource>); 3] {
    [
        (Type::Cluster.url(), &resources.clusters),
        (Type::Assignment.url(), &resources.assignments),
        (Type::Listener.url(), &resources.listeners),
    ]
}

/// A minimal Cluster of another control plane, with its endpoints inside.
fn foreign_cluster(name: &str) -> Cluster {
    let address = endpoints::address("10.0.0.1:80".parse().unwrap(), SocketProtocol::Tcp);
    let endpoint = proto::endpoint::Endpoint {
        address: Some(address),
        hostname: String::new(),
    };
    Cluster {
        name: name.to_owned(),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![LbEndpoint {
                    host: Some(HostIdentifier::Endpoint(endpoint)),
                    ..LbEndpoint::default()
                }],
                ..LocalityLbEndpoints::default()
            }],
            policy: None,
        }),
        ..Cluster::default()
    }
}

fn sealed<T: Typed>(name: &str, message: &T) -> Vec<Resource> {
    vec![envelope::seal(name, message, &Stamp::default())]
}

fn problems(decoded: &Decoded) -> Vec<String> {
    decoded.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_a_hub_sends_is_what_a_proxy_runs_on() {
    let snapshot = web();
    let resources = encode(&snapshot, &Stamp::default());
    assert_eq!(
        resources.listeners.len(),
        2,
        "server names share a listener"
    );
    assert_eq!(decode(parts(&resources)), snapshot);
}

#[test]
fn an_envoy_finds_standard_fields() {
    let resources = encode(&web(), &Stamp::default());
    let cluster: Cluster = unpack(resources.clusters[0].resource.as_ref().unwrap()).unwrap();
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
    assert_eq!(cluster.discovery_type, Some(eds));
    assert_eq!(cluster.lb_policy, i32::from(LbPolicy::LeastRequest));
    assert_eq!(cluster.health_checks[0].unhealthy_threshold, Some(2));
    let assignment: ClusterLoadAssignment =
        unpack(resources.assignments[0].resource.as_ref().unwrap()).unwrap();
    let weights: Vec<_> = assignment
        .endpoints
        .iter()
        .map(|locality| (locality.priority, locality.load_balancing_weight))
        .collect();
    assert_eq!(weights, [(0, Some(80_000)), (0, None), (1, Some(100_000))]);
    let tcp: Listener = unpack(resources.listeners[0].resource.as_ref().unwrap()).unwrap();
    assert_eq!(tcp.name, "tcp/0.0.0.0:443");
    let filters: Vec<_> = tcp
        .listener_filters
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(
        filters,
        [
            "envoy.filters.listener.proxy_protocol",
            "envoy.filters.listener.tls_inspector"
        ]
    );
    let found = tcp.filter_chains[0].filter_chain_match.as_ref().unwrap();
    assert_eq!(found.server_names, ["a.example", "*.b.example"]);
    let udp: Listener = unpack(resources.listeners[1].resource.as_ref().unwrap()).unwrap();
    assert!(udp.udp_listener_config.is_some());
    assert_eq!(udp.additional_addresses.len(), 3);
    let address = udp.additional_addresses[2].address.clone().unwrap().address;
    let Some(AddressKind::Socket(socket)) = address else {
        panic!("a socket address");
    };
    assert_eq!(socket.port, Some(proto::core::Port::Value(5003)));
}

#[test]
fn only_what_fields_cannot_say_rides_in_metadata() {
    let mut snapshot = web();
    let keys = |snapshot: &Snapshot| -> Vec<String> {
        let resources = encode(snapshot, &Stamp::default());
        let cluster: Cluster = unpack(resources.clusters[0].resource.as_ref().unwrap()).unwrap();
        let ours = ours(cluster.metadata.as_ref());
        ours.map(|ours| ours.fields.keys().cloned().collect())
            .unwrap_or_default()
    };
    assert_eq!(keys(&snapshot), ["balancer", "hedge"]);
    for service in snapshot.services.values_mut() {
        std::sync::Arc::make_mut(service).policy = Policy::default();
    }
    assert_eq!(keys(&snapshot), Vec::<String>::new());
}

#[test]
fn a_service_whose_members_all_drain_goes_on_draining() {
    let snapshot = of_file(
        "services: [ { name: a/b:c, tiers: [ { members: [ { name: m, weight: 0 } ] } ] } ]",
    );
    assert_eq!(
        decode(parts(&encode(&snapshot, &Stamp::default()))),
        snapshot
    );
}

#[test]
fn order_of_arrival_does_not_matter() {
    let snapshot = web();
    let resources = encode(&snapshot, &Stamp::default());
    let mut reversed = parts(&resources);
    reversed.reverse();
    assert_eq!(decode(reversed), snapshot);
}

#[test]
fn a_service_waits_for_its_endpoints() {
    let resources = encode(&web(), &Stamp::default());
    let mut decoder = Decoder::default();
    let first = decoder.decode(Cluster::URL, &resources.clusters, &[]);
    assert_eq!(first.delta.changes, []);
    let name = ServiceName::parse("shop/web:https").unwrap();
    assert_eq!(decoder.waiting().collect::<Vec<_>>(), [&name]);
    assert_eq!(
        decoder.assignment_names().collect::<Vec<_>>(),
        ["shop/web:https"]
    );
    let second = decoder.decode(ClusterLoadAssignment::URL, &resources.assignments, &[]);
    assert!(matches!(
        second.delta.changes.as_slice(),
        [Change::Service(_), Change::Endpoints(_, endpoints)] if endpoints.len() == 3
    ));
    assert_eq!(decoder.waiting().count(), 0);
    let again = decoder.decode(Cluster::URL, &resources.clusters, &[]);
    assert!(matches!(
        again.delta.changes.as_slice(),
        [Change::Service(_)]
    ));
}

#[test]
fn a_refused_resource_names_every_fault_and_keeps_what_was_in_force() {
    let good = encode(&web(), &Stamp::default());
    let mut decoder = Decoder::default();
    for (url, resources) in parts(&good) {
        decoder.decode(url, resources, &[]);
    }
    let name = "shop/web:https";
    let mut assignment: ClusterLoadAssignment =
        unpack(good.assignments[0].resource.as_ref().unwrap()).unwrap();
    assignment.endpoints[1].priority = 99;
    assignment.endpoints[0].lb_endpoints[0].load_balancing_weight = Some(0);
    let mut both = sealed(name, &assignment);
    both.extend(sealed(
        "shop/other:x",
        &ClusterLoadAssignment {
            cluster_name: "shop/other:x".to_owned(),
            ..ClusterLoadAssignment::default()
        },
    ));
    let decoded = decoder.decode(ClusterLoadAssignment::URL, &both, &[]);
    assert_eq!(
        problems(&decoded),
        [
            "endpoints shop/web:https: endpoints[0].lb_endpoints[0]: load_balancing_weight is out of range; use 1 to 1000",
            "endpoints shop/web:https: endpoints[1]: has priority 99; there are at most 16 tiers",
        ]
    );
    assert_eq!(
        decoded.delta.changes,
        [],
        "the good one waits for its cluster"
    );
}

/// What is wrong with the only resource.
fn refusal(url: &str, resources: &[Resource]) -> String {
    let decoded = Decoder::default().decode(url, resources, &[]);
    assert_eq!(decoded.delta.changes, []);
    problems(&decoded).join("\n")
}

#[test]
fn clusters_that_we_cannot_serve_are_refused_with_the_field() {
    let refused = |name: &str, cluster: &Cluster| refusal(Cluster::URL, &sealed(name, cluster));
    let base = || foreign_cluster("a/b:c");
    assert!(refused("web", &foreign_cluster("web")).contains("has no namespace"));
    assert!(refused("a/b:d", &base()).contains("its content is named \"a/b:c\""));
    let provided = Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..base()
    };
    let text = refused("a/b:c", &provided);
    assert!(
        text.contains("lb_policy: is a policy that this proxy has not"),
        "{text}"
    );
    let original = Cluster {
        discovery_type: Some(ClusterDiscoveryType::Type(
            DiscoveryType::OriginalDst.into(),
        )),
        ..base()
    };
    assert!(refused("a/b:c", &original).contains("type: is not supported"));
    let tls = Any {
        type_url: "x/Tls".to_owned(),
        value: Vec::new(),
    };
    let tls = Cluster {
        transport_socket: Some(TransportSocket {
            name: "tls".to_owned(),
            typed_config: Some(tls),
        }),
        ..base()
    };
    assert!(refused("a/b:c", &tls).contains("no TLS"));
}

#[test]
fn listeners_that_we_cannot_serve_are_refused_with_the_field() {
    let refused = |listener: &Listener| refusal(Listener::URL, &sealed("l", listener));
    let by_port = tcp_listener("l", |chain| {
        chain.filter_chain_match = Some(FilterChainMatch {
            source_ports: vec![1],
            ..FilterChainMatch::default()
        });
    });
    assert!(
        refused(&by_port).contains("filter_chains[0].filter_chain_match: matches by more than")
    );
    let bare = tcp_listener("l", |chain| chain.filters.clear());
    assert!(refused(&bare).contains("filter_chains[0].filters: must be exactly one tcp_proxy"));
    let mut twice = tcp_listener("l", |_| ());
    twice.filter_chains.push(twice.filter_chains[0].clone());
    assert!(refused(&twice).contains("takes the server names of another chain"));
    let mut lax = tcp_listener("l", |_| ());
    lax.listener_filters.push(ListenerFilter {
        name: "pp".to_owned(),
        typed_config: Some(pack(&ProxyProtocol {
            allow_requests_without_proxy_protocol: true,
            ..ProxyProtocol::default()
        })),
    });
    assert!(refused(&lax).contains("a client could state any source"));
}

#[test]
fn envelopes_that_hold_nothing_of_ours_are_refused() {
    let empty = Resource {
        name: "x".to_owned(),
        ..Resource::default()
    };
    assert_eq!(refusal(Cluster::URL, &[empty]), "cluster x: has no content");
    let other = sealed("x", &foreign_cluster("x"));
    assert!(refusal("type.googleapis.com/other", &other).contains("which was not asked for"));
    assert!(
        refusal(Listener::URL, &other)
            .contains("expected type.googleapis.com/envoy.config.listener")
    );
}

/// A Listener of another control plane with one chain.
fn tcp_listener(name: &str, edit: impl FnOnce(&mut FilterChain)) -> Listener {
    let mut chain = FilterChain {
        filters: vec![Filter {
            name: "anything".to_owned(),
            typed_config: Some(pack(&TcpProxy {
                cluster: Some(ClusterSpecifier::Cluster("a/b:c".to_owned())),
                ..TcpProxy::default()
            })),
        }],
        ..FilterChain::default()
    };
    edit(&mut chain);
    Listener {
        name: name.to_owned(),
        address: Some(endpoints::address(
            "10.0.0.9:80".parse().unwrap(),
            SocketProtocol::Tcp,
        )),
        filter_chains: vec![chain],
        ..Listener::default()
    }
}

#[test]
fn resources_of_another_control_plane_serve() {
    let mut decoder = Decoder::default();
    let mut cluster = foreign_cluster("a/b:c");
    let localities = &mut cluster.load_assignment.as_mut().unwrap().endpoints;
    localities[0].locality = Some(Locality {
        region: "eu".to_owned(),
        zone: "Zone_1".to_owned(),
        sub_zone: String::new(),
    });
    let decoded = decoder.decode(Cluster::URL, &sealed("a/b:c", &cluster), &[]);
    let [Change::Service(service), Change::Endpoints(_, endpoints)] =
        decoded.delta.changes.as_slice()
    else {
        panic!("{decoded:?}");
    };
    let member = &service.tiers[0].members[0];
    assert_eq!(member.name, MemberName::parse("eu-zone-1").unwrap());
    assert_eq!(
        member.weight,
        MemberWeight::DEFAULT,
        "no weights anywhere: all alike"
    );
    assert_eq!(service.policy.balancer, Balancer::RoundRobin);
    assert_eq!(
        (endpoints[0].weight, endpoints[0].state),
        (1, ObjectState::Ready)
    );

    let mut listener = tcp_listener("ingress", |_| ());
    listener.listener_filters.push(ListenerFilter {
        name: "pp".to_owned(),
        typed_config: Some(pack(&ProxyProtocol::default())),
    });
    let decoded = decoder.decode(Listener::URL, &sealed("ingress", &listener), &[]);
    let [Change::Frontend(frontend)] = decoded.delta.changes.as_slice() else {
        panic!("{decoded:?}");
    };
    assert_eq!(frontend.name, FrontendName::parse("ingress").unwrap());
    assert_eq!(frontend.proxy_protocol.as_ref().unwrap().from.len(), 2);

    let mut udp = tcp_listener("dns", |_| ());
    udp.filter_chains.clear();
    udp.address = Some(endpoints::address(
        "10.0.0.9:53".parse().unwrap(),
        SocketProtocol::Udp,
    ));
    udp.listener_filters.push(ListenerFilter {
        name: "udp".to_owned(),
        typed_config: Some(pack(&UdpProxyConfig {
            route: Some(UdpRouteSpecifier::Cluster("a/b:c".to_owned())),
            ..UdpProxyConfig::default()
        })),
    });
    let decoded = decoder.decode(Listener::URL, &sealed("dns", &udp), &[]);
    assert!(matches!(
        decoded.delta.changes.as_slice(),
        [Change::Frontend(frontend)] if frontend.protocol == Protocol::Udp
    ));
}

#[test]
fn removals_take_back_exactly_what_came() {
    let snapshot = web();
    let resources = encode(&snapshot, &Stamp::default());
    let mut decoder = Decoder::default();
    let mut running = Snapshot::default();
    for (url, resources) in parts(&resources) {
        running.apply(decoder.decode(url, resources, &[]).delta);
    }
    let remove = |decoder: &mut Decoder, running: &mut Snapshot, url: &str, name: &str| {
        let decoded = decoder.decode(url, &[], &[name.to_owned()]);
        running.apply(decoded.delta);
    };
    remove(&mut decoder, &mut running, Listener::URL, "tcp/0.0.0.0:443");
    assert_eq!(running.frontends.len(), 1);
    remove(
        &mut decoder,
        &mut running,
        ClusterLoadAssignment::URL,
        "shop/web:https",
    );
    assert!(running.endpoints.values().all(|rows| rows.is_empty()));
    assert_eq!(running.services.len(), 1);
    remove(&mut decoder, &mut running, Cluster::URL, "shop/web:https");
    assert!(running.services.is_empty());
    remove(&mut decoder, &mut running, Cluster::URL, "never/there:x");
    // And back again, from nothing.
    for (url, resources) in parts(&resources) {
        running.apply(decoder.decode(url, resources, &[]).delta);
    }
    assert_eq!(running, snapshot);
}

#[test]
fn a_service_that_comes_back_waits_for_its_endpoints_again() {
    let snapshot = web();
    let resources = encode(&snapshot, &Stamp::default());
    let mut decoder = Decoder::default();
    let mut running = Snapshot::default();
    for (url, resources) in parts(&resources) {
        running.apply(decoder.decode(url, resources, &[]).delta);
    }
    let gone = ["shop/web:https".to_owned()];
    running.apply(decoder.decode(Cluster::URL, &[], &gone).delta);
    let back = decoder.decode(Cluster::URL, &resources.clusters, &[]);
    assert_eq!(back.delta.changes, [], "its endpoints went with it");
    running.apply(
        decoder
            .decode(ClusterLoadAssignment::URL, &resources.assignments, &[])
            .delta,
    );
    assert_eq!(running, snapshot);
}

#[test]
fn a_listener_that_changes_drops_the_frontends_it_no_longer_has() {
    let snapshot = web();
    let mut fewer = snapshot.clone();
    fewer.frontends.remove("shop/web:https#1");
    let before = encode(&snapshot, &Stamp::default());
    let after = encode(&fewer, &Stamp::default());
    let mut decoder = Decoder::default();
    decoder.decode(Listener::URL, &before.listeners, &[]);
    let decoded = decoder.decode(Listener::URL, &after.listeners[..1], &[]);
    let gone = FrontendName::parse("shop/web:https#1").unwrap();
    assert_eq!(decoded.delta.changes[0], Change::RemoveFrontend(gone));
}

#[test]
fn the_hash_is_of_the_content_and_the_stamp_travels_beside_it() {
    let later = Stamp {
        as_of: u64::MAX - 1,
        epoch: "second life".to_owned(),
    };
    let (plain, stamped) = (encode(&web(), &Stamp::default()), encode(&web(), &later));
    assert_eq!(plain.clusters[0].version, stamped.clusters[0].version);
    assert_eq!(stamp(&stamped.clusters[0]), later);
    assert_eq!(stamp(&plain.clusters[0]), Stamp::default());
    let mut other = web();
    for service in other.services.values_mut() {
        std::sync::Arc::make_mut(service).policy.hedge = true;
    }
    let other = encode(&other, &later);
    assert_ne!(plain.clusters[0].version, other.clusters[0].version);
    assert_eq!(plain.assignments[0].version, other.assignments[0].version);
}

/// Pins the bytes on the wire: field numbers and kinds that peers rely on. A change here is a change
/// of protocol.
#[test]
fn the_wire_form_stays_what_it_is() {
    let resources = encode(
        &web(),
        &Stamp {
            as_of: 7,
            epoch: "e".to_owned(),
        },
    );
    let hash = |resources: &[Resource]| -> Vec<String> {
        resources
            .iter()
            .map(|it| content_hash(it.resource.as_ref().unwrap()))
            .collect()
    };
    let import = pack(&Import {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        r#type: ImportType::Headless.into(),
        ports: vec![ImportPort {
            port: 443,
            ..ImportPort::default()
        }],
        ..Import::default()
    });
    let found = [
        hash(&resources.clusters),
        hash(&resources.assignments),
        hash(&resources.listeners),
        vec![content_hash(&import)],
    ]
    .concat();
    assert_eq!(
        found, PINNED,
        "say in the commit how older peers read the new form"
    );
}

/// What the fuzz target `resources` checks, on its corpus.
#[test]
fn the_corpus_of_resources_never_panics() {
    for (name, bytes) in arbitrary::corpus("resources") {
        let mut decoder = Decoder::default();
        for type_url in Type::OF_PROXIES.map(Type::url) {
            let any = Any {
                type_url: type_url.to_owned(),
                value: bytes.clone(),
            };
            let resource = Resource {
                name: "shop/web:https".to_owned(),
                resource: Some(any),
                ..Resource::default()
            };
            let decoded = decoder.decode(type_url, &[resource], &[]);
            let (_, problems) = Snapshot::default().apply(decoded.delta);
            assert_eq!(problems, [], "{name}");
        }
    }
}

#[test]
#[ignore = "writes the corpus of resources anew"]
fn write_the_corpus_of_resources() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/resources");
    let resources = encode(&web(), &Stamp::default());
    let all = parts(&resources).into_iter().flat_map(|(_, all)| all);
    for (index, resource) in all.enumerate() {
        let bytes = &resource.resource.as_ref().unwrap().value;
        std::fs::write(folder.join(format!("web-{index}")), bytes).unwrap();
    }
    let foreign = foreign_cluster("shop/web:https").encode_to_vec();
    std::fs::write(folder.join("foreign-cluster"), foreign).unwrap();
    let listener = tcp_listener("shop/web:https", |_| ()).encode_to_vec();
    std::fs::write(folder.join("foreign-listener"), listener).unwrap();
}

const PINNED: [&str; 5] = [
    "234b747d5f5fe04f7f267dfb1bcd59f9",
    "dea5c6c52ab58ec16dcb0f4def04eeee",
    "6b00ea3c703710a4fe047e8be8ba3391",
    "d1302b9586f7722405154e5677deb2c4",
    "3894272094f0f8418dd172c46f6bf1e8",
];

proptest! {
    #[test]
    fn decoding_what_was_encoded_yields_the_same_snapshot(snapshot in arbitrary::snapshot()) {
        let resources = encode(&snapshot, &Stamp { as_of: 1, epoch: "e".to_owned() });
        prop_assert_eq!(decode(parts(&resources)), snapshot);
    }

    #[test]
    fn fields_that_we_do_not_know_are_skipped(snapshot in arbitrary::snapshot(), value: u32) {
        let mut resources = encode(&snapshot, &Stamp::default());
        // A varint, a string and a group of bytes under numbers that nobody uses.
        let mut unknown = Vec::new();
        prost::encoding::uint32::encode(19_000_000, &value, &mut unknown);
        prost::encoding::string::encode(19_000_001, &"x".to_owned(), &mut unknown);
        let all = [&mut resources.clusters, &mut resources.assignments, &mut resources.listeners];
        for resource in all.into_iter().flatten() {
            resource.resource.as_mut().unwrap().value.extend_from_slice(&unknown);
            let mut envelope = resource.encode_to_vec();
            envelope.extend_from_slice(&unknown);
            *resource = Resource::decode(envelope.as_slice()).unwrap();
        }
        prop_assert_eq!(decode(parts(&resources)), snapshot);
    }

    #[test]
    fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize) {
        let any = Any { type_url: Type::OF_PROXIES[kind].url().to_owned(), value: bytes };
        let resource = Resource { name: "a/b:c".to_owned(), resource: Some(any), ..Resource::default() };
        Decoder::default().decode(Type::OF_PROXIES[kind].url(), &[resource], &[]);
    }

    #[test]
    fn damaged_resources_never_panic_and_never_break_a_row(
        snapshot in arbitrary::snapshot(),
        damage in proptest::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..20),
    ) {
        let resources = encode(&snapshot, &Stamp::default());
        let mut decoder = Decoder::default();
        for (url, all) in parts(&resources) {
            let mut all = all.clone();
            if all.is_empty() {
                continue;
            }
            for (which, at, byte) in &damage {
                let value = &mut which.get_mut(&mut all).resource.as_mut().unwrap().value;
                if !value.is_empty() {
                    *at.get_mut(value) = *byte;
                }
            }
            let decoded = decoder.decode(url, &all, &[]);
            for change in decoded.delta.changes {
                if let Change::Endpoints(_, endpoints) = change {
                    prop_assert!(endpoints.iter().all(|endpoint| endpoint.weight >= 1));
                }
            }
        }
    }
}
