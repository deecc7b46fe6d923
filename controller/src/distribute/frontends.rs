//! Where a group's clients connect: the ports it wants for a service, and the frontends on those given.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_api::{
    proxy::PortRange,
    service::{FrontendSpec, MultiClusterService},
};
use fairlead_config::{
    frontend::{AcceptProxy, AcceptedVersions, Frontend, Protocol, SniPattern},
    name::FrontendName,
};

use crate::{
    ports::{self, WantedPort},
    services::{Import, UnionPort},
    world::{ServiceKey, matches_pattern},
};

use super::{BackendPort, View, protocol_of};

/// The frontends a group should have for a service, and those that cannot be, with the reason.
pub fn wanted(
    key: &ServiceKey,
    import: Option<&Import>,
    policy: Option<&MultiClusterService>,
    view: &View,
) -> (Vec<WantedPort>, Vec<String>) {
    let mut wanted: BTreeMap<(String, Protocol), WantedPort> = BTreeMap::new();
    let mut problems = Vec::new();
    let unions = import.map_or(&[][..], |import| &import.ports[..]);
    let pattern = view
        .services
        .iter()
        .any(|pattern| matches_pattern(pattern, key));
    for union in unions {
        let Some(protocol) = protocol_of(union) else {
            continue;
        };
        let service = format!("{key}:{}", union.port.label());
        let asked = policy.into_iter().flat_map(|policy| view.asked(policy));
        let mut asked = asked.filter(|frontend| concerns(frontend, &union.port.label(), union));
        let first = asked.next();
        if asked.next().is_some() {
            problems.push(format!(
                "two frontends of proxy group {} name port {}; the first counts",
                view.group,
                union.port.label()
            ));
        }
        if first.is_none() && !pattern {
            continue;
        }
        let want = WantedPort {
            service: service.clone(),
            protocol,
            service_port: u16::try_from(union.port.port).expect("checked by aggregate"),
            listen_port: first
                .and_then(|frontend| frontend.listen_port)
                .and_then(|port| u16::try_from(port).ok()),
            shared: first.is_some_and(|frontend| !frontend.sni.is_empty()),
        };
        wanted.insert((service, protocol), want);
    }
    for frontend in policy.into_iter().flat_map(|policy| view.asked(policy)) {
        let found = unions.iter().any(|union| {
            protocol_of(union).is_some() && concerns(frontend, &union.port.label(), union)
        });
        if let Some(port) = frontend
            .port
            .as_ref()
            .filter(|_| !found && import.is_some())
        {
            problems.push(format!("the import has no TCP or UDP port {port}"));
        }
    }
    (wanted.into_values().collect(), problems)
}

/// Whether the group's allocations are exactly what this service wants of it, so that nothing has
/// to be allocated anew.
pub fn is_settled(key: &ServiceKey, wanted: &[WantedPort], view: &View, range: PortRange) -> bool {
    let prefix = format!("{key}:");
    let first = (prefix.clone(), Protocol::Tcp);
    let theirs = view
        .allocated
        .range(first..)
        .take_while(|((service, _), _)| service.starts_with(&prefix))
        .count();
    theirs == wanted.len()
        && wanted.iter().all(|want| {
            let port = view.allocated.get(&(want.service.clone(), want.protocol));
            port.is_some_and(|port| ports::fits(want, *port, range))
        })
}

/// A frontend's address in status.
pub fn allocated_port(view: &View, port: &str, protocol: Protocol) -> Option<u16> {
    view.allocated.get(&(port.to_owned(), protocol)).copied()
}

/// The frontends of one port, on the port that the group was given for it; none without.
pub(super) fn of_port(
    policy: Option<&MultiClusterService>,
    port: &BackendPort,
    view: &View,
) -> Vec<Frontend> {
    let at = (port.name.as_str().to_owned(), port.protocol);
    let Some(number) = view.allocated.get(&at) else {
        return Vec::new();
    };
    let label = port.name.parts().2;
    let asked = policy.into_iter().flat_map(|policy| view.asked(policy));
    let spec = asked
        .into_iter()
        .find(|frontend| match frontend.port.as_deref() {
            None => true,
            Some(wanted) => wanted == label || wanted == port.number.to_string(),
        });
    let listen: BTreeSet<IpAddr> = view.listen.iter().copied().collect();
    let listen = listen.into_iter();
    listen
        .filter_map(|ip| frontend(port, ip, *number, spec))
        .collect()
}

fn frontend(
    port: &BackendPort,
    ip: IpAddr,
    number: u16,
    spec: Option<&FrontendSpec>,
) -> Option<Frontend> {
    let name = format!("{}/{}@{ip}", port.name, port.protocol.as_str());
    let networks = |all: &[String]| all.iter().filter_map(|text| text.parse().ok()).collect();
    let proxies: Vec<_> = spec.map_or_else(Vec::new, |spec| networks(&spec.proxy_protocol_from));
    let sni = spec.map_or(&[][..], |spec| &spec.sni[..]).iter();
    Some(Frontend {
        name: FrontendName::parse(&name).ok()?,
        protocol: port.protocol,
        ip,
        ports: number..=number,
        service: port.name.clone(),
        sni: sni.map(|text| sni_pattern(text)).collect(),
        allow: spec.map_or_else(Vec::new, |spec| networks(&spec.allow)),
        proxy_protocol: (!proxies.is_empty()).then_some(AcceptProxy {
            versions: AcceptedVersions::Any,
            from: proxies,
        }),
    })
}

fn concerns(frontend: &FrontendSpec, label: &str, union: &UnionPort) -> bool {
    match frontend.port.as_deref() {
        None => true,
        Some(port) => port == label || port == union.port.port.to_string(),
    }
}

fn sni_pattern(text: &str) -> SniPattern {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix("*.") {
        Some(suffix) => SniPattern::Suffix(suffix.to_owned()),
        None => SniPattern::Exact(text),
    }
}
