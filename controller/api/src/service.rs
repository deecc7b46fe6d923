//! MultiClusterService: frontends and traffic policy of one import.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks for frontends of a ServiceImport and says how its clients are treated.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "MultiClusterService",
    namespaced,
    status = "MultiClusterServiceStatus",
    shortname = "mcsvc",
    category = "fairlead",
    derive = "PartialEq",
    derive = "Default",
    doc = "Frontends and traffic policy of one ServiceImport of the same namespace.",
    printcolumn(
        name = "Import",
        type_ = "string",
        json_path = ".spec.serviceImport.name"
    ),
    printcolumn(
        name = "Frontends",
        type_ = "string",
        json_path = ".status.frontends[*].endpoint"
    ),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.summary"),
    printcolumn(
        name = "Endpoints",
        type_ = "integer",
        json_path = ".status.readyEndpoints"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MultiClusterServiceSpec {
    /// The import served; one MultiClusterService per import, the oldest counts.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cannot change; make another MultiClusterService"))]
    pub service_import: ServiceImportReference,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub frontends: Vec<FrontendSpec>,
    /// How an endpoint is chosen inside a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<Balancer>,
    /// Members in order of preference. Without tiers all members are in one; with tiers, members
    /// that none selects are not used. A member is in the first tier that selects it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tiers: Vec<TierSpec>,
    /// Weights of members, 0 to 1000. Absent: the export's own, else 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["member".into()]))]
    pub weights: Vec<MemberWeight>,
    /// What keeps a client at one endpoint. Absent: as the exports say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Probes. Absent: TCP connects every second on TCP ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What becomes of sessions whose endpoint leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Exact limits of each proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Timeouts of sessions and flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// The PROXY header that endpoints get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// How traffic moves between tiers and endpoints as health changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
}

/// Names a ServiceImport of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceImportReference {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// One place where clients connect.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FrontendSpec {
    /// The proxies that serve it.
    #[schemars(length(min = 1, max = 48))]
    pub proxy_group: String,
    /// The import's port, by name or number; each port gets a frontend where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub port: Option<String>,
    /// The port that clients connect to; one of the group's range where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::port")]
    pub listen_port: Option<i32>,
    /// Client networks that may connect; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::cidrs")]
    pub allow: Vec<String>,
    /// TLS server names that select this frontend among those on one port; `*.` stands for any
    /// label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub sni: Vec<String>,
    /// Networks that send a PROXY header, and must; all others must not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::cidrs")]
    pub proxy_protocol_from: Vec<String>,
}

/// The picker inside a member.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the proxy's policy explains each")]
pub enum Balancer {
    P2c,
    RoundRobin,
    LeastConnections,
    Random,
    Maglev,
    Rendezvous,
}

/// Members of equal preference.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Members by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 47)))]
    pub members: Vec<String>,
    /// Members by label of their MemberCluster; an empty selector selects all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Members by where they are, seen from the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<Relative>,
    /// The weight of each of its members that `weights` doesn't name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::weight")]
    pub weight: Option<i32>,
}

/// Where a member is, seen from a proxy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Relative {
    SameMember,
    SameZone,
    SameRegion,
}

/// A member's weight.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberWeight {
    /// The member.
    #[schemars(length(min = 1, max = 47))]
    pub member: String,
    /// Its share against the others of its tier; 0 drains it.
    #[schemars(schema_with = "crate::schema::weight")]
    pub weight: i32,
}

/// What keeps a client at one endpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Affinity {
    None,
    ClientIP,
    FiveTuple,
}

/// Probes. At most one kind; a connect where none is given.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.tcp), has(self.http), has(self.grpc), has(self.udp)].filter(x, x).size() <= 1").message("at most one of tcp, http, grpc and udp"))]
pub struct HealthCheck {
    /// Nothing is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<bool>,
    /// A connection, and optionally an exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ExchangeProbe>,
    /// A GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// `grpc.health.v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcProbe>,
    /// A datagram and its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<ExchangeProbe>,
    /// From probe to probe; 1s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub interval: Option<Duration>,
    /// The time an answer may take; 500ms by default, at most the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub timeout: Option<Duration>,
    /// Failures in a row that make an endpoint unhealthy; 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: Option<i32>,
    /// Successes in a row that make it healthy again; 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: Option<i32>,
    /// The port probed; each endpoint's own where absent. One port for all is one verdict for all
    /// ports of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::port")]
    pub port: Option<i32>,
}

/// Text sent and text expected back.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeProbe {
    /// Sent after the connect (TCP) or as the datagram (UDP).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub send: String,
    /// What the answer contains.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub expect: String,
}

/// An HTTP probe.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// Starts with `/`.
    #[schemars(length(min = 1, max = 1024), extend("pattern" = "^/"))]
    pub path: String,
    /// The Host header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub host: Option<String>,
}

/// A gRPC probe.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service asked about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub service: String,
}

/// What becomes of sessions whose endpoint leaves.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// How long sessions of a draining endpoint or member may go on; 5m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub draining: Option<Duration>,
    /// How long sessions of a removed endpoint may go on; 1m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub removed: Option<Duration>,
    /// Sessions of an endpoint that turns unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<OnUnhealthy>,
}

/// See [`Drain`].
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum OnUnhealthy {
    Keep,
    Reset,
}

/// Exact limits of each proxy.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Live sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::limit")]
    pub connections: Option<i32>,
    /// Live sessions of one client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::limit")]
    pub connections_per_client: Option<i32>,
    /// New sessions a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::limit")]
    pub new_per_second: Option<i32>,
    /// New sessions a second of one client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::limit")]
    pub new_per_second_per_client: Option<i32>,
    /// Live flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::limit")]
    pub flows: Option<i32>,
    /// Live sessions of one endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::limit")]
    pub connections_per_endpoint: Option<i32>,
}

/// Timeouts of sessions and flows.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Of a connect; 5s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub connect: Option<Duration>,
    /// Of a session on which nothing moves; 1h by default, 0s is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub idle: Option<Duration>,
    /// Of a flow on which nothing moves; 1m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub udp_idle: Option<Duration>,
    /// Of a session in all; never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub lifetime: Option<Duration>,
}

/// The PROXY header that endpoints get.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum ProxyVersion {
    V1,
    V2,
}

/// How traffic moves between tiers and endpoints as health changes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// Thousandths: a tier of health h takes min(1, h × factor) of new sessions; 1400 by default,
    /// 1000 is strict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 10000))]
    pub spill_factor: Option<i32>,
    /// A tier with fewer healthy endpoints takes nothing while another can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100000))]
    pub min_healthy: Option<i32>,
    /// Later tiers are never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_fallback: Option<bool>,
    /// Percent: a tier less healthy than this, with nothing behind it, uses all its endpoints but
    /// those that the proxy's own probes find dead; these too when nothing is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::percent")]
    pub panic_below: Option<i32>,
    /// How long a tier stays good before it takes traffic back; 10s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub return_after: Option<Duration>,
    /// How long an endpoint that came back ramps up; 10s by default, 0s turns it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub slow_start: Option<Duration>,
    /// Percent of the endpoints that passive health may eject at a time; 50 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::percent")]
    pub max_ejected: Option<i32>,
    /// Whether a second connect is raced when the first is slow; yes by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<bool>,
}

/// What is served, where, by whom, and why not.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MultiClusterServiceStatus {
    /// Valid, Ready, Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frontends: Vec<FrontendStatus>,
    /// One entry per exporting member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["member".into()]))]
    pub members: Vec<MemberStatus>,
    /// Members that take traffic, of all that export: `3/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// Ready endpoints of all members.
    #[serde(default)]
    pub ready_endpoints: i32,
}

/// Where clients connect.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FrontendStatus {
    /// The proxies that serve it.
    pub proxy_group: String,
    /// The import's port: its name, else its number.
    pub service_port: String,
    /// TCP or UDP.
    pub protocol: String,
    /// The addresses of the group.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The port to connect to.
    pub port: i32,
    /// The first address and the port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
}

/// A member's part in a service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The member.
    pub member: String,
    /// Its tier, from 0, as the first frontend's proxies see it; absent when in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<i32>,
    /// 0 to 1000.
    pub configured_weight: i32,
    /// After claims, in thousandths of a weight point.
    pub effective_weight_thousandths: i32,
    /// Endpoints that its objects call ready.
    pub ready_endpoints: i32,
    /// All of its endpoints.
    pub endpoints: i32,
    /// What it does.
    pub state: MemberState,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Live sessions on it, over all proxies that reported; absent when one did not. Flows, which
    /// move by themselves, are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_sessions: Option<i64>,
}

/// What a member does for a service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// Takes new sessions.
    #[default]
    Active,
    /// Weight 0: no new sessions, old ones finish.
    Draining,
    /// Heartbeat lost, endpoints still probed and served.
    Silent,
    /// Heartbeat lost and nothing probes its endpoints: no new sessions.
    Withdrawn,
    /// No ready endpoints.
    Empty,
    /// Probes from the proxies say no.
    Unhealthy,
    /// In no tier.
    NotSelected,
}
