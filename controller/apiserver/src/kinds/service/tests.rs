use crate::kinds::tests::Bench;
use serde_json::{Value, json};

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "blue"}, "spec": spec})
}

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "blue"}, "spec": spec})
}

fn dual() -> Bench {
    let mut bench = Bench::new();
    bench
        .settings
        .service_cidrs
        .push("fd00:10:96::/112".parse().unwrap());
    bench
}

#[test]
fn a_plain_service_gets_an_address_and_the_defaults() {
    let made = Bench::new()
        .create(
            "services",
            service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})),
        )
        .unwrap();
    let spec = &made["spec"];
    let ip: std::net::Ipv4Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    assert_eq!(ip.octets()[..2], [10, 96]);
    assert_eq!(spec["clusterIPs"], json!([ip.to_string()]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    assert_eq!(
        spec["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    assert_eq!(
        (&spec["type"], &spec["sessionAffinity"]),
        (&json!("ClusterIP"), &json!("None"))
    );
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
}

#[test]
fn a_full_range_gives_nothing_out_until_something_comes_back() {
    let mut bench = Bench::new();
    bench.settings.service_cidrs = vec!["10.0.0.0/28".parse().unwrap()];
    bench.settings.node_ports = (30_000, 30_003);
    let wish = |name: &str| named(name, json!({"type": "NodePort", "ports": [{"port": 1}]}));
    let made: Vec<Value> = (0..4)
        .map(|at| bench.create("services", wish(&format!("s{at}"))).unwrap())
        .collect();
    let each = |pointer: &str| {
        let values = made
            .iter()
            .map(|service| service.pointer(pointer).unwrap().to_string());
        values.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(
        (each("/spec/clusterIP"), each("/spec/ports/0/nodePort")),
        (4, 4)
    );
    assert!(bench.create("services", wish("late")).is_err());
    bench.delete("services", &made[2]);
    let late = bench.create("services", wish("late")).unwrap();
    assert_eq!(
        late["spec"]["ports"][0]["nodePort"],
        made[2]["spec"]["ports"][0]["nodePort"]
    );
    let plain = |at: usize| named(&format!("p{at}"), json!({"ports": [{"port": 1}]}));
    let more: Vec<_> = (0..14)
        .map(|at| bench.create("services", plain(at)))
        .collect();
    assert_eq!(
        more.iter().filter(|made| made.is_ok()).count(),
        10,
        "of 14 addresses"
    );
}

#[test]
fn addresses_are_unique_and_come_back() {
    let bench = Bench::new();
    let ports = json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.7"});
    let first = bench.create("services", named("a", ports.clone())).unwrap();
    let clash = bench
        .create("services", named("b", ports.clone()))
        .unwrap_err();
    assert_eq!(clash, ["FieldValueInvalid spec.clusterIPs"]);
    bench.delete("services", &first);
    bench.create("services", named("b", ports)).unwrap();
    let outside = json!({"ports": [{"port": 80}], "clusterIP": "10.97.0.1"});
    assert_eq!(
        bench.create("services", named("c", outside)).unwrap_err(),
        ["FieldValueInvalid spec.clusterIPs"]
    );
    let mut seen = std::collections::BTreeSet::new();
    for at in 0..300 {
        let made = bench.create(
            "services",
            named(&format!("s{at}"), json!({"ports": [{"port": 1}]})),
        );
        assert!(
            seen.insert(
                made.unwrap()["spec"]["clusterIP"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            )
        );
    }
}

#[test]
fn a_headless_service_has_no_address_and_may_have_no_ports() {
    let made = Bench::new()
        .create(
            "services",
            service(json!({"clusterIP": "None", "selector": {"app": "web"}})),
        )
        .unwrap();
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    let free = Bench::new()
        .create("services", service(json!({"clusterIP": "None"})))
        .unwrap();
    assert_eq!(free["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(free["spec"]["ipFamilyPolicy"], "RequireDualStack");
}

#[test]
fn dual_stack_follows_the_policy() {
    let ports = json!([{"port": 80}]);
    let both = dual()
        .create(
            "services",
            service(json!({"ports": ports, "ipFamilyPolicy": "PreferDualStack"})),
        )
        .unwrap();
    assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(both["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    assert!(
        both["spec"]["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00:10:96::")
    );
    let six = dual()
        .create(
            "services",
            service(json!({"ports": ports, "ipFamilies": ["IPv6"]})),
        )
        .unwrap();
    assert_eq!(six["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
    let refused = |spec: Value| Bench::new().create("services", service(spec)).unwrap_err();
    assert_eq!(
        refused(json!({"ports": ports, "ipFamilyPolicy": "RequireDualStack"})),
        ["FieldValueInvalid spec.ipFamilyPolicy"]
    );
    assert_eq!(
        refused(json!({"ports": ports, "ipFamilies": ["IPv6"]})),
        ["FieldValueInvalid spec.ipFamilies[0]"]
    );
    assert_eq!(
        refused(json!({"ports": ports, "ipFamilies": ["IPv7", "IPv7"]})),
        [
            "FieldValueNotSupported spec.ipFamilies[0]",
            "FieldValueNotSupported spec.ipFamilies[1]",
            "FieldValueDuplicate spec.ipFamilies[1]"
        ]
    );
}

#[test]
fn releasing_the_second_family_frees_its_address() {
    let bench = dual();
    let old = bench
        .create(
            "services",
            service(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"})),
        )
        .unwrap();
    let mut new = old.clone();
    new["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    let single = bench.update("services", &old, new).unwrap();
    assert_eq!(single["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
    let freed = old["spec"]["clusterIPs"][1].clone();
    let wish = json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6"], "clusterIP": freed, "clusterIPs": [freed]});
    bench.create("services", named("other", wish)).unwrap();
}

#[test]
fn the_address_stays_through_updates() {
    let bench = Bench::new();
    let old = bench
        .create("services", service(json!({"ports": [{"port": 80}]})))
        .unwrap();
    // A client that sends only what it knows keeps what was allocated.
    let kept = bench
        .update("services", &old, service(json!({"ports": [{"port": 81}]})))
        .unwrap();
    assert_eq!(kept["spec"]["clusterIP"], old["spec"]["clusterIP"]);
    let mut moved = old.clone();
    moved["spec"]["clusterIP"] = "10.96.9.9".into();
    moved["spec"]["clusterIPs"] = json!(["10.96.9.9"]);
    assert_eq!(
        bench.update("services", &old, moved).unwrap_err(),
        ["FieldValueInvalid spec.clusterIPs[0]"]
    );
}

#[test]
fn an_external_name_has_neither_addresses_nor_ports() {
    let bench = Bench::new();
    let made = bench
        .create(
            "services",
            service(json!({"type": "ExternalName", "externalName": "db.example.com."})),
        )
        .unwrap();
    assert!(made["spec"].get("clusterIP").is_none() && made["spec"].get("ipFamilies").is_none());
    assert_eq!(
        bench
            .create("services", service(json!({"type": "ExternalName"})))
            .unwrap_err(),
        ["FieldValueRequired spec.externalName"]
    );
    let old = bench
        .create("services", named("n", json!({"ports": [{"port": 1}]})))
        .unwrap();
    let mut new = old.clone();
    new["spec"]["type"] = "ExternalName".into();
    new["spec"]["externalName"] = "x.example".into();
    let now = bench.update("services", &old, new).unwrap();
    assert!(now["spec"].get("clusterIP").is_none());
    let again = json!({"ports": [{"port": 1}], "clusterIP": old["spec"]["clusterIP"]});
    bench.create("services", named("m", again)).unwrap();
}

#[test]
fn node_ports_are_allocated_in_their_range() {
    let bench = Bench::new();
    let made = bench
        .create("services", service(json!({"type": "NodePort", "ports": [
            {"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "x", "port": 80},
        ]})))
        .unwrap();
    let ports: Vec<i64> = made["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["nodePort"].as_i64().unwrap())
        .collect();
    assert!(ports.iter().all(|port| (30_000..=32_767).contains(port)));
    assert!(ports[0] == ports[1] && ports[0] != ports[2]);
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    let taken = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": ports[0]}]});
    assert_eq!(
        bench.create("services", named("b", taken)).unwrap_err(),
        ["FieldValueInvalid spec.ports[0].nodePort"]
    );
    let outside = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]});
    assert_eq!(
        bench.create("services", named("b", outside)).unwrap_err(),
        ["FieldValueInvalid spec.ports[0].nodePort"]
    );
    // Back to ClusterIP: the ports are wiped and free again.
    let mut plain = made.clone();
    plain["spec"]["type"] = "ClusterIP".into();
    let plain = bench.update("services", &made, plain).unwrap();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    assert!(plain["spec"].get("externalTrafficPolicy").is_none());
    let free = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": ports[0]}]});
    bench.create("services", named("b", free)).unwrap();
}

#[test]
fn session_affinity_brings_its_timeout() {
    let made = Bench::new()
        .create(
            "services",
            service(json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}]})),
        )
        .unwrap();
    assert_eq!(
        made["spec"]["sessionAffinityConfig"],
        json!({"clientIP": {"timeoutSeconds": 10800}})
    );
    let long = json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}],
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}});
    assert_eq!(
        Bench::new().create("services", service(long)).unwrap_err(),
        ["FieldValueInvalid spec.sessionAffinityConfig.clientIP.timeoutSeconds"]
    );
}

#[test]
fn ports_are_checked_one_by_one_and_against_each_other() {
    let refused = |spec: Value| Bench::new().create("services", service(spec)).unwrap_err();
    assert_eq!(refused(json!({})), ["FieldValueRequired spec.ports"]);
    assert_eq!(
        refused(json!({"ports": [
            {"port": 80}, {"name": "A", "port": 0, "protocol": "ICMP", "targetPort": "way-too-long-name"},
            {"name": "b", "port": 80}, {"name": "b", "port": 81, "nodePort": 30000},
        ]})),
        [
            "FieldValueRequired spec.ports[0].name",
            "FieldValueInvalid spec.ports[1].name",
            "FieldValueInvalid spec.ports[1].port",
            "FieldValueNotSupported spec.ports[1].protocol",
            "FieldValueInvalid spec.ports[1].targetPort",
            "FieldValueDuplicate spec.ports[3].name",
            "FieldValueForbidden spec.ports[3].nodePort",
            "FieldValueDuplicate spec.ports[2]",
        ]
    );
    assert_eq!(
        refused(json!({"ports": [{"port": 1}], "type": "Magic", "sessionAffinity": "Sometimes"})),
        [
            "FieldValueNotSupported spec.sessionAffinity",
            "FieldValueNotSupported spec.type"
        ]
    );
}
