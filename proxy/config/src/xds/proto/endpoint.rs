//! `envoy.config.endpoint.v3`: the endpoints of a cluster.

use prost::{Enumeration, Message, Oneof};

use super::core::{Address, ConfigSource, Locality, Metadata};

/// `ClusterLoadAssignment`. Ours: the tiers, members, weights and endpoints of a service.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<LocalityLbEndpoints>,
    #[prost(message, optional, tag = "4")]
    pub policy: Option<AssignmentPolicy>,
}

/// `ClusterLoadAssignment.Policy`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AssignmentPolicy {
    /// In percent.
    #[prost(message, optional, tag = "3")]
    pub overprovisioning_factor: Option<u32>,
}

/// `LocalityLbEndpoints`. Ours: a member with its tier, weight and endpoints.
#[derive(Clone, PartialEq, Message)]
pub struct LocalityLbEndpoints {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<Locality>,
    #[prost(message, repeated, tag = "2")]
    pub lb_endpoints: Vec<LbEndpoint>,
    #[prost(message, optional, tag = "3")]
    pub load_balancing_weight: Option<u32>,
    #[prost(uint32, tag = "5")]
    pub priority: u32,
    /// Its endpoints come as a collection of their own.
    #[prost(message, optional, tag = "8")]
    pub leds_cluster_locality_config: Option<LedsClusterLocalityConfig>,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
}

/// `LedsClusterLocalityConfig`: where the endpoints of a locality are to be had.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LedsClusterLocalityConfig {
    #[prost(message, optional, tag = "1")]
    pub leds_config: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    pub leds_collection_name: String,
}

/// `LocalityLbEndpoints.LbEndpointList`. Ours: a chunk of a member's endpoints.
#[derive(Clone, PartialEq, Message)]
pub struct LbEndpointList {
    #[prost(message, repeated, tag = "1")]
    pub lb_endpoints: Vec<LbEndpoint>,
}

/// `LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
pub struct LbEndpoint {
    #[prost(oneof = "HostIdentifier", tags = "1, 5")]
    pub host: Option<HostIdentifier>,
    #[prost(enumeration = "HealthStatus", tag = "2")]
    pub health_status: i32,
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    pub load_balancing_weight: Option<u32>,
}

/// An endpoint, or the name of one (which we refuse).
#[derive(Clone, PartialEq, Oneof)]
pub enum HostIdentifier {
    #[prost(message, tag = "1")]
    Endpoint(Endpoint),
    #[prost(string, tag = "5")]
    Name(String),
}

/// `Endpoint`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Endpoint {
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    #[prost(string, tag = "3")]
    pub hostname: String,
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum HealthStatus {
    Unknown = 0,
    Healthy = 1,
    Unhealthy = 2,
    Draining = 3,
    Timeout = 4,
    Degraded = 5,
}
