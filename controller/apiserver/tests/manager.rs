//! A real kube-controller-manager runs this server's cluster, its built-in twins switched off.
//!
//! Needs the program `kube-controller-manager` 1.37 in the folder that `KUBEBUILDER_ASSETS` names
//! (`tests/kube/build.sh` makes one), and says so where it is missing.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use fairlead_apiserver::{ApiServer, Controllers, Handle, Security};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// A server, its listener, and the manager beside it; all end with this.
struct Cluster {
    client: Client,
    _server: ApiServer,
    _listener: Handle,
    _manager: Child,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Option<Self> {
        let assets = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
        let program = assets.join("kube-controller-manager");
        if !program.is_file() {
            return None;
        }
        let server = ApiServer::builder()
            .controllers(Controllers::NONE)
            .build()
            .await
            .unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = server.serve(listen, Security::Tls).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("kubeconfig"), listener.kubeconfig()).unwrap();
        std::fs::write(file("ca.crt"), server.ca_pem()).unwrap();
        let log = std::fs::File::create(file("log")).unwrap();
        let manager = Command::new(program)
            .arg(format!("--kubeconfig={}", file("kubeconfig").display()))
            .arg(format!("--root-ca-file={}", file("ca.crt").display()))
            .arg(format!("--cert-dir={}", file("certs").display()))
            .arg(format!("--secure-port={}", free_port()))
            .args(["--bind-address=127.0.0.1", "--leader-elect=true"])
            .args([
                "--kube-api-content-type=application/json",
                "--use-service-account-credentials=false",
            ])
            .arg("--controllers=*,-node-ipam-controller,-node-lifecycle-controller")
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let client = server.client();
        Some(Self {
            client,
            _server: server,
            _listener: listener,
            _manager: manager,
            _folder: folder,
        })
    }

    fn api<T>(&self) -> Api<T>
    where
        T: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "team")
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(90), future).await;
    waited.unwrap_or_else(|_| panic!("{what} in time"))
}

async fn create<T>(api: &Api<T>, value: Value) -> T
where
    T: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    api.create(
        &PostParams::default(),
        &serde_json::from_value(value).unwrap(),
    )
    .await
    .unwrap()
}

/// Waits until the objects that a selector names are as wanted.
async fn until<T>(api: &Api<T>, labels: &str, wanted: impl Fn(&[T]) -> bool) -> Vec<T>
where
    T: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    use futures::StreamExt as _;
    let changes = watcher(api.clone(), watcher::Config::default().labels(labels)).default_backoff();
    let mut changes = std::pin::pin!(changes);
    loop {
        let items = api
            .list(&ListParams::default().labels(labels))
            .await
            .unwrap()
            .items;
        if wanted(&items) {
            return items;
        }
        changes.next().await;
    }
}

/// What a kubelet would do: assign the pods, run them, remove those that are going.
async fn run_pods(pods: Api<Pod>) {
    use futures::StreamExt as _;
    let events = watcher(pods.clone(), watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let mut events = std::pin::pin!(events);
    let mut next_ip = 1;
    while let Some(event) = events.next().await {
        let Ok(pod) = event else { continue };
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            pods.delete(&name, &DeleteParams::default().grace_period(0))
                .await
                .ok();
        } else if pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_none())
        {
            let binding =
                json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "one"}});
            let params = PostParams::default();
            pods.create_subresource::<Value, Value>("binding", &name, &params, &binding)
                .await
                .ok();
            let (ip, job) = (
                format!("10.1.0.{next_ip}"),
                pod.labels().contains_key("job-name"),
            );
            next_ip += 1;
            let phase = if job { "Succeeded" } else { "Running" };
            let status = json!({"status": {
                "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{
                    "type": "Ready", "status": if job { "False" } else { "True" },
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            }});
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
                .await
                .ok();
        }
    }
}

fn template(labels: &Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "x"}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_controller_manager_runs_the_cluster() {
    let Some(cluster) = Cluster::start().await else {
        println!("skipped: KUBEBUILDER_ASSETS names no folder with kube-controller-manager");
        return;
    };
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    create(&nodes, json!({"metadata": {"name": "one"}})).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    create(&namespaces, json!({"metadata": {"name": "team"}})).await;
    let account = |object: Option<&ServiceAccount>| object.is_some();
    soon(
        "an account",
        await_condition(cluster.api(), "default", account),
    )
    .await
    .unwrap();
    let kubelet = tokio::spawn(run_pods(cluster.api()));
    serves_and_evicts(&cluster).await;
    Box::pin(finishes_a_job(&cluster)).await;
    let deployments: Api<Deployment> = cluster.api();
    deployments
        .delete("web", &DeleteParams::foreground())
        .await
        .unwrap();
    let sets: Api<ReplicaSet> = cluster.api();
    soon("no replica set", until(&sets, "app=web", <[_]>::is_empty)).await;
    let gone = |object: Option<&Deployment>| object.is_none();
    Box::pin(soon(
        "no deployment",
        await_condition(deployments, "web", gone),
    ))
    .await
    .unwrap();
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    let gone = |object: Option<&Namespace>| object.is_none();
    soon("no namespace", await_condition(namespaces, "team", gone))
        .await
        .unwrap();
    kubelet.abort();
}

async fn serves_and_evicts(cluster: &Cluster) {
    let labels = json!({"app": "web"});
    create(&cluster.api::<Deployment>(), json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(&labels)},
    }))
    .await;
    create(
        &cluster.api::<Service>(),
        json!({
            "metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 80}]},
        }),
    )
    .await;
    let slices: Api<EndpointSlice> = cluster.api();
    let full = |slices: &[EndpointSlice]| {
        slices
            .iter()
            .any(|slice| slice.endpoints.as_ref().is_some_and(|list| list.len() == 3))
    };
    soon(
        "three endpoints",
        until(&slices, "kubernetes.io/service-name=web", full),
    )
    .await;
    let budgets: Api<PodDisruptionBudget> = cluster.api();
    create(&budgets, json!({
        "metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": labels}},
    }))
    .await;
    let one_may_go = |budget: Option<&PodDisruptionBudget>| {
        let status = budget.and_then(|budget| budget.status.as_ref());
        status.is_some_and(|status| status.disruptions_allowed == Some(1))
    };
    soon(
        "a budget of one",
        await_condition(budgets.clone(), "web", one_may_go),
    )
    .await
    .unwrap();
    let pods: Api<Pod> = cluster.api();
    let victim = pods
        .list(&ListParams::default().labels("app=web"))
        .await
        .unwrap()
        .items[0]
        .name_any();
    pods.evict(&victim, &EvictParams::default()).await.unwrap();
    let name = victim.clone();
    let replaced =
        move |pods: &[Pod]| pods.len() == 3 && pods.iter().all(|pod| pod.name_any() != name);
    soon(
        "the evicted pod replaced",
        until(&pods, "app=web", replaced),
    )
    .await;
    let one = json!({"spec": {"replicas": 1}});
    let deployments: Api<Deployment> = cluster.api();
    deployments
        .patch_scale("web", &PatchParams::default(), &Patch::Merge(&one))
        .await
        .unwrap();
    soon(
        "scaled down",
        until(&pods, "app=web", |pods: &[Pod]| pods.len() == 1),
    )
    .await;
}

async fn finishes_a_job(cluster: &Cluster) {
    let jobs: Api<Job> = cluster.api();
    create(
        &jobs,
        json!({"metadata": {"name": "once"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}],
        }}}}),
    )
    .await;
    let complete = |job: Option<&Job>| {
        let status = job.and_then(|job| job.status.as_ref());
        status.is_some_and(|status| status.succeeded == Some(1) && status.completion_time.is_some())
    };
    Box::pin(soon("the job", await_condition(jobs, "once", complete)))
        .await
        .unwrap();
}
