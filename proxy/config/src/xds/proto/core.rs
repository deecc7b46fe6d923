//! `envoy.config.core.v3`, `envoy.type.v3` and `google.rpc`: what the other messages are made of.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

use super::{Any, Struct};

/// `envoy.config.core.v3.Locality`. Ours: the region is the member.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Locality {
    #[prost(string, tag = "1")]
    pub region: String,
    #[prost(string, tag = "2")]
    pub zone: String,
    #[prost(string, tag = "3")]
    pub sub_zone: String,
}

/// `envoy.config.core.v3.Node`: who asks.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, tag = "1")]
    pub id: String,
    /// Ours: the proxy group. A claim; the stream's identity decides.
    #[prost(string, tag = "2")]
    pub cluster: String,
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
    #[prost(message, optional, tag = "4")]
    pub locality: Option<Locality>,
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    #[prost(oneof = "UserAgentVersion", tags = "7")]
    pub user_agent_version: Option<UserAgentVersion>,
    #[prost(string, repeated, tag = "10")]
    pub client_features: Vec<String>,
}

/// The version of [`Node`]; the structured form is not read.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum UserAgentVersion {
    #[prost(string, tag = "7")]
    Text(String),
}

/// `envoy.config.core.v3.Metadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    pub filter_metadata: BTreeMap<String, Struct>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub typed_filter_metadata: BTreeMap<String, Any>,
}

/// `envoy.config.core.v3.ControlPlane`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ControlPlane {
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// `envoy.config.core.v3.Address`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Address {
    #[prost(oneof = "AddressKind", tags = "1, 2")]
    pub address: Option<AddressKind>,
}

/// The kinds of address that we read; internal listeners are skipped.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum AddressKind {
    #[prost(message, tag = "1")]
    Socket(SocketAddress),
    #[prost(message, tag = "2")]
    Pipe(Pipe),
}

/// `envoy.config.core.v3.Pipe`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Pipe {
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// `envoy.config.core.v3.SocketAddress`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SocketAddress {
    #[prost(enumeration = "SocketProtocol", tag = "1")]
    pub protocol: i32,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(oneof = "Port", tags = "3, 4")]
    pub port: Option<Port>,
    #[prost(bool, tag = "6")]
    pub ipv4_compat: bool,
}

/// The port of a [`SocketAddress`].
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Port {
    #[prost(uint32, tag = "3")]
    Value(u32),
    #[prost(string, tag = "4")]
    Named(String),
}

/// `envoy.config.core.v3.SocketAddress.Protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum SocketProtocol {
    Tcp = 0,
    Udp = 1,
}

/// `envoy.config.core.v3.CidrRange`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CidrRange {
    #[prost(string, tag = "1")]
    pub address_prefix: String,
    #[prost(message, optional, tag = "2")]
    pub prefix_len: Option<u32>,
}

/// `envoy.config.core.v3.TcpKeepalive`, in probes and seconds.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TcpKeepalive {
    #[prost(message, optional, tag = "1")]
    pub keepalive_probes: Option<u32>,
    #[prost(message, optional, tag = "2")]
    pub keepalive_time: Option<u32>,
    #[prost(message, optional, tag = "3")]
    pub keepalive_interval: Option<u32>,
}

/// `envoy.config.core.v3.TransportSocket`.
#[derive(Clone, PartialEq, Message)]
pub struct TransportSocket {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub typed_config: Option<Any>,
}

/// `envoy.config.core.v3.ProxyProtocolConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ProxyProtocolConfig {
    #[prost(enumeration = "ProxyProtocolVersion", tag = "1")]
    pub version: i32,
}

/// `envoy.config.core.v3.ProxyProtocolConfig.Version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ProxyProtocolVersion {
    V1 = 0,
    V2 = 1,
}

/// `envoy.config.core.v3.ConfigSource`, of which we use the stream itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfigSource {
    #[prost(oneof = "ConfigSourceKind", tags = "3, 5")]
    pub kind: Option<ConfigSourceKind>,
    #[prost(enumeration = "ApiVersion", tag = "6")]
    pub resource_api_version: i32,
}

/// Where a resource comes from.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum ConfigSourceKind {
    #[prost(message, tag = "3")]
    Ads(AggregatedConfigSource),
    #[prost(message, tag = "5")]
    SelfSource(SelfConfigSource),
}

/// `envoy.config.core.v3.AggregatedConfigSource`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AggregatedConfigSource {}

/// `envoy.config.core.v3.SelfConfigSource`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SelfConfigSource {
    #[prost(enumeration = "ApiVersion", tag = "1")]
    pub transport_api_version: i32,
}

/// `envoy.config.core.v3.ApiVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ApiVersion {
    Auto = 0,
    V2 = 1,
    V3 = 2,
}

/// `envoy.type.v3.Percent`.
#[derive(Clone, PartialEq, Message)]
pub struct Percent {
    #[prost(double, tag = "1")]
    pub value: f64,
}

/// `envoy.type.v3.Int64Range`: `end` is not part of it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Int64Range {
    #[prost(int64, tag = "1")]
    pub start: i64,
    #[prost(int64, tag = "2")]
    pub end: i64,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.rpc.Code.INVALID_ARGUMENT`, the code of a refused resource.
pub const INVALID_ARGUMENT: i32 = 3;
