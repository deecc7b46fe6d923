//! Who is who: names to states, kept by the control thread.
//!
//! Endpoints that left the snapshot stay known while a session, a flow or an old view holds them, so
//! that one which comes back meanwhile is the same endpoint with its counts; then their number is
//! used again.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use fairlead_config::{
    endpoint::ObjectState,
    name::{FrontendName, MemberName, ServiceName},
};

use super::{EndpointId, EndpointState, Flags, FrontendId, MemberState, ServiceId, ServiceState};
use crate::{balancer::hash, view::Entry};

/// The table of everything that has a number.
#[derive(Debug, Default)]
pub struct Registry {
    frontends: BTreeMap<FrontendName, FrontendId>,
    services: BTreeMap<ServiceName, Row>,
    leaving: BTreeMap<(ServiceId, hash::Identity), Arc<EndpointState>>,
    frontend_numbers: Numbers,
    service_numbers: Numbers,
    endpoint_numbers: Numbers,
}

/// A service and its members, in the order of its tiers.
#[derive(Debug)]
pub struct Row {
    /// The service.
    pub state: Arc<ServiceState>,
    /// Its members.
    pub members: Vec<RowMember>,
}

/// A member of a service with its endpoints.
#[derive(Debug, Clone)]
pub struct RowMember {
    /// The member.
    pub state: Arc<MemberState>,
    /// Its endpoints in the order of their addresses.
    pub endpoints: Arc<[Entry]>,
}

/// A member as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedMember {
    /// Its name.
    pub name: MemberName,
    /// Its endpoints; of two with one address the first counts.
    pub endpoints: Vec<WantedEndpoint>,
}

/// An endpoint as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedEndpoint {
    /// Where to connect.
    pub addr: SocketAddr,
    /// From 1.
    pub weight: u16,
    /// What its objects say.
    pub object: ObjectState,
}

/// What a change of a service did to its endpoints.
#[derive(Debug, Default)]
pub struct Synced {
    /// New ones, or back after having been removed.
    pub added: Vec<Arc<EndpointState>>,
    /// Those of `added` that were removed before and still have sessions.
    pub revived: Vec<Arc<EndpointState>>,
    /// Those of which the objects say something better now.
    pub changed: Vec<Arc<EndpointState>>,
    /// What is still to be done once a view with the above is there.
    pub withdrawn: Withdrawn,
}

/// Endpoints that a change takes away. Nothing of it shows yet: data threads read flags through the
/// view of before, in which what comes in their stead is missing.
#[derive(Debug, Default)]
#[must_use]
pub struct Withdrawn {
    /// Those no longer wanted.
    pub removed: Vec<Arc<EndpointState>>,
    /// Those of which the objects say something worse now.
    pub worse: Vec<(Arc<EndpointState>, ObjectState)>,
}

#[derive(Debug, Default)]
struct Numbers {
    free: Vec<u32>,
    next: u32,
}

// === impl Registry ===

impl Registry {
    /// The number of a frontend, given at its first mention.
    pub fn frontend(&mut self, name: &FrontendName) -> FrontendId {
        if let Some(&id) = self.frontends.get(name) {
            return id;
        }
        let id = FrontendId(self.frontend_numbers.take());
        self.frontends.insert(name.clone(), id);
        id
    }

    /// Gives a frontend's number back.
    pub fn remove_frontend(&mut self, name: &FrontendName) {
        if let Some(FrontendId(number)) = self.frontends.remove(name) {
            self.frontend_numbers.give_back(number);
        }
    }

    /// A known service.
    pub fn service(&self, name: &ServiceName) -> Option<&Row> {
        self.services.get(name)
    }

    /// Every known service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Row> {
        self.services.values()
    }

    /// Makes a service's members and endpoints what is wanted. Costs O(n log n).
    pub fn sync(&mut self, name: &ServiceName, wanted: Vec<WantedMember>) -> Synced {
        let mut synced = Synced::default();
        let mut row = self.services.remove(name).unwrap_or_else(|| {
            let id = ServiceId(self.service_numbers.take());
            Row {
                state: Arc::new(ServiceState::new(id, name.clone())),
                members: Vec::new(),
            }
        });
        let mut old: BTreeMap<MemberName, RowMember> = std::mem::take(&mut row.members)
            .into_iter()
            .map(|member| (member.state.name.clone(), member))
            .collect();
        for WantedMember { name, endpoints } in wanted {
            let member = old.remove(&name).unwrap_or_else(|| RowMember {
                state: self.member(&row.state, &name),
                endpoints: Arc::new([]),
            });
            row.members
                .push(self.sync_member(member, endpoints, &mut synced));
        }
        for member in old.into_values() {
            self.sync_member(member, Vec::new(), &mut synced);
        }
        self.services.insert(name.clone(), row);
        synced
    }

    /// Removes a service with its endpoints; its view goes with it.
    pub fn remove(&mut self, name: &ServiceName) -> Synced {
        if !self.services.contains_key(name) {
            return Synced::default();
        }
        let synced = self.sync(name, Vec::new());
        if let Some(row) = self.services.remove(name) {
            row.state.swap_view(None);
            self.service_numbers.give_back(row.state.id.0);
        }
        synced
    }

    /// Forgets removed endpoints that nothing holds any more; the answer is their numbers.
    pub fn sweep(&mut self) -> Vec<EndpointId> {
        let mut gone = Vec::new();
        self.leaving.retain(|_, endpoint| {
            let held = Arc::strong_count(endpoint) > 1;
            if !held {
                gone.push(endpoint.id);
            }
            held
        });
        for id in &gone {
            self.endpoint_numbers.give_back(id.0);
        }
        gone
    }

    /// Removed endpoints that something still holds.
    pub fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// The removed endpoints of a service that something still holds.
    pub fn leaving_of(
        &self,
        service: &Arc<ServiceState>,
    ) -> impl Iterator<Item = &Arc<EndpointState>> {
        let first = (service.id, hash::Identity(0));
        let last = (service.id, hash::Identity(u64::MAX));
        let all = self.leaving.range(first..=last);
        // A new service may have the number of an old one that is still leaving.
        all.map(|(_, endpoint)| endpoint)
            .filter(move |endpoint| Arc::ptr_eq(&endpoint.member.service, service))
    }

    /// The state of a member; the one that a removed endpoint still has, where there is one.
    fn member(&self, service: &Arc<ServiceState>, name: &MemberName) -> Arc<MemberState> {
        let known = self.leaving_of(service).map(|endpoint| &endpoint.member);
        let known = { known }.find(|member| member.name == *name);
        known
            .cloned()
            .unwrap_or_else(|| Arc::new(MemberState::new(name.clone(), service.clone())))
    }

    fn sync_member(
        &mut self,
        member: RowMember,
        mut wanted: Vec<WantedEndpoint>,
        synced: &mut Synced,
    ) -> RowMember {
        wanted.sort_by_key(|endpoint| endpoint.addr);
        wanted.dedup_by_key(|endpoint| endpoint.addr);
        let mut old = member.endpoints.iter().peekable();
        let mut same = wanted.len() == member.endpoints.len();
        let mut endpoints = Vec::with_capacity(wanted.len());
        for want in wanted {
            while let Some(gone) = old.next_if(|entry| entry.state.addr < want.addr) {
                self.retire(&gone.state, synced);
            }
            let kept = old.next_if(|entry| entry.state.addr == want.addr);
            let state = match kept {
                Some(entry) => {
                    same &= entry.weight == want.weight;
                    match set_object(&entry.state, want.object) {
                        Set::Same => {}
                        Set::Better => synced.changed.push(entry.state.clone()),
                        Set::Later => {
                            let worse = (entry.state.clone(), want.object);
                            synced.withdrawn.worse.push(worse);
                        }
                    }
                    entry.state.clone()
                }
                None => {
                    same = false;
                    self.admit(&member.state, want, synced)
                }
            };
            endpoints.push(Entry {
                state,
                weight: want.weight,
            });
        }
        for gone in old {
            self.retire(&gone.state, synced);
        }
        // The same list keeps its place, so that views and tables can see that nothing changed.
        if same {
            member
        } else {
            RowMember {
                endpoints: endpoints.into(),
                ..member
            }
        }
    }

    fn admit(
        &mut self,
        member: &Arc<MemberState>,
        want: WantedEndpoint,
        synced: &mut Synced,
    ) -> Arc<EndpointState> {
        let identity = hash::endpoint(member.name.as_str(), want.addr);
        let key = (member.service.id, identity);
        let known = self
            .leaving
            .get(&key)
            .filter(|known| Arc::ptr_eq(&known.member, member));
        let state = match known.cloned() {
            Some(known) => {
                self.leaving.remove(&key);
                known.change_flags(Flags::NONE, Flags::REMOVED);
                synced.revived.push(known.clone());
                known
            }
            None => {
                let id = EndpointId(self.endpoint_numbers.take());
                Arc::new(EndpointState::new(id, want.addr, member.clone()))
            }
        };
        // No view has it yet.
        state.change_flags(flags_of(want.object), OBJECT_FLAGS);
        synced.added.push(state.clone());
        state
    }

    fn retire(&mut self, endpoint: &Arc<EndpointState>, synced: &mut Synced) {
        synced.withdrawn.removed.push(endpoint.clone());
        let key = (endpoint.member.service.id, endpoint.identity);
        self.leaving.insert(key, endpoint.clone());
    }
}

// === impl Withdrawn ===

impl Withdrawn {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.worse.is_empty()
    }

    /// Lets it show.
    pub fn show(&self) {
        for endpoint in &self.removed {
            endpoint.change_flags(Flags::REMOVED, Flags::NONE);
            // What else stood against it is nobody's business any more.
            endpoint.change_flags(Flags::NONE, Flags::SEEN_HERE);
        }
        for (endpoint, object) in &self.worse {
            let raised = flags_of(*object);
            endpoint.change_flags(raised, Flags(OBJECT_FLAGS.0 & !raised.0));
        }
    }
}

// === impl Numbers ===

impl Numbers {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn give_back(&mut self, number: u32) {
        self.free.push(number);
    }
}

/// Lowers or swaps the flags that follow from the objects, but raises none on an endpoint that has
/// none.
fn set_object(endpoint: &EndpointState, object: ObjectState) -> Set {
    let known = Flags(endpoint.flags().0 & OBJECT_FLAGS.0);
    let wanted = flags_of(object);
    if known.0 == wanted.0 {
        Set::Same
    } else if object == ObjectState::Ready || known.has(Flags::NOT_READY) {
        endpoint.change_flags(wanted, Flags(OBJECT_FLAGS.0 & !wanted.0));
        Set::Better
    } else {
        Set::Later
    }
}

fn flags_of(object: ObjectState) -> Flags {
    match object {
        ObjectState::Ready => Flags::NONE,
        ObjectState::NotReady => Flags::NOT_READY,
        ObjectState::Draining => Flags::DRAINING,
    }
}

enum Set {
    Same,
    Better,
    Later,
}

const OBJECT_FLAGS: Flags = Flags::NOT_READY.with(Flags::DRAINING);
