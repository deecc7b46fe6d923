//! Garbage collection: who depends on whom, and what follows from that for one object.
//!
//! The graph holds only objects that have owners (and the uids they name), so a server without
//! owner references pays nothing. It is fed every change in order; [`decide`] judges one object by
//! the present state of its owners.

use crate::kinds::metadata::{FOREGROUND, ORPHAN};
use crate::kinds::value::list;
use crate::store::Key;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
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
    /// Takes note of an object's owners. Answers whether they changed.
    pub(crate) fn observe(&mut self, place: &Place, owners: Vec<Owner>) -> bool {
        let known = self.owned.get(place).map(Vec::as_slice).unwrap_or_default();
        if known == owners {
            return false;
        }
        self.forget(place);
        if !owners.is_empty() {
            for owner in &owners {
                self.dependents
                    .entry(owner.uid.clone())
                    .or_default()
                    .insert(place.clone());
            }
            self.owned.insert(place.clone(), owners);
        }
        true
    }

    /// The object is gone. Answers the owners it had.
    pub(crate) fn forget(&mut self, place: &Place) -> Vec<Owner> {
        let owners = self.owned.remove(place).unwrap_or_default();
        for owner in &owners {
            if let Some(places) = self.dependents.get_mut(&owner.uid) {
                places.remove(place);
                if places.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        owners
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
