//! Endpoints whose live sessions have a deadline.
//!
//! Removed, draining and unhealthy are different states with different deadlines. An endpoint
//! that becomes usable again before its deadline keeps its sessions; after it, those not yet reset
//! are kept.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fairlead_config::policy::OnUnhealthy;
use fairlead_runtime::clock::Tick;

use super::reason_of;
use crate::{
    access_log::Reason,
    directory::{Change, ChangeKind},
    registry::{EndpointId, EndpointState, Flags},
};

/// The endpoints that leave.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    endpoints: BTreeMap<EndpointId, Departure>,
}

#[derive(Debug)]
struct Departure {
    /// Weak, so that its number is free once its last session has ended.
    endpoint: Weak<EndpointState>,
    kind: ChangeKind,
    deadline: Tick,
    /// Raised to stop resets under way.
    cancelled: Option<Arc<AtomicBool>>,
}

// === impl Leaving ===

impl Leaving {
    /// Takes note of a change; [`Self::due`] says what follows.
    pub(super) fn note(&mut self, change: &Change) {
        let id = change.endpoint.id;
        let drain = &change.service.policy.drain;
        let delay = match change.kind {
            ChangeKind::Usable => {
                return self.cancel(id);
            }
            ChangeKind::Removed => drain.removed,
            ChangeKind::Draining => drain.draining,
            ChangeKind::Unhealthy(_) if drain.unhealthy == OnUnhealthy::Reset => Duration::ZERO,
            ChangeKind::Unhealthy(_) => return,
        };
        let deadline = change.at + delay;
        match self.endpoints.get(&id) {
            // Removed while draining: the earlier deadline counts.
            Some(known) if known.deadline <= deadline => {}
            _ => {
                self.cancel(id);
                let departure = Departure {
                    endpoint: Arc::downgrade(&change.endpoint),
                    kind: change.kind,
                    deadline,
                    cancelled: None,
                };
                self.endpoints.insert(id, departure);
            }
        }
    }

    /// Whose deadline has come. Those that are gone, or back, are forgotten.
    pub(super) fn due(&mut self, now: Tick) -> Vec<(EndpointId, Reason)> {
        self.endpoints.retain(|_, departure| {
            departure.endpoint.upgrade().is_some_and(|endpoint| {
                departure.kind != ChangeKind::Removed || endpoint.flags().has(Flags::REMOVED)
            })
        });
        let due = self
            .endpoints
            .iter()
            .filter(|(_, departure)| departure.cancelled.is_none() && departure.deadline <= now);
        due.filter_map(|(id, departure)| Some((*id, reason_of(&departure.kind)?)))
            .collect()
    }

    /// Its sessions are being reset, until `cancelled` is raised.
    pub(super) fn began(&mut self, id: EndpointId, cancelled: Arc<AtomicBool>) {
        if let Some(departure) = self.endpoints.get_mut(&id) {
            departure.cancelled = Some(cancelled);
        }
    }

    /// When [`Self::due`] has something.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        let waiting = self.endpoints.values();
        let waiting = waiting.filter(|departure| departure.cancelled.is_none());
        waiting.map(|departure| departure.deadline).min()
    }

    fn cancel(&mut self, id: EndpointId) {
        if let Some(Departure {
            cancelled: Some(cancelled),
            ..
        }) = self.endpoints.remove(&id)
        {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use fairlead_config::policy::Drain;

    use super::*;
    use crate::{
        health::verdict::{Cause, Verdict},
        testing::services::{Fixture, service},
    };

    /// A service whose sessions may go on for 300 s while draining and for 60 s once removed.
    fn fixture(unhealthy: OnUnhealthy) -> Fixture {
        let drain = Drain {
            draining: Duration::from_secs(300),
            removed: Duration::from_secs(60),
            unhealthy,
            resets_per_second: 500,
        };
        let service = service("a:1");
        service.policy(|policy| policy.drain = drain).build()
    }

    /// What happens to the endpoint of `fixture`, at this second.
    fn change(fixture: &Fixture, kind: ChangeKind, second: u64) -> Change {
        Change {
            endpoint: fixture.endpoints()[0].clone(),
            service: fixture.view().service.clone(),
            kind,
            at: at(second),
        }
    }

    fn at(second: u64) -> Tick {
        Tick::from_start(Duration::from_secs(second))
    }

    #[test]
    fn one_that_is_removed_while_it_drains_has_the_earlier_deadline_of_the_two() {
        for (drains, is_removed, expected) in [(0, 10, 70), (0, 290, 300), (0, 240, 300)] {
            let fixture = fixture(OnUnhealthy::Keep);
            let mut leaving = Leaving::default();
            leaving.note(&change(&fixture, ChangeKind::Draining, drains));
            let removed = change(&fixture, ChangeKind::Removed, is_removed);
            removed.endpoint.change_flags(Flags::REMOVED, Flags::NONE);
            leaving.note(&removed);
            assert_eq!(leaving.next_deadline(), Some(at(expected)), "{is_removed}");
            let before = Tick(at(expected).0 - 1);
            assert_eq!(leaving.due(before), [], "{is_removed}");
            let reason = match expected {
                300 => Reason::EndpointDrained,
                _ => Reason::EndpointRemoved,
            };
            let id = removed.endpoint.id;
            assert_eq!(leaving.due(at(expected)), [(id, reason)], "{is_removed}");
        }
    }

    #[test]
    fn resets_of_a_drained_one_under_way_go_on_when_it_is_removed() {
        let fixture = fixture(OnUnhealthy::Keep);
        let mut leaving = Leaving::default();
        let draining = change(&fixture, ChangeKind::Draining, 0);
        leaving.note(&draining);
        let cancelled = Arc::new(AtomicBool::new(false));
        leaving.began(draining.endpoint.id, cancelled.clone());
        leaving.note(&change(&fixture, ChangeKind::Removed, 301));
        assert!(!cancelled.load(Ordering::Relaxed));
        assert_eq!(leaving.due(at(1000)), [], "not a second time");
    }

    #[test]
    fn an_unhealthy_one_loses_its_sessions_at_once_only_where_the_policy_says_so() {
        let unhealthy = ChangeKind::Unhealthy(Verdict::Down(Cause::Ejected));
        for policy in [OnUnhealthy::Keep, OnUnhealthy::Reset] {
            let fixture = fixture(policy);
            let mut leaving = Leaving::default();
            let change = change(&fixture, unhealthy, 5);
            leaving.note(&change);
            let due = match policy {
                OnUnhealthy::Keep => vec![],
                OnUnhealthy::Reset => vec![(change.endpoint.id, Reason::EndpointUnhealthy)],
            };
            assert_eq!(leaving.due(at(5)), due, "{policy:?}");
            let waits = leaving.next_deadline().is_some();
            assert_eq!(waits, policy == OnUnhealthy::Reset);
        }
    }

    #[test]
    fn one_that_turns_unhealthy_while_it_drains_keeps_its_deadline_or_loses_its_sessions() {
        let unhealthy = ChangeKind::Unhealthy(Verdict::Down(Cause::Ejected));
        for (policy, expected) in [(OnUnhealthy::Keep, 300), (OnUnhealthy::Reset, 5)] {
            let fixture = fixture(policy);
            let mut leaving = Leaving::default();
            leaving.note(&change(&fixture, ChangeKind::Draining, 0));
            leaving.note(&change(&fixture, unhealthy, 5));
            assert_eq!(leaving.next_deadline(), Some(at(expected)), "{policy:?}");
        }
    }

    #[test]
    fn one_that_is_back_before_its_deadline_keeps_its_sessions() {
        let fixture = fixture(OnUnhealthy::Keep);
        let draining = change(&fixture, ChangeKind::Draining, 0);
        let mut leaving = Leaving::default();
        leaving.note(&draining);
        leaving.note(&change(&fixture, ChangeKind::Usable, 1));
        assert_eq!(leaving.due(at(300)), []);
        assert_eq!(leaving.next_deadline(), None);

        // And those not yet reset are kept.
        leaving.note(&draining);
        let cancelled = Arc::new(AtomicBool::new(false));
        leaving.began(draining.endpoint.id, cancelled.clone());
        leaving.note(&change(&fixture, ChangeKind::Usable, 300));
        assert!(cancelled.load(Ordering::Relaxed));
    }
}
