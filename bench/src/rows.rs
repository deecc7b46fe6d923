//! What is measured: each row is one kind of load and one figure taken from it.

use serde::{Deserialize, Serialize};

use crate::{
    load::client::Kind,
    peers::{FRONT_ECHO, FRONT_SINK, FRONT_UDP},
    trials::Trial,
};

/// One row of the table. Smaller is better in every one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) figure: Figure,
    pub(crate) kind: Kind,
    pub(crate) parallel: usize,
    pub(crate) size: usize,
    pub(crate) rate: Option<f64>,
    /// It starts a contestant of its own and disturbs it.
    #[serde(default)]
    pub(crate) trial: Option<Trial>,
}

/// The figure that a row reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// CPU seconds per gigabyte.
    SecondsPerGigabyte,
    /// CPU microseconds per unit.
    MicrosPerUnit,
    /// The 50th, 99th and 99.9th percentile, microseconds; [`Contestant::Direct`] is what no proxy
    /// adds to.
    ///
    /// [`Contestant::Direct`]: crate::peers::Contestant::Direct
    Latency,
    /// User memory per held connection, kB.
    KilobytesPerIdle,
    /// User memory before any load, MB.
    BaseMegabytes,
    /// Failed connections, then in milliseconds: the longest that one took and still succeeded, the
    /// last that failed, the last that was affected, both counted from the fault; then those that
    /// had begun when their endpoint was lost, which no proxy can save, and are not among the failed.
    /// Of an endpoint that falls silent also what was tried there, see [`crate::trials::Silence`].
    Outage,
}

impl Figure {
    /// The unit for people.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::SecondsPerGigabyte => "CPU-s/GB",
            Self::MicrosPerUnit => "CPU-µs",
            Self::Latency => "µs",
            Self::KilobytesPerIdle => "kB",
            Self::BaseMegabytes => "MB",
            Self::Outage => {
                "failed; ms: worst wait, last failed, last affected; cut in flight; of a silent endpoint: ms in rotation, tried till then, tried later, ms a client waited"
            }
        }
    }
}

impl Row {
    /// How many seconds of load it takes at least. Of a thousandth, ten samples are no luck; and at a
    /// rate below what a proxy can do there are few units a second.
    pub(crate) fn seconds_min(&self) -> f64 {
        match (self.figure, self.rate) {
            (Figure::Latency, _) => 5.0,
            (_, Some(_)) => 2.0,
            _ => 0.0,
        }
    }

    /// Whether it is about datagrams.
    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.kind, Kind::Udp | Kind::Flow)
    }

    /// The proxy's port that it loads.
    pub(crate) fn port(&self) -> u16 {
        match self.kind {
            Kind::Bulk => FRONT_SINK,
            Kind::Udp | Kind::Flow => FRONT_UDP,
            Kind::Connect | Kind::Request | Kind::Idle => FRONT_ECHO,
        }
    }
}

/// All rows, in the order of the table.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = tcp();
    rows.extend(udp(many_flows()));
    rows.extend(trials());
    rows
}

/// A row of each kind, for a run that only shows that everything works.
pub(crate) fn smoke() -> Vec<Row> {
    let names = [
        "base memory",
        "new connection",
        "64 B request",
        "bulk, 16 connections",
    ];
    let names = [
        &names[..],
        &["UDP echo 64 B, 64 flows", "reload", "killed endpoint"],
    ]
    .concat();
    let mut rows: Vec<Row> = all();
    rows.retain(|row| names.contains(&row.name.as_str()));
    let idle = (Kind::Idle, 200, 64);
    rows.push(row(
        "idle connection, 200",
        Figure::KilobytesPerIdle,
        idle,
        None,
    ));
    rows
}

fn tcp() -> Vec<Row> {
    use Figure::{BaseMegabytes, KilobytesPerIdle, Latency, MicrosPerUnit, SecondsPerGigabyte};
    use Kind::{Bulk, Connect, Idle, Request};
    let mut rows = vec![
        row("base memory", BaseMegabytes, (Idle, 0, 0), None),
        row("new connection", MicrosPerUnit, (Connect, 64, 64), None),
        row("64 B request", MicrosPerUnit, (Request, 64, 64), None),
    ];
    for count in [1, 16, 64] {
        let name = format!(
            "bulk, {count} connection{}",
            if count > 1 { "s" } else { "" }
        );
        rows.push(row(&name, SecondsPerGigabyte, (Bulk, count, 0), None));
    }
    for count in [1, 16, 64] {
        let name = format!("bulk, {count} at 200 MB/s");
        rows.push(row(
            &name,
            SecondsPerGigabyte,
            (Bulk, count, 0),
            Some(200.0),
        ));
    }
    let latency = "added latency p50/p99/p99.9 at 2,000/s";
    rows.push(row(latency, Latency, (Request, 16, 64), Some(2000.0)));
    let idle = (Idle, 5000, 64);
    rows.push(row("idle connection, 5,000", KilobytesPerIdle, idle, None));
    rows
}

fn udp(many: usize) -> Vec<Row> {
    let name = format!("new UDP flow, {}", thousands(many));
    // Before the others, which use the same flows again.
    let mut rows = vec![row(
        &name,
        Figure::MicrosPerUnit,
        (Kind::Flow, many, 64),
        None,
    )];
    for flows in [64, many] {
        for size in [64, 1200] {
            let flows_text = thousands(flows);
            let name = format!("UDP echo {size} B, {flows_text} flows");
            rows.push(row(
                &name,
                Figure::MicrosPerUnit,
                (Kind::Udp, flows, size),
                None,
            ));
        }
    }
    for flows in [64, many] {
        let name = format!("UDP echo 1200 B, {} flows at 10,000/s", thousands(flows));
        let load = (Kind::Udp, flows, 1200);
        rows.push(row(&name, Figure::MicrosPerUnit, load, Some(10_000.0)));
    }
    rows
}

fn trials() -> Vec<Row> {
    let table = [
        ("reload", Trial::Reload),
        ("upgrade", Trial::Upgrade),
        ("refused endpoint", Trial::Refused),
        ("killed endpoint", Trial::Killed),
        ("black-holed endpoint", Trial::BlackHole),
    ];
    let trial = |(name, trial)| Row {
        trial: Some(trial),
        ..row(name, Figure::Outage, (Kind::Connect, 0, 64), None)
    };
    table.into_iter().map(trial).collect()
}

fn row(name: &str, figure: Figure, load: (Kind, usize, usize), rate: Option<f64>) -> Row {
    let (kind, parallel, size) = load;
    Row {
        name: name.to_owned(),
        figure,
        kind,
        parallel,
        size,
        rate,
        trial: None,
    }
}

/// Ten thousand, or what a quarter of the open files that are allowed here has room for: Fairlead
/// gives flows no more, so that a flood of datagrams never starves connections.
fn many_flows() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard = limits.lines().find_map(|line| {
        let line = line.strip_prefix("Max open files")?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()
    });
    hard.map_or(10_000, |hard| {
        (hard / 4).saturating_sub(500).clamp(64, 10_000)
    })
}

fn thousands(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}
