//! The filters and transport sockets that Listeners and Clusters name.

use prost::{Message, Oneof};

use super::{
    Any, Duration,
    core::{ProxyProtocolConfig, ProxyProtocolVersion, TransportSocket},
};

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, PartialEq, Message)]
pub struct TcpProxy {
    #[prost(string, tag = "1")]
    pub stat_prefix: String,
    #[prost(oneof = "ClusterSpecifier", tags = "2, 10")]
    pub cluster: Option<ClusterSpecifier>,
    #[prost(message, optional, tag = "7")]
    pub max_connect_attempts: Option<u32>,
    /// Absent: an hour; zero: off.
    #[prost(message, optional, tag = "8")]
    pub idle_timeout: Option<Duration>,
    #[prost(message, repeated, tag = "11")]
    pub hash_policy: Vec<HashPolicy>,
    #[prost(message, optional, tag = "13")]
    pub max_downstream_connection_duration: Option<Duration>,
}

/// The cluster of a [`TcpProxy`]; weighted ones are refused.
#[derive(Clone, PartialEq, Oneof)]
pub enum ClusterSpecifier {
    #[prost(string, tag = "2")]
    Cluster(String),
    #[prost(message, tag = "10")]
    Weighted(WeightedCluster),
}

/// `TcpProxy.WeightedCluster`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WeightedCluster {}

/// `envoy.type.v3.HashPolicy`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HashPolicy {
    #[prost(message, optional, tag = "1")]
    pub source_ip: Option<SourceIp>,
}

/// `envoy.type.v3.HashPolicy.SourceIp`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SourceIp {}

/// `envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct UdpProxyConfig {
    #[prost(string, tag = "1")]
    pub stat_prefix: String,
    #[prost(oneof = "UdpRouteSpecifier", tags = "2, 9")]
    pub route: Option<UdpRouteSpecifier>,
    /// Absent: a minute.
    #[prost(message, optional, tag = "3")]
    pub idle_timeout: Option<Duration>,
    #[prost(message, repeated, tag = "5")]
    pub hash_policies: Vec<UdpHashPolicy>,
}

/// The cluster of a [`UdpProxyConfig`].
#[derive(Clone, PartialEq, Oneof)]
pub enum UdpRouteSpecifier {
    /// Deprecated by Envoy, still sent by others.
    #[prost(string, tag = "2")]
    Cluster(String),
    #[prost(message, tag = "9")]
    Matcher(Matcher),
}

/// `UdpProxyConfig.HashPolicy`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UdpHashPolicy {
    #[prost(oneof = "UdpHashSpecifier", tags = "1")]
    pub specifier: Option<UdpHashSpecifier>,
}

/// What is hashed.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum UdpHashSpecifier {
    #[prost(bool, tag = "1")]
    SourceIp(bool),
}

/// `xds.type.matcher.v3.Matcher`, of which only the unconditional action is read.
#[derive(Clone, PartialEq, Message)]
pub struct Matcher {
    #[prost(message, optional, tag = "1")]
    pub matcher_list: Option<MatcherRules>,
    #[prost(message, optional, tag = "2")]
    pub matcher_tree: Option<MatcherRules>,
    #[prost(message, optional, tag = "3")]
    pub on_no_match: Option<OnMatch>,
}

/// Conditional rules, which are refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MatcherRules {}

/// `xds.type.matcher.v3.Matcher.OnMatch`.
#[derive(Clone, PartialEq, Message)]
pub struct OnMatch {
    #[prost(message, optional, tag = "2")]
    pub action: Option<TypedExtensionConfig>,
}

/// `xds.core.v3.TypedExtensionConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct TypedExtensionConfig {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub typed_config: Option<Any>,
}

/// `envoy.extensions.filters.udp.udp_proxy.v3.Route`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UdpRoute {
    #[prost(string, tag = "1")]
    pub cluster: String,
}

/// `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ProxyProtocol {
    #[prost(bool, tag = "2")]
    pub allow_requests_without_proxy_protocol: bool,
    #[prost(enumeration = "ProxyProtocolVersion", repeated, tag = "4")]
    pub disallowed_versions: Vec<i32>,
}

/// `envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TlsInspector {}

/// `envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport`.
#[derive(Clone, PartialEq, Message)]
pub struct ProxyProtocolUpstreamTransport {
    #[prost(message, optional, tag = "1")]
    pub config: Option<ProxyProtocolConfig>,
    #[prost(message, optional, tag = "2")]
    pub transport_socket: Option<TransportSocket>,
}

/// `envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RawBuffer {}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, which gRPC probes need.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HttpProtocolOptions {
    #[prost(message, optional, tag = "3")]
    pub explicit_http_config: Option<ExplicitHttpConfig>,
}

/// `HttpProtocolOptions.ExplicitHttpConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExplicitHttpConfig {
    #[prost(message, optional, tag = "2")]
    pub http2_protocol_options: Option<Http2ProtocolOptions>,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Http2ProtocolOptions {}
