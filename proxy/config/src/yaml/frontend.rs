//! The `frontends` of a service, and what two frontends must not share.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use super::{
    field::{At, Fields, shown},
    report::Report,
    scalar::networks,
    tree::Mark,
};
use crate::{
    frontend::{AcceptProxy, AcceptedVersions, Frontend, Protocol, SniPattern},
    name::{FrontendName, ServiceName},
    rule,
};

/// A frontend, and where it stands.
pub(super) struct Placed {
    pub(super) frontend: Frontend,
    pub(super) mark: Mark,
    pub(super) path: String,
}

/// Reads one frontend, named `service#index`.
pub(super) fn frontend(
    at: At<'_>,
    report: &mut Report,
    service: &ServiceName,
    index: usize,
) -> Option<Frontend> {
    let known = ["protocol", "address", "sni", "allow", "proxyProtocol"];
    let fields = Fields::open(at, report, &known)?;
    let protocol = fields.required("protocol", report, |at, report| {
        at.choice(report, &PROTOCOLS)
    });
    let address = fields.required("address", report, listen_address);
    let sni = fields.optional("sni", report, server_names);
    let allow = fields.optional("allow", report, networks);
    let proxy_protocol = fields.optional("proxyProtocol", report, accept_proxy);
    if protocol == Some(Protocol::Udp) {
        for key in ["sni", "proxyProtocol"] {
            fields.optional(key, report, |at, report| {
                at.fault(report, "works on TCP frontends only");
                None::<()>
            });
        }
    }
    let (ip, ports) = address?;
    Some(Frontend {
        name: FrontendName::parse(&format!("{service}#{index}")).ok()?,
        protocol: protocol?,
        ip,
        ports,
        service: service.clone(),
        sni: sni.unwrap_or_default(),
        allow: allow.unwrap_or_default(),
        proxy_protocol,
    })
}

/// Reports frontends that would take each other's clients: same protocol and address, a port in
/// common, and a server name in common or none in both. O(n log n) in frontends and server names.
pub(super) fn check_overlaps(frontends: &[Placed], report: &mut Report) {
    type Key<'f> = (Protocol, IpAddr, Option<&'f SniPattern>);
    let mut groups: BTreeMap<Key<'_>, Vec<&Placed>> = BTreeMap::new();
    for placed in frontends {
        let frontend = &placed.frontend;
        let mut put = |sni| {
            let key = (frontend.protocol, frontend.ip, sni);
            groups.entry(key).or_default().push(placed);
        };
        if frontend.sni.is_empty() {
            put(None);
        } else {
            frontend.sni.iter().for_each(|sni| put(Some(sni)));
        }
    }
    for ((protocol, ip, sni), mut group) in groups {
        group.sort_by_key(|placed| *placed.frontend.ports.start());
        // Of all so far, the one that reaches furthest.
        let mut furthest: Option<&Placed> = None;
        for placed in group {
            if let Some(other) = furthest
                && other.frontend.ports.end() >= placed.frontend.ports.start()
            {
                let port = placed.frontend.ports.start();
                let addr = SocketAddr::new(ip, *port);
                let sni = sni.map_or_else(String::new, |sni| format!(" for {}", write_sni(sni)));
                let (first, second) = in_file_order(other, placed);
                let message = format!(
                    "takes {}/{addr}{sni}, which {} in line {} takes already",
                    protocol.as_str(),
                    first.path,
                    first.mark.line
                );
                report.placed(second.mark, second.path.clone(), message);
            }
            if furthest.is_none_or(|other| other.frontend.ports.end() < placed.frontend.ports.end())
            {
                furthest = Some(placed);
            }
        }
    }
}

/// Reports frontends on one address that differ in PROXY protocol: its header comes before the
/// server name that would tell them apart. O(n log n).
pub(super) fn check_preambles(frontends: &[Placed], report: &mut Report) {
    let mut sorted: Vec<&Placed> = frontends.iter().collect();
    let address = |placed: &Placed| {
        let frontend = &placed.frontend;
        (frontend.protocol, frontend.ip, *frontend.ports.start())
    };
    sorted.sort_by_key(|placed| address(placed));
    let mut furthest: Option<&Placed> = None;
    for placed in sorted {
        let (frontend, other) = (&placed.frontend, furthest.map(|placed| &placed.frontend));
        let same = other.filter(|other| {
            (other.protocol, other.ip) == (frontend.protocol, frontend.ip)
                && other.ports.end() >= frontend.ports.start()
        });
        if same.is_some_and(|other| other.proxy_protocol != frontend.proxy_protocol) {
            let message = "differs in proxyProtocol from another frontend on this address; \
                           the header comes before the server name, so they must agree";
            report.placed(placed.mark, placed.path.clone(), message.to_owned());
        }
        if same.is_none_or(|other| other.ports.end() < frontend.ports.end()) {
            furthest = Some(placed);
        }
    }
}

/// `IP:PORT` or `IP:FIRST-LAST`.
pub(super) fn parse_listen_address(text: &str) -> Option<(IpAddr, RangeInclusive<u16>)> {
    let (ip, ports) = text.rsplit_once(':')?;
    let ip = match ip.strip_prefix('[') {
        Some(v6) => IpAddr::V6(v6.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(ip.parse().ok()?),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first != 0 && first <= last).then_some((ip, first..=last))
}

/// As a file writes it.
pub(super) fn write_sni(sni: &SniPattern) -> String {
    match sni {
        SniPattern::Exact(name) => name.clone(),
        SniPattern::Suffix(suffix) => format!("*.{suffix}"),
    }
}

fn listen_address(at: At<'_>, report: &mut Report) -> Option<(IpAddr, RangeInclusive<u16>)> {
    let text = at.text(report, "an address such as 0.0.0.0:8443")?;
    let parsed = parse_listen_address(text).ok_or(
        "is no address with a port or a range of ports; \
         use for example 0.0.0.0:8443, [::]:8443 or 10.0.0.1:8000-8010",
    );
    let (ip, ports) = at.check(report, parsed)?;
    if ip.is_multicast() {
        at.fault(report, format!("{ip} is a multicast address"));
    }
    Some((ip, ports))
}

fn server_names(at: At<'_>, report: &mut Report) -> Option<Vec<SniPattern>> {
    let mut names: Vec<SniPattern> = Vec::new();
    at.list(report, |at, report| {
        let text = at.text(report, "a server name such as a.example or *.example")?;
        let name = at.check(report, rule::sni(text))?;
        if names.len() < SNI_MAX && names.contains(&name) {
            at.fault(report, format!("{} stands here twice", shown(text)));
        } else {
            names.push(name);
        }
        Some(())
    })?;
    if at.is_empty_list() {
        at.fault(report, "is empty; name servers, or leave the key out");
    }
    if names.len() > SNI_MAX {
        at.fault(report, format!("has more than {SNI_MAX} server names"));
    }
    Some(names)
}

pub(super) fn accept_proxy(at: At<'_>, report: &mut Report) -> Option<AcceptProxy> {
    let fields = Fields::open(at, report, &["accept", "from"])?;
    let versions = fields.optional("accept", report, |at, report| at.choice(report, &ACCEPTED));
    let from = fields.required("from", report, networks)?;
    Some(AcceptProxy {
        versions: versions.unwrap_or(AcceptedVersions::Any),
        from,
    })
}

fn in_file_order<'p>(left: &'p Placed, right: &'p Placed) -> (&'p Placed, &'p Placed) {
    if left.mark <= right.mark {
        (left, right)
    } else {
        (right, left)
    }
}

pub(super) const PROTOCOLS: [(&str, Protocol); 2] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

pub(super) const ACCEPTED: [(&str, AcceptedVersions); 3] = [
    ("any", AcceptedVersions::Any),
    ("v1", AcceptedVersions::V1),
    ("v2", AcceptedVersions::V2),
];

/// Server names of one frontend; each is compared with all others.
const SNI_MAX: usize = 1000;
