//! An agent in its own cluster, as Kubernetes objects: its rights, and its workload. (Its rights on the
//! hub are in [`crate::identity`].)
//!
//! The agent reads Services, slices, namespaces, nodes and workloads; it writes exports asked for by
//! annotation, imports, its own derived Services and slices, status, and Events. Of Secrets and ConfigMaps
//! it touches one each, its own. Listing pods is a ClusterRole of its own. A test runs a whole agent
//! and holds these rights to be exactly what it uses.

use fairlead_api::labels;
use serde_json::{Value, json};

mod workload;

pub use workload::{Workload, invitation, workload, xds_url};

/// The agent's account in `fairlead-system`; its Service, Secret and ConfigMap are called the same.
pub const AGENT_ACCOUNT: &str = "fairlead-agent";
/// The Service of the member's own proxies, in `fairlead-system`: its slices say where they are.
pub const PROXY_SERVICE: &str = "fairlead-proxy";
/// The key of ConfigMap `fairlead-system/fairlead-agent` that holds what proxies check the agent's
/// port against, PEM.
pub const BUNDLE_KEY: &str = "ca.pem";

/// Namespace, account, roles and bindings of a member's agent, and its own ConfigMap, empty. With
/// `pods`, it may list them.
pub fn agent(pods: bool) -> Vec<Value> {
    let mut objects = identity(AGENT_ACCOUNT, &agent_rules());
    let own = json!([
        own_rule("secrets", &["get", "patch"]),
        own_rule("configmaps", &["patch"]),
    ]);
    objects.extend(binding("Role", AGENT_ACCOUNT, AGENT_ACCOUNT, &own));
    objects.push(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": in_system(AGENT_ACCOUNT),
    }));
    if pods {
        let rules = json!([rule("", &["pods"], &["list"])]);
        let name = "fairlead-agent-pods";
        objects.extend(binding("ClusterRole", name, AGENT_ACCOUNT, &rules));
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
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_system(account),
        }),
    ];
    objects.extend(binding("ClusterRole", account, account, rules));
    objects
}

/// A Role or a ClusterRole, and its binding to an account.
fn binding(kind: &str, name: &str, account: &str, rules: &Value) -> [Value; 2] {
    let meta = match kind {
        "Role" => in_system(name),
        _ => json!({ "name": name }),
    };
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": meta, "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
            "metadata": meta,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name },
            "subjects": [ {
                "kind": "ServiceAccount", "name": account, "namespace": labels::SYSTEM_NAMESPACE,
            } ],
        }),
    ]
}

fn in_system(name: &str) -> Value {
    json!({ "name": name, "namespace": labels::SYSTEM_NAMESPACE })
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

/// On the one object of the agent's own name.
fn own_rule(resource: &str, verbs: &[&str]) -> Value {
    json!({
        "apiGroups": [""], "resources": [resource], "resourceNames": [AGENT_ACCOUNT],
        "verbs": verbs,
    })
}

fn agent_rules() -> Value {
    let watch = ["list", "watch"];
    let keep = ["get", "list", "watch", "create", "patch", "delete"];
    let workloads = ["deployments", "statefulsets", "daemonsets"];
    let mcs = "multicluster.x-k8s.io";
    json!([
        rule("", &["namespaces"], &["get", "list", "watch"]),
        rule("", &["nodes"], &["list"]),
        rule("", &["services"], &keep),
        rule("apps", &workloads, &watch),
        rule("discovery.k8s.io", &["endpointslices"], &keep),
        rule(mcs, &["serviceimports"], &keep),
        rule(
            mcs,
            &["serviceexports"],
            &["list", "watch", "create", "patch", "delete"]
        ),
        rule(
            mcs,
            &["serviceexports/status", "serviceimports/status"],
            &["patch"]
        ),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_has_no_wildcard_and_no_secret_but_its_own() {
        for object in agent(true) {
            for rule in object["rules"].as_array().into_iter().flatten() {
                assert!(!rule.to_string().contains("\"*\""), "{rule}");
                let resources = rule["resources"].as_array().unwrap();
                let secret = resources
                    .iter()
                    .any(|one| one == "secrets" || one == "configmaps");
                if secret {
                    assert_eq!(object["kind"], "Role");
                    assert_eq!(rule["resourceNames"], json!([AGENT_ACCOUNT]));
                }
                let pods = resources.iter().any(|one| one == "pods");
                assert!(!pods || object["metadata"]["name"] == "fairlead-agent-pods");
            }
        }
        let without = serde_json::to_string(&agent(false)).unwrap();
        assert!(
            !without.contains("\"pods\""),
            "pods are listed on request only"
        );
    }
}
