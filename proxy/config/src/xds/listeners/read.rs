//! Reading `Listener`s, ours and others'.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use prost_types::Struct;

use crate::{
    frontend::{AcceptProxy, AcceptedVersions, Frontend, Protocol, SniPattern},
    name::{FrontendName, ServiceName},
    rule,
    xds::{
        endpoints::{port_of, socket_address},
        ours,
        proto::{
            Any, Typed,
            core::{Address, CidrRange, ProxyProtocolVersion, SocketProtocol},
            filter::{
                ClusterSpecifier, ProxyProtocol, TcpProxy, TlsInspector, UdpProxyConfig, UdpRoute,
                UdpRouteSpecifier,
            },
            listener::{FilterChain, FilterChainMatch, Listener},
            unpack,
        },
        text_at,
    },
    yaml::metadata::{Fault, FrontendExtras, frontend_extras},
};

/// Reads the frontends of a Listener; one fault refuses it as a whole.
pub(in crate::xds) fn read(listener: &Listener) -> Result<Vec<Frontend>, Vec<Fault>> {
    let mut reader = Reader {
        faults: Vec::new(),
        frontends: Vec::new(),
    };
    reader.listener(listener);
    if reader.faults.is_empty() {
        Ok(reader.frontends)
    } else {
        Err(reader.faults)
    }
}

struct Reader {
    faults: Vec<Fault>,
    frontends: Vec<Frontend>,
}

/// Where a Listener listens; more than once with additional addresses.
struct Place {
    protocol: Protocol,
    ip: IpAddr,
    ports: RangeInclusive<u16>,
}

impl Reader {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push((field.to_owned(), message.into()));
    }

    /// The value, or `None` with the fault noted.
    fn check<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.fault(field, message)).ok()
    }

    fn listener(&mut self, listener: &Listener) {
        let extras = ours(listener.metadata.as_ref());
        let Some(places) = self.places(listener, extras) else {
            return;
        };
        for (index, place) in places.iter().enumerate() {
            // The first address has the plain names, which is what our own Listeners have.
            let suffix = match index {
                0 => String::new(),
                _ => format!("@{}", SocketAddr::new(place.ip, *place.ports.start())),
            };
            match place.protocol {
                Protocol::Tcp => self.tcp(listener, place, &suffix),
                Protocol::Udp => self.udp(listener, place, &suffix),
            }
        }
    }

    fn places(&mut self, listener: &Listener, extras: Option<&Struct>) -> Option<Vec<Place>> {
        let first = self.check("address", place(listener.address.as_ref()));
        let mut places = vec![first?];
        if let Some(last) = extras.and_then(|extras| text_at(extras, "lastPort")) {
            let start = *places[0].ports.start();
            match last.parse() {
                Ok(last) if last >= start => places[0].ports = start..=last,
                _ => self.fault("metadata.lastPort", format!("{last:?} ends no range")),
            }
            return Some(places);
        }
        for (index, additional) in listener.additional_addresses.iter().enumerate() {
            let field = format!("additional_addresses[{index}]");
            places.extend(self.check(&field, place(additional.address.as_ref())));
        }
        Some(places)
    }

    fn tcp(&mut self, listener: &Listener, place: &Place, suffix: &str) {
        let accept = self.listener_filters(listener);
        let default = listener.default_filter_chain.iter();
        let chains: Vec<&FilterChain> = listener.filter_chains.iter().chain(default).collect();
        if chains.is_empty() {
            self.fault("filter_chains", "is empty; a TCP listener needs one");
        }
        let mut taken = BTreeSet::new();
        for (index, chain) in chains.iter().enumerate() {
            let field = format!("filter_chains[{index}]");
            let plain = match chains.len() {
                1 => listener.name.clone(),
                _ => format!("{}#{index}", listener.name),
            };
            let Some(mut frontend) = self.chain(chain, &field, place, (&plain, suffix)) else {
                continue;
            };
            if frontend.proxy_protocol.is_none() {
                frontend.proxy_protocol.clone_from(&accept);
            }
            let names = match frontend.sni.as_slice() {
                [] => vec![None],
                names => names.iter().cloned().map(Some).collect(),
            };
            for name in names {
                if !taken.insert(name) {
                    let message = "takes the server names of another chain; only server names \
                                   tell the chains of a listener apart";
                    self.fault(&field, message);
                }
            }
            self.frontends.push(frontend);
        }
    }

    fn chain(
        &mut self,
        chain: &FilterChain,
        field: &str,
        place: &Place,
        (plain, suffix): (&str, &str),
    ) -> Option<Frontend> {
        if chain.transport_socket.is_some() {
            let field = format!("{field}.transport_socket");
            self.fault(
                &field,
                "is not supported: TLS is passed through, not terminated",
            );
        }
        let none = FilterChainMatch::default();
        let found = chain.filter_chain_match.as_ref().unwrap_or(&none);
        let match_field = format!("{field}.filter_chain_match");
        let names = self.check(&match_field, server_names(found));
        let allow = self.check(&match_field, networks(&found.source_prefix_ranges));
        let service = match chain.filters.as_slice() {
            [filter] => tcp_service(filter.typed_config.as_ref()),
            _ => Err("must be exactly one tcp_proxy".to_owned()),
        };
        let service = self.check(&format!("{field}.filters"), service);
        let extras = ours(chain.metadata.as_ref());
        let (name, read) = self.extras(extras, field, (plain, suffix))?;
        Some(Frontend {
            name,
            protocol: Protocol::Tcp,
            ip: place.ip,
            ports: place.ports.clone(),
            service: service?,
            sni: names?,
            allow: allow?,
            proxy_protocol: read.proxy_protocol,
        })
    }

    fn udp(&mut self, listener: &Listener, place: &Place, suffix: &str) {
        let service = match listener.listener_filters.as_slice() {
            [filter] => udp_service(filter.typed_config.as_ref()),
            _ => Err("must be exactly one udp_proxy".to_owned()),
        };
        let service = self.check("listener_filters", service);
        if !listener.filter_chains.is_empty() {
            self.fault("filter_chains", "has no place in a UDP listener");
        }
        let extras = ours(listener.metadata.as_ref());
        let named = self.extras(extras, "metadata", (&listener.name, suffix));
        if let (Some(service), Some((name, extras))) = (service, named) {
            self.frontends.push(Frontend {
                name,
                protocol: Protocol::Udp,
                ip: place.ip,
                ports: place.ports.clone(),
                service,
                sni: Vec::new(),
                allow: extras.allow.unwrap_or_default(),
                proxy_protocol: None,
            });
        }
    }

    /// The frontend's name and what rides in metadata.
    fn extras(
        &mut self,
        extras: Option<&Struct>,
        field: &str,
        (plain, suffix): (&str, &str),
    ) -> Option<(FrontendName, FrontendExtras)> {
        let given = extras.and_then(|extras| text_at(extras, "frontend"));
        let name = format!("{}{suffix}", given.unwrap_or(plain));
        let name = FrontendName::parse(&name).map_err(|broken| broken.to_string());
        let name = self.check(field, name);
        let read = match extras.map(frontend_extras) {
            None => Some(FrontendExtras::default()),
            Some(Ok(read)) => Some(read),
            Some(Err(faults)) => {
                for (path, message) in faults {
                    self.fault(&format!("{field}.metadata.{path}"), message);
                }
                None
            }
        };
        Some((name?, read?))
    }

    /// What the filters before the chains ask of clients.
    fn listener_filters(&mut self, listener: &Listener) -> Option<AcceptProxy> {
        let mut accept = None;
        for (index, filter) in listener.listener_filters.iter().enumerate() {
            let field = format!("listener_filters[{index}]");
            match filter.typed_config.as_ref() {
                Some(any) if any.type_url == TlsInspector::URL => {}
                Some(any) if any.type_url == ProxyProtocol::URL => {
                    accept = self.check(&field, accepted(any));
                }
                _ => self.fault(
                    &field,
                    format!(
                        "{:?} is not supported, only proxy_protocol and tls_inspector",
                        filter.name
                    ),
                ),
            }
        }
        accept
    }
}

fn place(address: Option<&Address>) -> Result<Place, String> {
    let socket = socket_address(address)?;
    let port = port_of(socket)?;
    let ip = socket
        .address
        .parse::<IpAddr>()
        .map_err(|_| format!("{:?} is no IP address", socket.address))?;
    if ip.is_multicast() {
        return Err(format!("{ip} is a multicast address"));
    }
    if socket.ipv4_compat && ip.is_ipv6() {
        return Err("[::] takes no IPv4 clients here; add a listener on 0.0.0.0".to_owned());
    }
    let protocol = match SocketProtocol::try_from(socket.protocol) {
        Ok(SocketProtocol::Tcp) => Protocol::Tcp,
        Ok(SocketProtocol::Udp) => Protocol::Udp,
        Err(_) => return Err(format!("{} is no protocol", socket.protocol)),
    };
    Ok(Place {
        protocol,
        ip,
        ports: port..=port,
    })
}

fn server_names(found: &FilterChainMatch) -> Result<Vec<SniPattern>, String> {
    let supported = FilterChainMatch {
        server_names: found.server_names.clone(),
        source_prefix_ranges: found.source_prefix_ranges.clone(),
        transport_protocol: match found.transport_protocol.as_str() {
            "tls" if !found.server_names.is_empty() => "tls".to_owned(),
            _ => String::new(),
        },
        ..FilterChainMatch::default()
    };
    if *found != supported {
        return Err(
            "matches by more than server_names and source_prefix_ranges, which is all \
                    that is supported"
                .to_owned(),
        );
    }
    found
        .server_names
        .iter()
        .map(|name| rule::sni(name).map_err(|broken| format!("{name:?} {broken}")))
        .collect()
}

fn networks(ranges: &[CidrRange]) -> Result<Vec<IpNet>, String> {
    let network = |range: &CidrRange| {
        let wrong = || format!("{range:?} is no network");
        let ip: IpAddr = range.address_prefix.parse().map_err(|_| wrong())?;
        let length = u8::try_from(range.prefix_len.unwrap_or(0)).map_err(|_| wrong())?;
        // Envoy masks the rest, and so do we.
        IpNet::new(ip, length)
            .map(|network| network.trunc())
            .map_err(|_| wrong())
    };
    ranges.iter().map(network).collect()
}

fn tcp_service(config: Option<&Any>) -> Result<ServiceName, String> {
    let any = config.ok_or("has no typed_config")?;
    let proxy: TcpProxy = unpack(any)?;
    match proxy.cluster {
        Some(ClusterSpecifier::Cluster(name)) => service_name(&name),
        Some(ClusterSpecifier::Weighted(_)) => {
            Err("has weighted_clusters; give the members of one service weights".to_owned())
        }
        None => Err("names no cluster".to_owned()),
    }
}

fn udp_service(config: Option<&Any>) -> Result<ServiceName, String> {
    let any = config.ok_or("has no typed_config")?;
    let proxy: UdpProxyConfig = unpack(any)?;
    match proxy.route {
        Some(UdpRouteSpecifier::Cluster(name)) => service_name(&name),
        Some(UdpRouteSpecifier::Matcher(matcher)) => {
            if matcher.matcher_list.is_some() || matcher.matcher_tree.is_some() {
                return Err("has a matcher with conditions; only on_no_match is used".to_owned());
            }
            let action = matcher.on_no_match.and_then(|found| found.action);
            let route = action.and_then(|action| action.typed_config);
            let route: UdpRoute = unpack(&route.ok_or("has a matcher without an action")?)?;
            service_name(&route.cluster)
        }
        None => Err("names no cluster".to_owned()),
    }
}

fn service_name(name: &str) -> Result<ServiceName, String> {
    ServiceName::parse(name).map_err(|broken| format!("its cluster: {broken}"))
}

fn accepted(any: &Any) -> Result<AcceptProxy, String> {
    let filter: ProxyProtocol = unpack(any)?;
    if filter.allow_requests_without_proxy_protocol {
        return Err(
            "allow_requests_without_proxy_protocol is not supported: a client could \
                    state any source"
                .to_owned(),
        );
    }
    let refused =
        |version: ProxyProtocolVersion| filter.disallowed_versions.contains(&i32::from(version));
    let versions = match (
        refused(ProxyProtocolVersion::V1),
        refused(ProxyProtocolVersion::V2),
    ) {
        (false, false) => AcceptedVersions::Any,
        (false, true) => AcceptedVersions::V1,
        (true, false) => AcceptedVersions::V2,
        (true, true) => return Err("disallows both versions".to_owned()),
    };
    let everywhere = ["0.0.0.0/0", "::/0"];
    Ok(AcceptProxy {
        versions,
        from: everywhere
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect(),
    })
}
