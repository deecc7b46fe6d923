//! A file from its values, with every default written out.

use std::{fmt::Write, net::IpAddr, time::Duration};

use super::{
    Settings,
    frontend::{ACCEPTED, PROTOCOLS, write_sni},
    policy::{AFFINITIES, BALANCERS, ON_UNHEALTHY, PROXY_VERSIONS},
    service::STATES,
};
use crate::{
    endpoint::{Endpoint, Hop, Target},
    frontend::Frontend,
    policy::{AccessLog, HealthCheck, Limits, Policy, Probe, Timeouts},
    rule::write_duration,
    service::{Service, Tier},
    snapshot::{Endpoints, Snapshot},
};

/// Writes the file that says `settings` and `snapshot`.
///
/// [`parse`](super::parse) reads the same values back, provided that the snapshot has what a file
/// can say: frontends named `service#index`, of services that are there, and endpoints of members
/// that stand in a tier. Anything else is left out.
pub fn encode(settings: &Settings, snapshot: &Snapshot) -> String {
    let mut out = Text::default();
    if let Some(admin) = settings.admin {
        out.line(0, &format!("admin: {}", quoted(&admin.to_string())));
    }
    if let Some(workers) = settings.workers {
        out.line(0, &format!("workers: {workers}"));
    }
    if let Some(timeout) = settings.drain_timeout {
        out.line(0, &format!("drainTimeout: {}", write_duration(timeout)));
    }
    if let Some(delay) = settings.shutdown_delay {
        out.line(0, &format!("shutdownDelay: {}", write_duration(delay)));
    }
    let allow = settings.allow_mass_removal;
    out.line(0, &format!("allowMassRemoval: {allow}"));
    if snapshot.services.is_empty() {
        out.line(0, "services: []");
        return out.0;
    }
    out.line(0, "services:");
    let empty = Endpoints::new();
    for (name, service) in &snapshot.services {
        let endpoints = snapshot.endpoints.get(name).map_or(&empty, |row| row);
        out.service(snapshot, service, endpoints);
    }
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, indent: usize, text: &str) {
        writeln!(self.0, "{:indent$}{text}", "").expect("text has room");
    }

    fn service(&mut self, snapshot: &Snapshot, service: &Service, endpoints: &Endpoints) {
        let name = &service.name;
        self.line(2, &format!("- name: {}", quoted(name.as_str())));
        let mut any = false;
        for index in 0.. {
            let Some(frontend) = snapshot.frontends.get(format!("{name}#{index}").as_str()) else {
                break;
            };
            if !any {
                self.line(4, "frontends:");
                any = true;
            }
            self.line(6, &format!("- {}", frontend_map(frontend)));
        }
        self.policy(&service.policy);
        if service.tiers.is_empty() {
            self.line(4, "tiers: []");
            return;
        }
        self.line(4, "tiers:");
        for tier in &service.tiers {
            self.tier(tier, endpoints);
        }
    }

    fn tier(&mut self, tier: &Tier, endpoints: &Endpoints) {
        if tier.members.is_empty() {
            self.line(6, "- members: []");
            return;
        }
        self.line(6, "- members:");
        for member in &tier.members {
            self.line(10, &format!("- name: {}", quoted(member.name.as_str())));
            let weight = write_thousandths(member.weight.thousandths());
            self.line(12, &format!("weight: {weight}"));
            let mut any = false;
            for endpoint in endpoints.of_member(&member.name) {
                if !any {
                    self.line(12, "endpoints:");
                    any = true;
                }
                self.line(14, &format!("- {}", endpoint_map(endpoint)));
            }
        }
    }

    fn policy(&mut self, policy: &Policy) {
        self.line(4, "policy:");
        for (key, value) in policy_values(policy) {
            self.line(6, &format!("{key}: {value}"));
        }
    }
}

/// Each key of a policy with its value in flow style, in the order of the documentation.
pub(super) fn policy_values(policy: &Policy) -> Vec<(&'static str, String)> {
    let hedge = if policy.hedge { "on" } else { "off" };
    let (k, d) = (&policy.keepalive, &policy.drain);
    let keepalive = format!(
        "{{ idle: {}, interval: {}, probes: {} }}",
        write_duration(k.idle),
        write_duration(k.interval),
        k.probes
    );
    let drain = format!(
        "{{ draining: {}, removed: {}, unhealthy: {}, resetsPerSecond: {} }}",
        write_duration(d.draining),
        write_duration(d.removed),
        name_of(&ON_UNHEALTHY, &d.unhealthy),
        d.resets_per_second
    );
    let ejected = policy.passive.max_ejected;
    vec![
        ("balancer", name_of(&BALANCERS, &policy.balancer)),
        ("affinity", name_of(&AFFINITIES, &policy.affinity)),
        ("affinitySeed", policy.affinity_seed.to_string()),
        ("healthCheck", health_check(policy.health_check.as_ref())),
        ("spillFactor", write_thousandths(policy.spill_factor)),
        ("minHealthy", policy.min_healthy.to_string()),
        ("noFallback", policy.no_fallback.to_string()),
        ("panicBelow", format!("{}%", policy.panic_below)),
        ("returnAfter", write_duration(policy.return_after)),
        ("slowStart", write_duration(policy.slow_start)),
        ("passive", format!("{{ maxEjected: {ejected}% }}")),
        ("hedge", hedge.to_owned()),
        ("timeouts", timeouts(&policy.timeouts)),
        ("keepalive", keepalive),
        ("drain", drain),
        ("limits", limits(&policy.limits)),
        (
            "proxyProtocol",
            name_of(&PROXY_VERSIONS, &policy.proxy_protocol),
        ),
        ("accessLog", access_log(&policy.access_log)),
    ]
}

fn frontend_map(frontend: &Frontend) -> String {
    let ip = match frontend.ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let (first, last) = (frontend.ports.start(), frontend.ports.end());
    let ports = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    let protocol = name_of(&PROTOCOLS, &frontend.protocol);
    let address = quoted(&format!("{ip}:{ports}"));
    let mut text = format!("{{ protocol: {protocol}, address: {address}");
    if !frontend.sni.is_empty() {
        let names = list(frontend.sni.iter().map(write_sni));
        text.push_str(&format!(", sni: {names}"));
    }
    if !frontend.allow.is_empty() {
        let allow = list(frontend.allow.iter().map(ToString::to_string));
        text.push_str(&format!(", allow: {allow}"));
    }
    if let Some(accept) = &frontend.proxy_protocol {
        let versions = name_of(&ACCEPTED, &accept.versions);
        let from = list(accept.from.iter().map(ToString::to_string));
        text.push_str(&format!(
            ", proxyProtocol: {{ accept: {versions}, from: {from} }}"
        ));
    }
    text.push_str(" }");
    text
}

fn endpoint_map(endpoint: &Endpoint) -> String {
    let target = quoted(&endpoint.key.target.to_string());
    let key = match endpoint.key.target {
        Target::Addr(_) => "address",
        Target::Dns { .. } => "dns",
    };
    let weight = endpoint.weight;
    let mut text = format!("{{ {key}: {target}, weight: {weight}");
    if let Some(zone) = &endpoint.zone {
        text.push_str(&format!(", zone: {}", quoted(zone)));
    }
    text.push_str(&format!(", state: {}", name_of(&STATES, &endpoint.state)));
    if let Hop::Via(gateway) = &endpoint.hop {
        let name = quoted(&gateway.server_name);
        let gateway = quoted(&gateway.addr.to_string());
        text.push_str(&format!(
            ", hop: {{ via: {{ gateway: {gateway}, serverName: {name} }} }}"
        ));
    }
    text.push_str(" }");
    text
}

fn health_check(check: Option<&HealthCheck>) -> String {
    let Some(check) = check else {
        return "off".to_owned();
    };
    let exchange = |send: &[u8], expect: &[u8]| {
        format!("{{ send: {}, expect: {} }}", bytes(send), bytes(expect))
    };
    let probe = match &check.probe {
        Probe::Tcp { send, expect } => format!("tcp: {}", exchange(send, expect)),
        Probe::Udp { send, expect } => format!("udp: {}", exchange(send, expect)),
        Probe::Grpc { service } => format!("grpc: {{ service: {} }}", quoted(service)),
        Probe::Http {
            path,
            host,
            statuses,
        } => {
            let host = host
                .as_ref()
                .map_or_else(String::new, |host| format!(", host: {}", quoted(host)));
            let (first, last) = statuses;
            let path = quoted(path);
            format!("http: {{ path: {path}{host}, statuses: {first}-{last} }}")
        }
    };
    let port = check
        .port
        .map_or_else(String::new, |port| format!(", port: {port}"));
    format!(
        "{{ {probe}, interval: {}, timeout: {}, unhealthyAfter: {}, healthyAfter: {}{port} }}",
        write_duration(check.interval),
        write_duration(check.timeout),
        check.unhealthy_after,
        check.healthy_after
    )
}

fn timeouts(timeouts: &Timeouts) -> String {
    let or_off = |value: Option<Duration>| value.map_or_else(|| "off".to_owned(), write_duration);
    format!(
        "{{ connect: {}, idle: {}, udpIdle: {}, lifetime: {}, halfClosed: {}, user: {} }}",
        write_duration(timeouts.connect),
        or_off(timeouts.idle),
        write_duration(timeouts.udp_idle),
        or_off(timeouts.lifetime),
        or_off(timeouts.half_closed),
        or_off(timeouts.user)
    )
}

fn limits(limits: &Limits) -> String {
    let or_off = |value: Option<u32>| value.map_or_else(|| "off".to_owned(), |n| n.to_string());
    format!(
        "{{ connections: {}, connectionsPerClient: {}, connectionsPerEndpoint: {}, \
         newPerSecond: {}, newPerSecondPerClient: {}, flows: {} }}",
        or_off(limits.connections),
        or_off(limits.connections_per_client),
        or_off(limits.connections_per_endpoint),
        or_off(limits.new_per_second),
        or_off(limits.new_per_second_per_client),
        or_off(limits.flows)
    )
}

fn access_log(log: &AccessLog) -> String {
    match log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "stdout".to_owned(),
        AccessLog::File(path) => quoted(path),
    }
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> String {
    names
        .iter()
        .find(|(_, named)| named == value)
        .map(|(name, _)| (*name).to_owned())
        .expect("each table of names has every value of its type")
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// Text where it is printable, `{ hex: ... }` where not.
fn bytes(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).ok();
    if let Some(text) = text.filter(|text| !text.chars().any(char::is_control)) {
        return quoted(text);
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{{ hex: {} }}", quoted(&hex))
}

/// `1400` thousandths are `1.4`.
fn write_thousandths(value: u32) -> String {
    let (points, rest) = (value / 1000, value % 1000);
    if rest == 0 {
        return points.to_string();
    }
    format!("{points}.{rest:03}")
        .trim_end_matches('0')
        .to_owned()
}

/// A double-quoted scalar; everything but printable ASCII is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            ' '..='~' => out.push(char),
            other => write!(out, "\\U{:08X}", u32::from(other)).expect("text has room"),
        }
    }
    out.push('"');
    out
}
