//! What was measured, as a table, as JSON and as a chart.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{peers::Contestant, rows::Row};

mod chart;

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The machine, one line.
    pub(crate) machine: String,
    /// Where the processes ran.
    pub(crate) place: String,
    /// Each contestant's word on its version.
    pub(crate) versions: Vec<(Contestant, String)>,
    /// Row by row.
    pub(crate) rows: Vec<(Row, Vec<Sample>)>,
}

/// One contestant's figure in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) contestant: Contestant,
    pub(crate) round: usize,
    /// One figure, or three percentiles.
    pub(crate) values: Vec<f64>,
    /// Units a second; 0 where there are none.
    pub(crate) per_second: f64,
    pub(crate) errors: u64,
}

/// Redraws the chart.
#[derive(Args)]
pub(crate) struct ChartOptions {
    /// A recorded result.
    record: PathBuf,
    /// Where to write the SVG.
    out: PathBuf,
}

/// Redraws the chart of a recorded result.
pub(crate) fn chart(options: &ChartOptions) -> anyhow::Result<()> {
    let recorded: Recorded = serde_json::from_str(&std::fs::read_to_string(&options.record)?)?;
    std::fs::write(&options.out, recorded.chart())?;
    Ok(())
}

impl Sample {
    pub(crate) fn of(values: Vec<f64>) -> Self {
        Self {
            contestant: Contestant::Floor,
            round: 0,
            values,
            per_second: 0.0,
            errors: 0,
        }
    }
}

impl Recorded {
    pub(crate) fn begin(contestants: &[Contestant]) -> anyhow::Result<Self> {
        let versions = contestants
            .iter()
            .map(|contestant| Ok((*contestant, contestant.version()?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            machine: machine(),
            place: String::new(),
            versions,
            rows: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, row: &Row, sample: Sample) {
        match self
            .rows
            .iter_mut()
            .find(|(known, _)| known.name == row.name)
        {
            Some((_, samples)) => samples.push(sample),
            None => self.rows.push((row.clone(), vec![sample])),
        }
    }

    /// The table for people: medians, and Fairlead's per-round ratios to the floor and to the best
    /// peer.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{}\n{}\n", self.machine, self.place);
        for (contestant, version) in &self.versions {
            writeln!(out, "  {contestant}: {version}").expect("writing to a string");
        }
        for (row, samples) in &self.rows {
            writeln!(out, "\n{} ({})", row.name, row.figure.unit()).expect("writing to a string");
            for contestant in Contestant::ALL {
                let own: Vec<&Sample> = samples
                    .iter()
                    .filter(|sample| sample.contestant == contestant)
                    .collect();
                if let Some(line) = summary(&own) {
                    writeln!(out, "  {contestant:<16} {line}").expect("writing to a string");
                }
            }
            out.push_str(&self.verdict(samples));
        }
        out
    }

    pub(crate) fn chart(&self) -> String {
        chart::draw(self)
    }

    fn verdict(&self, samples: &[Sample]) -> String {
        let mut out = String::new();
        let noise = ratios(samples, Contestant::HaproxyAgain, Contestant::Haproxy)
            .map(|ratios| spread(&ratios))
            .unwrap_or_default();
        for peer in [
            Contestant::Floor,
            Contestant::Haproxy,
            Contestant::Nginx,
            Contestant::Envoy,
        ] {
            let Some(ratios) = ratios(samples, Contestant::Fairlead, peer) else {
                continue;
            };
            let median = median(&ratios);
            let word = if (median - 1.0).abs() <= noise {
                "equal"
            } else if median < 1.0 {
                "less"
            } else {
                "more"
            };
            let best = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            writeln!(
                out,
                "    fairlead / {peer}: {median:.2} (best {best:.2}), {word} (A/A spread {noise:.2})"
            )
            .expect("writing to a string");
        }
        out
    }
}

fn summary(samples: &[&Sample]) -> Option<String> {
    let first = samples.first()?;
    let mut out = String::new();
    for index in 0..first.values.len() {
        let values: Vec<f64> = samples.iter().map(|sample| sample.values[index]).collect();
        write!(out, "{:>9.2}", median(&values)).expect("writing to a string");
    }
    let rates: Vec<f64> = samples.iter().map(|sample| sample.per_second).collect();
    let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
    if median(&rates) > 0.0 {
        write!(out, "   {:>12.0}/s", median(&rates)).expect("writing to a string");
    }
    if errors > 0 {
        write!(out, "   {errors} errors").expect("writing to a string");
    }
    Some(out)
}

/// Round by round, the first figure of `one` over that of `other`.
pub(crate) fn ratios(samples: &[Sample], one: Contestant, other: Contestant) -> Option<Vec<f64>> {
    let figure = |contestant, round| {
        let found = samples
            .iter()
            .find(|sample| sample.contestant == contestant && sample.round == round)?;
        found.values.first().copied().filter(|value| *value > 0.0)
    };
    let rounds = samples.iter().map(|sample| sample.round).max()? + 1;
    let ratios: Vec<f64> = (0..rounds)
        .filter_map(|round| Some(figure(one, round)? / figure(other, round)?))
        .collect();
    (!ratios.is_empty()).then_some(ratios)
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// How far the ratio of a thing to itself strays from one: half the time no further than this.
fn spread(ratios: &[f64]) -> f64 {
    median(
        &ratios
            .iter()
            .map(|ratio| (ratio - 1.0).abs())
            .collect::<Vec<_>>(),
    )
}

/// CPU, cores and kernel, one line.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contestant: Contestant, round: usize, value: f64) -> Sample {
        Sample {
            contestant,
            round,
            ..Sample::of(vec![value])
        }
    }

    #[test]
    fn ratios_pair_figures_of_the_same_round() {
        let samples = [
            sample(Contestant::Fairlead, 0, 2.0),
            sample(Contestant::Haproxy, 0, 4.0),
            sample(Contestant::Haproxy, 1, 10.0),
            sample(Contestant::Fairlead, 1, 20.0),
            sample(Contestant::Fairlead, 2, 20.0),
        ];
        let found = ratios(&samples, Contestant::Fairlead, Contestant::Haproxy);
        assert_eq!(found, Some(vec![0.5, 2.0]));
        assert_eq!(
            ratios(&samples, Contestant::Envoy, Contestant::Haproxy),
            None
        );
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
