//! Clusters that join and leave by the command line.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use fairlead_api::{mcs::v1beta1::ServiceExport, member::MemberCluster};
use fairlead_apiserver::{ApiServer, Security};
use fairlead_tests::{fleet::Fleet, wait};
use k8s_openapi::{
    api::core::v1::Service,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{Stage, attacks, program, same};

/// A cluster that is no member yet.
struct Cluster {
    server: ApiServer,
    _listener: fairlead_apiserver::Handle,
    kubeconfig: PathBuf,
}

impl Cluster {
    async fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let server = ApiServer::builder().build().await?;
        let listener = server
            .serve(([127, 0, 0, 1], 0).into(), Security::Tls)
            .await?;
        let kubeconfig = fleet.folder().join("candidate.kubeconfig");
        std::fs::write(&kubeconfig, listener.kubeconfig())?;
        Ok(Self {
            server,
            _listener: listener,
            kubeconfig,
        })
    }

    /// The arguments of `join` in this cluster.
    fn join<'a>(&'a self, invitation: &'a str, state: &'a str) -> Vec<&'a str> {
        let kubeconfig = self.kubeconfig.to_str().unwrap_or_default();
        let mut arguments = vec!["join", "--invitation", invitation, "--state", state];
        arguments.extend(["--member-kubeconfig", kubeconfig]);
        arguments
    }
}

pub(crate) async fn a_cluster_joins_by_two_commands_and_leaves_by_one() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "1"]).await?;
    let cluster = Cluster::start(&fleet).await?;
    let hub = attacks::hub_address(&fleet)?;
    let made = fleet
        .must(&["join", "eu-1", "--hub-address", &hub, "-o", "json"])
        .await?;
    let made: Value = serde_json::from_str(&made)?;
    same!(made["member"], "eu-1");
    let invitation = made["invitation"].as_str().context("an invitation")?;
    let state = fleet.folder().join("eu-1");
    let state = state.to_str().context("a path in ASCII")?;
    let mut arguments = cluster.join(invitation, state);
    arguments.push("--foreground");
    let mut agent = fleet.command(&arguments).spawn()?;
    healthy(&fleet, "eu-1").await?;

    let again = fleet
        .fairlead(&["join", "eu-1", "--hub-address", &hub])
        .await?;
    same!(again.code, Some(1));
    ensure!(again.stderr.contains("has joined already"), "{again:?}");
    ensure!(again.stderr.contains("--renew"), "{again:?}");

    agent.kill().await?;
    let left = fleet.fairlead(&["leave", "eu-1"]).await?;
    same!(left.code, Some(0));
    ensure!(left.stdout.contains("eu-1 is gone"), "{left:?}");
    let unknown = fleet.fairlead(&["leave", "eu-1"]).await?;
    same!(unknown.code, Some(1));
    ensure!(
        unknown.stderr.contains("there is no member eu-1"),
        "{unknown:?}"
    );
    // Its standing went with its membership.
    let stale = fleet.fairlead(&["join", "--state", state]).await?;
    same!(stale.code, Some(1));
    Ok(())
}

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

pub(crate) async fn a_cluster_with_an_id_of_its_own_is_left_as_it_is() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "1"]).await?;
    let cluster = Cluster::start(&fleet).await?;
    let hub = attacks::hub_address(&fleet)?;
    let invite = ["join", "eu-1", "--hub-address", &hub];
    let line = attacks::invitation(&fleet.must(&invite).await?)?;
    let state = fleet.folder().join("eu-1");
    let state = state.to_str().context("a path in ASCII")?;

    // Somebody else keeps these CRDs, and has named the cluster.
    let client = cluster.server.client();
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in fairlead_api::crds::member_crds() {
        let theirs = PatchParams::apply("somebody");
        definitions
            .patch(&crd.name_any(), &theirs, &Patch::Apply(&crd))
            .await?;
    }
    let id = json!({
        "apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty",
        "metadata": { "name": "cluster.clusterset.k8s.io" }, "spec": { "value": "paris" },
    });
    attacks::apply(&client, &id).await?;
    let refused = fleet.fairlead(&cluster.join(&line, state)).await?;
    same!(refused.code, Some(1));
    ensure!(
        refused
            .stderr
            .contains("this cluster's id is \"paris\" already"),
        "{refused:?}"
    );

    let mut renamed = id.clone();
    renamed["spec"]["value"] = "eu-1".into();
    attacks::apply(&client, &renamed).await?;
    // The refusal did not cost the token.
    let joined = fleet.fairlead(&cluster.join(&line, state)).await?;
    same!(joined.code, Some(0));
    let kept = "CRD serviceexports.multicluster.x-k8s.io is kept as it is: it belongs to somebody";
    ensure!(joined.stdout.contains(kept), "{joined:?}");
    let renewed = fleet.fairlead(&["join", "--renew", "--state", state]).await;
    let renewed = renewed?;
    ensure!(
        renewed
            .stdout
            .contains("eu-1 has a new key and certificate"),
        "{renewed:?}"
    );
    Ok(())
}

pub(crate) async fn a_dry_run_prints_what_would_be_applied() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "1"]).await?;
    let hub = attacks::hub_address(&fleet)?;
    let invite = ["join", "eu-1", "--hub-address", &hub];
    let line = attacks::invitation(&fleet.must(&invite).await?)?;
    let image = "registry.example/fairlead:1";
    let printed = ["join", "--dry-run", "--invitation", &line, "--image", image];
    let printed = fleet.must(&printed).await?;
    for word in [
        "kind: CustomResourceDefinition",
        "kind: ClusterRole",
        "value: eu-1",
        image,
    ] {
        ensure!(printed.contains(word), "{word} is not in {printed}");
    }
    let own = printed.contains("resourceNames:") && printed.matches("secrets").count() == 1;
    ensure!(own, "the agent would read Secrets that are not its own");
    let token = fleet
        .must(&["proxy", "token", "edge", "-o", "json"])
        .await?;
    let token: Value = serde_json::from_str(&token)?;
    let nobody = fleet.fairlead(&["proxy", "token", "west"]).await?;
    same!(nobody.code, Some(1));
    ensure!(
        nobody.stderr.contains("there is no proxy group west"),
        "{nobody:?}"
    );
    ensure!(
        token["token"]
            .as_str()
            .is_some_and(|text| text.matches('.').count() == 2)
    );
    Ok(())
}

async fn healthy(fleet: &Fleet, member: &str) -> anyhow::Result<()> {
    let members = Api::<MemberCluster>::all(fleet.hub().await?);
    wait::until(&format!("{member} to be healthy"), async || {
        let status = members.get(member).await?.status.unwrap_or_default();
        let healthy = status
            .conditions
            .iter()
            .any(|one| one.type_ == "Healthy" && one.status == "True");
        Ok(healthy.then_some(()).ok_or(status))
    })
    .await
}
