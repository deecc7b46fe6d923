//! The outcomes of exports, on their records.

use std::collections::BTreeSet;

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    export::ExportRecordStatus,
};
use fairlead_config::name::MemberName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    distribute::Backend,
    services::{Aggregate, Outcome},
    world::{ServiceKey, World},
};

use super::Write;

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
