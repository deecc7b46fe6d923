//! The agent's one connection to its hub: what comes down is taken in, and kept on disk.

use std::{path::PathBuf, sync::Arc, time::Duration};

use fairlead_config::xds::{
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    service::Client,
};
use fairlead_runtime::{
    clock::{Clock, Tick},
    files::Saver,
    logging::with_causes,
    tasks::{Backoff, TaskError},
};
use parking_lot::Mutex;
use tokio::{
    fs,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{disk, jittered};
use crate::agent::received::Received;

/// Where the hub serves streams, and what they are opened with.
#[derive(Debug, Clone, Default)]
pub struct Uplink {
    /// `https://host:port`, or `http://host:port` of a hub without TLS.
    pub server: String,
    /// What the hub is checked against, PEM; read at each connect.
    pub bundle: Option<PathBuf>,
    /// The token of audience fairlead-xds; read at each connect, as it is renewed in place.
    pub token: Option<PathBuf>,
}

/// What came down, and how the connection is; clones share it.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) received: Arc<Mutex<Received>>,
    /// Moves with each change of what was received.
    revision: watch::Sender<u64>,
    pub(super) link: Arc<Mutex<Link>>,
}

/// The state of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// Whether a stream is open.
    pub(super) connected: bool,
    /// Streams that ended.
    pub(super) ends: u64,
    /// Why the last one ended.
    pub(super) last_failure: Option<String>,
}

impl Shared {
    pub(super) fn new(received: Received) -> Self {
        let (revision, _) = watch::channel(received.revision());
        Self {
            received: Arc::new(Mutex::new(received)),
            revision,
            link: Arc::default(),
        }
    }

    /// Moves with each change of what was received.
    pub(super) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn tell(&self) {
        let revision = self.received.lock().revision();
        self.revision.send_replace(revision);
    }
}

/// Takes in what the hub says, over as many streams as it takes, for ever.
pub(super) async fn run(
    uplink: Uplink,
    shared: Shared,
    mut saver: Saver,
    clock: Clock,
) -> Result<(), TaskError> {
    let mut failures = 0_u32;
    loop {
        let started = clock.now();
        let end = stream(&uplink, &shared, &mut saver, &clock).await;
        if saver.is_pending() {
            // The next stream may be long in coming.
            let kept = shared.received.lock().kept();
            disk::save(&mut saver, kept).await;
        }
        let reason = end.err().map_or_else(
            || "the hub ended the stream".to_owned(),
            |error| error.to_string(),
        );
        failures = match clock.now() - started >= BACKOFF.settled {
            true => 0,
            false => failures + 1,
        };
        let delay = jittered(BACKOFF.delay(failures.saturating_sub(1)));
        tracing::info!(
            hub = uplink.server,
            reason,
            ?delay,
            "the stream from the hub ended; going on with what it said"
        );
        {
            let mut link = shared.link.lock();
            link.connected = false;
            link.ends += 1;
            link.last_failure = Some(reason);
        }
        tokio::time::sleep(delay).await;
    }
}

/// One stream, to its end.
async fn stream(
    uplink: &Uplink,
    shared: &Shared,
    saver: &mut Saver,
    clock: &Clock,
) -> Result<(), TaskError> {
    let (requests, mut answers) = open(uplink, shared).await?;
    shared.link.lock().connected = true;
    tracing::info!(hub = uplink.server, "the stream from the hub is open");
    loop {
        let release = shared.received.lock().next_deadline();
        let release = release.map(|at| at - clock.now());
        let changed = tokio::select! {
            answer = answers.message() => match answer? {
                Some(answer) => {
                    let (request, changed) = receive(shared, answer, clock.now());
                    requests.send(request).await?;
                    changed
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(release.unwrap_or_default()), if release.is_some() => {
                shared.received.lock().release(clock.now())
            }
            () = saver.due() => {
                let kept = shared.received.lock().kept();
                disk::save(saver, kept).await;
                false
            }
        };
        if changed {
            saver.note_change();
            shared.tell();
        }
    }
}

fn receive(
    shared: &Shared,
    answer: DeltaDiscoveryResponse,
    now: Tick,
) -> (DeltaDiscoveryRequest, bool) {
    let (request, changed) = shared.received.lock().receive(answer, now);
    if let Some(refusal) = &request.error_detail {
        tracing::warn!(
            reason = refusal.message,
            "something of what the hub said is refused"
        );
    }
    (request, changed)
}

async fn open(
    uplink: &Uplink,
    shared: &Shared,
) -> Result<
    (
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    ),
    TaskError,
> {
    let channel = connect(uplink).await?;
    let (requests, queue) = mpsc::channel(REQUESTS_MAX);
    for request in shared.received.lock().connect() {
        requests.try_send(request)?;
    }
    let mut request = Request::new(ReceiverStream::new(queue));
    authorize(uplink, &mut request).await?;
    let answers = Client::new(channel)
        .delta_aggregated_resources(request)
        .await?;
    Ok((requests, answers.into_inner()))
}

/// Connects; the certificates are read anew each time.
pub(super) async fn connect(uplink: &Uplink) -> Result<Channel, TaskError> {
    let mut endpoint = Endpoint::from_shared(uplink.server.clone())
        .map_err(|error| format!("the hub's address {:?}: {error}", uplink.server))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if let Some(path) = &uplink.bundle {
        let bundle = fs::read(path)
            .await
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(bundle));
        endpoint = endpoint.tls_config(tls)?;
    }
    endpoint.connect().await.map_err(|error| {
        let reason = with_causes(&error);
        format!("the hub {} can't be reached: {reason}", uplink.server).into()
    })
}

/// Adds the token to a request, if there is one.
pub(super) async fn authorize<T>(
    uplink: &Uplink,
    request: &mut Request<T>,
) -> Result<(), TaskError> {
    let Some(path) = &uplink.token else {
        return Ok(());
    };
    let token = fs::read_to_string(path)
        .await
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let value = format!("Bearer {}", token.trim()).parse()?;
    request.metadata_mut().insert("authorization", value);
    Ok(())
}

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(10),
    settled: Duration::from_secs(10),
};
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A black-holed hub is noticed within 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A full state of a large fleet should not wait for window updates.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// Requests that wait for the stream: the first four and one an answer.
const REQUESTS_MAX: usize = 16;
