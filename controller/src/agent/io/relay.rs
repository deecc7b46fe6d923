//! Streams of the member's own proxies: they are told what came down from the hub, from memory and
//! disk, hub or no hub, and what they report goes up.
//!
//! A proxy shows a token of its ServiceAccount, which the member's own API server reviews; the
//! account's name is the only source of its group, and only the member's own group is served. A
//! stream ends with its token.

use std::{sync::Arc, time::Duration};

use fairlead_api::proxy::Refusal;
use fairlead_config::xds::{
    proto::{
        core::{ControlPlane, Node, UserAgentVersion},
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        load_stats::{LoadStatsRequest, LoadStatsResponse},
    },
    service::{Aggregated, Answers, LoadReporting},
};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{reports::Upward, uplink::Shared};
use crate::{
    board::Type,
    fleet::ProxyId,
    hub::access::Access,
    identity::Subject,
    stream::{Heard, Stream},
};

/// What streams need.
#[derive(Clone)]
pub(super) struct Relay {
    pub(super) access: Access,
    pub(super) shared: Shared,
    pub(super) upward: Upward,
    pub(super) version: Arc<str>,
    /// Streams end with their connections, which the port owns.
    pub(super) tasks: TaskTracker,
}

impl Aggregated for Relay {
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        let (group, life) = self.admit(request.metadata()).await?;
        let mut requests = request.into_inner();
        let first = first(&mut requests).await?;
        let (to, answers) = mpsc::channel(ANSWERS_QUEUE);
        let node = first.node.clone().unwrap_or_default();
        let connection = Connection {
            id: Here::connect(&self.upward, group, &node),
            relay: self.clone(),
            stream: Stream::default(),
            to,
        };
        self.tasks.spawn(connection.run(first, requests, life));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl LoadReporting for Relay {
    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Answers<LoadStatsResponse>>, Status> {
        let (group, life) = self.admit(request.metadata()).await?;
        let mut requests = request.into_inner();
        let first = first(&mut requests).await?;
        let id = ProxyId {
            group,
            node: first.node.clone().unwrap_or_default().id,
        };
        let (to, answers) = mpsc::channel(ANSWERS_QUEUE);
        let taking = self.clone().take_reports(id, first, requests, to, life);
        self.tasks.spawn(taking);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl Relay {
    async fn take_reports(
        self,
        id: ProxyId,
        first: LoadStatsRequest,
        mut requests: Streaming<LoadStatsRequest>,
        to: mpsc::Sender<Result<LoadStatsResponse, Status>>,
        life: Option<Duration>,
    ) {
        let mut asked = self.upward.asked();
        let mut revision = self.shared.revision();
        let mut end = std::pin::pin!(sleep_for(life));
        let here = Reporting::start(&self.upward, id);
        here.take(&first, true);
        let answer = asked.borrow_and_update().clone();
        if to.send(Ok(answer)).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(report)) => here.take(&report, false),
                    _ => return,
                },
                changed = asked.changed() => {
                    let answer = asked.borrow_and_update().clone();
                    if changed.is_err() || to.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
                changed = revision.changed() => {
                    let refusal = self.refusal(&here.id.group);
                    if let Some(refusal) = refusal {
                        drop(to.send(Err(refusal)).await);
                        return;
                    }
                    if changed.is_err() {
                        return;
                    }
                }
                () = &mut end => {
                    drop(to.send(Err(expired())).await);
                    return;
                }
            }
        }
    }

    /// The group of a proxy of this member, and how long it may stay.
    async fn admit(
        &self,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<(String, Option<Duration>), Status> {
        let admitted = self.access.admit(metadata).await?;
        let group = match admitted.subject {
            Some(Subject::Proxy(group)) => group,
            Some(Subject::Agent(_)) | None => {
                return Err(Status::permission_denied(
                    "this port is for the member's own proxies, with a token of ServiceAccount \
                     fairlead-system/fairlead-proxy-<group>",
                ));
            }
        };
        self.refusal(&group).map_or(Ok((group, admitted.life)), Err)
    }

    /// Why a group is not served here, as far as that is known yet.
    fn refusal(&self, group: &str) -> Option<Status> {
        let received = self.shared.received.lock();
        let own = received.group();
        if !received.proxies_known() || own == Some(group) {
            return None;
        }
        let message = match own {
            Some(own) => format!("this member's proxy group is {own}, not {group}"),
            None => format!(
                "this member has no proxy group; make ProxyGroup {group} on the hub, with this \
                 member in spec.member"
            ),
        };
        Some(Status::permission_denied(message))
    }
}

/// A proxy with an open stream of reports.
struct Reporting {
    upward: Upward,
    id: ProxyId,
}

impl Reporting {
    fn start(upward: &Upward, id: ProxyId) -> Self {
        upward.reports.reports(&id);
        Self {
            upward: upward.clone(),
            id,
        }
    }

    fn take(&self, report: &LoadStatsRequest, first: bool) {
        self.upward.reports.reported(&self.id, report, first);
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.upward.reports.reports_no_more(&self.id);
    }
}

/// A proxy with an open configuration stream.
struct Here {
    upward: Upward,
    id: ProxyId,
}

impl Here {
    fn connect(upward: &Upward, group: String, node: &Node) -> Self {
        let version = match &node.user_agent_version {
            Some(UserAgentVersion::Text(text)) => text.as_str(),
            None => "",
        };
        let node = node.id.clone();
        let id = ProxyId { group, node };
        upward.reports.connected(&id, version);
        tracing::info!(proxy = id.node, "a proxy connected");
        Self {
            upward: upward.clone(),
            id,
        }
    }

    fn answered(&self, stream: &Stream) {
        let refused = stream.refused().map(|(of, reason)| Refusal {
            resource: format!("{of:?}"),
            reason: reason.to_owned(),
        });
        let (applied, settled) = (stream.applied(), stream.is_settled());
        let reports = &self.upward.reports;
        reports.answered(&self.id, applied, settled, refused.collect());
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        tracing::info!(proxy = self.id.node, "a proxy is gone");
        self.upward.reports.disconnected(&self.id);
    }
}

/// One proxy's ADS stream.
struct Connection {
    relay: Relay,
    id: Here,
    stream: Stream,
    to: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Connection {
    async fn run(
        mut self,
        first: DeltaDiscoveryRequest,
        requests: Streaming<DeltaDiscoveryRequest>,
        life: Option<Duration>,
    ) {
        if let Some(status) = self.serve(first, requests, life).await {
            drop(self.to.send(Err(status)).await);
        }
    }

    /// Serves until the proxy leaves or may stay no longer; the reason is told to it.
    async fn serve(
        &mut self,
        first: DeltaDiscoveryRequest,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        life: Option<Duration>,
    ) -> Option<Status> {
        let mut revision = self.relay.shared.revision();
        let mut end = std::pin::pin!(sleep_for(life));
        self.hear(&first);
        loop {
            if let Some(refusal) = self.relay.refusal(&self.id.id.group) {
                return Some(refusal);
            }
            let responses = self.say();
            if responses.is_empty() {
                self.id.answered(&self.stream);
            }
            for response in responses {
                if self.to.send(Ok(response)).await.is_err() {
                    return None;
                }
            }
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.hear(&request),
                    _ => return None,
                },
                changed = revision.changed() => changed.ok()?,
                () = &mut end => return Some(expired()),
            }
        }
    }

    fn hear(&mut self, request: &DeltaDiscoveryRequest) {
        match self.stream.hear(request) {
            Heard::Refused(of, message) => {
                tracing::warn!(
                    proxy = self.id.id.node,
                    ?of,
                    message,
                    "an update was refused"
                );
                self.id.answered(&self.stream);
            }
            Heard::Acknowledged(_) => self.id.answered(&self.stream),
            Heard::Unknown(url) => tracing::debug!(url, "a type that is not served"),
            Heard::Subscribed | Heard::Stale => {}
        }
    }

    /// Nothing is said before everything is known: less would be taken for all.
    fn say(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let received = self.relay.shared.received.lock();
        if !received.proxies_known() {
            return Vec::new();
        }
        let mut responses =
            self.stream
                .say(received.proxies(), received.revision(), &Type::OF_PROXIES);
        for response in &mut responses {
            response.control_plane = Some(ControlPlane {
                identifier: format!("fairlead-agent/{}", self.relay.version),
            });
        }
        responses
    }
}

async fn first<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_TIMEOUT, requests.message()).await {
        Ok(Ok(Some(first))) => Ok(first),
        Ok(Ok(None)) => Err(Status::cancelled("the stream ended before it began")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no request came on the stream")),
    }
}

async fn sleep_for(life: Option<Duration>) {
    match life {
        Some(life) => tokio::time::sleep(life).await,
        None => std::future::pending().await,
    }
}

fn expired() -> Status {
    Status::unauthenticated("the token has run out; come back with a new one")
}

/// Responses that wait for a slow proxy; further changes are put together meanwhile.
const ANSWERS_QUEUE: usize = 4;
/// A stream that says nothing is closed.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
