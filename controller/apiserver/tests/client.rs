//! What a controller does with a server in its own process, through `kube`.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_apiserver::clock::Random;
use fairlead_apiserver::{ApiServer, Controllers};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// Without controllers: what a test lists is what it wrote.
async fn server() -> ApiServer {
    ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .unwrap()
}

fn config_maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let data = BTreeMap::from([("key".to_owned(), value.to_owned())]);
    ConfigMap {
        data: Some(data),
        ..ConfigMap::default()
    }
    .named(name)
}

trait Named {
    fn named(self, name: &str) -> Self;
}

impl<K: kube::Resource<DynamicType = ()>> Named for K {
    fn named(mut self, name: &str) -> Self {
        self.meta_mut().name = Some(name.to_owned());
        self
    }
}

async fn widgets(client: &Client) -> Api<DynamicObject> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
                        "status": {"type": "object", "properties": {"seen": {"type": "integer"}}},
                    },
                }},
            }],
        },
    });
    crds.create(
        &PostParams::default(),
        &serde_json::from_value(crd).unwrap(),
    )
    .await
    .unwrap();
    let stored = crds.get("widgets.example.com").await.unwrap();
    let conditions = stored.status.unwrap().conditions.unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c.type_ == "Established" && c.status == "True")
    );
    let kind = GroupVersionKind::gvk("example.com", "v1", "Widget");
    Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk(&kind))
}

/// The code of a refusal.
fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result.unwrap_err() {
        kube::Error::Api(status) => status.code,
        other => panic!("not a Status: {other}"),
    }
}

#[tokio::test]
async fn an_object_is_created_read_replaced_and_deleted() {
    let server = server().await;
    let api = config_maps(&server.client());
    let created = api
        .create(&PostParams::default(), &config_map("one", "a"))
        .await
        .unwrap();
    assert!(created.uid().is_some());
    assert_eq!(
        code(
            api.create(&PostParams::default(), &config_map("one", "a"))
                .await
        ),
        409
    );
    let mut read = api.get("one").await.unwrap();
    assert_eq!(
        read.metadata.resource_version,
        created.metadata.resource_version
    );
    read.data = Some(BTreeMap::from([("key".to_owned(), "b".to_owned())]));
    let replaced = api
        .replace("one", &PostParams::default(), &read)
        .await
        .unwrap();
    assert_ne!(
        replaced.metadata.resource_version,
        created.metadata.resource_version
    );
    assert_eq!(
        code(api.replace("one", &PostParams::default(), &read).await),
        409
    );
    let status = api
        .delete("one", &DeleteParams::default())
        .await
        .unwrap()
        .right()
        .unwrap();
    assert_eq!(status.details.unwrap().kind, "configmaps");
    assert_eq!(code(api.get("one").await), 404);
    assert_eq!(code(api.delete("one", &DeleteParams::default()).await), 404);
}

#[tokio::test]
async fn a_replace_that_changes_nothing_keeps_the_revision() {
    let server = server().await;
    let api = config_maps(&server.client());
    let created = api
        .create(&PostParams::default(), &config_map("one", "a"))
        .await
        .unwrap();
    let replaced = api
        .replace("one", &PostParams::default(), &created)
        .await
        .unwrap();
    assert_eq!(
        replaced.metadata.resource_version,
        created.metadata.resource_version
    );
}

#[tokio::test]
async fn nothing_is_created_in_a_missing_namespace() {
    let server = server().await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "nowhere");
    assert_eq!(
        code(
            api.create(&PostParams::default(), &config_map("one", "a"))
                .await
        ),
        404
    );
}

#[tokio::test]
async fn pages_together_are_the_list_of_their_first_moment() {
    let server = server().await;
    let api = config_maps(&server.client());
    for index in 0..25 {
        let name = format!("map-{index:02}");
        api.create(&PostParams::default(), &config_map(&name, "a"))
            .await
            .unwrap();
    }
    let first = api.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(15));
    api.delete("map-15", &DeleteParams::default())
        .await
        .unwrap();
    api.create(&PostParams::default(), &config_map("map-zz", "a"))
        .await
        .unwrap();
    let mut names: Vec<_> = first.items.iter().map(|map| map.name_any()).collect();
    let mut token = first.metadata.continue_;
    while let Some(from) = token.filter(|token| !token.is_empty()) {
        let page = api
            .list(&ListParams::default().limit(10).continue_token(&from))
            .await
            .unwrap();
        names.extend(page.items.iter().map(|map| map.name_any()));
        token = page.metadata.continue_;
    }
    let expected: Vec<_> = (0..25).map(|index| format!("map-{index:02}")).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_page_whose_state_is_gone_offers_the_rest_of_the_present() {
    let server = server().await;
    let client = server.client();
    let api = config_maps(&client);
    for name in ["a", "b", "c"] {
        let map = config_map(name, "1");
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(1)).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    api.delete("b", &DeleteParams::default()).await.unwrap();
    server.compact();
    let uri = format!("/api/v1/namespaces/default/configmaps?limit=1&continue={token}");
    let request = http::Request::get(uri).body(Vec::new().into()).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 410);
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap();
    let token = status["metadata"]["continue"].as_str().unwrap();
    let rest = ListParams::default().continue_token(token);
    let rest = api.list(&rest).await.unwrap();
    let names: Vec<_> = rest.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(names, ["c"]);
}

/// Draws each thing twice.
#[derive(Default)]
struct Repeating(std::sync::atomic::AtomicU8);

impl Random for Repeating {
    fn fill(&self, bytes: &mut [u8]) {
        // A generated name takes five bytes, nothing else does.
        let drawn = match bytes.len() {
            5 => self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) / 2,
            _ => 0,
        };
        bytes.fill(drawn);
    }
}

#[tokio::test]
async fn a_generated_name_that_is_taken_is_drawn_again() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .random(Repeating::default())
        .build()
        .await
        .unwrap();
    let api = config_maps(&server.client());
    let mut map = config_map("", "1");
    map.metadata.name = None;
    map.metadata.generate_name = Some("made-".to_owned());
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(
            api.create(&PostParams::default(), &map)
                .await
                .unwrap()
                .name_any(),
        );
    }
    assert_eq!(names, ["made-bbbbb", "made-ccccc", "made-ddddd"]);
}

#[tokio::test]
async fn apply_owns_fields_conflicts_and_is_forced() {
    let server = server().await;
    let api = config_maps(&server.client());
    let patch = |value: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"},
            "data": {"key": value},
        }))
    };
    let first = api
        .patch("one", &PatchParams::apply("a"), &patch("1"))
        .await
        .unwrap();
    let again = api
        .patch("one", &PatchParams::apply("a"), &patch("1"))
        .await
        .unwrap();
    assert_eq!(
        first.metadata.resource_version,
        again.metadata.resource_version
    );
    let fields = first.metadata.managed_fields.unwrap();
    assert_eq!(fields[0].manager.as_deref(), Some("a"));
    assert_eq!(fields[0].operation.as_deref(), Some("Apply"));
    assert_eq!(
        code(
            api.patch("one", &PatchParams::apply("b"), &patch("2"))
                .await
        ),
        409
    );
    let forced = PatchParams::apply("b").force();
    let taken = api.patch("one", &forced, &patch("2")).await.unwrap();
    assert_eq!(taken.data.unwrap()["key"], "2");
}

#[tokio::test]
async fn status_and_spec_of_a_custom_kind_are_written_apart() {
    let server = server().await;
    let client = server.client();
    let api = widgets(&client).await;
    let widget = |spec: Value, status: Value| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"},
            "spec": spec, "status": status,
        }))
        .unwrap()
    };
    let created = api
        .create(
            &PostParams::default(),
            &widget(json!({"size": 1}), json!({"seen": 9})),
        )
        .await
        .unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    assert!(created.data.get("status").is_none());
    let status = Patch::Merge(json!({"status": {"seen": 1}, "spec": {"size": 5}}));
    let patched = api
        .patch_status("w", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(patched.data["status"]["seen"], 1);
    assert_eq!(patched.data["spec"]["size"], 1);
    assert_eq!(patched.metadata.generation, Some(1));
    let spec = Patch::Merge(json!({"status": {"seen": 7}, "spec": {"size": 5}}));
    let patched = api
        .patch("w", &PatchParams::default(), &spec)
        .await
        .unwrap();
    assert_eq!(patched.data["status"]["seen"], 1);
    assert_eq!(patched.data["spec"]["size"], 5);
    assert_eq!(patched.metadata.generation, Some(2));
}

#[tokio::test]
async fn a_finalizer_holds_a_deleted_object_until_it_is_removed() {
    let server = server().await;
    let api = config_maps(&server.client());
    let mut map = config_map("one", "a");
    map.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    api.create(&PostParams::default(), &map).await.unwrap();
    let marked = api
        .delete("one", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("one", &PatchParams::default(), &free)
        .await
        .unwrap();
    assert_eq!(code(api.get("one").await), 404);
}

#[tokio::test]
async fn a_grace_period_means_nothing_to_kinds_without_one() {
    let server = server().await;
    let api = config_maps(&server.client());
    for grace in [0, 30] {
        api.create(&PostParams::default(), &config_map("one", "a"))
            .await
            .unwrap();
        let params = DeleteParams::default().grace_period(grace);
        assert!(api.delete("one", &params).await.unwrap().is_right());
        assert_eq!(code(api.get("one").await), 404);
    }
}

#[tokio::test]
async fn what_the_server_sets_cannot_be_sent_otherwise() {
    let server = server().await;
    let api = config_maps(&server.client());
    let created = api
        .create(&PostParams::default(), &config_map("one", "a"))
        .await
        .unwrap();
    for metadata in [
        json!({"creationTimestamp": "2020-01-01T00:00:00Z"}),
        json!({"deletionTimestamp": "2020-01-01T00:00:00Z"}),
        json!({"uid": "other"}),
    ] {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let refused = api.patch("one", &PatchParams::default(), &patch).await;
        assert_eq!(code(refused), 422, "{metadata}");
    }
    let left_out = Patch::Merge(json!({"metadata": {"creationTimestamp": null, "uid": null}}));
    let same = api
        .patch("one", &PatchParams::default(), &left_out)
        .await
        .unwrap();
    assert_eq!(same.metadata, created.metadata);
}

#[tokio::test]
async fn a_reflector_follows_in_both_list_modes() {
    for streaming in [false, true] {
        let server = server().await;
        let api = config_maps(&server.client());
        api.create(&PostParams::default(), &config_map("before", "a"))
            .await
            .unwrap();
        let config = watcher::Config::default().labels("app!=other");
        let config = if streaming {
            config.streaming_lists()
        } else {
            config
        };
        let (store, writer) = reflector::store();
        let mut events = watcher(api.clone(), config)
            .reflect(writer)
            .applied_objects()
            .boxed();
        assert_eq!(
            events.try_next().await.unwrap().unwrap().name_any(),
            "before"
        );
        api.create(&PostParams::default(), &config_map("after", "a"))
            .await
            .unwrap();
        assert_eq!(
            events.try_next().await.unwrap().unwrap().name_any(),
            "after"
        );
        assert_eq!(store.len(), 2);
        // An object that leaves the selection is a deletion to this client.
        let label = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
        api.patch("before", &PatchParams::default(), &label)
            .await
            .unwrap();
        api.create(&PostParams::default(), &config_map("last", "a"))
            .await
            .unwrap();
        assert_eq!(events.try_next().await.unwrap().unwrap().name_any(), "last");
        assert_eq!(store.len(), 2, "streaming: {streaming}");
    }
}

#[tokio::test]
async fn a_watch_from_before_a_compaction_is_gone_and_the_watcher_lists_again() {
    let server = server().await;
    let api = config_maps(&server.client());
    let created = api
        .create(&PostParams::default(), &config_map("one", "a"))
        .await
        .unwrap();
    let mut changed = created.clone();
    changed.data = None;
    api.replace("one", &PostParams::default(), &changed)
        .await
        .unwrap();
    server.compact();
    let version = created.metadata.resource_version.unwrap();
    let watch = api
        .watch(&kube::api::WatchParams::default().timeout(5), &version)
        .await
        .unwrap();
    let event = std::pin::pin!(watch).try_next().await.unwrap();
    let Some(kube::api::WatchEvent::Error(error)) = event else {
        panic!("not an error event: {event:?}")
    };
    assert_eq!((error.code, error.reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn users_without_rights_are_refused() {
    let server = server().await;
    let api = config_maps(&server.client_as("somebody", ["some-group"]));
    assert_eq!(code(api.get("one").await), 403);
}

#[tokio::test]
async fn services_get_their_defaults_and_an_address() {
    let server = server().await;
    let api: Api<Service> = Api::namespaced(server.client(), "default");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80}]},
    });
    let service = serde_json::from_value(service).unwrap();
    let created = api.create(&PostParams::default(), &service).await.unwrap();
    let spec = created.spec.unwrap();
    assert!(spec.cluster_ip.unwrap().starts_with("10.96."));
    assert_eq!(spec.ports.unwrap()[0].protocol.as_deref(), Some("TCP"));
}

#[tokio::test]
async fn watches_end_in_time_and_clients_share_a_server_over_http() {
    let server = server().await;
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let handle = server
        .serve(addr, fairlead_apiserver::Security::Tls)
        .await
        .unwrap();
    let config = kube::config::Kubeconfig::from_yaml(handle.kubeconfig()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options)
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    let api = config_maps(&client);
    config_maps(&server.client())
        .create(&PostParams::default(), &config_map("one", "a"))
        .await
        .unwrap();
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(
        namespaces
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        4
    );
    let watch = api
        .watch(&kube::api::WatchParams::default().timeout(1), "0")
        .await
        .unwrap();
    let seen: Vec<_> = watch.try_collect().await.unwrap();
    assert_eq!(seen.len(), 1);
    tokio::time::timeout(Duration::from_secs(20), server.shutdown())
        .await
        .unwrap();
}
