//! ADS and LRS streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_api::proxy::Refusal;
use fairlead_config::{
    name::MemberName,
    xds::{
        envelope,
        proto::{
            core::{ControlPlane, Node, UserAgentVersion},
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
            load_stats::{LoadStatsRequest, LoadStatsResponse},
        },
        service::{Aggregated, Answers, LoadReporting},
    },
};
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{
    access::Access,
    engine::{Command, Phase, Shared},
    epoch::Shown,
    events::{About, Announcer},
    forward::REPLICA_CLUSTER,
    metrics::Metrics,
    relayed::Relayed,
    reports::Reports,
};
use crate::{
    authority::Replica,
    board::{Table, Type},
    fleet::{ProxyId, Source},
    identity::Subject,
    stream::{Heard, Stream},
    world::GroupName,
};

/// What streams need.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) access: Access,
    pub(super) shared: Shared,
    pub(super) reports: Reports,
    pub(super) metrics: Metrics,
    pub(super) events: Announcer,
    pub(super) tasks: TaskTracker,
    pub(super) engine: mpsc::Sender<Command>,
    /// What proxies have seen that is later than what this replica has.
    pub(super) shown: mpsc::Sender<Shown>,
}

/// What one client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Audience {
    /// The resources of a group.
    Group(GroupName),
    /// Imports, and the resources of the member's own group if it has one.
    Member(MemberName),
}

impl Aggregated for Streams {
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        let admitted = self.access.admit(request.metadata()).await?;
        let mut requests = request.into_inner();
        let first = first(&mut requests).await?;
        let audience = self.audience(admitted.subject, first.node.as_ref())?;
        let (to, answers) = mpsc::channel(ANSWERS_QUEUE);
        let connection = Connection {
            streams: self.clone(),
            audience,
            stream: Stream::default(),
            to,
            proxy: None,
            told: None,
        };
        self.tasks
            .spawn(connection.run(first, requests, admitted.life));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl LoadReporting for Streams {
    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Answers<LoadStatsResponse>>, Status> {
        let replica = request.extensions().get::<Replica>().cloned();
        let (to, answers) = mpsc::channel(ANSWERS_QUEUE);
        let answers = Response::new(Box::pin(ReceiverStream::new(answers)) as Answers<_>);
        if let Some(replica) = replica {
            let requests = request.into_inner();
            self.tasks
                .spawn(self.clone().take_handed(replica, requests, to));
            return Ok(answers);
        }
        let admitted = self.access.admit(request.metadata()).await?;
        let mut requests = request.into_inner();
        let first = first(&mut requests).await?;
        let node = first.node.clone().unwrap_or_default();
        let replica = node.cluster.strip_prefix(REPLICA_CLUSTER);
        if let Some(replica) = replica.filter(|_| admitted.subject.is_none()) {
            let replica = Replica(replica.to_owned());
            self.tasks
                .spawn(self.clone().take_handed(replica, requests, to));
            return Ok(answers);
        }
        let audience = self.audience(admitted.subject, Some(&node))?;
        let group = self.reporting_group(&audience, &node)?;
        let id = ProxyId {
            group,
            node: node.id,
        };
        let streams = self.clone();
        if let Audience::Member(_) = audience {
            let relayed = Relayed::new(self.reports.clone(), id.group.into());
            self.tasks.spawn(async move {
                let source = Teller::Agent(relayed);
                streams
                    .take_reports(source, first, requests, to, admitted.life)
                    .await;
            });
            return Ok(answers);
        }
        self.tasks.spawn(async move {
            streams.reports.reports(&id);
            let source = Teller::Proxy(&id);
            streams
                .take_reports(source, first, requests, to, admitted.life)
                .await;
            streams.reports.reports_no_more(&id);
        });
        Ok(answers)
    }
}

impl Streams {
    fn audience(&self, subject: Option<Subject>, node: Option<&Node>) -> Result<Audience, Status> {
        let claimed = node.map(|node| node.cluster.as_str()).unwrap_or_default();
        match subject {
            Some(Subject::Proxy(group)) => Ok(Audience::Group(group.into())),
            Some(Subject::Agent(member)) => self.member(member),
            None => match claimed.strip_prefix("member/") {
                Some(member) => match MemberName::parse(member) {
                    Ok(member) => self.member(member),
                    Err(error) => Err(Status::invalid_argument(error.to_string())),
                },
                None if claimed.is_empty() => Err(Status::invalid_argument(
                    "node.cluster must name the proxy group",
                )),
                None => Ok(Audience::Group(claimed.into())),
            },
        }
    }

    fn member(&self, member: MemberName) -> Result<Audience, Status> {
        if self.shared.members.borrow().contains(&member) {
            Ok(Audience::Member(member))
        } else {
            Err(Status::permission_denied(format!(
                "there is no member {member}; it was taken out, or never joined"
            )))
        }
    }

    /// An agent reports for the proxies of its own member only.
    fn reporting_group(&self, audience: &Audience, node: &Node) -> Result<String, Status> {
        match audience {
            Audience::Group(group) => Ok(group.to_string()),
            Audience::Member(member) => {
                let own = self.shared.groups.borrow().get(member).cloned();
                match own {
                    // An agent says who it is, and names the proxies one by one.
                    Some(own)
                        if node.cluster.is_empty()
                            || node.cluster.starts_with("member/")
                            || *node.cluster == *own =>
                    {
                        Ok(own.to_string())
                    }
                    _ => Err(Status::permission_denied(format!(
                        "proxy group {:?} is not one of member {member}",
                        node.cluster
                    ))),
                }
            }
        }
    }

    /// What another replica hands on, until it does so no more.
    async fn take_handed(
        self,
        Replica(replica): Replica,
        mut requests: Streaming<LoadStatsRequest>,
        to: mpsc::Sender<Result<LoadStatsResponse, Status>>,
    ) {
        tracing::info!(replica, "a replica hands on what its proxies say");
        self.metrics.stream_opened("replica");
        let mut source = Source::default();
        // It is open for as long as it is answered.
        let none = BTreeSet::new();
        if to.send(Ok(load_answer(&none))).await.is_ok() {
            while let Some(Ok(message)) = requests.next().await {
                self.reports.take_handed(&mut source, &message);
                self.look_ahead(&message);
            }
        }
        self.reports.end_handed(source);
        self.metrics.stream_closed("replica");
    }

    async fn take_reports(
        &self,
        mut from: Teller<'_>,
        first: LoadStatsRequest,
        mut requests: Streaming<LoadStatsRequest>,
        to: mpsc::Sender<Result<LoadStatsResponse, Status>>,
        life: Option<Duration>,
    ) {
        let mut revision = self.shared.revision.clone();
        let mut end = std::pin::pin!(sleep_for(life));
        let mut watched = self.shared.board.read().watched();
        if to.send(Ok(load_answer(&watched))).await.is_err() {
            return;
        }
        self.take_report(&mut from, &first, true);
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(report)) => self.take_report(&mut from, &report, false),
                    _ => return,
                },
                changed = revision.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = self.shared.board.read().watched();
                    if now != watched {
                        watched = now;
                        if to.send(Ok(load_answer(&watched))).await.is_err() {
                            return;
                        }
                    }
                }
                () = &mut end => {
                    drop(to.send(Err(expired())).await);
                    return;
                }
            }
        }
    }

    fn take_report(&self, from: &mut Teller<'_>, report: &LoadStatsRequest, first: bool) {
        match from {
            Teller::Proxy(id) => self.reports.reported(id, report, first),
            Teller::Agent(relayed) => relayed.take(report),
        }
        self.look_ahead(report);
    }

    fn look_ahead(&self, report: &LoadStatsRequest) {
        if let Some(state) = &report.proxy {
            let board = self.shared.board.read();
            if state.epoch == board.epoch() && state.as_of > board.as_of() {
                let shown = Shown {
                    epoch: state.epoch.clone(),
                    as_of: state.as_of,
                    answer: None,
                };
                // Where it finds no room, the next report shows it again.
                self.shown.try_send(shown).ok();
            }
        }
    }
}

/// Whose reports come on a stream.
enum Teller<'i> {
    Proxy(&'i ProxyId),
    Agent(Relayed),
}

/// One ADS stream.
struct Connection {
    streams: Streams,
    audience: Audience,
    stream: Stream,
    to: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    proxy: Option<ProxyId>,
    /// An agent's: the group whose resources it was told.
    told: Option<GroupName>,
}

impl Connection {
    async fn run(
        mut self,
        first: DeltaDiscoveryRequest,
        requests: Streaming<DeltaDiscoveryRequest>,
        life: Option<Duration>,
    ) {
        let peer = match self.audience {
            Audience::Group(_) => "proxy",
            Audience::Member(_) => "agent",
        };
        self.streams.metrics.stream_opened(peer);
        self.enroll(first.node.as_ref());
        // Before the first answer, so that imports come with endpoints at once.
        self.ask_for_endpoints().await;
        let reason = self.serve(first, requests, life).await;
        if let Some(status) = reason {
            drop(self.to.send(Err(status)).await);
        }
        if let Some(id) = &self.proxy {
            self.streams.reports.disconnected(id);
        }
        self.streams.metrics.stream_closed(peer);
    }

    /// Serves until the client leaves or may stay no longer; the reason is told to it.
    async fn serve(
        &mut self,
        first: DeltaDiscoveryRequest,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        life: Option<Duration>,
    ) -> Option<Status> {
        let mut revision = self.streams.shared.revision.clone();
        let mut members = self.streams.shared.members.clone();
        let mut groups = self.streams.shared.groups.clone();
        let mut phase = self.streams.shared.phase.clone();
        let mut end = std::pin::pin!(sleep_for(life));
        // Before the first plan there is nothing to say, and "nothing" would be taken for an answer.
        // So would what a restored hub has forgotten.
        comes(&mut phase, Phase::Serving).await?;
        self.show(first.node.as_ref()).await;
        comes(&mut phase, Phase::Serving).await?;
        self.hear(&first);
        loop {
            let responses = self.say();
            if responses.is_empty() {
                self.note_answer();
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
                changed = revision.changed() => changed.err().map_or(Some(()), |_| None).map(drop)?,
                changed = groups.changed() => {
                    changed.ok()?;
                    self.ask_for_endpoints().await;
                }
                changed = members.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    if let Audience::Member(member) = &self.audience
                        && !members.borrow().contains(member)
                    {
                        return Some(Status::permission_denied("the member was taken out"));
                    }
                }
                held = comes(&mut phase, Phase::Holding) => {
                    held?;
                    return Some(Status::unavailable(
                        "the hub was restored; keep what you have, it goes on once members have mirrored anew",
                    ));
                }
                () = &mut end => return Some(expired()),
            }
        }
    }

    /// A member that no proxy serves is told endpoints, which the engine leaves out until somebody
    /// wants them.
    async fn ask_for_endpoints(&self) {
        if let Audience::Member(member) = &self.audience
            && !self.streams.shared.groups.borrow().contains_key(member)
        {
            drop(self.streams.engine.send(Command::FullImports).await);
        }
    }

    /// What a client runs on may be later than what the hub's store has; that is found out before
    /// anything is said to it.
    async fn show(&self, node: Option<&Node>) {
        let stamp = node.map(envelope::node_stamp).unwrap_or_default();
        let later = {
            let board = self.streams.shared.board.read();
            stamp.epoch == board.epoch() && stamp.as_of > board.as_of()
        };
        if !later {
            return;
        }
        let (answer, told) = oneshot::channel();
        let shown = Shown {
            epoch: stamp.epoch,
            as_of: stamp.as_of,
            answer: Some(answer),
        };
        if self.streams.shown.send(shown).await.is_ok() {
            // The hub is not known to be restored when its store can't be asked.
            let _: Result<_, _> = tokio::time::timeout(SHOWN_TIMEOUT, told).await;
        }
    }

    fn enroll(&mut self, node: Option<&Node>) {
        let Audience::Group(group) = &self.audience else {
            return;
        };
        let node = node.cloned().unwrap_or_default();
        let version = match node.user_agent_version {
            Some(UserAgentVersion::Text(text)) => text,
            None => String::new(),
        };
        let id = ProxyId {
            group: group.to_string(),
            node: node.id,
        };
        self.streams.reports.connected(&id, &version);
        self.proxy = Some(id);
    }

    fn hear(&mut self, request: &DeltaDiscoveryRequest) {
        match self.stream.hear(request) {
            Heard::Acknowledged(_) => {
                self.streams.metrics.answered("acknowledged");
                self.note_answer();
            }
            Heard::Refused(of, message) => {
                self.streams.metrics.answered("refused");
                tracing::warn!(audience = ?self.audience, ?of, message, "an update was refused");
                if let Some(id) = &self.proxy {
                    let about = About::Group(id.group.clone());
                    let note = format!("proxy {} refuses: {message}", id.node);
                    self.streams.events.warning(about, "Refused", note);
                }
                self.note_answer();
            }
            Heard::Unknown(url) => {
                tracing::debug!(audience = ?self.audience, url, "a type that is not served");
            }
            Heard::Subscribed | Heard::Stale => {}
        }
    }

    fn note_answer(&self) {
        if let Some(id) = &self.proxy {
            let refused = self.stream.refused().map(|(of, reason)| Refusal {
                resource: format!("{of:?}"),
                reason: reason.to_owned(),
            });
            let applied = self.stream.applied();
            let settled = self.stream.is_settled();
            let reports = &self.streams.reports;
            reports.answered(id, applied, settled, refused.collect());
        }
    }

    fn say(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let board = self.streams.shared.board.read();
        let revision = board.revision();
        let mut responses = match &self.audience {
            Audience::Group(group) => match board.group(group) {
                Some(table) => self.stream.say(table, revision, &Type::OF_PROXIES),
                None => Vec::new(),
            },
            Audience::Member(member) => {
                let group = self.streams.shared.groups.borrow().get(member).cloned();
                if self.told != group {
                    self.told.clone_from(&group);
                    self.stream.start_over();
                }
                let imports = board.imports(group.is_none());
                let mut responses = self.stream.say(imports, revision, &[Type::Import]);
                // A member without a group is told so: it may have had one.
                let none = Table::default();
                let table = group.as_ref().and_then(|group| board.group(group));
                let own = table.unwrap_or(&none);
                responses.extend(self.stream.say(own, revision, &Type::OF_PROXIES));
                for response in &mut responses {
                    response.proxy_group = group.as_deref().unwrap_or_default().to_owned();
                }
                responses
            }
        };
        for response in &mut responses {
            response.control_plane = Some(ControlPlane {
                identifier: format!("fairlead-hub/{}", env!("CARGO_PKG_VERSION")),
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

/// Waits for a phase; `None`: the hub ends.
async fn comes(phase: &mut watch::Receiver<Phase>, wanted: Phase) -> Option<()> {
    phase
        .wait_for(|phase| *phase == wanted)
        .await
        .ok()
        .map(drop)
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

fn load_answer(watched: &BTreeSet<String>) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: Vec::new(),
        load_reporting_interval: Some(fairlead_config::xds::proto::Duration {
            seconds: 10,
            nanos: 0,
        }),
        report_endpoint_granularity: false,
        send_all_clusters: true,
        watched: watched.iter().cloned().collect(),
    }
}

/// A member's own proxy group.
pub(super) type OwnGroups = Arc<BTreeMap<MemberName, GroupName>>;

/// Responses that wait for a slow client; further changes are put together meanwhile.
const ANSWERS_QUEUE: usize = 4;
/// How long the store is asked whether it was restored.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(12);
/// A stream that says nothing is closed.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
