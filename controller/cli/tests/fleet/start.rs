//! How a fleet begins, ends, and begins again.

use anyhow::{Context, ensure};
use fairlead_api::{mcs::v1beta1::ServiceExport, member::MemberCluster};
use fairlead_tests::{
    clients,
    fleet::{self, Fleet},
    wait,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{Stage, program, same};

pub(crate) async fn the_ready_file_says_where_everything_is() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &[]).await?;
    let ready = &fleet.ready;
    same!(ready.service, "demo/echo");
    let names: Vec<_> = ready.members.iter().map(|member| &*member.name).collect();
    same!(names, ["member-1", "member-2", "member-3"]);
    let hub = Api::<MemberCluster>::all(fleet.hub().await?);
    same!(hub.list(&ListParams::default()).await?.items.len(), 3);
    for member in &ready.members {
        let client = fleet.member(&member.name).await?;
        let exports = Api::<ServiceExport>::namespaced(client, "demo");
        exports.get("echo").await?;
        ensure!(
            std::path::Path::new(&format!("/proc/{}", member.pid)).exists(),
            "no process {}",
            member.pid
        );
    }
    same!(
        fleet::page(&ready.proxy_admin, "/readyz").await?.trim(),
        "ready"
    );
    ensure!(!clients::ask_tcp(ready.endpoint.tcp).await?.is_empty());
    let printed = fleet.output.text();
    for said in [
        ready.endpoint.tcp.to_string(),
        ready.endpoint.udp.to_string(),
        ready.hub.kubeconfig.display().to_string(),
        format!("kill -9 {}", ready.members[0].pid),
        ready.proxy_admin.clone(),
    ] {
        ensure!(printed.contains(&said), "{said} is not in {printed}");
    }
    Ok(())
}

/// Asked at once: whoever waits for the ready file need not wait for anything else.
pub(crate) async fn a_fleet_is_ready_once_every_member_serves(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let page = fleet::page(&fleet.ready.proxy_admin, "/services").await?;
    let page: serde_json::Value = serde_json::from_str(&page)?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    for member in &fleet.ready.members {
        for port in ["demo/echo:line", "demo/echo:datagram"] {
            let services = list(&page["services"]).into_iter();
            let mut tiers = services
                .filter(|service| service["name"] == port)
                .flat_map(|service| list(&service["tiers"]));
            let serves = tiers.any(|tier| {
                list(&tier["members"]).iter().any(|row| {
                    let mut endpoints = list(&row["endpoints"]).into_iter();
                    row["name"] == *member.name && endpoints.any(|one| one["state"] == "usable")
                })
            });
            ensure!(serves, "{} by {port}: {page:#}", member.name);
        }
    }
    let printed = fleet.output.text();
    let names = "waiting until member-1, member-2 are joined and healthy";
    ensure!(printed.contains(names), "{printed}");
    ensure!(!printed.contains("not waited for"), "{printed}");
    Ok(())
}

pub(crate) async fn a_fleet_leaves_nothing_behind() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "2"]).await?;
    let ready = fleet.ready.clone();
    let (code, folder) = fleet.interrupt().await?;
    same!(code, Some(0));
    for member in &ready.members {
        let path = format!("/proc/{}", member.pid);
        ensure!(
            !std::path::Path::new(&path).exists(),
            "{path} is there still"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    same!(left, ["ready.json"]);
    ensure!(clients::ask_tcp(ready.endpoint.tcp).await.is_err());
    Ok(())
}

pub(crate) async fn a_restart_keeps_objects_identities_and_addresses() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let folder = data.path().join("fleet");
    let folder = folder.to_str().context("a path in ASCII")?;
    let first = Fleet::start(program(), &["--data", folder, "--members", "2"]).await?;
    let (before, client) = (first.ready.clone(), first.member("member-2").await?);
    let uid = member_uid(&first).await?;
    weigh(client, 30).await?;
    let note = ConfigMap {
        metadata: ObjectMeta {
            name: Some("kept".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    let notes = Api::<ConfigMap>::namespaced(first.hub().await?, "demo");
    notes.create(&PostParams::default(), &note).await?;
    same!(first.interrupt().await?.0, Some(0));

    let second = Fleet::start(program(), &["--data", folder]).await?;
    same!(second.ready.endpoint, before.endpoint);
    same!(second.ready.proxy_admin, before.proxy_admin);
    same!(second.ready.hub, before.hub);
    let files = |members: &[fleet::MemberFile]| -> Vec<_> {
        let of = |member: &fleet::MemberFile| (member.name.clone(), member.kubeconfig.clone());
        members.iter().map(of).collect()
    };
    same!(files(&second.ready.members), files(&before.members));
    // The clients of the first run still work: same addresses, same credentials.
    notes.get("kept").await?;
    same!(member_uid(&second).await?, uid);
    let client = second.member("member-2").await?;
    wait::until("the weight of before", async || {
        let status = second.must(&["explain", "service", "demo/echo"]).await?;
        let row = status.lines().find(|line| line.contains("member-2"));
        let weight = row.and_then(|row| row.split_whitespace().nth(2));
        Ok((weight == Some("30")).then_some(()).ok_or(status))
    })
    .await?;
    let namespaces = Api::<Namespace>::all(client);
    namespaces.get("demo").await?;
    same!(second.interrupt().await?.0, Some(0));
    Ok(())
}

pub(crate) async fn a_folder_or_a_port_in_use_is_refused_with_a_way_out() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let folder = data.path().to_str().context("a path in ASCII")?;
    let arguments = ["--data", folder, "--members", "1"];
    let fleet = Fleet::start(program(), &arguments).await?;
    let again = fleet::run(program(), &["up", "--data", folder]).await?;
    same!(again.code, Some(1));
    ensure!(
        again.stderr.contains("another `fairlead up` runs on"),
        "{again:?}"
    );
    ensure!(again.stderr.contains("--data"), "{again:?}");
    let port = fleet.ready.endpoint.tcp.port().to_string();
    let again = fleet::run(program(), &["up", "--port", &port]).await?;
    same!(again.code, Some(1));
    ensure!(again.stderr.contains("is taken"), "{again:?}");
    ensure!(again.stderr.contains("--port"), "{again:?}");
    ensure!(!clients::ask_tcp(fleet.ready.endpoint.tcp).await?.is_empty());
    Ok(())
}

/// Sets the weight of a member's export, as a person would.
pub(crate) async fn weigh(client: kube::Client, weight: u16) -> anyhow::Result<()> {
    let exports = Api::<ServiceExport>::namespaced(client, "demo");
    let annotation = json!({ "metadata": { "annotations": {
        "fairlead.dev/weight": weight.to_string(),
    } } });
    let patch = Patch::Merge(&annotation);
    exports
        .patch("echo", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn member_uid(fleet: &Fleet) -> anyhow::Result<Option<String>> {
    let members = Api::<MemberCluster>::all(fleet.hub().await?);
    Ok(members.get("member-2").await?.uid())
}
