//! What the member's proxies report, on its way up: one stream for all of them.
//!
//! When it begins, everything known is told; then each report goes on as it comes, verdicts at once.
//! While the hub is away the levels (live sessions) and verdicts are kept, so nothing of them is missing
//! afterwards. Counts of new and failed sessions are differences between two reports; those of that time
//! are not kept: the hub decides and shows nothing from them, and totals that survive everything are in
//! the proxies' own metrics.

use std::{sync::Arc, time::Duration};

use fairlead_config::xds::{
    proto::{
        Duration as ProtoDuration,
        core::Node,
        load_stats::{LoadStatsRequest, LoadStatsResponse},
    },
    service::Client,
};
use fairlead_runtime::{
    clock::Clock,
    tasks::{Backoff, TaskError},
};
use parking_lot::Mutex;
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use super::{
    jittered,
    uplink::{self, Shared, Uplink},
};
use crate::{fleet::Fleet, hub::reports::Reports};

/// What proxies said, and what the hub wants to hear; clones share it.
#[derive(Clone)]
pub(super) struct Upward {
    pub(super) reports: Reports,
    pub(super) fleet: Arc<Mutex<Fleet>>,
    asked: watch::Sender<LoadStatsResponse>,
}

impl Upward {
    pub(super) fn new(clock: Clock) -> Self {
        let everything = LoadStatsResponse {
            load_reporting_interval: Some(ProtoDuration {
                seconds: 10,
                nanos: 0,
            }),
            send_all_clusters: true,
            ..LoadStatsResponse::default()
        };
        let fleet = Arc::new(Mutex::new(Fleet::default()));
        Self {
            reports: Reports::new(fleet.clone(), clock),
            fleet,
            asked: watch::channel(everything).0,
        }
    }

    /// What the hub asked for last.
    pub(super) fn asked(&self) -> watch::Receiver<LoadStatsResponse> {
        self.asked.subscribe()
    }
}

/// Hands on for ever, over as many streams as it takes, while the member has a proxy group.
pub(super) async fn run(
    uplink: Uplink,
    member: String,
    shared: Shared,
    upward: Upward,
    clock: Clock,
) -> Result<(), TaskError> {
    let mut failures = 0_u32;
    let mut revision = shared.revision();
    loop {
        let group = shared.received.lock().group().map(str::to_owned);
        let Some(group) = group else {
            revision.changed().await?;
            continue;
        };
        let started = clock.now();
        let end = stream(&uplink, (&member, &group), &shared, &upward).await;
        let Err(error) = end else {
            continue;
        };
        failures = match clock.now() - started >= BACKOFF.settled {
            true => 0,
            false => failures + 1,
        };
        let delay = jittered(BACKOFF.delay(failures.saturating_sub(1)));
        tracing::info!(reason = %error, ?delay, "proxies' reports do not reach the hub; trying again");
        tokio::time::sleep(delay).await;
    }
}

/// One stream; `Ok` when another has to begin at once.
async fn stream(
    uplink: &Uplink,
    (member, group): (&str, &str),
    shared: &Shared,
    upward: &Upward,
) -> Result<(), TaskError> {
    let channel = uplink::connect(uplink).await?;
    let (to, queue) = mpsc::channel(REPORTS_QUEUE);
    let (all, mut news) = upward.reports.hand_on();
    to.try_send(LoadStatsRequest {
        node: Some(Node {
            id: member.to_owned(),
            cluster: format!("member/{member}"),
            ..Node::default()
        }),
        ..LoadStatsRequest::default()
    })?;
    let mut request = Request::new(ReceiverStream::new(queue));
    uplink::authorize(uplink, &mut request).await?;
    let answers = Client::new(channel).stream_load_stats(request).await?;
    let mut answers: Streaming<LoadStatsResponse> = answers.into_inner();
    for message in all {
        to.send(message).await?;
    }
    let mut revision = shared.revision();
    loop {
        tokio::select! {
            message = news.recv() => match message {
                Ok(message) => to.send(message).await?,
                Err(RecvError::Lagged(missed)) => {
                    tracing::info!(missed, "the hub is slow; it is told everything anew");
                    return Ok(());
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            answer = answers.message() => match answer? {
                Some(answer) => {
                    upward.asked.send_if_modified(|asked| {
                        let news = *asked != answer;
                        *asked = answer;
                        news
                    });
                }
                None => return Err("the hub ended the stream".into()),
            },
            changed = revision.changed() => {
                changed?;
                if shared.received.lock().group() != Some(group) {
                    return Ok(());
                }
            }
        }
    }
}

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
    settled: Duration::from_secs(10),
};
/// Messages on their way; further ones wait among the news.
const REPORTS_QUEUE: usize = 64;
