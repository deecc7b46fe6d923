//! `envoy.config.cluster.v3`: how the endpoints of a service are used.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

use super::{
    Any, Duration,
    core::{ConfigSource, Metadata, Percent, TcpKeepalive, TransportSocket},
    endpoint::ClusterLoadAssignment,
    health::HealthCheck,
};

/// `Cluster`. Ours: a service with its policy.
#[derive(Clone, PartialEq, Message)]
pub struct Cluster {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(oneof = "ClusterDiscoveryType", tags = "2, 38")]
    pub discovery_type: Option<ClusterDiscoveryType>,
    #[prost(message, optional, tag = "3")]
    pub eds_cluster_config: Option<EdsClusterConfig>,
    #[prost(message, optional, tag = "4")]
    pub connect_timeout: Option<Duration>,
    #[prost(enumeration = "LbPolicy", tag = "6")]
    pub lb_policy: i32,
    #[prost(message, repeated, tag = "8")]
    pub health_checks: Vec<HealthCheck>,
    #[prost(message, optional, tag = "10")]
    pub circuit_breakers: Option<CircuitBreakers>,
    #[prost(message, optional, tag = "19")]
    pub outlier_detection: Option<OutlierDetection>,
    #[prost(oneof = "LbConfig", tags = "23, 52, 37, 56")]
    pub lb_config: Option<LbConfig>,
    #[prost(message, optional, tag = "24")]
    pub transport_socket: Option<TransportSocket>,
    #[prost(message, optional, tag = "25")]
    pub metadata: Option<Metadata>,
    #[prost(message, optional, tag = "27")]
    pub common_lb_config: Option<CommonLbConfig>,
    #[prost(message, optional, tag = "30")]
    pub upstream_connection_options: Option<UpstreamConnectionOptions>,
    #[prost(bool, tag = "31")]
    pub close_connections_on_host_health_failure: bool,
    #[prost(message, optional, tag = "33")]
    pub load_assignment: Option<ClusterLoadAssignment>,
    #[prost(btree_map = "string, message", tag = "36")]
    pub typed_extension_protocol_options: BTreeMap<String, Any>,
    #[prost(message, optional, tag = "42")]
    pub lrs_server: Option<ConfigSource>,
}

/// How endpoints are found.
#[derive(Clone, PartialEq, Oneof)]
pub enum ClusterDiscoveryType {
    #[prost(enumeration = "DiscoveryType", tag = "2")]
    Type(i32),
    #[prost(message, tag = "38")]
    Custom(CustomClusterType),
}

/// `Cluster.DiscoveryType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DiscoveryType {
    Static = 0,
    StrictDns = 1,
    LogicalDns = 2,
    Eds = 3,
    OriginalDst = 4,
}

/// `Cluster.CustomClusterType`, which we refuse.
#[derive(Clone, PartialEq, Message)]
pub struct CustomClusterType {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `Cluster.EdsClusterConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EdsClusterConfig {
    #[prost(message, optional, tag = "1")]
    pub eds_config: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    pub service_name: String,
}

/// `Cluster.LbPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum LbPolicy {
    RoundRobin = 0,
    LeastRequest = 1,
    RingHash = 2,
    Random = 3,
    Maglev = 5,
    ClusterProvided = 6,
    LoadBalancingPolicyConfig = 7,
}

/// Settings of the balancer.
#[derive(Clone, PartialEq, Oneof)]
pub enum LbConfig {
    #[prost(message, tag = "23")]
    RingHash(RingHashLbConfig),
    #[prost(message, tag = "52")]
    Maglev(MaglevLbConfig),
    #[prost(message, tag = "37")]
    LeastRequest(LeastRequestLbConfig),
    #[prost(message, tag = "56")]
    RoundRobin(RoundRobinLbConfig),
}

/// `Cluster.RingHashLbConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RingHashLbConfig {}

/// `Cluster.MaglevLbConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MaglevLbConfig {}

/// `Cluster.LeastRequestLbConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct LeastRequestLbConfig {
    #[prost(message, optional, tag = "3")]
    pub slow_start_config: Option<SlowStartConfig>,
}

/// `Cluster.RoundRobinLbConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct RoundRobinLbConfig {
    #[prost(message, optional, tag = "1")]
    pub slow_start_config: Option<SlowStartConfig>,
}

/// `Cluster.SlowStartConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct SlowStartConfig {
    #[prost(message, optional, tag = "1")]
    pub slow_start_window: Option<Duration>,
}

/// `Cluster.CommonLbConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct CommonLbConfig {
    #[prost(message, optional, tag = "1")]
    pub healthy_panic_threshold: Option<Percent>,
    #[prost(message, optional, tag = "3")]
    pub locality_weighted_lb_config: Option<LocalityWeightedLbConfig>,
}

/// `Cluster.CommonLbConfig.LocalityWeightedLbConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LocalityWeightedLbConfig {}

/// `UpstreamConnectionOptions`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UpstreamConnectionOptions {
    #[prost(message, optional, tag = "1")]
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// `CircuitBreakers`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CircuitBreakers {
    #[prost(message, repeated, tag = "1")]
    pub thresholds: Vec<Thresholds>,
    #[prost(message, repeated, tag = "2")]
    pub per_host_thresholds: Vec<Thresholds>,
}

/// `CircuitBreakers.Thresholds`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Thresholds {
    /// `RoutingPriority`; 0 is the default one and the only one that we use.
    #[prost(int32, tag = "1")]
    pub priority: i32,
    #[prost(message, optional, tag = "2")]
    pub max_connections: Option<u32>,
    #[prost(message, optional, tag = "3")]
    pub max_pending_requests: Option<u32>,
}

/// `OutlierDetection`.
#[derive(Clone, PartialEq, Message)]
pub struct OutlierDetection {
    #[prost(message, optional, tag = "2")]
    pub interval: Option<Duration>,
    #[prost(message, optional, tag = "3")]
    pub base_ejection_time: Option<Duration>,
    #[prost(message, optional, tag = "4")]
    pub max_ejection_percent: Option<u32>,
    #[prost(bool, tag = "12")]
    pub split_external_local_origin_errors: bool,
    #[prost(message, optional, tag = "13")]
    pub consecutive_local_origin_failure: Option<u32>,
    #[prost(message, optional, tag = "15")]
    pub enforcing_local_origin_success_rate: Option<u32>,
    #[prost(message, optional, tag = "21")]
    pub max_ejection_time: Option<Duration>,
}
