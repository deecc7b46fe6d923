//! One run: clients come, endpoints fail and recover, the configuration changes, everything heals.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fairlead_config::{
    endpoint::ObjectState,
    frontend::Protocol,
    snapshot::{Change, Delta, Snapshot},
};
use fairlead_proxy::{
    balancer::{FlowKey, NoEndpoint, draw::Draw},
    connect::{Action, Actions, AttemptId, Connecting, Event, Failure, GiveUp, Loser},
    directory::{Directory, Signal},
    health::{
        Report, note,
        probe::{Answer, Job, ProbeError},
    },
    registry::{EndpointId, EndpointState, Flags, Live, Outcome},
    view::{MemberView, ServiceView},
};
use fairlead_runtime::clock::Tick;

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

    // --- clients

    fn arrive(&mut self) {
        let number = self.counts.arrived;
        self.counts.arrived += 1;
        let most = if self.is_over() { 400 } else { 24 };
        let pause = self
            .dice
            .between(Duration::from_millis(1), Duration::from_millis(most));
        self.after(pause, Happening::Arrive);
        let client = Ipv4Addr::from(0x0a80_0000 | self.dice.below(400) as u32);
        let session = Session {
            key: FlowKey {
                client: SocketAddr::from((client, 1024 + self.dice.below(60_000) as u16)),
                local: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 443)),
                protocol: Protocol::Tcp,
            },
            thread: self.dice.below(self.threads.len() as u64) as usize,
            began: self.now,
            connecting: Some(Connecting::new(&self.view().service.policy, self.now)),
            dialled: BTreeMap::new(),
            live: None,
        };
        self.sessions.insert(number, session);
        self.step(number, Event::Begin);
    }

    fn step(&mut self, number: u64, event: Event) {
        let view = self.view();
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let Some(connecting) = &mut session.connecting else {
            return;
        };
        let draw = &mut self.threads[session.thread];
        let (key, shadow) = (session.key, &self.shadow);
        let actions: Actions = connecting.step(event, now, &mut |tried| {
            let pick = view.pick(&key, draw, now, tried)?;
            shadow.check_pick(&view, &pick.endpoint);
            assert!(!tried.contains(pick.endpoint.id), "a candidate twice");
            Ok(pick)
        });
        let wake = connecting.next_wake();
        for action in actions {
            self.act(number, action);
        }
        if let Some(wake) = wake {
            self.at(wake, Happening::Wake(number));
        }
        self.settle_attempts(number);
    }

    fn act(&mut self, number: u64, action: Action) {
        match action {
            Action::Dial { attempt, endpoint } => {
                let session = self.sessions.get_mut(&number).expect("it acts");
                session.dialled.insert(attempt, endpoint.clone());
                self.shadow.begin(&endpoint);
                let way = self.world.distance(endpoint.addr);
                let took = self.dice.between(way, way + way / 5);
                match self.world.behaviours[&endpoint.addr] {
                    Behaviour::Good | Behaviour::Resetting => {
                        self.after(took, Happening::Connected(number, attempt));
                    }
                    Behaviour::Refusing => self.after(took, Happening::Refused(number, attempt)),
                    Behaviour::Silent => {}
                }
            }
            Action::Report { endpoint, outcome } => self.outcome(&endpoint, outcome),
            Action::Serve { attempt, live, .. } => self.serve(number, attempt, live),
            Action::GiveUp(reason) => self.give_up(number, reason),
        }
    }

    fn serve(&mut self, number: u64, attempt: AttemptId, live: Live) {
        self.counts.served += 1;
        let behaviour = self.world.behaviours[&live.addr];
        let session = self.sessions.get_mut(&number).expect("it is served");
        assert!(
            self.now.since(session.began) <= Duration::from_secs(5),
            "served too late"
        );
        let connecting = session.connecting.take().expect("it connected");
        let summary = connecting.summary();
        self.slowest = self.slowest.max(self.now.since(session.began));
        self.counts.retries += u64::from(summary.retries);
        self.counts.hedges += u64::from(summary.hedges);
        session.dialled.remove(&attempt);
        session.live = Some(live);
        let losers = connecting.into_losers();
        for loser in &losers {
            session.dialled.remove(&loser.attempt);
        }
        for loser in losers {
            let (at, id) = (loser.next_wake(), loser.attempt);
            self.losers.insert((number, id), loser);
            self.at(at, Happening::LoserWakes(number, id));
        }
        let lasts = self
            .dice
            .between(Duration::from_millis(5), Duration::from_millis(800));
        if behaviour == Behaviour::Resetting {
            self.after(Duration::from_millis(2), Happening::Ends(number, true));
        } else {
            self.after(Duration::from_millis(3), Happening::FirstByte(number));
            self.after(lasts, Happening::Ends(number, false));
        }
    }

    fn give_up(&mut self, number: u64, reason: GiveUp) {
        self.counts.gave_up += 1;
        let session = &self.sessions[&number];
        let tried = session
            .connecting
            .as_ref()
            .map_or(0, |connecting| connecting.summary().attempts);
        let view = self.view();
        // A refused session tried all it might: six candidates, or everything that takes sessions.
        if matches!(reason, GiveUp::Refused | GiveUp::Unreachable) && tried < 6 {
            let full = view
                .service
                .policy
                .limits
                .connections_per_endpoint
                .unwrap_or(u32::MAX);
            let left = view.endpoints().filter(|(member, entry)| {
                let open = entry.state.is_usable() && entry.state.inflight() < full;
                may_be_used(&view, member)
                    && open
                    && !session
                        .dialled
                        .values()
                        .any(|dialled| dialled.id == entry.state.id)
            });
            assert_eq!(left.count(), 0, "gave up after {tried} with others left");
        }
        if reason == GiveUp::TimedOut {
            assert_eq!(self.now.since(session.began), Duration::from_secs(5));
        }
        if let GiveUp::NoEndpoint(NoEndpoint::Unusable) = reason {
            let usable = view
                .endpoints()
                .any(|(member, entry)| may_be_used(&view, member) && entry.state.is_usable());
            assert!(!usable, "an endpoint was usable");
        }
    }

    /// Ends the bookkeeping of attempts that the policy has let go of.
    fn settle_attempts(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let over = session
            .connecting
            .as_ref()
            .is_some_and(|connecting| connecting.next_wake().is_none());
        if over && session.live.is_none() {
            let session = self.sessions.remove(&number).expect("looked at above");
            for endpoint in session.dialled.into_values() {
                // Those that failed before were ended then; what the counters say decides.
                while self.shadow.live[&endpoint.id] > endpoint.inflight() {
                    self.shadow.end(&endpoint);
                }
            }
        }
    }

    fn answered(&mut self, number: u64, attempt: AttemptId, failure: Option<Failure>) {
        if let Some(loser) = self.losers.remove(&(number, attempt)) {
            let outcome = match failure {
                None => Some(loser.connected(self.now)),
                Some(failure) => loser.failed(failure),
            };
            self.end_loser(loser, outcome);
            return;
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let Some(endpoint) = session.dialled.get(&attempt).cloned() else {
            return;
        };
        if let Some(failure) = failure {
            self.shadow.end(&endpoint);
            self.step(number, Event::Failed(attempt, failure));
        } else {
            self.step(number, Event::Connected(attempt));
        }
    }

    fn wake(&mut self, number: u64) {
        let due = self
            .sessions
            .get(&number)
            .and_then(|session| session.connecting.as_ref()?.next_wake());
        if due.is_some_and(|due| due <= self.now) {
            self.step(number, Event::Woken);
        }
    }

    fn wake_loser(&mut self, number: u64, attempt: AttemptId) {
        let Some(mut loser) = self.losers.remove(&(number, attempt)) else {
            return;
        };
        let (outcome, over) = loser.woken(self.now);
        if over {
            self.end_loser(loser, outcome);
            return;
        }
        let (at, endpoint) = (loser.next_wake(), Arc::clone(&loser.live));
        self.losers.insert((number, attempt), loser);
        self.at(at, Happening::LoserWakes(number, attempt));
        if let Some(outcome) = outcome {
            self.outcome(&endpoint, outcome);
        }
    }

    fn end_loser(&mut self, loser: Loser, outcome: Option<Outcome>) {
        let endpoint = Arc::clone(&loser.live);
        self.shadow.end(&endpoint);
        drop(loser);
        if let Some(outcome) = outcome {
            self.outcome(&endpoint, outcome);
        }
    }

    fn end(&mut self, number: u64, reset: bool) {
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        let live = session.live.expect("only served sessions end");
        let endpoint = Arc::clone(&live);
        self.shadow.end(&endpoint);
        drop(live);
        if reset {
            self.outcome(&endpoint, Outcome::ResetBeforeData);
        }
    }

    fn outcome(&mut self, endpoint: &Arc<EndpointState>, outcome: Outcome) {
        let expected = self.shadow.outcome(endpoint, outcome);
        if let Some(report) = note(endpoint, outcome, self.now) {
            assert_eq!(
                report.strikes, expected,
                "strikes of {} after {outcome:?}",
                endpoint.addr
            );
            let delay = self.dice.between(Duration::ZERO, Duration::from_millis(2));
            self.after(delay, Happening::Report(report));
        } else {
            assert_eq!(expected, 0, "an unreported strike");
        }
    }

    // --- the control thread

    fn report(&mut self, report: Report) {
        // A trial's failure ejects again although it is one strike.
        let was_out = report.endpoint.flags().has(Flags::EJECTED);
        let strikes = if was_out { 3 } else { report.strikes };
        let struck = (report.endpoint.id, strikes);
        self.directory.observe([Signal::Report(report)], self.now);
        self.after_directory(Some(struck));
    }

    fn probe_answered(&mut self, answer: Answer) {
        match answer.result {
            Err(ProbeError::Ours) => {}
            result => self.shadow.probe(&answer.job.endpoint, result.is_ok()),
        }
        self.directory.observe([Signal::Answer(answer)], self.now);
        self.after_directory(None);
    }

    fn deadline(&mut self) {
        self.deadline = None;
        self.directory.advance(self.now);
        self.after_directory(None);
    }

    fn after_directory(&mut self, struck: Option<(EndpointId, u32)>) {
        for job in self.directory.take_probes(self.now) {
            self.probe(job);
        }
        for change in self.directory.take_changes() {
            let flags = change.endpoint.flags();
            self.counts.ejections += u64::from(flags.has(Flags::EJECTED));
            self.counts.probes_down += u64::from(flags.has(Flags::PROBE_DOWN));
            if flags.has(Flags::REMOVED) {
                self.shadow.forget(&change.endpoint);
            }
        }
        let view = self.view();
        self.shadow.check_transitions(&view, struck);
        self.note_deadline();
    }

    fn probe(&mut self, job: Job) {
        let way = self.world.distance(job.endpoint.addr);
        let took = self.dice.between(way, way + way / 5);
        let (took, result) = if self.dice.one_in(50) {
            (took, Err(ProbeError::Ours))
        } else {
            match self.world.behaviours[&job.endpoint.addr] {
                // A reset before data comes after what a TCP probe asks.
                Behaviour::Good | Behaviour::Resetting => (took, Ok(Some(took))),
                Behaviour::Refusing => (took, Err(ProbeError::Refused)),
                Behaviour::Silent => (Duration::from_millis(500), Err(ProbeError::TimedOut)),
            }
        };
        self.after(
            took,
            Happening::ProbeAnswered(Box::new(Answer { job, result })),
        );
    }

    fn note_deadline(&mut self) {
        let next = self
            .directory
            .next_deadline(self.now)
            .filter(|&next| self.deadline.is_none_or(|known| next < known));
        if let Some(next) = next {
            self.deadline = Some(next);
            self.at(next, Happening::Deadline);
        }
    }

    // --- faults and changes

    fn fault(&mut self) {
        let pause = self
            .dice
            .between(Duration::from_millis(50), Duration::from_millis(2500));
        self.after(pause, Happening::Fault);
        if self.is_over() {
            return;
        }
        let behaviour = self.dice.of(&[
            Behaviour::Good,
            Behaviour::Good,
            Behaviour::Good,
            Behaviour::Refusing,
            Behaviour::Silent,
            Behaviour::Resetting,
        ]);
        let victim = self.world.any_addr(&mut self.dice);
        let member = self.world.rows[&victim].member;
        let whole_member = self.dice.one_in(6);
        for (addr, row) in &self.world.rows {
            if *addr == victim || whole_member && row.member == member {
                self.world.behaviours.insert(*addr, behaviour);
            }
        }
    }

    fn reconfigure(&mut self) {
        let pause = self
            .dice
            .between(Duration::from_millis(100), Duration::from_secs(5));
        self.after(pause, Happening::Configure);
        if self.is_over() {
            return;
        }
        let addr = self.world.any_addr(&mut self.dice);
        let row = self.world.rows.get_mut(&addr).expect("one of them");
        let change = match self.dice.below(4) {
            0 => {
                let place = &mut self.world.members[row.member];
                place.points = self.dice.of(&[0, 10, 100, 1000]);
                self.world.service()
            }
            1 => {
                row.is_there = !row.is_there;
                self.world.endpoint(addr)
            }
            2 => {
                row.state = self.dice.of(&[
                    ObjectState::Ready,
                    ObjectState::NotReady,
                    ObjectState::Draining,
                ]);
                self.world.endpoint(addr)
            }
            _ => {
                row.weight = self.dice.of(&[1, 2, 10]);
                self.world.endpoint(addr)
            }
        };
        self.configure(vec![change]);
    }

    fn configure(&mut self, changes: Vec<Change>) {
        self.counts.changes += 1;
        let (touched, problems) = self.snapshot.apply(Delta { changes });
        assert_eq!(problems, []);
        self.directory
            .apply(&self.snapshot, &touched.services, &|_| Vec::new(), self.now);
        self.after_directory(None);
    }

    fn is_over(&self) -> bool {
        self.now > Tick::from_start(Duration::from_secs(1)).after(FAULTS_LAST)
    }

    fn heal(&mut self) {
        for behaviour in self.world.behaviours.values_mut() {
            *behaviour = Behaviour::Good;
        }
        for place in &mut self.world.members {
            place.points = 100;
        }
        let mut changes = vec![self.world.service()];
        for row in self.world.rows.values_mut() {
            row.state = ObjectState::Ready;
            row.is_there = true;
        }
        changes.extend(
            self.world
                .rows
                .keys()
                .map(|&addr| self.world.endpoint(addr)),
        );
        self.configure(changes);
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

    // --- the run itself

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

fn may_be_used(view: &ServiceView, member: &MemberView) -> bool {
    member.weight > 0 && (member.tier == 0 || !view.service.policy.no_fallback)
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
