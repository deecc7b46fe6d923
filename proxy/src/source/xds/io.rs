//! The shell of the xDS client: connection, token, disk, clock.

use std::{sync::Arc, time::Duration};

use fairlead_config::xds::{
    envelope::Stamp,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    service::Client,
};
use fairlead_runtime::{
    clock::{Clock, Tick},
    files::Saver,
    tasks::{Backoff, TaskError},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, transport::Channel};

use super::{Ads, Counts, Step};
use crate::source::{Event, Refusal, RefusalKind};

pub(in crate::source) mod channel;
mod disk;

pub use channel::Options;

/// A control plane, and what it last said. Clones share it.
#[derive(Clone)]
pub struct XdsSource {
    options: Arc<Options>,
    clock: Clock,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    ads: Ads,
    link: Link,
}

/// The state of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whether a stream is open.
    pub connected: bool,
    /// Since when that is so.
    pub since: Tick,
    /// When the last answer came; `None` before the first.
    pub heard: Option<Tick>,
    /// Streams that ended.
    pub ends: u64,
    /// Why the last one ended.
    pub last_failure: Option<String>,
}

/// What metrics, `/snapshot` and load reports show of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdsStatus {
    /// The connection.
    pub link: Link,
    /// Totals.
    pub counts: Counts,
    /// The highest `asOf` in force.
    pub as_of: u64,
    /// Its epoch.
    pub epoch: String,
    /// Services that wait for their endpoints.
    pub waiting: Vec<String>,
}

// === impl XdsSource ===

impl XdsSource {
    /// Starts from the last good state on disk, if there is one: the event to begin with. A state
    /// that can't be used is refused, and the proxy waits for its control plane.
    pub fn open(options: Options, clock: Clock) -> (Self, Vec<Event>) {
        let mut ads = Ads::new(options.node());
        if options.state_file.is_none() {
            ads.forget_content();
        }
        let mut events = Vec::new();
        if let Some(path) = &options.state_file {
            match disk::load(path) {
                Ok(None) => {}
                Ok(Some(resources)) => {
                    let step = ads.restore(resources);
                    events.extend(events_of(&path.display().to_string(), step));
                }
                Err(error) => {
                    let origin = path.display().to_string();
                    events.push(Event::Refused(Refusal::new(
                        RefusalKind::Unreadable,
                        origin,
                        error,
                    )));
                }
            }
        }
        let link = Link {
            connected: false,
            since: clock.now(),
            heard: None,
            ends: 0,
            last_failure: None,
        };
        let source = Self {
            options: Arc::new(options),
            clock,
            shared: Arc::new(Mutex::new(Shared { ads, link })),
        };
        (source, events)
    }

    /// The state of the source. O(services).
    pub fn status(&self) -> XdsStatus {
        let shared = self.shared.lock();
        let stamp = shared.ads.stamp();
        XdsStatus {
            link: shared.link.clone(),
            counts: shared.ads.counts(),
            as_of: stamp.as_of,
            epoch: stamp.epoch,
            waiting: shared.ads.waiting(),
        }
    }

    /// Whether the control plane is connected and has said nothing more for a second: it has told
    /// everything, or has nothing to tell.
    pub fn has_told_all(&self, now: Tick) -> bool {
        let link = &self.shared.lock().link;
        let last = link.heard.map_or(link.since, |heard| heard.max(link.since));
        link.connected && now - last >= Duration::from_secs(1)
    }

    /// Whether endpoints of a service are still to come.
    pub fn is_waiting(&self) -> bool {
        self.shared.lock().ads.is_waiting()
    }

    /// The highest `asOf` in force, with its epoch.
    pub fn stamp(&self) -> Stamp {
        self.shared.lock().ads.stamp()
    }

    /// Yields an event for each answer that changes something, over as many streams as it takes,
    /// until `out` closes.
    pub async fn run(self, out: mpsc::Sender<Event>) -> Result<(), TaskError> {
        let mut failures = 0_u32;
        let mut saver = Saver::new(self.options.state_file.clone());
        loop {
            let started = self.clock.now();
            let end = self.stream(&out, &mut saver).await;
            if saver.is_pending() {
                // The next stream may be long in coming.
                self.save(&mut saver).await;
            }
            if out.is_closed() {
                return Ok(());
            }
            let reason = end.err().map_or_else(
                || "the control plane ended the stream".to_owned(),
                |error| error.to_string(),
            );
            let lasted = self.clock.now() - started;
            failures = if lasted >= BACKOFF.settled {
                0
            } else {
                failures + 1
            };
            let delay = jittered(BACKOFF.delay(failures.saturating_sub(1)));
            tracing::info!(
                server = self.options.server,
                reason,
                ?delay,
                "the stream to the control plane ended; serving on with what is in force"
            );
            self.note_end(reason);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// One stream, to its end.
    async fn stream(&self, out: &mpsc::Sender<Event>, saver: &mut Saver) -> Result<(), TaskError> {
        let channel = channel::connect(&self.options).await?;
        let (requests, answers) = self.open_stream(channel).await?;
        self.note_start();
        let mut answers = answers;
        loop {
            let deadline = self.shared.lock().ads.next_deadline();
            let release = deadline.map(|deadline| deadline - self.clock.now());
            let step = tokio::select! {
                answer = answers.message() => match answer? {
                    Some(answer) => self.receive(answer),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(release.unwrap_or_default()), if release.is_some() => {
                    self.shared.lock().ads.release(self.clock.now())
                }
                () = saver.due() => {
                    self.save(saver).await;
                    continue;
                }
            };
            if !step.delta.changes.is_empty() {
                saver.note_change();
            }
            for request in step.requests.clone() {
                requests.send(request).await?;
            }
            for event in events_of(&self.options.server, step) {
                if out.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn save(&self, saver: &mut Saver) {
        let resources = self.shared.lock().ads.in_force();
        disk::save(saver, resources).await;
    }

    async fn open_stream(
        &self,
        channel: Channel,
    ) -> Result<(Requests, Streaming<DeltaDiscoveryResponse>), TaskError> {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let first = self.shared.lock().ads.connect();
        for request in first {
            requests.try_send(request)?;
        }
        let mut request = Request::new(ReceiverStream::new(queue));
        channel::authorize(&self.options, &mut request)?;
        let mut client = Client::new(channel);
        let answers = client.delta_aggregated_resources(request).await?;
        Ok((requests, answers.into_inner()))
    }

    fn receive(&self, answer: DeltaDiscoveryResponse) -> Step {
        let now = self.clock.now();
        let mut shared = self.shared.lock();
        shared.link.heard = Some(now);
        shared.ads.receive(answer, now)
    }

    fn note_start(&self) {
        let link = &mut self.shared.lock().link;
        link.connected = true;
        link.since = self.clock.now();
        tracing::info!(
            server = self.options.server,
            "connected to the control plane"
        );
    }

    fn note_end(&self, reason: String) {
        let link = &mut self.shared.lock().link;
        link.ends += 1;
        if link.connected {
            link.connected = false;
            link.since = self.clock.now();
        }
        link.last_failure = Some(reason);
    }
}

type Requests = mpsc::Sender<DeltaDiscoveryRequest>;

/// What the control thread hears of a step.
fn events_of(origin: &str, step: Step) -> Vec<Event> {
    let mut events = Vec::new();
    if !step.delta.changes.is_empty() {
        events.push(Event::Delta(step.delta));
    }
    if !step.problems.is_empty() {
        let refusal = Refusal::of_resources(origin, &step.problems);
        events.push(Event::Refused(refusal));
    }
    events
}

/// Up to a quarter more or less, so that a fleet doesn't come back as one.
fn jittered(delay: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8) % 512;
    delay * (768 + u32::try_from(random).expect("below 512")) / 1024
}

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(10),
    settled: Duration::from_secs(10),
};
/// Requests that wait for the stream: the first three and one an answer.
const REQUESTS_MAX: usize = 16;
