//! What is measured: each row is one kind of load and one figure taken from it.

use serde::{Deserialize, Serialize};

use crate::{
    load::client::Kind,
    peers::{FRONT_ECHO, FRONT_SINK, FRONT_UDP},
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
}

/// The figure that a row reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// CPU seconds per gigabyte.
    SecondsPerGigabyte,
    /// CPU microseconds per unit.
    MicrosPerUnit,
    /// The 50th, 99th and 99.9th percentile, microseconds.
    Latency,
    /// User memory per held connection, kB.
    KilobytesPerIdle,
    /// User memory before any load, MB.
    BaseMegabytes,
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
        }
    }
}

impl Row {
    /// Whether it is about datagrams.
    pub(crate) fn is_udp(&self) -> bool {
        self.kind == Kind::Udp
    }

    /// The proxy's port that it loads.
    pub(crate) fn port(&self) -> u16 {
        match self.kind {
            Kind::Bulk => FRONT_SINK,
            Kind::Udp => FRONT_UDP,
            Kind::Connect | Kind::Request | Kind::Idle => FRONT_ECHO,
        }
    }
}

/// All rows, in the order of the table.
pub(crate) fn all() -> Vec<Row> {
    use Figure::{BaseMegabytes, KilobytesPerIdle, Latency, MicrosPerUnit, SecondsPerGigabyte};
    use Kind::{Bulk, Connect, Idle, Request, Udp};
    let gigabyte = SecondsPerGigabyte;
    let table = [
        ("base memory", BaseMegabytes, (Idle, 0, 0), None),
        ("new connection", MicrosPerUnit, (Connect, 64, 64), None),
        ("64 B request", MicrosPerUnit, (Request, 64, 64), None),
        ("bulk, 1 connection", gigabyte, (Bulk, 1, 0), None),
        ("bulk, 16 connections", gigabyte, (Bulk, 16, 0), None),
        ("bulk, 64 connections", gigabyte, (Bulk, 64, 0), None),
        ("bulk, 16 at 200 MB/s", gigabyte, (Bulk, 16, 0), Some(200.0)),
        (
            "latency p50/p99/p99.9, 2,000/s",
            Latency,
            (Request, 16, 64),
            Some(2000.0),
        ),
        (
            "UDP echo 64 B, 64 flows",
            MicrosPerUnit,
            (Udp, 64, 64),
            None,
        ),
        (
            "UDP echo 1200 B, 64 flows",
            MicrosPerUnit,
            (Udp, 64, 1200),
            None,
        ),
        (
            "UDP echo 64 B, 8,000 flows",
            MicrosPerUnit,
            (Udp, 8000, 64),
            None,
        ),
        (
            "idle connection, 5,000",
            KilobytesPerIdle,
            (Idle, 5000, 64),
            None,
        ),
    ];
    table
        .into_iter()
        .map(|(name, figure, (kind, parallel, size), rate)| Row {
            name: name.to_owned(),
            figure,
            kind,
            parallel,
            size,
            rate,
        })
        .collect()
}
