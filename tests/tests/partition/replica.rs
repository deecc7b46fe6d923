//! A replica of the hub: sees the store, judges heartbeats, plans, and writes while it leads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_api::{
    conditions::{self, kind, reason},
    member::MemberCluster,
};
use fairlead_config::name::MemberName;
use fairlead_controller::{
    board::Board,
    epoch::{Epoch, Found, Life, Step},
    fleet::{self, Fleet},
    hub::reports::Reports,
    leader::{Election, RENEW_EVERY, Record, Step as Lead},
    members::{self, Facts, Heartbeats, Verdict},
    plan::plan,
    status::Write,
    world::{Kind, Object, Settings, World},
};
use fairlead_runtime::clock::{Clock, Tick};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::store::{Seen, Store};

/// A process; a crash is a new one.
pub(crate) struct Replica {
    pub(crate) board: Board,
    /// It has planned everything once, and holds nothing back.
    pub(crate) serves: bool,
    /// What it hears of proxies.
    pub(crate) reports: Reports,
    /// No other life of a replica has this number.
    pub(crate) life_number: u64,
    fleet: Arc<Mutex<Fleet>>,
    published: BTreeMap<String, String>,
    next_gather: Tick,
    world: World,
    heartbeats: Heartbeats,
    members: BTreeMap<MemberName, MemberCluster>,
    election: Election,
    life: Life,
    /// How far it has seen the store; `None`: it has to list.
    seen: Option<u64>,
    /// When the store answered last.
    pub(crate) seen_at: Tick,
    listed: bool,
    led: bool,
    next_lease: Tick,
    next_look: Tick,
    next_verdicts: Tick,
    next_sweep: Tick,
}

impl Replica {
    pub(crate) fn start(name: &str, store: &mut Store, clock: &Clock) -> Self {
        let now = clock.now();
        let made = store.epoch.id.is_empty();
        if made {
            store.epoch.id = "first".to_owned();
        }
        let mut world = World::new(Settings::default());
        world.seen_up_to(store.revision);
        let fleet: Arc<Mutex<Fleet>> = Arc::default();
        Self {
            reports: Reports::new(Arc::clone(&fleet), clock.clone()),
            life_number: now.0,
            fleet,
            published: BTreeMap::new(),
            next_gather: now,
            board: Board::new(store.epoch.id.clone()),
            serves: false,
            world,
            heartbeats: Heartbeats::default(),
            members: BTreeMap::new(),
            election: Election::new(name.to_owned()),
            life: Life::new(store.epoch.clone(), store.revision, made, now),
            seen: None,
            seen_at: now,
            listed: false,
            led: false,
            next_lease: now,
            next_look: now,
            next_verdicts: now,
            next_sweep: now,
        }
    }

    /// Its watches broke.
    pub(crate) fn loses_watch(&mut self) {
        self.seen = None;
    }

    /// A proxy shows what it runs on; whether this replica knows now what that means.
    pub(crate) fn show(&mut self, epoch: &str, as_of: u64, store: Option<&mut Store>, now: Tick) {
        if epoch != self.board.epoch() || as_of <= self.board.as_of() {
            return;
        }
        self.life.show(epoch, as_of);
        if let Some(store) = store {
            self.look(store, now);
        }
    }

    /// `store` is absent while it does not answer.
    pub(crate) fn step(&mut self, store: Option<&mut Store>, now: Tick) {
        let Some(store) = store else {
            self.heartbeats.blind(now);
            // A watch that breaks begins with a list again.
            self.seen = None;
            return;
        };
        self.seen_at = now;
        if now >= self.next_look {
            let every = if self.life.holds() {
                LOOK_AGAIN
            } else {
                LOOK_EVERY
            };
            self.next_look = now.after(every);
            self.life.show(self.board.epoch(), self.board.as_of());
            self.look(store, now);
        }
        self.keep_lease(store, now);
        self.watch(store, now);
        if !self.listed {
            return;
        }
        self.lead(store, now);
        self.gather(store, now);
        if now >= self.next_sweep {
            // Writes that were lost are made good.
            self.next_sweep = now.after(Duration::from_secs(10));
            self.world.touch_everything();
        }
        if !self.life.holds() && self.world.is_dirty() {
            let dirty = self.world.take_dirty();
            let plan = plan(&self.world, &dirty, &time(now));
            self.board.apply(&plan, self.world.as_of());
            self.serves = true;
            if self.leads(now) {
                plan.writes.into_iter().for_each(|write| store.write(write));
            }
        }
    }

    pub(crate) fn leads(&self, now: Tick) -> bool {
        self.led && self.election.leads(now)
    }

    /// Carries what proxies report to where it is decided, and written.
    fn gather(&mut self, store: &mut Store, now: Tick) {
        if now < self.next_gather {
            return;
        }
        self.next_gather = now.after(GATHER_EVERY);
        let mut fleet = self.fleet.lock();
        let gathered = fleet.gather(&self.board, &mut self.published, now);
        for (key, loads) in gathered.loads {
            self.world.apply_loads(&key, loads);
        }
        for (key, refusals) in gathered.refusals {
            self.world.apply_refusals(&key, refusals);
        }
        if !self.led || !self.election.leads(now) {
            return;
        }
        for name in gathered.groups {
            let Some(group) = self.world.groups().get(name.as_str()) else {
                continue;
            };
            let old = group.status.clone().unwrap_or_default();
            let published = self.board.hash(&name);
            let new = fleet.status(&name, published.as_deref(), &old, &time(now));
            store.write(Write::GroupProxies {
                name,
                version: 0,
                status: fleet::without_ports(&new).expect("a status is an object"),
            });
        }
    }

    fn look(&mut self, store: &mut Store, now: Tick) {
        let leads = self.leads(now);
        let missing = match leads && store.epoch.remirroring {
            true => missing(store),
            false => 0,
        };
        let found = Found {
            epoch: store.epoch.clone(),
            revision: store.revision,
            missing,
            leads,
            vouch: self.election.vouch().cloned(),
        };
        let before = self.life.epoch().id.clone();
        match self.life.step(&found, now) {
            Step::Stay => return,
            Step::Hold => {}
            Step::Adopt(_) => {}
            Step::Begin { after } => {
                store.revision += 1;
                store.epoch = Epoch {
                    id: format!("{}-{}", after.len(), store.revision),
                    after,
                    remirroring: true,
                };
                self.life.begun(store.epoch.clone(), found.revision, now);
            }
            Step::Settle => {
                store.revision += 1;
                store.epoch.remirroring = false;
                self.life.adopt(store.epoch.clone(), found.revision, now);
            }
        }
        let epoch = self.life.epoch();
        if epoch.id != before {
            self.board.begin(epoch.id.clone(), found.revision);
            self.world.begin(found.revision);
            self.seen = None;
        }
        self.world.touch_everything();
        self.serves &= !self.life.holds();
    }

    fn keep_lease(&mut self, store: &mut Store, now: Tick) {
        if now < self.next_lease {
            return;
        }
        let known = self.election.went_back();
        let step = self.election.observe(store.leader.clone(), now);
        if self.election.went_back() != known {
            self.life.doubt(self.election.vouch().cloned());
            self.next_look = now;
        }
        if let Lead::Claim { takeover } = step {
            let record = Record {
                holder: self.election.me().to_owned(),
                renewal: i64::try_from(now.0).unwrap(),
                transitions: self.election.transitions() + i32::from(takeover),
                url: String::new(),
                epoch: self.life.vouches_for().unwrap_or_default().to_owned(),
            };
            store.revision += 1;
            store.leader = Some(record.clone());
            self.election.claimed(record, now);
        }
        let leads = self.election.leads(now);
        self.next_lease = now.after(if leads {
            RENEW_EVERY
        } else {
            Duration::from_secs(1)
        });
    }

    fn watch(&mut self, store: &mut Store, now: Tick) {
        self.heartbeats.sighted(now);
        let Some(from) = self.seen else {
            return self.list(store, now);
        };
        let news: Vec<Seen> = store.since(from).cloned().collect();
        for seen in news {
            match seen {
                Seen::Apply(object) => {
                    self.know(&object, now);
                    self.world.apply(object);
                }
                Seen::Delete(object) => {
                    let (namespace, name) = object.key();
                    self.world.seen_up_to(object.version());
                    self.world.delete(object.kind(), &namespace, &name);
                }
                Seen::Heartbeat(member, renewal) => {
                    self.heartbeats.renewed(&member, &renewal.to_string(), now);
                }
            }
        }
        self.seen = Some(from.max(store.revision));
    }

    fn list(&mut self, store: &mut Store, now: Tick) {
        if self.listed {
            // A list taken after the first may come from a store that was restored.
            self.life.show(self.board.epoch(), self.world.as_of());
            let back = |kind: &Kind| self.world.is_later_than(&store.list(*kind));
            if KINDS.iter().any(back) {
                self.life.doubt(self.election.vouch().cloned());
            }
            self.look(store, now);
        }
        for kind in KINDS {
            let all = store.list(kind);
            all.iter().for_each(|object| self.know(object, now));
            self.world.reset(kind, all);
        }
        for (member, (renewal, _)) in &store.heartbeats {
            self.heartbeats.renewed(member, &renewal.to_string(), now);
        }
        self.seen = Some(store.revision);
        self.listed = true;
    }

    fn know(&mut self, object: &Object, now: Tick) {
        if let Object::Member(member) = object {
            let name = MemberName::parse(&member.name_any()).unwrap();
            self.heartbeats.join(name.clone(), verdict(member), now);
            self.members.insert(name, (**member).clone());
        }
    }

    /// What only the leader does: verdicts on heartbeats, into statuses.
    fn lead(&mut self, store: &mut Store, now: Tick) {
        let leads = self.election.leads(now);
        if leads && !self.led {
            self.heartbeats = Heartbeats::default();
            for (name, member) in &self.members {
                self.heartbeats.join(name.clone(), verdict(member), now);
            }
            self.fleet.lock().expect_all(self.world.groups(), now);
        }
        self.led = leads;
        if !leads || now < self.next_verdicts {
            return;
        }
        self.next_verdicts = now.after(Duration::from_millis(500));
        self.heartbeats.step(now);
        for (name, member) in &self.members {
            let facts = Facts {
                report: None,
                verdict: self.heartbeats.verdict(name),
                prepared: true,
                leaving: false,
                kept_by: &[],
                exports: self.world.exports_of(name),
                silent: self.heartbeats.silent(),
                generation: None,
            };
            let old = member.status.clone().unwrap_or_default();
            if let Some(status) = members::status(&old, &facts, &time(now)) {
                let version = member.resource_version().unwrap().parse().unwrap();
                store.write(Write::Member {
                    name: name.to_string(),
                    version,
                    status: Box::new(status),
                });
            }
        }
    }
}

/// Members that are present and have not mirrored anew; each is told of the epoch.
fn missing(store: &mut Store) -> usize {
    let id = Some(store.epoch.id.clone());
    let mut missing = 0;
    for object in store.list(Kind::Member) {
        let Object::Member(member) = object else {
            continue;
        };
        let name = MemberName::parse(&member.name_any()).unwrap();
        if store.mirrored.get(&name) == Some(&id) {
            continue;
        }
        if let Some(heartbeat) = store.heartbeats.get_mut(&name) {
            heartbeat.1.clone_from(&id);
        }
        missing += usize::from(!matches!(
            verdict(&member),
            Verdict::NeverSeen | Verdict::Lost
        ));
    }
    missing
}

fn verdict(member: &MemberCluster) -> Verdict {
    let status = member.status.as_ref();
    let conditions = status
        .map(|status| &status.conditions[..])
        .unwrap_or_default();
    let healthy = conditions::find(conditions, kind::HEALTHY);
    match healthy.map(|condition| condition.reason.as_str()) {
        None | Some(reason::NEVER_SEEN) => Verdict::NeverSeen,
        Some(reason::HEARTBEAT_LOST) => Verdict::Lost,
        Some(reason::MASS_LOSS) => Verdict::Suspended,
        Some(_) => Verdict::Fresh,
    }
}

fn time(now: Tick) -> Time {
    let second = i64::try_from(now.since(Tick::ZERO).as_secs()).unwrap();
    Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
}

const KINDS: [Kind; 6] = [
    Kind::Member,
    Kind::Export,
    Kind::Slice,
    Kind::Group,
    Kind::Service,
    Kind::Import,
];
const GATHER_EVERY: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
