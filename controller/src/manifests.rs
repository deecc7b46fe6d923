//! The rights of an agent in its own cluster, as Kubernetes objects. (Its rights on the hub are in
//! [`crate::identity`].)
//!
//! It reads Services, slices, namespaces, nodes and workloads; it writes imports, its own derived
//! Services and slices, status and Events; no Secret. Listing pods is a ClusterRole of its own.

use fairlead_api::labels;
use serde_json::{Value, json};

/// The agent's account in `fairlead-system`.
pub const AGENT_ACCOUNT: &str = "fairlead-agent";

/// The Service of the member's own proxies, in `fairlead-system`: its slices say where they are.
pub const PROXY_SERVICE: &str = "fairlead-proxy";

/// Namespace, account, ClusterRole and binding of a member's agent. With `pods`, it may list them.
pub fn agent(pods: bool) -> Vec<Value> {
    let mut objects = identity(AGENT_ACCOUNT, &agent_rules());
    if pods {
        let rules = json!([rule("", &["pods"], &["list"])]);
        objects.extend(role("fairlead-agent-pods", AGENT_ACCOUNT, &rules));
    }
    objects
}

/// The user name of an account of `fairlead-system`.
pub fn user(account: &str) -> String {
    format!(
        "system:serviceaccount:{}:{account}",
        labels::SYSTEM_NAMESPACE
    )
}

fn identity(account: &str, rules: &Value) -> Vec<Value> {
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": labels::SYSTEM_NAMESPACE },
        }),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": labels::SYSTEM_NAMESPACE },
        }),
    ];
    objects.extend(role(account, account, rules));
    objects
}

fn role(name: &str, account: &str, rules: &Value) -> [Value; 2] {
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name },
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name,
            },
            "subjects": [ {
                "kind": "ServiceAccount", "name": account, "namespace": labels::SYSTEM_NAMESPACE,
            } ],
        }),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn agent_rules() -> Value {
    let read = ["get", "list", "watch"];
    let write = [
        "get", "list", "watch", "create", "update", "patch", "delete",
    ];
    let workloads = ["deployments", "statefulsets", "daemonsets"];
    json!([
        rule("", &["namespaces"], &read),
        rule("", &["nodes"], &["list"]),
        rule("", &["services"], &write),
        rule("", &["events"], &["create", "patch"]),
        rule("apps", &workloads, &read),
        rule("discovery.k8s.io", &["endpointslices"], &write),
        rule(
            "multicluster.x-k8s.io",
            &["serviceexports", "serviceimports"],
            &write
        ),
        rule(
            "multicluster.x-k8s.io",
            &["serviceexports/status", "serviceimports/status"],
            &["get", "update", "patch"],
        ),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
    ])
}
