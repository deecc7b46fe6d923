//! The writer of imports: takes in what the watches see and what came down, plans, and makes the
//! writes that are missing.

use std::{sync::Arc, time::Duration};

use fairlead_api::{labels, mcs::v1beta1::ServiceImport};
use fairlead_config::xds::proto::{fairlead::Import, unpack};
use fairlead_runtime::tasks::{TaskError, Tasks};
use futures::{StreamExt, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    AgentConfig, CHANGES_MAX, REQUEST_TIMEOUT,
    uplink::Shared,
    watch::{self, Watch},
};
use crate::{
    agent::{
        import::{self, Failure, Kind, Member, Object, Observed, RETRY_SECONDS, Write},
        local::Key,
        received::Received,
    },
    board::Type,
    edits::EDIT_UNDONE,
    hub::events::{About, Announcer},
    manifests::PROXY_SERVICE,
};

type Change = watch::Change<Kind, Object>;

/// Starts the watches and the writer.
pub(super) fn start(
    config: &Arc<AgentConfig>,
    shared: &Shared,
    events: &Announcer,
    tasks: &mut Tasks,
) {
    let (changes, inbox) = mpsc::channel(CHANGES_MAX);
    let client = || config.local.clone();
    let namespaces = Watch {
        api: Api::<Namespace>::all(client()),
        kind: Kind::Namespace,
        selector: None,
        store: None,
        wrap: |object| Object::Namespace(Box::new(object)),
    };
    tasks.spawn("watch namespaces", namespaces.run(changes.clone()));
    let imports = Watch {
        api: Api::<ServiceImport>::all(client()),
        kind: Kind::Import,
        selector: None,
        store: None,
        wrap: |object| Object::Import(Box::new(object)),
    };
    tasks.spawn("watch imports", imports.run(changes.clone()));
    let services = Watch {
        api: Api::<Service>::all(client()),
        kind: Kind::Service,
        selector: Some(format!("{}={}", import::MANAGED_BY, labels::MANAGER)),
        store: None,
        wrap: |object| Object::Service(Box::new(object)),
    };
    tasks.spawn("watch derived services", services.run(changes.clone()));
    let slices = Watch {
        api: Api::<EndpointSlice>::all(client()),
        kind: Kind::Slice,
        selector: Some(format!("{}={}", labels::MANAGED_BY, labels::MANAGER)),
        store: None,
        wrap: |object| Object::Slice(Box::new(object)),
    };
    tasks.spawn("watch derived slices", slices.run(changes.clone()));
    let pods = Watch {
        api: Api::<EndpointSlice>::namespaced(client(), labels::SYSTEM_NAMESPACE),
        kind: Kind::Pods,
        selector: Some(format!("kubernetes.io/service-name={PROXY_SERVICE}")),
        store: None,
        wrap: |object| Object::Pods(Box::new(object)),
    };
    tasks.spawn("watch proxies", pods.run(changes));
    let writer = Writer {
        config: config.clone(),
        events: events.clone(),
    };
    tasks.spawn("imports", run(writer, shared.clone(), inbox));
}

/// Whose writes, and who is told of edits that they undo.
struct Writer {
    config: Arc<AgentConfig>,
    events: Announcer,
}

/// Runs until the watches are gone. Nothing is planned before each of them has listed once and the
/// imports are known: what has not been seen is not gone.
async fn run(
    writer: Writer,
    shared: Shared,
    mut inbox: mpsc::Receiver<Change>,
) -> Result<(), TaskError> {
    let mut observed = Observed::default();
    let mut unlisted = LISTS;
    let mut seen = Seen::default();
    let mut revision = shared.revision();
    let mut retry = interval(Duration::from_secs(RETRY_SECONDS));
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            change = inbox.recv() => {
                let Some(change) = change else { return Ok(()) };
                take(&mut observed, change, &mut unlisted);
                // Whatever else is there already is planned along.
                while let Ok(change) = inbox.try_recv() {
                    take(&mut observed, change, &mut unlisted);
                }
            }
            changed = revision.changed() => changed?,
            _ = retry.tick() => observed.touch_unfinished(),
        }
        if !seen.catch_up(&shared.received.lock(), &mut observed) || unlisted > 0 {
            continue;
        }
        settle(&writer, &mut observed).await;
    }
}

/// Plans and writes until nothing more can be done at once.
async fn settle(writer: &Writer, observed: &mut Observed) {
    let config = &writer.config;
    for _ in 0..ROUNDS_MAX {
        let member = Member {
            name: config.member.clone(),
            now: config.now(),
        };
        let writes: Vec<(Key, Vec<Write>)> = observed
            .take_dirty()
            .into_iter()
            .map(|key| (key.clone(), import::plan(observed, &member, &key)))
            .collect();
        if writes.is_empty() {
            return;
        }
        for (key, writes) in &writes {
            let undone = writes.iter();
            let undone = undone.filter_map(|write| import::undone(observed, key, write));
            for note in undone {
                let about = About::Import(key.0.clone(), key.1.clone());
                writer.events.warning(about, EDIT_UNDONE, note);
            }
        }
        let done: Vec<_> = stream::iter(writes)
            .map(|(key, writes)| carry_out(config, key, writes))
            .buffer_unordered(WRITES_AT_ONCE)
            .collect()
            .await;
        for (key, seen, failure) in done {
            for change in seen {
                take(observed, change, &mut 0);
            }
            observed.conclude(&key, failure);
        }
    }
}

/// Up to which revision what came down was taken in.
#[derive(Default)]
struct Seen {
    imports: Option<u64>,
    proxies: Option<u64>,
}

impl Seen {
    /// Takes in what has changed since; says whether all imports are known.
    fn catch_up(&mut self, received: &Received, observed: &mut Observed) -> bool {
        let revision = received.revision();
        if !received.imports_known() {
            return false;
        }
        let changed = self
            .imports
            .and_then(|seen| received.imports().changed_since(seen));
        match changed {
            Some(names) => {
                for (_, name) in names {
                    observed.tell(key_of(name), received.import(name));
                }
            }
            None => {
                let told: Vec<Key> = observed.told().cloned().collect();
                for key in told {
                    let import = received.import(&format!("{}/{}", key.0, key.1));
                    observed.tell(key, import);
                }
                for (name, resource) in received.imports().all(Type::Import) {
                    let import = resource.resource.as_ref();
                    let import = import.and_then(|any| unpack::<Import>(any).ok());
                    observed.tell(key_of(name), import);
                }
            }
        }
        self.imports = Some(revision);
        let same = self
            .proxies
            .and_then(|seen| received.proxies().changed_since(seen));
        if same.is_none_or(|changed| !changed.is_empty()) {
            observed.serve(received.snapshot());
        }
        self.proxies = Some(revision);
        true
    }
}

fn key_of(name: &str) -> Key {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    (namespace.to_owned(), name.to_owned())
}

fn take(observed: &mut Observed, change: Change, unlisted: &mut usize) {
    match change {
        Change::Reset(kind, objects, _) => {
            observed.reset(kind, objects);
            *unlisted = unlisted.saturating_sub(1);
        }
        Change::Apply(object) => observed.apply(object),
        Change::Delete(object) => observed.delete(&object),
    }
}

/// Makes the writes of one import in order, up to the first that fails.
async fn carry_out(
    config: &AgentConfig,
    key: Key,
    writes: Vec<Write>,
) -> (Key, Vec<Change>, Option<Failure>) {
    let mut seen = Vec::new();
    for write in writes {
        match timeout(REQUEST_TIMEOUT, make(&config.local, write)).await {
            Ok(Ok(change)) => seen.extend(change),
            Ok(Err(error)) => {
                tracing::warn!(namespace = key.0, name = key.1, %error, "write failed; trying again");
                return (key, seen, Some(failure(&error)));
            }
            Err(_) => {
                let failure = Failure {
                    message: "the member's API server did not answer; trying again".to_owned(),
                    family: false,
                };
                return (key, seen, Some(failure));
            }
        }
    }
    (key, seen, None)
}

fn failure(error: &kube::Error) -> Failure {
    let message = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    Failure {
        family: message.contains("spec.ipFamilies"),
        message: format!("this cluster's API server refused: {message}"),
    }
}

async fn make(client: &Client, write: Write) -> kube::Result<Option<Change>> {
    let client = || client.clone();
    match write {
        Write::PutImport(import) => {
            let made = put(client(), *import).await?;
            Ok(Some(Change::Apply(Object::Import(Box::new(made)))))
        }
        Write::PutService(service) => {
            let made = put(client(), *service).await?;
            Ok(Some(Change::Apply(Object::Service(Box::new(made)))))
        }
        Write::PutSlice(slice) => {
            let made = put(client(), *slice).await?;
            Ok(Some(Change::Apply(Object::Slice(Box::new(made)))))
        }
        Write::DeleteImport(at, uid) => delete::<ServiceImport>(client(), at, uid).await,
        Write::DeleteService(at, uid) => delete::<Service>(client(), at, uid).await,
        Write::DeleteSlice(at, uid) => delete::<EndpointSlice>(client(), at, uid).await,
        Write::Status((space, name), status) => {
            let api = Api::<ServiceImport>::namespaced(client(), &space);
            let patch = json!({ "status": status });
            let params = PatchParams {
                field_manager: Some(labels::AGENT_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patched = api
                .patch_status(&name, &params, &Patch::Merge(&patch))
                .await;
            Ok(ignore_missing(patched)?.map(|made| Change::Apply(Object::Import(Box::new(made)))))
        }
        Write::Note((space, name), condition) => {
            let api = Api::<ServiceImport>::namespaced(client(), &space);
            let conditions: Vec<_> = condition.into_iter().collect();
            let patch = json!({
                "apiVersion": ServiceImport::api_version(&()), "kind": ServiceImport::kind(&()),
                "metadata": { "name": name },
                "status": { "conditions": conditions },
            });
            let params = PatchParams::apply(labels::AGENT_MANAGER).force();
            let patched = api
                .patch_status(&name, &params, &Patch::Apply(&patch))
                .await;
            Ok(ignore_missing(patched)?.map(|made| Change::Apply(Object::Import(Box::new(made)))))
        }
    }
}

/// Applies an object of ours. One without a UID is made; if there is one of that name already, it
/// is looked at instead.
async fn put<K>(client: Client, object: K) -> kube::Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let name = object.meta().name.clone().unwrap_or_default();
    let api = Api::<K>::namespaced(client, &namespace);
    let params = PatchParams::apply(labels::AGENT_MANAGER);
    if object.meta().uid.is_some() {
        return api
            .patch(&name, &params.force(), &Patch::Apply(&object))
            .await;
    }
    match api.get_opt(&name).await? {
        Some(there) => Ok(there),
        // Without force: what somebody makes at this very moment is not taken over.
        None => api.patch(&name, &params, &Patch::Apply(&object)).await,
    }
}

/// Deletes an object if it is still that one; the watch shows its end.
async fn delete<K>(
    client: Client,
    (namespace, name): Key,
    uid: String,
) -> kube::Result<Option<Change>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let api = Api::<K>::namespaced(client, &namespace);
    match api.delete(&name, &params).await {
        // Another one of that name is not ours to delete.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        other => other.map(|_| None),
    }
}

/// What is gone needs no write.
fn ignore_missing<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Watches whose first list is waited for.
const LISTS: usize = 5;
/// Imports written at a time.
const WRITES_AT_ONCE: usize = 16;
/// An import, its Service, its address, its slices, its status: one depends on the other.
const ROUNDS_MAX: usize = 8;
