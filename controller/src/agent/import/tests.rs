mod laws;

use std::collections::BTreeMap;

use fairlead_config::{
    frontend::{Frontend, Protocol},
    name::{FrontendName, ServiceName},
    snapshot::Snapshot,
    xds::proto::fairlead::{ImportEndpoint, ImportPort, SessionAffinity},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry, jiff::Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn read<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn web() -> Key {
    ("shop".into(), "web".into())
}

fn now() -> Time {
    Time(Timestamp::from_second(1_800_000_000).unwrap())
}

/// `shop/web` with port http, exported by member a.
fn told() -> Import {
    Import {
        namespace: "shop".into(),
        name: "web".into(),
        ports: vec![port("http", 80)],
        ip_families: vec!["IPv4".into()],
        members: vec!["a".into()],
        ..Import::default()
    }
}

fn port(name: &str, number: u32) -> ImportPort {
    ImportPort {
        name: name.into(),
        protocol: "TCP".into(),
        app_protocol: String::new(),
        port: number,
    }
}

fn endpoint(member: &str, ip: &str) -> ImportEndpoint {
    ImportEndpoint {
        member: member.into(),
        ip: ip.into(),
        ports: [("http".to_owned(), 8080)].into(),
        ready: true,
        serving: true,
        ..ImportEndpoint::default()
    }
}

fn with_endpoints(ips: &[(&str, &str)]) -> Import {
    Import {
        endpoints: ips
            .iter()
            .map(|(member, ip)| endpoint(member, ip))
            .collect(),
        ..told()
    }
}

/// A member with namespace `shop`, told of `imports`.
fn member(imports: &[Import]) -> Observed {
    let mut observed = Observed::default();
    observed.apply(namespace("shop"));
    for import in imports {
        let key = (import.namespace.clone(), import.name.clone());
        observed.tell(key, Some(import.clone()));
    }
    observed
}

fn namespace(name: &str) -> Object {
    Object::Namespace(Box::new(read(json!({ "metadata": { "name": name } }))))
}

/// The pods of the member's proxies.
fn pods(ips: &[&str], ready: bool) -> Object {
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": ready }, "nodeName": "n" }))
        .collect();
    Object::Pods(Box::new(read(json!({
        "metadata": { "namespace": "fairlead-system", "name": "fairlead-proxy-1" },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [],
    }))))
}

/// What proxies are told: a frontend for the port of `shop/web`, and what is behind it.
fn frontend(ip: &str, number: u16) -> Snapshot {
    let service = ServiceName::parse("shop/web:http").unwrap();
    let frontend = Frontend {
        name: FrontendName::parse("web").unwrap(),
        protocol: Protocol::Tcp,
        ip: ip.parse().unwrap(),
        ports: number..=number,
        service,
        sni: Vec::new(),
        allow: Vec::new(),
        proxy_protocol: None,
    };
    let mut snapshot = Snapshot::default();
    snapshot
        .frontends
        .insert(frontend.name.clone(), frontend.into());
    snapshot
}

fn plan_all(observed: &mut Observed) -> Vec<Write> {
    let member = Member {
        name: "b".into(),
        now: now(),
    };
    let dirty = observed.take_dirty();
    let web = web();
    let all = dirty.iter().chain([&web]).cloned();
    let keys: BTreeSet<Key> = all.collect();
    keys.iter()
        .flat_map(|key| plan(observed, &member, key))
        .collect()
}

/// Plans and makes the writes, as an API server would, until nothing is missing; how many writes
/// that were.
fn settle(observed: &mut Observed) -> usize {
    let mut made = 0;
    for _ in 0..8 {
        let writes = plan_all(observed);
        if writes.is_empty() {
            return made;
        }
        made += writes.len();
        writes
            .into_iter()
            .for_each(|write| perform(observed, write));
    }
    panic!("the plan does not come to rest: {:?}", plan_all(observed));
}

fn perform(observed: &mut Observed, write: Write) {
    let fresh = |meta: &mut ObjectMeta| {
        let uid = format!("uid of {}", meta.name.as_deref().unwrap_or_default());
        meta.uid.get_or_insert(uid);
    };
    match write {
        Write::PutImport(mut import) => {
            fresh(&mut import.metadata);
            import.status = observed
                .imports
                .get(&web())
                .and_then(|old| old.status.clone());
            observed.apply(Object::Import(import));
        }
        Write::PutService(mut service) => {
            fresh(&mut service.metadata);
            let spec = service.spec.as_mut().unwrap();
            let ip = match spec.cluster_ip.as_deref() {
                Some("None") => "None",
                _ => "10.96.0.9",
            };
            spec.cluster_ip = Some(ip.into());
            spec.cluster_ips = Some(vec![ip.into()]);
            spec.ip_families.get_or_insert(vec!["IPv4".into()]);
            observed.apply(Object::Service(service));
        }
        Write::PutSlice(mut slice) => {
            fresh(&mut slice.metadata);
            observed.apply(Object::Slice(slice));
        }
        Write::DeleteImport(at, uid) => {
            let import = observed.imports[&at].clone();
            assert_eq!(import.metadata.uid, Some(uid));
            observed.delete(&Object::Import(Box::new(import)));
        }
        Write::DeleteService(_, uid) => {
            let service = observed.service(&web()).unwrap().clone();
            assert_eq!(service.metadata.uid, Some(uid));
            observed.delete(&Object::Service(Box::new(service)));
        }
        Write::DeleteSlice(at, _) => {
            let slice = observed
                .slices(&web())
                .find(|one| one.metadata.name.as_ref() == Some(&at.1));
            let slice = slice.unwrap().clone();
            observed.delete(&Object::Slice(Box::new(slice)));
        }
        Write::Status(at, status) => {
            let mut import = observed.imports[&at].clone();
            import.status = Some(*status);
            observed.apply(Object::Import(Box::new(import)));
        }
        Write::Note(at, condition) => {
            let mut import = observed.imports[&at].clone();
            let status = import.status.get_or_insert_default();
            status.conditions = condition.map(|one| *one).into_iter().collect();
            observed.apply(Object::Import(Box::new(import)));
        }
    }
}

fn ready_condition(observed: &Observed) -> Condition {
    let status = observed.imports[&web()].status.clone().unwrap();
    find(&status.conditions, kind::READY).unwrap().clone()
}

/// Member, address and port of everything in the slices.
fn endpoints(observed: &Observed) -> Vec<String> {
    let mut all: Vec<String> = observed
        .slices(&web())
        .flat_map(|slice| {
            let labels = slice.metadata.labels.clone().unwrap();
            let ports = slice.ports.clone().unwrap_or_default();
            let ports: Vec<String> = ports
                .iter()
                .map(|port| port.port.unwrap().to_string())
                .collect();
            let endpoints = slice.endpoints.clone().unwrap_or_default().into_iter();
            endpoints.map(move |one| {
                format!(
                    "{} {}:{}",
                    labels[labels::SOURCE_CLUSTER],
                    one.addresses[0],
                    ports.join(",")
                )
            })
        })
        .collect();
    all.sort();
    all
}

#[test]
fn an_import_becomes_a_service_import_with_the_derived_services_address_and_rests() {
    let import = Import {
        session_affinity: SessionAffinity::ClientIp.into(),
        session_affinity_timeout_seconds: Some(60),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..with_endpoints(&[("a", "10.1.0.1"), ("c", "10.2.0.1")])
    };
    let mut observed = member(&[import]);
    settle(&mut observed);
    let import = &observed.imports[&web()];
    assert_eq!(import.spec.ips, ["10.96.0.9"]);
    assert_eq!(import.spec.session_affinity.as_deref(), Some("ClientIP"));
    assert_eq!(import.metadata.labels.as_ref().unwrap()["team"], "a");
    let service = observed.service(&web()).unwrap();
    let spec = service.spec.as_ref().unwrap();
    assert_eq!(
        (&spec.selector, spec.session_affinity.as_deref()),
        (&None, Some("ClientIP"))
    );
    let owner = &service.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(owner.uid, "uid of web");
    assert_eq!(endpoints(&observed), ["a 10.1.0.1:8080", "c 10.2.0.1:8080"]);
    for slice in observed.slices(&web()) {
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!(labels[labels::SERVICE_NAME], "web");
        assert_eq!(labels[labels::MANAGED_BY], "fairlead.dev");
        assert_eq!(labels["kubernetes.io/service-name"], derived_name(&web()));
    }
    let status = import.status.as_ref().unwrap();
    assert_eq!(status.clusters[0].cluster, "a");
    assert_eq!(
        ready_condition(&observed).message,
        "served by 2 ready endpoints"
    );
}

#[test]
fn an_import_that_goes_takes_everything_with_it() {
    let mut observed = member(&[with_endpoints(&[("a", "10.1.0.1")])]);
    settle(&mut observed);
    observed.tell(web(), None);
    settle(&mut observed);
    assert!(observed.imports.is_empty() && observed.service(&web()).is_none());
    assert_eq!(observed.slices(&web()).count(), 0);
}

#[test]
fn a_namespace_is_never_made_and_one_that_comes_later_gets_its_import() {
    let mut observed = Observed::default();
    observed.tell(web(), Some(told()));
    assert_eq!(settle(&mut observed), 0);
    observed.apply(namespace("shop"));
    settle(&mut observed);
    assert!(observed.imports.contains_key(&web()));
    let leaving =
        json!({ "metadata": { "name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    observed.apply(Object::Namespace(Box::new(read(leaving))));
    observed.imports.clear();
    assert_eq!(
        settle(&mut observed),
        0,
        "nothing is made in a namespace that goes"
    );
    for name in ["kube-system", "fairlead-system"] {
        let mut observed = Observed::default();
        observed.apply(namespace(name));
        let import = Import {
            namespace: name.into(),
            ..told()
        };
        observed.tell((name.into(), "web".into()), Some(import));
        assert_eq!(
            settle(&mut observed),
            0,
            "{name} belongs to a control plane"
        );
    }
}

#[test]
fn proxies_answer_where_they_serve_the_port_and_endpoints_while_none_runs() {
    let mut observed = member(&[told()]);
    let mut snapshot = frontend("0.0.0.0", 30_001);
    let row = fairlead_config::endpoint::Endpoint {
        key: fairlead_config::endpoint::EndpointKey {
            member: fairlead_config::name::MemberName::parse("a").unwrap(),
            target: fairlead_config::endpoint::Target::Addr("10.1.0.1:8080".parse().unwrap()),
        },
        weight: 1,
        zone: None,
        state: fairlead_config::endpoint::ObjectState::Ready,
        hop: fairlead_config::endpoint::Hop::Direct,
    };
    let service = ServiceName::parse("shop/web:http").unwrap();
    let rows = fairlead_config::snapshot::Endpoints::from_iter([std::sync::Arc::new(row)]);
    snapshot.endpoints.insert(service, rows.into());
    observed.serve(&snapshot);
    settle(&mut observed);
    assert_eq!(endpoints(&observed), ["a 10.1.0.1:8080"]);
    observed.apply(pods(&["10.9.0.1", "10.9.0.2"], true));
    settle(&mut observed);
    assert_eq!(
        endpoints(&observed),
        ["b 10.9.0.1:30001", "b 10.9.0.2:30001"]
    );
    assert_eq!(
        ready_condition(&observed).message,
        "served by 2 ready proxies of this member"
    );
    observed.apply(pods(&["10.9.0.1"], false));
    settle(&mut observed);
    assert_eq!(endpoints(&observed), ["a 10.1.0.1:8080"]);
}

#[test]
fn a_port_that_nobody_serves_here_says_what_to_do() {
    let mut observed = member(&[told()]);
    settle(&mut observed);
    let ready = ready_condition(&observed);
    assert_eq!((&*ready.status, &*ready.reason), ("False", "NoFrontend"));
    assert!(
        ready.message.contains("look at the exports of shop/web"),
        "{}",
        ready.message
    );
    observed.serve(&frontend("192.0.2.1", 80));
    settle(&mut observed);
    assert_eq!(endpoints(&observed), ["b 192.0.2.1:80"]);
    assert_eq!(ready_condition(&observed).status, "True");
}

#[test]
fn a_headless_import_has_endpoints_with_host_names_and_no_address() {
    let mut one = endpoint("a", "10.1.0.1");
    one.hostname = "db-0".into();
    let import = Import {
        r#type: ImportType::Headless.into(),
        endpoints: vec![one],
        ..told()
    };
    let mut observed = member(&[import]);
    observed.serve(&frontend("192.0.2.1", 80));
    settle(&mut observed);
    assert_eq!(
        endpoints(&observed),
        ["a 10.1.0.1:8080"],
        "no proxy stands in for a pod"
    );
    let slice = observed.slices(&web()).next().unwrap();
    let first = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!(first.hostname.as_deref(), Some("db-0"));
    assert!(
        slice
            .metadata
            .labels
            .as_ref()
            .unwrap()
            .contains_key("service.kubernetes.io/headless")
    );
    assert!(observed.imports[&web()].spec.ips.is_empty());
    // And becomes one with an address, which a Service cannot change.
    observed.tell(web(), Some(with_endpoints(&[("a", "10.1.0.1")])));
    settle(&mut observed);
    assert_eq!(observed.imports[&web()].spec.ips, ["10.96.0.9"]);
}

#[test]
fn a_member_that_does_not_expose_a_port_gets_no_clients_of_it() {
    let mut other = endpoint("c", "10.2.0.1");
    other.ports = [("admin".to_owned(), 9000)].into();
    let import = Import {
        ports: vec![port("http", 80), port("admin", 81)],
        endpoints: vec![endpoint("a", "10.1.0.1"), other],
        ..told()
    };
    let mut observed = member(&[import]);
    settle(&mut observed);
    assert_eq!(endpoints(&observed), ["a 10.1.0.1:8080", "c 10.2.0.1:9000"]);
}

#[test]
fn families_go_into_slices_of_their_own_and_unnamed_ports_get_a_name_among_others() {
    let mut six = endpoint("a", "2001:db8::1");
    six.ports = [(String::new(), 8443)].into();
    let import = Import {
        ports: vec![port("http", 80), port("", 443)],
        ip_families: vec!["IPv4".into(), "IPv6".into()],
        endpoints: vec![endpoint("a", "10.1.0.1"), six],
        ..told()
    };
    let mut observed = member(&[import]);
    settle(&mut observed);
    let kinds: BTreeSet<String> = observed
        .slices(&web())
        .map(|slice| slice.address_type.clone())
        .collect();
    assert_eq!(kinds, ["IPv4".to_owned(), "IPv6".to_owned()].into());
    let spec = observed.service(&web()).unwrap().spec.clone().unwrap();
    let names: Vec<_> = spec
        .ports
        .unwrap()
        .into_iter()
        .map(|port| port.name.unwrap())
        .collect();
    assert_eq!(names, ["http", "tcp-443"]);
    assert_eq!(spec.ip_family_policy.as_deref(), Some("PreferDualStack"));
}

/// Somebody else's object.
fn foreign<K: DeserializeOwned>(name: &str) -> K {
    let entry = ManagedFieldsEntry {
        manager: Some("kubectl".into()),
        ..ManagedFieldsEntry::default()
    };
    read(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "namespace": "shop", "name": name, "uid": "theirs", "managedFields": [entry] },
        "spec": { "type": "ClusterSetIP", "ports": [] },
    }))
}

#[test]
fn somebody_elses_service_import_is_left_alone_and_told_why() {
    let mut observed = member(&[told()]);
    let theirs: ServiceImport = foreign("web");
    observed.apply(Object::Import(Box::new(theirs.clone())));
    settle(&mut observed);
    let after = &observed.imports[&web()];
    assert_eq!(
        (&after.spec, &after.metadata),
        (&theirs.spec, &theirs.metadata)
    );
    assert!(observed.service(&web()).is_none());
    let conditions = &after.status.as_ref().unwrap().conditions;
    let served = find(conditions, SERVED).unwrap();
    assert!(served.message.contains("delete it"), "{}", served.message);
    observed.tell(web(), None);
    settle(&mut observed);
    assert!(
        observed.imports[&web()]
            .status
            .as_ref()
            .unwrap()
            .conditions
            .is_empty()
    );
}

#[test]
fn somebody_elses_service_of_the_derived_name_is_left_alone_and_the_import_says_so() {
    let mut observed = member(&[with_endpoints(&[("a", "10.1.0.1")])]);
    let theirs: Service = read(json!({
        "metadata": { "namespace": "shop", "name": derived_name(&web()), "uid": "theirs" },
        "spec": { "clusterIP": "10.96.0.1", "selector": { "app": "x" } },
    }));
    observed.apply(Object::Service(Box::new(theirs.clone())));
    settle(&mut observed);
    assert_eq!(observed.service(&web()), Some(&theirs));
    assert_eq!(observed.slices(&web()).count(), 0);
    let ready = ready_condition(&observed);
    assert_eq!(ready.reason, NAME_TAKEN);
    assert!(observed.imports[&web()].spec.ips.is_empty());
    observed.touch_unfinished();
    settle(&mut observed);
    assert_eq!(ready_condition(&observed).status, "True", "once it is gone");
}

#[test]
fn edits_of_ours_are_put_right_and_labels_of_others_stay() {
    let mut import = with_endpoints(&[("a", "10.1.0.1")]);
    import.labels = [("team".to_owned(), "a".to_owned())].into();
    let mut observed = member(&[import.clone()]);
    settle(&mut observed);
    let mut edited = observed.imports[&web()].clone();
    edited.spec.ips = vec!["192.0.2.99".into()];
    edited
        .metadata
        .labels
        .get_or_insert_default()
        .insert("theirs".into(), "kept".into());
    observed.apply(Object::Import(Box::new(edited)));
    let writes = plan_all(&mut observed);
    let [Write::PutImport(put)] = &writes[..] else {
        panic!("{writes:?}");
    };
    assert_eq!(put.spec.ips, ["10.96.0.9"]);
    perform(&mut observed, writes[0].clone());
    settle(&mut observed);
    // A label that is exported no longer is taken back: the applied fields differ.
    import.labels.clear();
    observed.tell(web(), Some(import));
    let writes = plan_all(&mut observed);
    assert!(matches!(&writes[0], Write::PutImport(_)), "{writes:?}");
}

#[test]
fn what_the_api_server_refuses_is_said_and_tried_again() {
    let mut observed = member(&[told()]);
    settle(&mut observed);
    let failure = Failure {
        message: "spec.ipFamilies[0]: not configured".into(),
        family: true,
    };
    observed.conclude(&web(), Some(failure));
    settle(&mut observed);
    let ready = ready_condition(&observed);
    assert_eq!(ready.reason, "IPFamilyNotSupported");
    observed.conclude(&web(), None);
    settle(&mut observed);
    assert_ne!(ready_condition(&observed).reason, "IPFamilyNotSupported");
}

#[test]
fn an_older_state_of_an_object_is_not_taken_for_news() {
    let mut observed = member(&[told()]);
    let at = |version: &str, ips: &[&str]| {
        let mut import = objects::import(&told(), None, None);
        import.metadata.uid = Some("1".into());
        import.metadata.resource_version = Some(version.into());
        import.spec.ips = ips.iter().map(|ip| (*ip).to_owned()).collect();
        Object::Import(Box::new(import))
    };
    observed.apply(at("10", &["10.96.0.1"]));
    observed.apply(at("9", &[]));
    assert_eq!(observed.imports[&web()].spec.ips, ["10.96.0.1"]);
    observed.apply(at("11", &[]));
    assert!(observed.imports[&web()].spec.ips.is_empty());
}

/// Every endpoint with the slice that it is in.
fn layout(observed: &Observed) -> BTreeMap<String, String> {
    let slices = observed.slices(&web());
    let all = slices.flat_map(|slice| {
        let name = slice.metadata.name.clone().unwrap();
        let endpoints = slice.endpoints.clone().unwrap().into_iter();
        endpoints.map(move |one| (one.addresses[0].clone(), name.clone()))
    });
    all.collect()
}

#[test]
fn a_wish_for_clients_nearby_reaches_the_derived_service_and_its_slices() {
    for (wish, zones, nodes) in [
        ("PreferClose", true, false),
        ("PreferSameZone", true, false),
        ("PreferSameNode", true, true),
        ("", false, false),
    ] {
        let mut near = with_endpoints(&[("a", "10.0.0.1")]);
        near.traffic_distribution = wish.into();
        near.endpoints[0].zone = "eu-1a".into();
        let mut observed = member(&[near]);
        observed.apply(pods(&["10.1.0.1"], true));
        settle(&mut observed);
        let wished = Some(wish.to_owned()).filter(|wish| !wish.is_empty());
        let spec = observed.service(&web()).unwrap().spec.clone().unwrap();
        assert_eq!(spec.traffic_distribution, wished, "{wish}");
        let import = &observed.imports[&web()];
        assert_eq!(import.spec.traffic_distribution, wished, "{wish}");
        let endpoint = one_endpoint(&observed);
        let hints = endpoint.hints.unwrap_or_default();
        let zone = hints.for_zones.map(|all| all[0].name.clone());
        assert_eq!(zone.as_deref(), zones.then_some("eu-1a"), "{wish}");
        // Other members' nodes are none of this cluster's.
        assert_eq!(hints.for_nodes, None, "{wish}");

        observed.serve(&frontend("0.0.0.0", 30_000));
        settle(&mut observed);
        let hints = one_endpoint(&observed).hints.unwrap_or_default();
        let node = hints.for_nodes.map(|all| all[0].name.clone());
        assert_eq!(node.as_deref(), nodes.then_some("n"), "{wish}");
    }
}

fn one_endpoint(observed: &Observed) -> k8s_openapi::api::discovery::v1::Endpoint {
    let key = web();
    let mut all = observed
        .slices(&key)
        .flat_map(|slice| slice.endpoints.iter().flatten());
    all.next().unwrap().clone()
}
