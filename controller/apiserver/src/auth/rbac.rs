//! RBAC rules and how they match a request, as the Kubernetes RBAC authorizer defines it.
//!
//! Owns the parsed form of rules, subjects and role references. Decides nothing about who holds
//! which rule: that is the index ([`super::index`]). Pure; matching costs O(strings in the rule).

use serde_json::Value;

/// One rule of a Role or ClusterRole. Empty lists mean what they mean in the API: no
/// `resourceNames` = any name; no `verbs` = nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

/// What somebody wants to do. All strings as in the URL; `subresource` and `name` may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        /// Empty = cluster scope or all namespaces.
        namespace: &'a str,
        name: &'a str,
    },
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

/// A subject of a binding, with the namespace already defaulted for ServiceAccounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    User(String),
    Group(String),
}

/// `roleRef` of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RoleRef {
    ClusterRole(String),
    Role(String),
}

// === impl PolicyRule ===

impl PolicyRule {
    /// Reads a rule leniently: what isn't a list of strings counts as empty.
    pub fn parse(value: &Value) -> Self {
        Self {
            verbs: strings(value, "verbs"),
            api_groups: strings(value, "apiGroups"),
            resources: strings(value, "resources"),
            resource_names: strings(value, "resourceNames"),
            non_resource_urls: strings(value, "nonResourceURLs"),
        }
    }

    /// The `rules` of a role object.
    pub fn parse_all(role: &Value) -> Vec<Self> {
        role["rules"]
            .as_array()
            .map(|rules| rules.iter().map(Self::parse).collect())
            .unwrap_or_default()
    }

    pub fn to_value(&self) -> Value {
        let mut map = serde_json::Map::new();
        map.insert("verbs".into(), self.verbs.clone().into());
        for (key, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                map.insert(key.into(), list.clone().into());
            }
        }
        Value::Object(map)
    }

    /// Whether this rule alone allows `action`.
    pub fn allows(&self, action: &Action<'_>) -> bool {
        match *action {
            Action::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                contains_or_any(&self.verbs, verb)
                    && contains_or_any(&self.api_groups, group)
                    && self
                        .resources
                        .iter()
                        .any(|rule| resource_matches(rule, resource, subresource))
                    && (self.resource_names.is_empty()
                        || self.resource_names.iter().any(|allowed| allowed == name))
            }
            Action::Path { verb, path } => {
                contains_or_any(&self.verbs, verb)
                    && self
                        .non_resource_urls
                        .iter()
                        .any(|rule| path_matches(rule, path))
            }
        }
    }

    /// The one-line form that escalation errors print.
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(label, list)| format!("{label}:{}", go_list(list)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

// === impl Subject ===

impl Subject {
    /// Reads the subjects of a binding that lives in `namespace` (empty for a
    /// ClusterRoleBinding). A ServiceAccount without any namespace matches nobody and is left out.
    pub fn parse_all(binding: &Value, namespace: &str) -> Vec<Self> {
        let Some(subjects) = binding["subjects"].as_array() else {
            return Vec::new();
        };
        subjects
            .iter()
            .filter_map(|subject| {
                let name = subject["name"].as_str()?;
                match subject["kind"].as_str()? {
                    "User" => Some(Self::User(name.to_owned())),
                    "Group" => Some(Self::Group(name.to_owned())),
                    "ServiceAccount" => {
                        let own = subject["namespace"].as_str().unwrap_or_default();
                        let namespace = if own.is_empty() { namespace } else { own };
                        (!namespace.is_empty())
                            .then(|| Self::User(service_account_user(namespace, name)))
                    }
                    _ => None,
                }
            })
            .collect()
    }
}

// === impl RoleRef ===

impl RoleRef {
    pub fn parse(binding: &Value) -> Option<Self> {
        let reference = &binding["roleRef"];
        let name = reference["name"].as_str()?.to_owned();
        match reference["kind"].as_str()? {
            "ClusterRole" => Some(Self::ClusterRole(name)),
            "Role" => Some(Self::Role(name)),
            _ => None,
        }
    }

    pub fn resource(&self) -> &'static str {
        match self {
            Self::ClusterRole(_) => "clusterroles",
            Self::Role(_) => "roles",
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::ClusterRole(name) | Self::Role(name) => name,
        }
    }
}

/// `User "bob" cannot get resource "pods" in API group "" in the namespace "default"`, the text
/// Kubernetes gives for a refused request.
pub fn forbidden_message(user: &str, action: &Action<'_>) -> String {
    match *action {
        Action::Path { verb, path } => format!("User {user:?} cannot {verb} path {path:?}"),
        Action::Resource {
            verb,
            group,
            resource,
            subresource,
            namespace,
            ..
        } => {
            let resource = combined(resource, subresource);
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            format!(
                "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}"
            )
        }
    }
}

/// The user name a ServiceAccount acts under.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// `resource` or `resource/subresource`, as rules write it.
pub fn combined(resource: &str, subresource: &str) -> String {
    if subresource.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{subresource}")
    }
}

/// A list of strings as Go prints it with `%q`: `["a" "b"]`.
pub fn go_list<S: AsRef<str>>(list: &[S]) -> String {
    let quoted: Vec<String> = list
        .iter()
        .map(|item| format!("{:?}", item.as_ref()))
        .collect();
    format!("[{}]", quoted.join(" "))
}

/// Whether `rule` (`*`, `/a/b` or `/a/*`) matches `path`.
pub fn path_matches(rule: &str, path: &str) -> bool {
    rule == ANY
        || rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == ANY {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((left, right)) => right == subresource && (left == ANY || left == resource),
        None => false,
    }
}

pub(crate) fn contains_or_any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ANY || item == wanted)
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    value[key]
        .as_array()
        .map(|list| {
            list.iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default()
}

/// Matches every verb, group, resource or path.
pub const ANY: &str = "*";
/// What user names of ServiceAccounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Members may do anything, whatever RBAC says.
pub const MASTERS: &str = "system:masters";
