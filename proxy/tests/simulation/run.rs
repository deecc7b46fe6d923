//! One run: clients come, endpoints fail and recover, the configuration changes, everything heals.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use fairlead_config::snapshot::{Change, Snapshot};
use fairlead_proxy::{
    balancer::{FlowKey, draw::Draw},
    connect::{AttemptId, Connecting, Failure, Loser},
    directory::Directory,
    health::{Report, probe::Answer},
    registry::{EndpointState, Live, Outcome},
    view::ServiceView,
};
use fairlead_runtime::clock::Tick;

mod clients;
mod control;
mod faults;

use super::{
    shadow::Shadow,
    world::{Behaviour, Dice, World},
};

/// A run of one seed.
pub(crate) struct Simulation {
    seed: u64,
    verbose: bool,
    dice: Dice,
    now: Tick,
    queue: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    world: World,
    snapshot: Snapshot,
    directory: Directory,
    threads: Vec<Draw>,
    sessions: BTreeMap<u64, Session>,
    losers: BTreeMap<(u64, AttemptId), Loser>,
    shadow: Shadow,
    counts: Counts,
    trace: u64,
    /// The next look at the directory.
    deadline: Option<Tick>,
    slowest: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    arrived: u64,
    served: u64,
    gave_up: u64,
    retries: u64,
    hedges: u64,
    ejections: u64,
    probes_down: u64,
    changes: u64,
}

struct Session {
    key: FlowKey,
    thread: usize,
    began: Tick,
    connecting: Option<Connecting>,
    dialled: BTreeMap<AttemptId, Arc<EndpointState>>,
    live: Option<Live>,
}

struct Entry {
    at: Tick,
    number: u64,
    what: Happening,
}

#[derive(Debug)]
enum Happening {
    Arrive,
    Connected(u64, AttemptId),
    Refused(u64, AttemptId),
    Wake(u64),
    LoserWakes(u64, AttemptId),
    FirstByte(u64),
    Ends(u64, bool),
    Report(Report),
    ProbeAnswered(Box<Answer>),
    Deadline,
    Fault,
    Configure,
    Heal,
}

impl Simulation {
    pub(crate) fn new(seed: u64, verbose: bool) -> Self {
        let mut dice = Dice::new(seed);
        let world = World::new(&mut dice);
        Self::of(world, dice, seed, verbose)
    }

    /// Over a given world, without faults and changes of its own, after three seconds of clients.
    pub(crate) fn calm(world: World, seed: u64) -> Self {
        let mut simulation = Self::of(world, Dice::new(seed), seed, false);
        simulation.after(Duration::ZERO, Happening::Arrive);
        simulation.note_deadline();
        simulation.run_for(Duration::from_secs(3));
        simulation
    }

    fn of(world: World, mut dice: Dice, seed: u64, verbose: bool) -> Self {
        let threads = 1 + dice.below(4);
        let mut simulation = Self {
            seed,
            verbose,
            now: Tick::from_start(Duration::from_secs(1)),
            queue: BinaryHeap::new(),
            entries: 0,
            snapshot: Snapshot::default(),
            directory: Directory::new(seed),
            threads: (0..threads)
                .map(|thread| Draw::new(seed ^ thread << 32))
                .collect(),
            sessions: BTreeMap::new(),
            losers: BTreeMap::new(),
            shadow: Shadow::default(),
            counts: Counts::default(),
            trace: 0,
            deadline: None,
            slowest: Duration::ZERO,
            world,
            dice,
        };
        let mut changes: Vec<Change> = vec![simulation.world.service()];
        let addrs: Vec<SocketAddr> = simulation.world.rows.keys().copied().collect();
        changes.extend(
            addrs
                .into_iter()
                .map(|addr| simulation.world.endpoint(addr)),
        );
        simulation.configure(changes);
        simulation
    }

    /// Faults for half a minute, then everything heals, and two quiet minutes later all is as it was.
    pub(crate) fn run(&mut self) {
        self.after(Duration::ZERO, Happening::Arrive);
        self.after(Duration::from_secs(1), Happening::Fault);
        self.after(Duration::from_secs(2), Happening::Configure);
        self.after(FAULTS_LAST, Happening::Heal);
        self.note_deadline();
        self.run_for(FAULTS_LAST + QUIET);
        self.check_healed();
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(Reverse(entry)) = self.queue.pop() {
            if entry.at > end {
                self.queue.push(Reverse(entry));
                break;
            }
            self.now = entry.at.max(self.now);
            self.note(&entry.what);
            let view = self.view();
            self.shadow.note_trials(&view);
            self.happen(entry.what);
            let view = self.view();
            self.shadow.check(&view);
        }
        self.now = end;
    }

    /// Lets endpoints that `which` names (member and position) behave like this from now on.
    pub(crate) fn behave(&mut self, behaviour: Behaviour, which: impl Fn(usize, usize) -> bool) {
        for (position, (addr, row)) in self.world.rows.iter().enumerate() {
            if which(row.member, position % 4) {
                self.world.behaviours.insert(*addr, behaviour);
            }
        }
        self.slowest = Duration::ZERO;
    }

    /// The longest that a client waited for its endpoint since the last change of behaviour, and the
    /// clients that got none since the start.
    pub(crate) fn patience(&self) -> (Duration, u64) {
        (self.slowest, self.counts.gave_up)
    }

    /// The share of each member, in percent.
    pub(crate) fn shares(&self) -> Vec<u64> {
        let shares = self.view().shares().into_iter();
        shares
            .map(|share| (share * 100 + (1 << 31)) >> 32)
            .collect()
    }

    /// Endpoints that take sessions.
    pub(crate) fn usable(&self) -> usize {
        self.view()
            .endpoints()
            .filter(|(_, entry)| entry.state.is_usable())
            .count()
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn summary(&self) -> String {
        format!("seed {}: {:?}", self.seed, self.counts)
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive => self.arrive(),
            Happening::Connected(session, attempt) => self.answered(session, attempt, None),
            Happening::Refused(session, attempt) => {
                self.answered(session, attempt, Some(Failure::Refused));
            }
            Happening::Wake(session) => self.wake(session),
            Happening::LoserWakes(session, attempt) => self.wake_loser(session, attempt),
            Happening::FirstByte(session) => {
                let endpoint = self
                    .sessions
                    .get(&session)
                    .and_then(|session| session.live.as_deref().cloned());
                if let Some(endpoint) = endpoint {
                    self.outcome(&endpoint, Outcome::Served);
                }
            }
            Happening::Ends(session, reset) => self.end(session, reset),
            Happening::Report(report) => self.report(report),
            Happening::ProbeAnswered(answer) => self.probe_answered(*answer),
            Happening::Deadline => self.deadline(),
            Happening::Fault => self.fault(),
            Happening::Configure => self.reconfigure(),
            Happening::Heal => self.heal(),
        }
    }

    fn check_healed(&self) {
        let view = self.view();
        for (member, entry) in view.endpoints() {
            let state = &entry.state;
            // Where no session comes by and no probe, nobody has tried it yet.
            let untried = member.tier > 0 && state.flags().is_on_trial();
            assert!(
                state.is_usable() || untried,
                "{} never came back: {:?}",
                state.addr,
                state.flags()
            );
        }
        let first_tier = view
            .members
            .iter()
            .filter(|member| member.tier == 0)
            .count() as u64;
        for (member, share) in view.members.iter().zip(view.shares()) {
            let expected = if member.tier == 0 {
                (1 << 32) / first_tier
            } else {
                0
            };
            assert!(
                share.abs_diff(expected) <= 1,
                "{} has {share} for {expected}",
                member.state.name
            );
        }
        let live: BTreeSet<u64> = self.sessions.keys().copied().collect();
        let settled = self.counts.served + self.counts.gave_up;
        assert!(
            self.counts.arrived - settled <= live.len() as u64,
            "a session was lost"
        );
    }

    fn view(&self) -> Arc<ServiceView> {
        let state = self
            .directory
            .service(&self.world.name)
            .expect("it is configured");
        state.view().clone().expect("it is served")
    }

    fn after(&mut self, delay: Duration, what: Happening) {
        self.at(self.now.after(delay), what);
    }

    fn at(&mut self, at: Tick, what: Happening) {
        self.entries += 1;
        let number = self.entries;
        self.queue.push(Reverse(Entry { at, number, what }));
    }

    fn note(&mut self, what: &Happening) {
        let line = match what {
            Happening::Report(report) => {
                format!(
                    "{:?} {} {:?}",
                    self.now, report.endpoint.addr, report.outcome
                )
            }
            Happening::ProbeAnswered(answer) => {
                format!(
                    "{:?} probe {} {:?}",
                    self.now, answer.job.endpoint.addr, answer.result
                )
            }
            what => format!("{:?} {what:?}", self.now),
        };
        for byte in line.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.verbose {
            println!("{line}");
        }
    }
}

// === impl Entry ===

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

const FAULTS_LAST: Duration = Duration::from_secs(30);
/// The longest ejection, the trial after it, slow start and return.
const QUIET: Duration = Duration::from_secs(150);
