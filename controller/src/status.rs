//! What the hub's objects should say, as writes; nothing where they say so already.
//!
//! A write carries the resourceVersion that it was decided on: whoever decided on an old state, a
//! deposed leader above all, is refused by the API server and plans again.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    export::ExportRecordStatus,
    mcs::{ClusterStatus, ServiceImport, ServiceImportSpec, ServiceImportStatus},
    member::MemberClusterStatus,
    proxy::{AllocatedPort, ProxyGroup},
    service::{
        FrontendStatus, MemberState, MemberStatus, MultiClusterService, MultiClusterServiceStatus,
    },
};
use fairlead_config::name::MemberName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    distribute::{self, Backend},
    ports,
    services::{Aggregate, Import, Outcome},
    world::{ExportKey, Heartbeat, ServiceKey, World},
};

/// Something to write on the hub.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// The outcome of an export, on its record.
    Export {
        /// Whose.
        slot: ExportKey,
        /// The record's resourceVersion.
        version: u64,
        /// The whole status.
        status: ExportRecordStatus,
    },
    /// An import, made or changed; its namespace is made when missing.
    Import {
        /// Of what.
        key: ServiceKey,
        /// Its resourceVersion; 0 makes it.
        version: u64,
        /// Labels, annotations and spec.
        object: Box<ServiceImport>,
    },
    /// The status of an import that exists.
    ImportStatus {
        /// Of what.
        key: ServiceKey,
        /// Its resourceVersion.
        version: u64,
        /// The whole status.
        status: ServiceImportStatus,
    },
    /// An import that nobody exports any more.
    DeleteImport {
        /// Of what.
        key: ServiceKey,
        /// Its resourceVersion.
        version: u64,
    },
    /// The status of a MultiClusterService.
    Service {
        /// Its namespace and name.
        namespace: String,
        /// Its name.
        name: String,
        /// Its resourceVersion.
        version: u64,
        /// The whole status.
        status: Box<MultiClusterServiceStatus>,
    },
    /// The ports of a proxy group's frontends.
    GroupPorts {
        /// Its name.
        name: String,
        /// Its resourceVersion.
        version: u64,
        /// All of them.
        frontends: Vec<AllocatedPort>,
    },
    /// What a group's proxies say: everything in its status but ports.
    GroupProxies {
        /// Its name.
        name: String,
        /// Its resourceVersion; 0: whatever it is.
        version: u64,
        /// The fields.
        status: serde_json::Value,
    },
    /// The status of a member.
    Member {
        /// Its name.
        name: String,
        /// Its resourceVersion.
        version: u64,
        /// The whole status.
        status: Box<MemberClusterStatus>,
    },
}

impl Write {
    /// The resourceVersion that it was decided on.
    pub fn version(&self) -> u64 {
        match self {
            Self::Export { version, .. }
            | Self::Import { version, .. }
            | Self::ImportStatus { version, .. }
            | Self::DeleteImport { version, .. }
            | Self::Service { version, .. }
            | Self::GroupPorts { version, .. }
            | Self::GroupProxies { version, .. }
            | Self::Member { version, .. } => *version,
        }
    }

    /// What is written, for logs and errors.
    pub fn target(&self) -> String {
        match self {
            Self::Export { slot, .. } => format!("ExportRecord {} of {}", slot.object, slot.member),
            Self::Import { key, .. } => format!("ServiceImport {key}"),
            Self::ImportStatus { key, .. } => format!("status of ServiceImport {key}"),
            Self::DeleteImport { key, .. } => format!("removal of ServiceImport {key}"),
            Self::Service {
                namespace, name, ..
            } => format!("status of MultiClusterService {namespace}/{name}"),
            Self::GroupPorts { name, .. } => format!("ports of ProxyGroup {name}"),
            Self::GroupProxies { name, .. } => format!("proxies of ProxyGroup {name}"),
            Self::Member { name, .. } => format!("status of MemberCluster {name}"),
        }
    }
}

/// The outcomes of a service's exports; of these members only, where some are named.
pub fn exports(
    world: &World,
    key: &ServiceKey,
    aggregate: &Aggregate,
    backend: Option<&Backend>,
    only: Option<&BTreeSet<MemberName>>,
    now: &Time,
) -> Vec<Write> {
    let mut writes = Vec::new();
    for (slot, outcome) in &aggregate.outcomes {
        if only.is_some_and(|only| !only.contains(&slot.member)) {
            continue;
        }
        let Some(export) = world.exports.get(key).and_then(|of| of.get(slot)) else {
            continue;
        };
        let refused = backend
            .and_then(|backend| backend.members.get(&slot.member))
            .map_or(&[][..], |part| &part.refused);
        let wanted = export_conditions(outcome, refused);
        let changed = conditions::set(&export.status.conditions, &wanted, export.generation, now);
        if changed.is_none() && export.status.first_seen.is_some() {
            continue;
        }
        let first_seen = export.status.first_seen.clone();
        writes.push(Write::Export {
            slot: slot.clone(),
            version: export.version,
            status: ExportRecordStatus {
                conditions: changed.unwrap_or_else(|| export.status.conditions.clone()),
                first_seen: Some(first_seen.unwrap_or_else(|| now.clone())),
            },
        });
    }
    writes
}

fn export_conditions(outcome: &Outcome, refused: &[(String, String)]) -> Vec<Wanted> {
    let (found, unverified_age) = match outcome {
        Outcome::Refused { reason, message } => {
            return vec![
                Wanted::no(kind::VALID, *reason, message.clone()),
                Wanted::no(kind::READY, reason::FAILED, "the export is not valid"),
                Wanted::no(kind::CONFLICT, reason::NO_CONFLICTS, ""),
            ];
        }
        Outcome::Accepted {
            conflicts,
            unverified_age,
        } => (conflicts, unverified_age),
    };
    let ready = match refused {
        [] => Wanted::yes(kind::READY, reason::EXPORTED, "exported to the fleet"),
        [(address, why), ..] => Wanted::no(
            kind::READY,
            reason::REFUSED_ADDRESSES,
            format!(
                "{} endpoint addresses are refused and left out, the others are served: {address} {why}",
                refused.len()
            ),
        ),
    };
    let conflict = if found.is_empty() {
        Wanted::no(kind::CONFLICT, reason::NO_CONFLICTS, "no export disagrees")
    } else {
        let mut reasons: Vec<&str> = found.iter().map(|conflict| conflict.reason).collect();
        reasons.dedup();
        let messages: Vec<&str> = found.iter().map(|one| one.message.as_str()).collect();
        Wanted::yes(kind::CONFLICT, reasons.join(","), messages.join(" "))
    };
    let age = if *unverified_age {
        Wanted::no(
            kind::AGE_PLAUSIBLE,
            reason::AGE_UNVERIFIED,
            "the export claims to be older than what the hub has seen of it; it wins conflicts by that claim unless the hub pins ages",
        )
    } else {
        Wanted::yes(kind::AGE_PLAUSIBLE, reason::VALID, "")
    };
    let valid = Wanted::yes(kind::VALID, reason::VALID, "the export can be served");
    vec![valid, ready, conflict, age]
}

/// The import of a service, on the hub.
pub fn import(
    world: &World,
    key: &ServiceKey,
    import: Option<&Import>,
    now: &Time,
) -> Option<Write> {
    let have = world.imports.get(key);
    let version = |object: &ServiceImport| {
        let text = object.metadata.resource_version.as_deref();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let Some(import) = import else {
        return have.map(|have| Write::DeleteImport {
            key: key.clone(),
            version: version(have),
        });
    };
    let object = import_object(key, import);
    match have {
        Some(have) if same_import(have, &object) => {
            let old = have.status.clone().unwrap_or_default();
            let status = import_status(import, &old, now);
            (status != old).then(|| Write::ImportStatus {
                key: key.clone(),
                version: version(have),
                status,
            })
        }
        have => Some(Write::Import {
            key: key.clone(),
            version: have.map_or(0, |have| version(have)),
            object: Box::new(object),
        }),
    }
}

/// The import as an object, without what differs from cluster to cluster (IPs).
pub fn import_object(key: &ServiceKey, import: &Import) -> ServiceImport {
    let ports = import
        .ports
        .iter()
        .map(|union| union.port.clone())
        .collect();
    let spec = ServiceImportSpec {
        ports,
        ip_families: import.ip_families.clone(),
        ..import.fields.clone()
    };
    let mut object = ServiceImport::new(&key.name, spec);
    object.metadata.namespace = Some(key.namespace.to_string());
    object.metadata.labels = (!import.labels.is_empty()).then(|| import.labels.clone());
    object.metadata.annotations =
        (!import.annotations.is_empty()).then(|| import.annotations.clone());
    object
}

/// Foreign labels and annotations may stand beside ours.
fn same_import(have: &ServiceImport, want: &ServiceImport) -> bool {
    let holds = |have: &Option<BTreeMap<String, String>>, want: &Option<BTreeMap<_, _>>| {
        let want = want.iter().flatten();
        let have = have.as_ref();
        want.into_iter()
            .all(|(key, value)| have.and_then(|have| have.get(key)) == Some(value))
    };
    have.spec == want.spec
        && holds(&have.metadata.labels, &want.metadata.labels)
        && holds(&have.metadata.annotations, &want.metadata.annotations)
}

fn import_status(import: &Import, old: &ServiceImportStatus, now: &Time) -> ServiceImportStatus {
    let clusters = import.members.keys().map(|member| ClusterStatus {
        cluster: member.to_string(),
    });
    let wanted = [Wanted::yes(kind::READY, reason::READY, "exported")];
    let conditions = conditions::set(&old.conditions, &wanted, None, now);
    ServiceImportStatus {
        clusters: clusters.collect(),
        conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
        endpoint_slice_objects: Some("Absent".to_owned()),
    }
}

/// The status of each MultiClusterService that names this service: the oldest counts.
pub fn services(
    world: &World,
    key: &ServiceKey,
    backend: Option<&Backend>,
    problems: &[String],
    now: &Time,
) -> Vec<Write> {
    let mut writes = Vec::new();
    for (at, object) in world.policies(key).into_iter().enumerate() {
        let old = object.status.clone().unwrap_or_default();
        let generation = object.metadata.generation;
        let status = if at == 0 {
            service_status(world, key, object, backend, problems, &old, now)
        } else {
            let first = world.policies(key)[0].metadata.name.clone();
            let message = format!(
                "MultiClusterService {} is older and names the same import; delete one of them",
                first.unwrap_or_default()
            );
            let wanted = [
                Wanted::no(kind::VALID, "AnotherCounts", message.clone()),
                Wanted::no(kind::READY, "AnotherCounts", message),
            ];
            let conditions = conditions::set(&old.conditions, &wanted, generation, now);
            MultiClusterServiceStatus {
                conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
                ..MultiClusterServiceStatus::default()
            }
        };
        if status != old {
            let version = object.metadata.resource_version.as_deref();
            writes.push(Write::Service {
                namespace: key.namespace.to_string(),
                name: object.metadata.name.clone().unwrap_or_default(),
                version: version.and_then(|text| text.parse().ok()).unwrap_or(0),
                status: Box::new(status),
            });
        }
    }
    writes
}

#[allow(
    clippy::too_many_arguments,
    reason = "one status is decided from everything that is known of its service"
)]
fn service_status(
    world: &World,
    key: &ServiceKey,
    object: &MultiClusterService,
    backend: Option<&Backend>,
    problems: &[String],
    old: &MultiClusterServiceStatus,
    now: &Time,
) -> MultiClusterServiceStatus {
    let frontends = frontends(world, object, backend);
    let members = backend.map_or_else(Vec::new, |backend| members(world, key, object, backend));
    let taking = |member: &&MemberStatus| {
        matches!(member.state, MemberState::Active | MemberState::Silent)
            && member.ready_endpoints > 0
    };
    let active = members.iter().filter(taking).count();
    let ready_endpoints = members.iter().map(|member| member.ready_endpoints).sum();
    let mut wanted = vec![valid(problems)];
    wanted.push(ready(backend, object, &frontends, active));
    wanted.push(programmed(world, key));
    let conditions = conditions::set(&old.conditions, &wanted, object.metadata.generation, now);
    MultiClusterServiceStatus {
        conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
        summary: format!("{active}/{}", members.len()),
        frontends,
        members,
        ready_endpoints,
    }
}

fn valid(problems: &[String]) -> Wanted {
    if problems.is_empty() {
        Wanted::yes(kind::VALID, reason::VALID, "everything it names is there")
    } else {
        Wanted::no(kind::VALID, reason::INVALID_FIELD, problems.join("; "))
    }
}

fn ready(
    backend: Option<&Backend>,
    object: &MultiClusterService,
    frontends: &[FrontendStatus],
    active: usize,
) -> Wanted {
    if backend.is_none() {
        return Wanted::no(
            kind::READY,
            reason::NO_IMPORT,
            format!(
                "no member exports {}; make a ServiceExport of that name in a member",
                object.spec.service_import.name
            ),
        );
    }
    if frontends.is_empty() && !object.spec.frontends.is_empty() {
        return Wanted::no(
            kind::READY,
            reason::NO_FRONTEND,
            "no frontend has a port yet; see Valid, and the ProxyGroup it names",
        );
    }
    if active == 0 {
        return Wanted::no(
            kind::READY,
            reason::NO_ENDPOINTS,
            "no member can take a connection; see status.members for each one's reason",
        );
    }
    Wanted::yes(
        kind::READY,
        reason::READY,
        format!("{active} members take connections"),
    )
}

fn programmed(world: &World, key: &ServiceKey) -> Wanted {
    match world.refusals.get(key).map_or(&[][..], Vec::as_slice) {
        [] => Wanted::yes(
            kind::PROGRAMMED,
            reason::APPLIED,
            "no proxy refused anything",
        ),
        all => Wanted::no(kind::PROGRAMMED, reason::REFUSED, all.join("; ")),
    }
}

fn frontends(
    world: &World,
    object: &MultiClusterService,
    backend: Option<&Backend>,
) -> Vec<FrontendStatus> {
    let mut all = Vec::new();
    let backend_ports = backend.map_or(&[][..], |backend| &backend.ports[..]);
    for view in world.views.values() {
        if view.asked(object).next().is_none() {
            continue;
        }
        let group = world.groups.get(&view.group);
        let addresses = group.map_or_else(Vec::new, |group| group.spec.addresses.clone());
        for port in backend_ports {
            let name = port.name.as_str();
            let Some(number) = distribute::allocated_port(view, name, port.protocol) else {
                continue;
            };
            let endpoint = addresses.first().map_or_else(String::new, |address| {
                match address.parse::<std::net::IpAddr>() {
                    Ok(ip) => std::net::SocketAddr::from((ip, number)).to_string(),
                    Err(_) => format!("{address}:{number}"),
                }
            });
            all.push(FrontendStatus {
                proxy_group: view.group.to_string(),
                service_port: port.name.parts().2.to_owned(),
                protocol: ports::name(port.protocol).to_owned(),
                addresses: addresses.clone(),
                port: i32::from(number),
                endpoint,
            });
        }
    }
    all
}

fn members(
    world: &World,
    key: &ServiceKey,
    object: &MultiClusterService,
    backend: &Backend,
) -> Vec<MemberStatus> {
    let first = object.spec.frontends.first();
    let place = first
        .and_then(|frontend| world.views.get(frontend.proxy_group.as_str()))
        .map(|view| view.place.clone())
        .unwrap_or_default();
    let all = backend.members.keys();
    all.map(|name| {
        let tier = distribute::tier_of(&object.spec.tiers, world, name, &place);
        member(world, key, backend, name, tier)
    })
    .collect()
}

fn member(
    world: &World,
    key: &ServiceKey,
    backend: &Backend,
    name: &MemberName,
    tier: Option<usize>,
) -> MemberStatus {
    let part = &backend.members[name];
    let weight = distribute::weigh(world, key, backend, name, tier);
    let heartbeat = world.members.get(name).map(|member| member.heartbeat);
    let load = world
        .loads
        .get(key)
        .and_then(|loads| loads.get(name))
        .copied();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let because = weight.claim.map_or_else(String::new, |claim| {
        let why = if claim.reason.is_empty() {
            "no reason given"
        } else {
            &claim.reason
        };
        format!("{} keeps it at {}‰: {why}", claim.owner, claim.permille)
    });
    let (state, reason) = if tier.is_none() {
        (MemberState::NotSelected, "no tier selects it".to_owned())
    } else if part.withdrawn {
        let reason = "heartbeat lost and nothing probes its endpoints".to_owned();
        (MemberState::Withdrawn, reason)
    } else if weight.effective.is_drain() {
        let reason = if because.is_empty() {
            "weight 0".to_owned()
        } else {
            because
        };
        (MemberState::Draining, reason)
    } else if part.ready == 0 {
        (MemberState::Empty, empty_reason(part))
    } else if load.is_some_and(|load| load.healthy == 0 && load.unhealthy > 0) {
        let reason = "every endpoint fails its probes".to_owned();
        (MemberState::Unhealthy, reason)
    } else {
        match heartbeat {
            Some(Heartbeat::Lost) => (
                MemberState::Silent,
                "heartbeat lost; served as long as probes pass".to_owned(),
            ),
            Some(Heartbeat::Suspended) => (
                MemberState::Silent,
                "heartbeat lost together with most members; nothing is withdrawn".to_owned(),
            ),
            _ => (MemberState::Active, because),
        }
    };
    MemberStatus {
        member: name.to_string(),
        tier: tier.and_then(|tier| i32::try_from(tier).ok()),
        configured_weight: i32::from(weight.configured),
        effective_weight_thousandths: i32::try_from(weight.effective.thousandths())
            .unwrap_or(i32::MAX),
        ready_endpoints: number(part.ready),
        endpoints: number(part.endpoints),
        state,
        reason,
        active_sessions: load
            .and_then(|load| load.active)
            .and_then(|active| i64::try_from(active).ok()),
    }
}

fn empty_reason(part: &distribute::Part) -> String {
    match (part.endpoints, part.refused.first()) {
        (0, Some((address, why))) => {
            let count = part.refused.len();
            format!("all of its {count} addresses are refused: {address} {why}")
        }
        (0, None) => "no endpoints; are its pods running?".to_owned(),
        (count, _) => format!("none of its {count} endpoints is ready"),
    }
}

/// The ports of a group's frontends.
pub fn group_ports(group: &ProxyGroup, frontends: Vec<AllocatedPort>) -> Option<Write> {
    let have = group.status.as_ref().map(|status| &status.frontends[..]);
    let mut have = have.unwrap_or_default().to_vec();
    have.sort();
    let version = group.metadata.resource_version.as_deref();
    (have != frontends).then(|| Write::GroupPorts {
        name: group.metadata.name.clone().unwrap_or_default(),
        version: version.and_then(|text| text.parse().ok()).unwrap_or(0),
        frontends,
    })
}

/// The condition of a type, from a status.
pub fn condition<'c>(all: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions::find(all, kind)
}
