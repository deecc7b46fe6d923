//! `envoy.service.discovery.v3`: requests, responses and the envelope of a resource.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    Any, Duration,
    core::{ControlPlane, Metadata, Node, Status},
};

/// `DiscoveryRequest` (state of the world).
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `DiscoveryResponse` (state of the world).
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    #[prost(bool, tag = "3")]
    pub canary: bool,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// `DeltaDiscoveryRequest`: a subscription, an acknowledgement or a refusal.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaDiscoveryRequest {
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(string, tag = "2")]
    pub type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// In the first request of a type on a stream: what the client has already.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// `DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaDiscoveryResponse {
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
    /// Ours, to a member's agent: the group whose resources these are; empty where the member has
    /// none.
    #[prost(string, tag = "1000")]
    pub proxy_group: String,
}

/// `Resource`: a resource with its name and version.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
    /// Ours: the hash of the content.
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<Duration>,
    /// Ours: `asOf` and `epoch`.
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
}

/// Ours: the resources in force, as a client keeps them on disk.
#[derive(Clone, PartialEq, Message)]
pub struct SavedResources {
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<SavedResource>,
}

/// Ours: one of [`SavedResources`].
#[derive(Clone, PartialEq, Message)]
pub struct SavedResource {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Resource>,
}
