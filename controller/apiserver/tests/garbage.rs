//! The law of ownership, held against a model: whatever is created and deleted in whatever way,
//! exactly those objects remain that have no owner or a living one, and no dead owner is named.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fairlead_apiserver::ApiServer;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy, WatchParams,
};
use kube::{Api, Client, Error, ResourceExt as _};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
enum Step {
    /// A new object owned by some of those there are.
    Create(Vec<Index>),
    Delete(Index, PropagationPolicy),
}

/// What should be there: each object and its owners.
#[derive(Debug, Default)]
struct Model(BTreeMap<String, BTreeSet<String>>);

impl Model {
    fn delete(&mut self, name: &str, policy: &PropagationPolicy) {
        self.0.remove(name);
        let mut dead = vec![name.to_owned()];
        while let Some(owner) = dead.pop() {
            let orphans = owner == name && matches!(policy, PropagationPolicy::Orphan);
            let mut lost = Vec::new();
            for (dependent, owners) in &mut self.0 {
                if owners.remove(&owner) && owners.is_empty() && !orphans {
                    lost.push(dependent.clone());
                }
            }
            for dependent in lost {
                self.0.remove(&dependent);
                dead.push(dependent);
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let policy = prop::sample::select(vec![
        PropagationPolicy::Background,
        PropagationPolicy::Foreground,
        PropagationPolicy::Orphan,
    ]);
    prop_oneof![
        3 => prop::collection::vec(any::<Index>(), 0..3).prop_map(Step::Create),
        1 => (any::<Index>(), policy).prop_map(|(which, policy)| Step::Delete(which, policy)),
    ]
}

async fn view(api: &Api<ConfigMap>) -> (BTreeMap<String, BTreeSet<String>>, String) {
    let list = api
        .list(&ListParams::default().labels("law=yes"))
        .await
        .unwrap();
    let version = list.metadata.resource_version.clone().unwrap();
    let view = list.iter().map(|map| {
        let owners = map
            .owner_references()
            .iter()
            .map(|owner| owner.name.clone())
            .collect();
        (map.name_any(), owners)
    });
    (view.collect(), version)
}

/// Waits until the server holds what the model holds.
async fn converge(api: &Api<ConfigMap>, model: &Model) {
    let mut last = BTreeMap::new();
    let arrival = async {
        loop {
            let (found, version) = view(api).await;
            if found == model.0 {
                return;
            }
            last = found;
            let changes = api.watch(&WatchParams::default(), &version).await.unwrap();
            std::pin::pin!(changes).try_next().await.unwrap();
        }
    };
    let arrived = tokio::time::timeout(PATIENCE, arrival).await.is_ok();
    assert!(
        arrived,
        "the server is at {last:?}, the model at {:?}",
        model.0
    );
}

async fn server() -> ApiServer {
    ApiServer::builder().build().await.unwrap()
}

/// Annotates every object again and again.
async fn meddle(client: Client, stop: CancellationToken) {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let all = ListParams::default().labels("law=yes");
    for count in 0_u64.. {
        for map in api.list(&all).await.unwrap() {
            let note = json!({"metadata": {"annotations": {"count": count.to_string()}}});
            let params = PatchParams::default();
            match api
                .patch(&map.name_any(), &params, &Patch::Merge(&note))
                .await
            {
                Ok(_) => {}
                Err(Error::Api(status)) if status.code == 404 => {}
                Err(other) => panic!("{other}"),
            }
        }
        if stop.is_cancelled() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn run(server: &ApiServer, steps: Vec<Step>) {
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let (mut model, mut uids) = (Model::default(), BTreeMap::new());
    for (at, step) in steps.into_iter().enumerate() {
        let names: Vec<String> = model.0.keys().cloned().collect();
        match step {
            Step::Create(owners) => {
                let owners: BTreeSet<String> = owners
                    .iter()
                    .filter(|_| !names.is_empty())
                    .map(|owner| owner.get(&names).clone())
                    .collect();
                let references: Vec<_> = owners
                    .iter()
                    .map(|owner| {
                        json!({
                            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uids[owner],
                            "blockOwnerDeletion": at % 2 == 0,
                        })
                    })
                    .collect();
                let name = format!("o{at}");
                let map = serde_json::from_value(json!({"metadata": {
                    "name": name, "labels": {"law": "yes"}, "ownerReferences": references,
                }}));
                let made = api
                    .create(&PostParams::default(), &map.unwrap())
                    .await
                    .unwrap();
                uids.insert(name.clone(), made.uid().unwrap());
                model.0.insert(name, owners);
            }
            Step::Delete(which, policy) if !names.is_empty() => {
                let name = which.get(&names);
                model.delete(name, &policy);
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    ..Default::default()
                };
                api.delete(name, &params).await.unwrap();
            }
            Step::Delete(..) => {}
        }
        converge(&api, &model).await;
    }
}

/// A server that rests in the wrong state does so for ever; a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_owned_lives_and_dies_with_its_owners(steps in prop::collection::vec(step(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { run(&server().await, steps).await });
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// The collector loses races against somebody who writes to the same objects all the time: on
    /// disk, where a write takes its time, nearly every one.
    #[test]
    fn nor_do_the_writes_of_others_keep_it_alive(steps in prop::collection::vec(step(), 1..10)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let server = ApiServer::builder().data_dir(folder.path()).durable(true).build().await.unwrap();
            let stop = CancellationToken::new();
            let meddler = tokio::spawn(meddle(server.client(), stop.clone()));
            run(&server, steps).await;
            stop.cancel();
            meddler.await.unwrap();
            server.shutdown().await;
        });
    }
}
