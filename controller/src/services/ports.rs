//! The union of ports, and who exposes each.

use std::collections::BTreeMap;

use fairlead_api::{conditions::reason, mcs::ServicePort};
use fairlead_config::name::MemberName;

use super::{
    Ranked,
    conflict::{Conflict, rank},
};

/// A port of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnionPort {
    /// As the oldest export that has it states it.
    pub port: ServicePort,
    /// The members whose Service exposes it, and what each calls it (empty: no name). Only to them
    /// is it routed.
    pub exposed_by: BTreeMap<MemberName, String>,
}

/// The union over exports in the order of their age, by name first, then by protocol and number.
pub(super) fn union(accepted: &[Ranked<'_>]) -> (Vec<UnionPort>, Vec<Conflict>) {
    let mut union: Vec<UnionPort> = Vec::new();
    let mut disputes: BTreeMap<usize, Vec<MemberName>> = BTreeMap::new();
    let mut founders: Vec<MemberName> = Vec::new();
    for ranked in accepted {
        for port in &ranked.export.spec.ports {
            let by_name = union
                .iter()
                .position(|have| have.port.name() == port.name());
            let at =
                by_name.or_else(|| union.iter().position(|have| same_number(&have.port, port)));
            let Some(at) = at else {
                founders.push(ranked.member().clone());
                union.push(UnionPort {
                    port: port.clone(),
                    exposed_by: BTreeMap::from([(ranked.member().clone(), port.name().to_owned())]),
                });
                continue;
            };
            let have = &mut union[at];
            if same_number(&have.port, port) {
                let name = port.name().to_owned();
                have.exposed_by.insert(ranked.member().clone(), name);
            }
            if !agrees(&have.port, port) {
                disputes
                    .entry(at)
                    .or_default()
                    .push(ranked.member().clone());
            }
        }
    }
    let conflicts = disputes
        .into_iter()
        .map(|(at, mut losers)| {
            losers.dedup();
            let using = describe(&union[at].port);
            Conflict {
                rank: rank(reason::PORT_CONFLICT),
                reason: reason::PORT_CONFLICT,
                message: format!(
                    "Conflicting port. Using {using} from oldest service export in \"{}\". {}/{} clusters disagree.",
                    founders[at],
                    losers.len(),
                    accepted.len(),
                ),
            }
        })
        .collect();
    (union, conflicts)
}

fn same_number(a: &ServicePort, b: &ServicePort) -> bool {
    a.protocol() == b.protocol() && a.port == b.port
}

fn agrees(a: &ServicePort, b: &ServicePort) -> bool {
    same_number(a, b) && a.name() == b.name() && a.app_protocol == b.app_protocol
}

fn describe(port: &ServicePort) -> String {
    let mut text = format!("\"{}/{}\"", port.protocol(), port.port);
    if !port.name().is_empty() {
        text.push_str(&format!(" named \"{}\"", port.name()));
    }
    if let Some(app) = &port.app_protocol {
        text.push_str(&format!(" speaking \"{app}\""));
    }
    text
}
