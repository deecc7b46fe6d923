//! What the hub makes for a member: its namespace, its identity, and the rights of that identity.
//!
//! A member's agent may touch its own hub namespace and nothing else: facts go up as objects there.
//! A proxy's subject has no rights on the hub's API at all; it only opens streams.

use fairlead_api::labels;
use fairlead_config::name::MemberName;
use serde_json::{Value, json};

/// The member's namespace, ServiceAccount, Role and RoleBinding, in the order to apply them.
pub fn of_member(member: &MemberName) -> Vec<Value> {
    let namespace = labels::member_namespace(member.as_str());
    let meta = |name: &str| {
        json!({
            "name": name,
            "namespace": namespace,
            "labels": { labels::MEMBER: member.as_str() },
        })
    };
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": namespace,
                "labels": { labels::MEMBER: member.as_str() },
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta(labels::AGENT_ACCOUNT),
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": meta(labels::AGENT_ROLE),
            "rules": agent_rules(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta(labels::AGENT_ROLE),
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": labels::AGENT_ROLE,
            },
            "subjects": [{
                "kind": "ServiceAccount",
                "name": labels::AGENT_ACCOUNT,
                "namespace": namespace,
            }],
        }),
    ]
}

/// The hub's own identity and rights: ServiceAccount, ClusterRole, Role (Secrets and Leases of its
/// own namespace only) and their bindings. A test runs the hub with exactly these.
pub fn of_hub() -> Vec<Value> {
    let meta = json!({ "name": HUB_ACCOUNT });
    let own = json!({ "name": HUB_ACCOUNT, "namespace": labels::SYSTEM_NAMESPACE });
    let subjects = json!([{
        "kind": "ServiceAccount",
        "name": HUB_ACCOUNT,
        "namespace": labels::SYSTEM_NAMESPACE,
    }]);
    let rbac = "rbac.authorization.k8s.io";
    let version = "rbac.authorization.k8s.io/v1";
    let reference = |kind: &str| json!({ "apiGroup": rbac, "kind": kind, "name": HUB_ACCOUNT });
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": labels::SYSTEM_NAMESPACE },
        }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": own }),
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": meta, "rules": hub_rules() }),
        json!({
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": meta,
            "roleRef": reference("ClusterRole"),
            "subjects": subjects,
        }),
        json!({ "apiVersion": version, "kind": "Role", "metadata": own, "rules": hub_own_rules() }),
        json!({
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": own,
            "roleRef": reference("Role"),
            "subjects": subjects,
        }),
    ]
}

/// The identity of a proxy group's standalone proxies.
pub fn of_proxy_group(group: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": proxy_subject(group),
            "namespace": labels::SYSTEM_NAMESPACE,
        },
        "automountServiceAccountToken": false,
    })
}

/// The ServiceAccount of a proxy group.
pub fn proxy_subject(group: &str) -> String {
    format!("{}{group}", labels::PROXY_SUBJECT_PREFIX)
}

/// Who opened a stream, as the hub's API server names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A member's agent.
    Agent(MemberName),
    /// A proxy of a group.
    Proxy(String),
}

impl Subject {
    /// From a user name, or why it may open no stream.
    pub fn parse(user: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{user} is neither a member's agent nor a proxy; streams are for system:serviceaccount:{}<member>:{} and system:serviceaccount:{}:{}<group>",
                labels::MEMBER_NAMESPACE_PREFIX,
                labels::AGENT_ACCOUNT,
                labels::SYSTEM_NAMESPACE,
                labels::PROXY_SUBJECT_PREFIX,
            )
        };
        let account = user
            .strip_prefix("system:serviceaccount:")
            .ok_or_else(refused)?;
        let (namespace, name) = account.split_once(':').ok_or_else(refused)?;
        if let Some(member) = labels::member_of_namespace(namespace)
            && name == labels::AGENT_ACCOUNT
        {
            return MemberName::parse(member)
                .map(Self::Agent)
                .map_err(|error| error.to_string());
        }
        match name.strip_prefix(labels::PROXY_SUBJECT_PREFIX) {
            Some(group) if namespace == labels::SYSTEM_NAMESPACE && !group.is_empty() => {
                Ok(Self::Proxy(group.to_owned()))
            }
            _ => Err(refused()),
        }
    }
}

/// What the hub does all over its API server. It may give an agent's Role what it doesn't have
/// itself, but only in a Role of that name.
fn hub_rules() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let read = ["get", "list", "watch"];
    let apply = ["get", "create", "patch"];
    json!([
        rule(
            "fairlead.dev",
            &["memberclusters", "memberreports", "exportrecords", "proxygroups", "multiclusterservices"],
            &read,
        ),
        rule("fairlead.dev", &["memberclusters", "memberclusters/finalizers"], &["patch", "update"]),
        rule(
            "fairlead.dev",
            &[
                "memberclusters/status",
                "exportrecords/status",
                "proxygroups/status",
                "multiclusterservices/status",
            ],
            &["patch"],
        ),
        rule(
            "multicluster.x-k8s.io",
            &["serviceimports"],
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        rule("multicluster.x-k8s.io", &["serviceimports/status"], &["patch"]),
        rule("discovery.k8s.io", &["endpointslices"], &["list", "watch"]),
        // To state the epoch on members' heartbeats.
        rule("coordination.k8s.io", &["leases"], &["list", "watch", "patch"]),
        rule("", &["namespaces"], &["get", "create", "patch", "delete"]),
        rule("", &["serviceaccounts"], &apply),
        rule("", &["serviceaccounts/token"], &["create"]),
        rule("rbac.authorization.k8s.io", &["roles", "rolebindings"], &apply),
        {
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["roles"],
            "resourceNames": [labels::AGENT_ROLE],
            "verbs": ["escalate", "bind"],
        },
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ])
}

/// What the hub does in its own namespace.
fn hub_own_rules() -> Value {
    json!([
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "verbs": ["get", "create", "update", "patch", "delete"],
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "verbs": ["get", "create", "update"],
        },
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "create", "update"],
        },
    ])
}

/// The hub's ServiceAccount, in [`labels::SYSTEM_NAMESPACE`], and the name of its roles.
pub const HUB_ACCOUNT: &str = "fairlead-hub";

/// Everything an agent does on the hub. A test of the whole agent holds this list to be exact.
fn agent_rules() -> Value {
    json!([
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "create", "update", "patch"],
        },
        {
            "apiGroups": ["fairlead.dev"],
            "resources": ["memberreports"],
            "verbs": ["get", "create", "update", "patch"],
        },
        {
            "apiGroups": ["fairlead.dev"],
            "resources": ["exportrecords"],
            "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
        },
        {
            "apiGroups": ["events.k8s.io"],
            "resources": ["events"],
            "verbs": ["create", "patch"],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_what_its_account_says_and_nothing_else() {
        let agent = Subject::parse("system:serviceaccount:fairlead-member-a:agent").unwrap();
        assert_eq!(agent, Subject::Agent(MemberName::parse("a").unwrap()));
        let proxy = Subject::parse("system:serviceaccount:fairlead-system:fairlead-proxy-edge");
        assert_eq!(proxy.unwrap(), Subject::Proxy("edge".into()));
        for user in [
            "admin",
            "system:serviceaccount:fairlead-member-a:default",
            "system:serviceaccount:shop:fairlead-proxy-edge",
            "system:serviceaccount:fairlead-member-:agent",
            "system:serviceaccount:fairlead-member-A:agent",
            "system:serviceaccount:fairlead-system:fairlead-proxy-",
        ] {
            assert!(Subject::parse(user).is_err(), "{user}");
        }
    }

    #[test]
    fn an_agent_is_bound_in_its_own_namespace_only() {
        let objects = of_member(&MemberName::parse("a").unwrap());
        for object in &objects[1..] {
            assert_eq!(object["metadata"]["namespace"], "fairlead-member-a");
            assert!(!object["kind"].as_str().unwrap().starts_with("Cluster"));
        }
        let text = serde_json::to_string(&objects).unwrap();
        assert!(!text.contains("\"*\"") && !text.contains("secrets"));
    }
}
