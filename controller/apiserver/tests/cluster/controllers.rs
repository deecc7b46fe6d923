//! The controllers: what a fresh cluster holds, namespaces, garbage collection, aggregation.

use fairlead_apiserver::{ApiServer, Controllers};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, Client};
use serde_json::json;

use crate::support::{code, create, namespace, of, server, until};

#[tokio::test]
async fn a_fresh_server_has_what_every_cluster_has() {
    let server = server().await;
    let client = server.client();
    let namespaces = Api::<Namespace>::all(client.clone())
        .list(&Default::default())
        .await
        .unwrap();
    let names: Vec<_> = namespaces
        .iter()
        .filter_map(|n| n.metadata.name.clone())
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let service = Api::<Service>::namespaced(client.clone(), "default")
        .get("kubernetes")
        .await
        .unwrap();
    assert_eq!(
        service.spec.unwrap().cluster_ip.as_deref(),
        Some("10.96.0.1")
    );
    let roles = Api::<ClusterRole>::all(client.clone());
    for name in [
        "cluster-admin",
        "admin",
        "edit",
        "view",
        "system:discovery",
        "system:node",
    ] {
        let role = roles.get(name).await.unwrap();
        assert!(role.rules.is_some_and(|rules| !rules.is_empty()), "{name}");
    }
    let bindings = Api::<ClusterRoleBinding>::all(client)
        .list(&Default::default())
        .await
        .unwrap();
    assert!(bindings.items.len() > 50);
}

#[tokio::test]
async fn every_namespace_gets_an_account_and_the_ca() {
    let server = server().await;
    let client = server.client();
    namespace(&client, "blue").await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "blue");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "blue");
    let there = |object: Option<&ServiceAccount>| object.is_some();
    until(&accounts, "default", there).await;
    let ca = until(&maps, "kube-root-ca.crt", |object: Option<&ConfigMap>| {
        object.is_some()
    })
    .await;
    assert_eq!(ca.unwrap().data.unwrap()["ca.crt"], server.ca_pem());
    let account = accounts.get("default").await.unwrap();
    accounts
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    let uid = account.metadata.uid.clone();
    until(
        &accounts,
        "default",
        move |object: Option<&ServiceAccount>| {
            object.is_some_and(|object| object.metadata.uid != uid)
        },
    )
    .await;
    let broken = json!({"data": {"ca.crt": "broken"}});
    maps.patch(
        "kube-root-ca.crt",
        &PatchParams::default(),
        &Patch::Merge(&broken),
    )
    .await
    .unwrap();
    let pem = server.ca_pem().to_owned();
    until(
        &maps,
        "kube-root-ca.crt",
        move |object: Option<&ConfigMap>| {
            object
                .and_then(|object| object.data.as_ref())
                .is_some_and(|data| data["ca.crt"] == pem)
        },
    )
    .await;
}

#[tokio::test]
async fn a_namespace_takes_its_content_along_and_waits_for_finalizers() {
    let server = server().await;
    let client = server.client();
    namespace(&client, "blue").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "blue");
    create(&maps, json!({"metadata": {"name": "plain"}})).await;
    create(
        &maps,
        json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}),
    )
    .await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .delete("blue", &DeleteParams::default())
        .await
        .unwrap();
    let told = until(&namespaces, "blue", |object: Option<&Namespace>| {
        let conditions = object
            .and_then(|o| o.status.as_ref())
            .and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|list| {
            list.iter()
                .any(|c| c.type_ == "NamespaceFinalizersRemaining" && c.status == "True")
        })
    })
    .await
    .unwrap();
    let text = format!("{:?}", told.status);
    assert!(
        text.contains("example.com/hold in 1 resource instances"),
        "{text}"
    );
    assert_eq!(code(maps.get("plain").await.unwrap_err()), 404);
    let refused = maps
        .create(
            &PostParams::default(),
            &of(json!({"metadata": {"name": "new"}})),
        )
        .await;
    assert_eq!(code(refused.unwrap_err()), 403);
    let released = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(&released))
        .await
        .unwrap();
    until(&namespaces, "blue", |object: Option<&Namespace>| {
        object.is_none()
    })
    .await;
}

async fn owner_and_dependents(client: &Client) -> (Api<ConfigMap>, ConfigMap) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let owner = create(&maps, json!({"metadata": {"name": "owner"}})).await;
    let reference = |owner: &ObjectMeta, blocks: bool| {
        json!([{
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid,
            "blockOwnerDeletion": blocks,
        }])
    };
    let child =
        json!({"metadata": {"name": "child", "ownerReferences": reference(&owner.metadata, true)}});
    let child = create(&maps, child).await;
    let grand = json!({"metadata": {"name": "grandchild", "ownerReferences": reference(&child.metadata, true)}});
    create(&maps, grand).await;
    (maps, owner)
}

fn gone(object: Option<&ConfigMap>) -> bool {
    object.is_none()
}

#[tokio::test]
async fn background_deletion_takes_dependents_after_the_owner() {
    let server = server().await;
    let (maps, _) = owner_and_dependents(&server.client()).await;
    maps.delete("owner", &DeleteParams::background())
        .await
        .unwrap();
    assert_eq!(code(maps.get("owner").await.unwrap_err()), 404);
    until(&maps, "child", gone).await;
    until(&maps, "grandchild", gone).await;
}

#[tokio::test]
async fn foreground_deletion_takes_dependents_first() {
    let server = server().await;
    let (maps, _) = owner_and_dependents(&server.client()).await;
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    maps.patch("grandchild", &PatchParams::default(), &Patch::Merge(&held))
        .await
        .unwrap();
    maps.delete("owner", &DeleteParams::foreground())
        .await
        .unwrap();
    until(&maps, "grandchild", |object: Option<&ConfigMap>| {
        object.is_some_and(|object| object.metadata.deletion_timestamp.is_some())
    })
    .await;
    for name in ["owner", "child"] {
        let waiting = maps.get(name).await.unwrap();
        assert_eq!(
            waiting.metadata.finalizers.unwrap(),
            ["foregroundDeletion"],
            "{name}"
        );
    }
    let released = json!({"metadata": {"finalizers": null}});
    maps.patch(
        "grandchild",
        &PatchParams::default(),
        &Patch::Merge(&released),
    )
    .await
    .unwrap();
    for name in ["grandchild", "child", "owner"] {
        until(&maps, name, gone).await;
    }
}

#[tokio::test]
async fn orphaned_dependents_stay_without_their_owner() {
    let server = server().await;
    let (maps, _) = owner_and_dependents(&server.client()).await;
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..Default::default()
    };
    maps.delete("owner", &orphan).await.unwrap();
    until(&maps, "owner", gone).await;
    let child = maps.get("child").await.unwrap();
    assert_eq!(child.metadata.owner_references, None);
    assert!(maps.get("grandchild").await.is_ok());
}

#[tokio::test]
async fn a_dependent_of_nobody_is_collected_and_a_shared_one_is_released() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let reference = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    let real = create(&maps, json!({"metadata": {"name": "real"}})).await;
    let uid = real.metadata.uid.unwrap();
    create(
        &maps,
        json!({"metadata": {"name": "stray", "ownerReferences": [reference("none", "u-0")]}}),
    )
    .await;
    until(&maps, "stray", gone).await;
    // The same name with another uid is another owner.
    create(
        &maps,
        json!({"metadata": {"name": "old", "ownerReferences": [reference("real", "u-1")]}}),
    )
    .await;
    until(&maps, "old", gone).await;
    let both = json!([reference("real", &uid), reference("none", "u-2")]);
    create(
        &maps,
        json!({"metadata": {"name": "shared", "ownerReferences": both}}),
    )
    .await;
    let left = until(&maps, "shared", |object: Option<&ConfigMap>| {
        let owners = object.and_then(|object| object.metadata.owner_references.as_ref());
        owners.is_some_and(|owners| owners.len() == 1)
    })
    .await;
    assert_eq!(left.unwrap().metadata.owner_references.unwrap()[0].uid, uid);
}

#[tokio::test]
async fn a_kind_that_is_not_served_owns_for_ever() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let owner =
        json!([{"apiVersion": "example.com/v1", "kind": "Gone", "name": "x", "uid": "u-9"}]);
    create(
        &maps,
        json!({"metadata": {"name": "kept", "ownerReferences": owner}}),
    )
    .await;
    // What comes later is collected: by then the first would have been.
    let stray = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u-8"}]);
    create(
        &maps,
        json!({"metadata": {"name": "stray", "ownerReferences": stray}}),
    )
    .await;
    until(&maps, "stray", gone).await;
    assert!(maps.get("kept").await.is_ok());
}

#[tokio::test]
async fn aggregated_roles_follow_their_parts() {
    let server = server().await;
    let roles: Api<ClusterRole> = Api::all(server.client());
    create(&roles, json!({
        "metadata": {"name": "extra", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}],
    }))
    .await;
    for name in ["view", "edit", "admin"] {
        until(&roles, name, |object: Option<&ClusterRole>| {
            let rules = object.and_then(|object| object.rules.as_ref());
            rules.is_some_and(|rules| {
                rules.iter().any(|rule| {
                    rule.resources
                        .as_ref()
                        .is_some_and(|r| r.contains(&"widgets".to_owned()))
                })
            })
        })
        .await;
    }
}

#[tokio::test]
async fn controllers_can_be_switched_off() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .unwrap();
    let client = server.client();
    namespace(&client, "blue").await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .delete("blue", &DeleteParams::default())
        .await
        .unwrap();
    let left = namespaces.get("blue").await.unwrap();
    assert_eq!(left.status.unwrap().phase.as_deref(), Some("Terminating"));
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "blue");
    assert!(
        accounts
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn an_owner_that_waits_goes_when_a_shared_dependent_is_released() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut owners = Vec::new();
    for name in ["first", "second"] {
        let owner = create(&maps, json!({"metadata": {"name": name}})).await;
        owners.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner.metadata.uid,
            "blockOwnerDeletion": true,
        }));
    }
    let shared = json!({"metadata": {"name": "shared", "ownerReferences": owners}});
    create(&maps, shared).await;
    maps.delete("first", &DeleteParams::foreground())
        .await
        .unwrap();
    until(&maps, "first", gone).await;
    let left = maps.get("shared").await.unwrap().metadata.owner_references;
    assert_eq!(left.unwrap()[0].name, "second");
}

#[tokio::test]
async fn a_deletion_that_was_asked_for_before_a_restart_is_carried_out_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |controllers| {
        let builder = ApiServer::builder().data_dir(folder.path()).durable(true);
        builder.controllers(controllers).build().await.unwrap()
    };
    let server = start(Controllers::NONE).await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    for (name, params) in [
        ("waits", DeleteParams::foreground()),
        ("orphans", DeleteParams::orphan()),
    ] {
        create(&maps, json!({"metadata": {"name": name}})).await;
        maps.delete(name, &params).await.unwrap();
        assert!(maps.get(name).await.is_ok(), "nobody takes its finalizer");
    }
    server.shutdown().await;
    let server = start(Controllers::ALL).await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    until(&maps, "waits", gone).await;
    until(&maps, "orphans", gone).await;
}

#[tokio::test]
async fn what_a_service_holds_it_holds_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let start = async || {
        let builder = ApiServer::builder().data_dir(folder.path()).durable(true);
        builder
            .controllers(Controllers::NONE)
            .build()
            .await
            .unwrap()
    };
    let wish = |name: &str, ip: Option<&str>, port: Option<u16>| -> Service {
        of(json!({
            "metadata": {"name": name},
            "spec": {"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]},
        }))
    };
    let (ip, port) = ("10.96.0.7", 30_007);
    let server = start().await;
    let services: Api<Service> = Api::namespaced(server.client(), "default");
    let first = wish("first", Some(ip), Some(port));
    services
        .create(&PostParams::default(), &first)
        .await
        .unwrap();
    server.shutdown().await;
    let server = start().await;
    let services: Api<Service> = Api::namespaced(server.client(), "default");
    for taken in [
        wish("second", Some(ip), None),
        wish("second", None, Some(port)),
    ] {
        let refused = services.create(&PostParams::default(), &taken).await;
        assert_eq!(code(refused.unwrap_err()), 422);
    }
}

#[tokio::test]
async fn an_owner_of_a_kind_that_comes_later_is_looked_for_then() {
    let server = server().await;
    let client = server.client();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let owner =
        json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "x", "uid": "u-9"}]);
    create(
        &maps,
        json!({"metadata": {"name": "stray", "ownerReferences": owner}}),
    )
    .await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    create(
        &definitions,
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                }],
            },
        }),
    )
    .await;
    until(&maps, "stray", gone).await;
}
