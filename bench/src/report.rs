//! What was measured, as tables, as JSON and as a chart.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    peers::Contestant,
    rows::{Figure, Row},
};

mod chart;
mod markdown;

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

/// Shows a recorded result again.
#[derive(Args)]
pub(crate) struct ShowOptions {
    /// A recorded result.
    record: PathBuf,
    /// Draw the chart there, as SVG.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// Print the table for README.md instead of the long one.
    #[arg(long)]
    markdown: bool,
}

/// Shows a recorded result again.
pub(crate) fn show(options: &ShowOptions) -> anyhow::Result<()> {
    let recorded: Recorded = serde_json::from_str(&std::fs::read_to_string(&options.record)?)?;
    if let Some(path) = &options.chart {
        std::fs::write(path, recorded.chart())?;
    }
    match options.markdown {
        true => print!("{}", markdown::table(&recorded)),
        false => print!("{}", recorded.table()),
    }
    Ok(())
}

/// A contestant's figures of one row in brief.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Brief {
    /// Medians; of an outage the sum of failures and the longest times, for a good round undoes no
    /// bad one.
    pub(crate) values: Vec<f64>,
    /// The median rate.
    pub(crate) per_second: f64,
    pub(crate) errors: u64,
    pub(crate) rounds: usize,
}

impl Sample {
    pub(crate) fn of(contestant: Contestant, values: Vec<f64>) -> Self {
        Self {
            contestant,
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
            for contestant in [&Contestant::ALL[..], &[Contestant::Direct]].concat() {
                if let Some(brief) = brief(row, samples, contestant) {
                    writeln!(out, "  {contestant:<16} {brief}").expect("writing to a string");
                }
            }
            if row.figure != Figure::Outage {
                out.push_str(&verdict(row, samples));
            }
        }
        out
    }

    pub(crate) fn chart(&self) -> String {
        chart::draw(self)
    }

    /// Rounds that were made.
    pub(crate) fn rounds(&self) -> usize {
        let samples = self.rows.iter().flat_map(|(_, samples)| samples);
        samples.map(|sample| sample.round + 1).max().unwrap_or(0)
    }

    /// Units that failed, of all.
    pub(crate) fn errors(&self) -> u64 {
        let samples = self.rows.iter().flat_map(|(_, samples)| samples);
        samples.map(|sample| sample.errors).sum()
    }
}

impl std::fmt::Display for Brief {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for value in &self.values {
            write!(out, "{value:>9.2}")?;
        }
        if self.per_second > 0.0 {
            write!(out, "   {:>12.0}/s", self.per_second)?;
        }
        if self.errors > 0 {
            write!(out, "   {} errors", self.errors)?;
        }
        Ok(())
    }
}

fn verdict(row: &Row, samples: &[Sample]) -> String {
    let mut out = String::new();
    let noise = noise(row, samples);
    for peer in [&[Contestant::Floor][..], &PEERS].concat() {
        let Some(ratios) = ratios(row, samples, Contestant::Fairlead, peer) else {
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
    if row.figure == Figure::Latency {
        let apart: Vec<String> = [0, 1, 2]
            .into_iter()
            .filter_map(|column| Some(format!("{:.0}", apart(row, samples, column)?)))
            .collect();
        writeln!(out, "    A/A spread in µs: {}", apart.join(" / ")).expect("writing to a string");
    }
    out
}

/// How far the two HAProxys are apart in a column, half the time no further than this.
fn apart(row: &Row, samples: &[Sample], column: usize) -> Option<f64> {
    let one = figures(row, samples, Contestant::Haproxy);
    let other = figures(row, samples, Contestant::HaproxyAgain);
    let apart = one.iter().filter_map(|(round, values)| {
        Some((values.get(column)? - other.get(round)?.get(column)?).abs())
    });
    let apart: Vec<f64> = apart.collect();
    (!apart.is_empty()).then(|| median(&apart))
}

/// A contestant's figures by round; of a latency, what it adds.
fn figures(row: &Row, samples: &[Sample], contestant: Contestant) -> BTreeMap<usize, Vec<f64>> {
    let of = |contestant| {
        let own = samples.iter().filter(move |it| it.contestant == contestant);
        own.map(|sample| (sample.round, sample.values.clone()))
    };
    let direct: BTreeMap<usize, Vec<f64>> = of(Contestant::Direct).collect();
    let mut figures: BTreeMap<usize, Vec<f64>> = of(contestant).collect();
    if row.figure == Figure::Latency && contestant != Contestant::Direct {
        for (round, values) in &mut figures {
            for (value, direct) in values
                .iter_mut()
                .zip(direct.get(round).into_iter().flatten())
            {
                *value -= direct;
            }
        }
    }
    figures
}

/// A contestant's row in brief; none where it has none.
pub(crate) fn brief(row: &Row, samples: &[Sample], contestant: Contestant) -> Option<Brief> {
    let figures = figures(row, samples, contestant);
    let width = figures.values().next()?.len();
    let column = |index: usize| {
        figures
            .values()
            .filter_map(move |values| values.get(index).copied())
    };
    let values = (0..width).map(|index| match (row.figure, index) {
        (Figure::Outage, 0 | 4) => column(index).sum(),
        // Of those that were affected a median.
        (Figure::Outage, 8) => median(&column(index).collect::<Vec<_>>()),
        (Figure::Outage, _) => column(index).fold(0.0, f64::max),
        _ => median(&column(index).collect::<Vec<_>>()),
    });
    let own = samples.iter().filter(|it| it.contestant == contestant);
    let rates: Vec<f64> = own.clone().map(|sample| sample.per_second).collect();
    Some(Brief {
        values: values.collect(),
        per_second: median(&rates),
        errors: own.map(|sample| sample.errors).sum(),
        rounds: figures.len(),
    })
}

/// Round by round, the first figure of `one` over that of `other`.
pub(crate) fn ratios(
    row: &Row,
    samples: &[Sample],
    one: Contestant,
    other: Contestant,
) -> Option<Vec<f64>> {
    let (ones, others) = (figures(row, samples, one), figures(row, samples, other));
    let first = |values: &Vec<f64>| values.first().copied().filter(|value| *value > 0.0);
    let ratio = |(round, values)| Some(first(values)? / first(others.get(round)?)?);
    let ratios: Vec<f64> = ones.iter().filter_map(ratio).collect();
    (!ratios.is_empty()).then_some(ratios)
}

/// The peer that does best in a row, by medians.
pub(crate) fn best_peer(row: &Row, samples: &[Sample]) -> Option<Contestant> {
    let cost = |peer: &Contestant| brief(row, samples, *peer)?.values.first().copied();
    let peers = PEERS
        .into_iter()
        .filter_map(|peer| Some((peer, cost(&peer)?)));
    Some(peers.min_by(|one, other| one.1.total_cmp(&other.1))?.0)
}

/// How far a thing strays from itself in this row; nothing is known of that for datagrams.
pub(crate) fn noise(row: &Row, samples: &[Sample]) -> f64 {
    ratios(row, samples, Contestant::HaproxyAgain, Contestant::Haproxy)
        .map(|ratios| spread(&ratios))
        .unwrap_or_default()
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

/// Whom Fairlead is held against.
pub(crate) const PEERS: [Contestant; 3] =
    [Contestant::Haproxy, Contestant::Nginx, Contestant::Envoy];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contestant: Contestant, round: usize, value: f64) -> Sample {
        Sample {
            round,
            ..Sample::of(contestant, vec![value])
        }
    }

    fn row(figure: Figure) -> Row {
        let rows = crate::rows::all();
        rows.into_iter().find(|row| row.figure == figure).unwrap()
    }

    #[test]
    fn ratios_pair_figures_of_the_same_round() {
        let row = row(Figure::MicrosPerUnit);
        let samples = [
            sample(Contestant::Fairlead, 0, 2.0),
            sample(Contestant::Haproxy, 0, 4.0),
            sample(Contestant::Haproxy, 1, 10.0),
            sample(Contestant::Fairlead, 1, 20.0),
            sample(Contestant::Fairlead, 2, 20.0),
        ];
        let found = ratios(&row, &samples, Contestant::Fairlead, Contestant::Haproxy);
        assert_eq!(found, Some(vec![0.5, 2.0]));
        let found = ratios(&row, &samples, Contestant::Envoy, Contestant::Haproxy);
        assert_eq!(found, None);
    }

    #[test]
    fn latency_is_what_a_proxy_adds() {
        let row = row(Figure::Latency);
        let samples = [
            sample(Contestant::Direct, 0, 80.0),
            sample(Contestant::Fairlead, 0, 95.0),
            sample(Contestant::Haproxy, 0, 110.0),
        ];
        let found = ratios(&row, &samples, Contestant::Fairlead, Contestant::Haproxy);
        assert_eq!(found, Some(vec![0.5]));
        assert_eq!(best_peer(&row, &samples), Some(Contestant::Haproxy));
    }

    #[test]
    fn the_spread_of_a_latency_is_told_for_each_percentile() {
        let row = row(Figure::Latency);
        let latency = |contestant, round, values: [f64; 3]| Sample {
            round,
            ..Sample::of(contestant, values.to_vec())
        };
        let samples = [
            latency(Contestant::Haproxy, 0, [50.0, 90.0, 300.0]),
            latency(Contestant::HaproxyAgain, 0, [52.0, 80.0, 350.0]),
        ];
        let found = [0, 1, 2].map(|column| apart(&row, &samples, column));
        assert_eq!(found, [Some(2.0), Some(10.0), Some(50.0)]);
        assert_eq!(apart(&row, &samples[..1], 0), None);
    }

    #[test]
    fn a_good_round_undoes_no_failure() {
        let row = row(Figure::Outage);
        let samples = [0.0, 3.0, 0.0]
            .into_iter()
            .enumerate()
            .map(|(round, failed)| sample(Contestant::Fairlead, round, failed));
        let samples: Vec<Sample> = samples.collect();
        let found = brief(&row, &samples, Contestant::Fairlead).unwrap();
        assert_eq!(found.values, [3.0]);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
