//! Who answers behind a clusterset IP: the member's proxies where they serve a port, else the
//! endpoints that the hub told of.
//!
//! A port's clients go to the member's proxies when the proxy group has a frontend for it and a proxy
//! can be reached: a frontend on an address of its own always, a frontend on all addresses when one
//! of the pods of Service `fairlead-system/fairlead-proxy` is ready. While no proxy runs, the
//! endpoints that the proxies would have picked from stand in. Headless services have endpoints only.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_config::{
    endpoint::{ObjectState, Target},
    frontend::{Frontend, Protocol},
    name::ServiceName,
    xds::proto::fairlead::{Import, ImportPort, ImportType},
};

use super::{objects, observed::Observed};

/// One address behind an import, with the ports that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The member it is in.
    pub source: String,
    /// Where it is.
    pub ip: IpAddr,
    /// By the derived Service's port name: protocol and number.
    pub ports: BTreeMap<String, (String, u16)>,
    /// Takes clients.
    pub ready: bool,
    /// Answers, whether or not it should be sent clients.
    pub serving: bool,
    /// Goes away.
    pub terminating: bool,
    /// Its host name, of headless services.
    pub hostname: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Its node, of this member's proxies.
    pub node: Option<String>,
}

/// What was found for an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Ordered by member and address.
    pub backends: Vec<Backend>,
    /// Whether any of them is a proxy.
    pub by_proxies: bool,
    /// Ports that nobody serves although the hub told of no endpoints for them.
    pub unserved: Vec<String>,
    /// Backends beyond [`BACKENDS_MAX`].
    pub left_out: usize,
}

/// The backends of an import.
pub fn backends(observed: &Observed, member: &str, told: &Import) -> Served {
    let headless = told.r#type() == ImportType::Headless;
    let mut found = Found::default();
    let mut served = Served::default();
    for port in &told.ports {
        let name = objects::port_name(told, port);
        let service = service_of(told, port);
        let frontends = service.as_ref().and_then(|one| observed.frontends.get(one));
        let mut any = false;
        if !headless {
            for frontend in frontends.into_iter().flatten() {
                if frontend.protocol == protocol(port) && frontend.sni.is_empty() {
                    any |= found.proxies(observed, member, (&name, port), frontend);
                }
            }
            served.by_proxies |= any;
        }
        if any {
            continue;
        }
        any |= found.endpoints(told, (&name, port), headless);
        if let Some(service) = service.filter(|_| !any && !headless) {
            any |= found.behind(observed, &service, (&name, port));
        }
        let unasked = told.endpoints.is_empty() && !headless;
        if !any && unasked && frontends.is_none() {
            served.unserved.push(port_label(port));
        }
    }
    let mut all: Vec<Backend> = found.0.into_values().collect();
    served.left_out = all.len().saturating_sub(BACKENDS_MAX);
    all.truncate(BACKENDS_MAX);
    served.backends = all;
    served
}

/// By member, address and whether it is a proxy: a proxy's ports are not an endpoint's.
#[derive(Default)]
struct Found(BTreeMap<(String, IpAddr, bool), Backend>);

impl Found {
    /// The proxies behind a frontend; says whether any can be reached.
    fn proxies(
        &mut self,
        observed: &Observed,
        member: &str,
        (name, port): (&str, &ImportPort),
        frontend: &Frontend,
    ) -> bool {
        let number = *frontend.ports.start();
        let bare = |ip| Backend {
            source: member.to_owned(),
            ip,
            ports: BTreeMap::new(),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            zone: None,
            node: None,
        };
        if !frontend.ip.is_unspecified() {
            self.add(bare(frontend.ip), true, (name, port, number));
            return true;
        }
        let family = match frontend.ip {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(_) => "IPv6",
        };
        let slices = observed.pods.values();
        let slices = slices.filter(|slice| slice.address_type == family);
        let pods: Vec<Backend> = slices
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter_map(|pod| {
                let ip = pod.addresses.first()?.parse().ok()?;
                let said = pod.conditions.as_ref();
                let ready = said.and_then(|said| said.ready).unwrap_or(true);
                Some(Backend {
                    ready,
                    serving: said.and_then(|said| said.serving).unwrap_or(ready),
                    terminating: said.and_then(|said| said.terminating).unwrap_or(false),
                    zone: pod.zone.clone(),
                    node: pod.node_name.clone(),
                    ..bare(ip)
                })
            })
            .collect();
        if !pods.iter().any(|pod| pod.ready) {
            return false;
        }
        for pod in pods {
            self.add(pod, true, (name, port, number));
        }
        true
    }

    /// The endpoints of an import that expose a port.
    fn endpoints(
        &mut self,
        told: &Import,
        (name, port): (&str, &ImportPort),
        headless: bool,
    ) -> bool {
        let mut any = false;
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        for endpoint in &told.endpoints {
            let number = endpoint.ports.get(&port.name).copied();
            let number = number.and_then(|number| u16::try_from(number).ok());
            let (Some(number), Ok(ip)) = (number, endpoint.ip.parse()) else {
                continue;
            };
            any = true;
            let backend = Backend {
                source: endpoint.member.clone(),
                ip,
                ports: BTreeMap::new(),
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
                hostname: text(&endpoint.hostname).filter(|_| headless),
                zone: text(&endpoint.zone),
                node: None,
            };
            self.add(backend, false, (name, port, number));
        }
        any
    }

    /// The endpoints that proxies pick from.
    fn behind(
        &mut self,
        observed: &Observed,
        service: &ServiceName,
        (name, port): (&str, &ImportPort),
    ) -> bool {
        let mut any = false;
        for row in observed
            .behind
            .get(service)
            .into_iter()
            .flat_map(|rows| rows.values())
        {
            let Target::Addr(addr) = row.key.target else {
                continue;
            };
            any = true;
            let backend = Backend {
                source: row.key.member.to_string(),
                ip: addr.ip(),
                ports: BTreeMap::new(),
                ready: row.state == ObjectState::Ready,
                serving: row.state != ObjectState::NotReady,
                terminating: row.state == ObjectState::Draining,
                hostname: None,
                zone: row.zone.as_deref().map(str::to_owned),
                node: None,
            };
            self.add(backend, false, (name, port, addr.port()));
        }
        any
    }

    fn add(
        &mut self,
        backend: Backend,
        proxy: bool,
        (name, port, number): (&str, &ImportPort, u16),
    ) {
        let at = (backend.source.clone(), backend.ip, proxy);
        let have = self.0.entry(at).or_insert(backend);
        have.ports
            .insert(name.to_owned(), (port.protocol.clone(), number));
    }
}

/// Ports that are not served by anybody, as people call them.
fn port_label(port: &ImportPort) -> String {
    match port.name.as_str() {
        "" => port.port.to_string(),
        name => name.to_owned(),
    }
}

fn protocol(port: &ImportPort) -> Protocol {
    match port.protocol.as_str() {
        "UDP" => Protocol::Udp,
        _ => Protocol::Tcp,
    }
}

/// What proxies call a port of an import; `None` where no proxy can serve it.
fn service_of(told: &Import, port: &ImportPort) -> Option<ServiceName> {
    if !matches!(port.protocol.as_str(), "TCP" | "UDP") {
        return None;
    }
    let name = format!("{}/{}:{}", told.namespace, told.name, port_label(port));
    ServiceName::parse(&name).ok()
}

/// Backends of one import that are written into slices; as many as a service has in a proxy would
/// be a thousand slices.
pub const BACKENDS_MAX: usize = 20_000;
