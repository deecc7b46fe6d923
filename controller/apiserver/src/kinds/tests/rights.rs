//! Roles and bindings.

use super::{Bench, refused};
use crate::auth::User;
use serde_json::{Value, json};

#[test]
fn roles_and_bindings_are_well_formed() {
    let bench = Bench::new();
    let bad = json!({"rules": [
        {"apiGroups": [""], "resources": ["pods"]},
        {"nonResourceURLs": ["/x"], "verbs": ["get"]},
        {"verbs": ["get"]},
    ]});
    assert_eq!(
        refused(bench.create("roles", bad)),
        [
            "FieldValueRequired rules[0].verbs",
            "FieldValueInvalid rules[1].nonResourceURLs",
            "FieldValueRequired rules[2].apiGroups",
            "FieldValueRequired rules[2].resources",
        ]
    );
    let binding = json!({
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "bob"}, {"kind": "ServiceAccount", "name": "sa", "namespace": "blue"}],
    });
    let made = bench.create("rolebindings", binding).unwrap();
    assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let mut moved = made.clone();
    moved["roleRef"]["name"] = "edit".into();
    assert_eq!(
        refused(bench.update("rolebindings", &made, moved)),
        ["FieldValueInvalid roleRef"]
    );
    assert_eq!(
        refused(bench.create("clusterrolebindings", json!({
            "roleRef": {"kind": "Role", "name": ""},
            "subjects": [{"kind": "ServiceAccount", "name": "sa"}, {"kind": "Robot", "name": "r"}],
        }))),
        [
            "FieldValueNotSupported roleRef.kind",
            "FieldValueRequired roleRef.name",
            "FieldValueRequired subjects[0].namespace",
            "FieldValueNotSupported subjects[1].kind",
        ]
    );
}

#[test]
fn nobody_grants_what_they_do_not_hold() {
    let role = json!({"metadata": {"name": "editor"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "update"]},
    ]});
    let grant = |name: &str, verb: &str, resource: &str| {
        json!({"metadata": {"name": name}, "rules": [
            {"apiGroups": ["*"], "resources": [resource], "verbs": [verb]},
        ]})
    };
    let bind = |role: &str| {
        json!({
            "metadata": {"name": "b", "namespace": "blue"}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "bob"}],
        })
    };
    let bob = || User::new("bob", ["system:authenticated"]);
    let bench =
        |role: Value| {
            Bench::new()
            .of_user(bob())
            .with("clusterroles", "", "held", role)
            .with("clusterroles", "", "editor", json!({"metadata": {"name": "editor"}, "rules": [
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "update"]},
            ]}))
            .with("rolebindings", "blue", "b", bind("held"))
        };
    let poor = bench(grant("held", "get", "configmaps"));
    assert_eq!(
        refused(poor.create("roles", role.clone())),
        [
            "403 roles.rbac.authorization.k8s.io \"editor\" is forbidden: user \"bob\" \
          (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
          held:\n{APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"update\"]}"
        ]
    );
    assert!(refused(poor.create("rolebindings", bind("editor")))[0].starts_with("403"));
    assert!(refused(poor.create("rolebindings", bind("absent")))[0].starts_with("404"));
    bench(grant("held", "*", "configmaps"))
        .create("roles", role.clone())
        .unwrap();
    bench(grant("held", "escalate", "roles"))
        .create("roles", role)
        .unwrap();
    bench(grant("held", "bind", "clusterroles"))
        .create("rolebindings", bind("editor"))
        .unwrap();
    let aggregate = json!({"metadata": {"name": "all"}, "rules": [], "aggregationRule": {
        "clusterRoleSelectors": [{"matchLabels": {"a": "b"}}],
    }});
    assert!(
        refused(bench(grant("held", "*", "configmaps")).create("clusterroles", aggregate))[0]
            .contains("cluster-admin privileges")
    );
}
