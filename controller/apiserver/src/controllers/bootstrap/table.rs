//! The roles and bindings that every Kubernetes cluster starts with, read once per process from a
//! table of their names and rules.
//!
//! `roles.txt` is generated from the RBAC bootstrap data of the Go module `k8s.io/kubernetes`
//! 1.37.2 by `tools/bootstrap_roles.py`. A line that isn't indented starts an object:
//! `role [NAMESPACE/]NAME [label=L]... [aggregate=L]...` or
//! `bind [NAMESPACE/]NAME to KIND/NAME`; the indented lines after it are its rules
//! (`GROUPS / RESOURCES : VERBS [: NAMES]`, or `url URLS : VERBS`) or its subjects.

use crate::auth::rbac::PolicyRule;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// One object to be there at the start.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) resource: &'static str,
    pub(crate) name: String,
    /// Without metadata that the server sets.
    pub(crate) object: Value,
}

/// All rows, roles before bindings.
pub(crate) fn rows() -> &'static [Row] {
    &ROWS
}

/// The parsed rules of `role` when it is a bootstrap ClusterRole in its original form: they are
/// shared by all servers of the process.
pub(crate) fn shared_rules(role: &Value) -> Option<Arc<[PolicyRule]>> {
    let (original, rules) = SHARED.get(role["metadata"]["name"].as_str()?)?;
    (role.get("rules") == Some(original)).then(|| Arc::clone(rules))
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| parse(TABLE));

/// The rules of each bootstrap role, as they are written and as they are parsed.
type Shared = HashMap<&'static str, (Value, Arc<[PolicyRule]>)>;

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    rows()
        .iter()
        .filter(|row| row.resource == "clusterroles")
        .map(|row| {
            let rules = row.object["rules"].clone();
            (
                row.name.as_str(),
                (rules, PolicyRule::parse_all(&row.object).into()),
            )
        })
        .collect()
});

fn parse(table: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in table.lines() {
        if let Some(line) = line.strip_prefix("  ") {
            let row = rows.last_mut().expect("an indented line follows a head");
            let key = if row.resource.ends_with("bindings") {
                "subjects"
            } else {
                "rules"
            };
            let item = if key == "rules" {
                rule(line)
            } else {
                subject(line)
            };
            if let Some(items) = row.object.get_mut(key).and_then(Value::as_array_mut) {
                items.push(item);
            } else {
                row.object[key] = json!([item]);
            }
        } else if let Some(line) = line.strip_prefix("role ") {
            rows.push(role(line));
        } else if let Some(line) = line.strip_prefix("bind ") {
            rows.push(binding(line));
        }
    }
    aggregate(&mut rows);
    rows
}

fn role(line: &str) -> Row {
    let mut words = line.split(' ');
    let (namespace, name) = scoped(words.next().unwrap_or_default());
    let mut labels = Map::new();
    let mut selectors = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("label", label)) => {
                labels.insert(format!("{RBAC}/{label}"), "true".into());
            }
            Some((_, label)) => {
                selectors.push(json!({"matchLabels": {format!("{RBAC}/{label}"): "true"}}))
            }
            None => {}
        }
    }
    let kind = if namespace.is_empty() {
        "ClusterRole"
    } else {
        "Role"
    };
    let mut object = head(kind, &namespace, &name, labels);
    if !selectors.is_empty() {
        object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    object["rules"] = Value::Null;
    let resource = if namespace.is_empty() {
        "clusterroles"
    } else {
        "roles"
    };
    Row {
        resource,
        name,
        object,
    }
}

fn binding(line: &str) -> Row {
    let (name, role) = line.split_once(" to ").unwrap_or((line, ""));
    let (namespace, name) = scoped(name);
    let (role_kind, role) = role.split_once('/').unwrap_or(("ClusterRole", role));
    let kind = if namespace.is_empty() {
        "ClusterRoleBinding"
    } else {
        "RoleBinding"
    };
    let mut object = head(kind, &namespace, &name, Map::new());
    object["roleRef"] = json!({"apiGroup": RBAC, "kind": role_kind, "name": role});
    let resource = if namespace.is_empty() {
        "clusterrolebindings"
    } else {
        "rolebindings"
    };
    Row {
        resource,
        name,
        object,
    }
}

fn head(kind: &str, namespace: &str, name: &str, mut labels: Map<String, Value>) -> Value {
    labels.insert("kubernetes.io/bootstrapping".into(), "rbac-defaults".into());
    let mut metadata = Map::new();
    metadata.insert("name".into(), name.into());
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("labels".into(), Value::Object(labels));
    let update = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    metadata.insert("annotations".into(), update);
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata})
}

fn rule(line: &str) -> Value {
    let list = |text: &str, separator: char| -> Vec<String> {
        text.split(separator)
            .map(|item| {
                if item == "\"\"" {
                    String::new()
                } else {
                    item.to_owned()
                }
            })
            .collect()
    };
    if let Some(line) = line.strip_prefix("url ") {
        let (urls, verbs) = line.split_once(" : ").unwrap_or((line, ""));
        return json!({"nonResourceURLs": list(urls, ','), "verbs": list(verbs, ',')});
    }
    let (groups, rest) = line.split_once(" / ").unwrap_or((line, ""));
    let mut parts = rest.split(" : ");
    let resources = parts.next().unwrap_or_default();
    let verbs = parts.next().unwrap_or_default();
    let mut rule = json!({"apiGroups": list(groups, ','), "resources": list(resources, ' ')});
    if let Some(names) = parts.next() {
        rule["resourceNames"] = list(names, ' ').into();
    }
    rule["verbs"] = list(verbs, ',').into();
    rule
}

fn subject(line: &str) -> Value {
    let (kind, name) = line.split_once(' ').unwrap_or(("User", line));
    if kind == "ServiceAccount" {
        let (namespace, name) = scoped(name);
        return json!({"kind": kind, "name": name, "namespace": namespace});
    }
    json!({"apiGroup": RBAC, "kind": kind, "name": name})
}

/// `namespace/name`; names of cluster-scoped roles have no slash.
fn scoped(text: &str) -> (String, String) {
    match text.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (String::new(), text.to_owned()),
    }
}

/// Fills in the rules of `admin`, `edit` and `view`, so that they hold before the aggregation
/// controller has run, and without it.
fn aggregate(rows: &mut [Row]) {
    // `admin` aggregates `edit`, which aggregates `view`: as many rounds as the chain is long.
    for _ in 0..3 {
        for index in 0..rows.len() {
            let rule = &rows[index].object["aggregationRule"];
            if rule.is_null() {
                continue;
            }
            let roles: Vec<&Value> = rows
                .iter()
                .filter(|row| row.resource == "clusterroles" && row.name != rows[index].name)
                .map(|row| &row.object)
                .collect();
            let rules = crate::controllers::aggregation::aggregated(rule, &roles);
            rows[index].object["rules"] = rules;
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const TABLE: &str = include_str!("roles.txt");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_roles_and_bindings_of_a_fresh_cluster() {
        let find = |resource: &str, name: &str| {
            rows()
                .iter()
                .find(|row| row.resource == resource && row.name == name)
                .expect("the row is there")
        };
        let admin = find("clusterroles", "cluster-admin");
        assert_eq!(
            admin.object["rules"],
            json!([
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ])
        );
        let binding = find("clusterrolebindings", "cluster-admin");
        assert_eq!(binding.object["subjects"][0]["name"], "system:masters");
        let reader = find("roles", "extension-apiserver-authentication-reader");
        assert_eq!(reader.object["metadata"]["namespace"], "kube-system");
        assert_eq!(reader.object["rules"][0]["apiGroups"], json!([""]));
        assert_eq!(
            rows()
                .iter()
                .filter(|row| row.resource.ends_with("roles"))
                .count(),
            80
        );
    }

    #[test]
    fn admin_holds_what_edit_and_view_hold() {
        let rules = |name: &str| {
            let row = rows()
                .iter()
                .find(|row| row.name == name && row.resource == "clusterroles");
            row.map(|row| PolicyRule::parse_all(&row.object))
                .expect("the role is there")
        };
        let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
        assert!(!view.is_empty() && edit.len() > view.len() && admin.len() > edit.len());
        assert!(view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.iter().all(|rule| admin.contains(rule)));
    }
}
