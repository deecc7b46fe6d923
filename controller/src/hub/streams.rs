//! ADS and LRS streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use fairlead_config::{
    name::MemberName,
    xds::{
        envelope,
        proto::{
            core::Node,
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
            load_stats::{LoadStatsRequest, LoadStatsResponse},
        },
        service::{Aggregated, Answers, LoadReporting},
    },
};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    access::{self, Access, Admitted},
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
    fleet::{ProxyId, Source, wanted_reports},
    identity::Subject,
    stream::{
        Heard, Stream,
        io::{self, Configure, End, Opened, TakeReports},
    },
    world::{GroupName, ServiceKey},
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
        let admitted = self.admit(request.metadata()).await?;
        let (opened, answers) = Opened::start(request.into_inner(), admitted.life).await?;
        let audience = self.audience(admitted.subject, opened.first.node.as_ref())?;
        let shared = &self.shared;
        let mut connection = Connection {
            streams: self.clone(),
            audience,
            proxy: None,
            told: None,
            served_since: 0,
            asked: false,
            revision: shared.revision.clone(),
            members: shared.members.clone(),
            groups: shared.groups.clone(),
            phase: shared.phase.clone(),
        };
        self.tasks.spawn(async move {
            connection.enroll(opened.first.node.as_ref());
            io::configure(opened, &mut connection).await;
            connection.leave();
        });
        Ok(answers)
    }
}

impl LoadReporting for Streams {
    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Answers<LoadStatsResponse>>, Status> {
        let replica = request.extensions().get::<Replica>().cloned();
        let admitted = match replica {
            Some(_) => None,
            None => Some(self.admit(request.metadata()).await?),
        };
        let life = admitted.as_ref().and_then(|admitted| admitted.life);
        let (opened, answers) = Opened::start(request.into_inner(), life).await?;
        let node = opened.first.node.clone().unwrap_or_default();
        let subject = admitted.and_then(|admitted| admitted.subject);
        let named = node.cluster.strip_prefix(REPLICA_CLUSTER);
        let named = named.filter(|_| subject.is_none());
        let replica = replica.or_else(|| Some(Replica(named?.to_owned())));
        if let Some(replica) = replica {
            self.tasks.spawn(self.clone().take_handed(replica, opened));
            return Ok(answers);
        }
        let audience = self.audience(subject, Some(&node))?;
        let group = self.reporting_group(&audience, &node)?;
        let id = ProxyId {
            group,
            node: node.id,
        };
        let from = match audience {
            Audience::Member(_) => {
                Teller::Agent(Relayed::new(self.reports.clone(), id.group.into()))
            }
            Audience::Group(_) => {
                self.reports.reports(&id);
                Teller::Proxy(id)
            }
        };
        let mut reporting = Reporting {
            streams: self.clone(),
            from,
            revision: self.shared.revision.clone(),
        };
        self.tasks
            .spawn(async move { io::take_reports(opened, &mut reporting).await });
        Ok(answers)
    }
}

impl Streams {
    /// Who is refused though its token is good for something shows in an event; strangers are
    /// counted by their status alone, or they would fill the store.
    async fn admit(&self, metadata: &MetadataMap) -> Result<Admitted, Status> {
        let admitted = self.access.admit(metadata).await;
        if let Err(refused) = &admitted {
            let about = access::about;
            self.access
                .tell_refused(metadata, refused, &self.events, about)
                .await;
        }
        admitted
    }

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
        mut opened: Opened<LoadStatsRequest, LoadStatsResponse>,
    ) {
        tracing::info!(replica, "a replica hands on what its proxies say");
        self.metrics.stream_opened("replica");
        let mut source = Source::default();
        // It is open for as long as it is answered.
        let open = opened.answer(wanted_reports(&BTreeSet::new())).await;
        if open.is_continue() {
            let mut next = Some(std::mem::take(&mut opened.first));
            while let Some(message) = next {
                self.reports.take_handed(&mut source, &message);
                self.look_ahead(&message);
                next = opened.next().await;
            }
        }
        self.reports.end_handed(source);
        self.metrics.stream_closed("replica");
    }

    fn look_ahead(&self, report: &LoadStatsRequest) {
        if let Some(state) = &report.proxy {
            let board = self.shared.board.read();
            if state.epoch == board.epoch() && state.as_of > board.as_of() {
                let shown = Shown {
                    epoch: state.epoch.clone(),
                    as_of: state.as_of,
                    went_back: false,
                    answer: None,
                };
                // Where it finds no room, the next report shows it again.
                self.shown.try_send(shown).ok();
            }
        }
    }
}

/// Whose reports come on a stream.
enum Teller {
    Proxy(ProxyId),
    Agent(Relayed),
}

/// One stream of reports.
struct Reporting {
    streams: Streams,
    from: Teller,
    revision: watch::Receiver<u64>,
}

impl TakeReports for Reporting {
    fn wanted(&mut self) -> LoadStatsResponse {
        wanted_reports(&self.streams.shared.board.read().watched())
    }

    fn take(&mut self, report: &LoadStatsRequest, first: bool) {
        match &mut self.from {
            Teller::Proxy(id) => self.streams.reports.reported(id, report, first),
            Teller::Agent(relayed) => relayed.take(report),
        }
        self.streams.look_ahead(report);
    }

    async fn changed(&mut self) -> ControlFlow<End> {
        goes_on(self.revision.changed().await)
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        if let Teller::Proxy(id) = &self.from {
            self.streams.reports.reports_no_more(id);
        }
    }
}

/// One ADS stream.
struct Connection {
    streams: Streams,
    audience: Audience,
    proxy: Option<ProxyId>,
    /// An agent's: the group whose resources it was told, and since when that serves what it serves.
    told: Option<GroupName>,
    served_since: u64,
    /// Whether endpoints were asked for, for a member that no proxy serves.
    asked: bool,
    revision: watch::Receiver<u64>,
    members: watch::Receiver<Arc<BTreeSet<MemberName>>>,
    groups: watch::Receiver<OwnGroups>,
    phase: watch::Receiver<Phase>,
}

impl Configure for Connection {
    /// Before the first plan there is nothing to say, and "nothing" would be taken for an answer. So
    /// would what a restored hub has forgotten.
    async fn begin(&mut self, first: &DeltaDiscoveryRequest) -> ControlFlow<End> {
        // Before the first answer, so that imports come with endpoints at once.
        self.ask_for_endpoints().await;
        comes(&mut self.phase, Phase::Serving).await?;
        self.show(first.node.as_ref()).await;
        comes(&mut self.phase, Phase::Serving).await
    }

    async fn prepare(&mut self) -> ControlFlow<End> {
        self.ask_for_endpoints().await;
        ControlFlow::Continue(())
    }

    fn say(&mut self, stream: &mut Stream) -> Vec<DeltaDiscoveryResponse> {
        let board = self.streams.shared.board.read();
        let revision = board.revision();
        let mut responses = match &self.audience {
            Audience::Group(group) => match board.group(group) {
                Some(table) => stream.say_with(table, board.chunks(), revision, &Type::OF_PROXIES),
                None => Vec::new(),
            },
            Audience::Member(member) => {
                let group = self.streams.shared.groups.borrow().get(member).cloned();
                if self.told != group {
                    self.told.clone_from(&group);
                    stream.start_over();
                }
                let serves = |name: &str| {
                    let key = name.split_once('/');
                    let key = key.map(|(namespace, name)| ServiceKey::new(namespace, name));
                    let served = group.as_ref().zip(key);
                    served.is_some_and(|(group, key)| board.serves(group, &key))
                };
                let served_since = group.as_ref().map_or(0, |group| board.served_since(group));
                if std::mem::replace(&mut self.served_since, served_since) != served_since {
                    stream.compare_imports();
                }
                let imports = (board.imports(false), board.imports(true));
                let mut responses = stream.say_imports(imports, &serves, revision);
                // A member without a group is told so: it may have had one.
                let none = Table::default();
                let table = group.as_ref().and_then(|group| board.group(group));
                let own = table.unwrap_or(&none);
                let chunks = board.chunks();
                responses.extend(stream.say_with(own, chunks, revision, &Type::OF_PROXIES));
                for response in &mut responses {
                    response.proxy_group = group.as_deref().unwrap_or_default().to_owned();
                }
                responses
            }
        };
        io::sign(&mut responses, "fairlead-hub", env!("CARGO_PKG_VERSION"));
        let bytes = responses.iter().map(Message::encoded_len).sum();
        self.streams.metrics.sent(self.peer(), bytes);
        responses
    }

    fn heard(&mut self, heard: Heard, stream: &Stream) {
        match heard {
            Heard::Acknowledged(_) => {
                self.streams.metrics.answered("acknowledged");
                self.note_answer(stream);
            }
            Heard::Refused(of, message) => {
                self.streams.metrics.answered("refused");
                tracing::warn!(audience = ?self.audience, ?of, message, "an update was refused");
                if let Some(id) = &self.proxy {
                    let about = About::Group(id.group.clone());
                    let note = format!("proxy {} refuses: {message}", id.node);
                    self.streams.events.warning(about, "Refused", note);
                }
                self.note_answer(stream);
            }
            Heard::StillRefused(_) => {
                self.streams.metrics.answered("refused");
                self.note_answer(stream);
            }
            Heard::Unknown(url) => {
                tracing::debug!(audience = ?self.audience, url, "a type that is not served");
            }
            Heard::Subscribed | Heard::Stale => {}
        }
    }

    fn is_quiet(&mut self, stream: &Stream) {
        self.note_answer(stream);
    }

    async fn changed(&mut self) -> ControlFlow<End> {
        tokio::select! {
            changed = self.revision.changed() => goes_on(changed),
            changed = self.groups.changed() => goes_on(changed),
            changed = self.members.changed() => {
                goes_on(changed)?;
                match &self.audience {
                    Audience::Member(member) if !self.members.borrow().contains(member) => {
                        let gone = Status::permission_denied("the member was taken out");
                        ControlFlow::Break(Some(gone))
                    }
                    _ => ControlFlow::Continue(()),
                }
            }
            held = comes(&mut self.phase, Phase::Holding) => {
                held?;
                ControlFlow::Break(Some(Status::unavailable(
                    "the hub was restored; keep what you have, it goes on once members have mirrored anew",
                )))
            }
        }
    }
}

impl Connection {
    fn peer(&self) -> &'static str {
        match self.audience {
            Audience::Group(_) => "proxy",
            Audience::Member(_) => "agent",
        }
    }

    fn leave(&self) {
        if let Some(id) = &self.proxy {
            self.streams.reports.disconnected(id);
        }
        self.streams.metrics.stream_closed(self.peer());
    }

    /// A member that no proxy serves is told endpoints, which the engine leaves out until somebody
    /// wants them.
    async fn ask_for_endpoints(&mut self) {
        let Audience::Member(member) = &self.audience else {
            return;
        };
        let own = self.streams.shared.groups.borrow().contains_key(member);
        if !own && !self.asked {
            drop(self.streams.engine.send(Command::FullImports).await);
        }
        self.asked = !own;
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
            went_back: false,
            answer: Some(answer),
        };
        if self.streams.shown.send(shown).await.is_ok() {
            // The hub is not known to be restored when its store can't be asked.
            let _: Result<_, _> = tokio::time::timeout(SHOWN_TIMEOUT, told).await;
        }
    }

    fn enroll(&mut self, node: Option<&Node>) {
        self.streams.metrics.stream_opened(self.peer());
        let Audience::Group(group) = &self.audience else {
            return;
        };
        let node = node.cloned().unwrap_or_default();
        let id = ProxyId {
            group: group.to_string(),
            node: node.id.clone(),
        };
        self.streams.reports.connected(&id, io::version_of(&node));
        self.proxy = Some(id);
    }

    fn note_answer(&self, stream: &Stream) {
        if let Some(id) = &self.proxy {
            let (applied, settled) = (stream.applied(), stream.is_settled());
            let refused = io::refusals(stream, self.streams.shared.board.read().group(&id.group));
            let reports = &self.streams.reports;
            reports.answered(id, applied, settled, refused);
        }
    }
}

/// Waits for a phase; breaks when the hub ends.
async fn comes(phase: &mut watch::Receiver<Phase>, wanted: Phase) -> ControlFlow<End> {
    goes_on(phase.wait_for(|phase| *phase == wanted).await.map(drop))
}

/// Whoever tells of changes lives as long as the hub does.
fn goes_on(changed: Result<(), watch::error::RecvError>) -> ControlFlow<End> {
    match changed {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(None),
    }
}

/// A member's own proxy group.
pub(super) type OwnGroups = Arc<BTreeMap<MemberName, GroupName>>;

/// How long the store is asked whether it was restored.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(12);
