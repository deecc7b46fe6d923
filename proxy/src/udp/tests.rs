//! The core against a made-up world: tables here, the seeded simulation and the allocation count
//! in their own files.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use fairlead_runtime::clock::Tick;

use super::{
    flow::{Closed, Ends, Left, Load, Standing},
    flows::{EVICTABLE_AFTER, Flows, Patience, Verdict, WAITING_PART, World},
};
use crate::{access_log::Reason, metrics::DatagramDrop};

mod allocation;
mod simulation;

/// A world with one service a port and endpoints by number.
#[derive(Debug, Default)]
struct Model {
    /// Services by the port that leads to them.
    routes: BTreeMap<u16, u8>,
    endpoints: BTreeMap<u16, Standing>,
    flows_max: Option<u32>,
    /// Flows by endpoint: counted while the home lives.
    homed: Rc<RefCell<BTreeMap<u16, i64>>>,
    permits: Rc<RefCell<u32>>,
}

#[derive(Debug)]
struct Home(u16, Rc<RefCell<BTreeMap<u16, i64>>>);

#[derive(Debug)]
struct Permit(Rc<RefCell<u32>>);

impl Drop for Home {
    fn drop(&mut self) {
        *self.1.borrow_mut().entry(self.0).or_default() -= 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.borrow_mut() -= 1;
    }
}

impl World for Model {
    type Service = u8;
    type Home = Home;
    type Permit = Permit;

    fn route(&mut self, ends: &Ends) -> Result<u8, DatagramDrop> {
        let service = self.routes.get(&ends.local.port());
        service.copied().ok_or(DatagramDrop::NoFrontend)
    }

    fn admit(&mut self, _: &u8, _: &Ends, _: Tick) -> Result<Permit, DatagramDrop> {
        let mut permits = self.permits.borrow_mut();
        if self.flows_max.is_some_and(|max| *permits >= max) {
            return Err(DatagramDrop::LimitFlows);
        }
        *permits += 1;
        drop(permits);
        Ok(Permit(Rc::clone(&self.permits)))
    }

    fn pick(
        &mut self,
        _: &u8,
        ends: &Ends,
        refusing: Option<&Home>,
        _: Tick,
    ) -> Result<Home, DatagramDrop> {
        let good = |(number, standing): (&u16, &Standing)| {
            (*standing == Standing::Good).then_some(*number)
        };
        let all: Vec<_> = self.endpoints.iter().filter_map(good).collect();
        let others: Vec<_> = all
            .iter()
            .copied()
            .filter(|number| refusing.is_none_or(|home| home.0 != *number))
            .collect();
        let from = if others.is_empty() { all } else { others };
        let number = *from
            .get(usize::from(ends.client.port()) % from.len().max(1))
            .ok_or(DatagramDrop::NoEndpoint)?;
        *self.homed.borrow_mut().entry(number).or_default() += 1;
        Ok(Home(number, Rc::clone(&self.homed)))
    }

    fn same_home(&self, one: &Home, other: &Home) -> bool {
        one.0 == other.0
    }

    fn standing(&self, home: &Home, _: Tick) -> Standing {
        self.endpoints
            .get(&home.0)
            .copied()
            .unwrap_or(Standing::Gone)
    }

    fn patience(&self, _: &u8) -> Patience {
        Patience {
            idle: IDLE,
            draining: DRAINING,
        }
    }
}

/// A thread's flows, its world and its time.
struct Bench {
    flows: Flows<Model>,
    world: Model,
    now: Tick,
    closed: Vec<Closed<Model>>,
}

impl Bench {
    fn new(flows_max: usize, endpoints: u16) -> Self {
        let mut world = Model::default();
        world.routes.insert(53, 1);
        world
            .endpoints
            .extend((0..endpoints).map(|number| (number, Standing::Good)));
        Self {
            flows: Flows::new(flows_max, 7, Tick::ZERO),
            world,
            now: Tick::ZERO,
            closed: Vec::new(),
        }
    }

    fn send(&mut self, client: u16) -> Verdict {
        let verdict = self.flows.datagram(
            &mut self.world,
            &ends(client),
            ONE,
            self.now,
            &mut self.closed,
        );
        let left = self.flows.take_left();
        assert_eq!(left.is_some(), matches!(verdict, Verdict::Rehome(_)));
        self.flows.check_invariants();
        verdict
    }

    /// Sends, and has the endpoint answer.
    fn echo(&mut self, client: u16) -> Verdict {
        let verdict = self.send(client);
        if let Verdict::Forward(key) | Verdict::Open(key) | Verdict::Rehome(key) = verdict {
            self.flows.answer(key, ONE, self.now);
            self.flows.check_invariants();
        }
        verdict
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.flows
            .fire(&self.world, self.now, &mut self.closed, |_, _| {});
        self.flows.check_invariants();
    }

    fn reasons(&mut self) -> Vec<(u16, Reason)> {
        self.closed
            .drain(..)
            .map(|closed| (closed.flow.ends.client.port(), closed.reason))
            .collect()
    }

    fn home(&mut self, verdict: Verdict) -> u16 {
        match verdict {
            Verdict::Forward(key) | Verdict::Open(key) | Verdict::Rehome(key) => {
                self.flows.get_mut(key).unwrap().home.0
            }
            Verdict::Drop(reason) => panic!("dropped: {reason:?}"),
        }
    }
}

#[test]
fn a_flow_keeps_its_endpoint_until_it_is_idle() {
    let mut bench = Bench::new(10, 3);
    let first = bench.echo(7);
    let home = bench.home(first);
    assert!(matches!(first, Verdict::Open(_)));
    for _ in 0..5 {
        bench.pass(IDLE / 2);
        let next = bench.echo(7);
        assert!(matches!(next, Verdict::Forward(_)));
        assert_eq!(bench.home(next), home);
    }
    bench.pass(IDLE);
    assert_eq!(bench.reasons(), [(7, Reason::IdleTimeout)]);
    assert!(matches!(bench.echo(7), Verdict::Open(_)));
}

#[test]
fn an_answer_alone_keeps_a_flow() {
    let mut bench = Bench::new(10, 1);
    let Verdict::Open(key) = bench.echo(7) else {
        panic!("a new flow")
    };
    for _ in 0..5 {
        bench.pass(IDLE / 2);
        assert_eq!(
            bench.flows.answer(key, ONE, bench.now),
            Some((ends(7), false))
        );
    }
    assert!(bench.closed.is_empty());
}

#[test]
fn a_flow_of_a_gone_endpoint_is_rehomed_by_the_next_datagram() {
    let mut bench = Bench::new(10, 2);
    let first = bench.echo(7);
    let home = bench.home(first);
    bench.world.endpoints.insert(home, Standing::Gone);
    let next = bench.send(7);
    assert!(matches!(next, Verdict::Rehome(_)));
    assert_ne!(bench.home(next), home);
    assert!(matches!(bench.send(7), Verdict::Forward(_)));
    let counts = bench.world.homed.borrow().clone();
    assert_eq!((counts[&home], counts[&(1 - home)]), (0, 1));
}

#[test]
fn a_flow_whose_endpoint_is_gone_waits_for_another_one() {
    let mut bench = Bench::new(10, 1);
    bench.echo(7);
    bench.world.endpoints.insert(0, Standing::Gone);
    assert_eq!(bench.send(7), Verdict::Drop(DatagramDrop::NoEndpoint));
    bench.world.endpoints.insert(1, Standing::Good);
    assert!(matches!(bench.send(7), Verdict::Rehome(_)));
    assert!(bench.closed.is_empty());
}

#[test]
fn a_draining_endpoint_keeps_its_flows_until_the_deadline_and_gets_no_new_ones() {
    let mut bench = Bench::new(10, 2);
    let first = bench.echo(7);
    let home = bench.home(first);
    bench.world.endpoints.insert(home, Standing::Draining);
    for client in 8..12 {
        let other = bench.echo(client);
        assert_ne!(bench.home(other), home);
    }
    for _ in 0..4 {
        assert!(matches!(bench.echo(7), Verdict::Forward(_)));
        bench.pass(DRAINING / 4);
    }
    let moved = bench.echo(7);
    assert!(matches!(moved, Verdict::Rehome(_)));
    assert_ne!(bench.home(moved), home);
}

#[test]
fn an_expelled_flow_moves_at_its_next_datagram_also_while_its_endpoint_drains() {
    let mut bench = Bench::new(10, 2);
    let first = bench.echo(7);
    let home = bench.home(first);
    bench.world.endpoints.insert(home, Standing::Draining);
    bench.flows.expel(|it| it.0 == home);
    let moved = bench.echo(7);
    assert!(matches!(moved, Verdict::Rehome(_)));
    assert_ne!(bench.home(moved), home);
    assert!(
        matches!(bench.echo(7), Verdict::Forward(_)),
        "it stays there"
    );
}

#[test]
fn a_drain_that_was_called_off_starts_over() {
    let mut bench = Bench::new(10, 2);
    let first = bench.echo(7);
    let home = bench.home(first);
    for _ in 0..4 {
        bench.world.endpoints.insert(home, Standing::Draining);
        assert!(matches!(bench.echo(7), Verdict::Forward(_)));
        bench.pass(DRAINING / 2);
        bench.world.endpoints.insert(home, Standing::Good);
        assert!(matches!(bench.echo(7), Verdict::Forward(_)));
    }
}

#[test]
fn a_refused_flow_tries_another_endpoint_and_stays_where_there_is_none() {
    let mut bench = Bench::new(10, 2);
    let first = bench.send(7);
    let home = bench.home(first);
    let Verdict::Open(key) = first else {
        panic!("a new flow")
    };
    bench.flows.refused(key);
    let next = bench.send(7);
    assert_ne!(bench.home(next), home);
    assert!(matches!(next, Verdict::Rehome(_)));

    bench.world.endpoints.insert(home, Standing::Gone);
    bench.flows.refused(key);
    assert!(matches!(bench.send(7), Verdict::Forward(_)));
}

#[test]
fn at_the_limit_the_oldest_unanswered_flow_goes_first() {
    let mut bench = Bench::new(3, 1);
    bench.echo(1);
    bench.send(2);
    bench.send(3);
    bench.send(2);
    bench.send(4);
    assert_eq!(bench.reasons(), [(2, Reason::Evicted)]);
    bench.echo(3);
    bench.send(5);
    assert_eq!(bench.reasons(), [(4, Reason::Evicted)]);
}

#[test]
fn with_answered_flows_only_the_one_idle_for_longest_goes_but_no_active_one() {
    let mut bench = Bench::new(3, 1);
    for client in 1..4 {
        bench.echo(client);
    }
    assert_eq!(bench.send(4), Verdict::Drop(DatagramDrop::TableFull));
    bench.pass(EVICTABLE_AFTER);
    bench.echo(1);
    bench.echo(3);
    bench.send(4);
    assert_eq!(bench.reasons(), [(2, Reason::Evicted)]);
}

#[test]
fn an_answer_under_way_finds_its_flow_however_many_newcomers_there_are() {
    let mut bench = Bench::new(100, 2);
    for client in 1000..1100 {
        bench.echo(client);
    }
    bench.pass(EVICTABLE_AFTER);
    let asked: Vec<_> = (1..=100 / WAITING_PART as u16)
        .map(|client| match bench.send(client) {
            Verdict::Open(key) => (key, client),
            verdict => panic!("{verdict:?}"),
        })
        .collect();
    for client in 2000..2080 {
        bench.echo(client);
    }
    for (key, client) in asked {
        let answer = bench.flows.answer(key, ONE, bench.now);
        assert_eq!(answer, Some((ends(client), true)));
    }
}

#[test]
fn a_flow_that_was_asked_a_second_ago_stays_while_others_are_idle_for_longer() {
    let mut bench = Bench::new(16, 1);
    for client in 0..16 {
        bench.echo(client);
    }
    bench.pass(EVICTABLE_AFTER);
    // The first in the queue, and not idle for as long as those behind it.
    bench.send(0);
    bench.pass(EVICTABLE_AFTER);
    for client in 100..108 {
        bench.echo(client);
    }
    let evicted: Vec<_> = bench
        .reasons()
        .into_iter()
        .map(|(client, _)| client)
        .collect();
    assert_eq!(evicted, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn flows_that_fell_idle_go_in_that_order_once_each_was_looked_at() {
    let mut bench = Bench::new(24, 1);
    for client in 0..24 {
        bench.echo(client);
    }
    // All were active since they were queued.
    for client in 0..24 {
        bench.pass(Duration::from_millis(1));
        bench.echo(client);
    }
    // Newcomers that find no room, while none is idle for long enough.
    for client in 100..104 {
        let refused = Verdict::Drop(DatagramDrop::TableFull);
        assert_eq!(bench.send(client), refused);
    }
    bench.pass(EVICTABLE_AFTER);
    let evicted = (200..224).flat_map(|client| {
        bench.echo(client);
        bench.reasons()
    });
    let evicted: Vec<u16> = evicted.map(|(client, _)| client).collect();
    assert_eq!(evicted, (0..24).collect::<Vec<_>>());
}

#[test]
fn a_flood_takes_no_more_than_its_part_from_flows_that_are_idle() {
    let mut bench = Bench::new(160, 2);
    for client in 1..161 {
        bench.echo(client);
    }
    bench.pass(2 * EVICTABLE_AFTER);
    for source in 1000..11_000 {
        bench.send(source);
    }
    let all = bench.reasons();
    let working = all.iter().filter(|(client, _)| *client < 1000).count();
    assert_eq!(working, 160 / WAITING_PART + 1);
}

#[test]
fn a_flood_of_made_up_sources_leaves_answered_flows_alone() {
    let mut bench = Bench::new(100, 2);
    for client in 1..51 {
        bench.echo(client);
    }
    for source in 1000..11_000 {
        let flooding = bench.flows.datagram(
            &mut bench.world,
            &ends(source),
            ONE,
            bench.now,
            &mut bench.closed,
        );
        assert!(matches!(flooding, Verdict::Open(_)));
    }
    assert_eq!(bench.flows.len(), 100);
    assert!(bench.reasons().iter().all(|(client, _)| *client >= 1000));
    for client in 1..51 {
        assert!(matches!(bench.echo(client), Verdict::Forward(_)));
    }
}

#[test]
fn a_million_sources_fill_a_table_of_a_thousand_and_no_more() {
    let mut bench = Bench::new(1000, 2);
    bench.echo(7);
    let (mut opened, mut evicted) = (1, 0);
    for source in 0..1_000_000_u32 {
        let mut ends = ends(53);
        ends.client
            .set_ip(Ipv4Addr::from(0x0a00_0000 + source).into());
        let verdict =
            bench
                .flows
                .datagram(&mut bench.world, &ends, ONE, bench.now, &mut bench.closed);
        opened += u32::from(matches!(verdict, Verdict::Open(_)));
        let reasons = bench.closed.drain(..).map(|closed| closed.reason);
        evicted += reasons.filter(|reason| *reason == Reason::Evicted).count() as u32;
    }
    assert_eq!(opened, 1_000_001, "newcomers are never turned away");
    assert_eq!(bench.flows.len(), 1000);
    assert_eq!(evicted, opened - 1000, "each is told of once");
    let homed = bench.world.homed.borrow().values().sum::<i64>();
    assert_eq!(homed, 1000, "endpoints count the live ones");
    assert!(
        matches!(bench.echo(7), Verdict::Forward(_)),
        "the answered one is still there"
    );
}

#[test]
fn a_flow_follows_its_frontend() {
    let mut bench = Bench::new(10, 1);
    bench.echo(7);
    bench.flows.routes_changed();
    assert!(
        matches!(bench.echo(7), Verdict::Forward(_)),
        "nothing changed for it"
    );
    bench.world.routes.insert(53, 2);
    bench.flows.routes_changed();
    assert!(matches!(bench.echo(7), Verdict::Open(_)), "another service");
    bench.world.routes.clear();
    bench.flows.routes_changed();
    assert_eq!(bench.send(7), Verdict::Drop(DatagramDrop::NoFrontend));
    assert_eq!(
        bench.reasons(),
        [(7, Reason::FrontendRemoved), (7, Reason::FrontendRemoved)]
    );
}

#[test]
fn a_flow_gives_back_what_it_took_however_it_ends() {
    let mut bench = Bench::new(10, 2);
    bench.world.flows_max = Some(2);
    let Verdict::Open(key) = bench.send(1) else {
        panic!("a new flow")
    };
    bench.echo(2);
    assert_eq!(bench.send(3), Verdict::Drop(DatagramDrop::LimitFlows));
    bench
        .flows
        .abort(key, Reason::FdPressure, &mut bench.closed);
    assert_eq!(bench.reasons(), [(1, Reason::FdPressure)]);
    assert!(matches!(bench.send(3), Verdict::Open(_)));
    bench.flows.close_all(Reason::Shutdown, &mut bench.closed);
    assert_eq!(bench.reasons().len(), 2);
    assert_eq!(*bench.world.permits.borrow(), 0);
    assert!(bench.world.homed.borrow().values().all(|count| *count == 0));
    assert_eq!(bench.flows.wait(bench.now), None, "nor a timer");
}

#[test]
fn what_was_carried_is_reported_once() {
    let mut bench = Bench::new(10, 1);
    let Verdict::Open(key) = bench.echo(7) else {
        panic!("a new flow")
    };
    let mut reported = 0;
    for _ in 0..20 {
        bench.now = bench.now + Duration::from_secs(1);
        bench.echo(7);
        let count = |_: &_, traffic: crate::access_log::Traffic| reported += traffic.datagrams_up;
        bench
            .flows
            .fire(&bench.world, bench.now, &mut bench.closed, count);
    }
    assert!(reported >= 15, "{reported}");
    let rest = bench.flows.get_mut(key).unwrap().take_traffic();
    assert_eq!(reported + rest.datagrams_up, 21);
}

fn ends(client: u16) -> Ends {
    Ends {
        client: SocketAddr::from(([192, 0, 2, 1], client)),
        local: SocketAddr::from(([198, 51, 100, 1], 53)),
    }
}

const ONE: Load = Load {
    bytes: 100,
    datagrams: 1,
};
const IDLE: Duration = Duration::from_secs(30);
const DRAINING: Duration = Duration::from_secs(10);
