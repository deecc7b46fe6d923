//! Tables of defaults and of refusals, kind by kind.

use super::*;
use crate::clock::SeededRandom;
use crate::resource::Registry;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

mod rights;
mod workloads;

/// One server's worth of context around strategies.
pub(crate) struct Bench {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    user: User,
    random: SeededRandom,
    objects: HashMap<(String, String, String), Value>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            settings: Settings::default(),
            state: State::default(),
            user: User::admin(),
            random: SeededRandom::new(1),
            objects: HashMap::new(),
        }
    }

    pub(crate) fn with(
        mut self,
        resource: &str,
        namespace: &str,
        name: &str,
        object: Value,
    ) -> Self {
        self.objects
            .insert((resource.into(), namespace.into(), name.into()), object);
        self
    }

    pub(crate) fn of_user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// Runs `act` as a request to `resource[:subresource]` in the namespace `blue`.
    pub(crate) fn run<T>(
        &self,
        path: &str,
        act: impl FnOnce(&'static dyn Strategy, &Ctx<'_>) -> T,
    ) -> T {
        let (resource, subresource) = path.split_once(':').unwrap_or((path, ""));
        let found = Registry::default()
            .all()
            .into_iter()
            .find(|served| served.resource == resource && served.group != "events.k8s.io")
            .expect("a built-in resource");
        let ctx = Ctx {
            now: Timestamp::UNIX_EPOCH,
            user: &self.user,
            resource: &found,
            subresource,
            namespace: "blue",
            dry_run: false,
            settings: &self.settings,
            random: &self.random,
            lookup: self,
            state: &self.state,
        };
        act(strategy(&found.group, &found.kind), &ctx)
    }

    /// The object as stored, or the causes of the 422.
    pub(crate) fn create(&self, path: &str, mut object: Value) -> Result<Value, Vec<String>> {
        self.run(path, |strategy, ctx| {
            strategy.defaults(&mut object);
            strategy
                .prepare_create(&mut object, ctx)
                .map_err(|error| causes(&error))?;
            let causes = strategy.validate_create(&object, ctx);
            if causes.is_empty() {
                Ok(object)
            } else {
                Err(list(&causes))
            }
        })
    }

    pub(crate) fn update(
        &self,
        path: &str,
        old: &Value,
        mut new: Value,
    ) -> Result<Value, Vec<String>> {
        self.run(path, |strategy, ctx| {
            strategy.defaults(&mut new);
            strategy
                .prepare_update(&mut new, old, ctx)
                .map_err(|error| causes(&error))?;
            let causes = strategy.validate_update(&new, old, ctx);
            if causes.is_empty() {
                Ok(new)
            } else {
                Err(list(&causes))
            }
        })
    }

    pub(crate) fn delete(&self, path: &str, object: &Value) {
        self.run(path, |strategy, ctx| strategy.deleted(object, ctx));
    }
}

impl Lookup for Bench {
    fn one(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects
            .get(&(resource.into(), namespace.into(), name.into()))
            .cloned()
    }

    fn list(&self, _: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let fits = |key: &(String, String, String)| {
            key.0 == resource && (namespace.is_empty() || key.1 == namespace)
        };
        self.objects
            .iter()
            .filter(|(key, _)| fits(key))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn revision(&self, _: &str, _: &str) -> u64 {
        self.objects.len() as u64
    }
}

fn causes(error: &ApiError) -> Vec<String> {
    let status = error.status();
    let causes = status["details"]["causes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if causes.is_empty() {
        return vec![format!("{} {}", error.code(), error)];
    }
    causes
        .iter()
        .map(|cause| {
            let text = |key: &str| cause[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("reason"), text("field"))
        })
        .collect()
}

fn list(causes: &[Cause]) -> Vec<String> {
    causes
        .iter()
        .map(|cause| format!("{} {}", cause.reason.as_str(), cause.field))
        .collect()
}

fn refused(result: Result<Value, Vec<String>>) -> Vec<String> {
    result.expect_err("the object is refused")
}

#[test]
fn a_namespace_starts_active_with_its_label_and_finalizer() {
    let bench = Bench::new();
    let made = bench
        .create("namespaces", json!({"metadata": {"name": "blue"}}))
        .unwrap();
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(
        made["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "blue"
    );
}

#[test]
fn only_finalize_changes_the_finalizers_of_a_namespace() {
    let bench = Bench::new();
    let old = bench
        .create("namespaces", json!({"metadata": {"name": "blue"}}))
        .unwrap();
    let mut emptied = old.clone();
    emptied["spec"] = json!({});
    let updated = bench.update("namespaces", &old, emptied.clone()).unwrap();
    assert_eq!(updated["spec"]["finalizers"], json!(["kubernetes"]));
    let finalized = bench.update("namespaces:finalize", &old, emptied).unwrap();
    assert_eq!(finalized["spec"], json!({}));
    let mut wrong = old.clone();
    wrong["status"]["phase"] = "Terminating".into();
    assert_eq!(
        refused(bench.update("namespaces:status", &old, wrong)),
        ["FieldValueInvalid status.Phase"]
    );
}

#[test]
fn a_secret_folds_string_data_and_keeps_its_type() {
    let bench = Bench::new();
    let made = bench
        .create(
            "secrets",
            json!({"stringData": {"a": "hello"}, "data": {"b": "eA=="}}),
        )
        .unwrap();
    assert_eq!(made["data"], json!({"b": "eA==", "a": "aGVsbG8="}));
    assert_eq!(made["type"], "Opaque");
    assert!(made.get("stringData").is_none());
    let mut other = made.clone();
    other["type"] = "kubernetes.io/tls".into();
    assert_eq!(
        refused(bench.update("secrets", &made, other)),
        [
            "FieldValueInvalid type",
            "FieldValueRequired data[tls.crt]",
            "FieldValueRequired data[tls.key]"
        ]
    );
}

#[test]
fn immutable_data_stays_and_keys_are_checked() {
    let bench = Bench::new();
    for (resource, value) in [("configmaps", "x"), ("secrets", "eA==")] {
        let old = bench
            .create(resource, json!({"immutable": true, "data": {"a": value}}))
            .unwrap();
        let mut new = old.clone();
        new["data"]["a"] = "eQ==".into();
        assert_eq!(
            refused(bench.update(resource, &old, new)),
            ["FieldValueForbidden data"]
        );
        let mut new = old.clone();
        new["immutable"] = false.into();
        assert_eq!(
            refused(bench.update(resource, &old, new)),
            ["FieldValueForbidden immutable"]
        );
        assert_eq!(
            refused(bench.create(resource, json!({"data": {"a b": value}}))),
            ["FieldValueInvalid data[a b]"]
        );
    }
    assert_eq!(
        refused(bench.create(
            "configmaps",
            json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}})
        )),
        ["FieldValueInvalid data[a]"]
    );
    let big = "x".repeat(1024 * 1024 + 1);
    assert_eq!(
        refused(bench.create("configmaps", json!({"data": {"a": big}}))),
        ["FieldValueTooLong []"]
    );
}

#[test]
fn an_endpoint_slice_refuses_addresses_that_lead_nowhere() {
    let bench = Bench::new();
    let slice = |kind: &str, address: &str| json!({"addressType": kind, "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
    let at = "FieldValueInvalid endpoints[0].addresses[0]";
    for (kind, address) in [
        ("IPv4", "127.0.0.1"),
        ("IPv4", "169.254.1.1"),
        ("IPv4", "224.0.0.1"),
        ("IPv4", "0.0.0.0"),
        ("IPv4", "10.0.0"),
        ("IPv4", "010.0.0.1"),
        ("IPv6", "::1"),
        ("IPv6", "::"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
        ("IPv6", "2001:DB8::1"),
    ] {
        assert_eq!(
            refused(bench.create("endpointslices", slice(kind, address))),
            [at],
            "{address}"
        );
    }
    assert_eq!(
        refused(bench.create("endpointslices", slice("IPv6", "10.0.0.1"))),
        ["FieldValueInvalid endpoints[0].addresses"]
    );
    for (kind, address) in [
        ("IPv4", "10.1.2.3"),
        ("IPv6", "2001:db8::1"),
        ("FQDN", "db.example."),
    ] {
        let made = bench
            .create("endpointslices", slice(kind, address))
            .unwrap();
        assert_eq!(
            made["ports"],
            json!([{"port": 80, "name": "", "protocol": "TCP"}])
        );
    }
    let mut open = Bench::new();
    open.settings.allow_loopback_endpoints = true;
    open.create("endpointslices", slice("IPv4", "127.0.0.1"))
        .unwrap();
    assert_eq!(
        refused(open.create("endpointslices", slice("IPv4", "0.0.0.0"))),
        [at]
    );
}

#[test]
fn an_endpoint_slice_keeps_to_its_limits_and_address_type() {
    let bench = Bench::new();
    let endpoints = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|at| json!({"addresses": [format!("10.0.{}.{}", at / 256, at % 256)]}))
            .collect()
    };
    let slice = |count| json!({"addressType": "IPv4", "endpoints": endpoints(count)});
    let full = bench.create("endpointslices", slice(1000)).unwrap();
    assert_eq!(
        refused(bench.create("endpointslices", slice(1001))),
        ["FieldValueTooMany endpoints"]
    );
    let mut other = full.clone();
    other["addressType"] = "FQDN".into();
    other["endpoints"] = json!([]);
    assert_eq!(
        refused(bench.update("endpointslices", &full, other)),
        ["FieldValueInvalid addressType"]
    );
    assert_eq!(
        refused(bench.create(
            "endpointslices",
            json!({"addressType": "IPv5", "endpoints": [{"addresses": []}], "ports": [
                {"name": "a"}, {"name": "a"}, {"name": "B", "protocol": "ICMP"},
            ]}),
        )),
        [
            "FieldValueNotSupported addressType",
            "FieldValueDuplicate ports[1].name",
            "FieldValueInvalid ports[2].name",
            "FieldValueNotSupported ports[2].protocol",
            "FieldValueRequired endpoints[0].addresses",
        ]
    );
    assert_eq!(
        refused(bench.create("endpointslices", json!({"endpoints": []}))),
        ["FieldValueRequired addressType"]
    );
}

#[test]
fn a_lease_checks_its_numbers() {
    let bench = Bench::new();
    let spec = json!({"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"});
    assert_eq!(
        refused(bench.create("leases", json!({"spec": spec}))),
        [
            "FieldValueInvalid spec.leaseDurationSeconds",
            "FieldValueInvalid spec.leaseTransitions",
        ]
    );
    bench
        .create("leases", json!({"spec": {"holderIdentity": "x"}}))
        .unwrap();
}

#[test]
fn a_network_policy_names_the_types_it_implies() {
    let bench = Bench::new();
    let made = bench
        .create(
            "networkpolicies",
            json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}}),
        )
        .unwrap();
    assert_eq!(made["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(made["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    let bad = json!({"spec": {"podSelector": {}, "ingress": [{"from": [{}, {"ipBlock": {"cidr": "x"}}]}]}});
    assert_eq!(
        refused(bench.create("networkpolicies", bad)),
        [
            "FieldValueRequired spec.ingress[0].from[0]",
            "FieldValueInvalid spec.ingress[0].from[1].ipBlock.cidr",
        ]
    );
}

#[test]
fn names_are_checked_in_the_words_of_kubernetes() {
    assert_eq!(names::label("a"), Vec::<String>::new());
    assert_eq!(names::label("a.b"), ["must not contain dots"]);
    assert_eq!(
        names::label(&"a".repeat(64)),
        ["must be no more than 63 characters"]
    );
    assert!(names::label("A")[0].ends_with(
        "(e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    ));
    assert!(names::subdomain("a..b").len() == 1 && names::subdomain("a.b").is_empty());
    assert!(names::qualified_name("example.com/My.Name_1").is_empty());
    assert_eq!(
        names::qualified_name("/x"),
        ["prefix part must be non-empty"]
    );
    assert_eq!(names::qualified_name("a/b/c").len(), 1);
    assert_eq!(
        names::port_name("-http--")[0],
        "must not contain consecutive hyphens"
    );
    assert!(NameRule::Subdomain.faults("prefix-", true).is_empty());
    assert_eq!(NameRule::Subdomain.faults("prefix-", false).len(), 1);
    assert_eq!(
        NameRule::PathSegment.faults("a/b", false),
        ["may not contain '/'"]
    );
    assert!(
        NameRule::PathSegment
            .faults("system:node", false)
            .is_empty()
    );
}

#[test]
fn metadata_is_checked_for_all_kinds_alike() {
    let check = |object: Value| {
        let mut errors = field::FieldErrors::default();
        metadata::validate_create(&object, true, NameRule::Subdomain, &mut errors);
        list(&errors.into_causes())
    };
    assert_eq!(
        check(json!({"metadata": {
            "namespace": "Blue",
            "labels": {"a b": "-"},
            "annotations": {"UPPER/x": "fine", "a b": ""},
            "finalizers": ["a b", "orphan", "foregroundDeletion"],
            "ownerReferences": [
                {"kind": "A", "name": "a", "uid": "1", "apiVersion": "v1", "controller": true},
                {"kind": "B", "name": "b", "uid": "2", "apiVersion": "v1", "controller": true},
                {"kind": "", "name": "", "uid": "", "apiVersion": "a/b/c"},
            ],
        }})),
        [
            "FieldValueRequired metadata.name",
            "FieldValueInvalid metadata.namespace",
            "FieldValueInvalid metadata.labels",
            "FieldValueInvalid metadata.labels",
            "FieldValueInvalid metadata.annotations",
            "FieldValueInvalid metadata.ownerReferences",
            "FieldValueInvalid metadata.ownerReferences[2].apiVersion",
            "FieldValueRequired metadata.ownerReferences[2].kind",
            "FieldValueRequired metadata.ownerReferences[2].name",
            "FieldValueRequired metadata.ownerReferences[2].uid",
            "FieldValueInvalid metadata.finalizers",
            "FieldValueInvalid metadata.finalizers",
        ]
    );
    let big = "x".repeat(256 * 1024);
    assert_eq!(
        check(json!({"metadata": {"name": "a", "namespace": "b", "annotations": {"k": big}}})),
        ["FieldValueTooLong metadata.annotations"]
    );
}

#[test]
fn selectors_match_as_in_kubernetes() {
    let labels = json!({"app": "web", "tier": "front"});
    let expression = |operator: &str, key: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (selector, wanted) in [
        (json!({}), true),
        (json!({"matchLabels": {"app": "web"}}), true),
        (json!({"matchLabels": {"app": "db"}}), false),
        (expression("In", "app", json!(["db", "web"])), true),
        (expression("In", "none", json!(["db"])), false),
        (expression("NotIn", "app", json!(["web"])), false),
        (expression("NotIn", "none", json!(["web"])), true),
        (expression("Exists", "tier", json!([])), true),
        (expression("DoesNotExist", "tier", json!([])), false),
    ] {
        assert_eq!(
            metadata::selector_matches(&selector, &labels),
            wanted,
            "{selector}"
        );
    }
}

/// Strategies are looked up by kind: a typing slip would leave a kind without its rules.
#[test]
fn each_kind_with_rules_is_served() {
    let served = Registry::default().all();
    let with_status: Vec<&Arc<Resource>> = served
        .iter()
        .filter(|resource| resource.has_status())
        .collect();
    assert!(!with_status.is_empty());
    for resource in with_status {
        assert!(
            strategy(&resource.group, &resource.kind).has_status(),
            "{}/{} has a status",
            resource.group,
            resource.kind
        );
    }
}
