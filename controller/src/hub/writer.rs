//! Writes to the hub's API server.
//!
//! One write per object is under way at a time, the newest waits, and what failed is planned anew:
//! by the event that made it stale, or by the plan of everything every 10 s. Only the leader writes.

use std::{collections::BTreeMap, collections::BTreeSet, fmt::Debug, time::Duration};

use fairlead_api::{
    export::ExportRecord, labels, mcs::ServiceImport, member::MemberCluster, proxy::ProxyGroup,
    service::MultiClusterService,
};
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::metrics::Metrics;
use crate::{leader::io::Leadership, status::Write, world::ServiceKey};

/// Writes until the engine is gone.
pub(super) async fn run(
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    mut from: mpsc::Receiver<Vec<Write>>,
) {
    let mut waiting: BTreeMap<String, Write> = BTreeMap::new();
    let mut busy: BTreeSet<String> = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < CONCURRENT_MAX {
            let next = waiting
                .keys()
                .find(|target| !busy.contains(*target))
                .cloned();
            let Some(target) = next else { break };
            let write = waiting.remove(&target).expect("just found");
            if !leadership.is_mine() {
                continue;
            }
            busy.insert(target.clone());
            let client = client.clone();
            running.push(async move {
                let outcome = tokio::time::timeout(TIMEOUT, perform(&client, write)).await;
                (target, outcome)
            });
        }
        tokio::select! {
            batch = from.recv() => match batch {
                Some(batch) => {
                    waiting.extend(batch.into_iter().map(|write| (write.target(), write)));
                }
                None => return,
            },
            Some((target, outcome)) = running.next(), if !running.is_empty() => {
                busy.remove(&target);
                report(&target, outcome, &metrics);
            }
        }
    }
}

fn report(
    target: &str,
    outcome: Result<Result<(), kube::Error>, tokio::time::error::Elapsed>,
    metrics: &Metrics,
) {
    match outcome {
        Ok(Ok(())) => metrics.written("ok"),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            metrics.written("stale");
            tracing::debug!(target, reason = status.reason, "a write was overtaken");
        }
        Ok(Err(error)) => {
            metrics.written("error");
            tracing::warn!(target, %error, "a write failed; it is tried again");
        }
        Err(_) => {
            metrics.written("timeout");
            tracing::warn!(target, "a write got no answer; it is tried again");
        }
    }
}

async fn perform(client: &Client, write: Write) -> Result<(), kube::Error> {
    match write {
        Write::Export {
            slot,
            version,
            status,
        } => {
            let namespace = labels::member_namespace(slot.member.as_str());
            let api: Api<ExportRecord> = Api::namespaced(client.clone(), &namespace);
            apply_status(&api, &slot.object, version, &status, labels::HUB_MANAGER).await
        }
        Write::Import {
            key,
            version,
            object,
        } => apply_import(client, &key, version, *object).await,
        Write::ImportStatus {
            key,
            version,
            status,
        } => {
            let api: Api<ServiceImport> = Api::namespaced(client.clone(), &key.namespace);
            apply_status(&api, &key.name, version, &status, labels::HUB_MANAGER).await
        }
        Write::DeleteImport { key, version } => delete_import(client, &key, version).await,
        Write::Service {
            namespace,
            name,
            version,
            status,
        } => {
            let api: Api<MultiClusterService> = Api::namespaced(client.clone(), &namespace);
            apply_status(&api, &name, version, &*status, labels::HUB_MANAGER).await
        }
        Write::GroupPorts {
            name,
            version,
            frontends,
        } => {
            let api: Api<ProxyGroup> = Api::all(client.clone());
            let status = json!({ "frontendCount": frontends.len(), "frontends": frontends });
            apply_status(&api, &name, version, &status, labels::HUB_MANAGER).await
        }
        Write::GroupProxies {
            name,
            version,
            status,
        } => {
            let api: Api<ProxyGroup> = Api::all(client.clone());
            apply_status(&api, &name, version, &status, PROXIES_MANAGER).await
        }
        Write::Member {
            name,
            version,
            status,
        } => {
            let api: Api<MemberCluster> = Api::all(client.clone());
            apply_status(&api, &name, version, &*status, labels::HUB_MANAGER).await
        }
    }
}

async fn delete_import(client: &Client, key: &ServiceKey, version: u64) -> Result<(), kube::Error> {
    let api: Api<ServiceImport> = Api::namespaced(client.clone(), &key.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            resource_version: (version > 0).then(|| version.to_string()),
            uid: None,
        }),
        ..DeleteParams::default()
    };
    api.delete(&key.name, &params).await.map(drop)
}

/// The namespace is made when it is missing; reserved ones were refused before.
async fn apply_import(
    client: &Client,
    key: &ServiceKey,
    version: u64,
    object: ServiceImport,
) -> Result<(), kube::Error> {
    let api: Api<ServiceImport> = Api::namespaced(client.clone(), &key.namespace);
    let mut body = full(&api, &object)?;
    if let Some(map) = body.as_object_mut() {
        map.remove("status");
    }
    if version > 0 {
        body["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    let params = PatchParams::apply(labels::HUB_MANAGER).force();
    match api.patch(&key.name, &params, &Patch::Apply(&body)).await {
        Err(kube::Error::Api(status)) if status.code == 404 && version == 0 => {}
        done => return done.map(drop),
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": &*key.namespace },
    });
    namespaces
        .patch(&key.namespace, &params, &Patch::Apply(&namespace))
        .await?;
    api.patch(&key.name, &params, &Patch::Apply(&body))
        .await
        .map(drop)
}

fn full<K: Serialize>(_: &Api<K>, object: &K) -> Result<Value, kube::Error> {
    serde_json::to_value(object).map_err(kube::Error::SerdeError)
}

async fn apply_status<K, S>(
    api: &Api<K>,
    name: &str,
    version: u64,
    status: &S,
    manager: &str,
) -> Result<(), kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
    S: Serialize,
{
    let kind = K::DynamicType::default();
    let mut body = json!({
        "apiVersion": K::api_version(&kind),
        "kind": K::kind(&kind),
        "metadata": { "name": name },
        "status": status,
    });
    if version > 0 {
        body["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    let params = PatchParams::apply(manager).force();
    api.patch_status(name, &params, &Patch::Apply(&body))
        .await
        .map(drop)
}

/// One more than this waits: enough for a thousand members' statuses within a second, few enough
/// not to crowd others out of the API server.
const CONCURRENT_MAX: usize = 16;
/// A write that takes longer is given up and planned again.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The field manager of what the proxies say, apart from what the plan says.
const PROXIES_MANAGER: &str = "fairlead-hub-proxies";

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use fairlead_api::export::ExportRecordStatus;
    use fairlead_config::name::MemberName;
    use fairlead_runtime::clock::Clock;
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::{
        leader::{self, Record},
        world::ExportKey,
    };

    /// How many requests two writes become with this replica's standing.
    async fn requests(leads: bool) -> usize {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let server = tower::service_fn(move |_: Request<Body>| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, std::convert::Infallible>(Response::new(Body::empty())) }
        });
        let clock = Clock::system();
        let (leadership, seat) = leader::io::new("a".into(), clock.clone());
        if leads {
            seat.election
                .send_modify(|election| election.claimed(Record::default(), clock.now()));
        }
        let (writes, queue) = mpsc::channel(1);
        let of = |object: &str| Write::Export {
            slot: ExportKey {
                member: MemberName::parse("m").unwrap(),
                object: object.into(),
            },
            version: 1,
            status: ExportRecordStatus::default(),
        };
        writes.send(vec![of("one"), of("two")]).await.unwrap();
        let running = run(
            Client::new(server, "default"),
            leadership,
            Metrics::new(),
            queue,
        );
        let ended = async move {
            writes.reserve().await.unwrap();
            // Everything is in one task: what would be asked has been asked long before.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            drop(writes);
            asked
        };
        let ((), asked) = tokio::join!(running, ended);
        asked.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn only_the_leader_writes() {
        assert_eq!(requests(false).await, 0);
        assert_eq!(requests(true).await, 2);
    }
}
