//! Resources by type and name, and what changed when.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use fairlead_config::xds::{Type, proto::discovery};
use sha2::{Digest, Sha256};

/// An encoded resource; clones share it.
pub type Resource = Arc<discovery::Resource>;

/// Resources, and a log of their changes.
#[derive(Debug, Default)]
pub struct Table {
    resources: BTreeMap<Type, BTreeMap<String, Resource>>,
    log: VecDeque<(u64, Type, String)>,
    /// Changes up to this revision have left the log.
    forgotten: u64,
    /// The sum of the hashes of all resources: order doesn't matter, so it moves with each change.
    sum: u128,
}

// === impl Table ===

impl Table {
    /// Adds or replaces a resource; one with the same content is left alone. Says whether anything
    /// changed.
    pub fn put(&mut self, of: Type, resource: Resource, revision: u64) -> bool {
        let name = resource.name.clone();
        let of_type = self.resources.entry(of).or_default();
        let old = of_type.get(&name);
        if old.is_some_and(|old| old.version == resource.version) {
            return false;
        }
        let old = old.map_or(0, |old| weight(of, old));
        self.sum = self
            .sum
            .wrapping_sub(old)
            .wrapping_add(weight(of, &resource));
        of_type.insert(name.clone(), resource);
        self.note(revision, of, name);
        true
    }

    /// Removes a resource. Says whether it was there.
    pub fn remove(&mut self, of: Type, name: &str, revision: u64) -> bool {
        let of_type = self.resources.entry(of).or_default();
        let Some(old) = of_type.remove(name) else {
            return false;
        };
        self.sum = self.sum.wrapping_sub(weight(of, &old));
        self.note(revision, of, name.to_owned());
        true
    }

    /// A resource.
    pub fn get(&self, of: Type, name: &str) -> Option<&Resource> {
        self.resources.get(&of)?.get(name)
    }

    /// All resources of a type, by name.
    pub fn all(&self, of: Type) -> impl Iterator<Item = (&String, &Resource)> {
        self.resources.get(&of).into_iter().flatten()
    }

    /// What changed after this revision; `None` when that is no longer known, so that everything
    /// has to be looked at.
    pub fn changed_since(&self, revision: u64) -> Option<BTreeSet<(Type, &str)>> {
        if revision < self.forgotten {
            return None;
        }
        let newest_first = self.log.iter().rev();
        let new = newest_first.take_while(|(at, ..)| *at > revision);
        Some(new.map(|(_, of, name)| (*of, name.as_str())).collect())
    }

    /// The content as one hash.
    pub fn hash(&self) -> String {
        format!("{:032x}", self.sum)
    }

    fn note(&mut self, revision: u64, of: Type, name: String) {
        if self.log.len() >= LOG_MAX
            && let Some((at, ..)) = self.log.pop_front()
        {
            self.forgotten = at;
        }
        self.log.push_back((revision, of, name));
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

/// Changes kept: a stream that is further behind compares everything, which it can afford once.
const LOG_MAX: usize = 8192;
