//! What 10,000 services of 100 endpoints cost, and what a pick costs.
//!
//! `cargo run --release -p fairlead-proxy --example scale [services] [endpoints]` prints resident
//! memory after each step, the time of a full load, of one endpoint's or frontend's change, and of one
//! pick by each balancer. It needs a descriptor a service. No timing is asserted anywhere: machines differ.

#![allow(
    clippy::unwrap_used,
    reason = "an example has nobody to hand an error to"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use fairlead_config::{
    endpoint::{Endpoint, EndpointKey, Hop, ObjectState, Target},
    frontend::{Frontend, Protocol},
    name::{FrontendName, MemberName, ServiceName},
    policy::{Affinity, Balancer, Policy},
    service::{Member, MemberWeight, Service, Tier},
    snapshot::{Change, Delta, Snapshot},
};
use fairlead_proxy::{
    access_log::sink::Sinks,
    balancer::{FlowKey, Tried, draw::Draw},
    control::{Control, Options},
    directory::Directory,
    metrics::Metrics,
    sockets::Budget,
    tcp::Fleet,
};
use fairlead_runtime::clock::{Clock, Tick};

const MEMBERS: u32 = 4;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().unwrap());
    let services = arguments.next().unwrap_or(10_000);
    let endpoints = arguments.next().unwrap_or(100);
    println!("empty: {} MB", resident_mb());
    let (mut snapshot, mut directory) = load(services, endpoints);
    change_one(&mut snapshot, &mut directory, services);
    drop((snapshot, directory));
    whole(services, endpoints);
    for balancer in [
        Balancer::P2c,
        Balancer::RoundRobin,
        Balancer::LeastConnections,
        Balancer::Random,
        Balancer::Maglev,
        Balancer::Rendezvous,
    ] {
        pick(balancer, Affinity::None, endpoints);
    }
    pick(Balancer::P2c, Affinity::ClientIp, endpoints);
    pick(Balancer::Maglev, Affinity::ClientIp, endpoints);
}

fn load(services: u32, endpoints: u32) -> (Snapshot, Directory) {
    let began = Instant::now();
    let mut snapshot = Snapshot::default();
    let mut directory = Directory::new(1);
    for number in 0..services {
        let changes = vec![
            Change::Service(Box::new(service(number, Policy::default()))),
            Change::Endpoints(
                name(number),
                (0..endpoints)
                    .map(|index| endpoint(number, index))
                    .collect(),
            ),
        ];
        let (touched, problems) = snapshot.apply(Delta { changes });
        assert!(problems.is_empty());
        directory.apply(&snapshot, &touched.services, &|_| Vec::new(), Tick(1));
    }
    println!("loaded in {:?}: {} MB", began.elapsed(), resident_mb());
    (snapshot, directory)
}

fn change_one(snapshot: &mut Snapshot, directory: &mut Directory, services: u32) {
    let rounds = 1000;
    let began = Instant::now();
    for round in 0..rounds {
        let number = round * 7 % services;
        let mut changed = endpoint(number, round % 10);
        changed.state = ObjectState::NotReady;
        let changes = vec![Change::Endpoint(name(number), changed)];
        let (touched, _) = snapshot.apply(Delta { changes });
        directory.apply(snapshot, &touched.services, &|_| Vec::new(), Tick(2));
        directory.advance(Tick(3));
    }
    println!("one endpoint's change: {:?}", began.elapsed() / rounds);
}

/// Everything that the control thread does, with a listening socket a service: the load as one
/// batch, as one a service, and a change of an endpoint and of a frontend.
fn whole(services: u32, endpoints: u32) {
    for batch in [services, 1] {
        let clock = Clock::system();
        let metrics = Metrics::new(1);
        let fleet = Fleet::new(1, metrics.clone(), clock.clone()).unwrap();
        let options = Options {
            seed: 1,
            budget: Budget::of_files(2 * services as usize),
            ..Options::default()
        };
        let mut control = Control::new(fleet, clock, Sinks::new(1, metrics), options);
        let began = Instant::now();
        for first in (0..services).step_by(batch as usize) {
            let rows = (first..first + batch).flat_map(|number| rows(number, endpoints));
            let applied = control.apply(Delta {
                changes: rows.collect(),
            });
            assert!(applied.problems.is_empty(), "{}", applied.problems[0]);
        }
        println!(
            "control, {batch} services a batch: loaded in {:?}: {} MB",
            began.elapsed(),
            resident_mb()
        );
        let rounds = 200;
        let began = Instant::now();
        for round in 0..rounds {
            let mut changed = endpoint(round, round % 10);
            changed.weight = 2;
            let changes = vec![Change::Endpoint(name(round), changed)];
            control.apply(Delta { changes });
        }
        println!("  one endpoint's change: {:?}", began.elapsed() / rounds);
        let began = Instant::now();
        for round in 0..rounds {
            let mut changed = frontend(round);
            changed.allow = vec!["10.0.0.0/8".parse().unwrap()];
            let changes = vec![Change::Frontend(changed)];
            control.apply(Delta { changes });
        }
        println!("  one frontend's change: {:?}", began.elapsed() / rounds);
    }
}

fn rows(number: u32, endpoints: u32) -> [Change; 3] {
    let all = (0..endpoints).map(|index| endpoint(number, index));
    [
        Change::Service(Box::new(service(number, Policy::default()))),
        Change::Endpoints(name(number), all.collect()),
        Change::Frontend(frontend(number)),
    ]
}

fn frontend(number: u32) -> Frontend {
    Frontend {
        name: FrontendName::parse(&format!("frontend-{number}")).unwrap(),
        protocol: Protocol::Tcp,
        ip: Ipv4Addr::from(0x7f10_0000 + number).into(),
        ports: 18_443..=18_443,
        service: name(number),
        sni: Vec::new(),
        allow: Vec::new(),
        proxy_protocol: None,
    }
}

fn pick(balancer: Balancer, affinity: Affinity, endpoints: u32) {
    let mut snapshot = Snapshot::default();
    let mut directory = Directory::new(1);
    let policy = Policy {
        balancer,
        affinity,
        ..Policy::default()
    };
    let changes = vec![
        Change::Service(Box::new(service(0, policy))),
        Change::Endpoints(
            name(0),
            (0..endpoints).map(|index| endpoint(0, index)).collect(),
        ),
    ];
    let (touched, _) = snapshot.apply(Delta { changes });
    directory.apply(&snapshot, &touched.services, &|_| Vec::new(), Tick(1));
    let state = directory.service(&name(0)).unwrap();
    let mut draw = Draw::new(1);
    let rounds = 1_000_000;
    let began = Instant::now();
    for client in 0..rounds {
        let key = FlowKey {
            client: SocketAddr::from((Ipv4Addr::from(client), 40_000)),
            local: SocketAddr::from((Ipv4Addr::LOCALHOST, 443)),
            protocol: Protocol::Tcp,
        };
        let view = state.view();
        let pick = view
            .as_ref()
            .unwrap()
            .pick(&key, &mut draw, Tick(2), &Tried::new());
        drop(std::hint::black_box(pick.unwrap().begin()));
    }
    println!(
        "{balancer:?}, affinity {affinity:?}: {:?} a pick",
        began.elapsed() / rounds
    );
}

fn name(number: u32) -> ServiceName {
    ServiceName::parse(&format!("shop/service-{number}:https")).unwrap()
}

fn member(index: u32) -> MemberName {
    MemberName::parse(&format!("member-{index}")).unwrap()
}

fn service(number: u32, policy: Policy) -> Service {
    let members = (0..MEMBERS).map(|index| Member {
        name: member(index),
        weight: MemberWeight::DEFAULT,
    });
    Service {
        name: name(number),
        policy,
        tiers: vec![Tier {
            members: members.collect(),
        }],
    }
}

fn endpoint(number: u32, index: u32) -> Endpoint {
    let ip = Ipv4Addr::from(0x0a00_0000 + (number * 251 + index) % 0x00ff_ffff);
    Endpoint {
        key: EndpointKey {
            member: member(index % MEMBERS),
            target: Target::Addr(SocketAddr::from((ip, 8000 + (index % 50) as u16))),
        },
        weight: 1,
        zone: None,
        state: ObjectState::Ready,
        hop: Hop::Direct,
    }
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or(0u64) / 1024
}
