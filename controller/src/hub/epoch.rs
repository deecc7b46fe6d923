//! The life of the hub's store, on the API server: see [`crate::epoch`].
//!
//! Each replica looks every [`LOOK_EVERY`] (more often while it holds), and at once when somebody shows
//! a later state than it has itself. While members mirror anew, the leader states the epoch on their heartbeats, which is how
//! their agents learn of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_api::{
    conditions::{self, kind, reason},
    labels,
    member::{MemberCluster, MemberReport},
};
use fairlead_runtime::clock::{Clock, Tick};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::RwLock;
use ring::rand::SecureRandom;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use super::engine::Command;
use crate::{
    board::Board,
    epoch::{Epoch, Found, Life, Step},
    leader::io::Leadership,
};

/// The epoch of the store, made when there is none, and whether it was.
pub(super) async fn load(client: &Client) -> Result<(Epoch, bool), kube::Error> {
    let api = config_maps(client);
    if let Some(found) = api.get_opt(CONFIG_MAP).await? {
        return Ok((read(&found), false));
    }
    let epoch = Epoch {
        id: fresh()?,
        ..Epoch::default()
    };
    let map = config_map(&epoch, None);
    match api.create(&PostParams::default(), &map).await {
        Ok(made) => Ok((read(&made), true)),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok((read(&api.get(CONFIG_MAP).await?), false))
        }
        Err(error) => Err(error),
    }
}

/// The API server's own resourceVersion: that of a list taken now.
pub(super) async fn revision(client: &Client) -> Result<u64, kube::Error> {
    let api: Api<MemberCluster> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    let text = list.metadata.resource_version.unwrap_or_default();
    Ok(text.parse().unwrap_or(0))
}

/// Somebody has seen a state.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) epoch: String,
    pub(super) as_of: u64,
    /// Objects have gone back, whatever the numbers say.
    pub(super) went_back: bool,
    /// Told when it has been looked at, and the leader's Lease too: whether it is known now what that
    /// means. A back-up that lacks only what came after it shows in no object that is left.
    pub(super) answer: Option<oneshot::Sender<bool>>,
}

/// Who waits for an answer.
struct Asking {
    since: Tick,
    answer: oneshot::Sender<bool>,
}

/// Keeps a replica's view of the store's life.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) leadership: Leadership,
    pub(super) board: Arc<RwLock<Board>>,
    pub(super) engine: mpsc::Sender<Command>,
    /// Moves when watches have to list anew.
    pub(super) relist: watch::Sender<u64>,
    /// The epoch that this replica is sure of.
    pub(super) vouched: watch::Sender<String>,
    pub(super) clock: Clock,
}

impl Keeper {
    /// Looks until the hub ends.
    pub(super) async fn run(self, mut life: Life, mut shown: mpsc::Receiver<Shown>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leadership = self.leadership.clone();
        let mut went_back = 0;
        let mut asking: Vec<Asking> = Vec::new();
        loop {
            let holds = life.holds();
            tokio::select! {
                _ = ticks.tick() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if holds => {}
                () = leadership.changed() => {
                    if !holds && asking.is_empty() && leadership.went_back() == went_back {
                        continue;
                    }
                }
                one = shown.recv() => {
                    let Some(one) = one else { return };
                    asking.extend(self.take(&mut life, one));
                }
            }
            while let Ok(one) = shown.try_recv() {
                asking.extend(self.take(&mut life, one));
            }
            if leadership.went_back() != went_back {
                went_back = leadership.went_back();
                self.doubt(&mut life);
            }
            {
                let board = self.board.read();
                life.show(board.epoch(), board.as_of());
            }
            let looked = tokio::time::timeout(LOOK_TIMEOUT, self.look(&mut life)).await;
            match &looked {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the state of the hub's store is unknown"),
                Err(_) => tracing::warn!("the state of the hub's store is unknown: no answer"),
            }
            let known = matches!(looked, Ok(Ok(())));
            let vouched = life.vouches_for().unwrap_or_default();
            self.vouched.send_if_modified(|old| {
                let changed = old != vouched;
                if changed {
                    vouched.clone_into(old);
                }
                changed
            });
            if !known || leadership.went_back() == went_back {
                asking = self.answer(asking, known);
            }
        }
    }

    /// Answers those that the Lease has been looked at for, or not been for too long; the others.
    fn answer(&self, asking: Vec<Asking>, known: bool) -> Vec<Asking> {
        let (now, looked) = (self.clock.now(), self.leadership.looked());
        let mut rest = Vec::new();
        for one in asking {
            let seen = looked >= Some(one.since);
            if known && !seen && now.since(one.since) < LOOK_TIMEOUT {
                rest.push(one);
            } else {
                // Whoever asked may have gone.
                let _: Result<(), bool> = one.answer.send(known && seen);
            }
        }
        rest
    }

    /// Takes note of what somebody has seen; who wants to know when that has been looked at.
    fn take(&self, life: &mut Life, one: Shown) -> Option<Asking> {
        life.show(&one.epoch, one.as_of);
        if one.went_back {
            self.doubt(life);
        }
        let since = self.clock.now();
        let asking = one.answer.map(|answer| Asking { since, answer });
        if asking.is_some() {
            self.leadership.look();
        }
        asking
    }

    fn doubt(&self, life: &mut Life) {
        tracing::warn!("objects of the hub's API server have gone back: was it restored?");
        life.doubt(self.leadership.vouch());
    }

    async fn look(&self, life: &mut Life) -> Result<(), kube::Error> {
        let revision = revision(&self.client).await?;
        let map = config_maps(&self.client).get_opt(CONFIG_MAP).await?;
        let epoch = map.as_ref().map(read).unwrap_or_default();
        let leads = self.leadership.is_mine();
        let missing = match leads && epoch.remirroring {
            true => self.ask_missing(&epoch).await?,
            false => 0,
        };
        let found = Found {
            epoch,
            revision,
            missing,
            leads,
            vouch: self.leadership.vouch(),
        };
        let before = life.epoch().id.clone();
        let epoch = match life.step(&found, self.clock.now()) {
            Step::Stay => return Ok(()),
            Step::Hold => {
                if life.is_ahead() {
                    tracing::warn!(
                        "somebody has seen a later state than the API server has; the leader will begin a new epoch"
                    );
                }
                let (done, told) = oneshot::channel();
                self.tell(Command::Hold(done), told).await;
                return Ok(());
            }
            Step::Adopt(epoch) => epoch,
            Step::Begin { after } => {
                let epoch = Epoch {
                    id: fresh()?,
                    after,
                    remirroring: true,
                };
                self.write(map.as_ref(), &epoch).await?;
                tell_begin(life.is_ahead(), revision);
                life.begun(epoch.clone(), revision, self.clock.now());
                epoch
            }
            Step::Settle => {
                let epoch = Epoch {
                    remirroring: false,
                    ..found.epoch
                };
                self.write(map.as_ref(), &epoch).await?;
                tracing::info!(
                    missing,
                    "members have mirrored anew; the hub distributes again"
                );
                life.adopt(epoch.clone(), revision, self.clock.now());
                epoch
            }
        };
        if epoch.id != before {
            self.relist.send_modify(|count| *count += 1);
        }
        let (done, told) = oneshot::channel();
        let holds = life.holds();
        self.tell(Command::Epoch(epoch, revision, holds, done), told)
            .await;
        Ok(())
    }

    /// Tells the engine, and waits until it has obeyed.
    async fn tell(&self, command: Command, told: oneshot::Receiver<()>) {
        if self.engine.send(command).await.is_ok() {
            // An engine that is gone has ended the hub.
            let _: Result<(), _> = told.await;
        }
    }

    async fn write(&self, old: Option<&ConfigMap>, epoch: &Epoch) -> Result<(), kube::Error> {
        let api = config_maps(&self.client);
        let version = old.and_then(|map| map.metadata.resource_version.clone());
        let params = PostParams::default();
        match version {
            None => api.create(&params, &config_map(epoch, None)).await,
            version => {
                let map = config_map(epoch, version);
                api.replace(CONFIG_MAP, &params, &map).await
            }
        }
        .map(drop)
    }

    /// Tells the agents that have not mirrored anew of the epoch; how many of them are present.
    async fn ask_missing(&self, epoch: &Epoch) -> Result<usize, kube::Error> {
        let everything = ListParams::default();
        let members: Api<MemberCluster> = Api::all(self.client.clone());
        let reports: Api<MemberReport> = Api::all(self.client.clone());
        let done: BTreeMap<String, Option<String>> = reports
            .list(&everything)
            .await?
            .into_iter()
            .map(|report| (report.namespace().unwrap_or_default(), report.spec.epoch))
            .collect();
        let mut missing = Vec::new();
        for member in members.list(&everything).await? {
            let namespace = labels::member_namespace(&member.name_any());
            let mirrored = done
                .get(&namespace)
                .is_some_and(|one| one.as_ref() == Some(&epoch.id));
            if mirrored || member.metadata.deletion_timestamp.is_some() {
                continue;
            }
            self.state_epoch(&namespace, epoch).await?;
            if is_present(&member) {
                missing.push(member.name_any());
            }
        }
        if !missing.is_empty() {
            tracing::info!(?missing, "members have not mirrored anew yet");
        }
        Ok(missing.len())
    }

    async fn state_epoch(&self, namespace: &str, epoch: &Epoch) -> Result<(), kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let patch = json!({ "metadata": { "annotations": { labels::EPOCH: epoch.id } } });
        let patch = Patch::Merge(&patch);
        let params = PatchParams::default();
        match api.patch(labels::HEARTBEAT_LEASE, &params, &patch).await {
            // Without a heartbeat nobody would read it.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            done => done.map(drop),
        }
    }
}

fn tell_begin(ahead: bool, revision: u64) {
    if ahead {
        tracing::error!(
            revision,
            "a later state was seen than the hub's API server has: it was restored. A new epoch begins; nothing is distributed before members have mirrored anew, or 60 s are over"
        );
    } else {
        tracing::info!(
            revision,
            "no other process of the hub is there to vouch for its API server's state: members mirror anew before anything is distributed, or 60 s are over"
        );
    }
}

/// Whether an agent is there to mirror anew.
fn is_present(member: &MemberCluster) -> bool {
    let conditions = member.status.as_ref().map(|status| &status.conditions[..]);
    let healthy = conditions::find(conditions.unwrap_or_default(), kind::HEALTHY);
    healthy.is_some_and(|healthy| {
        !matches!(
            healthy.reason.as_str(),
            reason::NEVER_SEEN | reason::HEARTBEAT_LOST
        )
    })
}

fn config_maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE)
}

fn read(map: &ConfigMap) -> Epoch {
    let text = |key: &str| {
        let data = map.data.as_ref();
        data.and_then(|data| data.get(key))
            .map_or("", String::as_str)
    };
    let after = text("after").split(',').filter(|id| !id.is_empty());
    Epoch {
        id: text("epoch").to_owned(),
        after: after.map(str::to_owned).collect(),
        remirroring: text("remirroring") == "true",
    }
}

fn config_map(epoch: &Epoch, version: Option<String>) -> ConfigMap {
    let data = [
        ("epoch", epoch.id.clone()),
        ("after", epoch.after.join(",")),
        ("remirroring", epoch.remirroring.to_string()),
    ];
    let mut map = ConfigMap {
        data: Some(data.map(|(key, text)| (key.to_owned(), text)).into()),
        ..ConfigMap::default()
    };
    map.metadata.name = Some(CONFIG_MAP.to_owned());
    map.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.to_owned());
    map.metadata.resource_version = version;
    map
}

fn fresh() -> Result<String, kube::Error> {
    let mut random = [0_u8; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| kube::Error::Service("the system has no randomness".into()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

const CONFIG_MAP: &str = "fairlead-hub-epoch";
/// What is shown and waits; further ones are shown again.
pub(super) const QUEUE: usize = 64;
/// How often a replica looks by itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often while it holds.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A few requests; a thousand when members mirror anew.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
