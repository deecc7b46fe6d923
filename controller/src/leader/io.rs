//! The Lease on the API server.

use std::{sync::Arc, time::Duration};

use fairlead_api::labels;
use fairlead_runtime::clock::{Clock, Tick};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::{Notify, watch};

use crate::epoch::Vouch;

use super::{DURATION, Election, RENEW_EVERY, Record, Step};

/// Whether this replica may write, at any moment.
#[derive(Clone)]
pub struct Leadership {
    election: watch::Receiver<Election>,
    clock: Clock,
    asked: Arc<Notify>,
}

impl Leadership {
    /// Whether this replica may write now.
    pub fn is_mine(&self) -> bool {
        self.election.borrow().leads(self.clock.now())
    }

    /// Where its time comes from.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Who holds the Lease.
    pub fn holder(&self) -> Option<String> {
        self.election.borrow().holder().map(str::to_owned)
    }

    /// Where the leader takes what this replica has to hand on; `None` while this one leads.
    pub fn hand_on_to(&self) -> Option<String> {
        let now = self.clock.now();
        self.election.borrow().hand_on_to(now).map(str::to_owned)
    }

    /// What another leader's last renewal said of the store.
    pub fn vouch(&self) -> Option<Vouch> {
        self.election.borrow().vouch().cloned()
    }

    /// How often the Lease turned out to be an earlier one.
    pub fn went_back(&self) -> u64 {
        self.election.borrow().went_back()
    }

    /// When the last look at the Lease began that was answered.
    pub fn looked(&self) -> Option<Tick> {
        self.election.borrow().looked()
    }

    /// Asks for a look at once.
    pub fn look(&self) {
        self.asked.notify_one();
    }

    /// Waits until the Lease was looked at again.
    pub async fn changed(&mut self) {
        if self.election.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The receiving and the working half.
pub fn new(me: String, clock: Clock) -> (Leadership, Seat) {
    let (sender, election) = watch::channel(Election::new(me));
    let asked = Arc::new(Notify::new());
    let seat = Seat {
        election: sender,
        asked: Arc::clone(&asked),
    };
    let leadership = Leadership {
        election,
        clock,
        asked,
    };
    (leadership, seat)
}

/// What a replica says of itself on the Lease.
pub struct Statement {
    /// Where followers find it.
    pub url: String,
    /// The epoch of the store that it is sure of; empty while it is not.
    pub epoch: watch::Receiver<String>,
}

/// Where [`run`] takes what it is asked for, and leaves what it finds.
pub struct Seat {
    pub(crate) election: watch::Sender<Election>,
    pub(crate) asked: Arc<Notify>,
}

/// Keeps the Lease for as long as it is polled.
pub async fn run(client: Client, clock: Clock, mut said: Statement, seat: Seat) {
    let sender = seat.election;
    let api: Api<Lease> = Api::namespaced(client, labels::SYSTEM_NAMESPACE);
    loop {
        let mut election = sender.borrow().clone();
        let started = clock.now();
        match tokio::time::timeout(REQUEST_TIMEOUT, round(&api, &clock, &said, &mut election)).await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the leader Lease cannot be kept");
            }
            Err(_) => tracing::warn!("the leader Lease cannot be kept: no answer"),
        }
        let leads = election.leads(clock.now());
        if leads != sender.borrow().leads(started) {
            let holder = election.holder().unwrap_or_default().to_owned();
            tracing::info!(leads, holder, "leadership changed");
        }
        let wait = if leads { RENEW_EVERY } else { LOOK_EVERY };
        sender.send_replace(election);
        said.epoch.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Followers wait for the word of a leader that has become sure.
            Ok(()) = said.epoch.changed(), if leads => {}
            () = seat.asked.notified() => {}
        }
    }
}

/// Gives the Lease up, so that another replica need not wait for it to run out.
pub async fn release(client: Client, me: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client, labels::SYSTEM_NAMESPACE);
    loop {
        let Some(mut lease) = api.get_opt(labels::LEADER_LEASE).await? else {
            return Ok(());
        };
        let spec = lease.spec.as_mut();
        let Some(spec) = spec.filter(|spec| spec.holder_identity.as_deref() == Some(me)) else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        let params = PostParams::default();
        match api.replace(labels::LEADER_LEASE, &params, &lease).await {
            // The last renewal may have been under way.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            done => return done.map(drop),
        }
    }
}

async fn round(
    api: &Api<Lease>,
    clock: &Clock,
    said: &Statement,
    election: &mut Election,
) -> Result<(), kube::Error> {
    let began = clock.now();
    let lease = api.get_opt(labels::LEADER_LEASE).await?;
    let found = lease.as_ref().map(record);
    election.note_look(began);
    let known = election.went_back();
    let Step::Claim { takeover } = election.observe(found, clock.now()) else {
        return Ok(());
    };
    let sure = election.went_back() == known;
    let transitions = election.transitions() + i32::from(takeover);
    let mut wanted = claim(lease, election.me(), said, transitions, clock);
    if !sure && let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(labels::EPOCH);
    }
    let started = clock.now();
    let written = if wanted.metadata.resource_version.is_some() {
        api.replace(labels::LEADER_LEASE, &PostParams::default(), &wanted)
            .await
    } else {
        api.create(&PostParams::default(), &wanted).await
    };
    match written {
        Ok(lease) => election.claimed(record(&lease), started),
        Err(kube::Error::Api(status)) if status.code == 409 => election.refused(),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let renewal = spec.and_then(|spec| spec.renew_time.as_ref());
    let annotations = lease.metadata.annotations.as_ref();
    let annotation = |key: &str| {
        let value = annotations.and_then(|all| all.get(key));
        value.cloned().unwrap_or_default()
    };
    Record {
        holder: spec
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default(),
        renewal: renewal.map_or(0, |time| time.0.as_microsecond()),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
        url: annotation(LEADER_URL),
        epoch: annotation(labels::EPOCH),
    }
}

fn claim(
    lease: Option<Lease>,
    me: &str,
    said: &Statement,
    transitions: i32,
    clock: &Clock,
) -> Lease {
    let now = crate::time::micro_time(clock);
    let mut lease = lease.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(labels::LEADER_LEASE.to_owned()),
            namespace: Some(labels::SYSTEM_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        ..Lease::default()
    });
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(LEADER_URL.to_owned(), said.url.clone());
    annotations.insert(labels::EPOCH.to_owned(), said.epoch.borrow().clone());
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    let same = spec.holder_identity.as_deref() == Some(me);
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    spec.lease_transitions = Some(transitions);
    if !same || spec.acquire_time.is_none() {
        spec.acquire_time = Some(now.clone());
    }
    spec.renew_time = Some(now);
    lease
}

/// On the Lease: where the leader takes reports from followers.
pub const LEADER_URL: &str = "fairlead.dev/leader-url";
/// One renewal may take no longer than the time between two.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a follower looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
