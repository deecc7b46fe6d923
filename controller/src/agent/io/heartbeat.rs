//! The heartbeat (a Lease, every 5 s) and the report (every minute).

use std::{sync::Arc, time::Duration};

use fairlead_api::{
    labels,
    member::{MemberReport, MemberReportSpec},
};
use fairlead_runtime::tasks::TaskError;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Namespace, Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{AgentConfig, REQUEST_TIMEOUT};
use crate::agent::{
    report::{self, Observed, Requests},
    restored::HubStore,
};

/// Renews the Lease for ever; a renewal that fails is made good by the next.
pub(super) async fn renew(
    config: Arc<AgentConfig>,
    store: watch::Sender<HubStore>,
) -> Result<(), TaskError> {
    let namespace = labels::member_namespace(&config.member);
    let api = Api::<Lease>::namespaced(config.hub.clone(), &namespace);
    let mut ticks = interval(RENEWAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut lease = Lease::default();
        lease.metadata.name = Some(labels::HEARTBEAT_LEASE.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(config.member.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(config.now().0)),
            ..LeaseSpec::default()
        });
        let params = PatchParams::apply(labels::AGENT_MANAGER).force();
        let patch = Patch::Apply(&lease);
        let renewal = api.patch(labels::HEARTBEAT_LEASE, &params, &patch);
        match timeout(RENEWAL, renewal).await {
            Ok(Ok(lease)) => note(&store, &lease),
            Ok(Err(error)) => {
                tracing::warn!(%error, "heartbeat failed; the next one is due in 5 s")
            }
            Err(_) => tracing::warn!("heartbeat timed out; trying again"),
        }
    }
}

/// Whether the hub's store has all that this agent wrote.
pub(super) struct Mirrored {
    pub(super) store: watch::Receiver<HubStore>,
    /// The generation of the store that lacks nothing; `None` before the first look.
    pub(super) generation: watch::Receiver<Option<u64>>,
}

impl Mirrored {
    fn epoch(&self) -> Option<String> {
        let store = self.store.borrow();
        let whole = *self.generation.borrow() == Some(store.generation);
        store.epoch.clone().filter(|_| whole)
    }
}

fn note(store: &watch::Sender<HubStore>, lease: &Lease) {
    let version = lease.metadata.resource_version.as_deref();
    let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
    let annotations = lease.metadata.annotations.as_ref();
    let epoch = annotations.and_then(|all| all.get(labels::EPOCH).cloned());
    store.send_if_modified(|store| {
        let old = store.epoch.clone();
        let other = store.heartbeat(version, epoch);
        if other {
            tracing::warn!("the hub's store was restored; comparing everything with it");
        }
        other || old != store.epoch
    });
}

/// Reports every minute, and when it has been found that a restored hub lacks nothing, for ever.
pub(super) async fn report(
    config: Arc<AgentConfig>,
    mut mirrored: Mirrored,
) -> Result<(), TaskError> {
    let namespace = labels::member_namespace(&config.member);
    let api = Api::<MemberReport>::namespaced(config.hub.clone(), &namespace);
    let mut ticks = interval(REPORT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = mirrored.generation.changed() => changed?,
        }
        let observed = observe(&config).await;
        let spec = MemberReportSpec {
            epoch: mirrored.epoch(),
            ..report::report(&observed, &config.version, &config.now())
        };
        let object = MemberReport::new(labels::MEMBER_REPORT, spec);
        let params = PatchParams::apply(labels::AGENT_MANAGER).force();
        let patch = Patch::Apply(&object);
        let sent = api.patch(labels::MEMBER_REPORT, &params, &patch);
        match timeout(REQUEST_TIMEOUT, sent).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "report failed; the next one is due in 60 s"),
            Err(_) => tracing::warn!("report timed out; the next one is due in 60 s"),
        }
    }
}

/// What can be seen now; what cannot stays unknown.
async fn observe(config: &AgentConfig) -> Observed {
    let local = &config.local;
    let nodes = Api::<Node>::all(local.clone());
    let everything = ListParams::default();
    let sum_pods = async {
        match config.properties_pods {
            true => requests(&Api::all(local.clone()), PODS_PAGE).await,
            false => None,
        }
    };
    let namespaces = Api::<Namespace>::all(local.clone());
    let ready = async {
        let request = http::Request::get("/readyz").body(Vec::new()).ok()?;
        within(local.request_text(request)).await
    };
    let (version, system, nodes, requests, ready) = tokio::join!(
        within(local.apiserver_version()),
        within(namespaces.get("kube-system")),
        within(nodes.list(&everything)),
        sum_pods,
        ready,
    );
    Observed {
        kubernetes_version: version.map(|info| info.git_version).unwrap_or_default(),
        cluster_uid: system
            .and_then(|found| found.metadata.uid)
            .unwrap_or_default(),
        api_server_ready: ready.is_some(),
        nodes: nodes.map(|list| list.items),
        requests,
    }
}

/// What all pods ask for. They are listed a page at a time, so a cluster of 100,000 pods costs no
/// more memory than one of 500; a list that breaks off is no sum.
pub(super) async fn requests(pods: &Api<Pod>, page: u32) -> Option<Requests> {
    let mut page = ListParams::default().limit(page);
    let mut sum = Requests::default();
    loop {
        let list = within(pods.list(&page)).await?;
        sum.add(&list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Some(sum),
        }
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Option<T> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            tracing::debug!(%error, "part of the report is missing");
            None
        }
        Err(_) => None,
    }
}

/// A third of what the hub tolerates.
const RENEWAL: Duration = Duration::from_secs(5);
/// What the hub tolerates.
const LEASE_SECONDS: i32 = 15;
const REPORT: Duration = Duration::from_secs(60);
/// As kubectl does.
const PODS_PAGE: u32 = 500;
