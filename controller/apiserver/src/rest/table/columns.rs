//! Which columns a kind has: the tables are in the submodules, by theme.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age};
use crate::resource::Resource;

mod core;
mod network;
mod path;
mod policy;
mod storage;
mod workloads;

/// A column of a built-in kind, or of a CRD.
pub(in crate::rest) enum Filled {
    Builtin(&'static Column),
    Custom(Value),
}

/// The columns of a resource; name and age where nothing better is known.
pub(in crate::rest) fn of(resource: &Resource) -> Vec<Filled> {
    let Some(custom) = &resource.custom else {
        let columns = builtin(&resource.group, &resource.kind);
        return columns.iter().map(Filled::Builtin).collect();
    };
    let name = GENERIC.first().into_iter().map(Filled::Builtin);
    if custom.printer_columns.is_empty() {
        return PLAIN_CUSTOM.iter().map(Filled::Builtin).collect();
    }
    name.chain(custom.printer_columns.iter().cloned().map(Filled::Custom))
        .collect()
}

/// The columns of the scale subresource of any kind.
pub(in crate::rest) fn of_scale() -> Vec<Filled> {
    workloads::SCALE.iter().map(Filled::Builtin).collect()
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
            Self::Custom(column) => path::cell(column, object, now),
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

/// Kinds that show when they were made, not how long ago.
const CREATED_ONLY: &[Column] = &[NAME, CREATED];

/// CRDs without columns of their own.
const PLAIN_CUSTOM: &[Column] = &[
    NAME,
    Column {
        kind: "date",
        ..AGE
    },
];

/// Kinds of which nothing more is known.
const GENERIC: &[Column] = &[NAME, AGE];

fn builtin(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "ConfigMap") => core::CONFIG_MAP,
        ("", "Endpoints") => core::ENDPOINTS,
        ("" | "events.k8s.io", "Event") => core::EVENT,
        ("", "LimitRange") => CREATED_ONLY,
        ("", "Namespace") => core::NAMESPACE,
        ("", "Node") => core::NODE,
        ("", "PersistentVolume") => storage::VOLUME,
        ("", "PersistentVolumeClaim") => storage::CLAIM,
        ("", "Pod") => workloads::POD,
        ("", "PodTemplate") => workloads::POD_TEMPLATE,
        ("", "ReplicationController") => workloads::REPLICATION_CONTROLLER,
        ("", "ResourceQuota") => policy::RESOURCE_QUOTA,
        ("", "Secret") => core::SECRET,
        ("", "Service") => core::SERVICE,
        ("admissionregistration.k8s.io", kind) => policy::admission(kind),
        ("apiextensions.k8s.io", _) => policy::DEFINITION,
        ("apiregistration.k8s.io", _) => policy::API_SERVICE,
        ("apps", "ControllerRevision") => workloads::REVISION,
        ("apps", "DaemonSet") => workloads::DAEMON_SET,
        ("apps", "Deployment") => workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => workloads::REPLICA_SET,
        ("apps", "StatefulSet") => workloads::STATEFUL_SET,
        ("autoscaling", _) => workloads::AUTOSCALER,
        ("batch", "CronJob") => workloads::CRON_JOB,
        ("batch", "Job") => workloads::JOB,
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::SIGNING_REQUEST,
        ("coordination.k8s.io", "Lease") => core::LEASE,
        ("discovery.k8s.io", _) => core::ENDPOINT_SLICE,
        ("networking.k8s.io", kind) => network::of(kind),
        ("node.k8s.io", _) => policy::RUNTIME_CLASS,
        ("policy", _) => policy::DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => CREATED_ONLY,
        ("rbac.authorization.k8s.io", _) => policy::BINDING,
        ("scheduling.k8s.io", _) => policy::PRIORITY_CLASS,
        ("storage.k8s.io", kind) => storage::of(kind),
        _ => GENERIC,
    }
}

// --- cells that many kinds have ---

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

fn joined(values: &Value, none: &str) -> String {
    let words: Vec<_> = list(values).iter().map(text).collect();
    if words.is_empty() {
        none.to_owned()
    } else {
        words.join(",")
    }
}

/// `True`, `False` or `<unset>`, as a pointer to a boolean prints.
fn flag(value: &Value) -> Value {
    json!(match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    })
}

fn age_or(value: &Value, now: Timestamp, none: &str) -> Value {
    if value.is_string() {
        json!(age(value, now))
    } else {
        json!(none)
    }
}

/// A label selector in one line.
fn selector(value: &Value) -> String {
    let mut parts: Vec<String> = value["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    for rule in list(&value["matchExpressions"]) {
        let (key, values) = (text(&rule["key"]), joined(&rule["values"], ""));
        parts.push(match text(&rule["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}
