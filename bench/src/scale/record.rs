//! What a run showed.

use std::{fmt, path::Path, time::Duration};

use anyhow::Context;
use serde::Serialize;

/// The result of one run. Megabytes are a million bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) machine: String,
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    /// Whether the last good state was kept on disk.
    pub(crate) state_on_disk: bool,
    /// From sending the first resource until the frontend that was sent last answers.
    pub(crate) load_seconds: f64,
    /// From sending one endpoint's change until a connection arrives there.
    pub(crate) change_milliseconds: Spread,
    /// The peak until everything was loaded.
    pub(crate) peak_megabytes_loaded: f64,
    /// The peak of the whole run.
    pub(crate) peak_megabytes: f64,
    /// The peak after the metrics page was asked for as well.
    pub(crate) peak_megabytes_scraped: f64,
    /// At the end.
    pub(crate) resident_megabytes: f64,
    /// What live sessions took while nothing happened, during the load, and during the changes.
    pub(crate) calm: Latencies,
    pub(crate) loading: Latencies,
    pub(crate) changing: Latencies,
    /// Of one worker.
    pub(crate) files_per_frontend: f64,
    pub(crate) yaml: Yaml,
    /// Of a file of ten services: from the change until it is in effect.
    pub(crate) reload_milliseconds: Reloads,
}

/// What live sessions took, counted from the intended start.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latencies {
    pub(crate) request_milliseconds: Spread,
    /// A new connection with its first exchange.
    pub(crate) connect_milliseconds: Spread,
}

/// What a file costs, per 1,000 endpoints.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Yaml {
    /// From starting the process until it serves.
    pub(crate) start_milliseconds: f64,
    /// From a rename over the file until one endpoint's change is in effect.
    pub(crate) reload_milliseconds: f64,
    /// Of the process, at its peak.
    pub(crate) peak_megabytes: f64,
    /// Of the file.
    pub(crate) kilobytes: f64,
}

/// By how the file changes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Reloads {
    /// Written in place.
    pub(crate) write: Spread,
    /// Replaced by a rename.
    pub(crate) rename: Spread,
    /// Behind a link that is swapped, as in a ConfigMap.
    pub(crate) swap: Spread,
}

/// Quantiles.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of times, in milliseconds.
    pub(crate) fn of(times: &[Duration]) -> Self {
        let mut times = times.to_vec();
        times.sort_unstable();
        let at = |part: f64| {
            let rank = (times.len() as f64 * part).ceil() as usize;
            let time = times.get(rank.saturating_sub(1));
            time.map_or(0.0, |time| round(time.as_secs_f64() * 1e3))
        };
        Self {
            count: times.len(),
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

impl Record {
    /// Writes it to a file.
    pub(crate) fn keep(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (services, endpoints) = (self.services, self.endpoints);
        writeln!(out, "{services} services of {endpoints} endpoints:")?;
        writeln!(out, "  full load            {:.2} s", self.load_seconds)?;
        writeln!(out, "  an endpoint's change {}", self.change_milliseconds)?;
        writeln!(
            out,
            "  memory               {:.0} MB at the peak ({:.0} until loaded, {:.0} with a scrape), {:.0} at the end",
            self.peak_megabytes,
            self.peak_megabytes_loaded,
            self.peak_megabytes_scraped,
            self.resident_megabytes
        )?;
        for (name, latencies) in [
            ("calm    ", self.calm),
            ("loading ", self.loading),
            ("changing", self.changing),
        ] {
            let (request, connect) = (
                latencies.request_milliseconds,
                latencies.connect_milliseconds,
            );
            writeln!(out, "  requests, {name}   {request}")?;
            writeln!(out, "  connects, {name}   {connect}")?;
        }
        writeln!(
            out,
            "  files                {:.2} a frontend and worker",
            self.files_per_frontend
        )?;
        let yaml = self.yaml;
        writeln!(
            out,
            "  a YAML file, per 1,000 endpoints: {:.1} ms of a start, {:.1} ms of a reload, {:.2} MB, {:.0} kB of text",
            yaml.start_milliseconds, yaml.reload_milliseconds, yaml.peak_megabytes, yaml.kilobytes
        )?;
        let reloads = self.reload_milliseconds;
        writeln!(out, "  reload, write        {}", reloads.write)?;
        writeln!(out, "  reload, rename       {}", reloads.rename)?;
        writeln!(out, "  reload, link swapped {}", reloads.swap)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, max, .. } = self;
        write!(out, "p50 {p50} ms, p99 {p99} ms, max {max} ms")
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        let spread = Spread::of(&times);
        assert_eq!((spread.p50, spread.p99, spread.max), (50.0, 99.0, 100.0));
        assert_eq!(Spread::of(&[]).max, 0.0);
    }
}
