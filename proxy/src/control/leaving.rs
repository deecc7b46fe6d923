//! Endpoints whose live sessions have a deadline.
//!
//! Removed, draining and unhealthy are different states with different deadlines. An endpoint
//! that becomes usable again before its deadline keeps its sessions; after it, those not yet reset
//! are kept.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fairlead_config::policy::OnUnhealthy;
use fairlead_runtime::clock::Tick;

use super::reason_of;
use crate::{
    access_log::Reason,
    directory::{Change, ChangeKind},
    registry::EndpointId,
};

/// The endpoints that leave.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    endpoints: BTreeMap<EndpointId, Departure>,
}

#[derive(Debug)]
struct Departure {
    kind: ChangeKind,
    deadline: Tick,
    /// Raised to stop resets under way.
    cancelled: Option<Arc<AtomicBool>>,
}

// === impl Leaving ===

impl Leaving {
    /// Takes note of a change; the answer is what to cut at once.
    pub(super) fn note(&mut self, change: &Change) -> Option<(EndpointId, Reason)> {
        let id = change.endpoint.id;
        let drain = &change.service.policy.drain;
        let delay = match change.kind {
            ChangeKind::Usable => {
                self.cancel(id);
                return None;
            }
            ChangeKind::Removed => drain.removed,
            ChangeKind::Draining => drain.draining,
            ChangeKind::Unhealthy if drain.unhealthy == OnUnhealthy::Reset => {
                return Some((id, Reason::EndpointUnhealthy));
            }
            ChangeKind::Unhealthy => return None,
        };
        let deadline = change.at + delay;
        match self.endpoints.get(&id) {
            // Removed while draining: the earlier deadline counts.
            Some(known) if known.deadline <= deadline => {}
            _ => {
                self.cancel(id);
                let departure = Departure {
                    kind: change.kind.clone(),
                    deadline,
                    cancelled: None,
                };
                self.endpoints.insert(id, departure);
            }
        }
        None
    }

    /// Whose deadline has come.
    pub(super) fn due(&mut self, now: Tick) -> Vec<(EndpointId, Reason)> {
        let due = self
            .endpoints
            .iter()
            .filter(|(_, departure)| departure.cancelled.is_none() && departure.deadline <= now);
        due.filter_map(|(id, departure)| Some((*id, reason_of(&departure.kind)?)))
            .collect()
    }

    /// Its sessions are being reset, until `cancelled` is raised.
    pub(super) fn began(&mut self, id: EndpointId, cancelled: Arc<AtomicBool>) {
        let departure = self.endpoints.entry(id).or_insert(Departure {
            kind: ChangeKind::Unhealthy,
            deadline: Tick::ZERO,
            cancelled: None,
        });
        departure.cancelled = Some(cancelled);
    }

    /// When [`Self::due`] has something.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        let waiting = self.endpoints.values();
        let waiting = waiting.filter(|departure| departure.cancelled.is_none());
        waiting.map(|departure| departure.deadline).min()
    }

    /// Forgets endpoints whose numbers are given to others.
    pub(super) fn forget(&mut self, ids: &[EndpointId]) {
        for id in ids {
            self.endpoints.remove(id);
        }
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
