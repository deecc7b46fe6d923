//! What is really so: how each endpoint behaves, and what the configuration says.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    name::{MemberName, ServiceName},
    policy::{Affinity, Balancer, HealthCheck, Policy, Probe},
    service::{Member, MemberWeight, Service, Tier},
    snapshot::Change,
};

/// Random numbers of one seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Answers.
    Good,
    /// Refuses connects.
    Refusing,
    /// Never answers.
    Silent,
    /// Accepts and resets before a byte.
    Resetting,
    /// Serves sessions, and answers probes that it doesn't.
    Failing,
}

/// Every endpoint there ever is, and what the configuration says now.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) name: ServiceName,
    pub(crate) policy: Policy,
    pub(crate) members: Vec<Place>,
    pub(crate) behaviours: BTreeMap<SocketAddr, Behaviour>,
    pub(crate) rows: BTreeMap<SocketAddr, Row>,
}

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: MemberName,
    pub(crate) tier: usize,
    pub(crate) points: u16,
    /// One way and back.
    pub(crate) distance: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) member: usize,
    pub(crate) weight: u16,
    pub(crate) state: ObjectState,
    pub(crate) is_there: bool,
}

// === impl Dice ===

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = (most - least).as_micros() as u64 + 1;
        least + Duration::from_micros(self.below(span))
    }
}

// === impl World ===

impl World {
    /// Two members of four endpoints nearby, a far one behind them, and the default policy.
    pub(crate) fn calm() -> Self {
        let mut rows = BTreeMap::new();
        for member in 0..3 {
            for index in 0..4 {
                let row = Row {
                    member,
                    weight: 1,
                    state: ObjectState::Ready,
                    is_there: true,
                };
                let ip = Ipv4Addr::new(10, 0, member as u8, index);
                rows.insert(SocketAddr::from((ip, 80)), row);
            }
        }
        let place = |name: &str, tier, millis| Place {
            name: MemberName::parse(name).unwrap(),
            tier,
            points: 100,
            distance: Duration::from_millis(millis),
        };
        Self {
            name: ServiceName::parse("shop/checkout:https").unwrap(),
            policy: Policy::default(),
            members: vec![place("a", 0, 1), place("b", 0, 5), place("c", 1, 80)],
            behaviours: rows.keys().map(|&addr| (addr, Behaviour::Good)).collect(),
            rows,
        }
    }

    pub(crate) fn new(dice: &mut Dice) -> Self {
        let mut members = Vec::new();
        let mut rows = BTreeMap::new();
        for (tier, letter) in [(0, 'a'), (0, 'b'), (1, 'c'), (1, 'd'), (2, 'e')] {
            if tier > 0 && dice.one_in(4) {
                continue;
            }
            let member = members.len();
            let count = 1 + dice.below(6);
            for index in 0..count {
                let ip = Ipv4Addr::new(10, 0, member as u8, index as u8);
                let row = Row {
                    member,
                    weight: dice.of(&[1, 1, 2, 5]),
                    state: ObjectState::Ready,
                    is_there: true,
                };
                rows.insert(SocketAddr::from((ip, 80)), row);
            }
            members.push(Place {
                name: MemberName::parse(&letter.to_string()).unwrap(),
                tier,
                points: dice.of(&[100, 100, 50, 20]),
                distance: Duration::from_millis(dice.of(&[1, 5, 40, 180])),
            });
        }
        Self {
            name: ServiceName::parse("shop/checkout:https").unwrap(),
            policy: policy(dice),
            behaviours: rows.keys().map(|&addr| (addr, Behaviour::Good)).collect(),
            members,
            rows,
        }
    }

    /// The service's row as a change.
    pub(crate) fn service(&self) -> Change {
        let tiers = 1 + self
            .members
            .iter()
            .map(|place| place.tier)
            .max()
            .unwrap_or(0);
        let mut service = Service {
            name: self.name.clone(),
            policy: self.policy.clone(),
            tiers: vec![Tier::default(); tiers],
        };
        for place in &self.members {
            service.tiers[place.tier].members.push(Member {
                name: place.name.clone(),
                weight: MemberWeight::from_points(place.points).unwrap(),
            });
        }
        Change::Service(Box::new(service))
    }

    /// An endpoint's row as a change.
    pub(crate) fn endpoint(&self, addr: SocketAddr) -> Change {
        let row = self.rows[&addr];
        let key = EndpointKey {
            member: self.members[row.member].name.clone(),
            target: Target::Addr(addr),
        };
        if !row.is_there {
            return Change::RemoveEndpoint(self.name.clone(), key);
        }
        let endpoint = Endpoint {
            key,
            weight: row.weight,
            zone: None,
            state: row.state,
            hop: Hop::Direct,
        };
        Change::Endpoint(self.name.clone(), endpoint)
    }

    pub(crate) fn distance(&self, addr: SocketAddr) -> Duration {
        self.members[self.rows[&addr].member].distance
    }

    pub(crate) fn any_addr(&self, dice: &mut Dice) -> SocketAddr {
        let addrs: Vec<SocketAddr> = self.rows.keys().copied().collect();
        dice.of(&addrs)
    }
}

fn policy(dice: &mut Dice) -> Policy {
    use Balancer::{LeastConnections, Maglev, P2c, Random, Rendezvous, RoundRobin};
    let mut policy = Policy {
        balancer: dice.of(&[
            P2c,
            P2c,
            RoundRobin,
            LeastConnections,
            Random,
            Maglev,
            Rendezvous,
        ]),
        affinity: dice.of(&[
            Affinity::None,
            Affinity::None,
            Affinity::ClientIp,
            Affinity::FiveTuple,
        ]),
        spill_factor: dice.of(&[1000, 1400, 2000]),
        min_healthy: dice.of(&[0, 0, 2]),
        no_fallback: dice.one_in(6),
        panic_below: dice.of(&[0, 50, 50, 100]),
        hedge: !dice.one_in(5),
        ..Policy::default()
    };
    policy.passive.max_ejected = dice.of(&[10, 50, 50, 100]);
    policy.limits.connections_per_endpoint = dice.of(&[None, None, Some(40)]);
    if dice.one_in(2) {
        policy.health_check = Some(HealthCheck::new(Probe::Tcp {
            send: [].into(),
            expect: [].into(),
        }));
    }
    policy
}
