//! Watches end to end: whatever happens, clients come to hold what the server holds.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_apiserver::store::Limits;
use fairlead_apiserver::{ApiServer, Controllers};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use proptest::prelude::*;
use serde_json::json;

const NAMESPACES: [&str; 2] = ["blue", "green"];
/// Labelled so that every client selects it: it has seen everything once it has seen this.
const LAST: &str = "last";

#[derive(Debug, Clone)]
enum Step {
    /// Creates or changes an object; odd values are labelled.
    Put(usize, u8, u8),
    Delete(usize, u8),
    DeleteAll(usize),
    Compact,
    /// Lets the clients run: they read some of what happened.
    Yield,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_usize, 0..5_u8, any::<u8>()).prop_map(|(ns, name, v)| Step::Put(ns, name, v)),
        3 => (0..2_usize, 0..5_u8).prop_map(|(ns, name)| Step::Delete(ns, name)),
        1 => (0..2_usize).prop_map(Step::DeleteAll),
        1 => Just(Step::Compact),
        4 => Just(Step::Yield),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Clients of all kinds (all or one namespace, labels, one name; lists by pages, whole and
    /// streamed) under writes, compactions and a history too short for slow ones.
    #[test]
    fn every_client_ends_with_the_state_of_the_server(
        steps in prop::collection::vec(step(), 1..120),
        history_events_max in 1..12_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps, history_events_max));
    }
}

async fn run(steps: Vec<Step>, history_events_max: usize) {
    let limits = Limits {
        history_events_max,
        ..Limits::default()
    };
    let builder = ApiServer::builder()
        .controllers(Controllers::NONE)
        .history(limits);
    let server = builder.build().await.unwrap();
    let client = server.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES {
        let namespace = json!({"metadata": {"name": name}});
        let namespace = serde_json::from_value(namespace).unwrap();
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }
    let clients = clients(&client);
    for step in steps {
        act(&server, &client, step).await;
    }
    for namespace in NAMESPACES {
        put(&client, namespace, LAST, 1).await;
    }
    for (store, list) in clients {
        let wanted: BTreeMap<_, _> = list
            .0
            .list(&list.1)
            .await
            .unwrap()
            .items
            .iter()
            .map(content)
            .collect();
        // Virtual time: this is as long as the watchers' back-offs need.
        let held = tokio::time::timeout(Duration::from_secs(3600), async {
            loop {
                let held: BTreeMap<_, _> =
                    store.state().iter().map(|object| content(object)).collect();
                if held == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(
            held.await.is_ok(),
            "wanted {wanted:?}, holds {:?}",
            store.state()
        );
    }
}

type Lister = (Api<ConfigMap>, ListParams);

fn clients(client: &Client) -> Vec<(Store<ConfigMap>, Lister)> {
    let all: Api<ConfigMap> = Api::all(client.clone());
    let blue: Api<ConfigMap> = Api::namespaced(client.clone(), "blue");
    let plain = watcher::Config::default();
    let mut clients = Vec::new();
    for (api, config, list) in [
        (all.clone(), plain.clone(), ListParams::default()),
        (
            all.clone(),
            plain.clone().streaming_lists(),
            ListParams::default(),
        ),
        (
            all.clone(),
            plain.clone().page_size(2),
            ListParams::default(),
        ),
        (
            all,
            plain.clone().labels("odd"),
            ListParams::default().labels("odd"),
        ),
        (
            blue.clone(),
            plain.clone().labels("odd").streaming_lists(),
            ListParams::default().labels("odd"),
        ),
        (
            blue,
            plain.fields("metadata.name=last"),
            ListParams::default().fields("metadata.name=last"),
        ),
    ] {
        let (store, writer) = reflector::store();
        let stream = watcher(api.clone(), config)
            .default_backoff()
            .reflect(writer);
        tokio::spawn(stream.for_each(|_| async {}));
        clients.push((store, (api, list)));
    }
    clients
}

async fn act(server: &ApiServer, client: &Client, step: Step) {
    match step {
        Step::Put(namespace, name, value) => {
            put(client, NAMESPACES[namespace], &format!("map-{name}"), value).await;
        }
        Step::Delete(namespace, name) => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACES[namespace]);
            // It may not be there.
            drop(
                api.delete(&format!("map-{name}"), &DeleteParams::default())
                    .await,
            );
        }
        Step::DeleteAll(namespace) => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACES[namespace]);
            let all = ListParams::default();
            api.delete_collection(&DeleteParams::default(), &all)
                .await
                .unwrap();
        }
        Step::Compact => server.compact(),
        Step::Yield => tokio::task::yield_now().await,
    }
}

async fn put(client: &Client, namespace: &str, name: &str, value: u8) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let label = if value % 2 == 1 {
        json!("yes")
    } else {
        json!(null)
    };
    let patch = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"odd": label}},
        "data": {"value": value.to_string()},
    });
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let map = serde_json::from_value(patch_without_nulls(patch)).unwrap();
            api.create(&PostParams::default(), &map).await.unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

fn patch_without_nulls(mut patch: serde_json::Value) -> serde_json::Value {
    if patch["metadata"]["labels"]["odd"].is_null() {
        patch["metadata"]["labels"] = json!({});
    }
    patch
}

fn content(object: &ConfigMap) -> ((String, String), String) {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let value = object.data.as_ref().and_then(|data| data.get("value"));
    // What the server holds from its start has no value.
    (key, value.cloned().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_each_minute_and_a_watch_ends_in_its_time() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .unwrap();
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let params = WatchParams::default().timeout(150);
    let watch = api.watch(&params, "0").await.unwrap();
    let other: Api<ConfigMap> = Api::namespaced(server.client(), "kube-system");
    let map = json!({"metadata": {"name": "elsewhere"}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    let created = other.create(&PostParams::default(), &map).await.unwrap();
    let start = tokio::time::Instant::now();
    let events: Vec<_> = watch.try_collect().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 150);
    let versions: Vec<_> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version.clone(),
            other => panic!("only bookmarks, but {other:?}"),
        })
        .collect();
    // A bookmark moves on although nothing happened in the watch's own scope.
    assert_eq!(
        versions,
        [
            created.resource_version().unwrap(),
            created.resource_version().unwrap()
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_no_bookmarks_gets_none() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .unwrap();
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let params = WatchParams::default().timeout(150).disable_bookmarks();
    let watch = api.watch(&params, "0").await.unwrap();
    let events: Vec<_> = watch.try_collect().await.unwrap();
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test]
async fn a_thousand_watchers_of_their_own_namespaces_hear_only_their_own() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .unwrap();
    let client = server.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut watches = Vec::new();
    for index in 0..1000 {
        let name = format!("member-{index}");
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
        watches.push(
            api.watch(&WatchParams::default(), "0")
                .await
                .unwrap()
                .boxed(),
        );
    }
    for index in [7, 993] {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &format!("member-{index}"));
        let map = serde_json::from_value(json!({"metadata": {"name": "one"}})).unwrap();
        api.create(&PostParams::default(), &map).await.unwrap();
        let event = watches[index].try_next().await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Added(map) if map.name_any() == "one"));
    }
    for (index, watch) in watches.iter_mut().enumerate() {
        let next = futures::poll!(watch.next());
        assert!(
            next.is_pending(),
            "the watch of member-{index} heard something"
        );
    }
}

#[tokio::test]
async fn a_shutdown_ends_watches_at_once() {
    let server = ApiServer::builder().build().await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "kube-node-lease");
    let watch = api.watch(&WatchParams::default(), "0").await.unwrap();
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = server
        .serve(addr, fairlead_apiserver::Security::Plain)
        .await
        .unwrap();
    let config = kube::config::Kubeconfig::from_yaml(listener.kubeconfig()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options)
        .await
        .unwrap();
    let distant: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config).unwrap());
    let far = distant.watch(&WatchParams::default(), "0").await.unwrap();
    server.shutdown().await;
    for watch in [watch.boxed(), far.boxed()] {
        let events: Vec<_> = watch.collect().await;
        assert!(
            events
                .iter()
                .all(|event| matches!(event, Ok(WatchEvent::Added(_)))),
            "{events:?}"
        );
    }
}
