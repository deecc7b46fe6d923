//! Members that leave, and what keeps them.

use std::collections::BTreeSet;

use anyhow::ensure;
use fairlead_api::{labels, mcs::v1beta1::ServiceExport, member::MemberCluster};
use fairlead_tests::{
    clients::{Load, failures},
    fleet::Fleet,
    wait,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{Stage, same};

pub(crate) async fn a_member_that_leaves_keeps_its_workloads(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    same!(fleet.fairlead(&["leave", "member-1"]).await?.code, Some(0));
    let explained = wait::until("its exports to go", async || {
        let text = fleet.must(&["explain", "service", "demo/echo"]).await?;
        Ok(if text.contains("member-1") {
            Err(text)
        } else {
            Ok(text)
        })
    })
    .await?;
    ensure!(explained.contains("member-2"), "{explained}");
    let client = fleet.member("member-1").await?;
    Api::<Service>::namespaced(client.clone(), "demo")
        .get("echo")
        .await?;
    let exports = Api::<ServiceExport>::namespaced(client, "demo");
    exports.get("echo").await?;
    Ok(())
}

/// As `kubectl delete membercluster` does it.
pub(crate) async fn a_member_that_is_deleted_serves_on_until_it_is_told_to_leave(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let load = Load::tcp(fleet.ready.endpoint.tcp);
    all_answer(&fleet, &load).await?;
    let members = Api::<MemberCluster>::all(fleet.hub().await?);
    let params = DeleteParams::default();
    members.delete("member-1", &params).await?;
    let why = wait::until("word of what keeps it", async || {
        let status = members.get("member-1").await?.status.unwrap_or_default();
        let mut all = status.conditions.iter();
        let leaving = all.find(|one| one.type_ == "Leaving" && one.status == "False");
        Ok(leaving.map(|one| one.message.clone()).ok_or(status))
    })
    .await?;
    ensure!(why.contains("1 of its exports: demo/echo"), "{why}");
    let shown = fleet.must(&["status"]).await?;
    ensure!(shown.contains("serviceexport echo"), "{shown}");
    all_answer(&fleet, &load).await?;
    let left = fleet.fairlead(&["leave", "member-1"]).await?;
    same!(left.code, Some(0));
    same!(failures(&load.stop().await), [""; 0]);
    served_by(&fleet, "member-2").await
}

pub(crate) async fn a_member_that_is_gone_for_good_leaves_by_force(
    stage: Stage,
) -> anyhow::Result<()> {
    let mut fleet = stage.fleet().await?;
    fleet.kill("member-1")?;
    let hub = fleet.hub().await?;
    let namespace = labels::member_namespace("member-1");
    let maps = Api::<ConfigMap>::namespaced(hub.clone(), &namespace);
    let stuck: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "stuck", "finalizers": ["example.com/never"] },
    }))?;
    maps.create(&PostParams::default(), &stuck).await?;
    let late = fleet
        .fairlead(&["leave", "member-1", "--timeout", "2s"])
        .await?;
    same!(late.code, Some(3));
    ensure!(late.stderr.contains("leave member-1 --force"), "{late:?}");
    served_by(&fleet, "member-2").await?;
    let forced = fleet.fairlead(&["leave", "member-1", "--force"]).await?;
    same!(forced.code, Some(0));
    ensure!(forced.stdout.contains("member-1 is gone"), "{forced:?}");

    let free = json!({ "metadata": { "finalizers": null } });
    let params = PatchParams::default();
    maps.patch("stuck", &params, &Patch::Merge(&free)).await?;
    let namespaces = Api::<Namespace>::all(hub);
    wait::until("its namespace to go", async || {
        let there = namespaces.get_opt(&namespace).await?;
        Ok(there.map_or(Ok(()), Err))
    })
    .await
}

/// Waits until each member has answered a request from now on.
async fn all_answer(fleet: &Fleet, load: &Load) -> anyhow::Result<()> {
    let since = tokio::time::Instant::now();
    wait::until("all members to answer", async || {
        let answers = load.answers();
        let later = answers.iter().filter(|answer| answer.began >= since);
        let by: BTreeSet<_> = later.flat_map(|answer| answer.by.clone()).collect();
        let all = by.len() == fleet.ready.members.len();
        Ok(all.then_some(()).ok_or(by))
    })
    .await
}

/// Waits until the exports of the sample service are this member's and no longer member-1's.
async fn served_by(fleet: &Fleet, member: &str) -> anyhow::Result<()> {
    wait::until("its exports to go", async || {
        let text = fleet.must(&["explain", "service", "demo/echo"]).await?;
        let gone = text.contains(member) && !text.contains("member-1");
        Ok(gone.then_some(()).ok_or(text))
    })
    .await
}
