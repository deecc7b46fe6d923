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
    use super::*;
    use crate::testing::services::service;

    #[test]
    fn one_that_is_back_before_its_deadline_keeps_its_sessions() {
        let fixture = service("a:1").build();
        let endpoint = fixture.endpoints()[0].clone();
        let change = |kind, at| Change {
            endpoint: endpoint.clone(),
            service: fixture.view().service.clone(),
            kind,
            at,
        };
        let mut leaving = Leaving::default();
        leaving.note(&change(ChangeKind::Draining, Tick(0)));
        let deadline = leaving.next_deadline().unwrap();
        leaving.note(&change(ChangeKind::Usable, Tick(1)));
        assert_eq!(leaving.due(deadline), []);
        assert_eq!(leaving.next_deadline(), None);

        // And those not yet reset are kept.
        leaving.note(&change(ChangeKind::Draining, Tick(0)));
        let cancelled = Arc::new(AtomicBool::new(false));
        leaving.began(endpoint.id, cancelled.clone());
        leaving.note(&change(ChangeKind::Usable, deadline));
        assert!(cancelled.load(Ordering::Relaxed));
    }
}
