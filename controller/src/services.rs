//! Who exports a service, what its import looks like, and where its exports disagree.
//!
//! The rules are those of the MCS API (KEP-1645): the oldest export wins each field; ports are a
//! union, by name first, then by protocol and number; a port routes only to members whose Service
//! exposes it; a conflict shows on every export and never takes a backend out that still fits.
//! Exports that break a rule of the hub are refused with a reason and take part in nothing.
//!
//! [`aggregate`] is a function of the World alone: neither the order of members nor of events shows
//! in its result. It costs O(exports of the service × ports).

mod conflict;
mod ports;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_api::{
    conditions::reason,
    labels,
    mcs::{ServiceImportSpec, ServiceImportType, ServicePort},
};
use fairlead_config::name::MemberName;
use k8s_openapi::jiff::Timestamp;

pub use conflict::{Conflict, winner};
pub use ports::UnionPort;

use crate::world::{Export, ExportKey, ServiceKey, Settings, World, matches_pattern};

/// What became of the exports of one service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Aggregate {
    /// The import; `None` when no export is left.
    pub import: Option<Import>,
    /// One entry per export.
    pub outcomes: BTreeMap<ExportKey, Outcome>,
}

/// The service as the clusterset sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Ports, in the order of the oldest export, then by age.
    pub ports: Vec<UnionPort>,
    /// Whether it has a virtual IP.
    pub kind: ServiceImportType,
    /// Families, as the oldest export has them.
    pub ip_families: Vec<String>,
    /// The other fields, with ports and IPs left out.
    pub fields: ServiceImportSpec,
    /// For the import's metadata.
    pub labels: BTreeMap<String, String>,
    /// For the import's metadata.
    pub annotations: BTreeMap<String, String>,
    /// Who exports it, and the weight each export states.
    pub members: BTreeMap<MemberName, Exporter>,
}

/// A member's valid export.
#[derive(Debug, Clone, PartialEq)]
pub struct Exporter {
    /// The weight that the export states.
    pub weight: Option<u16>,
    /// The ports it exposes, as the member calls them.
    pub ports: Vec<ServicePort>,
}

/// What became of one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It takes part.
    Accepted {
        /// What the exports of the service disagree on; the same list on every export.
        conflicts: Arc<[Conflict]>,
        /// Its claimed age is older than anything the hub can have seen, by this much at least.
        unverified_age: bool,
    },
    /// It takes part in nothing.
    Refused {
        /// A constant of [`reason`].
        reason: &'static str,
        /// What, and what to do next.
        message: String,
    },
}

/// Decides a service.
pub fn aggregate(world: &World, key: &ServiceKey) -> Aggregate {
    let mut outcomes = BTreeMap::new();
    let mut accepted = Vec::new();
    for (slot, export) in world.exports.get(key).into_iter().flatten() {
        if export.leaving {
            continue;
        }
        match refusal(world, key, slot, export) {
            Some((reason, message)) => {
                outcomes.insert(slot.clone(), Outcome::Refused { reason, message });
            }
            None => accepted.push(Ranked::new(slot, export, world.settings)),
        }
    }
    accepted.sort_by(|a, b| (a.age, &a.slot.member).cmp(&(b.age, &b.slot.member)));
    if accepted.is_empty() {
        return Aggregate {
            import: None,
            outcomes,
        };
    }
    let (union, mut conflicts) = ports::union(&accepted);
    conflicts.extend(conflict::fields(&accepted));
    conflicts.sort_by_key(|conflict| conflict.rank);
    let conflicts: Arc<[Conflict]> = conflicts.into();
    for ranked in &accepted {
        let outcome = Outcome::Accepted {
            conflicts: conflicts.clone(),
            unverified_age: ranked.unverified_age,
        };
        outcomes.insert(ranked.slot.clone(), outcome);
    }
    Aggregate {
        import: Some(import(&accepted, union)),
        outcomes,
    }
}

/// A valid export with its age.
pub(crate) struct Ranked<'w> {
    pub(crate) slot: &'w ExportKey,
    pub(crate) export: &'w Export,
    age: Option<Timestamp>,
    unverified_age: bool,
}

impl<'w> Ranked<'w> {
    fn new(slot: &'w ExportKey, export: &'w Export, settings: Settings) -> Self {
        let claimed = export.spec.exported_at.as_ref().map(|time| time.0);
        let seen = export.status.first_seen.as_ref().map(|time| time.0);
        let seen = seen.or(export.created);
        let oldest = seen.and_then(|seen| seen.checked_sub(settings.skew).ok());
        let unverified_age = match (claimed, oldest) {
            (Some(claimed), Some(oldest)) => claimed < oldest,
            _ => false,
        };
        let mut age = claimed.or(seen);
        if settings.pin_first_seen && unverified_age {
            age = oldest;
        }
        Self {
            slot,
            export,
            age,
            unverified_age,
        }
    }

    pub(crate) fn member(&self) -> &MemberName {
        &self.slot.member
    }
}

fn import(accepted: &[Ranked<'_>], ports: Vec<UnionPort>) -> Import {
    let oldest = &accepted[0].export.spec;
    let fields = ServiceImportSpec {
        kind: oldest.kind,
        session_affinity: oldest.session_affinity.clone(),
        session_affinity_config: oldest.session_affinity_config.clone(),
        internal_traffic_policy: oldest.internal_traffic_policy.clone(),
        traffic_distribution: oldest.traffic_distribution.clone(),
        ..ServiceImportSpec::default()
    };
    let members = accepted.iter().map(|ranked| {
        let spec = &ranked.export.spec;
        let weight = spec.weight.and_then(|weight| u16::try_from(weight).ok());
        let exporter = Exporter {
            weight,
            ports: spec.ports.clone(),
        };
        (ranked.member().clone(), exporter)
    });
    Import {
        ports,
        kind: oldest.kind,
        ip_families: oldest.ip_families.clone(),
        fields,
        labels: oldest.exported_labels.clone(),
        annotations: oldest.exported_annotations.clone(),
        members: members.collect(),
    }
}

/// Why an export takes part in nothing.
fn refusal(
    world: &World,
    key: &ServiceKey,
    slot: &ExportKey,
    export: &Export,
) -> Option<(&'static str, String)> {
    let Some(member) = world.members.get(&slot.member) else {
        return Some((
            reason::NOT_A_MEMBER,
            format!("no MemberCluster {}; join the cluster first", slot.member),
        ));
    };
    if member.leaving {
        return Some((
            reason::NOT_A_MEMBER,
            format!(
                "member {} is leaving; its exports are withdrawn",
                slot.member
            ),
        ));
    }
    if *slot.object != *labels::export_record_name(&key.namespace, &key.name) {
        return Some((
            reason::FORGED_ORIGIN,
            format!("the record's name is not that of {key}; only the agent makes records"),
        ));
    }
    if labels::is_reserved_namespace(&key.namespace) {
        return Some((
            reason::RESERVED_NAMESPACE,
            format!(
                "namespace {} belongs to a control plane; export from another namespace",
                key.namespace
            ),
        ));
    }
    let allowed = member.allow_exports.as_ref();
    if allowed.is_some_and(|all| !all.iter().any(|pattern| matches_pattern(pattern, key))) {
        return Some((
            reason::NOT_ALLOWED,
            format!(
                "spec.allowExports of MemberCluster {} does not name {key}; add it there",
                slot.member
            ),
        ));
    }
    bad_ports(&export.spec.ports).map(|message| (reason::INVALID_FIELD, message))
}

fn bad_ports(all: &[ServicePort]) -> Option<String> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for port in all {
        let protocol = port.protocol();
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            return Some(format!(
                "port {}: protocol {protocol:?} is not TCP, UDP or SCTP",
                port.port
            ));
        }
        if !(1..=65_535).contains(&port.port) {
            return Some(format!("port {} is not between 1 and 65535", port.port));
        }
        if !port.name().is_empty() && !fairlead_config::name::is_dns_label(port.name(), 63) {
            return Some(format!("port name {:?} is no DNS label", port.name()));
        }
        if !names.insert(port.name()) {
            return Some(format!("two ports are named {:?}", port.name()));
        }
        if !numbers.insert((protocol, port.port)) {
            return Some(format!("two ports are {protocol} {}", port.port));
        }
    }
    None
}
