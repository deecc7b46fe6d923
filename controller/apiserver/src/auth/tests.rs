//! RBAC: truth tables, a law against a naive evaluator, escalation.

use super::authorize::RbacAuthorizer;
use super::escalation::{confirm_no_escalation, missing};
use super::index::{Rbac, Verdict};
use super::rbac::{Action, PolicyRule, forbidden_message};
use super::*;
use crate::kinds::Lookup;
use crate::store::{Change, Draft, Key, Store, Write};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Default)]
struct Objects(BTreeMap<&'static str, Vec<Value>>);

impl Lookup for Objects {
    fn one(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Value> {
        None
    }

    fn list(&self, _: &str, resource: &str, _: &str) -> Vec<Value> {
        self.0.get(resource).cloned().unwrap_or_default()
    }

    fn revision(&self, _: &str, resource: &str) -> u64 {
        self.0
            .get(resource)
            .map_or(0, |objects| objects.len() as u64)
    }
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
    let own = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
    PolicyRule {
        verbs: own(verbs),
        api_groups: own(groups),
        resources: own(resources),
        resource_names: own(names),
        non_resource_urls: Vec::new(),
    }
}

fn action<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Action<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Action::Resource {
        verb,
        group,
        resource,
        subresource,
        namespace: "blue",
        name,
    }
}

#[test]
fn rules_match_verbs_groups_resources_and_names() {
    // Of a rule its group, resource and verb; of a request its verb, group and resource.
    for (of_rule, of_request, wanted) in [
        (["", "pods", "get"], ["get", "", "pods"], true),
        (["", "pods", "get"], ["list", "", "pods"], false),
        (["", "pods", "get"], ["get", "apps", "pods"], false),
        (["", "pods", "get"], ["get", "", "pods/log"], false),
        (["", "pods/log", "get"], ["get", "", "pods/log"], true),
        (["", "pods/log", "get"], ["get", "", "pods"], false),
        (["", "*/scale", "get"], ["get", "", "pods/scale"], true),
        (["", "*/scale", "get"], ["get", "", "scale"], false),
        (["*", "*", "*"], ["x", "y", "z/w"], true),
        (["", "pods/*", "get"], ["get", "", "pods/log"], false),
    ] {
        let [group, resource, verb] = of_rule;
        let rule = rule(&[group], &[resource], &[verb], &[]);
        let action = action(of_request[0], of_request[1], of_request[2], "a");
        assert_eq!(rule.allows(&action), wanted, "{rule:?} {action:?}");
    }
    let nowhere = rule(&[], &["pods"], &["get"], &[]);
    assert!(!nowhere.allows(&action("get", "", "pods", "a")));
}

#[test]
fn a_rule_with_names_allows_nothing_without_one() {
    for (verb, name, wanted) in [
        ("get", "a", true),
        ("get", "b", false),
        ("create", "", false),
    ] {
        let rule = rule(&[""], &["pods"], &[verb], &["a"]);
        let action = action(verb, "", "pods", name);
        assert_eq!(rule.allows(&action), wanted, "{rule:?} {action:?}");
    }
}

#[test]
fn rules_match_urls_and_their_prefixes() {
    let urls = |url: &str| PolicyRule {
        verbs: vec!["get".into()],
        non_resource_urls: vec![url.into()],
        ..PolicyRule::default()
    };
    for (url, path, wanted) in [
        ("/healthz", "/healthz", true),
        ("/healthz", "/healthz/etcd", false),
        ("/healthz/*", "/healthz/etcd", true),
        ("/healthz*", "/healthz/etcd", true),
        ("*", "/anything", true),
        ("/h*z", "/healthz", false),
    ] {
        let action = Action::Path { verb: "get", path };
        assert_eq!(urls(url).allows(&action), wanted, "{url} {path}");
        assert!(!urls(url).allows(&Action::Path { verb: "post", path }));
    }
}

#[test]
fn refusals_read_as_in_kubernetes() {
    assert_eq!(
        forbidden_message("bob", &action("get", "", "pods/log", "a")),
        r#"User "bob" cannot get resource "pods/log" in API group "" in the namespace "blue""#
    );
    let action = Action::Resource {
        verb: "list",
        group: "apps",
        resource: "deployments",
        subresource: "",
        namespace: "",
        name: "",
    };
    assert_eq!(
        forbidden_message("bob", &action),
        r#"User "bob" cannot list resource "deployments" in API group "apps" at the cluster scope"#
    );
    assert_eq!(
        forbidden_message(
            "bob",
            &Action::Path {
                verb: "get",
                path: "/metrics"
            }
        ),
        r#"User "bob" cannot get path "/metrics""#
    );
}

fn cluster() -> Objects {
    let role = |name: &str, namespace: &str, verb: &str| {
        json!({
            "metadata": {"name": name, "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}],
        })
    };
    let binding = |name: &str, namespace: &str, kind: &str, role: &str, subject: Value| {
        json!({
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"kind": kind, "name": role}, "subjects": [subject],
        })
    };
    Objects(BTreeMap::from([
        ("clusterroles", vec![role("reader", "", "get")]),
        ("roles", vec![role("lister", "blue", "list")]),
        (
            "clusterrolebindings",
            vec![
                binding(
                    "all",
                    "",
                    "ClusterRole",
                    "reader",
                    json!({"kind": "Group", "name": "readers"}),
                ),
                binding(
                    "lost",
                    "",
                    "ClusterRole",
                    "gone",
                    json!({"kind": "User", "name": "eve"}),
                ),
            ],
        ),
        (
            "rolebindings",
            vec![
                binding(
                    "local",
                    "blue",
                    "ClusterRole",
                    "reader",
                    json!({"kind": "User", "name": "bob"}),
                ),
                binding(
                    "sa",
                    "blue",
                    "Role",
                    "lister",
                    json!({"kind": "ServiceAccount", "name": "robot"}),
                ),
                binding(
                    "stray",
                    "red",
                    "Role",
                    "lister",
                    json!({"kind": "User", "name": "bob"}),
                ),
            ],
        ),
    ]))
}

#[test]
fn bindings_grant_in_their_scope_to_their_subjects() {
    let objects = cluster();
    let index = Rbac::default().refreshed(&objects);
    let robot = User::new(
        "system:serviceaccount:blue:robot",
        ["system:serviceaccounts"],
    );
    let reader = User::new("ann", ["readers"]);
    let in_namespace = |verb, namespace| Action::Resource {
        verb,
        group: "",
        resource: "pods",
        subresource: "",
        namespace,
        name: "x",
    };
    let bob = User::new("bob", ["staff"]);
    for (user, verb, namespace, wanted) in [
        (&bob, "get", "blue", true),
        (&bob, "get", "red", false),
        (&bob, "get", "", false),
        (&bob, "list", "red", false),
        (&reader, "get", "red", true),
        (&reader, "get", "", true),
        (&reader, "list", "blue", false),
        (&robot, "list", "blue", true),
        (&robot, "list", "red", false),
        (&User::admin(), "delete", "", true),
    ] {
        assert_eq!(
            index.allows(user, &in_namespace(verb, namespace)),
            wanted,
            "{user:?} {verb} {namespace}"
        );
    }
    assert_eq!(
        index.decide(&robot, &in_namespace("list", "blue")),
        Verdict::Allowed(
            r#"RBAC: allowed by RoleBinding "sa/blue" of Role "lister" to ServiceAccount "robot/blue""#.into()
        )
    );
    assert_eq!(
        index.decide(&User::new("eve", ["x"]), &in_namespace("get", "blue")),
        Verdict::Refused(r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#.into())
    );
}

#[test]
fn the_index_follows_the_store() {
    let rbac = Rbac::default();
    let mut objects = cluster();
    let ann = User::new("ann", ["nobody"]);
    let get = action("get", "", "pods", "x");
    assert!(!rbac.refreshed(&objects).allows(&ann, &get));
    objects.0.entry("rolebindings").or_default().push(json!({
        "metadata": {"name": "more", "namespace": "blue"},
        "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "ann"}],
    }));
    assert!(rbac.refreshed(&objects).allows(&ann, &get));
    objects.0.remove("rolebindings");
    assert!(!rbac.refreshed(&objects).allows(&ann, &get));
}

#[test]
fn escalation_is_measured_atom_by_atom() {
    let held = [
        rule(&[""], &["pods"], &["get", "list"], &[]),
        rule(&[""], &["*/scale"], &["*"], &[]),
    ];
    for (granted, covered) in [
        (rule(&[""], &["pods"], &["get"], &[]), true),
        (rule(&[""], &["pods"], &["get", "list"], &["a"]), true),
        (rule(&[""], &["pods"], &["*"], &[]), false),
        (rule(&[""], &["pods", "secrets"], &["get"], &[]), false),
        (rule(&[""], &["deployments/scale"], &["patch"], &[]), true),
        (rule(&["*"], &["pods"], &["get"], &[]), false),
    ] {
        assert_eq!(
            missing(&held, std::slice::from_ref(&granted)).is_empty(),
            covered,
            "{granted:?}"
        );
    }
    let named = [rule(&[""], &["pods"], &["get"], &["a"])];
    assert!(!missing(&named, &[rule(&[""], &["pods"], &["get"], &[])]).is_empty());
    assert!(!missing(&named, &[rule(&[""], &["pods"], &["get"], &["a", "b"])]).is_empty());
    let text = confirm_no_escalation(
        "bob",
        &["g".to_owned()],
        &held,
        &[rule(&["", "apps"], &["secrets"], &["get", "list"], &[])],
    )
    .unwrap_err();
    assert_eq!(
        text,
        "user \"bob\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}\n\
         {APIGroups:[\"apps\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
    );
}

#[test]
fn an_index_that_followed_changes_equals_one_made_anew() {
    let store = Store::default();
    let objects = cluster();
    let following = RbacAuthorizer::new(Default::default(), store.clone());
    let mut all = Vec::new();
    for (resource, list) in &objects.0 {
        for object in list {
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
            let key = Key::new(text("namespace"), text("name"));
            put(&store, resource, &key, Some(object));
            agree(&following, &store, "created");
            all.push((*resource, key));
        }
    }
    for (resource, key) in all {
        if resource.ends_with("bindings") {
            let moved = json!({
                "metadata": {"name": key.name(), "namespace": key.namespace()},
                "roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "User", "name": "ann"}],
            });
            put(&store, resource, &key, Some(&moved));
            agree(&following, &store, "changed");
        }
        put(&store, resource, &key, None);
        agree(&following, &store, "deleted");
    }
}

/// Creates, replaces or (`None`) deletes one of the objects that rights come from.
fn put(store: &Store, resource: &str, key: &Key, object: Option<&Value>) {
    let table: std::sync::Arc<str> = format!("{resource}.rbac.authorization.k8s.io").into();
    let stored = store.read(&table, key);
    let draft = Draft::new(object.unwrap_or(&Value::Null), Vec::new());
    let change = if object.is_some() {
        Change::Put(draft)
    } else {
        Change::Delete(draft)
    };
    let write = Write {
        table,
        key: key.clone(),
        expected: stored.map(|stored| stored.revision()),
        change,
    };
    futures::executor::block_on(store.commit(write)).unwrap();
}

/// Asks for every user the one that followed and a fresh one.
fn agree(following: &RbacAuthorizer, store: &Store, step: &str) {
    let anew = RbacAuthorizer::new(Default::default(), store.clone());
    for user in ["bob", "ann", "eve", "system:serviceaccount:blue:robot"] {
        let user = User::new(user, ["readers"]);
        for (verb, namespace) in [
            ("get", "blue"),
            ("list", "blue"),
            ("get", "red"),
            ("get", ""),
        ] {
            let attributes = Attributes {
                user: &user,
                verb,
                group: "",
                resource: "pods",
                subresource: "",
                namespace,
                name: "x",
                path: "",
            };
            let (a, b) = (
                following.authorize(&attributes),
                anew.authorize(&attributes),
            );
            assert_eq!(a, b, "{step}: {} {verb} {namespace}", user.name);
        }
    }
}

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(words).prop_map(str::to_owned), 0..3)
}

prop_compose! {
    fn any_rule()(
        verbs in some(&["get", "list", "*"]), api_groups in some(&["", "apps", "*"]),
        resources in some(&["pods", "pods/log", "*/log", "*", "nodes"]),
        resource_names in some(&["a", "b"]),
    ) -> PolicyRule {
        PolicyRule { verbs, api_groups, resources, resource_names, non_resource_urls: Vec::new() }
    }
}

/// The definition, written down without any cleverness.
fn naive(
    rule: &PolicyRule,
    verb: &str,
    group: &str,
    resource: &str,
    subresource: &str,
    name: &str,
) -> bool {
    let whole = if subresource.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{subresource}")
    };
    let has = |list: &[String], item: &str| list.contains(&item.to_owned());
    let verb = has(&rule.verbs, "*") || has(&rule.verbs, verb);
    let group = has(&rule.api_groups, "*") || has(&rule.api_groups, group);
    let resource = has(&rule.resources, "*")
        || has(&rule.resources, &whole)
        || (!subresource.is_empty() && has(&rule.resources, &format!("*/{subresource}")));
    verb && group && resource && (rule.resource_names.is_empty() || has(&rule.resource_names, name))
}

proptest! {
    #[test]
    fn the_index_agrees_with_the_definition(
        rules in prop::collection::vec((any_rule(), 0..4_usize), 0..6),
        verb in prop::sample::select(&["get", "list", "watch"][..]),
        group in prop::sample::select(&["", "apps", "batch"][..]),
        resource in prop::sample::select(&["pods", "nodes"][..]),
        subresource in prop::sample::select(&["", "log"][..]),
        name in prop::sample::select(&["", "a", "b", "c"][..]),
        namespace in prop::sample::select(&["", "blue", "red"][..]),
    ) {
        // Where each role is granted: cluster-wide, in blue, in red, or to somebody else.
        let mut objects = Objects::default();
        for (at, (rule, place)) in rules.iter().enumerate() {
            let role = json!({"metadata": {"name": format!("r{at}")}, "rules": [rule.to_value()]});
            objects.0.entry("clusterroles").or_default().push(role);
            let user = if *place == 3 { "eve" } else { "bob" };
            let scope = ["", "blue", "red", ""][*place];
            let resource = if scope.is_empty() { "clusterrolebindings" } else { "rolebindings" };
            objects.0.entry(resource).or_default().push(json!({
                "metadata": {"name": format!("b{at}"), "namespace": scope},
                "roleRef": {"kind": "ClusterRole", "name": format!("r{at}")},
                "subjects": [{"kind": "User", "name": user}],
            }));
        }
        let wanted = rules.iter().any(|(rule, place)| {
            let applies = match place { 0 => true, 1 => namespace == "blue", 2 => namespace == "red", _ => false };
            applies && naive(rule, verb, group, resource, subresource, name)
        });
        let action = Action::Resource { verb, group, resource, subresource, namespace, name };
        let index = Rbac::default().refreshed(&objects);
        prop_assert_eq!(index.allows(&User::new("bob", ["g"]), &action), wanted);
    }

    #[test]
    fn what_is_covered_allows_nothing_new(
        held in prop::collection::vec(any_rule(), 0..4),
        granted in any_rule(),
        verb in prop::sample::select(&["get", "list"][..]),
        resource in prop::sample::select(&["pods", "nodes"][..]),
        subresource in prop::sample::select(&["", "log"][..]),
        name in prop::sample::select(&["a", "b", "c"][..]),
    ) {
        if missing(&held, std::slice::from_ref(&granted)).is_empty() {
            for group in ["", "apps", "batch"] {
                let action = Action::Resource { verb, group, resource, subresource, namespace: "", name };
                let allowed = held.iter().any(|rule| rule.allows(&action));
                prop_assert!(!granted.allows(&action) || allowed);
            }
        }
    }
}
