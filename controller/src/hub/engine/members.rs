//! Members in the engine: their objects, heartbeats, reports, statuses and identities.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_api::{
    conditions::{self, kind},
    labels,
    member::{MemberClusterStatus, MemberReport},
};
use fairlead_config::name::MemberName;
use fairlead_runtime::clock::Tick;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Taint};
use kube::ResourceExt;

use super::{Engine, Phase};
use crate::{
    hub::{events::About, identities::Task, news, watches::Seen},
    members::{self, Facts, Verdict},
    status::Write,
    time,
    world::Object,
};

/// What the leader needs of a MemberCluster beside what the World keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) status: MemberClusterStatus,
    pub(super) version: u64,
    pub(super) generation: Option<i64>,
    /// It is deleted.
    pub(super) deleted: bool,
    /// And nothing keeps it.
    pub(super) leaving: bool,
    pub(super) taints: Vec<Taint>,
    pub(super) finalized: bool,
    pub(super) prepared: bool,
}

impl Engine {
    pub(super) fn know(&mut self, object: &Object) {
        let Object::Member(object) = object else {
            return;
        };
        let Ok(name) = MemberName::parse(&object.name_any()) else {
            return;
        };
        let status = object.status.clone().unwrap_or_default();
        let old = self.members.get(&name);
        let prepared = old.is_some_and(|old| old.prepared);
        let deleted = object.metadata.deletion_timestamp.is_some();
        let let_go = old.is_some_and(|old| old.leaving);
        let known = Known {
            version: object
                .resource_version()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            generation: object.metadata.generation,
            deleted,
            leaving: object.is_revoked() || (deleted && let_go),
            taints: object.spec.taints.clone(),
            finalized: object
                .finalizers()
                .iter()
                .any(|one| one == labels::MEMBER_FINALIZER),
            prepared,
            status,
        };
        let state = |known: &Known| (known.deleted, known.leaving);
        let is_new = old.is_none_or(|old| state(old) != state(&known));
        if old.is_some_and(|old| old.taints != known.taints) {
            self.announce_taints(&name, known.version, &known.taints);
        }
        let verdict = verdict_of(&known.status);
        self.heartbeats
            .join(name.clone(), verdict, self.clock.now());
        self.members.insert(name, known);
        if is_new {
            self.tell_members();
            self.hurry();
        }
    }

    pub(super) fn tell_members(&self) {
        let present = self.members.iter().filter(|(_, known)| !known.leaving);
        let present: BTreeSet<MemberName> = present.map(|(name, _)| name.clone()).collect();
        self.out.members.send_if_modified(|old| {
            let changed = **old != present;
            if changed {
                *old = Arc::new(present);
            }
            changed
        });
    }

    /// What deleted members wait for may be over.
    pub(super) fn look_at_deleted(&mut self) {
        if self.members.values().any(|known| known.deleted) {
            self.hurry();
        }
    }

    fn announce_taints(&self, member: &MemberName, version: u64, taints: &[Taint]) {
        if !self.leadership.is_mine() {
            return;
        }
        self.out
            .events
            .tell(version, [news::of_taints(member, taints)]);
    }

    pub(super) fn announce(&self, member: &MemberName, verdict: Verdict) {
        tracing::info!(%member, ?verdict, "a member's heartbeat was judged");
        let about = About::Member(member.to_string());
        let events = &self.out.events;
        match verdict {
            Verdict::NeverSeen => {}
            Verdict::Fresh => {
                events.normal(about, "HeartbeatFresh", "its heartbeat is fresh".to_owned());
            }
            Verdict::Lost => events.warning(
                about,
                "HeartbeatLost",
                "no heartbeat for 15 s; endpoints that nothing probes are withdrawn".to_owned(),
            ),
            Verdict::Suspended => {
                let (silent, members) = self.heartbeats.silent();
                let note = format!(
                    "{silent} of {members} members fell silent together; nothing is withdrawn"
                );
                events.warning(about, "MassLoss", note);
            }
        }
    }

    pub(super) fn see_lease(&mut self, seen: Seen<Lease>) {
        let now = self.clock.now();
        match seen {
            Seen::Apply(lease) => self.renew(&lease, now),
            Seen::Reset(all) => {
                self.leases_listed = true;
                self.heartbeats.sighted(now);
                for lease in all {
                    self.renew(&lease, now);
                }
            }
            Seen::Delete(_) => {}
            Seen::Failed => self.heartbeats.blind(now),
        }
    }

    pub(super) fn renew(&mut self, lease: &Lease, now: Tick) {
        let namespace = lease.namespace().unwrap_or_default();
        let member = labels::member_of_namespace(&namespace).map(MemberName::parse);
        let renewal = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.renew_time.as_ref());
        if let (Some(Ok(member)), Some(renewal)) = (member, renewal) {
            self.heartbeats
                .renewed(&member, &renewal.0.to_string(), now);
        }
    }

    pub(super) fn see_report(&mut self, seen: Seen<MemberReport>) {
        let member_of = |report: &MemberReport| {
            let namespace = report.namespace().unwrap_or_default();
            let named = report.name_any() == labels::MEMBER_REPORT;
            let member = labels::member_of_namespace(&namespace).map(MemberName::parse);
            member.and_then(Result::ok).filter(|_| named)
        };
        match seen {
            Seen::Apply(report) => {
                if let Some(member) = member_of(&report) {
                    self.reports.insert(member, report.spec);
                    self.hurry();
                }
            }
            Seen::Reset(all) => {
                let all = all.into_iter();
                self.reports = all
                    .filter_map(|report| Some((member_of(&report)?, report.spec)))
                    .collect();
            }
            Seen::Delete(_) | Seen::Failed => {}
        }
    }

    /// Those that are deleted, and that nothing keeps any more, leave.
    fn let_members_go(&mut self) {
        // Before everything has been planned once, nothing is known to be unused.
        if *self.out.phase.borrow() != Phase::Serving {
            return;
        }
        let mut any = false;
        for (name, known) in &mut self.members {
            if known.deleted && !known.leaving {
                known.leaving = self.world.exports_in_use(name).is_empty();
                any |= known.leaving;
            }
        }
        if any {
            self.tell_members();
        }
    }

    /// Every member's status and identity.
    pub(super) async fn sweep_members(&mut self) {
        self.let_members_go();
        let mut writes = Vec::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let stamp = time::time(&self.clock);
        for (name, known) in &self.members {
            let verdict = self.heartbeats.verdict(name);
            *counts.entry(verdict_label(verdict)).or_default() += 1;
            let ready = conditions::is_true(&known.status.conditions, kind::READY_TO_JOIN);
            let kept_by = match known.deleted && !known.leaving {
                true => self.world.exports_in_use(name),
                false => Vec::new(),
            };
            let facts = Facts {
                report: self.reports.get(name),
                verdict,
                prepared: known.prepared || ready,
                leaving: known.leaving,
                kept_by: &kept_by,
                exports: self.world.exports_of(name),
                silent: self.heartbeats.silent(),
                generation: known.generation,
            };
            if let Some(status) = members::status(&known.status, &facts, &stamp) {
                let news = news::of_member(name, &known.status, &status);
                self.out.events.tell(known.version, news);
                writes.push(Write::Member {
                    name: name.to_string(),
                    version: known.version,
                    status: Box::new(status),
                });
            }
            let task = match (known.leaving, known.prepared && known.finalized) {
                (true, _) => Task::Dismantle(name.clone()),
                (false, false) if !known.deleted => Task::Prepare(name.clone()),
                (false, _) => continue,
            };
            // A full queue means that it is being worked on; the next sweep asks again.
            drop(self.out.identities.try_send(task));
        }
        for verdict in ["NeverSeen", "Fresh", "Lost", "Suspended"] {
            let count = counts.get(verdict).copied().unwrap_or(0);
            self.metrics.members(verdict, count);
        }
        self.write(writes).await;
    }
}

pub(super) fn verdict_of(status: &MemberClusterStatus) -> Verdict {
    use fairlead_api::conditions::reason;
    let healthy = conditions::find(&status.conditions, kind::HEALTHY);
    match healthy.map(|condition| condition.reason.as_str()) {
        None | Some(reason::NEVER_SEEN) => Verdict::NeverSeen,
        Some(reason::HEARTBEAT_LOST) => Verdict::Lost,
        Some(reason::MASS_LOSS) => Verdict::Suspended,
        Some(_) => Verdict::Fresh,
    }
}

fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NeverSeen => "NeverSeen",
        Verdict::Fresh => "Fresh",
        Verdict::Lost => "Lost",
        Verdict::Suspended => "Suspended",
    }
}
