//! The services: each with four members in one tier, one frontend, and endpoints on loopback addresses
//! of their own, all of which one listener serves.

use std::net::{Ipv4Addr, SocketAddr};

use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    frontend::{Frontend, Protocol},
    name::{FrontendName, MemberName, ServiceName},
    policy::Policy,
    service::{Member, MemberWeight, Service, Tier},
    snapshot::{Change, Delta, Snapshot},
};

use super::Options;

/// What there is.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) services: u32,
    endpoints: u32,
    port: u16,
    policy: Policy,
    members: Vec<MemberName>,
}

impl World {
    pub(crate) fn new(options: &Options, port: u16) -> Self {
        let member = |index: u32| MemberName::parse(&format!("member-{index}"));
        let policy = Policy {
            // So that a change shows at once, and not a tenth of it.
            slow_start: std::time::Duration::ZERO,
            ..Policy::default()
        };
        Self {
            services: options.services,
            endpoints: options.endpoints,
            port,
            policy,
            members: (0..MEMBERS)
                .map(|index| member(index).expect("a label"))
                .collect(),
        }
    }

    /// Where clients of a service connect.
    pub(crate) fn front(&self, number: u32) -> SocketAddr {
        (Ipv4Addr::from(FRONTS + number), FRONT_PORT).into()
    }

    /// Where an endpoint is.
    pub(crate) fn endpoint_ip(&self, number: u32, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(BACKS + number * self.endpoints + index)
    }

    /// Some of the services, whole.
    pub(crate) fn snapshot(&self, numbers: impl Iterator<Item = u32>) -> Snapshot {
        let changes = numbers.flat_map(|number| {
            let rows = (0..self.endpoints).map(|index| self.endpoint(number, index));
            [
                Change::Service(Box::new(self.service(number))),
                Change::Endpoints(name(number), rows.collect()),
                Change::Frontend(self.frontend(number)),
            ]
        });
        let mut snapshot = Snapshot::default();
        let (_, problems) = snapshot.apply(Delta {
            changes: changes.collect(),
        });
        assert!(problems.is_empty(), "{}", problems[0]);
        snapshot
    }

    /// A service of which the first endpoint is ready or not.
    pub(crate) fn with_first(&self, number: u32, ready: bool) -> Snapshot {
        let mut snapshot = self.snapshot(std::iter::once(number));
        let mut endpoint = self.endpoint(number, 0);
        if ready {
            endpoint.state = ObjectState::Ready;
        }
        let changes = vec![Change::Endpoint(name(number), endpoint)];
        snapshot.apply(Delta { changes });
        snapshot
    }

    fn service(&self, number: u32) -> Service {
        let members = self.members.iter().map(|name| Member {
            name: name.clone(),
            weight: MemberWeight::DEFAULT,
        });
        Service {
            name: name(number),
            policy: self.policy.clone(),
            tiers: vec![Tier {
                members: members.collect(),
            }],
        }
    }

    fn frontend(&self, number: u32) -> Frontend {
        let front = self.front(number);
        Frontend {
            // As a file names it.
            name: FrontendName::parse(&format!("{}#0", name(number))).expect("printable"),
            protocol: Protocol::Tcp,
            ip: front.ip(),
            ports: front.port()..=front.port(),
            service: name(number),
            sni: Vec::new(),
            allow: Vec::new(),
            proxy_protocol: None,
        }
    }

    /// The first one is not ready, and weighs as much as all others when it is: so a change of it is
    /// seen by one of the next connections.
    fn endpoint(&self, number: u32, index: u32) -> Endpoint {
        let member = self.members[index as usize % self.members.len()].clone();
        let addr = (self.endpoint_ip(number, index), self.port).into();
        Endpoint {
            key: EndpointKey {
                member,
                target: Target::Addr(addr),
            },
            weight: if index == 0 { 1000 } else { 1 },
            zone: None,
            state: if index == 0 {
                ObjectState::NotReady
            } else {
                ObjectState::Ready
            },
            hop: Hop::Direct,
        }
    }
}

fn name(number: u32) -> ServiceName {
    ServiceName::parse(&format!("shop/service-{number}:https")).expect("three labels")
}

const MEMBERS: u32 = 4;
/// 127.16.0.0
const FRONTS: u32 = 0x7f10_0000;
/// 127.64.0.0
const BACKS: u32 = 0x7f40_0000;
const FRONT_PORT: u16 = 18_443;
