//! The Lease on the API server.

use std::time::Duration;

use fairlead_api::labels;
use fairlead_runtime::clock::Clock;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;

use super::{DURATION, Election, RENEW_EVERY, Record, Step};

/// Whether this replica may write, at any moment.
#[derive(Clone)]
pub struct Leadership {
    election: watch::Receiver<Election>,
    clock: Clock,
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

    /// Waits until the Lease was looked at again.
    pub async fn changed(&mut self) {
        if self.election.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The receiving and the working half.
pub fn new(me: String, clock: Clock) -> (Leadership, watch::Sender<Election>) {
    let (sender, election) = watch::channel(Election::new(me));
    (Leadership { election, clock }, sender)
}

/// Keeps the Lease for as long as it is polled. `url` is where followers find this replica.
pub async fn run(client: Client, clock: Clock, url: String, sender: watch::Sender<Election>) {
    let api: Api<Lease> = Api::namespaced(client, labels::SYSTEM_NAMESPACE);
    loop {
        let mut election = sender.borrow().clone();
        let started = clock.now();
        match tokio::time::timeout(REQUEST_TIMEOUT, round(&api, &clock, &url, &mut election)).await
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
        tokio::time::sleep(wait).await;
    }
}

/// Gives the Lease up, so that another replica need not wait for it to run out.
pub async fn release(client: Client, me: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client, labels::SYSTEM_NAMESPACE);
    let Some(mut lease) = api.get_opt(labels::LEADER_LEASE).await? else {
        return Ok(());
    };
    if let Some(spec) = lease
        .spec
        .as_mut()
        .filter(|spec| spec.holder_identity.as_deref() == Some(me))
    {
        spec.holder_identity = Some(String::new());
        api.replace(labels::LEADER_LEASE, &PostParams::default(), &lease)
            .await?;
    }
    Ok(())
}

async fn round(
    api: &Api<Lease>,
    clock: &Clock,
    url: &str,
    election: &mut Election,
) -> Result<(), kube::Error> {
    let lease = api.get_opt(labels::LEADER_LEASE).await?;
    let found = lease.as_ref().map(record);
    let Step::Claim { takeover } = election.observe(found, clock.now()) else {
        return Ok(());
    };
    let transitions = election.transitions() + i32::from(takeover);
    let wanted = claim(lease, election.me(), url, transitions, clock);
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
    Record {
        holder: spec
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default(),
        renewal: renewal.map_or_else(String::new, |time| time.0.to_string()),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
        url: lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(LEADER_URL).cloned())
            .unwrap_or_default(),
    }
}

fn claim(lease: Option<Lease>, me: &str, url: &str, transitions: i32, clock: &Clock) -> Lease {
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
    annotations.insert(LEADER_URL.to_owned(), url.to_owned());
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
