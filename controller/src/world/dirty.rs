//! What has changed since the last plan.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_config::name::MemberName;

use super::{GroupName, ServiceKey};

/// What has changed since the last plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// All of it.
    pub everything: bool,
    /// These services.
    pub services: BTreeSet<ServiceKey>,
    /// Of these services, only endpoints of these members.
    pub slices: BTreeMap<ServiceKey, BTreeSet<MemberName>>,
    /// These proxy groups, with everything they serve.
    pub groups: BTreeSet<GroupName>,
    /// Something was taken away: such a change does not wait for others.
    pub removals: bool,
}

impl Dirty {
    /// All of it.
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// The services that are named.
    pub fn keys(&self) -> BTreeSet<ServiceKey> {
        self.services
            .iter()
            .chain(self.slices.keys())
            .cloned()
            .collect()
    }

    /// The members of a service whose endpoints are all that changed of it; `None`: it is more.
    pub fn only_members(&self, key: &ServiceKey) -> Option<&BTreeSet<MemberName>> {
        if self.everything || self.services.contains(key) {
            return None;
        }
        self.slices.get(key)
    }

    /// Both.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.removals |= other.removals;
        self.services.extend(other.services);
        for (key, members) in other.slices {
            self.slices.entry(key).or_default().extend(members);
        }
        self.groups.extend(other.groups);
    }
}
