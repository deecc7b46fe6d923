//! Endpoints that are replaced one by one, as a rollout does.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::ensure;
use fairlead_tests::{
    fleet::{self, Fleet},
    wait,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Stage, program,
    real::{PORT, accept, answer_datagrams, run_pod},
    strict::{LONG_FLOWS, Strict},
};

pub(crate) async fn endpoints_roll_one_by_one_and_no_client_notices() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &["--members", "2"]).await?;
    let clients = Strict::start(&fleet).await?;
    let client = fleet.member("member-1").await?;
    let slices = Api::<EndpointSlice>::namespaced(client, "demo");
    let slice = slices.get("echo").await?;
    let port = slice.ports.as_ref().and_then(|ports| ports.first()?.port);
    let port = u16::try_from(port.unwrap_or_default())?;
    // Addresses of member-1's network that its own pods don't have.
    let mut old: Vec<(String, Option<Pod>)> = vec![
        ("127.21.0.1".to_owned(), None),
        ("127.21.0.2".to_owned(), None),
    ];
    for generation in 0..6_u8 {
        let pod = Pod::start(Ipv4Addr::new(127, 21, 1, generation + 1), port).await?;
        let (leaving, ended) = old.remove(0);
        let mut endpoints: Vec<Value> = old.iter().map(|(ip, _)| endpoint(ip, true)).collect();
        endpoints.push(endpoint(&pod.ip, true));
        let mut with_leaving = endpoints.clone();
        with_leaving.push(endpoint(&leaving, false));
        replace(&slices, &with_leaving).await?;
        let started = pod.ip.clone();
        old.push((pod.ip.clone(), Some(pod)));
        wait_for(&fleet, &format!("{started}:{port}"), true).await?;
        replace(&slices, &endpoints).await?;
        wait_for(&fleet, &format!("{leaving}:{port}"), false).await?;
        Pod::end(ended).await?;
    }
    nobody_noticed(clients, &fleet).await
}

/// On a real cluster: pods come and go, and the slices are its own controller's.
pub(crate) async fn pods_roll_one_by_one_and_no_client_notices(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let clients = Strict::start(&fleet).await?;
    let pods =
        Api::<k8s_openapi::api::core::v1::Pod>::namespaced(fleet.member("member-1").await?, "demo");
    // The servers of the first two go on until the fleet ends.
    let mut old: Vec<(String, String, Option<Pod>)> = vec![
        ("echo-0".to_owned(), "10.77.1.1".to_owned(), None),
        ("echo-1".to_owned(), "10.77.1.2".to_owned(), None),
    ];
    for generation in 0..4_u8 {
        let (name, ip) = (
            format!("roll-{generation}"),
            Ipv4Addr::new(10, 77, 1, 11 + generation),
        );
        let pod = Pod::start(ip, PORT).await?;
        run_pod(&pods, &name, ip).await?;
        wait_for(&fleet, &format!("{ip}:{PORT}"), true).await?;
        old.push((name, ip.to_string(), Some(pod)));
        let (leaving, address, ended) = old.remove(0);
        pods.delete(&leaving, &DeleteParams::default().grace_period(0))
            .await?;
        wait_for(&fleet, &format!("{address}:{PORT}"), false).await?;
        Pod::end(ended).await?;
    }
    nobody_noticed(clients, &fleet).await
}

/// Every client was answered, and new ones by new pods, too. The few long flows may all have moved to
/// the other member.
async fn nobody_noticed(clients: Strict, fleet: &Fleet) -> anyhow::Result<()> {
    for (kind, answers) in clients.stop(fleet).await? {
        let mut by = answers.iter().map(|answer| answer.by.as_deref());
        ensure!(
            kind == LONG_FLOWS || by.any(|by| by == Ok("rolled")),
            "no new pod answered {kind}"
        );
    }
    Ok(())
}

/// A pod's servers; they end when this is dropped.
struct Pod {
    ip: String,
    /// When the last datagram came.
    heard: Arc<Mutex<Instant>>,
    _tasks: JoinSet<()>,
}

impl Pod {
    async fn start(ip: Ipv4Addr, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((ip, port)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, "rolled pod".to_owned()));
        let socket = UdpSocket::bind((ip, port)).await?;
        let heard = Arc::new(Mutex::new(Instant::now()));
        let clock = heard.clone();
        let hear = move || *clock.lock() = Instant::now();
        tasks.spawn(answer_datagrams(socket, "rolled pod".to_owned(), hear));
        Ok(Self {
            ip: ip.to_string(),
            heard,
            _tasks: tasks,
        })
    }

    /// Ends it as a cluster does that gives pods time: once nothing comes any more.
    async fn end(pod: Option<Self>) -> anyhow::Result<()> {
        let Some(pod) = pod else { return Ok(()) };
        wait::until(&format!("no more datagrams to {}", pod.ip), async || {
            let silent = pod.heard.lock().elapsed();
            Ok((silent > QUIET).then_some(()).ok_or(silent))
        })
        .await
    }
}

fn endpoint(ip: &str, ready: bool) -> Value {
    json!({
        "addresses": [ip],
        "conditions": { "ready": ready, "serving": true, "terminating": !ready },
    })
}

async fn replace(slices: &Api<EndpointSlice>, endpoints: &[Value]) -> anyhow::Result<()> {
    let patch = json!([ { "op": "replace", "path": "/endpoints", "value": endpoints } ]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
    slices
        .patch("echo", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Waits until the proxy uses an endpoint, or has let go of it altogether.
async fn wait_for(fleet: &Fleet, address: &str, there: bool) -> anyhow::Result<()> {
    wait::until(&format!("{address} {there}"), async || {
        let page = fleet::page(&fleet.ready.proxy_admin, "/services").await?;
        let found = page.contains(&format!("\"{address}\""));
        Ok((found == there).then_some(()).ok_or(page))
    })
    .await
}

/// A pod that was not asked for so long has answered everything.
const QUIET: Duration = Duration::from_secs(1);
