//! Real clusters to run a fleet on: a hub and two members, each with a real etcd and kube-apiserver,
//! the members with a real kube-controller-manager.
//!
//! A real API server refuses loopback addresses in EndpointSlices, so the whole test runs in a network
//! namespace of its own, where `10.77.0.0/16` is local, too.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use fairlead_api::{mcs::v1beta1::ServiceExport, service::MultiClusterService};
use fairlead_tests::{fleet::Fleet, real::RealServer, wait};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Mutex, MutexGuard, OnceCell},
    task::JoinSet,
};

use crate::program;

/// The clusters; started when the first case needs them.
#[derive(Default)]
pub(crate) struct Clusters {
    started: OnceCell<Started>,
    /// One fleet at a time.
    turn: Mutex<()>,
}

struct Started {
    hub: Cluster,
    members: Vec<(String, Cluster)>,
}

/// One of them.
pub(crate) struct Cluster {
    pub(crate) server: RealServer,
    pub(crate) kubeconfig: PathBuf,
}

/// A fleet on the clusters, and the pods' servers.
pub(crate) struct OnReal<'c> {
    pub(crate) fleet: Fleet,
    pods: BTreeMap<String, JoinSet<()>>,
    _turn: MutexGuard<'c, ()>,
}

impl Clusters {
    /// Starts a fleet; the sample service is exported anew, with two pods in each member.
    pub(crate) async fn fleet(&self) -> anyhow::Result<OnReal<'_>> {
        let turn = self.turn.lock().await;
        let started = self.started.get_or_try_init(Started::new).await?;
        // Its tiers and weights.
        let hub = started.hub.server.client();
        forget(&Api::<MultiClusterService>::namespaced(hub, "demo")).await?;
        let mut pods = BTreeMap::new();
        for (index, (name, cluster)) in (1..).zip(&started.members) {
            let ips = [1, 2].map(|pod| Ipv4Addr::new(10, 77, index, pod));
            prepare(&cluster.server.client(), &ips).await?;
            pods.insert(name.clone(), serve(name, &ips).await?);
        }
        let hub = started.hub.kubeconfig.display().to_string();
        let members = started.members.iter();
        let members = members.map(|(name, one)| format!("{name}={}", one.kubeconfig.display()));
        let members: Vec<String> = members.collect();
        let mut arguments = vec!["--hub-kubeconfig", &hub, "--export", "demo/echo"];
        for member in &members {
            arguments.extend(["--member-kubeconfig", member]);
        }
        Ok(OnReal {
            fleet: Fleet::start(program(), &arguments).await?,
            pods,
            _turn: turn,
        })
    }
}

impl OnReal<'_> {
    /// Ends a member's agent and its pods.
    pub(crate) fn kill(&mut self, member: &str) -> anyhow::Result<()> {
        self.fleet.kill(member)?;
        self.pods.remove(member).context("its pods")?;
        Ok(())
    }
}

impl Started {
    async fn new() -> anyhow::Result<Self> {
        let (hub, one, two) = tokio::try_join!(Cluster::new(), Cluster::new(), Cluster::new())?;
        Ok(Self {
            hub,
            members: vec![("member-1".to_owned(), one), ("member-2".to_owned(), two)],
        })
    }
}

impl Cluster {
    /// Starts one.
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let programs = std::env::var_os("KUBEBUILDER_ASSETS").context("KUBEBUILDER_ASSETS")?;
        let server = RealServer::start(Path::new(&programs)).await?;
        let theirs = server.kubeconfig();
        let folder = theirs.parent().context("its folder")?;
        // With the certificates that it is checked against: agents trust nothing else.
        let text = std::fs::read_to_string(&theirs)?;
        let certificates = folder.join("certs/apiserver.crt");
        let text = text.replace(
            "insecure-skip-tls-verify: true",
            &format!("certificate-authority: \"{}\"", certificates.display()),
        );
        let kubeconfig = folder.join("checked.kubeconfig");
        std::fs::write(&kubeconfig, text)?;
        Ok(Self { server, kubeconfig })
    }
}

/// Runs this test again in a network namespace of its own; comes back only where that can't be.
pub(crate) fn enter_namespace() -> anyhow::Error {
    let program = std::env::current_exe().unwrap_or_default();
    let script = NAMESPACE.join(" && ");
    let mut command = Command::new("unshare");
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt as _;
        meta.uid() == 0
    });
    command.arg(if is_root { "-n" } else { "-rn" });
    command.args(["sh", "-c", &script, "sh"]).arg(program);
    command.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    command.exec().into()
}

/// Whether [`enter_namespace`] has done its work.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

const INSIDE: &str = "FAIRLEAD_FLEET_NAMESPACE";
/// kube-apiserver wants a default route, by which it finds the address to advertise.
const NAMESPACE: &[&str] = &[
    "ip link set lo up",
    "ip link add outside type veth peer name beyond",
    "ip link set beyond up",
    "ip addr add 10.77.255.1/32 dev outside",
    "ip link set outside up",
    "ip route add default dev outside",
    "ip route add local 10.77.0.0/16 dev lo",
    "exec \"$@\"",
];

/// Namespace, node, pods and Service, and the slices that the cluster's own controller makes of them.
/// An export of an earlier fleet goes.
async fn prepare(client: &Client, ips: &[Ipv4Addr]) -> anyhow::Result<()> {
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node" } });
    apply(&Api::<Node>::all(client.clone()), "node", &node).await?;
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "demo" } });
    apply(&Api::<Namespace>::all(client.clone()), "demo", &namespace).await?;
    forget(&Api::<ServiceExport>::namespaced(client.clone(), "demo")).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "echo", "namespace": "demo" },
        "spec": {
            "selector": { "app": "echo" },
            "ports": [
                { "name": "line", "port": 7000, "targetPort": PORT, "protocol": "TCP" },
                { "name": "datagram", "port": 7000, "targetPort": PORT, "protocol": "UDP" },
            ],
        },
    });
    apply(
        &Api::<Service>::namespaced(client.clone(), "demo"),
        "echo",
        &service,
    )
    .await?;
    wait::until("the default account", async || {
        let accounts =
            Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), "demo");
        Ok(accounts.get_opt("default").await?.map(drop).ok_or("none"))
    })
    .await?;
    let pods = Api::<Pod>::namespaced(client.clone(), "demo");
    let earlier = ListParams::default().labels("app=echo");
    pods.delete_collection(&DeleteParams::default().grace_period(0), &earlier)
        .await?;
    for (index, ip) in ips.iter().enumerate() {
        run_pod(&pods, &format!("echo-{index}"), *ip).await?;
    }
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "demo");
    wait::until("the controller's slices", async || {
        // The agent's own are in the namespace, too, once there is an import.
        let own = "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io";
        let all = slices.list(&ListParams::default().labels(own)).await?;
        let endpoints = all
            .items
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready) == Some(true)
        });
        let addresses = ready.flat_map(|endpoint| endpoint.addresses.clone());
        let mut addresses: Vec<String> = addresses.collect();
        addresses.sort();
        let wanted: Vec<String> = ips.iter().map(Ipv4Addr::to_string).collect();
        Ok((addresses == wanted).then_some(()).ok_or(addresses))
    })
    .await
}

/// What an earlier fleet was told goes.
async fn forget<K>(api: &Api<K>) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.delete("echo", &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        // Also before the first fleet, which installs the kind.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A pod as a kubelet would leave it: running, ready, with an address.
pub(crate) async fn run_pod(pods: &Api<Pod>, name: &str, ip: Ipv4Addr) -> anyhow::Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "demo", "labels": { "app": "echo" } },
        "spec": {
            "nodeName": "node",
            "containers": [ { "name": "echo", "image": "echo" } ],
        },
    });
    if pods.get_opt(name).await?.is_none() {
        let pod = serde_json::from_value(pod)?;
        pods.create(&PostParams::default(), &pod).await?;
    }
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": ip.to_string(),
        "podIPs": [ { "ip": ip.to_string() } ],
        "conditions": [ { "type": "Ready", "status": "True" } ],
    } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

async fn apply<K>(api: &Api<K>, name: &str, object: &serde_json::Value) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = PatchParams::apply("test").force();
    api.patch(name, &params, &Patch::Apply(object)).await?;
    Ok(())
}

/// The pods' servers; they answer `MEMBER POD TEXT`.
async fn serve(member: &str, ips: &[Ipv4Addr]) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for (index, ip) in ips.iter().enumerate() {
        let name = format!("{member} echo-{index}");
        let listener = TcpListener::bind((*ip, PORT)).await?;
        tasks.spawn(accept(listener, name.clone()));
        let socket = UdpSocket::bind((*ip, PORT)).await?;
        tasks.spawn(answer_datagrams(socket, name, || {}));
    }
    Ok(tasks)
}

/// Answers each datagram, and tells of it.
pub(crate) async fn answer_datagrams(socket: UdpSocket, name: String, heard: impl Fn()) {
    let mut buffer = [0; 1024];
    loop {
        // An ICMP error of an earlier answer is no reason to stop.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        heard();
        let text = String::from_utf8_lossy(&buffer[..count]);
        drop(
            socket
                .send_to(format!("{name} {text}").as_bytes(), from)
                .await,
        );
    }
}

/// Sessions end with their pod.
pub(crate) async fn accept(listener: TcpListener, name: String) {
    let mut sessions = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        sessions.spawn(answer(stream, name.clone()));
        while sessions.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream, name: String) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = format!("{name} {line}\n");
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

pub(crate) const PORT: u16 = 7000;
