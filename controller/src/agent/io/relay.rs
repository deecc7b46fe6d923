//! Streams of the member's own proxies: they are told what came down from the hub, from memory and
//! disk, hub or no hub, and what they report goes up.
//!
//! A proxy shows a token of its ServiceAccount, which the member's own API server reviews; the
//! account's name is the only source of its group, and only the member's own group is served. A
//! stream ends with its token.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use fairlead_api::proxy::Refusal;
use fairlead_config::xds::{
    proto::{
        core::Node,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        load_stats::{LoadStatsRequest, LoadStatsResponse},
    },
    service::{Aggregated, Answers, LoadReporting},
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{reports::Upward, uplink::Shared};
use crate::{
    board::Type,
    fleet::ProxyId,
    hub::{
        access::{self, Access},
        events::Announcer,
    },
    identity::Subject,
    stream::{
        Heard, Stream,
        io::{self, Configure, End, Opened, TakeReports},
    },
};

/// What streams need.
#[derive(Clone)]
pub(super) struct Relay {
    pub(super) access: Access,
    pub(super) shared: Shared,
    pub(super) upward: Upward,
    pub(super) events: Announcer,
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
        let (opened, answers) = Opened::start(request.into_inner(), life).await?;
        let node = opened.first.node.clone().unwrap_or_default();
        let mut connection = Connection {
            id: Here::connect(&self.upward, group, &node),
            revision: self.shared.revision(),
            relay: self.clone(),
        };
        self.tasks
            .spawn(async move { io::configure(opened, &mut connection).await });
        Ok(answers)
    }
}

impl LoadReporting for Relay {
    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Answers<LoadStatsResponse>>, Status> {
        let (group, life) = self.admit(request.metadata()).await?;
        let (opened, answers) = Opened::start(request.into_inner(), life).await?;
        let node = opened.first.node.clone().unwrap_or_default().id;
        let mut reporting = Reporting::start(self, ProxyId { group, node });
        self.tasks
            .spawn(async move { io::take_reports(opened, &mut reporting).await });
        Ok(answers)
    }
}

impl Relay {
    /// The group of a proxy of this member, and how long it may stay. A refusal shows in an event of
    /// the account that the token is of, if it is anybody's.
    async fn admit(&self, metadata: &MetadataMap) -> Result<(String, Option<Duration>), Status> {
        let admitted = self.judge(metadata).await;
        if let Err(refused) = &admitted {
            let about = access::account;
            self.access
                .tell_refused(metadata, refused, &self.events, about)
                .await;
        }
        admitted
    }

    async fn judge(&self, metadata: &MetadataMap) -> Result<(String, Option<Duration>), Status> {
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
    relay: Relay,
    id: ProxyId,
    asked: watch::Receiver<LoadStatsResponse>,
    revision: watch::Receiver<u64>,
}

impl Reporting {
    fn start(relay: &Relay, id: ProxyId) -> Self {
        relay.upward.reports.reports(&id);
        Self {
            relay: relay.clone(),
            id,
            asked: relay.upward.asked(),
            revision: relay.shared.revision(),
        }
    }
}

impl TakeReports for Reporting {
    fn wanted(&mut self) -> LoadStatsResponse {
        self.asked.borrow_and_update().clone()
    }

    fn take(&mut self, report: &LoadStatsRequest, first: bool) {
        let reports = &self.relay.upward.reports;
        reports.reported(&self.id, report, first);
    }

    async fn changed(&mut self) -> ControlFlow<End> {
        let changed = tokio::select! {
            changed = self.asked.changed() => changed,
            changed = self.revision.changed() => changed,
        };
        let refusal = self.relay.refusal(&self.id.group);
        match refusal {
            None if changed.is_ok() => ControlFlow::Continue(()),
            end => ControlFlow::Break(end),
        }
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.relay.upward.reports.reports_no_more(&self.id);
    }
}

/// A proxy with an open configuration stream.
struct Here {
    upward: Upward,
    id: ProxyId,
}

impl Here {
    fn connect(upward: &Upward, group: String, node: &Node) -> Self {
        let id = ProxyId {
            group,
            node: node.id.clone(),
        };
        upward.reports.connected(&id, io::version_of(node));
        tracing::info!(proxy = id.node, "a proxy connected");
        Self {
            upward: upward.clone(),
            id,
        }
    }

    fn answered(&self, stream: &Stream, refused: Vec<Refusal>) {
        let (applied, settled) = (stream.applied(), stream.is_settled());
        let reports = &self.upward.reports;
        reports.answered(&self.id, applied, settled, refused);
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
    revision: watch::Receiver<u64>,
}

impl Connection {
    fn note_answer(&self, stream: &Stream) {
        let refused = io::refusals(stream, Some(self.relay.shared.received.lock().proxies()));
        self.id.answered(stream, refused);
    }
}

impl Configure for Connection {
    async fn prepare(&mut self) -> ControlFlow<End> {
        match self.relay.refusal(&self.id.id.group) {
            None => ControlFlow::Continue(()),
            refusal => ControlFlow::Break(refusal),
        }
    }

    /// Nothing is said before everything is known: less would be taken for all.
    fn say(&mut self, stream: &mut Stream) -> Vec<DeltaDiscoveryResponse> {
        let received = self.relay.shared.received.lock();
        if !received.proxies_known() {
            return Vec::new();
        }
        let revision = received.revision();
        let mut responses = stream.say(received.proxies(), revision, &Type::OF_PROXIES);
        io::sign(&mut responses, "fairlead-agent", &self.relay.version);
        responses
    }

    fn heard(&mut self, heard: Heard, stream: &Stream) {
        match heard {
            Heard::Refused(of, message) => {
                tracing::warn!(
                    proxy = self.id.id.node,
                    ?of,
                    message,
                    "an update was refused"
                );
                self.note_answer(stream);
            }
            Heard::Acknowledged(_) | Heard::StillRefused(_) => self.note_answer(stream),
            Heard::Unknown(url) => tracing::debug!(url, "a type that is not served"),
            Heard::Subscribed | Heard::Stale => {}
        }
    }

    fn is_quiet(&mut self, stream: &Stream) {
        self.note_answer(stream);
    }

    async fn changed(&mut self) -> ControlFlow<End> {
        match self.revision.changed().await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(None),
        }
    }
}
