//! What a run of the fleet showed.

use std::{fmt, path::Path, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Options;

/// The result of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    machine: String,
    members: usize,
    services: usize,
    endpoints_per_member_and_service: usize,
    proxies: usize,
    changes_per_second: u32,
    changes: usize,
    /// From the acknowledged write to the endpoint in the view of the last proxy.
    milliseconds: Percentiles,
    /// What a proxy was told for a change, which is an endpoint less and one more.
    bytes_per_change: f64,
    /// What a proxy was told at the start, an endpoint.
    bytes_at_first_per_endpoint: f64,
    /// CPU time of the whole process, all API servers and agents in it, a change, beyond what the fleet
    /// takes when nothing changes.
    cpu_milliseconds_per_change: f64,
    /// The whole process while changes come, and while none come.
    cpu_cores: f64,
    idle_cores: f64,
    hub_plan_microseconds: f64,
    resident_megabytes: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// What the process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    resident: u64,
}

/// What was measured.
pub(crate) struct Found {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) usage: Usage,
    pub(crate) idle_cores: f64,
    pub(crate) bytes_at_first: f64,
    pub(crate) bytes: f64,
    pub(crate) plan_seconds: f64,
}

impl Record {
    pub(crate) fn new(options: &Options, found: Found) -> Self {
        let mut latencies = found.latencies;
        latencies.sort_unstable();
        let at = |part: f64| {
            let last = latencies.len().saturating_sub(1);
            let index = (latencies.len() as f64 * part).ceil() as usize;
            let found = latencies.get(index.saturating_sub(1).min(last));
            round(found.map_or(0.0, |one| one.as_secs_f64() * 1000.0))
        };
        let (seconds, changes) = (f64::from(options.seconds), latencies.len().max(1) as f64);
        let cores = found.usage.cpu.as_secs_f64() / seconds;
        let proxies = options.proxies.max(1) as f64;
        let endpoints = options.members * options.services * options.endpoints;
        Self {
            machine: crate::report::machine(),
            members: options.members,
            services: options.services,
            endpoints_per_member_and_service: options.endpoints,
            proxies: options.proxies,
            changes_per_second: options.rate,
            changes: latencies.len(),
            milliseconds: Percentiles {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                max: at(1.0),
            },
            bytes_per_change: found.bytes.div_euclid(changes * proxies),
            bytes_at_first_per_endpoint: round(
                found.bytes_at_first / (endpoints.max(1) as f64 * proxies),
            ),
            cpu_milliseconds_per_change: round(
                (cores - found.idle_cores) * seconds * 1000.0 / changes,
            ),
            cpu_cores: round(cores),
            idle_cores: round(found.idle_cores),
            hub_plan_microseconds: round(found.plan_seconds * 1e6),
            resident_megabytes: found.usage.resident / 1_000_000,
        }
    }

    /// Puts it into a file of results.
    pub(crate) fn keep(&self, path: &Path) -> anyhow::Result<()> {
        let mut all: Vec<Self> = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).context("the file of results")?,
            Err(_) => Vec::new(),
        };
        let size = |one: &Self| (one.members, one.proxies);
        all.retain(|one| size(one) != size(self));
        all.push(self.clone());
        all.sort_by_key(size);
        let mut text = serde_json::to_string_pretty(&all)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { p50, p90, p99, max } = self.milliseconds;
        writeln!(
            out,
            "{} members, {} services, {} endpoints each, {} proxies, {} changes/s:",
            self.members,
            self.services,
            self.endpoints_per_member_and_service,
            self.proxies,
            self.changes_per_second,
        )?;
        writeln!(
            out,
            "  acknowledged to active  p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, max {max} ms"
        )?;
        writeln!(
            out,
            "  told to a proxy         {} bytes a change, {} bytes an endpoint at first",
            self.bytes_per_change, self.bytes_at_first_per_endpoint,
        )?;
        writeln!(
            out,
            "  the whole process       {} cores ({} idle), {} ms CPU a change, {} MB",
            self.cpu_cores,
            self.idle_cores,
            self.cpu_milliseconds_per_change,
            self.resident_megabytes,
        )?;
        writeln!(
            out,
            "  the hub's plan          {} µs in the mean",
            self.hub_plan_microseconds
        )
    }
}

impl Usage {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
        let fields = status.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<u64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or(0);
        // After the name: user and system time in hundredths of a second, then pages.
        Ok(Self {
            cpu: Duration::from_millis((field(11) + field(12)) * 10),
            resident: field(21) * 4096,
        })
    }

    pub(crate) fn since(self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            resident: self.resident,
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
