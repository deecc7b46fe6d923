//! `envoy.config.listener.v3`: where clients connect.

use prost::Message;

use super::{
    Any, Duration,
    core::{Address, CidrRange, Metadata},
};

/// `Listener`. Ours: the frontends on one address and port, or one range of ports.
#[derive(Clone, PartialEq, Message)]
pub struct Listener {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub address: Option<Address>,
    #[prost(message, repeated, tag = "3")]
    pub filter_chains: Vec<FilterChain>,
    #[prost(message, optional, tag = "6")]
    pub metadata: Option<Metadata>,
    #[prost(message, repeated, tag = "9")]
    pub listener_filters: Vec<ListenerFilter>,
    #[prost(message, optional, tag = "15")]
    pub listener_filters_timeout: Option<Duration>,
    #[prost(message, optional, tag = "18")]
    pub udp_listener_config: Option<UdpListenerConfig>,
    #[prost(message, optional, tag = "25")]
    pub default_filter_chain: Option<FilterChain>,
    #[prost(string, tag = "28")]
    pub stat_prefix: String,
    #[prost(message, repeated, tag = "33")]
    pub additional_addresses: Vec<AdditionalAddress>,
}

/// `AdditionalAddress`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AdditionalAddress {
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
}

/// `FilterChain`. Ours: one frontend.
#[derive(Clone, PartialEq, Message)]
pub struct FilterChain {
    #[prost(message, optional, tag = "1")]
    pub filter_chain_match: Option<FilterChainMatch>,
    #[prost(message, repeated, tag = "3")]
    pub filters: Vec<Filter>,
    #[prost(message, optional, tag = "5")]
    pub metadata: Option<Metadata>,
    #[prost(message, optional, tag = "6")]
    pub transport_socket: Option<super::core::TransportSocket>,
    #[prost(string, tag = "7")]
    pub name: String,
}

/// `FilterChainMatch`. What we can't match is read too, so that it can be refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FilterChainMatch {
    #[prost(message, optional, tag = "8")]
    pub destination_port: Option<u32>,
    #[prost(message, repeated, tag = "3")]
    pub prefix_ranges: Vec<CidrRange>,
    #[prost(message, repeated, tag = "13")]
    pub direct_source_prefix_ranges: Vec<CidrRange>,
    #[prost(int32, tag = "12")]
    pub source_type: i32,
    #[prost(message, repeated, tag = "6")]
    pub source_prefix_ranges: Vec<CidrRange>,
    #[prost(uint32, repeated, tag = "7")]
    pub source_ports: Vec<u32>,
    #[prost(string, repeated, tag = "11")]
    pub server_names: Vec<String>,
    #[prost(string, tag = "9")]
    pub transport_protocol: String,
    #[prost(string, repeated, tag = "10")]
    pub application_protocols: Vec<String>,
}

/// `Filter`.
#[derive(Clone, PartialEq, Message)]
pub struct Filter {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "4")]
    pub typed_config: Option<Any>,
}

/// `ListenerFilter`.
#[derive(Clone, PartialEq, Message)]
pub struct ListenerFilter {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub typed_config: Option<Any>,
}

/// `UdpListenerConfig`; its presence makes raw UDP of a listener.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UdpListenerConfig {}
