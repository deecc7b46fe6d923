//! Condition types and reasons, and how a list of conditions changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The state a condition should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The condition's type.
    pub kind: &'static str,
    /// `Some(true)`, `Some(false)`, or `None` for Unknown.
    pub status: Option<bool>,
    /// A constant of [`reason`], or several joined with commas.
    pub reason: String,
    /// For people: what, and what to do next.
    pub message: String,
}

/// Condition types.
pub mod kind {
    /// MemberCluster: namespace, identity and Role exist.
    pub const READY_TO_JOIN: &str = "ReadyToJoin";
    /// MemberCluster: its agent has joined.
    pub const JOINED: &str = "Joined";
    /// MemberCluster: its heartbeat is fresh and its API server is well.
    pub const HEALTHY: &str = "Healthy";
    /// ServiceExport, ExportRecord, MultiClusterService: it makes sense.
    pub const VALID: &str = "Valid";
    /// ServiceExport, ServiceImport, ExportRecord, MultiClusterService, ProxyGroup: it is served.
    pub const READY: &str = "Ready";
    /// ServiceExport, ExportRecord: exports of one service disagree.
    pub const CONFLICT: &str = "Conflict";
    /// MultiClusterService: each proxy serves what was sent last; False names who refused what.
    pub const PROGRAMMED: &str = "Programmed";
    /// MemberCluster: it is deleted; False while exports that are in use keep it.
    pub const LEAVING: &str = "Leaving";
    /// ExportRecord: the claimed age of the export is believable.
    pub const AGE_PLAUSIBLE: &str = "AgePlausible";
}

/// Reasons.
pub mod reason {
    /// Valid: nothing wrong.
    pub const VALID: &str = "Valid";
    /// Valid: the Service does not exist.
    pub const NO_SERVICE: &str = "NoService";
    /// Valid: the Service is of a type that cannot be exported.
    pub const INVALID_SERVICE_TYPE: &str = "InvalidServiceType";
    /// Valid: the namespace belongs to a control plane.
    pub const RESERVED_NAMESPACE: &str = "ReservedNamespace";
    /// Valid: `MemberCluster.spec.allowExports` does not name it.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// Valid: addresses were refused.
    pub const REFUSED_ADDRESSES: &str = "RefusedAddresses";
    /// Valid: an annotation cannot be read; the earlier state stays.
    pub const INVALID_ANNOTATION: &str = "InvalidAnnotation";
    /// Valid: the object's name is not the hash of its origin.
    pub const FORGED_ORIGIN: &str = "ForgedOrigin";
    /// Valid: a field cannot be used as it is.
    pub const INVALID_FIELD: &str = "InvalidField";
    /// Valid: the member has no MemberCluster any more.
    pub const NOT_A_MEMBER: &str = "NotAMember";
    /// Ready: exported.
    pub const EXPORTED: &str = "Exported";
    /// Ready: served.
    pub const READY: &str = "Ready";
    /// Ready: on its way.
    pub const PENDING: &str = "Pending";
    /// Ready: failed.
    pub const FAILED: &str = "Failed";
    /// Ready: no ServiceImport of that name.
    pub const NO_IMPORT: &str = "NoServiceImport";
    /// Ready: nothing that could take a connection.
    pub const NO_ENDPOINTS: &str = "NoReadyEndpoints";
    /// Ready, ProxyGroup: no proxy is connected.
    pub const NO_PROXIES: &str = "NoProxies";
    /// Ready: a proxy group or a port of it cannot be had.
    pub const NO_FRONTEND: &str = "NoFrontend";
    /// Ready (import): the families of the import are not served here.
    pub const IP_FAMILY_NOT_SUPPORTED: &str = "IPFamilyNotSupported";
    /// Programmed: each connected proxy applied it.
    pub const APPLIED: &str = "Applied";
    /// Programmed: a proxy refused a resource.
    pub const REFUSED: &str = "Refused";
    /// AgePlausible: older than anything the hub can have seen.
    pub const AGE_UNVERIFIED: &str = "OlderThanFirstSeen";
    /// Conflict: none.
    pub const NO_CONFLICTS: &str = "NoConflicts";
    /// Conflict: ports.
    pub const PORT_CONFLICT: &str = "PortConflict";
    /// Conflict: type.
    pub const TYPE_CONFLICT: &str = "TypeConflict";
    /// Conflict: session affinity.
    pub const SESSION_AFFINITY_CONFLICT: &str = "SessionAffinityConflict";
    /// Conflict: session affinity settings.
    pub const SESSION_AFFINITY_CONFIG_CONFLICT: &str = "SessionAffinityConfigConflict";
    /// Conflict: exported labels.
    pub const LABELS_CONFLICT: &str = "LabelsConflict";
    /// Conflict: exported annotations.
    pub const ANNOTATIONS_CONFLICT: &str = "AnnotationsConflict";
    /// Conflict: internal traffic policy.
    pub const INTERNAL_TRAFFIC_POLICY_CONFLICT: &str = "InternalTrafficPolicyConflict";
    /// Conflict: traffic distribution.
    pub const TRAFFIC_DISTRIBUTION_CONFLICT: &str = "TrafficDistributionConflict";
    /// Conflict: IP families.
    pub const IP_FAMILY_CONFLICT: &str = "IPFamilyConflict";
    /// Joined: namespace, identity and Role exist.
    pub const PREPARED: &str = "Prepared";
    /// Joined, Healthy: the agent reports.
    pub const JOINED: &str = "Joined";
    /// Joined: the agent has not been heard of yet.
    pub const NEVER_SEEN: &str = "NeverSeen";
    /// Joined, Leaving: it is going.
    pub const LEAVING: &str = "Leaving";
    /// Leaving: others use its exports.
    pub const EXPORTS_IN_USE: &str = "ExportsInUse";
    /// Healthy: the heartbeat is fresh.
    pub const HEARTBEAT_FRESH: &str = "HeartbeatFresh";
    /// Healthy: the heartbeat is lost; endpoints that nothing probes are withdrawn.
    pub const HEARTBEAT_LOST: &str = "HeartbeatLost";
    /// Healthy: so many members fell silent at once that the fault is more likely here; nothing is
    /// withdrawn.
    pub const MASS_LOSS: &str = "MassLoss";
    /// Healthy: the member's API server does not answer its agent.
    pub const API_SERVER_UNREADY: &str = "APIServerUnready";
}

/// The list with `wanted` in it, or `None` when it says so already.
///
/// The transition time moves only when the status does. Other conditions stay as they are.
pub fn set(
    old: &[Condition],
    wanted: &[Wanted],
    generation: Option<i64>,
    now: &Time,
) -> Option<Vec<Condition>> {
    let mut new = old.to_vec();
    for item in wanted {
        let fresh = condition(item, generation, now);
        match new.iter_mut().find(|have| have.type_ == item.kind) {
            None => new.push(fresh),
            Some(have) => {
                let since = if have.status == fresh.status {
                    have.last_transition_time.clone()
                } else {
                    fresh.last_transition_time.clone()
                };
                *have = Condition {
                    last_transition_time: since,
                    ..fresh
                };
            }
        }
    }
    (new != old).then_some(new)
}

/// The condition of this type.
pub fn find<'c>(conditions: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of this type is True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

impl Wanted {
    /// A condition that should be True.
    pub fn yes(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(kind, Some(true), reason, message)
    }

    /// A condition that should be False.
    pub fn no(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(kind, Some(false), reason, message)
    }

    /// A condition that should be Unknown.
    pub fn unknown(
        kind: &'static str,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(kind, None, reason, message)
    }

    fn new(
        kind: &'static str,
        status: Option<bool>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

fn condition(wanted: &Wanted, generation: Option<i64>, now: &Time) -> Condition {
    let status = match wanted.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let mut message = wanted.message.clone();
    if message.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(cut);
        message.push('…');
    }
    Condition {
        type_: wanted.kind.to_owned(),
        status: status.to_owned(),
        reason: wanted.reason.clone(),
        message,
        observed_generation: generation,
        last_transition_time: now.clone(),
    }
}

/// A condition's message is cut here; Kubernetes allows 32 KiB, people read less.
pub const MESSAGE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn an_equal_condition_changes_nothing_and_a_new_message_keeps_the_time() {
        let ready = Wanted::yes(kind::READY, reason::READY, "3 of 3");
        let first = set(&[], std::slice::from_ref(&ready), Some(1), &at(10)).unwrap();
        assert_eq!(set(&first, &[ready], Some(1), &at(20)), None);
        let reworded = Wanted::yes(kind::READY, reason::READY, "2 of 2");
        let second = set(&first, &[reworded], Some(1), &at(20)).unwrap();
        assert_eq!(second[0].last_transition_time, at(10));
        let flipped = Wanted::no(kind::READY, reason::NO_ENDPOINTS, "none");
        let third = set(&second, &[flipped], Some(1), &at(30)).unwrap();
        assert_eq!(third[0].last_transition_time, at(30));
        assert_eq!(third.len(), 1);
    }

    #[test]
    fn conditions_of_other_writers_stay() {
        let foreign = set(&[], &[Wanted::yes("Foreign", "X", "")], None, &at(1)).unwrap();
        let both = set(&foreign, &[Wanted::unknown("Mine", "Y", "")], None, &at(2)).unwrap();
        assert_eq!(both.len(), 2);
        assert!(is_true(&both, "Foreign") && !is_true(&both, "Mine"));
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let long = Wanted::yes(kind::READY, "R", "é".repeat(MESSAGE_BYTES_MAX));
        let list = set(&[], &[long], None, &at(1)).unwrap();
        assert!(list[0].message.len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
    }
}
