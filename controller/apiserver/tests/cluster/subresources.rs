//! Subresources with a kind of their own: scale, eviction, binding.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, EvictParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::{create, server, status, until};

async fn deployment(client: Client) -> Api<Deployment> {
    let api: Api<Deployment> = Api::namespaced(client, "default");
    create(
        &api,
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web", "a": "b"}},
                "template": {
                    "metadata": {"labels": {"app": "web", "a": "b"}},
                    "spec": {"containers": [{"name": "a", "image": "x"}]},
                },
            },
        }),
    )
    .await;
    api
}

#[tokio::test]
async fn a_workload_is_scaled_through_its_scale() {
    let server = server().await;
    let api = deployment(server.client()).await;
    let mut scale = api.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(2));
    assert_eq!(
        scale.status.as_ref().unwrap().selector.as_deref(),
        Some("a=b,app=web")
    );
    scale.spec.as_mut().unwrap().replicas = Some(3);
    let scale = api
        .replace_scale("web", &PostParams::default(), &scale)
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    let five = json!({"spec": {"replicas": 5}});
    api.patch_scale("web", &PatchParams::default(), &Patch::Merge(&five))
        .await
        .unwrap();
    let web = api.get("web").await.unwrap();
    assert_eq!(web.spec.replicas, Some(5));
    assert_eq!(web.metadata.generation, Some(3));
    let below = json!({"spec": {"replicas": -1}});
    let error = api
        .patch_scale("web", &PatchParams::default(), &Patch::Merge(&below))
        .await;
    assert_eq!(status(error.unwrap_err()).0, 422);
}

#[tokio::test]
async fn an_old_scale_is_refused() {
    let server = server().await;
    let api = deployment(server.client()).await;
    let old = api.get_scale("web").await.unwrap();
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    api.patch("web", &PatchParams::default(), &Patch::Merge(&label))
        .await
        .unwrap();
    let error = api
        .replace_scale("web", &PostParams::default(), &old)
        .await
        .unwrap_err();
    assert_eq!(status(error).0, 409);
}

async fn running_pods(client: &Client, names: &[&str]) -> Api<Pod> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let there = |object: Option<&ServiceAccount>| object.is_some();
    until(&accounts, "default", there).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    for name in names {
        create(
            &pods,
            json!({
                "metadata": {"name": name, "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]},
            }),
        )
        .await;
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&ready))
            .await
            .unwrap();
    }
    pods
}

#[tokio::test]
async fn an_eviction_keeps_to_the_disruption_budget() {
    let server = server().await;
    let client = server.client();
    let pods = running_pods(&client, &["a", "b", "c"]).await;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client, "default");
    create(
        &budgets,
        json!({
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
        }),
    )
    .await;
    let (code, text) = status(pods.evict("a", &EvictParams::default()).await.unwrap_err());
    assert_eq!(code, 429);
    assert_eq!(
        text,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    let seen = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
        "expectedPods": 3,
    }});
    budgets
        .patch_status("web", &PatchParams::default(), &Patch::Merge(&seen))
        .await
        .unwrap();
    pods.evict("a", &EvictParams::default()).await.unwrap();
    assert_eq!(status(pods.get("a").await.unwrap_err()).0, 404);
    let now = budgets.get("web").await.unwrap().status.unwrap();
    assert_eq!(now.disruptions_allowed, Some(0));
    assert!(now.disrupted_pods.unwrap().contains_key("a"));
    assert_eq!(
        status(pods.evict("b", &EvictParams::default()).await.unwrap_err()).0,
        429
    );
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("c", &PatchParams::default(), &Patch::Merge(&ended))
        .await
        .unwrap();
    pods.evict("c", &EvictParams::default())
        .await
        .expect("a pod that has ended is in no budget");
}

#[tokio::test]
async fn a_budget_is_asked_for_ready_pods_when_it_is_up_to_date() {
    let server = server().await;
    let client = server.client();
    let pods = running_pods(&client, &["a", "b", "c"]).await;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client, "default");
    let budget = |name: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
        })
    };
    create(&budgets, budget("web")).await;
    let allow = async |generation: i64| {
        let seen = json!({"status": {
            "observedGeneration": generation, "disruptionsAllowed": 1, "currentHealthy": 3,
            "desiredHealthy": 2, "expectedPods": 3,
        }});
        let patch = Patch::Merge(&seen);
        budgets
            .patch_status("web", &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    let allowed = async || {
        budgets
            .get("web")
            .await
            .unwrap()
            .status
            .unwrap()
            .disruptions_allowed
    };
    allow(1).await;
    let dry = EvictParams {
        post_options: PostParams {
            dry_run: true,
            ..PostParams::default()
        },
        ..EvictParams::default()
    };
    pods.evict("a", &dry).await.unwrap();
    assert!(pods.get("a").await.is_ok(), "a dry run evicts nobody");
    assert_eq!(allowed().await, Some(1), "nor does it count");

    let more = Patch::Merge(json!({"spec": {"minAvailable": 3}}));
    budgets
        .patch("web", &PatchParams::default(), &more)
        .await
        .unwrap();
    let stale = pods.evict("a", &EvictParams::default()).await.unwrap_err();
    assert_eq!(status(stale).0, 429, "nobody has judged the new budget yet");
    allow(2).await;

    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    pods.patch_status("b", &PatchParams::default(), &Patch::Merge(&unready))
        .await
        .unwrap();
    pods.evict("b", &EvictParams::default()).await.unwrap();
    assert_eq!(
        allowed().await,
        Some(1),
        "a pod that serves nobody disrupts nobody"
    );

    create(&budgets, budget("second")).await;
    let torn = pods.evict("a", &EvictParams::default()).await.unwrap_err();
    let (code, text) = status(torn);
    assert_eq!(code, 500);
    assert!(text.contains("more than one PodDisruptionBudget"), "{text}");
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = server().await;
    let client = server.client();
    let pods = running_pods(&client, &["a"]).await;
    let bind = async |node: &str| {
        let body = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": node}});
        pods.create_subresource::<Value, Value>("binding", "a", &PostParams::default(), &body)
            .await
    };
    bind("one").await.unwrap();
    let pod = pods.get("a").await.unwrap();
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("one"));
    assert_eq!(status(bind("two").await.unwrap_err()).0, 409);
}
