//! The shells of served streams, at a replica of the hub and at a member's agent alike: requests and
//! news in, answers out, until either side leaves or the client's time is over.
//!
//! What is said, and what becomes of what is heard, is for a [`Configure`] or a [`TakeReports`].

pub(crate) mod port;

use std::{collections::BTreeSet, ops::ControlFlow, pin::pin, time::Duration};

use fairlead_api::proxy::Refusal;
use fairlead_config::{
    name::ServiceName,
    snapshot::Change,
    xds::{
        decoder::Decoder,
        proto::{
            core::{ControlPlane, Node, UserAgentVersion},
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
            load_stats::{LoadStatsRequest, LoadStatsResponse},
        },
        service::Answers,
    },
};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Heard, Stream};
use crate::board::{Table, Type};

/// Why a stream ends, as its client is told; `None`: the client left, or this process ends.
pub(crate) type End = Option<Status>;

/// A stream whose first request has come.
pub(crate) struct Opened<Q, A> {
    pub(crate) first: Q,
    requests: Streaming<Q>,
    to: mpsc::Sender<Result<A, Status>>,
    life: Option<Duration>,
}

/// What serves a stream of configuration.
pub(crate) trait Configure: Send {
    /// Before anything is heard or said.
    fn begin(
        &mut self,
        first: &DeltaDiscoveryRequest,
    ) -> impl Future<Output = ControlFlow<End>> + Send {
        let _ = first;
        async { ControlFlow::Continue(()) }
    }

    /// Before each look at what there is to say.
    fn prepare(&mut self) -> impl Future<Output = ControlFlow<End>> + Send;

    /// What there is to say.
    fn say(&mut self, stream: &mut Stream) -> Vec<DeltaDiscoveryResponse>;

    /// What a request meant.
    fn heard(&mut self, heard: Heard, stream: &Stream);

    /// There is nothing to say.
    fn is_quiet(&mut self, stream: &Stream);

    /// Waits until there may be something to say. Dropped and called anew at any time.
    fn changed(&mut self) -> impl Future<Output = ControlFlow<End>> + Send;
}

/// What serves a stream of reports.
pub(crate) trait TakeReports: Send {
    /// What is wanted of them now.
    fn wanted(&mut self) -> LoadStatsResponse;

    /// A report; the first message of a stream only names its sender, as a rule.
    fn take(&mut self, report: &LoadStatsRequest, first: bool);

    /// Waits until something else may be wanted. Dropped and called anew at any time.
    fn changed(&mut self) -> impl Future<Output = ControlFlow<End>> + Send;
}

// === impl Opened ===

impl<Q: Send + 'static, A: Send + 'static> Opened<Q, A> {
    /// Waits for the first request; what is answered then goes out by the response. `life` is how
    /// long the client may stay.
    pub(crate) async fn start(
        mut requests: Streaming<Q>,
        life: Option<Duration>,
    ) -> Result<(Self, Response<Answers<A>>), Status> {
        let first = match tokio::time::timeout(FIRST_TIMEOUT, requests.message()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Err(Status::cancelled("the stream ended before it began")),
            Ok(Err(status)) => return Err(status),
            Err(_) => return Err(Status::deadline_exceeded("no request came on the stream")),
        };
        let (to, answers) = mpsc::channel(ANSWERS_QUEUE);
        let opened = Self {
            first,
            requests,
            to,
            life,
        };
        Ok((
            opened,
            Response::new(Box::pin(ReceiverStream::new(answers))),
        ))
    }

    /// The next request; `None` when the client has left.
    pub(crate) async fn next(&mut self) -> Option<Q> {
        self.requests.next().await?.ok()
    }

    /// Breaks when the client has left.
    pub(crate) async fn answer(&self, answer: A) -> ControlFlow<End> {
        match self.to.send(Ok(answer)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(None),
        }
    }

    /// Tells the client why it is over.
    async fn end(self, end: End) {
        if let Some(status) = end {
            drop(self.to.send(Err(status)).await);
        }
    }
}

/// Serves a stream of configuration to its end.
pub(crate) async fn configure(
    mut opened: Opened<DeltaDiscoveryRequest, DeltaDiscoveryResponse>,
    by: &mut impl Configure,
) {
    let end = match configure_on(&mut opened, by).await {
        ControlFlow::Break(end) => end,
        ControlFlow::Continue(never) => match never {},
    };
    opened.end(end).await;
}

async fn configure_on(
    opened: &mut Opened<DeltaDiscoveryRequest, DeltaDiscoveryResponse>,
    by: &mut impl Configure,
) -> ControlFlow<End, std::convert::Infallible> {
    let mut stream = Stream::default();
    let mut over = pin!(sleep_for(opened.life));
    by.begin(&opened.first).await?;
    by.heard(stream.hear(&opened.first), &stream);
    loop {
        by.prepare().await?;
        let responses = by.say(&mut stream);
        if stream.is_lost() {
            let message = "too far behind; come back and say what you have";
            return ControlFlow::Break(Some(Status::aborted(message)));
        }
        if responses.is_empty() {
            by.is_quiet(&stream);
        }
        for response in responses {
            opened.answer(response).await?;
        }
        tokio::select! {
            request = opened.next() => match request {
                Some(request) => by.heard(stream.hear(&request), &stream),
                None => return ControlFlow::Break(None),
            },
            changed = by.changed() => changed?,
            () = &mut over => return ControlFlow::Break(Some(expired())),
        }
    }
}

/// Takes a stream of reports to its end.
pub(crate) async fn take_reports(
    mut opened: Opened<LoadStatsRequest, LoadStatsResponse>,
    by: &mut impl TakeReports,
) {
    let end = match take_reports_on(&mut opened, by).await {
        ControlFlow::Break(end) => end,
        ControlFlow::Continue(never) => match never {},
    };
    opened.end(end).await;
}

async fn take_reports_on(
    opened: &mut Opened<LoadStatsRequest, LoadStatsResponse>,
    by: &mut impl TakeReports,
) -> ControlFlow<End, std::convert::Infallible> {
    let mut over = pin!(sleep_for(opened.life));
    by.take(&opened.first, true);
    let mut wanted = by.wanted();
    opened.answer(wanted.clone()).await?;
    loop {
        tokio::select! {
            request = opened.next() => match request {
                Some(report) => by.take(&report, false),
                None => return ControlFlow::Break(None),
            },
            changed = by.changed() => {
                changed?;
                let now = by.wanted();
                if now != wanted {
                    wanted = now;
                    opened.answer(wanted.clone()).await?;
                }
            }
            () = &mut over => return ControlFlow::Break(Some(expired())),
        }
    }
}

/// What a client calls its version.
pub(crate) fn version_of(node: &Node) -> &str {
    match &node.user_agent_version {
        Some(UserAgentVersion::Text(text)) => text,
        None => "",
    }
}

/// What a client refuses now of what `table` holds. A Listener is named after its address, so the
/// services behind it are named too.
pub(crate) fn refusals(stream: &Stream, table: Option<&Table>) -> Vec<Refusal> {
    let refused = stream.refused().map(|(of, reason)| {
        let services = match of {
            Type::Listener => services_behind(reason, table),
            _ => BTreeSet::new(),
        };
        let services: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
        let reason = match services[..] {
            [] => reason.to_owned(),
            _ => format!("{reason} (of {})", services.join(", ")),
        };
        Refusal {
            resource: format!("{of:?}"),
            reason,
        }
    });
    refused.collect()
}

/// The services of the Listeners that a text names.
fn services_behind(text: &str, table: Option<&Table>) -> BTreeSet<ServiceName> {
    let words = text.split_whitespace();
    let named = words.filter_map(|word| {
        let name = word.trim_end_matches([':', ',', ';', '.', '"', '\'']);
        table?.get(Type::Listener, name.trim_start_matches(['"', '\'']))
    });
    let named: Vec<Resource> = named.map(|resource| Resource::clone(resource)).collect();
    let decoded = Decoder::default().decode(Type::Listener.url(), &named, &[]);
    let frontends = decoded.delta.changes.into_iter();
    let services = frontends.filter_map(|change| match change {
        Change::Frontend(frontend) => Some(frontend.service),
        _ => None,
    });
    services.collect()
}

/// Writes on responses who says it.
pub(crate) fn sign(responses: &mut [DeltaDiscoveryResponse], name: &str, version: &str) {
    for response in responses {
        response.control_plane = Some(ControlPlane {
            identifier: format!("{name}/{version}"),
        });
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

/// Responses that wait for a slow client; further changes are put together meanwhile.
const ANSWERS_QUEUE: usize = 4;
/// A stream that says nothing is closed.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
