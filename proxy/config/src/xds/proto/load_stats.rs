//! `envoy.service.load_stats.v3` and the statistics it carries (`envoy.config.endpoint.v3`).
//!
//! Counters are deltas since the last report; what is in progress is a level. Ours besides: the
//! state of the proxy and verdicts, in fields above 1000, which other servers skip.

use prost::Message;

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
