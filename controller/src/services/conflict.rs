//! Where exports of one service disagree.

use std::collections::BTreeSet;

use fairlead_api::{conditions::reason, export::ExportRecordSpec};
use fairlead_config::name::MemberName;

use super::Ranked;

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its place in the list of reasons.
    pub(crate) rank: usize,
    /// A constant of [`reason`].
    pub reason: &'static str,
    /// The winning value, the winning member, and how many disagree.
    pub message: String,
}

/// Disagreements on everything but ports. `accepted` is in the order of age and not empty.
pub(super) fn fields(accepted: &[Ranked<'_>]) -> Vec<Conflict> {
    FIELDS
        .iter()
        .filter_map(|field| {
            let winner = (field.value)(&accepted[0].export.spec);
            let losers: BTreeSet<&MemberName> = accepted[1..]
                .iter()
                .filter(|ranked| (field.value)(&ranked.export.spec) != winner)
                .map(Ranked::member)
                .collect();
            (!losers.is_empty()).then(|| Conflict {
                rank: rank(field.reason),
                reason: field.reason,
                message: format!(
                    "Conflicting {}. Using {winner} from oldest service export in \"{}\". {}/{} clusters disagree.",
                    field.name,
                    accepted[0].member(),
                    losers.len(),
                    accepted.len(),
                ),
            })
        })
        .collect()
}

/// The member whose export wins, as the message of a Conflict condition names it first.
pub fn winner(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("oldest service export in \"")?;
    rest.split('"').next()
}

/// The place of a reason where several are joined.
pub(super) fn rank(reason: &str) -> usize {
    let place = FIELDS.iter().position(|field| field.reason == reason);
    place.map_or(0, |place| place + 1)
}

struct Field {
    reason: &'static str,
    name: &'static str,
    /// The value in a form that is equal exactly when the values are, fit for a message.
    value: fn(&ExportRecordSpec) -> String,
}

/// In the order in which reasons are joined; ports come before all of them.
const FIELDS: [Field; 8] = [
    Field {
        reason: reason::TYPE_CONFLICT,
        name: "type",
        value: |spec| format!("\"{:?}\"", spec.kind),
    },
    Field {
        reason: reason::SESSION_AFFINITY_CONFLICT,
        name: "session affinity",
        value: |spec| format!("\"{}\"", affinity(spec)),
    },
    Field {
        reason: reason::SESSION_AFFINITY_CONFIG_CONFLICT,
        name: "session affinity config",
        value: affinity_timeout,
    },
    Field {
        reason: reason::LABELS_CONFLICT,
        name: "exported labels",
        value: |spec| format!("{:?}", spec.exported_labels),
    },
    Field {
        reason: reason::ANNOTATIONS_CONFLICT,
        name: "exported annotations",
        value: |spec| format!("{:?}", spec.exported_annotations),
    },
    Field {
        reason: reason::INTERNAL_TRAFFIC_POLICY_CONFLICT,
        name: "internal traffic policy",
        value: |spec| {
            let policy = spec.internal_traffic_policy.as_deref();
            format!("\"{}\"", policy.unwrap_or("Cluster"))
        },
    },
    Field {
        reason: reason::TRAFFIC_DISTRIBUTION_CONFLICT,
        name: "traffic distribution",
        value: |spec| {
            format!(
                "\"{}\"",
                spec.traffic_distribution.as_deref().unwrap_or_default()
            )
        },
    },
    Field {
        reason: reason::IP_FAMILY_CONFLICT,
        name: "IP families",
        value: |spec| {
            let all: BTreeSet<&str> = spec.ip_families.iter().map(String::as_str).collect();
            format!("{all:?}")
        },
    },
];

fn affinity(spec: &ExportRecordSpec) -> &str {
    spec.session_affinity.as_deref().unwrap_or("None")
}

/// The timeout matters only where there is affinity, and is three hours where none is given.
fn affinity_timeout(spec: &ExportRecordSpec) -> String {
    if affinity(spec) == "None" {
        return "no timeout".to_owned();
    }
    let config = spec.session_affinity_config.as_ref();
    let client_ip = config.and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    format!("timeout {} s", seconds.unwrap_or(10_800))
}
