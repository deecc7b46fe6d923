//! Members: joined clusters, and what they report of themselves.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Taint,
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, Time},
    },
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels;

/// A joined cluster. Its name is the cluster's id in the fleet.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "MemberCluster",
    status = "MemberClusterStatus",
    shortname = "member",
    category = "fairlead",
    derive = "PartialEq",
    derive = "Default",
    doc = "A cluster that has joined the fleet.",
    validation = Rule::new("self.metadata.name.size() <= 47 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("a member's name is its cluster id: a DNS label of at most 47 characters (lower-case letters, digits, '-')"),
    printcolumn(name = "Joined", type_ = "string", json_path = ".status.conditions[?(@.type==\"Joined\")].status"),
    printcolumn(name = "Healthy", type_ = "string", json_path = ".status.conditions[?(@.type==\"Healthy\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Healthy\")].reason"),
    printcolumn(name = "Kubernetes", type_ = "string", json_path = ".status.kubernetesVersion"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "Claims", type_ = "string", json_path = ".spec.trafficClaims[*].owner"),
    printcolumn(name = "Last seen", type_ = "date", json_path = ".status.lastSeen"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterSpec {
    /// How often its agent reports versions, properties and capacity, in seconds. The heartbeat
    /// itself is a Lease renewed every 5 s.
    #[serde(default = "heartbeat_period")]
    #[schemars(range(min = 1, max = 600))]
    pub heartbeat_period_seconds: i32,
    /// Keeps placements away. Only the effect NoSchedule is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "taints")]
    pub taints: Vec<Taint>,
    /// What its exports may name as endpoint addresses; everything where absent. Loopback,
    /// link-local, multicast and unspecified addresses are always refused.
    #[serde(
        default,
        rename = "endpointCIDRs",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::cidrs")]
    pub endpoint_cidrs: Option<Vec<String>>,
    /// The services it may export, as `namespace/name` with `*` for any; everything where absent,
    /// nothing where empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::service_patterns")]
    pub allow_exports: Option<Vec<String>>,
    /// Requests for less traffic to this member, one per owner. The smallest counts. Nobody writes
    /// another's claim; to give back is to remove one's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["owner".into()]))]
    pub traffic_claims: Vec<TrafficClaim>,
    /// What deleting this object checks first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_options: Option<DeleteOptions>,
}

/// Somebody's request for less traffic to a member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TrafficClaim {
    /// Who asks: `user`, or the object that does, such as `updaterun/2026-11`.
    #[schemars(length(min = 1, max = 253))]
    pub owner: String,
    /// The part of its weight that the member keeps, in thousandths. 0 drains it.
    #[schemars(schema_with = "crate::schema::permille")]
    pub permille: i32,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The services meant, as `namespace/name` with `*` for any; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::service_patterns")]
    pub services: Option<Vec<String>>,
}

/// What deleting a member checks first. `fairlead leave` sets Skip, because it means it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Strict (the default): a member whose exports other members or proxies use stays in the fleet,
    /// with its traffic, until those exports are withdrawn in the member or this is set to Skip; its
    /// condition Leaving says which they are. Skip: its exports are withdrawn, its identity revoked
    /// and its streams closed at once. It may be set after the deletion, too.
    #[serde(default)]
    pub validation_mode: ValidationMode,
}

/// See [`DeleteOptions`].
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValidationMode {
    #[default]
    #[allow(missing_docs, reason = "said above")]
    Strict,
    #[allow(missing_docs, reason = "said above")]
    Skip,
}

/// What the hub knows of a member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterStatus {
    /// ReadyToJoin, Joined, Healthy; Leaving once it is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Numbers and texts a placement can select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, PropertyValue>,
    /// Capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_usage: Option<ResourceUsage>,
    /// One entry per agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agent_status: Vec<AgentStatus>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The member's Kubernetes version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// The UID of the member's `kube-system` namespace: a name belongs to one cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// When the hub saw its heartbeat last, to about a minute while it is fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// Exports accepted from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exports: Option<i32>,
}

/// One observed value.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PropertyValue {
    /// The value.
    pub value: String,
    /// When it was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation_time: Option<Time>,
}

/// Capacity of a member. What was not measured is absent, never guessed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// All of its nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, Quantity>,
    /// What its nodes give to pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub allocatable: BTreeMap<String, Quantity>,
    /// Allocatable less the requests of all pods; absent unless the agent lists pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub available: BTreeMap<String, Quantity>,
    /// When it was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation_time: Option<Time>,
}

/// What one agent of a member said last.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// `MemberAgent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Joined, Healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When its report came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received_heartbeat: Option<Time>,
}

/// What a member's agent says of its cluster. Lives in the member's hub namespace, named `report`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "MemberReport",
    namespaced,
    category = "fairlead",
    derive = "PartialEq",
    derive = "Default",
    doc = "What a member's agent says of its cluster.",
    printcolumn(
        name = "Kubernetes",
        type_ = "string",
        json_path = ".spec.kubernetesVersion"
    ),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agentVersion"),
    printcolumn(
        name = "API server",
        type_ = "boolean",
        json_path = ".spec.apiServerReady"
    ),
    printcolumn(name = "Observed", type_ = "date", json_path = ".spec.observedAt")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberReportSpec {
    /// The agent's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub agent_version: String,
    /// The member's Kubernetes version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub kubernetes_version: String,
    /// The UID of the member's `kube-system` namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub cluster_uid: String,
    /// Whether the member's API server says `/readyz`.
    #[serde(default)]
    pub api_server_ready: bool,
    /// Numbers and texts a placement can select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub properties: BTreeMap<String, PropertyValue>,
    /// Capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_usage: Option<ResourceUsage>,
    /// When all this was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// The epoch of the hub's store in which the agent has compared everything it wrote there with
    /// what is there; absent unless the hub was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub epoch: Option<String>,
}

impl MemberCluster {
    /// Whether it is deleted in a way that waits for nothing: with [`ValidationMode::Skip`], or by
    /// force. Its exports are void from then on, and so is its identity.
    pub fn is_revoked(&self) -> bool {
        let options = self.spec.delete_options.as_ref();
        let skips = options.is_some_and(|one| one.validation_mode == ValidationMode::Skip);
        let annotations = self.metadata.annotations.as_ref();
        let force = annotations.and_then(|all| all.get(labels::FORCE_LEAVE));
        let forced = force.is_some_and(|text| text == "true");
        self.metadata.deletion_timestamp.is_some() && (skips || forced)
    }
}

impl Default for MemberClusterSpec {
    fn default() -> Self {
        Self {
            heartbeat_period_seconds: heartbeat_period(),
            taints: Vec::new(),
            endpoint_cidrs: None,
            allow_exports: None,
            traffic_claims: Vec::new(),
            delete_options: None,
        }
    }
}

fn heartbeat_period() -> i32 {
    60
}

/// Core's Taint, but with the one effect that is known, and unique by key and effect.
fn taints(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 100,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["key", "effect"],
        "items": {
            "type": "object",
            "required": ["key", "effect"],
            "properties": {
                "key": { "type": "string", "minLength": 1, "maxLength": 317 },
                "value": { "type": "string", "maxLength": 63 },
                "effect": { "type": "string", "enum": ["NoSchedule"] },
                "timeAdded": { "type": "string", "format": "date-time" },
            },
        },
    })
}

/// The property that counts nodes.
pub const NODE_COUNT: &str = "fairlead.dev/node-count";
/// Named by [`AgentStatus::kind`].
pub const MEMBER_AGENT: &str = "MemberAgent";
