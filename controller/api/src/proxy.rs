//! Proxy groups: proxies that serve the same frontends.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Proxies that serve the same frontends: those of one member, or standalone ones. A proxy's group
/// is its subject, `fairlead-proxy-<group>`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "ProxyGroup",
    status = "ProxyGroupStatus",
    shortname = "pxg",
    category = "fairlead",
    derive = "PartialEq",
    derive = "Default",
    doc = "Proxies that serve the same frontends.",
    validation = Rule::new("self.metadata.name.size() <= 48 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("a proxy group's name is part of its proxies' subject: a DNS label of at most 48 characters"),
    printcolumn(name = "Member", type_ = "string", json_path = ".spec.member"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Connected", type_ = "integer", json_path = ".status.connected"),
    printcolumn(name = "In sync", type_ = "integer", json_path = ".status.inSync"),
    printcolumn(name = "Frontends", type_ = "integer", json_path = ".status.frontendCount"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProxyGroupSpec {
    /// The member whose proxies these are; they are reached through its agent. Absent for
    /// standalone proxies, which dial the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 47))]
    pub member: Option<String>,
    /// Where clients reach the proxies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::ips")]
    pub addresses: Vec<String>,
    /// Where the proxies listen; the addresses where absent. Behind a load balancer or in a pod
    /// this is `0.0.0.0` or `::`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::ips")]
    pub listen: Option<Vec<String>>,
    /// The ports that frontends are given, where a frontend doesn't ask for one.
    #[serde(default)]
    pub port_range: PortRange,
    /// Services that get a frontend for each port without being asked for by a
    /// MultiClusterService, as `namespace/name` with `*` for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::service_patterns")]
    pub services: Vec<String>,
    /// Where standalone proxies are, for tiers relative to them. Proxies of a member are where the
    /// member is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// Ports, both ends included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.first <= self.last").message("the first port must not be above the last"))]
pub struct PortRange {
    /// The first.
    #[schemars(schema_with = "crate::schema::port")]
    pub first: i32,
    /// The last.
    #[schemars(schema_with = "crate::schema::port")]
    pub last: i32,
}

/// A place.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What a group's proxies serve and how they are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProxyGroupStatus {
    /// Ready, Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The ports given to frontends. A frontend keeps its port as long as it exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["service".into(), "protocol".into()]))]
    pub frontends: Vec<AllocatedPort>,
    /// How many there are.
    #[serde(default)]
    pub frontend_count: i32,
    /// One entry per live proxy. One that was not heard from for a while is "unknown", never idle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub proxies: Vec<ProxyStatus>,
    /// Proxies connected now.
    #[serde(default)]
    pub connected: i32,
    /// Proxies that run on what was published last.
    #[serde(default)]
    pub in_sync: i32,
    /// The hash of what was published last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_hash: Option<String>,
    /// The highest resourceVersion that it was decided from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

/// A frontend's port in a group.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedPort {
    /// `namespace/name:port`.
    pub service: String,
    /// TCP or UDP.
    pub protocol: String,
    /// Where clients connect.
    pub port: i32,
}

/// One proxy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Its node id.
    pub id: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether its stream is open.
    #[serde(default)]
    pub connected: bool,
    /// The hash of what it acknowledged last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_hash: Option<String>,
    /// The highest resourceVersion that this was decided from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// When its last load report came: to about 10 s while its sessions change, else to a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_report: Option<Time>,
    /// Live sessions and flows at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    /// What it refused, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
}

/// A resource that a proxy refused (NACK).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Its kind and name.
    pub resource: String,
    /// Why.
    pub reason: String,
}

impl Default for PortRange {
    fn default() -> Self {
        Self {
            first: 30_000,
            last: 32_767,
        }
    }
}
