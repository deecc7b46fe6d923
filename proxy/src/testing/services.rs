//! Services for tests, in one line: `"eu-1=80:3 eu-2:1 | us-1:2"` is two tiers; a member is
//! `name[=weight]:endpoints`. Endpoint `i` of the `m`-th member is `10.0.m.i:80`.

use std::{collections::BTreeMap, sync::Arc};

use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    name::{MemberName, ServiceName},
    policy::Policy,
    service::{Member, MemberWeight, Service, Tier},
    snapshot::{Change, Delta, Snapshot},
};
use fairlead_runtime::clock::Tick;

use crate::{
    directory::Directory,
    registry::{EndpointState, ServiceState},
    view::ServiceView,
};

/// A service in a directory, at a time that the test moves.
pub(crate) struct Fixture {
    pub(crate) directory: Directory,
    pub(crate) snapshot: Snapshot,
    pub(crate) name: ServiceName,
    pub(crate) now: Tick,
}

/// What becomes a fixture.
pub(crate) struct Builder {
    pub(crate) service: Service,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Starts a service with the default policy.
pub(crate) fn service(text: &str) -> Builder {
    let mut endpoints = Vec::new();
    let mut members = 0;
    let tiers = text.split('|').map(|tier| Tier {
        members: tier
            .split_whitespace()
            .map(|member| {
                let (head, count) = member.split_once(':').unwrap();
                let (name, weight) = head.split_once('=').unwrap_or((head, "100"));
                let name = MemberName::parse(name).unwrap();
                let count: u16 = count.parse().unwrap();
                endpoints.extend((0..count).map(|index| endpoint(&name, members, index)));
                members += 1;
                let weight = MemberWeight::from_points(weight.parse().unwrap()).unwrap();
                Member { name, weight }
            })
            .collect(),
    });
    let tiers = tiers.collect();
    let name = ServiceName::parse("shop/checkout:https").unwrap();
    let policy = Policy::default();
    Builder {
        service: Service {
            name,
            policy,
            tiers,
        },
        endpoints,
    }
}

pub(crate) fn endpoint(member: &MemberName, position: u8, index: u16) -> Endpoint {
    let addr = ([10, position, (index >> 8) as u8, index as u8], 80).into();
    Endpoint {
        key: EndpointKey {
            member: member.clone(),
            target: Target::Addr(addr),
        },
        weight: 1,
        zone: None,
        state: ObjectState::Ready,
        hop: Hop::Direct,
    }
}

impl Builder {
    pub(crate) fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.service.policy);
        self
    }

    pub(crate) fn endpoint_weights(mut self, weight: impl Fn(usize) -> u16) -> Self {
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            endpoint.weight = weight(index);
        }
        self
    }

    pub(crate) fn build(self) -> Fixture {
        let name = self.service.name.clone();
        let mut fixture = Fixture {
            directory: Directory::new(1),
            snapshot: Snapshot::default(),
            name: name.clone(),
            now: Tick(1_000_000_000),
        };
        fixture.apply(vec![
            Change::Service(Box::new(self.service)),
            Change::Endpoints(name, self.endpoints),
        ]);
        fixture
    }
}

impl Fixture {
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        let (touched, problems) = self.snapshot.apply(Delta { changes });
        assert_eq!(problems, []);
        self.directory
            .apply(&self.snapshot, &touched.services, &|_| Vec::new(), self.now);
    }

    /// Makes the view anew, after flags were changed by hand.
    pub(crate) fn rebuild(&mut self) {
        let name = std::slice::from_ref(&self.name);
        self.directory
            .apply(&self.snapshot, name, &|_| Vec::new(), self.now);
    }

    pub(crate) fn state(&self) -> &Arc<ServiceState> {
        self.directory.service(&self.name).unwrap()
    }

    pub(crate) fn view(&self) -> Arc<ServiceView> {
        self.state().view().clone().unwrap()
    }

    /// The endpoints in the order in which they were written.
    pub(crate) fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        self.view()
            .endpoints()
            .map(|(_, entry)| entry.state.clone())
            .collect()
    }

    /// Changes one endpoint's row, by its place in the order of the table.
    pub(crate) fn change(&mut self, index: usize, change: impl FnOnce(&mut Endpoint)) {
        let state = self.endpoints()[index].clone();
        let key = EndpointKey {
            member: state.member.name.clone(),
            target: Target::Addr(state.addr),
        };
        let mut endpoint = (*self.snapshot.endpoints[&self.name][&key]).clone();
        change(&mut endpoint);
        self.apply(vec![Change::Endpoint(self.name.clone(), endpoint)]);
    }

    /// The shares of members by name, as fractions of one.
    pub(crate) fn shares(&self) -> BTreeMap<String, f64> {
        let view = self.view();
        let names = view
            .members
            .iter()
            .map(|member| member.state.name.to_string());
        let shares = view
            .shares()
            .into_iter()
            .map(|share| share as f64 / 2f64.powi(32));
        names.zip(shares).collect()
    }
}
