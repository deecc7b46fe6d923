//! Helm, as people run it: a chart with a CRD, hooks and something to wait for.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, ensure};
use fairlead_apiserver::{Handle, Security};
use fairlead_tests::{cluster::Cluster, wait};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::json;
use tokio::process::Command;

use crate::{Case, same};

pub(crate) async fn a_chart_is_installed_upgraded_rolled_back_and_uninstalled(
    case: Case,
) -> anyhow::Result<()> {
    let Some(helm) = Helm::find(&case).await? else {
        return Ok(());
    };
    helm.install(&case).await?;
    same!(colours(&case).await?, ["red"; 3].map(str::to_owned));
    let before = case.api::<ConfigMap>().get("one-before").await?;
    same!(before.data.context("data")?["revision"], "1");
    let after = case.api::<Secret>().get_opt("one-after").await?;
    ensure!(after.is_none(), "a hook goes when it has succeeded");

    helm.run("upgrade one CHART --set colour=blue --wait")
        .await?;
    same!(colours(&case).await?, ["blue"; 3].map(str::to_owned));
    let before = case.api::<ConfigMap>().get("one-before").await?;
    same!(before.data.context("data")?["revision"], "2");

    helm.run("rollback one 1 --wait").await?;
    same!(colours(&case).await?, ["red"; 3].map(str::to_owned));
    let history: serde_json::Value =
        serde_json::from_str(&helm.run("history one --output json").await?)?;
    let states: Vec<_> = history
        .as_array()
        .context("a list")?
        .iter()
        .map(|release| release["status"].as_str().unwrap_or_default())
        .collect();
    same!(states, ["superseded", "superseded", "deployed"]);

    helm.run("uninstall one --wait").await?;
    ensure!(case.api::<Pod>().get_opt("one").await?.is_none());
    ensure!(ships(&case).get_opt("one").await?.is_none());
    let kept = case.api::<ConfigMap>().get_opt("one-before").await?;
    ensure!(kept.is_some(), "hooks are no part of the release");
    Ok(())
}

pub(crate) async fn waiting_for_what_never_is_ready_ends_in_failure(
    case: Case,
) -> anyhow::Result<()> {
    let Some(helm) = Helm::find(&case).await? else {
        return Ok(());
    };
    let told = helm
        .refused("install two CHART --wait --timeout 2s")
        .await?;
    ensure!(told.contains("Pod/") && told.contains("two"), "{told}");
    let listed = helm.run("list --output json").await?;
    ensure!(listed.contains("\"failed\""), "{listed}");
    Ok(())
}

/// The program, and a server on a socket for it.
struct Helm {
    program: PathBuf,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    namespace: String,
    _listener: Option<Handle>,
}

impl Helm {
    /// `None` where there is no helm, which is said.
    async fn find(case: &Case) -> anyhow::Result<Option<Self>> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let built = assets.map(|folder| folder.join("helm"));
        let program = built
            .filter(|program| program.is_file())
            .unwrap_or_else(|| "helm".into());
        let version = Command::new(&program).arg("version").output().await;
        if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("v4.")) {
            eprintln!("SKIPPED: there is no helm 4; tests/kube/build.sh makes one");
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let (kubeconfig, listener) = match &*case.cluster {
            Cluster::Real(server) => (server.kubeconfig(), None),
            Cluster::Embedded(server) => {
                let listener = server
                    .serve(([127, 0, 0, 1], 0).into(), Security::Tls)
                    .await?;
                let path = folder.path().join("kubeconfig");
                std::fs::write(&path, listener.kubeconfig())?;
                (path, Some(listener))
            }
        };
        // Pods need it.
        let accounts = case.api::<ServiceAccount>();
        wait::until("the default account", async || {
            Ok(accounts.get_opt("default").await?.ok_or("none"))
        })
        .await?;
        Ok(Some(Self {
            program,
            folder,
            kubeconfig,
            namespace: case.namespace.clone(),
            _listener: listener,
        }))
    }

    /// Installs the chart, which takes until its pod is said to be ready.
    async fn install(&self, case: &Case) -> anyhow::Result<()> {
        let install = self.run("install one CHART --wait --timeout 60s");
        let ready = async {
            let pods = case.api::<Pod>();
            wait::until("the pod of the chart", async || {
                Ok(pods.get_opt("one").await?.ok_or("none"))
            })
            .await?;
            let status = json!({ "status": {
                "phase": "Running",
                "conditions": [ { "type": "Ready", "status": "True" } ],
            } });
            let patch = Patch::Merge(&status);
            pods.patch_status("one", &PatchParams::default(), &patch)
                .await?;
            anyhow::Ok(())
        };
        tokio::try_join!(install, ready)?;
        Ok(())
    }

    /// Runs helm with words split at spaces; gives what it prints.
    async fn run(&self, line: &str) -> anyhow::Result<String> {
        let output = self.command(line).output().await?;
        let (out, err) = (
            output.stdout,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        ensure!(output.status.success(), "helm {line}: {err}");
        Ok(String::from_utf8(out)?)
    }

    /// Runs helm, which must fail; gives what it complains of.
    async fn refused(&self, line: &str) -> anyhow::Result<String> {
        let output = self.command(line).output().await?;
        ensure!(!output.status.success(), "helm {line} was to fail");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        let words = line
            .split(' ')
            .map(|word| if word == "CHART" { CHART } else { word });
        command
            .args(words)
            .args(["--namespace", &self.namespace])
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// The chart's value where it shows: in a built-in object, a pod and a custom object.
async fn colours(case: &Case) -> anyhow::Result<[String; 3]> {
    let map = case.api::<ConfigMap>().get("one-settings").await?;
    let pod = case.api::<Pod>().get("one").await?;
    let ship = ships(case).get("one").await?;
    let spec = ship.data["spec"]["colour"].as_str();
    Ok([
        map.data.context("data")?["colour"].clone(),
        pod.metadata.annotations.context("annotations")?["colour"].clone(),
        spec.context("a colour")?.to_owned(),
    ])
}

fn ships(case: &Case) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("harbour.example.com", "v1", "Ship");
    let resource = ApiResource::from_gvk(&kind);
    Api::namespaced_with(case.client(), &case.namespace, &resource)
}

const CHART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/conformance/helm/harbour"
);
