//! The life of the hub's store.
//!
//! Decisions are stamped with the resourceVersion they were made at, and receivers hold back what
//! seems to come from a replica that is behind. A store restored from a back-up counts from an
//! earlier number, so it needs another epoch: an id in a ConfigMap, made anew when a proxy turns out
//! to be ahead of the API server itself.

use std::{collections::BTreeMap, sync::Arc};

use fairlead_api::{labels, member::MemberCluster};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use parking_lot::RwLock;
use ring::rand::SecureRandom;
use tokio::sync::mpsc;

use crate::{board::Board, leader::io::Leadership};

/// The epoch of the store, made when there is none.
pub(super) async fn load(client: &Client) -> Result<String, kube::Error> {
    let api = config_maps(client);
    if let Some(found) = api.get_opt(CONFIG_MAP).await?.as_ref().and_then(read) {
        return Ok(found);
    }
    let map = config_map(&fresh()?, None);
    match api.create(&PostParams::default(), &map).await {
        Ok(made) => Ok(read(&made).unwrap_or_default()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok(read(&api.get(CONFIG_MAP).await?).unwrap_or_default())
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

/// Looks into each report of a proxy that is ahead, until nobody can report any more.
pub(super) async fn run(
    client: Client,
    leadership: Leadership,
    board: Arc<RwLock<Board>>,
    mut ahead: mpsc::Receiver<u64>,
) {
    while let Some(as_of) = ahead.recv().await {
        match look(&client, &leadership, &board, as_of).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, as_of, "a proxy is ahead, and why can't be told"),
        }
    }
}

async fn look(
    client: &Client,
    leadership: &Leadership,
    board: &RwLock<Board>,
    as_of: u64,
) -> Result<(), kube::Error> {
    if as_of <= revision(client).await? {
        return Ok(());
    }
    let api = config_maps(client);
    let map = api.get(CONFIG_MAP).await?;
    let mut epoch = read(&map).unwrap_or_default();
    if epoch == board.read().epoch() && leadership.is_mine() {
        epoch = fresh()?;
        let version = map.metadata.resource_version;
        api.replace(
            CONFIG_MAP,
            &PostParams::default(),
            &config_map(&epoch, version),
        )
        .await?;
        tracing::error!(
            as_of,
            "a proxy has seen a later state than the hub's API server has: the hub was restored; a new epoch begins"
        );
    }
    board.write().set_epoch(epoch);
    Ok(())
}

fn config_maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE)
}

fn read(map: &ConfigMap) -> Option<String> {
    map.data.as_ref()?.get("epoch").cloned()
}

fn config_map(epoch: &str, version: Option<String>) -> ConfigMap {
    let mut map = ConfigMap {
        data: Some(BTreeMap::from([("epoch".to_owned(), epoch.to_owned())])),
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
/// Reports that wait; one is enough to find out.
pub(super) const QUEUE: usize = 4;
