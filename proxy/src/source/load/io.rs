//! The shell of load reports: the stream, the clock, and whom to ask for a sample.

use std::{sync::Arc, time::Duration};

use fairlead_config::xds::{
    proto::load_stats::{LoadStatsRequest, LoadStatsResponse},
    service::Client,
};
use fairlead_runtime::{
    clock::Clock,
    tasks::{Backoff, TaskError},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use super::{Reporter, Sample};
use crate::source::xds::{Options, channel};

/// Somebody wants a sample.
pub type Asked = oneshot::Sender<Sample>;

/// Reports to a control plane for as long as it runs.
#[derive(Clone)]
pub struct LoadReporter {
    options: Arc<Options>,
    clock: Clock,
    /// The control thread, which answers with a sample.
    control: mpsc::Sender<Asked>,
    /// Changes whenever a verdict does.
    verdicts: watch::Receiver<u64>,
}

// === impl LoadReporter ===

impl LoadReporter {
    /// `control` is asked for samples; `verdicts` changes whenever an endpoint's state does.
    pub fn new(
        options: Options,
        clock: Clock,
        control: mpsc::Sender<Asked>,
        verdicts: watch::Receiver<u64>,
    ) -> Self {
        Self {
            options: Arc::new(options),
            clock,
            control,
            verdicts,
        }
    }

    /// Reports over as many streams as it takes, until the control thread is gone.
    pub async fn run(self) -> Result<(), TaskError> {
        let mut reporter = Reporter::new();
        let mut failures = 0_u32;
        loop {
            let started = self.clock.now();
            let end = self.stream(&mut reporter).await;
            if self.control.is_closed() {
                return Ok(());
            }
            let lasted = self.clock.now() - started;
            failures = if lasted >= BACKOFF.settled {
                0
            } else {
                failures + 1
            };
            let delay = BACKOFF.delay(failures.saturating_sub(1));
            let reason = end.err().map(|error| error.to_string());
            tracing::info!(
                server = self.options.server,
                reason,
                ?delay,
                "the stream of load reports ended"
            );
            tokio::time::sleep(delay).await;
        }
    }

    async fn stream(&self, reporter: &mut Reporter) -> Result<(), TaskError> {
        let channel = channel::connect(&self.options).await?;
        let (reports, queue) = mpsc::channel(REPORTS_MAX);
        reports.try_send(LoadStatsRequest {
            node: Some(self.options.node()),
            ..LoadStatsRequest::default()
        })?;
        let mut request = Request::new(ReceiverStream::new(queue));
        channel::authorize(&self.options, &mut request)?;
        let answers = Client::new(channel).stream_load_stats(request).await?;
        reporter.restart();
        self.serve(reporter, reports, answers.into_inner()).await
    }

    async fn serve(
        &self,
        reporter: &mut Reporter,
        reports: mpsc::Sender<LoadStatsRequest>,
        mut answers: Streaming<LoadStatsResponse>,
    ) -> Result<(), TaskError> {
        let mut verdicts = self.verdicts.clone();
        loop {
            let wait = reporter.next_deadline() - self.clock.now();
            tokio::select! {
                answer = answers.message() => match answer? {
                    Some(answer) => reporter.take(&answer, self.clock.now()),
                    None => return Ok(()),
                },
                changed = verdicts.changed() => {
                    changed?;
                    // Endpoints seldom fail alone.
                    tokio::time::sleep(GATHER).await;
                    verdicts.mark_unchanged();
                }
                () = tokio::time::sleep(wait) => {}
            }
            let Some(sample) = self.ask().await else {
                return Ok(());
            };
            if let Some(report) = reporter.report(&sample, self.clock.now()) {
                reports.send(report).await?;
            }
        }
    }

    async fn ask(&self) -> Option<Sample> {
        let (reply, sample) = oneshot::channel();
        self.control.send(reply).await.ok()?;
        sample.await.ok()
    }
}

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
    settled: Duration::from_secs(10),
};
/// Verdicts that follow within this go together.
const GATHER: Duration = Duration::from_millis(10);
/// A control plane that doesn't read stops us from sampling, no more.
const REPORTS_MAX: usize = 4;
