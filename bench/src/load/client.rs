//! One piece of load: a kind, a target, a time; prints one [`Outcome`] as JSON.

use std::{net::SocketAddrV4, time::Duration};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::runtime::LocalRuntime;

use super::{bulk, connections, datagrams, requests};

/// What to send where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) kind: Kind,
    #[arg(long)]
    pub(crate) target: SocketAddrV4,
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Connections or flows at a time.
    #[arg(long, default_value_t = 1)]
    pub(crate) parallel: usize,
    /// Bytes a request, datagram or write.
    #[arg(long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Requests, datagrams (or, for bulk, megabytes) a second over all connections; absent: as fast as it goes.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Print a line at the start, for whoever wants to disturb from then on.
    #[arg(long)]
    pub(crate) announce: bool,
}

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Long writes on a few connections; a unit is a byte.
    Bulk,
    /// Connect, one exchange, reset; a unit is a connection.
    Connect,
    /// Exchanges on open connections; a unit is an exchange.
    Request,
    /// Opens connections, one exchange each, and holds them until standard input ends.
    Idle,
    /// Datagrams and their echoes; a unit is an echo.
    Udp,
    /// One datagram and its echo on each flow; a unit is a flow.
    Flow,
}

/// What came of it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Units done.
    pub(crate) units: u64,
    /// From the first to the last.
    pub(crate) seconds: f64,
    /// Units that failed.
    pub(crate) errors: u64,
    /// Latency in microseconds at 50, 99 and 99.9 per cent; from the intended start where a rate is
    /// given.
    pub(crate) latency: Option<[u64; 3]>,
    /// Of new connections, where something went wrong.
    #[serde(default)]
    pub(crate) trouble: Option<Trouble>,
}

/// What new connections suffered. Times are those of the intended start, from the first one on.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// The longest that one took and still succeeded, milliseconds.
    pub(crate) worst: f64,
    /// When those that failed really began, milliseconds.
    pub(crate) failed: Vec<f64>,
    /// The last one that failed or took longer than [`SLOW`], milliseconds.
    pub(crate) last_affected: Option<f64>,
    /// When each began that took longer than [`NOTICED`] or failed, and how long it took, milliseconds.
    #[serde(default)]
    pub(crate) waits: Vec<(f64, f64)>,
}

/// Runs one piece of load.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let outcome = LocalRuntime::new()?.block_on(async {
        match options.kind {
            Kind::Bulk => bulk::run(options).await,
            Kind::Connect => connections::run(options).await,
            Kind::Request => requests::run(options).await,
            Kind::Idle => connections::hold(options).await,
            Kind::Udp => datagrams::run(options, options.duration()).await,
            // No time, but each flow has its turn.
            Kind::Flow => datagrams::run(options, Duration::ZERO).await,
        }
    })?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

impl Trouble {
    /// Notes a connection that was to start at `start`, began at `began`, and has succeeded after
    /// `took`, or failed.
    pub(crate) fn note(&mut self, start: Duration, began: Duration, took: Option<Duration>) {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        match took {
            Some(took) => self.worst = self.worst.max(millis(took)),
            None => self.failed.push(millis(began)),
        }
        let waited = took.unwrap_or(PATIENCE);
        if waited > NOTICED {
            self.waits.push((millis(began), millis(waited)));
        }
        if took.is_none_or(|took| took > SLOW) {
            let last = self.last_affected.unwrap_or_default();
            self.last_affected = Some(last.max(millis(start)));
        }
    }
}

impl Options {
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// A connection that takes longer has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that takes longer may have waited for something.
const NOTICED: Duration = Duration::from_millis(3);
/// A connection that takes longer has met the fault.
const SLOW: Duration = Duration::from_millis(15);

/// A latency histogram: 1 µs to 60 s, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are valid")
}

/// The three quantiles that are reported.
pub(crate) fn quantiles(histogram: &Histogram<u64>) -> Option<[u64; 3]> {
    (!histogram.is_empty()).then(|| [0.5, 0.99, 0.999].map(|at| histogram.value_at_quantile(at)))
}
