//! A hub that comes back from a back-up.

use anyhow::{Context, ensure};
use fairlead_api::service::MultiClusterService;
use fairlead_tests::{
    clients::{self, Load},
    fleet::Fleet,
    wait,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use crate::{program, same, start::weigh};

/// The hub's folder is copied while the fleet is down, and put back later: as `etcdctl snapshot
/// restore` does for a real one.
pub(crate) async fn a_hub_restored_from_a_backup_serves_what_members_have_now() -> anyhow::Result<()>
{
    let data = tempfile::tempdir()?;
    let (folder, kept) = (data.path().join("fleet"), data.path().join("backup"));
    let path = folder.to_str().context("a path in ASCII")?;
    let arguments = ["--data", path, "--members", "2"];
    let first = Fleet::start(program(), &arguments).await?;
    let endpoint = first.ready.endpoint;
    first.interrupt().await?;
    copy(&folder.join("hub"), &kept)?;

    // What happens after the back-up: a drain by hand on the hub, a weight in a member.
    let second = Fleet::start(program(), &arguments).await?;
    second.must(&["drain", "member-2", "--no-wait"]).await?;
    weigh(second.member("member-1").await?, 10).await?;
    let note = ConfigMap {
        metadata: ObjectMeta {
            name: Some("after-the-backup".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    let notes = Api::<ConfigMap>::namespaced(second.hub().await?, "demo");
    notes.create(&PostParams::default(), &note).await?;
    row(&second, "member-2", "Draining").await?;
    second.interrupt().await?;
    std::fs::remove_dir_all(folder.join("hub"))?;
    copy(&kept, &folder.join("hub"))?;

    let third = Fleet::start(program(), &arguments).await?;
    same!(third.ready.endpoint, endpoint);
    let notes = Api::<ConfigMap>::namespaced(third.hub().await?, "demo");
    ensure!(
        notes.get_opt("after-the-backup").await?.is_none(),
        "it is no older state"
    );
    // What was said to the hub alone is lost with it; what members say they say again.
    row(&third, "member-2", "Active").await?;
    let load = Load::tcp(endpoint.tcp);
    wait::until("the member's weight", async || {
        let services = Api::<MultiClusterService>::namespaced(third.hub().await?, "demo");
        let status = services.get("echo").await?.status.unwrap_or_default();
        let one = status.members.iter().find(|one| one.member == "member-1");
        let weight = one.map(|one| one.configured_weight);
        Ok((weight == Some(10)).then_some(()).ok_or(status))
    })
    .await?;
    same!(clients::failures(&load.stop().await), [""; 0]);
    Ok(())
}

async fn row(fleet: &Fleet, member: &str, word: &str) -> anyhow::Result<()> {
    wait::until(&format!("{member} {word}"), async || {
        let text = fleet.must(&["explain", "service", "demo/echo"]).await?;
        let row = text.lines().find(|line| line.contains(member));
        let found = row.is_some_and(|row| row.contains(word));
        Ok(found.then_some(()).ok_or(text))
    })
    .await
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
