//! The hub's store is restored from a back-up: nobody is told what was true then.

use std::collections::BTreeSet;

use fairlead_api::{labels, mcs::v1beta1::ServiceExport};
use fairlead_apiserver::{ApiServer, Controllers};
use fairlead_controller::agent::{self, AgentConfig, AgentHandle};
use fairlead_runtime::clock::Clock;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    process::Hub,
    proxy::Proxy,
    store::{Role, Store, eventually},
};

/// Whether the hub's process lives through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_lives_through_a_restore_tells_nobody_the_past() {
    restored(Store::durable().await, false, 80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_starts_on_a_restored_store_tells_nobody_the_past() {
    restored(Store::durable().await, true, 80).await;
}

/// What the store counts is soon as much as before: the numbers tell nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_starts_on_a_store_set_back_by_a_moment_tells_nobody_the_past() {
    restored(Store::durable().await, true, 1).await;
}

/// A real etcd is restored with its numbers raised, as Kubernetes wants it: they tell nothing either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_on_a_real_etcd_restored_as_documented_tells_nobody_the_past() {
    for restarted in [true, false] {
        let store = Store::real(Role::Hub).await;
        let Some(store) = store.filter(Store::can_restore) else {
            eprintln!("no etcdutl in KUBEBUILDER_ASSETS: see tests/kube/build.sh");
            return;
        };
        restored(store, restarted, 3).await;
    }
}

/// All that came after the back-up is an object of its own: what is left in the store is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_lives_through_the_loss_of_new_objects_alone_takes_nothing_away() {
    let store = Store::real(Role::Hub).await;
    let Some(mut store) = store.filter(Store::can_restore) else {
        eprintln!("no etcdutl in KUBEBUILDER_ASSETS: see tests/kube/build.sh");
        return;
    };
    let (hub, member, mut proxy) = serving(&store).await;
    let backup = store.back_up().await;
    let lease = renewed(&store).await;
    member.has_in("web-2", &["10.0.0.2"]).await;
    proxy.until_endpoints(&["10.0.0.1", "10.0.0.2"]).await;
    is_renewed(&store, lease).await;
    let before = epoch(&store).await;

    store.restore(backup).await;
    proxy.reopen(&store, &hub).await;
    mirrored_anew(&store, &before).await;
    member.has_in("web-2", &["10.0.0.3"]).await;
    proxy.until_endpoints(&["10.0.0.1", "10.0.0.3"]).await;
    let past = proxy.since("10.0.0.2:8080");
    let lacks = |ips: &&BTreeSet<String>| ips.len() < 2;
    assert_eq!(past.iter().find(lacks), None, "something was taken away");
    member.agent.stop().await;
}

/// The last address of the endpoints comes as the last of so many changes after the back-up.
async fn restored(mut store: Store, restarted: bool, changes: u8) {
    let (mut hub, member, mut proxy) = serving(&store).await;

    // What happens after the back-up was taken.
    let backup = store.back_up().await;
    let lease = renewed(&store).await;
    let last = |change: u8| format!("10.0.0.{}", 100 + change);
    for change in 1..=changes {
        member.has(&["10.0.0.2", &last(change)]).await;
    }
    let last = last(changes);
    proxy.until_endpoints(&["10.0.0.2", &last]).await;
    let epoch = epoch(&store).await;

    if restarted {
        hub.signal("KILL");
        hub.ended().await;
    } else {
        is_renewed(&store, lease).await;
    }
    store.restore(backup).await;
    if restarted {
        hub = Hub::start(&store, "hub-0", &[]).await;
    }
    proxy.reopen(&store, &hub).await;
    mirrored_anew(&store, &epoch).await;
    member.has(&["10.0.0.3"]).await;
    proxy.until_endpoints(&["10.0.0.3"]).await;
    let past = proxy.since(&format!("{last}:8080"));
    let right = |ips: &BTreeSet<String>| !ips.is_empty() && !ips.contains("10.0.0.1:8080");
    assert!(past.iter().all(right), "it was told the past: {past:?}");
    member.agent.stop().await;
}

/// A hub, a member with an endpoint, and a proxy that has it.
async fn serving(store: &Store) -> (Hub, Member, Proxy) {
    let hub = Hub::start(store, "hub-0", &[]).await;
    hub.is_ready().await;
    store.member("a").await;
    let member = Member::start(store).await;
    member.has(&["10.0.0.1"]).await;
    store.serves().await;
    let proxy = Proxy::open(store, &hub, "one").await;
    proxy.until_endpoints(&["10.0.0.1"]).await;
    store.in_sync(&["one"]).await;
    (hub, member, proxy)
}

async fn renewed(store: &Store) -> Option<MicroTime> {
    let leases: Api<Lease> = Api::namespaced(store.client(), labels::SYSTEM_NAMESPACE);
    let lease = leases.get(labels::LEADER_LEASE).await.ok()?;
    lease.spec?.renew_time
}

/// What a hub that lives goes by: its Lease is renewed every few seconds.
async fn is_renewed(store: &Store, before: Option<MicroTime>) {
    let before = before.expect("a hub that is ready leads");
    eventually("the leader's Lease to be renewed", async || {
        (renewed(store).await? != before).then_some(())
    })
    .await;
}

async fn mirrored_anew(store: &Store, before: &str) {
    eventually(
        "a new epoch, in which members have mirrored anew",
        async || {
            let map = config_map(store).await?;
            let data = map.data?;
            (data["epoch"] != before && data["remirroring"] == "false").then_some(())
        },
    )
    .await;
}

async fn epoch(store: &Store) -> String {
    let map = config_map(store).await.unwrap();
    map.data.unwrap()["epoch"].clone()
}

async fn config_map(store: &Store) -> Option<ConfigMap> {
    let maps: Api<ConfigMap> = Api::namespaced(store.client(), "fairlead-system");
    maps.get("fairlead-hub-epoch").await.ok()
}

/// Member a: a cluster with a service, and its agent.
struct Member {
    client: Client,
    agent: AgentHandle,
    _server: ApiServer,
}

impl Member {
    async fn start(store: &Store) -> Self {
        let server = ApiServer::builder()
            .controllers(Controllers::NONE)
            .build()
            .await
            .unwrap();
        let client = server.client();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in fairlead_api::crds() {
            crds.create(&PostParams::default(), &crd).await.unwrap();
        }
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
        let namespaces: Api<Namespace> = Api::all(client.clone());
        put(&namespaces, &namespace).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        });
        put(
            &Api::<Service>::namespaced(client.clone(), "shop"),
            &service,
        )
        .await;
        let export = json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": { "name": "web" },
        });
        let exports = Api::<ServiceExport>::namespaced(client.clone(), "shop");
        eventually("ServiceExports to be served", async || {
            let params = PatchParams::apply("test").force();
            exports
                .patch("web", &params, &Patch::Apply(&export))
                .await
                .ok()
        })
        .await;
        let agent = agent::run(AgentConfig {
            member: "a".to_owned(),
            local: client.clone(),
            hub: store.client(),
            properties_pods: false,
            version: "test".to_owned(),
            downward: None,
            clock: Clock::system(),
        });
        Self {
            client,
            agent,
            _server: server,
        }
    }

    /// The service's endpoints are these now.
    async fn has(&self, ips: &[&str]) {
        self.has_in("web-1", ips).await;
    }

    /// Those of one slice are.
    async fn has_in(&self, name: &str, ips: &[&str]) {
        let endpoints = ips
            .iter()
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        });
        put(
            &Api::<EndpointSlice>::namespaced(self.client.clone(), "shop"),
            &slice,
        )
        .await;
    }
}

async fn put<K>(api: &Api<K>, object: &Value)
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("test").force();
    api.patch(name, &params, &Patch::Apply(object))
        .await
        .unwrap();
}
