//! The EndpointSlices of an import, changed as little as possible.
//!
//! A slice holds backends of one source cluster, one address family and one set of ports. A backend
//! stays in the slice that it is in; a new one goes into the fullest slice that has room, so one
//! change touches one slice. Names are hashes of what the slice holds and a number.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::{labels, mcs::v1beta1::ServiceImport};
use fairlead_config::xds::proto::fairlead::{Import, ImportType};
use k8s_openapi::{
    api::discovery::v1::{
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{backends::Backend, derived_name, objects};
use crate::agent::local::Key;

/// What is to be done about the slices of an import.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pieces {
    /// To be written.
    pub puts: Vec<EndpointSlice>,
    /// The names of those that stay or come; others go.
    pub kept: BTreeSet<String>,
}

/// What the backends of one slice have in common.
type Group<'b> = (&'b str, &'static str, &'b BTreeMap<String, (String, u16)>);

/// Lays the backends out over slices, as they are laid out already.
pub fn plan<'s>(
    key: &Key,
    told: &Import,
    import: &ServiceImport,
    backends: &[Backend],
    have: impl Iterator<Item = &'s EndpointSlice>,
) -> Pieces {
    let mut groups: BTreeMap<Group<'_>, BTreeMap<String, &Backend>> = BTreeMap::new();
    for backend in backends {
        let family = if backend.ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let group = (&*backend.source, family, &backend.ports);
        let of_group = groups.entry(group).or_default();
        of_group.insert(backend.ip.to_string(), backend);
    }
    let have: Vec<&EndpointSlice> = have
        .filter(|slice| slice.metadata.deletion_timestamp.is_none())
        .collect();
    let frame = Frame { key, told, import };
    let mut pieces = Pieces::default();
    for (group, backends) in &groups {
        let old: Vec<&EndpointSlice> = have
            .iter()
            .copied()
            .filter(|slice| frame.is_of(slice, *group))
            .collect();
        frame.lay_out(*group, backends, &old, &mut pieces);
    }
    pieces
}

struct Frame<'f> {
    key: &'f Key,
    told: &'f Import,
    import: &'f ServiceImport,
}

impl Frame<'_> {
    fn lay_out(
        &self,
        group: Group<'_>,
        backends: &BTreeMap<String, &Backend>,
        old: &[&EndpointSlice],
        pieces: &mut Pieces,
    ) {
        let mut left = backends.clone();
        let mut filled: Vec<(String, Vec<&Backend>)> = Vec::new();
        for slice in old {
            let there = slice.endpoints.iter().flatten();
            let ips = there.filter_map(|endpoint| endpoint.addresses.first());
            let stay: Vec<&Backend> = ips
                .filter_map(|ip| left.remove(ip))
                .take(ENDPOINTS_MAX)
                .collect();
            let name = slice.metadata.name.clone().unwrap_or_default();
            if !stay.is_empty() {
                filled.push((name, stay));
            }
        }
        let mut new = left.into_values();
        // The fullest first, so that slices that run empty do.
        filled.sort_by(|one, other| (other.1.len(), &one.0).cmp(&(one.1.len(), &other.0)));
        for (_, inside) in &mut filled {
            let room = ENDPOINTS_MAX - inside.len();
            inside.extend(new.by_ref().take(room));
        }
        let mut number = 0;
        loop {
            let more: Vec<&Backend> = new.by_ref().take(ENDPOINTS_MAX).collect();
            if more.is_empty() {
                break;
            }
            let name = loop {
                let name = self.name(group, number);
                number += 1;
                if !filled.iter().any(|(taken, _)| *taken == name) {
                    break name;
                }
            };
            filled.push((name, more));
        }
        for (name, mut inside) in filled {
            inside.sort_by_key(|backend| backend.ip);
            let there = old
                .iter()
                .find(|slice| slice.metadata.name.as_ref() == Some(&name));
            let slice = self.slice(group, &name, &inside, there.copied());
            if there.is_none_or(|there| !objects::covers(*there, &slice)) {
                pieces.puts.push(slice);
            }
            pieces.kept.insert(name);
        }
    }

    /// Whether a slice that is there holds backends of this group.
    fn is_of(&self, slice: &EndpointSlice, (source, family, ports): Group<'_>) -> bool {
        let all = slice.metadata.labels.as_ref();
        let from = all.and_then(|all| all.get(labels::SOURCE_CLUSTER));
        let there = slice.ports.iter().flatten().map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let number = port.port.and_then(|port| u16::try_from(port).ok());
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (name, (protocol, number.unwrap_or_default()))
        });
        from.map(String::as_str) == Some(source)
            && slice.address_type == family
            && there.collect::<BTreeMap<_, _>>() == *ports
    }

    fn name(&self, (source, family, ports): Group<'_>, number: usize) -> String {
        let ports: Vec<String> = ports
            .iter()
            .map(|(name, (protocol, port))| format!("{name} {protocol} {port}"))
            .collect();
        let (ports, number) = (ports.join(","), number.to_string());
        let (namespace, name) = (&self.key.0, &self.key.1);
        let origin = [namespace, name, source, family, &ports, &number];
        labels::object_name("derived", &origin)
    }

    fn slice(
        &self,
        (source, family, ports): Group<'_>,
        name: &str,
        backends: &[&Backend],
        have: Option<&EndpointSlice>,
    ) -> EndpointSlice {
        let mut all = objects::derived_labels(self.told);
        all.insert(labels::SOURCE_CLUSTER.to_owned(), source.to_owned());
        all.insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
        all.insert(CORE_SERVICE_NAME.to_owned(), derived_name(self.key));
        if self.told.r#type() == ImportType::Headless {
            all.insert(CORE_HEADLESS.to_owned(), String::new());
        }
        let app_protocol = |name: &str| {
            let mut ports = self.told.ports.iter();
            let port = ports.find(|port| objects::port_name(self.told, port) == name)?;
            (!port.app_protocol.is_empty()).then(|| port.app_protocol.clone())
        };
        let ports = ports.iter().map(|(name, (protocol, number))| EndpointPort {
            name: Some(name.clone()),
            protocol: Some(protocol.clone()),
            port: Some(i32::from(*number)),
            app_protocol: app_protocol(name),
        });
        let mut slice = EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.key.0.clone()),
                uid: have.and_then(|have| have.metadata.uid.clone()),
                labels: Some(all),
                owner_references: Some(vec![objects::owner(self.import)]),
                ..ObjectMeta::default()
            },
            address_type: family.to_owned(),
            endpoints: Some(
                backends
                    .iter()
                    .map(|backend| endpoint(backend, &self.told.traffic_distribution))
                    .collect(),
            ),
            ports: Some(ports.collect()),
        };
        let content = objects::fingerprint(&slice);
        objects::annotate(&mut slice.metadata, content);
        slice
    }
}

/// `distribution` is the service's wish for clients nearby.
fn endpoint(backend: &Backend, distribution: &str) -> Endpoint {
    Endpoint {
        addresses: vec![backend.ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        zone: backend.zone.clone(),
        node_name: backend.node.clone(),
        hints: hints(backend, distribution),
        ..Endpoint::default()
    }
}

/// What kube-proxy goes by where a service wishes for clients nearby. Of Services with a selector
/// Kubernetes' own controller says so; these have none.
fn hints(backend: &Backend, distribution: &str) -> Option<EndpointHints> {
    let of_zone = |zone: &String| vec![ForZone { name: zone.clone() }];
    let of_node = |node: &String| vec![ForNode { name: node.clone() }];
    let zones = backend.zone.as_ref().map(of_zone);
    let nodes = backend.node.as_ref().map(of_node);
    let (for_zones, for_nodes) = match distribution {
        "PreferClose" | "PreferSameZone" => (zones, None),
        "PreferSameNode" => (zones, nodes),
        _ => (None, None),
    };
    let any = for_zones.is_some() || for_nodes.is_some();
    any.then_some(EndpointHints {
        for_nodes,
        for_zones,
    })
}

/// Kubernetes' own default for its slices; the API takes up to 1,000.
pub const ENDPOINTS_MAX: usize = 100;
/// The Service that kube-proxy serves a slice for.
const CORE_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On slices of Services without an address.
const CORE_HEADLESS: &str = "service.kubernetes.io/headless";
