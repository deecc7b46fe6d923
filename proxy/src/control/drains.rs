//! What a person drained by hand, laid over the configuration.
//!
//! A drain asked for at the admin address isn't part of the snapshot: the next reload neither
//! undoes nor remembers it. It ends when it is called off, or with the process.

use std::{borrow::Cow, collections::BTreeSet, net::SocketAddr, sync::Arc};

use fairlead_config::{
    endpoint::{ObjectState, Target},
    name::{MemberName, ServiceName},
    service::MemberWeight,
    snapshot::Snapshot,
};

#[cfg(test)]
mod tests;

/// What takes no new sessions because somebody said so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drain {
    /// In this service only; in every one where none is named.
    pub service: Option<ServiceName>,
    /// What drains.
    pub what: Drained,
}

/// What drains.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drained {
    /// A member: its weight counts as 0.
    Member(MemberName),
    /// Every endpoint with this address: it counts as terminating. Those that stand for a DNS name
    /// can't be drained one by one.
    Endpoint(SocketAddr),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Drains(BTreeSet<Drain>);

// === impl Drains ===

impl Drains {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Drain> {
        self.0.iter()
    }

    /// Puts one up or takes it down; whether that changed anything.
    pub(super) fn set(&mut self, drain: Drain, on: bool) -> bool {
        if on {
            self.0.insert(drain)
        } else {
            self.0.remove(&drain)
        }
    }

    /// The rows of `services` with the drains laid over them; only those rows.
    pub(super) fn overlay<'a>(
        &self,
        snapshot: &'a Snapshot,
        services: &[ServiceName],
    ) -> Cow<'a, Snapshot> {
        if self.0.is_empty() {
            return Cow::Borrowed(snapshot);
        }
        let mut rows = Snapshot::default();
        for name in services {
            if let Some(service) = snapshot.services.get(name) {
                rows.services.insert(name.clone(), Arc::clone(service));
            }
            if let Some(endpoints) = snapshot.endpoints.get(name) {
                rows.endpoints.insert(name.clone(), Arc::clone(endpoints));
            }
            for drain in self.0.iter().filter(|drain| drain.applies_to(name)) {
                drain.lay_over(&mut rows, name);
            }
        }
        Cow::Owned(rows)
    }
}

// === impl Drain ===

impl Drain {
    /// Whether `service` has what drains.
    pub fn matches(&self, snapshot: &Snapshot, service: &ServiceName) -> bool {
        if !self.applies_to(service) {
            return false;
        }
        match &self.what {
            Drained::Member(name) => snapshot.services.get(service).is_some_and(|row| {
                let mut members = row.tiers.iter().flat_map(|tier| &tier.members);
                members.any(|member| member.name == *name)
            }),
            Drained::Endpoint(addr) => snapshot.endpoints.get(service).is_some_and(|row| {
                let target = Target::Addr(*addr);
                row.keys().any(|key| key.target == target)
            }),
        }
    }

    fn applies_to(&self, name: &ServiceName) -> bool {
        self.service.as_ref().is_none_or(|service| service == name)
    }

    fn lay_over(&self, rows: &mut Snapshot, name: &ServiceName) {
        match &self.what {
            Drained::Member(member) => {
                let Some(service) = rows.services.get_mut(name) else {
                    return;
                };
                if service
                    .tiers
                    .iter()
                    .any(|tier| tier.members.iter().any(|it| it.name == *member))
                {
                    let service = Arc::make_mut(service);
                    let members = service.tiers.iter_mut().flat_map(|tier| &mut tier.members);
                    for row in members.filter(|row| row.name == *member) {
                        row.weight = MemberWeight::DRAIN;
                    }
                }
            }
            Drained::Endpoint(addr) => {
                let Some(endpoints) = rows.endpoints.get_mut(name) else {
                    return;
                };
                let target = Target::Addr(*addr);
                let is_meant = |key: &fairlead_config::endpoint::EndpointKey| key.target == target;
                if !endpoints.keys().any(is_meant) {
                    return;
                }
                Arc::make_mut(endpoints).for_each(|row| {
                    if is_meant(&row.key) && row.state == ObjectState::Ready {
                        Arc::make_mut(row).state = ObjectState::Draining;
                    }
                });
            }
        }
    }
}

impl std::fmt::Display for Drain {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            Drained::Member(name) => write!(out, "member {name}")?,
            Drained::Endpoint(addr) => write!(out, "endpoint {addr}")?,
        }
        match &self.service {
            Some(service) => write!(out, " of {service}"),
            None => write!(out, " of every service"),
        }
    }
}
