//! Which columns a kind has.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age};
use crate::resource::Resource;

/// A column of a built-in kind, or of a CRD.
pub(super) enum Filled {
    Builtin(&'static Column),
    Custom(Value),
}

/// The columns of a resource; name and age where nothing better is known.
pub(super) fn of(resource: &Resource) -> Vec<Filled> {
    let Some(custom) = &resource.custom else {
        let columns = builtin(&resource.group, &resource.kind);
        return columns.iter().map(Filled::Builtin).collect();
    };
    let name = GENERIC.first().into_iter().map(Filled::Builtin);
    if custom.printer_columns.is_empty() {
        return GENERIC.iter().map(Filled::Builtin).collect();
    }
    name.chain(custom.printer_columns.iter().cloned().map(Filled::Custom))
        .collect()
}

impl Filled {
    pub(super) fn definition(&self) -> Value {
        match self {
            Self::Builtin(column) => json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": "", "priority": column.priority,
            }),
            Self::Custom(column) => {
                let text = |key: &str| column[key].as_str().unwrap_or_default();
                json!({
                    "name": text("name"), "type": text("type"), "format": text("format"),
                    "description": text("description"),
                    "priority": column["priority"].as_i64().unwrap_or_default(),
                })
            }
        }
    }

    pub(super) fn cell(&self, object: &Value, now: Timestamp) -> Value {
        match self {
            Self::Builtin(column) => (column.cell)(object, now),
            Self::Custom(column) => custom_cell(column, object, now),
        }
    }
}

const fn column(
    name: &'static str,
    kind: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column {
        name,
        kind,
        format: "",
        priority: 0,
        cell,
    }
}

const fn wide(mut column: Column) -> Column {
    column.priority = 1;
    column
}

const NAME: Column = Column {
    format: "name",
    ..column("Name", "string", |o, _| o["metadata"]["name"].clone())
};
const AGE: Column = column("Age", "string", |o, now| {
    json!(age(&o["metadata"]["creationTimestamp"], now))
});
const CREATED: Column = Column {
    format: "",
    ..column("Created At", "date", |o, _| {
        o["metadata"]["creationTimestamp"].clone()
    })
};

/// Kinds of which nothing more is known, and CRDs without columns of their own.
const GENERIC: &[Column] = &[NAME, AGE];

fn builtin(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "Namespace") => NAMESPACE,
        ("", "Service") => SERVICE,
        ("", "Pod") => POD,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "Secret") => SECRET,
        ("", "ServiceAccount") => SERVICE_ACCOUNT,
        ("", "Node") => NODE,
        ("", "Event") => EVENT,
        ("", "Endpoints") => ENDPOINTS,
        ("apps", "Deployment") => DEPLOYMENT,
        ("apps", "ReplicaSet") => REPLICA_SET,
        ("apps", "StatefulSet") => STATEFUL_SET,
        ("apps", "DaemonSet") => DAEMON_SET,
        ("discovery.k8s.io", "EndpointSlice") => ENDPOINT_SLICE,
        ("coordination.k8s.io", "Lease") => LEASE,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &[NAME, CREATED],
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &[NAME, CREATED],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => BINDING,
        _ => GENERIC,
    }
}

const NAMESPACE: &[Column] = &[
    NAME,
    column("Status", "string", |o, _| o["status"]["phase"].clone()),
    AGE,
];

const CONFIG_MAP: &[Column] = &[
    NAME,
    column("Data", "integer", |o, _| {
        json!(len(&o["data"]) + len(&o["binaryData"]))
    }),
    AGE,
];

const SECRET: &[Column] = &[
    NAME,
    column("Type", "string", |o, _| o["type"].clone()),
    column("Data", "integer", |o, _| json!(len(&o["data"]))),
    AGE,
];

const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    column("Secrets", "integer", |o, _| json!(len(&o["secrets"]))),
    AGE,
];

const SERVICE: &[Column] = &[
    NAME,
    column("Type", "string", |o, _| o["spec"]["type"].clone()),
    column("Cluster-IP", "string", |o, _| {
        or(&o["spec"]["clusterIP"], "<none>")
    }),
    column("External-IP", "string", |o, _| json!(external_ip(o))),
    column("Port(s)", "string", |o, _| json!(service_ports(o))),
    AGE,
    wide(column("Selector", "string", |o, _| {
        json!(pairs(&o["spec"]["selector"]))
    })),
];

const POD: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        let statuses = list(&o["status"]["containerStatuses"]);
        let ready = statuses
            .iter()
            .filter(|status| status["ready"] == true)
            .count();
        json!(format!("{ready}/{}", list(&o["spec"]["containers"]).len()))
    }),
    column("Status", "string", |o, _| json!(pod_status(o))),
    column("Restarts", "string", |o, _| {
        let statuses = list(&o["status"]["containerStatuses"]);
        json!(
            statuses
                .iter()
                .filter_map(|s| s["restartCount"].as_i64())
                .sum::<i64>()
                .to_string()
        )
    }),
    AGE,
    wide(column("IP", "string", |o, _| {
        or(&o["status"]["podIP"], "<none>")
    })),
    wide(column("Node", "string", |o, _| {
        or(&o["spec"]["nodeName"], "<none>")
    })),
    wide(column("Nominated Node", "string", |o, _| {
        or(&o["status"]["nominatedNodeName"], "<none>")
    })),
    wide(column("Readiness Gates", "string", |_, _| json!("<none>"))),
];

const NODE: &[Column] = &[
    NAME,
    column("Status", "string", |o, _| json!(node_status(o))),
    column("Roles", "string", |o, _| json!(node_roles(o))),
    AGE,
    column("Version", "string", |o, _| {
        o["status"]["nodeInfo"]["kubeletVersion"].clone()
    }),
    wide(column("Internal-IP", "string", |o, _| {
        json!(node_address(o, "InternalIP"))
    })),
    wide(column("External-IP", "string", |o, _| {
        json!(node_address(o, "ExternalIP"))
    })),
    wide(column("OS-Image", "string", |o, _| {
        or(&o["status"]["nodeInfo"]["osImage"], "<unknown>")
    })),
];

const EVENT: &[Column] = &[
    column("Last Seen", "string", |o, now| {
        let seen = [
            &o["series"]["lastObservedTime"],
            &o["lastTimestamp"],
            &o["eventTime"],
        ];
        let seen = seen
            .into_iter()
            .find(|time| time.is_string())
            .unwrap_or(&Value::Null);
        json!(age(seen, now))
    }),
    column("Type", "string", |o, _| o["type"].clone()),
    column("Reason", "string", |o, _| o["reason"].clone()),
    column("Object", "string", |o, _| {
        let about = &o["involvedObject"];
        json!(format!(
            "{}/{}",
            text(&about["kind"]).to_lowercase(),
            text(&about["name"])
        ))
    }),
    column("Message", "string", |o, _| {
        json!(text(&o["message"]).trim())
    }),
];

const ENDPOINTS: &[Column] = &[
    NAME,
    column("Endpoints", "string", |o, _| {
        let subsets = list(&o["subsets"]);
        let addresses = subsets.iter().flat_map(|subset| {
            let ports: Vec<_> = list(&subset["ports"])
                .iter()
                .filter_map(|port| port["port"].as_i64())
                .collect();
            list(&subset["addresses"]).iter().flat_map(move |address| {
                let ip = text(&address["ip"]).to_owned();
                ports
                    .clone()
                    .into_iter()
                    .map(move |port| format!("{ip}:{port}"))
            })
        });
        json!(shortened(addresses.collect(), "<none>"))
    }),
    AGE,
];

const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        json!(ready_of(o, "readyReplicas"))
    }),
    column("Up-to-date", "string", |o, _| {
        number(&o["status"]["updatedReplicas"])
    }),
    column("Available", "string", |o, _| {
        number(&o["status"]["availableReplicas"])
    }),
    AGE,
    wide(column("Containers", "string", |o, _| {
        json!(containers(o, "name"))
    })),
    wide(column("Images", "string", |o, _| {
        json!(containers(o, "image"))
    })),
    wide(column("Selector", "string", |o, _| {
        json!(pairs(&o["spec"]["selector"]["matchLabels"]))
    })),
];

const REPLICA_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", |o, _| number(&o["spec"]["replicas"])),
    column("Current", "integer", |o, _| {
        number(&o["status"]["replicas"])
    }),
    column("Ready", "integer", |o, _| {
        number(&o["status"]["readyReplicas"])
    }),
    AGE,
];

const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        json!(ready_of(o, "readyReplicas"))
    }),
    AGE,
];

const DAEMON_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", |o, _| {
        number(&o["status"]["desiredNumberScheduled"])
    }),
    column("Current", "integer", |o, _| {
        number(&o["status"]["currentNumberScheduled"])
    }),
    column("Ready", "integer", |o, _| {
        number(&o["status"]["numberReady"])
    }),
    column("Up-to-date", "integer", |o, _| {
        number(&o["status"]["updatedNumberScheduled"])
    }),
    column("Available", "integer", |o, _| {
        number(&o["status"]["numberAvailable"])
    }),
    column("Node Selector", "string", |o, _| {
        json!(pairs(&o["spec"]["template"]["spec"]["nodeSelector"]))
    }),
    AGE,
];

const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "string", |o, _| o["addressType"].clone()),
    column("Ports", "string", |o, _| {
        let ports = list(&o["ports"]).iter().map(|port| {
            port["port"]
                .as_i64()
                .map_or_else(|| "*".to_owned(), |port| port.to_string())
        });
        json!(shortened(ports.collect(), "<unset>"))
    }),
    column("Endpoints", "string", |o, _| {
        let addresses = list(&o["endpoints"])
            .iter()
            .flat_map(|endpoint| list(&endpoint["addresses"]))
            .map(|address| text(address).to_owned());
        json!(shortened(addresses.collect(), "<unset>"))
    }),
    AGE,
];

const LEASE: &[Column] = &[
    NAME,
    column("Holder", "string", |o, _| {
        or(&o["spec"]["holderIdentity"], "")
    }),
    AGE,
];

const BINDING: &[Column] = &[
    NAME,
    column("Role", "string", |o, _| {
        let role = &o["roleRef"];
        json!(format!("{}/{}", text(&role["kind"]), text(&role["name"])))
    }),
    AGE,
];

// --- cells ---

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn len(value: &Value) -> usize {
    value
        .as_object()
        .map_or_else(|| list(value).len(), serde_json::Map::len)
}

fn or(value: &Value, default: &str) -> Value {
    if text(value).is_empty() {
        json!(default)
    } else {
        value.clone()
    }
}

fn number(value: &Value) -> Value {
    json!(value.as_i64().unwrap_or_default())
}

fn pairs(map: &Value) -> String {
    let pairs: Vec<_> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// The first three, and how many more there are.
fn shortened(all: Vec<String>, none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        1..=3 => all.join(","),
        many => format!("{} + {} more...", all[..3].join(","), many - 3),
    }
}

fn ready_of(object: &Value, ready: &str) -> String {
    let ready = object["status"][ready].as_i64().unwrap_or_default();
    format!(
        "{ready}/{}",
        object["spec"]["replicas"].as_i64().unwrap_or_default()
    )
}

fn containers(object: &Value, field: &str) -> String {
    let containers = list(&object["spec"]["template"]["spec"]["containers"]);
    containers
        .iter()
        .map(|container| text(&container[field]))
        .collect::<Vec<_>>()
        .join(",")
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses: Vec<_> = list(&spec["externalIPs"]).iter().map(text).collect();
    if spec["type"] == "LoadBalancer" {
        let ingress = list(&service["status"]["loadBalancer"]["ingress"]);
        addresses.splice(
            0..0,
            ingress.iter().map(|i| {
                let ip = text(&i["ip"]);
                if ip.is_empty() {
                    text(&i["hostname"])
                } else {
                    ip
                }
            }),
        );
        if addresses.is_empty() {
            return "<pending>".to_owned();
        }
    }
    if spec["type"] == "ExternalName" {
        return text(&spec["externalName"]).to_owned();
    }
    if addresses.is_empty() {
        "<none>".to_owned()
    } else {
        addresses.join(",")
    }
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<_> = list(&service["spec"]["ports"])
        .iter()
        .map(|port| {
            let number = port["port"].as_i64().unwrap_or_default();
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_i64() {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    }
}

fn pod_status(pod: &Value) -> String {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    let waiting = list(&pod["status"]["containerStatuses"])
        .iter()
        .rev()
        .find_map(|status| {
            ["waiting", "terminated"]
                .iter()
                .find_map(|state| status["state"][state]["reason"].as_str())
        });
    let phase = text(&pod["status"]["phase"]);
    let reason = pod["status"]["reason"]
        .as_str()
        .filter(|reason| !reason.is_empty());
    waiting.or(reason).unwrap_or(phase).to_owned()
}

fn node_status(node: &Value) -> String {
    let ready = list(&node["status"]["conditions"])
        .iter()
        .find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|condition| text(&condition["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let roles: Vec<_> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = list(&node["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == kind);
    found
        .map_or("<none>", |address| text(&address["address"]))
        .to_owned()
}

/// A CRD column's cell: simple paths (`.spec.x`, `.status.list[0].y`, and
/// `.list[?(@.type=="Ready")].status`).
fn custom_cell(column: &Value, object: &Value, now: Timestamp) -> Value {
    let Some(value) = walk(object, text(&column["jsonPath"])) else {
        return Value::Null;
    };
    match (text(&column["type"]), value) {
        ("date", value) => json!(age(value, now)),
        ("string", value @ (Value::Object(_) | Value::Array(_))) => json!(value.to_string()),
        ("string", Value::Number(number)) => json!(number.to_string()),
        ("string", Value::Bool(flag)) => json!(flag.to_string()),
        (_, value) => value.clone(),
    }
}

fn walk<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    let mut here = object;
    for step in split_path(path) {
        let (field, index) = match step.split_once('[') {
            Some((field, rest)) => (field, Some(rest.trim_end_matches(']'))),
            None => (step, None),
        };
        let field = field.replace("\\.", ".");
        if !field.is_empty() {
            here = here.get(&field)?;
        }
        let Some(index) = index else { continue };
        here = match index
            .strip_prefix("?(@.")
            .and_then(|filter| filter.strip_suffix(')'))
        {
            Some(filter) => {
                let (key, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                list(here).iter().find(|item| item[key.trim()] == wanted)?
            }
            None => match index.trim_matches(['"', '\'']).parse::<usize>() {
                Ok(index) => here.get(index)?,
                Err(_) => here.get(index.trim_matches(['"', '\'']))?,
            },
        };
    }
    Some(here)
}

/// Splits at dots outside brackets that no backslash precedes.
fn split_path(path: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let mut escaped = false;
    path.split(|c| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        let here = c == '.' && depth == 0 && !escaped;
        escaped = c == '\\';
        here
    })
    .filter(|part| !part.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printer_columns_follow_simple_paths() {
        let object = json!({
            "spec": {"a": [{"b": 7}]},
            "metadata": {"labels": {"x.y/z": "label"}},
            "status": {"conditions": [
                {"type": "Done", "status": "False"}, {"type": "Ready", "status": "True"},
            ]},
        });
        assert_eq!(walk(&object, ".spec.a[0].b"), Some(&json!(7)));
        assert_eq!(
            walk(&object, ".status.conditions[?(@.type==\"Ready\")].status"),
            Some(&json!("True"))
        );
        assert_eq!(
            walk(&object, r".metadata.labels.x\.y/z"),
            Some(&json!("label"))
        );
        assert_eq!(
            walk(&object, ".metadata.labels['x.y/z']"),
            Some(&json!("label"))
        );
        assert_eq!(walk(&object, ".spec.missing.b"), None);
    }
}
