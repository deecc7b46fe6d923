//! The contestants' configurations: one worker each, the same three routes, the settings that serve
//! each best.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use super::{FRONT_ECHO, FRONT_SINK, FRONT_UDP};
use crate::load::server::{ECHO_PORT, SINK_PORT, UDP_PORT};

/// Where the proxy listens and where the servers are.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) front: Ipv4Addr,
    pub(super) back: Ipv4Addr,
    /// A second endpoint of the echo service, in trials.
    pub(super) second: Option<SocketAddrV4>,
    /// So that a reload has something to change.
    pub(super) weight: u32,
}

impl Addresses {
    /// `listen=backend`.
    pub(super) fn route(self, front: u16, back: u16) -> String {
        format!("{}:{front}={}:{back}", self.front, self.back)
    }

    /// The endpoints behind a front port, as `write` puts each.
    fn endpoints(self, port: u16, write: impl Fn(SocketAddrV4) -> String) -> String {
        let first = SocketAddrV4::new(self.back, port);
        let second = self.second.filter(|_| port == ECHO_PORT);
        std::iter::once(first).chain(second).map(write).collect()
    }
}

pub(super) fn fairlead(addresses: Addresses) -> String {
    let Addresses { front, weight, .. } = addresses;
    let service = |name: &str, protocol: &str, listen: u16, port: u16| {
        let endpoints = addresses.endpoints(port, |to| {
            format!("{{ address: \"{to}\", weight: {weight} }}, ")
        });
        format!(
            "  - name: bench/{name}:{name}\n    frontends: [ {{ protocol: {protocol}, address: \"{front}:{listen}\" }} ]\n    tiers: [ {{ members: [ {{ name: one, endpoints: [ {endpoints} ] }} ] }} ]\n"
        )
    };
    format!(
        "admin: 127.0.0.1:9900\nworkers: 1\nservices:\n{}{}{}",
        service("echo", "tcp", FRONT_ECHO, ECHO_PORT),
        service("sink", "tcp", FRONT_SINK, SINK_PORT),
        service("udp", "udp", FRONT_UDP, UDP_PORT),
    )
}

pub(super) fn haproxy(addresses: Addresses) -> String {
    let Addresses { front, weight, .. } = addresses;
    let listen = |name: &str, from: u16, port: u16| {
        let servers = addresses.endpoints(port, |to| {
            format!("  server s{} {to} weight {weight}\n", to.ip().octets()[3])
        });
        format!("listen {name}\n  bind {front}:{from}\n{servers}")
    };
    format!(
        "global\n  nbthread 1\n  maxconn 6000\n  tune.pipesize 262144\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  retries 3\n  option redispatch 1\n  option splice-request\n  option splice-response\n\
         {}{}",
        listen("echo", FRONT_ECHO, ECHO_PORT),
        listen("sink", FRONT_SINK, SINK_PORT),
    )
}

pub(super) fn nginx(addresses: Addresses, folder: &Path) -> String {
    let Addresses { front, weight, .. } = addresses;
    let server = |from: u16, udp: &str, port: u16| {
        let servers = addresses.endpoints(port, |to| format!("server {to} weight={weight}; "));
        format!(
            "  upstream u{from} {{ {servers}}}\n  server {{ listen {front}:{from}{udp}; proxy_pass u{from}; }}\n"
        )
    };
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\nworker_rlimit_nofile 20000;\nerror_log stderr error;\npid {}/pid;\n\
         events {{ worker_connections 19000; }}\n\
         stream {{\n  proxy_buffer_size 64k;\n  proxy_timeout 1h;\n  proxy_connect_timeout 5s;\n  access_log off;\n{}{}{}}}\n",
        folder.display(),
        server(FRONT_ECHO, "", ECHO_PORT),
        server(FRONT_SINK, "", SINK_PORT),
        server(FRONT_UDP, " udp", UDP_PORT),
    )
}

pub(super) fn envoy(addresses: Addresses) -> String {
    let tcp = |name: &str, port: u16| {
        envoy_listener(
            addresses.front,
            name,
            port,
            "TCP",
            &format!(
                "    filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          stat_prefix: {name}\n          cluster: {name}\n          max_connect_attempts: 3\n"
            ),
        )
    };
    let udp = envoy_listener(
        addresses.front,
        "udp",
        FRONT_UDP,
        "UDP",
        "    udp_listener_config: { downstream_socket_config: { prefer_gro: true } }\n    listener_filters:\n    - name: envoy.filters.udp_listener.udp_proxy\n      typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig\n        stat_prefix: udp\n        matcher:\n          on_no_match:\n            action:\n              name: route\n              typed_config:\n                \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route\n                cluster: udp\n        upstream_socket_config: { prefer_gro: true }\n",
    );
    let cluster = |name: &str, port: u16| {
        let endpoints = addresses.endpoints(port, |to| {
            let (ip, port) = (to.ip(), to.port());
            format!("{{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }}, ")
        });
        format!(
            "  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n    circuit_breakers: {{ thresholds: [ {{ max_connections: 100000, max_pending_requests: 100000 }} ] }}\n    load_assignment:\n      cluster_name: {name}\n      endpoints: [ {{ lb_endpoints: [ {endpoints} ] }} ]\n"
        )
    };
    format!(
        "static_resources:\n  listeners:\n{}{}{udp}  clusters:\n{}{}{}",
        tcp("echo", FRONT_ECHO),
        tcp("sink", FRONT_SINK),
        cluster("echo", ECHO_PORT),
        cluster("sink", SINK_PORT),
        cluster("udp", UDP_PORT),
    )
}

fn envoy_listener(ip: Ipv4Addr, name: &str, port: u16, protocol: &str, rest: &str) -> String {
    format!(
        "  - name: {name}\n    address: {{ socket_address: {{ protocol: {protocol}, address: {ip}, port_value: {port} }} }}\n{rest}"
    )
}
