//! An import as it travels to the agents of members.

use fairlead_api::mcs::ServiceImportType;
use fairlead_config::{
    name::MemberName,
    xds::proto::fairlead::{
        Import as Message, ImportEndpoint, ImportPort, ImportType, SessionAffinity,
    },
};

use crate::{
    addresses,
    services::Import,
    world::{ServiceKey, World},
};

/// The message for every member; with endpoints where it is headless or some member has no proxies that
/// serve it. Costs O(endpoints) then.
pub fn message(world: &World, key: &ServiceKey, import: &Import) -> Message {
    let fields = &import.fields;
    let config = fields.session_affinity_config.as_ref();
    let timeout = config
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds);
    let affinity = match fields.session_affinity.as_deref() {
        Some("ClientIP") => SessionAffinity::ClientIp,
        _ => SessionAffinity::None,
    };
    let kind = match import.kind {
        ServiceImportType::ClusterSetIP => ImportType::ClusterSetIp,
        ServiceImportType::Headless => ImportType::Headless,
    };
    let ports = import.ports.iter().map(|union| ImportPort {
        name: union.port.name().to_owned(),
        protocol: union.port.protocol().to_owned(),
        app_protocol: union.port.app_protocol.clone().unwrap_or_default(),
        port: u32::try_from(union.port.port).unwrap_or_default(),
    });
    Message {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        r#type: kind.into(),
        ports: ports.collect(),
        session_affinity: affinity.into(),
        session_affinity_timeout_seconds: timeout.and_then(|seconds| u32::try_from(seconds).ok()),
        ip_families: import.ip_families.clone(),
        members: import.members.keys().map(MemberName::to_string).collect(),
        labels: import.labels.clone(),
        annotations: import.annotations.clone(),
        internal_traffic_policy: fields.internal_traffic_policy.clone().unwrap_or_default(),
        traffic_distribution: fields.traffic_distribution.clone().unwrap_or_default(),
        endpoints: match has_endpoints(world, key, import) {
            true => endpoints(world, key, import),
            false => Vec::new(),
        },
    }
}

fn has_endpoints(world: &World, key: &ServiceKey, import: &Import) -> bool {
    let policies = world.policies(key);
    let policy = policies.first().map(|policy| &***policy);
    let mut of_members = world
        .views
        .values()
        .filter(|view| view.place.member.is_some());
    world.full_imports
        || import.kind == ServiceImportType::Headless
        || of_members.any(|view| !view.serves(key, policy))
}

fn endpoints(world: &World, key: &ServiceKey, import: &Import) -> Vec<ImportEndpoint> {
    let mut all = Vec::new();
    for (name, slices) in world.slices.get(key).into_iter().flatten() {
        let Some(member) = world
            .members
            .get(name)
            .filter(|_| import.members.contains_key(name))
        else {
            continue;
        };
        for slice in slices.values() {
            let ports: std::collections::BTreeMap<String, u32> = import
                .ports
                .iter()
                .filter_map(|union| {
                    let local = union.exposed_by.get(name)?;
                    let port = slice.ports.iter().find(|port| {
                        port.name == *local && port.protocol == union.port.protocol()
                    })?;
                    Some((union.port.name().to_owned(), u32::from(port.port)))
                })
                .collect();
            for endpoint in &slice.endpoints {
                if addresses::refusal(endpoint.ip, member, world.settings).is_some() {
                    continue;
                }
                let text = |value: &Option<std::sync::Arc<str>>| {
                    value.as_deref().unwrap_or_default().to_owned()
                };
                let [ready, serving, terminating] = endpoint.conditions;
                all.push(ImportEndpoint {
                    member: name.to_string(),
                    ip: endpoint.ip.to_string(),
                    ports: ports.clone(),
                    hostname: text(&endpoint.hostname),
                    zone: text(&endpoint.zone),
                    node: text(&endpoint.node),
                    ready,
                    serving,
                    terminating,
                });
            }
        }
    }
    all
}
