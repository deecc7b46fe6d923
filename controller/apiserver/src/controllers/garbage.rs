//! Garbage collection: who depends on whom, and what follows from that for one object.
//!
//! The graph holds only objects that have owners (and the uids they name), so a server without
//! owner references pays nothing. It is fed every change in order; [`decide`] judges one object by
//! the present state of its owners.
//!
//! Invariant: whenever the ground for a verdict changes, the object is looked at again. The ground
//! of a dependent is its owners (they change, are marked, or go); that of an owner which waits is
//! its dependents (they go, or no longer name it).

use crate::kinds::metadata::{FOREGROUND, ORPHAN};
use crate::kinds::value::list;
use crate::store::Key;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Where an object is: its table and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) table: Arc<str>,
    pub(crate) key: Key,
}

/// One entry of `ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) blocks: bool,
}

/// All owned objects, by place and by owner.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    owned: HashMap<Place, Vec<Owner>>,
    dependents: HashMap<String, BTreeSet<Place>>,
    /// Uids of owners that are known to be gone, as long as an object names them: true even when
    /// their kind is no longer served.
    gone: HashSet<String>,
}

/// The present state of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    /// There, and not waiting for its dependents.
    Solid,
    /// Being deleted in the foreground: it waits for its dependents to go first.
    Waiting,
    /// Gone, or another object of the same name.
    Gone,
    /// Its kind isn't served, or it can't own this object: no ground to delete anything.
    Unknown,
}

/// What to do with an object that has owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// Take these owners out: others still hold the object.
    Release(Vec<String>),
    Delete(Policy),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Background,
    Foreground,
    Orphan,
}

// === impl Graph ===

impl Graph {
    /// Takes note of an object's owners. `None`: they are as before; else those it had before that
    /// it no longer names in the same way, who may have waited for that.
    pub(crate) fn observe(&mut self, place: &Place, owners: Vec<Owner>) -> Option<Vec<Owner>> {
        let known = self.owned.get(place).map(Vec::as_slice).unwrap_or_default();
        if known == owners {
            return None;
        }
        // Entered before the old ones leave: what is known of an owner lasts while it is named.
        for owner in &owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(place.clone());
        }
        let mut freed = if owners.is_empty() {
            self.owned.remove(place)
        } else {
            self.owned.insert(place.clone(), owners.clone())
        }
        .unwrap_or_default();
        freed.retain(|owner| !owners.contains(owner));
        for owner in &freed {
            if !owners.iter().any(|kept| kept.uid == owner.uid) {
                self.disown(place, &owner.uid);
            }
        }
        Some(freed)
    }

    /// The object is gone. Answers the owners it had.
    pub(crate) fn forget(&mut self, place: &Place) -> Vec<Owner> {
        self.observe(place, Vec::new()).unwrap_or_default()
    }

    /// An object of this uid is gone, for ever.
    pub(crate) fn bury(&mut self, uid: &str) {
        if self.dependents.contains_key(uid) {
            self.gone.insert(uid.to_owned());
        }
    }

    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Place> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Dependents that the owner must wait for.
    pub(crate) fn blockers(&self, uid: &str) -> Vec<Place> {
        let blocks = |place: &&Place| {
            self.owned
                .get(*place)
                .is_some_and(|owners| owners.iter().any(|owner| owner.uid == uid && owner.blocks))
        };
        self.dependents(uid).filter(blocks).cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.owned.clear();
        self.dependents.clear();
        self.gone.clear();
    }

    fn disown(&mut self, place: &Place, uid: &str) {
        if let Some(places) = self.dependents.get_mut(uid) {
            places.remove(place);
            if places.is_empty() {
                self.dependents.remove(uid);
                self.gone.remove(uid);
            }
        }
    }
}

// === impl Owner ===

impl Owner {
    pub(crate) fn parse_all(object: &Value) -> Vec<Self> {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        list(&object["metadata"], "ownerReferences")
            .iter()
            .map(|owner| Self {
                api_version: text(owner, "apiVersion"),
                kind: text(owner, "kind"),
                name: text(owner, "name"),
                uid: text(owner, "uid"),
                blocks: owner["blockOwnerDeletion"] == true,
            })
            .collect()
    }
}

/// What follows for `object` from the state of its owners. `has_dependents`: others name it.
pub(crate) fn decide(
    object: &Value,
    owners: &[(Owner, OwnerState)],
    has_dependents: bool,
) -> Verdict {
    if owners.is_empty() || (is_deleting(object) && !waits_for_dependents(object)) {
        return Verdict::Keep;
    }
    let uids = |wanted: &[OwnerState]| -> Vec<String> {
        owners
            .iter()
            .filter(|(_, state)| wanted.contains(state))
            .map(|(owner, _)| owner.uid.clone())
            .collect()
    };
    let holds = |state: OwnerState| matches!(state, OwnerState::Solid | OwnerState::Unknown);
    if owners.iter().any(|(_, state)| holds(*state)) {
        let lost = uids(&[OwnerState::Gone, OwnerState::Waiting]);
        return if lost.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Release(lost)
        };
    }
    let waiting = owners
        .iter()
        .any(|(_, state)| *state == OwnerState::Waiting);
    if waiting && has_dependents {
        return Verdict::Delete(Policy::Foreground);
    }
    Verdict::Delete(if has_finalizer(object, ORPHAN) {
        Policy::Orphan
    } else if has_finalizer(object, FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    })
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    object["metadata"]
        .get("deletionTimestamp")
        .is_some_and(|at| !at.is_null())
}

/// Whether an object is being deleted in the foreground.
pub(crate) fn waits_for_dependents(object: &Value) -> bool {
    is_deleting(object) && has_finalizer(object, FOREGROUND)
}

/// Whether an object is being deleted and wants its dependents left behind.
pub(crate) fn orphans_dependents(object: &Value) -> bool {
    is_deleting(object) && has_finalizer(object, ORPHAN)
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    list(&object["metadata"], "finalizers")
        .iter()
        .any(|finalizer| finalizer == name)
}

// === impl Policy ===

impl Policy {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

#[cfg(test)]
mod tests;
