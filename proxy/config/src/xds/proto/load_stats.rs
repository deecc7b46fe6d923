//! `envoy.service.load_stats.v3` and the statistics it carries (`envoy.config.endpoint.v3`).
//!
//! Counters are deltas since the last report; what is in progress is a level. Ours besides: the
//! state of the proxy and verdicts, in fields above 1000, which other servers skip.

use prost::{Enumeration, Message};

use super::{
    Duration, Struct,
    core::{Address, Locality, Node},
    fairlead::{ProxyState, Verdict},
};

/// `LoadStatsRequest`: a report.
#[derive(Clone, PartialEq, Message)]
pub struct LoadStatsRequest {
    /// In the first request of a stream.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(message, repeated, tag = "2")]
    pub cluster_stats: Vec<ClusterStats>,
    /// Ours.
    #[prost(message, optional, tag = "1000")]
    pub proxy: Option<ProxyState>,
    /// Ours: verdicts that changed since the last report; all of them in the first one.
    #[prost(message, repeated, tag = "1001")]
    pub verdicts: Vec<Verdict>,
    /// Ours: between replicas of a hub only.
    #[prost(message, optional, tag = "1002")]
    pub handed: Option<Handed>,
}

/// What a replica of a hub hands on to the leader beside a report of one of its proxies, who is
/// named by `node`.
#[derive(Clone, PartialEq, Message)]
pub struct Handed {
    /// The proxy has its configuration stream at that replica.
    #[prost(bool, tag = "1")]
    pub connected: bool,
    #[prost(string, tag = "2")]
    pub version: String,
    /// The hash acknowledged last.
    #[prost(string, optional, tag = "3")]
    pub applied: Option<String>,
    /// Nothing of what was sent waits for an answer.
    #[prost(bool, tag = "4")]
    pub settled: bool,
    #[prost(message, repeated, tag = "5")]
    pub refused: Vec<HandedRefusal>,
    /// What a message says besides.
    #[prost(enumeration = "HandedReport", tag = "6")]
    pub report: i32,
}

/// What of a report is in a message that is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum HandedReport {
    /// None: the proxy has not reported yet, or its report is known.
    None = 0,
    /// All of it: it replaces what was known.
    Whole = 1,
    /// What changed.
    Change = 2,
}

/// Something that a proxy refuses.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HandedRefusal {
    #[prost(string, tag = "1")]
    pub resource: String,
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// `LoadStatsResponse`: what to report.
#[derive(Clone, PartialEq, Message)]
pub struct LoadStatsResponse {
    #[prost(string, repeated, tag = "1")]
    pub clusters: Vec<String>,
    #[prost(message, optional, tag = "2")]
    pub load_reporting_interval: Option<Duration>,
    #[prost(bool, tag = "3")]
    pub report_endpoint_granularity: bool,
    #[prost(bool, tag = "4")]
    pub send_all_clusters: bool,
    /// Ours: services under drain, run or watch; reported every second, with their endpoints.
    #[prost(string, repeated, tag = "1000")]
    pub watched: Vec<String>,
}

/// `ClusterStats`.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterStats {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub upstream_locality_stats: Vec<UpstreamLocalityStats>,
    /// Sessions refused by a limit or for want of an endpoint.
    #[prost(uint64, tag = "3")]
    pub total_dropped_requests: u64,
    #[prost(message, optional, tag = "4")]
    pub load_report_interval: Option<Duration>,
    #[prost(string, tag = "6")]
    pub cluster_service_name: String,
}

/// `UpstreamLocalityStats`. Ours: a member.
#[derive(Clone, PartialEq, Message)]
pub struct UpstreamLocalityStats {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<Locality>,
    #[prost(uint64, tag = "2")]
    pub total_successful_requests: u64,
    #[prost(uint64, tag = "3")]
    pub total_requests_in_progress: u64,
    #[prost(uint64, tag = "4")]
    pub total_error_requests: u64,
    #[prost(uint32, tag = "6")]
    pub priority: u32,
    #[prost(message, repeated, tag = "7")]
    pub upstream_endpoint_stats: Vec<UpstreamEndpointStats>,
    #[prost(uint64, tag = "8")]
    pub total_issued_requests: u64,
    #[prost(uint64, tag = "9")]
    pub total_active_connections: u64,
    #[prost(uint64, tag = "10")]
    pub total_new_connections: u64,
    #[prost(uint64, tag = "11")]
    pub total_fail_connections: u64,
}

/// `UpstreamEndpointStats`.
#[derive(Clone, PartialEq, Message)]
pub struct UpstreamEndpointStats {
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    #[prost(uint64, tag = "2")]
    pub total_successful_requests: u64,
    #[prost(uint64, tag = "3")]
    pub total_requests_in_progress: u64,
    #[prost(uint64, tag = "4")]
    pub total_error_requests: u64,
    #[prost(message, optional, tag = "6")]
    pub metadata: Option<Struct>,
    #[prost(uint64, tag = "7")]
    pub total_issued_requests: u64,
}
