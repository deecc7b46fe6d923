//! Watches on the hub's API server, as a stream of inputs.

use std::{fmt::Debug, time::Duration};

use fairlead_api::{
    export::ExportRecord,
    labels,
    mcs::ServiceImport,
    member::{MemberCluster, MemberReport},
    proxy::ProxyGroup,
    service::MultiClusterService,
};
use futures::StreamExt;
use k8s_openapi::api::{coordination::v1::Lease, discovery::v1::EndpointSlice};
use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch as signal};

use crate::world::{Kind, Object};

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// An object is new or changed.
    Apply(T),
    /// An object is gone.
    Delete(T),
    /// This is all there is.
    Reset(Vec<T>),
    /// The watch failed; it is started again.
    Failed,
}

/// What the engine is told by watches.
#[derive(Debug)]
pub(super) enum Watched {
    /// An object of the World.
    Object(Kind, Seen<Object>),
    /// A heartbeat.
    Lease(Seen<Lease>),
    /// A report.
    Report(Seen<MemberReport>),
}

/// Runs every watch until the engine is gone. When `relist` moves, all of them begin with a list
/// again: a watch on a store that was restored may wait for ever.
pub(super) async fn run(
    client: Client,
    to: mpsc::Sender<Watched>,
    mut relist: signal::Receiver<u64>,
) {
    loop {
        relist.borrow_and_update();
        tokio::select! {
            () = run_all(&client, &to) => return,
            changed = relist.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        tracing::info!("every kind is listed anew");
    }
}

async fn run_all(client: &Client, to: &mpsc::Sender<Watched>) {
    let all = watcher::Config::default();
    let mirrors = all
        .clone()
        .labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let heartbeats = all
        .clone()
        .fields(&format!("metadata.name={}", labels::HEARTBEAT_LEASE));
    tokio::join!(
        objects::<MemberCluster>(client, all.clone(), Kind::Member, to),
        objects::<ExportRecord>(client, all.clone(), Kind::Export, to),
        objects::<EndpointSlice>(client, mirrors, Kind::Slice, to),
        objects::<ProxyGroup>(client, all.clone(), Kind::Group, to),
        objects::<MultiClusterService>(client, all.clone(), Kind::Service, to),
        objects::<ServiceImport>(client, all.clone(), Kind::Import, to),
        watch::<Lease>(client, heartbeats, to, Watched::Lease),
        watch::<MemberReport>(client, all, to, Watched::Report),
    );
}

async fn objects<K>(
    client: &Client,
    config: watcher::Config,
    kind: Kind,
    to: &mpsc::Sender<Watched>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Into<Object> + 'static,
    K::DynamicType: Default,
{
    watch::<K>(client, config, to, |seen| {
        Watched::Object(
            kind,
            match seen {
                Seen::Apply(object) => Seen::Apply(object.into()),
                Seen::Delete(object) => Seen::Delete(object.into()),
                Seen::Reset(all) => Seen::Reset(all.into_iter().map(Into::into).collect()),
                Seen::Failed => Seen::Failed,
            },
        )
    })
    .await;
}

async fn watch<K>(
    client: &Client,
    config: watcher::Config,
    to: &mpsc::Sender<Watched>,
    wrap: impl Fn(Seen<K>) -> Watched,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut failures = 0;
    loop {
        let events = watcher(Api::<K>::all(client.clone()), config.clone());
        let mut events = std::pin::pin!(events);
        let mut listed: Vec<K> = Vec::new();
        while let Some(event) = events.next().await {
            let failed = event.is_err();
            let seen = match event {
                Ok(watcher::Event::Apply(object)) => Seen::Apply(object),
                Ok(watcher::Event::Delete(object)) => Seen::Delete(object),
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.push(object);
                    continue;
                }
                Ok(watcher::Event::InitDone) => {
                    failures = 0;
                    Seen::Reset(std::mem::take(&mut listed))
                }
                Err(error) => {
                    tracing::warn!(kind, %error, "a watch failed and begins with a list again");
                    Seen::Failed
                }
            };
            if to.send(wrap(seen)).await.is_err() {
                return;
            }
            // Going on from where it was would miss what a restored store has written since.
            if failed {
                break;
            }
        }
        tokio::time::sleep(AGAIN_FIRST * (1 << failures)).await;
        failures = (failures + 1).min(AGAIN_DOUBLINGS_MAX);
    }
}

/// How long a watch that failed waits, twice as long after each further failure: to 13 s.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_DOUBLINGS_MAX: u32 = 6;
/// Events that wait for the engine; a full queue slows the watches down, which the API server
/// bears.
pub(super) const QUEUE: usize = 4096;
