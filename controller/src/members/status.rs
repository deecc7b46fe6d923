//! What MemberCluster.status says.

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    member::{AgentStatus, MEMBER_AGENT, MemberClusterStatus, MemberReportSpec},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Verdict;
use crate::world::ServiceKey;

/// What is known of a member.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'f> {
    /// What its agent reported last.
    pub report: Option<&'f MemberReportSpec>,
    /// What its heartbeat says.
    pub verdict: Verdict,
    /// Namespace, identity and Role exist.
    pub prepared: bool,
    /// It is being deleted, and nothing keeps it.
    pub leaving: bool,
    /// It is being deleted, but these exports are in use and keep it.
    pub kept_by: &'f [ServiceKey],
    /// Exports accepted from it.
    pub exports: usize,
    /// How many of how many members are silent.
    pub silent: (usize, usize),
    /// Of the MemberCluster.
    pub generation: Option<i64>,
}

/// The status a member should have, or `None` when it has it.
pub fn status(
    old: &MemberClusterStatus,
    facts: &Facts<'_>,
    now: &Time,
) -> Option<MemberClusterStatus> {
    let mut wanted = vec![ready_to_join(facts), joined(facts), healthy(facts)];
    wanted.extend(leaving(facts));
    let mut new = old.clone();
    if let Some(changed) = conditions::set(&old.conditions, &wanted, facts.generation, now) {
        new.conditions = changed;
    }
    if let Some(report) = facts.report {
        take_report(&mut new, report, now);
    }
    let exports = i32::try_from(facts.exports).unwrap_or(i32::MAX);
    new.exports = Some(exports);
    if facts.verdict == Verdict::Fresh && (new != *old || is_stale(old, now)) {
        new.last_seen = Some(now.clone());
    }
    (new != *old).then_some(new)
}

fn ready_to_join(facts: &Facts<'_>) -> Wanted {
    if facts.prepared {
        Wanted::yes(
            kind::READY_TO_JOIN,
            reason::PREPARED,
            "namespace, identity and Role of the member exist on the hub",
        )
    } else {
        Wanted::no(
            kind::READY_TO_JOIN,
            reason::PENDING,
            "namespace, identity and Role are being made",
        )
    }
}

fn joined(facts: &Facts<'_>) -> Wanted {
    if facts.leaving {
        return Wanted::no(
            kind::JOINED,
            reason::LEAVING,
            "the member is being taken out; its workloads stay, its exports are withdrawn",
        );
    }
    match facts.verdict {
        Verdict::NeverSeen => Wanted::no(
            kind::JOINED,
            reason::NEVER_SEEN,
            "its agent has not been heard of; start it in the member with `fairlead join`",
        ),
        _ => Wanted::yes(kind::JOINED, reason::JOINED, "its agent has joined"),
    }
}

/// Nothing before it is deleted.
fn leaving(facts: &Facts<'_>) -> Option<Wanted> {
    if facts.leaving {
        return Some(Wanted::yes(
            kind::LEAVING,
            reason::LEAVING,
            "its exports are withdrawn and its identity is revoked; it is gone once its namespace on the hub is",
        ));
    }
    let first = facts.kept_by.first()?;
    let named = facts
        .kept_by
        .iter()
        .take(NAMED_MAX)
        .map(ToString::to_string);
    let named: Vec<String> = named.collect();
    let more = match facts.kept_by.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Wanted::no(
        kind::LEAVING,
        reason::EXPORTS_IN_USE,
        format!(
            "it is deleted, but other members or proxies use {} of its exports: {}{more}. They are served on. To let it go, withdraw them in the member (kubectl -n {} delete serviceexport {}), or set spec.deleteOptions.validationMode to Skip, as `fairlead leave` does",
            facts.kept_by.len(),
            named.join(", "),
            first.namespace,
            first.name,
        ),
    ))
}

fn healthy(facts: &Facts<'_>) -> Wanted {
    let (silent, members) = facts.silent;
    let unready = facts.report.is_some_and(|report| !report.api_server_ready);
    match facts.verdict {
        Verdict::NeverSeen => Wanted::unknown(
            kind::HEALTHY,
            reason::NEVER_SEEN,
            "its agent has not been heard of",
        ),
        Verdict::Lost => Wanted::no(
            kind::HEALTHY,
            reason::HEARTBEAT_LOST,
            "no heartbeat for 15 s; endpoints stay in service as long as probes pass, those that nothing probes are withdrawn",
        ),
        Verdict::Suspended => Wanted::unknown(
            kind::HEALTHY,
            reason::MASS_LOSS,
            format!(
                "{silent} of {members} members fell silent together, so the fault is more likely on the hub's side; nothing is withdrawn"
            ),
        ),
        Verdict::Fresh if unready => Wanted::no(
            kind::HEALTHY,
            reason::API_SERVER_UNREADY,
            "its agent says that the member's API server is not ready",
        ),
        Verdict::Fresh => Wanted::yes(
            kind::HEALTHY,
            reason::HEARTBEAT_FRESH,
            "heartbeat and API server are well",
        ),
    }
}

fn take_report(new: &mut MemberClusterStatus, report: &MemberReportSpec, now: &Time) {
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    new.properties.clone_from(&report.properties);
    new.resource_usage.clone_from(&report.resource_usage);
    new.agent_version = text(&report.agent_version);
    new.kubernetes_version = text(&report.kubernetes_version);
    new.cluster_uid = new.cluster_uid.take().or_else(|| text(&report.cluster_uid));
    let agent = new
        .agent_status
        .iter_mut()
        .find(|agent| agent.kind == MEMBER_AGENT);
    let heartbeat = report.observed_at.clone().or_else(|| Some(now.clone()));
    match agent {
        Some(agent) if report.observed_at.is_none() => drop(agent.conditions.drain(..)),
        Some(agent) => agent.last_received_heartbeat = heartbeat,
        None => new.agent_status.push(AgentStatus {
            kind: MEMBER_AGENT.to_owned(),
            conditions: Vec::new(),
            last_received_heartbeat: heartbeat,
        }),
    }
}

/// The last-seen time moves once a minute while nothing else changes: 1,000 members make 17 writes
/// a second of it.
fn is_stale(old: &MemberClusterStatus, now: &Time) -> bool {
    match &old.last_seen {
        None => true,
        Some(seen) => now.0.as_second() - seen.0.as_second() >= 60,
    }
}

/// Exports that a condition names; beyond that it counts.
const NAMED_MAX: usize = 5;
