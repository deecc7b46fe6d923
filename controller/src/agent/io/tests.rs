//! The whole agent against a hub and a member in this process, with the rights of its manifests.

mod fixture;

use std::collections::BTreeSet;

use fairlead_api::{
    conditions::find,
    mcs::v1beta1::{ServiceExport, ServiceImport},
    proxy::ProxyGroup,
};
use fairlead_apiserver::{ApiServer, audit::Audit};
use fairlead_tests::wait;
use fixture::{Fleet, Proxy, eventually};
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::heartbeat;
use crate::{
    agent::{
        Keeper,
        import::{SERVED, derived_name},
        report::{Observed, report},
    },
    manifests,
};

fn web() -> (String, String) {
    ("shop".into(), "web".into())
}

/// Addresses in the member's slices of `shop/web`, in order.
async fn addresses(fleet: &Fleet) -> Vec<String> {
    let slices = Api::<EndpointSlice>::namespaced(fleet.member.client(), "shop");
    let ours = ListParams::default().labels("multicluster.kubernetes.io/service-name=web");
    let all = slices.list(&ours).await.unwrap().items.into_iter();
    let endpoints = all.flat_map(|slice| slice.endpoints.unwrap_or_default());
    let mut found: Vec<String> = endpoints.map(|one| one.addresses[0].clone()).collect();
    found.sort();
    found
}

async fn import(fleet: &Fleet) -> Option<ServiceImport> {
    let imports = Api::<ServiceImport>::namespaced(fleet.member.client(), "shop");
    imports.get_opt("web").await.unwrap()
}

/// The import once it is served.
async fn served(fleet: &Fleet) -> ServiceImport {
    eventually("a served import", async || {
        let import = import(fleet).await?;
        let conditions = &import.status.as_ref()?.conditions;
        (find(conditions, "Ready")?.status == "True").then_some(import)
    })
    .await
}

/// Waits for the event on the import that tells of an edit.
async fn edit_is_told(fleet: &Fleet, words: &str) {
    let events = Api::<Event>::namespaced(fleet.member.client(), "shop");
    eventually("an event that tells of the edit", async || {
        let all = events.list(&ListParams::default()).await.ok()?.items;
        let mut told = all.into_iter().filter(|one| {
            let about = one.regarding.as_ref();
            one.reason.as_deref() == Some("EditUndone")
                && about.is_some_and(|about| about.name.as_deref() == Some("web"))
        });
        told.next()?.note?.contains(words).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_import_comes_with_its_namespace_is_put_right_when_edited_and_goes_with_its_exports() {
    let fleet = Fleet::start().await;
    fleet.exports("a", &["10.0.0.1", "10.0.0.2"]).await;
    let agent = fleet.agent();
    // Another import, which can be seen to be there, was told with the first.
    fleet.namespace("other").await;
    let all = Api::<ServiceImport>::all(fleet.member.client());
    fleet.namespace("shop").await;
    let import = served(&fleet).await;
    let services = Api::<Service>::namespaced(fleet.member.client(), "shop");
    let derived = services.get(&derived_name(&web())).await.unwrap();
    let spec = derived.spec.clone().unwrap();
    assert_eq!(Some(import.spec.ips.clone()), spec.cluster_ips);
    assert_eq!(spec.ports.unwrap()[0].port, 80);
    assert_eq!(addresses(&fleet).await, ["10.0.0.1", "10.0.0.2"]);
    let status = import.status.clone().unwrap();
    assert_eq!(status.clusters[0].cluster, "a");
    assert_eq!(status.endpoint_slice_objects.as_deref(), Some("Present"));
    assert_eq!(
        all.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );

    let imports = Api::<ServiceImport>::namespaced(fleet.member.client(), "shop");
    let edit = json!({
        "metadata": { "labels": { "mine": "stays" } },
        "spec": { "ips": ["192.0.2.7"] },
    });
    let params = PatchParams::default();
    imports
        .patch("web", &params, &Patch::Merge(&edit))
        .await
        .unwrap();
    edit_is_told(&fleet, "ServiceImport shop/web was changed by").await;
    services
        .delete(&derived.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    eventually(
        "the edit put right, with the address of a new Service",
        async || {
            let import = imports.get("web").await.ok()?;
            let service = services.get_opt(&derived.name_any()).await.ok()??;
            let ips = service.spec?.cluster_ips?;
            (import.spec.ips == ips && import.labels()["mine"] == "stays").then_some(())
        },
    )
    .await;

    fleet.withdraw("a").await;
    eventually("everything gone", async || {
        let gone = imports.get_opt("web").await.ok()?.is_none();
        let service = services.get_opt(&derived.name_any()).await.ok()?.is_none();
        (gone && service && addresses(&fleet).await.is_empty()).then_some(())
    })
    .await;
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn objects_of_others_stay_as_they_are_and_say_what_to_do() {
    let fleet = Fleet::start().await;
    fleet.namespace("shop").await;
    let imports = Api::<ServiceImport>::namespaced(fleet.member.client(), "shop");
    let theirs: ServiceImport = serde_json::from_value(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "web" },
        "spec": { "type": "ClusterSetIP", "ports": [ { "port": 1 } ] },
    }))
    .unwrap();
    let theirs = imports
        .create(&PostParams::default(), &theirs)
        .await
        .unwrap();
    let services = Api::<Service>::namespaced(fleet.member.client(), "shop");
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": derived_name(&web()) },
        "spec": { "ports": [ { "port": 7 } ], "selector": { "app": "x" } },
    }))
    .unwrap();
    let service = services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    fleet.exports("a", &["10.0.0.1"]).await;
    let agent = fleet.agent();
    let noted = eventually("a note on their import", async || {
        let import = imports.get("web").await.ok()?;
        find(&import.status.as_ref()?.conditions, SERVED)?;
        Some(import)
    })
    .await;
    assert_eq!(noted.spec, theirs.spec);
    imports
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let told = eventually("an import that says what is in its way", async || {
        let import = imports.get("web").await.ok()?;
        let ready = find(&import.status.as_ref()?.conditions, "Ready")?.clone();
        (ready.reason == "DerivedNameTaken").then_some(ready.message)
    })
    .await;
    assert!(told.contains("delete or rename it"), "{told}");
    let now = services.get(&service.name_any()).await.unwrap();
    assert_eq!(now.spec, service.spec);
    assert!(addresses(&fleet).await.is_empty());
    services
        .delete(&service.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    served(&fleet).await;
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn a_restarted_agent_serves_imports_and_new_proxies_from_disk_while_the_hub_is_away() {
    let mut fleet = Fleet::start().await;
    fleet.namespace("shop").await;
    fleet.exports("a", &["10.0.0.1"]).await;
    fleet.own_proxies("b", "edge").await;
    let agent = fleet.agent();
    let token = fleet.proxy_token("edge", "fairlead-xds").await;
    let channel = fleet.channel(&agent).await;
    let mut proxy = Proxy::open(channel, &token).await.unwrap();
    proxy
        .until(|proxy| proxy.answered && proxy.clusters.contains("shop/web:http"))
        .await;
    served(&fleet).await;
    fleet.saved().await;
    agent.stop().await;
    fleet.hub_away().await;

    let imports = Api::<ServiceImport>::namespaced(fleet.member.client(), "shop");
    imports
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let agent = fleet.agent();
    served(&fleet).await;
    let channel = fleet.channel(&agent).await;
    let mut fresh = Proxy::open(channel, &token).await.unwrap();
    fresh
        .until(|proxy| proxy.answered && proxy.clusters.contains("shop/web:http"))
        .await;
    agent.stop().await;
}

#[tokio::test]
async fn only_proxies_of_the_members_own_group_with_a_token_for_streams_are_served() {
    let fleet = Fleet::start().await;
    fleet.own_proxies("b", "edge").await;
    let agent = fleet.agent();
    let channel = fleet.channel(&agent).await;
    let good = fleet.proxy_token("edge", "fairlead-xds").await;
    let mut proxy = Proxy::open(channel.clone(), &good).await.unwrap();
    proxy.until(|proxy| proxy.answered).await;
    for (group, audience, code) in [
        (
            "edge",
            "https://kubernetes.default.svc",
            tonic::Code::Unauthenticated,
        ),
        ("other", "fairlead-xds", tonic::Code::PermissionDenied),
    ] {
        let token = fleet.proxy_token(group, audience).await;
        let refused = Proxy::refused(channel.clone(), &token).await;
        assert_eq!(refused.code(), code, "{group} {audience}: {refused}");
    }
    let agents = fleet
        .token_of("fairlead-system", "fairlead-agent", "fairlead-xds")
        .await;
    let refused = Proxy::refused(channel.clone(), &agents).await;
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    let refused = Proxy::refused(channel.clone(), "x.y.z").await;
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    let named = fleet
        .token_of("shop", "fairlead-proxy-edge", "fairlead-xds")
        .await;
    let refused = Proxy::refused(channel.clone(), &named).await;
    assert_eq!(
        refused.code(),
        tonic::Code::PermissionDenied,
        "an account of another namespace"
    );
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn whoever_is_refused_with_a_good_token_and_an_export_that_cannot_be_show_in_events() {
    let fleet = Fleet::start().await;
    fleet.own_proxies("b", "edge").await;
    fleet.namespace("shop").await;
    let agent = fleet.agent();
    let channel = fleet.channel(&agent).await;
    for (group, audience) in [("edge", "somebody-else"), ("other", "fairlead-xds")] {
        let token = fleet.proxy_token(group, audience).await;
        Proxy::refused(channel.clone(), &token).await;
    }
    Proxy::refused(channel, "x.y.z").await;
    let export: ServiceExport = serde_json::from_value(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": "missing" }, "spec": {},
    }))
    .unwrap();
    let exports = Api::<ServiceExport>::namespaced(fleet.member.client(), "shop");
    exports
        .create(&PostParams::default(), &export)
        .await
        .unwrap();
    let events = Api::<Event>::all(fleet.member.client());
    let expected = [
        (
            "fairlead-proxy-edge",
            "StreamRefused",
            "the token is not good for audience fairlead-xds",
        ),
        (
            "fairlead-proxy-other",
            "StreamRefused",
            "this member's proxy group is edge, not other",
        ),
        ("missing", "ExportInvalid", "Service"),
    ];
    let told = wait::until("the events", async || {
        let all = events.list(&ListParams::default()).await?.items;
        let all: Vec<(String, String, String)> = all
            .into_iter()
            .map(|one| {
                let about = one.regarding.unwrap_or_default();
                assert!(
                    about.uid.is_some_and(|uid| !uid.is_empty()),
                    "kubectl goes by it"
                );
                let (reason, note) = (one.reason.unwrap_or_default(), one.note.unwrap_or_default());
                (about.name.unwrap_or_default(), reason, note)
            })
            .collect();
        let is_told = |(name, reason, words): &(&str, &str, &str)| {
            let mut all = all.iter();
            all.any(|one| one.0 == *name && one.1 == *reason && one.2.contains(words))
        };
        let whole = expected.iter().all(is_told);
        Ok(if whole { Ok(all) } else { Err(all) })
    })
    .await
    .unwrap();
    assert_eq!(
        told.len(),
        expected.len(),
        "a stranger makes none: {told:?}"
    );
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_an_expired_one_opens_none() {
    // The member's API server is behind by what a token lives, less two seconds: its tokens run out
    // two seconds from now.
    let now = jiff::Timestamp::now();
    let behind = std::time::Duration::from_secs(3600 - 2);
    let clock = fairlead_apiserver::clock::ManualClock::new(now - behind);
    let fleet = Fleet::start_with(ApiServer::builder().clock(clock)).await;
    fleet.own_proxies("b", "edge").await;
    let agent = fleet.agent();
    let channel = fleet.channel(&agent).await;
    let token = fleet.proxy_token("edge", "fairlead-xds").await;
    let ended = match Proxy::open(channel.clone(), &token).await {
        Ok(mut proxy) => proxy.end().await,
        // A machine so busy that the two seconds are over.
        Err(status) => status,
    };
    assert_eq!(ended.code(), tonic::Code::Unauthenticated, "{ended}");
    assert!(ended.message().contains("run out"), "{ended}");
    let refused = Proxy::refused(channel, &token).await;
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn what_the_members_proxies_run_on_refuse_and_report_shows_on_the_hub() {
    let fleet = Fleet::start().await;
    fleet.exports("a", &["10.0.0.1"]).await;
    fleet.own_proxies("b", "edge").await;
    let agent = fleet.agent();
    let channel = fleet.channel(&agent).await;
    let token = fleet.proxy_token("edge", "fairlead-xds").await;
    let mut proxy = Proxy::open(channel.clone(), &token).await.unwrap();
    proxy
        .until(|proxy| proxy.answered && proxy.clusters.contains("shop/web:http"))
        .await;
    let groups = Api::<ProxyGroup>::all(fleet.hub_client());
    let group = eventually("a proxy in sync on the hub", async || {
        let status = groups.get("edge").await.ok()?.status?;
        (status.connected == 1 && status.in_sync == 1).then_some(status)
    })
    .await;
    assert_eq!(group.proxies[0].id, "proxy-0");
    let (reports, mut answers) = fixture::reports(channel, &token).await;
    let asked = answers.message().await.unwrap().unwrap();
    assert!(asked.send_all_clusters);
    reports.send(fixture::sessions(7)).await.unwrap();
    eventually("seven sessions on the hub", async || {
        let status = groups.get("edge").await.ok()?.status?;
        (status.proxies.first()?.sessions == Some(7)).then_some(())
    })
    .await;
    // A drain on the hub is reported on every second, in the member, too.
    fleet.drain("a").await;
    let watched = eventually("the drain to be asked about", async || {
        let answer = answers.message().await.unwrap().unwrap();
        (!answer.watched.is_empty()).then_some(answer.watched)
    })
    .await;
    assert_eq!(watched, ["shop/web:http"]);
    drop(proxy);
    eventually("the proxy to be gone on the hub", async || {
        let status = groups.get("edge").await.ok()?.status?;
        (status.connected == 0).then_some(())
    })
    .await;
    agent.stop().await;
    fleet.stop().await;
}

/// Everything that the agent does in its member, as `resource verb`. An apply that made an object
/// needed the right to create it.
fn used(audit: &Audit) -> BTreeSet<String> {
    let agent = manifests::user(manifests::AGENT_ACCOUNT);
    let mut all = BTreeSet::new();
    for entry in audit.entries() {
        if entry.user != agent || entry.resource.is_empty() {
            continue;
        }
        assert!(entry.code != 403, "{entry:?}");
        let path = entry.uri.split('?').next().unwrap_or_default();
        let part = if path.ends_with("/status") {
            "/status"
        } else {
            ""
        };
        let resource = format!("{}{part}", entry.resource);
        all.insert(format!("{resource} {}", entry.verb));
        if entry.verb == "patch" && entry.code == 201 {
            all.insert(format!("{resource} create"));
        }
    }
    all
}

fn listed() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let objects = manifests::agent(false);
    for rule in objects
        .iter()
        .flat_map(|one| one["rules"].as_array().into_iter().flatten())
    {
        for resource in rule["resources"].as_array().unwrap() {
            for verb in rule["verbs"].as_array().unwrap() {
                let (resource, verb) = (resource.as_str().unwrap(), verb.as_str().unwrap());
                all.insert(format!("{resource} {verb}"));
            }
        }
    }
    all
}

#[tokio::test]
async fn the_agents_rights_are_exactly_what_it_uses() {
    let audit = Audit::new(100_000);
    let fleet = Fleet::start_with(ApiServer::builder().audit(&audit)).await;
    fleet.namespace("shop").await;
    fleet.own_proxies("b", "edge").await;
    fleet.exports("a", &["10.0.0.1"]).await;
    let agent = fleet.agent();
    let keeper = Keeper::new(fleet.agent_client(), manifests::AGENT_ACCOUNT);
    let folder = tempfile::tempdir().unwrap();
    fleet.invitation("not used").await;
    let found = keeper.restore(folder.path()).await.unwrap();
    assert_eq!(found.as_deref(), Some("not used"));
    let standing = fixture::standing(folder.path()).await;
    keeper.store(&standing).await.unwrap();
    assert_eq!(
        keeper.restore(folder.path()).await.unwrap(),
        None,
        "it is used up"
    );
    let channel = fleet.channel(&agent).await;
    let token = fleet.proxy_token("edge", "fairlead-xds").await;
    let mut proxy = Proxy::open(channel.clone(), &token).await.unwrap();
    proxy.until(|proxy| proxy.answered).await;
    // An event, and the same one again.
    let other = fleet.proxy_token("edge", "somebody-else").await;
    for _ in 0..2 {
        Proxy::refused(channel.clone(), &other).await;
    }
    eventually("an import", async || import(&fleet).await?.status).await;
    fleet.own_proxies_gone("edge").await;
    served(&fleet).await;
    fleet.annotated("own").await;
    let exports = Api::<ServiceExport>::namespaced(fleet.member.client(), "shop");
    eventually("an export by annotation, with its status", async || {
        exports.get_opt("own").await.unwrap()?.status
    })
    .await;
    fleet.annotation_gone("own").await;
    fleet.withdraw("a").await;
    eventually("everything gone", async || {
        let gone = import(&fleet).await.is_none();
        let export = exports.get_opt("own").await.unwrap().is_none();
        (gone && export && addresses(&fleet).await.is_empty()).then_some(())
    })
    .await;
    let expected = listed();
    let exactly = wait::until("all rights used, and no others", async || {
        let used = used(&audit);
        let differ: Vec<String> = used.symmetric_difference(&expected).cloned().collect();
        Ok(differ.is_empty().then_some(()).ok_or(differ))
    });
    exactly.await.unwrap();
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn pods_are_listed_in_pages_and_all_of_them_count() {
    let audit = Audit::new(100_000);
    let fleet = Fleet::start_with(ApiServer::builder().audit(&audit)).await;
    fleet.namespace("shop").await;
    for number in 0..5 {
        fleet.pod(&format!("pod-{number}"), "100m").await;
    }
    let pods = Api::<Pod>::all(fleet.member.client());
    let sum = heartbeat::requests(&pods, 2).await.unwrap();
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": "n" }, "status": { "allocatable": { "cpu": "1" } },
    }))
    .unwrap();
    let observed = Observed {
        nodes: Some(vec![node]),
        requests: Some(sum),
        ..Observed::default()
    };
    let now = Time(jiff::Timestamp::UNIX_EPOCH);
    let usage = report(&observed, "test", &now).resource_usage.unwrap();
    assert_eq!(usage.available["cpu"].0, "500m");
    let asked = audit.entries().into_iter();
    let pages = asked.filter(|entry| entry.resource == "pods" && entry.verb == "list");
    let pages: Vec<String> = pages.map(|entry| entry.uri).collect();
    assert_eq!(pages.len(), 3, "{pages:?}");
    assert!(pages.iter().all(|uri| uri.contains("limit=2")), "{pages:?}");
    fleet.stop().await;
}
