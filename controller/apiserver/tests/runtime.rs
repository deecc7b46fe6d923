//! kube-rs as its users use it: controllers, reflectors, watchers, finalizers and Lease election,
//! without a special case for this server.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_apiserver::ApiServer;
use fairlead_apiserver::faults::{Effect, Faults, Rule};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::reflector::store::Writer;
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Error, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

type Maps = Api<ConfigMap>;

fn maps(client: &Client) -> Maps {
    Api::namespaced(client.clone(), "default")
}

async fn put(api: &Maps, name: &str, value: &str) {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value},
    });
    let params = PatchParams::apply("tests").force();
    api.patch(name, &params, &Patch::Apply(&map)).await.unwrap();
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it happens")
}

/// A reflector's view of the default namespace, sent on with each change.
fn follow(
    api: Maps,
    config: watcher::Config,
) -> (
    watch::Receiver<BTreeMap<String, String>>,
    tokio::task::JoinHandle<()>,
) {
    let (sender, receiver) = watch::channel(BTreeMap::new());
    let writer = Writer::<ConfigMap>::default();
    let store = writer.as_reader();
    let task = tokio::spawn(async move {
        let stream = reflector(writer, watcher(api, config)).default_backoff();
        let mut stream = std::pin::pin!(stream);
        while stream.next().await.is_some() {
            let view = store
                .state()
                .iter()
                .filter_map(|map| Some((map.name_any(), map.data.as_ref()?.get("v")?.clone())))
                .collect();
            sender.send_replace(view);
        }
    });
    (receiver, task)
}

#[tokio::test]
async fn reflectors_hold_what_the_server_holds_in_both_list_modes() {
    let faults = Faults::default();
    let server = ApiServer::builder().faults(&faults).build().await.unwrap();
    let client = server.client();
    let api = maps(&client);
    put(&api, "before", "1").await;
    let mut followers = [
        follow(api.clone(), watcher::Config::default()),
        follow(api.clone(), watcher::Config::default().page_size(1)),
        follow(api.clone(), watcher::Config::default().streaming_lists()),
    ];
    for round in 0..20 {
        put(&api, &format!("n{}", round % 5), &round.to_string()).await;
        if round % 7 == 0 {
            api.delete(&format!("n{}", round % 5), &DeleteParams::default())
                .await
                .unwrap();
        }
        if round == 10 {
            // Cut all watches, forget the history: everybody has to list again.
            let cut = faults.inject(Rule::new(Effect::EndWatch).verb("watch"));
            put(&api, "cut", "x").await;
            server.compact();
            drop(cut);
        }
    }
    let list = api.list(&Default::default()).await.unwrap();
    let wanted: BTreeMap<String, String> = list
        .iter()
        .filter_map(|map| Some((map.name_any(), map.data.as_ref()?.get("v")?.clone())))
        .collect();
    assert!(wanted.len() >= 4);
    for (view, _) in &mut followers {
        soon(view.wait_for(|view| *view == wanted)).await.unwrap();
    }
    for (_, task) in followers {
        task.abort();
    }
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failure(#[from] Error);

/// Keeps one Secret for each ConfigMap, owned by it.
async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, Failure> {
    let api: Api<Secret> = Api::namespaced((*client).clone(), "default");
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(map.name_any()),
            owner_references: map.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        string_data: map.data.clone(),
        ..Secret::default()
    };
    let params = PatchParams::apply("copier").force();
    api.patch(&map.name_any(), &params, &Patch::Apply(&secret))
        .await?;
    Ok(Action::await_change())
}

#[tokio::test]
async fn a_controller_keeps_what_it_owns() {
    let server = ApiServer::builder().build().await.unwrap();
    let client = server.client();
    let api = maps(&client);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let controller = Controller::new(api.clone(), watcher::Config::default())
        .owns(secrets.clone(), watcher::Config::default())
        .run(
            reconcile,
            |_, _, _| Action::requeue(Duration::from_millis(100)),
            Arc::new(client.clone()),
        )
        .for_each(|_| std::future::ready(()));
    let controller = tokio::spawn(controller);
    put(&api, "a", "one").await;
    let holds = |value: &'static str| {
        move |secret: Option<&Secret>| {
            let data = secret.and_then(|secret| secret.data.as_ref());
            data.is_some_and(|data| data["v"].0 == value.as_bytes())
        }
    };
    soon(await_condition(secrets.clone(), "a", holds("one")))
        .await
        .unwrap();
    put(&api, "a", "two").await;
    soon(await_condition(secrets.clone(), "a", holds("two")))
        .await
        .unwrap();
    // Deleted by hand, it comes back; deleted with its owner, it stays away.
    let uid = secrets.get("a").await.unwrap().uid();
    secrets.delete("a", &DeleteParams::default()).await.unwrap();
    let back = move |secret: Option<&Secret>| secret.is_some_and(|secret| secret.uid() != uid);
    soon(await_condition(secrets.clone(), "a", back))
        .await
        .unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    soon(await_condition(secrets, "a", |secret: Option<&Secret>| {
        secret.is_none()
    }))
    .await
    .unwrap();
    controller.abort();
}

#[tokio::test]
async fn a_finalizer_runs_before_the_object_goes() {
    let server = ApiServer::builder().build().await.unwrap();
    let client = server.client();
    let api = maps(&client);
    put(&api, "a", "1").await;
    let (events, mut seen) = watch::channel(Vec::new());
    let name = "example.com/cleanup";
    for _ in 0..2 {
        let map = Arc::new(api.get("a").await.unwrap());
        finalizer(&api, name, map, |event| {
            let text = match event {
                Event::Apply(_) => "apply",
                Event::Cleanup(_) => "cleanup",
            };
            events.send_modify(|events: &mut Vec<&str>| events.push(text));
            std::future::ready(Ok::<_, std::io::Error>(Action::await_change()))
        })
        .await
        .unwrap();
        if seen.borrow().contains(&"apply") {
            break;
        }
    }
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let marked = Arc::new(api.get("a").await.expect("the finalizer holds it"));
    assert!(marked.meta().deletion_timestamp.is_some());
    finalizer(&api, name, marked, |event| {
        assert!(matches!(event, Event::Cleanup(_)));
        events.send_modify(|events| events.push("cleanup"));
        std::future::ready(Ok::<_, std::io::Error>(Action::await_change()))
    })
    .await
    .unwrap();
    let Err(Error::Api(status)) = api.get("a").await else {
        panic!("it is gone")
    };
    assert_eq!(status.code, 404);
    assert_eq!(*seen.borrow_and_update(), ["apply", "cleanup"]);
}

/// Takes the lease with optimistic concurrency; `false` when another holds it.
async fn acquire(api: &Api<Lease>, who: &str) -> bool {
    let lease = |version: Option<String>| -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "leader", "resourceVersion": version},
            "spec": {"holderIdentity": who, "leaseDurationSeconds": 15},
        }))
        .unwrap()
    };
    match api.get_opt("leader").await.unwrap() {
        None => api
            .create(&PostParams::default(), &lease(None))
            .await
            .is_ok(),
        Some(held)
            if held
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref())
                == Some("") =>
        {
            api.replace(
                "leader",
                &PostParams::default(),
                &lease(held.resource_version()),
            )
            .await
            .is_ok()
        }
        Some(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_candidates_holds_the_lease() {
    let server = ApiServer::builder().build().await.unwrap();
    let api: Api<Lease> = Api::namespaced(server.client(), "default");
    for round in 0..10 {
        let candidates: Vec<_> = (0..8)
            .map(|candidate| {
                let api = api.clone();
                tokio::spawn(async move { acquire(&api, &format!("c{candidate}")).await })
            })
            .collect();
        let won = futures::future::try_join_all(candidates).await.unwrap();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
        let free = json!({"spec": {"holderIdentity": ""}});
        api.patch("leader", &PatchParams::default(), &Patch::Merge(&free))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_watcher_resumes_after_each_cut_without_loss() {
    let faults = Faults::default();
    let server = ApiServer::builder().faults(&faults).build().await.unwrap();
    let api = maps(&server.client());
    let _cuts = faults.inject(
        Rule::new(Effect::EndWatch)
            .verb("watch")
            .resource("configmaps")
            .every(3),
    );
    let stream = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let mut stream = std::pin::pin!(stream);
    let writer = tokio::spawn(async move {
        for value in 0..30 {
            put(&api, "a", &value.to_string()).await;
        }
    });
    let last = async {
        while let Some(map) = stream.try_next().await.unwrap_or(None) {
            if map
                .data
                .as_ref()
                .is_some_and(|data| data.get("v").is_some_and(|v| v == "29"))
            {
                return;
            }
        }
    };
    soon(last).await;
    writer.await.unwrap();
}
