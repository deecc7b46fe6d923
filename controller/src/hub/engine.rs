//! The hub's one loop: what watches see goes into the World, what changed is planned, what is
//! decided goes to the board and to the writer.
//!
//! Changes wait up to [`WINDOW`] for others; a removal waits for nothing. Nothing is planned before
//! every kind has been listed once, so a restart never withdraws what it has not read yet.

mod members;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_api::{labels, member::MemberReportSpec};
use fairlead_config::name::MemberName;
use fairlead_runtime::clock::{Clock, Tick};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use self::members::{Known, verdict_of};
use super::{
    epoch::Shown,
    events::Announcer,
    identities::Task,
    metrics::Metrics,
    news,
    streams::OwnGroups,
    watches::{Seen, Watched},
};
use crate::{
    board::Board,
    epoch::Epoch,
    fleet::{self, Fleet},
    leader::io::Leadership,
    members::{Heartbeats, MASS_MIN},
    plan::{self, Report},
    status::Write,
    time,
    world::{Dirty, Kind, Load, Object, ObjectKey, ServiceKey, Settings, World},
};

/// What the rest of the hub tells the engine.
#[derive(Debug)]
pub(super) enum Command {
    /// A member's namespace and identity exist.
    Prepared(MemberName),
    /// What proxies report of services.
    Loads(Vec<(ServiceKey, BTreeMap<MemberName, Load>)>),
    /// What proxies refuse of services.
    Refusals(Vec<(ServiceKey, Vec<String>)>),
    /// The status of these groups has to be looked at.
    Groups(BTreeSet<String>),
    /// Some agent wants imports with endpoints.
    FullImports,
    /// The store's epoch is another, or its members have mirrored anew; found at this
    /// resourceVersion. Whether nothing may be distributed.
    Epoch(Epoch, u64, bool, oneshot::Sender<()>),
    /// The store was restored, but the new epoch has not begun.
    Hold(oneshot::Sender<()>),
}

/// How far the hub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Not everything was listed and planned yet.
    #[default]
    Listing,
    /// The store was restored; nothing is distributed before members have mirrored anew.
    Holding,
    /// Everything known is distributed.
    Serving,
}

/// What everybody reads of the engine.
#[derive(Clone)]
pub struct Shared {
    /// What everybody is told.
    pub board: Arc<RwLock<Board>>,
    /// Moves with each change of the board.
    pub revision: watch::Receiver<u64>,
    /// Whether anything is distributed.
    pub phase: watch::Receiver<Phase>,
    /// What was not done, and why.
    pub report: Arc<RwLock<Report>>,
    /// The members that may have streams open.
    pub members: watch::Receiver<Arc<BTreeSet<MemberName>>>,
    /// Each member's own proxy group.
    pub groups: watch::Receiver<OwnGroups>,
}

/// Where the engine sends its decisions.
pub(super) struct Outputs {
    pub(super) board: Arc<RwLock<Board>>,
    pub(super) revision: watch::Sender<u64>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) report: Arc<RwLock<Report>>,
    pub(super) members: watch::Sender<Arc<BTreeSet<MemberName>>>,
    pub(super) groups: watch::Sender<OwnGroups>,
    pub(super) writes: mpsc::Sender<Vec<Write>>,
    pub(super) identities: mpsc::Sender<Task>,
    pub(super) events: Announcer,
    pub(super) shown: mpsc::Sender<Shown>,
}

/// A question to the store: whether it is still the one that was listed first. Nothing is planned
/// before it is answered.
struct Check {
    since: Tick,
    went_back: bool,
    answer: oneshot::Receiver<bool>,
}

pub(super) struct Engine {
    world: World,
    heartbeats: Heartbeats,
    members: BTreeMap<MemberName, Known>,
    reports: BTreeMap<MemberName, MemberReportSpec>,
    listed: BTreeSet<Kind>,
    /// What a list lacked that lacked most members, and since when it is kept all the same.
    held: BTreeMap<Kind, (BTreeSet<ObjectKey>, Tick)>,
    /// Nothing is planned: the store was restored.
    holds: bool,
    check: Option<Check>,
    leases_listed: bool,
    led: bool,
    /// When what waits has to be planned.
    due: Option<Instant>,
    /// When members have to be looked at, before their time.
    hurried: Option<Instant>,
    next_sweep: Tick,
    next_part: Tick,
    /// The last service of the part that was swept last.
    swept: Option<ServiceKey>,
    out: Outputs,
    fleet: Arc<Mutex<Fleet>>,
    leadership: Leadership,
    metrics: Metrics,
    clock: Clock,
}

impl Engine {
    pub(super) fn new(
        settings: Settings,
        out: Outputs,
        fleet: Arc<Mutex<Fleet>>,
        leadership: Leadership,
        metrics: Metrics,
    ) -> Self {
        let clock = leadership.clock();
        Self {
            world: World::new(settings),
            heartbeats: Heartbeats::default(),
            members: BTreeMap::new(),
            reports: BTreeMap::new(),
            listed: BTreeSet::new(),
            held: BTreeMap::new(),
            holds: false,
            check: None,
            leases_listed: false,
            led: false,
            due: None,
            hurried: None,
            next_sweep: Tick::ZERO,
            next_part: Tick::ZERO,
            swept: None,
            out,
            fleet,
            leadership,
            metrics,
            clock,
        }
    }

    /// The API server's state before anything was listed.
    pub(super) fn seen_up_to(mut self, version: u64) -> Self {
        self.world.seen_up_to(version);
        self
    }

    /// Starts without planning anything: the store was restored.
    pub(super) fn holding(mut self, holds: bool) -> Self {
        self.holds = holds;
        self
    }

    /// Runs until both queues are closed.
    pub(super) async fn run(
        mut self,
        mut watched: mpsc::Receiver<Watched>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leadership = self.leadership.clone();
        loop {
            tokio::select! {
                biased;
                () = until(self.due) => self.plan().await,
                () = until(self.hurried) => self.tick().await,
                known = answered(&mut self.check) => self.checked(known),
                seen = watched.recv() => {
                    let Some(seen) = seen else { return };
                    self.see(seen);
                    for _ in 0..BATCH {
                        let Ok(seen) = watched.try_recv() else { break };
                        self.see(seen);
                    }
                }
                Some(command) = commands.recv() => self.obey(command).await,
                () = leadership.changed() => {
                    if leadership.is_mine() != self.led {
                        self.hurry();
                    }
                }
                _ = ticks.tick() => self.tick().await,
            }
            self.schedule();
        }
    }

    /// Everything was listed, and the store is known to be no back-up.
    fn may_plan(&self) -> bool {
        self.listed.len() == KINDS && !self.holds && self.check.is_none()
    }

    /// A list taken after the first may come from a store that was restored: its past would be taken
    /// for news.
    fn look_before_planning(&mut self, since: Tick, went_back: bool) {
        let (answer, answered) = oneshot::channel();
        let shown = Shown {
            epoch: self.out.board.read().epoch().to_owned(),
            as_of: self.world.as_of(),
            went_back,
            answer: Some(answer),
        };
        // A full queue answers with an end, and the question is asked again. What was told once is known:
        // told again, it would be taken for another restore.
        let told = self.out.shown.try_send(shown).is_ok();
        self.check = Some(Check {
            since,
            went_back: went_back && !told,
            answer: answered,
        });
    }

    fn checked(&mut self, known: bool) {
        let now = self.clock.now();
        match self.check.take() {
            Some(check) if !known && now.since(check.since) < HOLD => {
                self.look_before_planning(check.since, check.went_back);
            }
            _ => {}
        }
    }

    /// Members are looked at soon, not at their time.
    fn hurry(&mut self) {
        self.next_sweep = Tick::ZERO;
        self.hurried.get_or_insert(Instant::now() + WINDOW);
    }

    fn schedule(&mut self) {
        if !self.may_plan() || !self.world.is_dirty() {
            self.due = None;
            return;
        }
        let now = Instant::now();
        if self.world.has_removals() {
            self.due = Some(now);
        } else {
            self.due.get_or_insert(now + WINDOW);
        }
    }

    fn see(&mut self, seen: Watched) {
        match seen {
            Watched::Object(kind, seen) => self.see_object(kind, seen),
            Watched::Lease(seen) => self.see_lease(seen),
            Watched::Report(seen) => self.see_report(seen),
        }
    }

    fn see_object(&mut self, kind: Kind, seen: Seen<Object>) {
        match seen {
            Seen::Apply(object) => {
                self.know(&object);
                self.hold_no_more(kind, &object);
                self.world.apply(object);
            }
            Seen::Delete(object) => {
                self.hold_no_more(kind, &object);
                let (namespace, name) = object.key();
                if kind == Kind::Member
                    && let Ok(member) = MemberName::parse(&name)
                {
                    self.members.remove(&member);
                    self.heartbeats.leave(&member);
                    self.tell_members();
                }
                self.world.seen_up_to(object.version());
                self.world.delete(kind, &namespace, &name);
                self.look_at_deleted();
            }
            Seen::Reset(all) => self.reset(kind, all),
            Seen::Failed => {}
        }
    }

    fn reset(&mut self, kind: Kind, all: Vec<Object>) {
        // Another list may wait for its answer still.
        let waits = self.check.as_ref().is_some_and(|check| check.went_back);
        let went_back = waits || self.world.is_later_than(&all);
        if self.lacks_most(kind, &all) {
            tracing::error!(
                ?kind,
                "a new list lacks the objects of most members; they are kept for a while, the fault is more likely in the hub's API server"
            );
            self.metrics.held_reset(&format!("{kind:?}"));
            let present: BTreeSet<ObjectKey> = all.iter().map(Object::key).collect();
            let known = self.world.objects(kind).into_iter();
            let lacked = known.filter(|key| !present.contains(key)).collect();
            for object in all {
                self.world.apply(object);
            }
            self.held.insert(kind, (lacked, self.clock.now()));
            self.look_before_planning(self.clock.now(), went_back);
            return;
        }
        self.held.remove(&kind);
        if kind == Kind::Member {
            self.members.clear();
        }
        for object in &all {
            self.know(object);
        }
        if kind == Kind::Member {
            self.tell_members();
        }
        if self.listed.contains(&kind) {
            self.look_before_planning(self.clock.now(), went_back);
        }
        self.world.reset(kind, all);
        self.listed.insert(kind);
    }

    /// The API server has an object, or had it: no list is needed to know of it.
    fn hold_no_more(&mut self, kind: Kind, object: &Object) {
        if let Some((lacked, _)) = self.held.get_mut(&kind) {
            lacked.remove(&object.key());
        }
    }

    /// Whether a list taken after the first lacks all objects of more than half of the members that
    /// had any, and of at least three.
    fn lacks_most(&self, kind: Kind, all: &[Object]) -> bool {
        if !self.listed.contains(&kind) || !matches!(kind, Kind::Export | Kind::Slice) {
            return false;
        }
        let before = self.world.members_with(kind);
        let after: BTreeSet<MemberName> = all
            .iter()
            .filter_map(|object| {
                let namespace = object.key().0;
                MemberName::parse(labels::member_of_namespace(&namespace)?).ok()
            })
            .collect();
        let lost = before.difference(&after).count();
        lost >= MASS_MIN && lost * 2 > before.len()
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Prepared(member) => {
                if let Some(known) = self.members.get_mut(&member) {
                    known.prepared = true;
                    self.hurry();
                }
            }
            Command::Loads(all) => {
                for (key, loads) in all {
                    self.world.apply_loads(&key, loads);
                }
            }
            Command::Refusals(all) => {
                for (key, refusals) in all {
                    self.world.apply_refusals(&key, refusals);
                }
            }
            Command::FullImports => self.world.want_full_imports(true),
            Command::Epoch(epoch, revision, holds, done) => {
                self.begin(&epoch, revision);
                self.hold(holds);
                // Whoever told it may be gone.
                let _: Result<(), ()> = done.send(());
            }
            Command::Hold(done) => {
                self.hold(true);
                let _: Result<(), ()> = done.send(());
            }
            Command::Groups(all) => {
                let writes = self.group_statuses(all);
                self.write(writes).await;
            }
        }
    }

    fn begin(&mut self, epoch: &Epoch, revision: u64) {
        let mut board = self.out.board.write();
        if board.epoch() != epoch.id {
            board.begin(epoch.id.clone(), revision);
            self.world.begin(revision);
        }
    }

    fn hold(&mut self, holds: bool) {
        if self.holds != holds {
            self.holds = holds;
            self.metrics.holds(holds);
            // What changed meanwhile was not planned.
            self.world.touch_everything();
        }
        if holds {
            self.due = None;
            self.out.phase.send_replace(Phase::Holding);
        }
    }

    fn group_statuses(&self, groups: BTreeSet<String>) -> Vec<Write> {
        let now = time::time(&self.clock);
        let fleet = self.fleet.lock();
        let board = self.out.board.read();
        let known = groups.iter().filter_map(|name| {
            let group = self.world.groups().get(name.as_str())?;
            let old = group.status.clone().unwrap_or_default();
            let published = board.hash(name);
            let mut new = fleet.status(name, published.as_deref(), &old, &now);
            new.as_of = (self.world.as_of() > 0).then(|| self.world.as_of().to_string());
            Some(Write::GroupProxies {
                name: name.clone(),
                version: 0,
                status: fleet::without_ports(&new)?,
            })
        });
        known.collect()
    }

    async fn plan(&mut self) {
        self.due = None;
        let dirty = self.world.take_dirty();
        self.decide(&dirty).await;
        self.out.phase.send_replace(Phase::Serving);
    }

    async fn decide(&mut self, dirty: &Dirty) {
        let started = self.clock.now();
        let now = time::time(&self.clock);
        let plan = plan::plan(&self.world, dirty, &now);
        let as_of = self.world.as_of();
        if dirty.everything || !dirty.groups.is_empty() {
            self.tell_groups();
        }
        let changed = self.out.board.write().apply(&plan, as_of);
        self.metrics
            .planned(self.clock.now().since(started), plan.services.len());
        if changed {
            self.out.revision.send_modify(|revision| *revision += 1);
        }
        {
            let mut report = self.out.report.write();
            if dirty.everything {
                report.notes.clear();
            }
            for key in plan.services.keys() {
                report.notes.remove(&key.to_string());
            }
            report.notes.extend(plan.report.notes);
        }
        self.write(plan.writes).await;
    }

    fn tell_groups(&self) {
        let groups = self.world.groups().iter().rev();
        let own: BTreeMap<MemberName, _> = groups
            .filter_map(|(name, group)| {
                let member = MemberName::parse(group.spec.member.as_deref()?).ok()?;
                Some((member, name.clone()))
            })
            .collect();
        self.out.groups.send_if_modified(|old| {
            let changed = **old != own;
            if changed {
                *old = Arc::new(own);
            }
            changed
        });
    }

    async fn write(&self, writes: Vec<Write>) {
        // A new leader writes nothing before it knows what the one before knew.
        if !writes.is_empty() && self.led && self.leadership.is_mine() {
            for write in &writes {
                let news = news::of(&self.world, write);
                self.out.events.tell(write.version(), news);
            }
            // The writer takes batches as fast as they come; it is gone only when the hub is.
            drop(self.out.writes.send(writes).await);
        }
    }

    async fn tick(&mut self) {
        self.hurried = None;
        let now = self.clock.now();
        let due: Vec<Kind> = self
            .held
            .iter()
            .filter(|(_, (_, since))| now.since(*since) >= HOLD)
            .map(|(kind, _)| *kind)
            .collect();
        for kind in due {
            if let Some((lacked, _)) = self.held.remove(&kind) {
                tracing::warn!(
                    ?kind,
                    objects = lacked.len(),
                    "the list that lacked most members is taken for true now"
                );
                for (namespace, name) in lacked {
                    self.world.delete(kind, &namespace, &name);
                }
            }
        }
        let leads = self.leadership.is_mine();
        self.metrics.leads(leads);
        if self.listed.len() < KINDS || !self.leases_listed {
            return;
        }
        if leads && !self.led {
            // A new leader knows nothing of when anybody was heard.
            self.heartbeats = Heartbeats::default();
            for (name, known) in &self.members {
                self.heartbeats
                    .join(name.clone(), verdict_of(&known.status), now);
            }
            // Other replicas will hand them on.
            self.fleet.lock().expect_all(self.world.groups(), now);
            self.hurry();
        }
        self.led = leads;
        if !leads {
            return;
        }
        let changed = self.heartbeats.step(now);
        for (member, verdict) in &changed {
            self.announce(member, *verdict);
        }
        if !changed.is_empty() || now >= self.next_sweep {
            self.sweep_members().await;
        }
        if now >= self.next_sweep {
            self.next_sweep = now.after(SWEEP_EVERY);
        }
        if now >= self.next_part && self.may_plan() {
            self.next_part = now.after(TICK);
            self.decide_a_part().await;
        }
    }

    /// Plans a part of everything, so that all of it has been planned anew after [`SWEEP_EVERY`] and
    /// lost writes heal, without ever holding a change up for long.
    async fn decide_a_part(&mut self) {
        let rounds = SWEEP_EVERY.as_millis() / TICK.as_millis();
        let rounds = usize::try_from(rounds).unwrap_or(1).max(1);
        let keys = self.world.service_keys();
        let count = keys.len() / rounds + 1;
        let after = self.swept.take();
        let rest = keys
            .iter()
            .filter(|key| after.as_ref().is_none_or(|at| *key > at));
        let part: BTreeSet<ServiceKey> = rest.take(count).cloned().collect();
        self.swept = part.last().cloned();
        let groups = match part.is_empty() {
            true => self.world.groups().keys().cloned().collect(),
            false => BTreeSet::new(),
        };
        let dirty = Dirty {
            services: part,
            groups,
            ..Dirty::default()
        };
        self.decide(&dirty).await;
    }
}

/// Waits for the answer to a check; an end of it is none.
async fn answered(check: &mut Option<Check>) -> bool {
    match check {
        Some(check) => match (&mut check.answer).await {
            Ok(known) => known,
            Err(_) => {
                // The question found no room; not at once again.
                tokio::time::sleep(WINDOW).await;
                false
            }
        },
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What the proxies' field manager owns of a group's status.
/// How long a change waits for others: DESIGN's 10 to 50 ms.
const WINDOW: Duration = Duration::from_millis(15);
/// How often heartbeats are judged.
const TICK: Duration = Duration::from_millis(500);
/// How often everything is planned anew, so that lost writes heal.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long a list that lacks most members is held back.
const HOLD: Duration = Duration::from_secs(60);
/// Kinds of the World.
const KINDS: usize = 6;
/// Inputs taken in one go, so that planning cannot starve.
const BATCH: usize = 1024;
