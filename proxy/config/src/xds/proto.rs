//! The messages of xDS v3 that we send and read, declared by hand, field numbers as published.
//!
//! Fields that neither side of ours uses are left out: a peer's values for them are skipped when
//! read, as protobuf lays down. Maps are ordered, so equal messages have equal bytes on each
//! replica, which is what a content hash needs.

pub use prost::Message;
pub use prost_types::{Any, Duration, ListValue, Struct, Value, value::Kind};

pub mod cluster;
pub mod core;
pub mod discovery;
pub mod endpoint;
pub mod fairlead;
pub mod filter;
pub mod health;
pub mod listener;
pub mod load_stats;

/// A message that travels in an [`Any`].
pub trait Typed: Message + Default {
    /// Its type, with the prefix `type.googleapis.com/` or our own.
    const URL: &'static str;
}

/// Wraps a message with its type.
pub fn pack<T: Typed>(message: &T) -> Any {
    Any {
        type_url: T::URL.to_owned(),
        value: message.encode_to_vec(),
    }
}

/// Unwraps a message of type `T`; the error says what was wrong.
pub fn unpack<T: Typed>(any: &Any) -> Result<T, String> {
    if any.type_url != T::URL {
        return Err(format!("is a {:?}; expected {}", any.type_url, T::URL));
    }
    T::decode(any.value.as_slice()).map_err(|error| format!("is no valid {}: {error}", T::URL))
}

macro_rules! typed {
    ($($message:ty => $url:literal),* $(,)?) => {
        $(impl Typed for $message {
            const URL: &'static str = $url;
        })*
    };
}

typed! {
    cluster::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    endpoint::ClusterLoadAssignment =>
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    endpoint::LbEndpointList =>
        "type.googleapis.com/envoy.config.endpoint.v3.LocalityLbEndpoints.LbEndpointList",
    listener::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
    fairlead::Import => "type.fairlead.dev/fairlead.v1.Import",
    filter::TcpProxy =>
        "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    filter::UdpProxyConfig =>
        "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
    filter::UdpRoute => "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route",
    filter::ProxyProtocol =>
        "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    filter::TlsInspector =>
        "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    filter::ProxyProtocolUpstreamTransport =>
        "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    filter::RawBuffer =>
        "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    filter::HttpProtocolOptions =>
        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
}
