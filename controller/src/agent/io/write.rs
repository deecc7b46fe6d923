//! The writer: takes in what the watches see, plans, and makes the writes that are missing.

use std::{collections::BTreeSet, sync::Arc};

use fairlead_api::{
    conditions::{find, kind},
    export::ExportRecord,
    labels,
    mcs::v1beta1::ServiceExport,
};
use fairlead_runtime::tasks::TaskError;
use futures::{StreamExt, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{AgentConfig, Change, REQUEST_TIMEOUT, watch::slim};
use crate::{
    agent::{
        exports::{self, Member, Write},
        local::{Key, Kind, Local, Object},
    },
    hub::events::{About, Announcer, News},
};

/// Runs until the watches are gone. Nothing is planned before each of them has listed once: what
/// has not been seen is not gone.
pub(super) async fn run(
    config: Arc<AgentConfig>,
    events: Announcer,
    mut inbox: mpsc::Receiver<Change>,
    mirrored: watch::Sender<Option<u64>>,
) -> Result<(), TaskError> {
    let mut hub = HubLists::default();
    let mut local = Local::default();
    let mut unlisted = LISTS;
    let mut again = BTreeSet::new();
    let mut retry = interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            change = inbox.recv() => {
                let Some(change) = change else { return Ok(()) };
                hub.note(&change);
                take(&mut local, change, &mut unlisted);
                // Whatever else is there already is planned along.
                while let Ok(change) = inbox.try_recv() {
                    hub.note(&change);
                    take(&mut local, change, &mut unlisted);
                }
            }
            _ = retry.tick() => local.touch(std::mem::take(&mut again)),
        }
        if unlisted > 0 {
            continue;
        }
        let keys = local.take_dirty();
        let member = Member {
            name: config.member.clone(),
            now: config.now(),
        };
        let writes: Vec<(Key, Vec<Write>)> = keys
            .into_iter()
            .map(|key| (key.clone(), exports::plan(&local, &member, &key)))
            .filter(|(_, writes)| !writes.is_empty())
            .collect();
        if writes.is_empty() && again.is_empty() {
            // Nothing is missing in the hub's store as it was listed last.
            let generation = Some(hub.generation());
            mirrored.send_if_modified(|old| std::mem::replace(old, generation) != generation);
        }
        let done: Vec<_> = stream::iter(writes)
            .map(|(key, writes)| carry_out(&config, &events, key, writes))
            .buffer_unordered(WRITES_AT_ONCE)
            .collect()
            .await;
        for (key, seen, whole) in done {
            for object in seen {
                local.apply(object);
            }
            if !whole {
                again.insert(key);
            }
        }
    }
}

/// In which store of the hub records and mirrors were listed last.
#[derive(Default)]
struct HubLists {
    records: u64,
    mirrors: u64,
}

impl HubLists {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Reset(Kind::Record, _, generation) => self.records = *generation,
            Change::Reset(Kind::Mirror, _, generation) => self.mirrors = *generation,
            _ => {}
        }
    }

    fn generation(&self) -> u64 {
        self.records.min(self.mirrors)
    }
}

fn take(local: &mut Local, change: Change, unlisted: &mut usize) {
    match change {
        Change::Reset(kind, objects, _) => {
            local.reset(kind, objects);
            *unlisted = unlisted.saturating_sub(1);
        }
        Change::Apply(object) => local.apply(object),
        Change::Delete(object) => local.delete(&object),
    }
}

/// Makes the writes of one service in order; what they made, and whether all of them went through.
async fn carry_out(
    config: &AgentConfig,
    events: &Announcer,
    key: Key,
    writes: Vec<Write>,
) -> (Key, Vec<Object>, bool) {
    let mut seen = Vec::new();
    for write in writes {
        match timeout(REQUEST_TIMEOUT, make(config, &write)).await {
            Ok(Ok(object)) => {
                if let (Write::Status(..), Some(Object::Export(export))) = (&write, &object) {
                    announce(events, export);
                }
                seen.extend(object);
            }
            Ok(Err(error)) => {
                tracing::warn!(namespace = key.0, name = key.1, %error, "write failed; trying again");
                return (key, seen, false);
            }
            Err(_) => {
                tracing::warn!(
                    namespace = key.0,
                    name = key.1,
                    "write timed out; trying again"
                );
                return (key, seen, false);
            }
        }
    }
    (key, seen, true)
}

/// What its owner should look at, beside the condition that says the same.
fn announce(events: &Announcer, export: &ServiceExport) {
    let about = About::Export(
        export.namespace().unwrap_or_default(),
        export.name_any(),
        export.uid().unwrap_or_default(),
    );
    let status = export.status.as_ref();
    let said = status.map(|status| &status.conditions[..]);
    for (of, bad, what) in [
        (kind::VALID, "False", "ExportInvalid"),
        (kind::CONFLICT, "True", "ExportConflict"),
    ] {
        let found = find(said.unwrap_or_default(), of).filter(|one| one.status == bad);
        match found {
            Some(one) => {
                let news = News::warning(about.clone(), what, one.message.clone());
                events.tell(0, [news.with_action(one.reason.clone())]);
            }
            None => events.is_over(&about, what),
        }
    }
}

async fn make(config: &AgentConfig, write: &Write) -> kube::Result<Option<Object>> {
    let hub = || config.hub.clone();
    let space = labels::member_namespace(&config.member);
    match write {
        Write::PutRecord(record) => {
            let made: ExportRecord = put(hub(), &space, &**record).await?;
            Ok(Some(Object::Record(Box::new(made))))
        }
        Write::PutMirror(mirror) => {
            let made: EndpointSlice = put(hub(), &space, &**mirror).await?;
            Ok(Some(Object::Mirror(Box::new(made))))
        }
        Write::DeleteRecord(name) => delete::<ExportRecord>(hub(), &space, name).await,
        Write::DeleteMirror(name) => delete::<EndpointSlice>(hub(), &space, name).await,
        Write::PutExport(export) => {
            let space = export.metadata.namespace.clone().unwrap_or_default();
            let made: ServiceExport = put(config.local.clone(), &space, &**export).await?;
            Ok(Some(Object::Export(Box::new(made))))
        }
        Write::DeleteExport((space, name)) => {
            delete::<ServiceExport>(config.local.clone(), space, name).await
        }
        Write::PutService(service) => {
            let space = service.metadata.namespace.clone().unwrap_or_default();
            let made: Service = put(config.local.clone(), &space, &**service).await?;
            Ok(Some(Object::Service(Box::new(made))))
        }
        Write::Status((space, name), conditions) => {
            let api = Api::<ServiceExport>::namespaced(config.local.clone(), space);
            let patch = json!({ "status": { "conditions": conditions } });
            let params = PatchParams {
                field_manager: Some(labels::AGENT_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            match api.patch_status(name, &params, &Patch::Merge(&patch)).await {
                Ok(made) => Ok(Some(Object::Export(Box::new(made)))),
                // Deleted meanwhile: nobody is left to be told.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
}

async fn put<K>(client: Client, namespace: &str, object: &K) -> kube::Result<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client, namespace);
    let name = object.meta().name.clone().unwrap_or_default();
    let params = PatchParams::apply(labels::AGENT_MANAGER).force();
    let made = api.patch(&name, &params, &Patch::Apply(object)).await;
    made.map(slim)
}

async fn delete<K>(client: Client, namespace: &str, name: &str) -> kube::Result<Option<Object>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    match Api::<K>::namespaced(client, namespace)
        .delete(name, &DeleteParams::default())
        .await
    {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Watches whose first list is waited for: three kinds of workloads, Services, ServiceExports,
/// slices; records and mirrors on the hub.
const LISTS: usize = 8;
/// Services written at a time: enough to keep a hub busy, few enough to stay below its limits.
const WRITES_AT_ONCE: usize = 16;
/// Between attempts at what failed.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
