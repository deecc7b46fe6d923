//! Resources by type and name, and what changed when.
//!
//! Changes are known by name, not by event: however often a resource changes, it is looked at once by a
//! stream that comes late, and streams keep nothing of it. Memory: a resource, its name, and about 150
//! bytes each; as much for each of the last [`REMOVALS_MAX`] that were removed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use fairlead_config::xds::{
    Type, chunks,
    envelope::{self, Stamp},
    proto::discovery,
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// An encoded resource; clones share it.
pub type Resource = Arc<discovery::Resource>;

/// Resources, and what changed of them when.
#[derive(Debug, Default)]
pub struct Table {
    slots: BTreeMap<Type, BTreeMap<Arc<str>, Slot>>,
    /// Each name once, at its last change.
    changes: BTreeSet<(u64, Type, Arc<str>)>,
    /// What was removed, in order; each is remembered for as long as there is room.
    removals: VecDeque<(u64, Type, Arc<str>)>,
    /// Removals up to this revision are no longer known.
    forgotten: u64,
    /// The sum of the hashes of all resources: order doesn't matter, so it moves with each change.
    sum: u128,
    /// From when it is.
    stamp: Stamp,
    /// Assignments put together for clients that don't take chunks.
    wholes: Mutex<BTreeMap<String, Whole>>,
}

#[derive(Debug)]
struct Slot {
    at: u64,
    /// `None` once it was removed.
    resource: Option<Resource>,
}

#[derive(Debug)]
struct Whole {
    outline: String,
    chunks: u128,
    resource: Resource,
}

// === impl Table ===

impl Table {
    /// Adds or replaces a resource; one with the same content is left alone. Says whether anything
    /// changed.
    pub fn put(&mut self, of: Type, resource: Resource, revision: u64) -> bool {
        let old = self.get(of, &resource.name);
        if old.is_some_and(|old| old.version == resource.version) {
            return false;
        }
        let old = old.map_or(0, |old| weight(of, old));
        self.sum = self
            .sum
            .wrapping_sub(old)
            .wrapping_add(weight(of, &resource));
        let name: Arc<str> = resource.name.as_str().into();
        self.set(of, name, Some(resource), revision);
        true
    }

    /// Removes a resource. Says whether it was there.
    pub fn remove(&mut self, of: Type, name: &str, revision: u64) -> bool {
        let Some(old) = self.get(of, name) else {
            return false;
        };
        self.sum = self.sum.wrapping_sub(weight(of, old));
        self.set(of, name.into(), None, revision);
        true
    }

    /// From when it is: what removals are stamped with where they are told with a stamp.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// It is decided from something newer, or in another epoch.
    pub fn restamp(&mut self, stamp: Stamp) {
        if stamp.epoch != self.stamp.epoch || stamp.as_of > self.stamp.as_of {
            self.stamp = stamp;
        }
    }

    /// Counts something held elsewhere as part of the content: the difference of two
    /// [`Self::sum_under`].
    pub fn count(&mut self, difference: u128) {
        self.sum = self.sum.wrapping_add(difference);
    }

    /// What it holds, as one number.
    pub(super) fn sum(&self) -> u128 {
        self.sum
    }

    /// A resource.
    pub fn get(&self, of: Type, name: &str) -> Option<&Resource> {
        self.slots.get(&of)?.get(name)?.resource.as_ref()
    }

    /// All resources of a type, by name.
    pub fn all(&self, of: Type) -> impl Iterator<Item = (&str, &Resource)> {
        let slots = self.slots.get(&of).into_iter().flatten();
        slots.filter_map(|(name, slot)| Some((&**name, slot.resource.as_ref()?)))
    }

    /// Resources of a type whose names begin like this.
    pub fn under<'t>(
        &'t self,
        of: Type,
        prefix: &'t str,
    ) -> impl Iterator<Item = (&'t str, &'t Resource)> {
        let slots = self.slots.get(&of).into_iter();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let slots = slots.flat_map(move |slots| slots.range::<str, _>(from));
        slots
            .take_while(move |(name, _)| name.starts_with(prefix))
            .filter_map(|(name, slot)| Some((&**name, slot.resource.as_ref()?)))
    }

    /// What those are, as one number.
    pub fn sum_under(&self, of: Type, prefix: &str) -> u128 {
        let all = self.under(of, prefix);
        all.fold(0, |sum, (_, one)| sum.wrapping_add(weight(of, one)))
    }

    /// The assignment of this name with the endpoints of its chunks in it. Costs O(endpoints) once
    /// after each change.
    pub fn whole(&self, outline: &Resource, chunks: &Self) -> Resource {
        let prefix = chunks::prefix(&outline.name);
        let sum = chunks.sum_under(Type::Chunk, &prefix);
        let mut wholes = self.wholes.lock();
        if let Some(known) = wholes.get(&outline.name)
            && known.outline == outline.version
            && known.chunks == sum
        {
            return Arc::clone(&known.resource);
        }
        let parts = || chunks.under(Type::Chunk, &prefix).map(|(_, one)| &**one);
        let Some(message) = chunks::whole(outline, parts()) else {
            return Arc::clone(outline);
        };
        let stamps = parts().map(envelope::stamp);
        let newest = stamps.max_by_key(|stamp| stamp.as_of).unwrap_or_default();
        let own = envelope::stamp(outline);
        let stamp = if newest.as_of > own.as_of {
            newest
        } else {
            own
        };
        let resource: Resource = envelope::seal(&outline.name, &message, &stamp).into();
        let whole = Whole {
            outline: outline.version.clone(),
            chunks: sum,
            resource: Arc::clone(&resource),
        };
        wholes.insert(outline.name.clone(), whole);
        resource
    }

    /// What changed after this revision, each name once; `None` when removals since then are no longer
    /// known, so that everything has to be looked at.
    pub fn changed_since(&self, revision: u64) -> Option<BTreeSet<(Type, &str)>> {
        if revision < self.forgotten {
            return None;
        }
        let first = (revision + 1, Type::Cluster, Arc::from(""));
        let new = self.changes.range(first..);
        Some(new.map(|(_, of, name)| (*of, &**name)).collect())
    }

    /// The content as one hash.
    pub fn hash(&self) -> String {
        format!("{:032x}", self.sum)
    }

    fn set(&mut self, of: Type, name: Arc<str>, resource: Option<Resource>, revision: u64) {
        let gone = resource.is_none();
        let slot = Slot {
            at: revision,
            resource,
        };
        let of_type = self.slots.entry(of).or_default();
        if let Some(old) = of_type.insert(Arc::clone(&name), slot) {
            self.changes.remove(&(old.at, of, Arc::clone(&name)));
        }
        self.changes.insert((revision, of, Arc::clone(&name)));
        if gone {
            self.wholes.lock().remove(&*name);
            self.removals.push_back((revision, of, name));
            if self.removals.len() > REMOVALS_MAX {
                self.forget_one();
            }
        }
    }

    fn forget_one(&mut self) {
        let Some((at, of, name)) = self.removals.pop_front() else {
            return;
        };
        self.forgotten = at;
        let Some(of_type) = self.slots.get_mut(&of) else {
            return;
        };
        // What came back since is no removal.
        let still = |slot: &Slot| slot.resource.is_none() && slot.at == at;
        if of_type.get(&name).is_some_and(still) {
            of_type.remove(&name);
            self.changes.remove(&(at, of, name));
        }
    }
}

fn weight(of: Type, resource: &discovery::Resource) -> u128 {
    let mut hash = Sha256::new();
    hash.update(of.url().as_bytes());
    hash.update([0]);
    hash.update(resource.name.as_bytes());
    hash.update([0]);
    hash.update(resource.version.as_bytes());
    let digest = hash.finalize();
    let first: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    u128::from_be_bytes(first)
}

/// Removals remembered: a stream that is further behind compares everything, or begins anew.
const REMOVALS_MAX: usize = 65_536;
