//! Clusters that join and leave by the command line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use fairlead_api::{labels, member::MemberCluster, proxy::ProxyGroup};
use fairlead_apiserver::{ApiServer, Security};
use fairlead_tests::{
    fleet::{self, Fleet},
    process::{Process, sibling},
    wait,
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{Stage, attacks, program, real, same};

/// A cluster that is no member yet.
struct Cluster {
    client: Client,
    kubeconfig: PathBuf,
    _server: Server,
}

#[allow(dead_code, reason = "held for as long as the cluster lives")]
enum Server {
    Embedded(ApiServer, fairlead_apiserver::Handle),
    Real(Box<real::Cluster>),
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
            client: server.client(),
            kubeconfig,
            _server: Server::Embedded(server, listener),
        })
    }

    /// One of the kind of the stage.
    async fn on(stage: &Stage, fleet: &Fleet) -> anyhow::Result<Self> {
        match stage {
            Stage::Embedded => Self::start(fleet).await,
            Stage::Real(_) => {
                let cluster = real::Cluster::new().await?;
                Ok(Self {
                    client: cluster.server.client(),
                    kubeconfig: cluster.kubeconfig.clone(),
                    _server: Server::Real(Box::new(cluster)),
                })
            }
        }
    }

    /// A token of an account of `fairlead-system`.
    async fn token(&self, account: &str, audiences: &[&str]) -> anyhow::Result<String> {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), labels::SYSTEM_NAMESPACE);
        let request = serde_json::from_value(json!({
            "spec": { "audiences": audiences, "expirationSeconds": 3600 },
        }))?;
        let params = PostParams::default();
        let answer = api.create_token_request(account, &params, &request).await?;
        answer.status.context("a status")?.token.context("a token")
    }

    /// The kubeconfig that a pod of this account would have.
    async fn kubeconfig_of(&self, account: &str, to: &Path) -> anyhow::Result<()> {
        let read = Kubeconfig::read_from(&self.kubeconfig)?;
        // JSON is YAML, and the type of a token refuses to be written.
        let mut text = serde_json::to_value(&read)?;
        let token = self.token(account, &[]).await?;
        for user in text["users"].as_array_mut().into_iter().flatten() {
            user["user"] = json!({ "token": token });
        }
        Ok(std::fs::write(to, text.to_string())?)
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

pub(crate) async fn a_cluster_with_an_id_of_its_own_is_left_as_it_is() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "1"]).await?;
    let cluster = Cluster::start(&fleet).await?;
    let hub = attacks::hub_address(&fleet)?;
    let invite = ["join", "eu-1", "--hub-address", &hub];
    let line = attacks::invitation(&fleet.must(&invite).await?)?;
    let state = fleet.folder().join("eu-1");
    let state = state.to_str().context("a path in ASCII")?;

    // Somebody else keeps these CRDs, and has named the cluster.
    let client = cluster.client.clone();
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

/// What is printed is applied as it is; then the agent runs as its pod would: with the arguments and
/// the account of the Deployment, only its addresses and its folder are this machine's.
pub(crate) async fn what_a_dry_run_prints_starts_an_agent_that_serves_proxies(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let cluster = Cluster::on(&stage, &fleet).await?;
    let hub = attacks::hub_address(&fleet)?;
    let invite = ["join", "eu-1", "--hub-address", &hub];
    let line = attacks::invitation(&fleet.must(&invite).await?)?;
    let dry = [
        "join",
        "--dry-run",
        "--image",
        "registry.example/fairlead:1",
    ];
    let mut dry: Vec<&str> = dry.to_vec();
    dry.extend(["--invitation", &line, "--properties-pods"]);
    let printed = fleet.must(&dry).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&printed)?;
    ensure!(objects.len() > 10, "{printed}");
    for object in objects.iter().filter(|object| !object.is_null()) {
        wait::until("an object to be taken", async || {
            // A kind that was defined a moment ago is served a moment later.
            match attacks::apply(&cluster.client, object).await {
                Ok(_) => Ok(Ok(())),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Err(status)),
                Err(error) => Err(error).context(object.to_string()),
            }
        })
        .await?;
    }
    let (mut agent, addr) = as_its_pod(&fleet, &cluster).await?;
    healthy(&fleet, "eu-1").await?;
    let proxy = own_proxy(&fleet, &cluster, addr).await;
    // The clusters of a stage serve other cases, too.
    let groups = Api::<ProxyGroup>::all(fleet.hub().await?);
    groups.delete("own", &DeleteParams::default()).await?;
    fleet.must(&["leave", "eu-1"]).await?;
    proxy?;
    agent.signal("TERM")?;
    same!(agent.ended().await?, Some(0));
    Ok(())
}

/// The agent of the Deployment as a process, and where it serves proxies.
async fn as_its_pod(fleet: &Fleet, cluster: &Cluster) -> anyhow::Result<(Process, SocketAddr)> {
    let system = labels::SYSTEM_NAMESPACE;
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), system);
    let deployment = deployments.get("fairlead-agent").await?;
    let pod = deployment.spec.template;
    let spec = pod.spec.context("a pod")?;
    let services = Api::<Service>::namespaced(cluster.client.clone(), system);
    let service = services
        .get("fairlead-agent")
        .await?
        .spec
        .unwrap_or_default();
    same!(service.selector, pod.metadata.and_then(|meta| meta.labels));
    let container = &spec.containers[0];
    same!(
        container.command,
        Some(vec!["fairlead-controller".to_owned()])
    );
    let folder = fleet.folder().join("agent");
    let here = folder.display().to_string();
    let local = |argument: &String| match argument.split_once('=') {
        Some((flag @ ("--listen" | "--admin"), _)) => format!("{flag}=127.0.0.1:0"),
        Some(("--data", _)) => format!("--data={here}"),
        _ => argument.clone(),
    };
    let arguments = container.args.iter().flatten().map(local);
    let kubeconfig = fleet.folder().join("agent.kubeconfig");
    let account = spec.service_account_name.context("an account")?;
    cluster.kubeconfig_of(&account, &kubeconfig).await?;
    let name = "fairlead-controller";
    let mut command = Command::new(sibling(program(), name, name)?);
    command.args(arguments).arg("--kubeconfig").arg(&kubeconfig);
    let mut agent = Process::start("the agent", command)?;
    let addr = agent.says("proxies of this member may connect", "addr=");
    let addr = addr.await?;
    Ok((agent, addr))
}

/// A proxy of eu-1 takes its configuration from the agent.
async fn own_proxy(fleet: &Fleet, cluster: &Cluster, addr: SocketAddr) -> anyhow::Result<()> {
    let group = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ProxyGroup", "metadata": { "name": "own" },
        "spec": {
            "member": "eu-1", "services": ["demo/echo"], "listen": ["127.0.0.1"],
            "portRange": { "first": 9, "last": 12 },
        },
    });
    attacks::apply(&fleet.hub().await?, &group).await?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "fairlead-proxy-own", "namespace": labels::SYSTEM_NAMESPACE },
    });
    attacks::apply(&cluster.client, &account).await?;
    let (token, bundle) = (
        fleet.folder().join("own.token"),
        fleet.folder().join("own.pem"),
    );
    let audience = [labels::XDS_AUDIENCE];
    std::fs::write(
        &token,
        cluster.token("fairlead-proxy-own", &audience).await?,
    )?;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), labels::SYSTEM_NAMESPACE);
    let published = wait::until("what pods check the agent against", async || {
        let map = maps.get("fairlead-agent").await?;
        let text = map
            .data
            .as_ref()
            .and_then(|data| data.get("ca.pem").cloned());
        Ok(text.ok_or(map))
    })
    .await?;
    std::fs::write(&bundle, published)?;
    let mut command = fleet.command(&["up-proxy", "--group", "own", "--node", "own-0"]);
    command.args([
        "--xds",
        &format!("https://{addr}"),
        "--admin",
        "127.0.0.1:0",
    ]);
    command
        .arg("--xds-token")
        .arg(&token)
        .arg("--xds-ca")
        .arg(&bundle);
    let mut proxy = Process::start("the proxy", command)?;
    let admin: SocketAddr = proxy.says("admin pages", "addr=").await?;
    wait::until("the service in the member's own proxy", async || {
        let page = fleet::page(&format!("http://{admin}"), "/services").await?;
        let found = page.contains("demo/echo") && page.contains("member-2");
        Ok(found.then_some(()).ok_or(page))
    })
    .await?;
    let groups = Api::<ProxyGroup>::all(fleet.hub().await?);
    wait::until("word of it on the hub", async || {
        let status = groups.get("own").await?.status.unwrap_or_default();
        Ok((status.connected == 1).then_some(()).ok_or(status))
    })
    .await
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
