//! Frontends as `Listener`s, and back.
//!
//! Frontends that differ only in their server names share an address, and so one Listener: a filter
//! chain each. A frontend's own name rides in metadata; another control plane's Listener becomes
//! frontends named after it.

use std::net::SocketAddr;

use ipnet::IpNet;
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::{
    endpoints::address,
    metadata,
    policy::encode_duration,
    proto::{
        Any,
        core::{CidrRange, ProxyProtocolVersion, SocketProtocol},
        filter::{
            ClusterSpecifier, HashPolicy, Matcher, OnMatch, ProxyProtocol, SourceIp, TcpProxy,
            TlsInspector, TypedExtensionConfig, UdpHashPolicy, UdpHashSpecifier, UdpProxyConfig,
            UdpRoute, UdpRouteSpecifier,
        },
        listener::{
            AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
            UdpListenerConfig,
        },
        pack,
    },
    text,
};
use crate::{
    frontend::{AcceptProxy, AcceptedVersions, Frontend, PREAMBLE_TIMEOUT, Protocol, SniPattern},
    policy::{Affinity, Policy},
};

mod read;

pub(super) use read::read;

/// The name of the Listener that a frontend belongs to, for example `tcp/127.0.0.1:8443`.
pub fn listener_name(frontend: &Frontend) -> String {
    let (first, last) = (frontend.ports.start(), frontend.ports.end());
    let first_addr = SocketAddr::new(frontend.ip, *first);
    let protocol = frontend.protocol.as_str();
    if first == last {
        format!("{protocol}/{first_addr}")
    } else {
        format!("{protocol}/{first_addr}-{last}")
    }
}

/// The Listener of frontends with one [`listener_name`]; `None` when there are none.
///
/// `policy` looks up the policy of a frontend's service, for what Envoy has on its Listener:
/// timeouts and the hash policy. Our own proxy takes these from the Cluster.
pub fn listener<'p>(
    name: &str,
    frontends: &[&Frontend],
    policy: impl Fn(&Frontend) -> Option<&'p Policy>,
) -> Option<Listener> {
    let first = *frontends.first()?;
    let (start, end) = (*first.ports.start(), *first.ports.end());
    let protocol = match first.protocol {
        Protocol::Tcp => SocketProtocol::Tcp,
        Protocol::Udp => SocketProtocol::Udp,
    };
    let addr = |port| Some(address(SocketAddr::new(first.ip, port), protocol));
    let mut extras = Struct::default();
    if end > start {
        extras
            .fields
            .insert("lastPort".to_owned(), text(end.to_string()));
    }
    let others = (start..end).map(|port| port + 1).take(ADDITIONAL_MAX);
    let mut listener = Listener {
        name: name.to_owned(),
        address: addr(start),
        additional_addresses: others
            .map(|port| AdditionalAddress {
                address: addr(port),
            })
            .collect(),
        stat_prefix: stat_prefix(name),
        ..Listener::default()
    };
    match first.protocol {
        Protocol::Tcp => {
            listener.filter_chains = frontends
                .iter()
                .map(|frontend| filter_chain(frontend, policy(frontend)))
                .collect();
            listener.listener_filters = listener_filters(frontends);
            let timeout = (!listener.listener_filters.is_empty()).then_some(PREAMBLE_TIMEOUT);
            listener.listener_filters_timeout = timeout.and_then(encode_duration);
        }
        Protocol::Udp => {
            extras.fields.extend(frontend_extras(first).fields);
            listener.udp_listener_config = Some(UdpListenerConfig {});
            listener.listener_filters = vec![udp_proxy(first, policy(first))];
        }
    }
    listener.metadata = metadata(extras);
    Some(listener)
}

fn filter_chain(frontend: &Frontend, policy: Option<&Policy>) -> FilterChain {
    let found = FilterChainMatch {
        server_names: frontend.sni.iter().map(write_sni).collect(),
        source_prefix_ranges: frontend.allow.iter().map(cidr).collect(),
        ..FilterChainMatch::default()
    };
    FilterChain {
        filter_chain_match: (found != FilterChainMatch::default()).then_some(found),
        filters: vec![Filter {
            name: "envoy.filters.network.tcp_proxy".to_owned(),
            typed_config: Some(tcp_proxy(frontend, policy)),
        }],
        metadata: metadata(frontend_extras(frontend)),
        transport_socket: None,
        name: frontend.name.as_str().to_owned(),
    }
}

fn tcp_proxy(frontend: &Frontend, policy: Option<&Policy>) -> Any {
    let service = frontend.service.as_str();
    let timeouts = policy.map(|policy| policy.timeouts);
    // Zero is off for Envoy; absent would be an hour.
    let idle = timeouts.map(|timeouts| timeouts.idle.unwrap_or_default());
    let lifetime = timeouts.and_then(|timeouts| timeouts.lifetime);
    let affinity = policy.is_some_and(|policy| policy.affinity != Affinity::None);
    pack(&TcpProxy {
        stat_prefix: stat_prefix(service),
        cluster: Some(ClusterSpecifier::Cluster(service.to_owned())),
        max_connect_attempts: Some(CONNECT_ATTEMPTS),
        idle_timeout: idle.and_then(encode_duration),
        hash_policy: affinity
            .then_some(HashPolicy {
                source_ip: Some(SourceIp {}),
            })
            .into_iter()
            .collect(),
        max_downstream_connection_duration: lifetime.and_then(encode_duration),
    })
}

fn udp_proxy(frontend: &Frontend, policy: Option<&Policy>) -> ListenerFilter {
    let service = frontend.service.as_str();
    let idle = policy.map(|policy| policy.timeouts.udp_idle);
    let affinity = policy.is_some_and(|policy| policy.affinity != Affinity::None);
    let route = TypedExtensionConfig {
        name: "route".to_owned(),
        typed_config: Some(pack(&UdpRoute {
            cluster: service.to_owned(),
        })),
    };
    let config = UdpProxyConfig {
        stat_prefix: stat_prefix(service),
        route: Some(UdpRouteSpecifier::Matcher(Matcher {
            on_no_match: Some(OnMatch {
                action: Some(route),
            }),
            ..Matcher::default()
        })),
        idle_timeout: idle.and_then(encode_duration),
        hash_policies: affinity
            .then_some(UdpHashPolicy {
                specifier: Some(UdpHashSpecifier::SourceIp(true)),
            })
            .into_iter()
            .collect(),
    };
    ListenerFilter {
        name: "envoy.filters.udp_listener.udp_proxy".to_owned(),
        typed_config: Some(pack(&config)),
    }
}

/// The PROXY header comes before the TLS hello, and so does its filter.
fn listener_filters(frontends: &[&Frontend]) -> Vec<ListenerFilter> {
    let mut filters = Vec::new();
    if let Some(accept) = frontends.iter().find_map(|it| it.proxy_protocol.as_ref()) {
        let disallowed = match accept.versions {
            AcceptedVersions::V1 => vec![ProxyProtocolVersion::V2.into()],
            AcceptedVersions::V2 => vec![ProxyProtocolVersion::V1.into()],
            AcceptedVersions::Any => Vec::new(),
        };
        filters.push(ListenerFilter {
            name: "envoy.filters.listener.proxy_protocol".to_owned(),
            typed_config: Some(pack(&ProxyProtocol {
                allow_requests_without_proxy_protocol: false,
                disallowed_versions: disallowed,
            })),
        });
    }
    if frontends.iter().any(|frontend| !frontend.sni.is_empty()) {
        filters.push(ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            typed_config: Some(pack(&TlsInspector {})),
        });
    }
    filters
}

/// What a chain or a UDP Listener has no field for.
fn frontend_extras(frontend: &Frontend) -> Struct {
    let mut extras = Struct::default();
    let name = text(frontend.name.as_str());
    extras.fields.insert("frontend".to_owned(), name);
    if frontend.protocol == Protocol::Udp && !frontend.allow.is_empty() {
        extras
            .fields
            .insert("allow".to_owned(), networks(&frontend.allow));
    }
    if let Some(accept) = &frontend.proxy_protocol {
        let value = accept_proxy(accept);
        extras.fields.insert("proxyProtocol".to_owned(), value);
    }
    extras
}

fn accept_proxy(accept: &AcceptProxy) -> Value {
    let versions = match accept.versions {
        AcceptedVersions::V1 => "v1",
        AcceptedVersions::V2 => "v2",
        AcceptedVersions::Any => "any",
    };
    let fields = [
        ("accept".to_owned(), text(versions)),
        ("from".to_owned(), networks(&accept.from)),
    ];
    Value {
        kind: Some(Kind::StructValue(Struct {
            fields: fields.into(),
        })),
    }
}

fn networks(networks: &[IpNet]) -> Value {
    let values = networks.iter().map(|network| text(network.to_string()));
    Value {
        kind: Some(Kind::ListValue(ListValue {
            values: values.collect(),
        })),
    }
}

fn cidr(network: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: network.addr().to_string(),
        prefix_len: Some(network.prefix_len().into()),
    }
}

fn write_sni(sni: &SniPattern) -> String {
    match sni {
        SniPattern::Exact(name) => name.clone(),
        SniPattern::Suffix(suffix) => format!("*.{suffix}"),
    }
}

/// Envoy splits statistics at dots and colons.
fn stat_prefix(name: &str) -> String {
    name.replace(['.', ':'], "_")
}

/// Ports of a range that an Envoy serves besides the first.
pub const ADDITIONAL_MAX: usize = 64;
/// As many as our own connect policy makes.
const CONNECT_ATTEMPTS: u32 = 6;
