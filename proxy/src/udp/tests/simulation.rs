//! Seeded runs against a shadow model. `FAIRLEAD_SIM_SEED=n` replays one seed,
//! `FAIRLEAD_SIM_SEEDS=n` runs that many.

use super::*;

#[test]
fn flows_follow_the_shadow_model_under_random_events() {
    for seed in seeds() {
        run(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[derive(Debug, Clone)]
struct Shadow {
    home: u16,
    service: u8,
    opened: usize,
    active: Tick,
    answered: bool,
    heard: bool,
    refused: bool,
    draining: Option<Tick>,
    up: u64,
    down: u64,
    reported: u64,
}

struct Simulation {
    seed: u64,
    step: usize,
    random: Random,
    bench: Bench,
    shadow: BTreeMap<Ends, Shadow>,
    keys: BTreeMap<Ends, super::super::flows::Key>,
    opened: usize,
    closed: usize,
    trace: u64,
}

fn run(seed: u64) -> u64 {
    let mut random = Random(seed);
    let flows_max = 4 + random.below(30);
    let mut simulation = Simulation {
        seed,
        step: 0,
        bench: Bench::new(flows_max, 4),
        random,
        shadow: BTreeMap::new(),
        keys: BTreeMap::new(),
        opened: 0,
        closed: 0,
        trace: 0,
    };
    for step in 0..STEPS {
        simulation.step = step;
        simulation.one();
    }
    simulation
        .bench
        .flows
        .close_all(Reason::Shutdown, &mut simulation.bench.closed);
    simulation.settle_closed(Some(Reason::Shutdown));
    assert!(simulation.shadow.is_empty());
    assert_eq!(simulation.opened, simulation.closed);
    assert!(
        simulation
            .bench
            .world
            .homed
            .borrow()
            .values()
            .all(|count| *count == 0)
    );
    simulation.trace
}

impl Simulation {
    fn one(&mut self) {
        match self.random.below(100) {
            0..55 => self.datagram(),
            55..80 => self.answer(),
            80..85 => self.refuse(),
            85..92 => self.change_endpoint(),
            92..94 => self.change_route(),
            94..96 => self.abort(),
            _ => self.pass(),
        }
        self.bench.flows.check_invariants();
        assert_eq!(
            self.bench.flows.len(),
            self.shadow.len(),
            "{}",
            self.place()
        );
        assert_eq!(
            self.opened,
            self.closed + self.shadow.len(),
            "{}",
            self.place()
        );
    }

    fn datagram(&mut self) {
        let client = self.random.below(60) as u16;
        let mut ends = ends(client);
        ends.local.set_port(53 + self.random.below(2) as u16);
        let load = Load {
            bytes: self.random.below(1500) as u64,
            datagrams: 1,
        };
        let Bench {
            flows,
            world,
            now,
            closed,
        } = &mut self.bench;
        let verdict = flows.datagram(world, &ends, load, *now, closed);
        if let Some(Left { traffic, .. }) = self.bench.flows.take_left() {
            self.shadow
                .get_mut(&ends)
                .expect("it was re-homed")
                .reported += traffic.bytes_up;
        }
        self.settle_route(&ends);
        let before = self.shadow.get(&ends).cloned();
        let full = self.shadow.len() >= self.flows_max();
        let evicted = self.settle_closed(Some(Reason::Evicted));
        assert!(evicted <= 1 && (evicted == 0 || full), "{}", self.place());
        self.check_verdict(verdict, &ends, load, before);
        if verdict == Verdict::Drop(DatagramDrop::TableFull) {
            assert!(full && evicted == 0, "{}", self.place());
        }
    }

    fn check_verdict(&mut self, verdict: Verdict, ends: &Ends, load: Load, before: Option<Shadow>) {
        match verdict {
            Verdict::Forward(key) => {
                let before = before.unwrap_or_else(|| panic!("unknown flow {}", self.place()));
                assert!(
                    self.may_stay(&before) || self.good() == 0,
                    "{}",
                    self.place()
                );
                assert_eq!(self.keys[ends], key);
                self.sent(ends, load, None);
            }
            Verdict::Open(key) => {
                assert!(before.is_none(), "{}", self.place());
                let home = self.bench.flows.get_mut(key).unwrap().home.0;
                self.open(ends, key, home);
                self.sent(ends, load, Some(home));
            }
            Verdict::Rehome(key) => {
                let before = before.unwrap_or_else(|| panic!("unknown flow {}", self.place()));
                let home = self.bench.flows.get_mut(key).unwrap().home.0;
                assert_ne!(home, before.home, "{}", self.place());
                assert!(
                    before.refused || !self.may_stay(&before),
                    "{}",
                    self.place()
                );
                self.sent(ends, load, Some(home));
            }
            Verdict::Drop(DatagramDrop::NoEndpoint) => {
                assert_eq!(self.good(), 0, "{}", self.place());
            }
            Verdict::Drop(DatagramDrop::NoFrontend) => {
                assert!(!self.bench.world.routes.contains_key(&ends.local.port()));
            }
            Verdict::Drop(DatagramDrop::TableFull) => {
                assert!(before.is_none(), "{}", self.place());
                assert!(
                    self.shadow.values().all(|flow| flow.answered),
                    "{}",
                    self.place()
                );
            }
            Verdict::Drop(reason) => panic!("{reason:?} {}", self.place()),
        }
    }

    /// What the core must do about a flow whose frontend changed hands.
    fn settle_route(&mut self, ends: &Ends) {
        let moved =
            self.bench.closed.iter().any(|closed| {
                closed.reason == Reason::FrontendRemoved && closed.flow.ends == *ends
            });
        if moved {
            let service = self.bench.world.routes.get(&ends.local.port());
            assert_ne!(
                service,
                Some(&self.shadow[ends].service),
                "{}",
                self.place()
            );
            let at = self
                .bench
                .closed
                .iter()
                .position(|closed| closed.flow.ends == *ends);
            let closed = self.bench.closed.remove(at.unwrap());
            self.settle_one(closed);
        }
    }

    fn sent(&mut self, ends: &Ends, load: Load, home: Option<u16>) {
        let now = self.bench.now;
        let standing = |home: &u16| self.bench.world.endpoints.get(home).copied();
        let flow = self.shadow.get_mut(ends).expect("it was opened");
        if let Some(home) = home {
            flow.home = home;
            flow.refused = false;
            flow.heard = false;
            flow.draining = None;
        }
        match standing(&flow.home) {
            Some(Standing::Draining) => drop(flow.draining.get_or_insert(now)),
            Some(Standing::Good) => flow.draining = None,
            _ => {}
        }
        flow.active = now;
        flow.up += load.bytes;
        self.trace = self
            .trace
            .wrapping_mul(31)
            .wrapping_add(u64::from(flow.home) + load.bytes);
    }

    fn open(&mut self, ends: &Ends, key: super::super::flows::Key, home: u16) {
        self.opened += 1;
        self.keys.insert(*ends, key);
        let service = self.bench.world.routes[&ends.local.port()];
        let opened = self.opened;
        let active = self.bench.now;
        let flow = Shadow {
            home,
            service,
            opened,
            active,
            answered: false,
            heard: false,
            refused: false,
            draining: None,
            up: 0,
            down: 0,
            reported: 0,
        };
        assert!(self.shadow.insert(*ends, flow).is_none());
    }

    fn answer(&mut self) {
        let Some(ends) = self.some_flow() else { return };
        let load = Load {
            bytes: 10,
            datagrams: 1,
        };
        let answer = self
            .bench
            .flows
            .answer(self.keys[&ends], load, self.bench.now);
        let flow = self.shadow.get_mut(&ends).unwrap();
        assert_eq!(answer, Some((ends, !flow.heard)));
        flow.heard = true;
        flow.answered = true;
        flow.refused = false;
        flow.active = self.bench.now;
        flow.down += 10;
    }

    fn refuse(&mut self) {
        let Some(ends) = self.some_flow() else { return };
        self.bench.flows.refused(self.keys[&ends]);
        let flow = self.shadow.get_mut(&ends).unwrap();
        flow.refused = true;
        flow.heard = false;
    }

    fn abort(&mut self) {
        let Some(ends) = self.some_flow() else { return };
        let key = self.keys[&ends];
        self.bench
            .flows
            .abort(key, Reason::FdPressure, &mut self.bench.closed);
        assert_eq!(self.settle_closed(Some(Reason::FdPressure)), 1);
        assert_eq!(
            self.bench.flows.answer(key, ONE, self.bench.now),
            None,
            "a key is used once"
        );
    }

    fn change_endpoint(&mut self) {
        let number = self.random.below(4) as u16;
        let standing = [
            Standing::Good,
            Standing::Good,
            Standing::Draining,
            Standing::Gone,
        ];
        let standing = standing[self.random.below(4)];
        self.bench.world.endpoints.insert(number, standing);
    }

    fn change_route(&mut self) {
        let port = 53 + self.random.below(2) as u16;
        match self.random.below(3) {
            0 => drop(self.bench.world.routes.remove(&port)),
            service => drop(self.bench.world.routes.insert(port, service as u8)),
        }
        self.bench.flows.routes_changed();
    }

    fn pass(&mut self) {
        let millis = [1, 50, 700, 4000, 40_000][self.random.below(5)];
        let now = self.bench.now + Duration::from_millis(millis);
        self.bench.now = now;
        let Bench {
            flows,
            world,
            closed,
            ..
        } = &mut self.bench;
        let shadow = &mut self.shadow;
        flows.fire(world, now, closed, |flow, traffic| {
            shadow.get_mut(&flow.ends).expect("a live flow").reported += traffic.bytes_up;
        });
        for closed in &self.bench.closed {
            let flow = &self.shadow[&closed.flow.ends];
            assert!(now - flow.active >= IDLE, "ended early {}", self.place());
        }
        self.settle_closed(Some(Reason::IdleTimeout));
        for flow in self.shadow.values() {
            assert!(
                now - flow.active <= IDLE + LATE,
                "should have ended {}",
                self.place()
            );
        }
    }

    /// Takes note of ended flows and returns how many.
    fn settle_closed(&mut self, expected: Option<Reason>) -> usize {
        let closed = std::mem::take(&mut self.bench.closed);
        let count = closed.len();
        for closed in closed {
            assert_eq!(Some(closed.reason), expected, "{}", self.place());
            if closed.reason == Reason::Evicted {
                self.check_victim(&closed.flow.ends);
            }
            self.settle_one(closed);
        }
        count
    }

    fn settle_one(&mut self, mut closed: Closed<Model>) {
        let shadow = self
            .shadow
            .remove(&closed.flow.ends)
            .expect("a live flow ended");
        let traffic = closed.flow.traffic;
        assert_eq!(
            (traffic.bytes_up, traffic.bytes_down),
            (shadow.up, shadow.down),
            "{}",
            self.place()
        );
        let rest = closed.flow.take_traffic().bytes_up;
        assert_eq!(shadow.reported + rest, shadow.up, "{}", self.place());
        self.keys.remove(&closed.flow.ends);
        self.closed += 1;
        self.trace = self
            .trace
            .wrapping_mul(31)
            .wrapping_add(closed.reason as u64);
    }

    fn check_victim(&self, ends: &Ends) {
        let victim = &self.shadow[ends];
        let waiting = || self.shadow.values().filter(|flow| !flow.answered);
        if victim.answered {
            let idle = self.bench.now - victim.active;
            assert!(idle >= EVICTABLE_AFTER, "{}", self.place());
            let max = self.flows_max() / WAITING_PART;
            assert!(waiting().count() <= max, "{}", self.place());
        } else {
            let oldest = waiting().map(|flow| flow.opened).min();
            assert_eq!(Some(victim.opened), oldest, "{}", self.place());
        }
    }

    fn may_stay(&self, flow: &Shadow) -> bool {
        match self.bench.world.endpoints[&flow.home] {
            Standing::Good => true,
            Standing::Draining => flow
                .draining
                .is_none_or(|since| self.bench.now - since < DRAINING),
            Standing::Gone => false,
        }
    }

    fn good(&self) -> usize {
        let all = self.bench.world.endpoints.values();
        all.filter(|standing| **standing == Standing::Good).count()
    }

    fn some_flow(&mut self) -> Option<Ends> {
        let count = self.shadow.len();
        (count > 0).then(|| *self.shadow.keys().nth(self.random.below(count)).unwrap())
    }

    fn flows_max(&self) -> usize {
        4 + Random(self.seed).below(30)
    }

    fn place(&self) -> String {
        format!("FAIRLEAD_SIM_SEED={} step {}", self.seed, self.step)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text: String| text.parse().expect(name))
    };
    match (number("FAIRLEAD_SIM_SEED"), number("FAIRLEAD_SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..32,
    }
}

const STEPS: usize = 3000;
/// Timers fire at most this late.
const LATE: Duration = Duration::from_millis(10);
