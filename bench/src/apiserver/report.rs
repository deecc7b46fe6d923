//! What was measured, as JSON and as a table.

use std::{fmt::Write as _, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::contestant::Contestant;
use crate::report::machine;
pub(crate) use crate::report::median;

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    machine: String,
    /// The disk that the stores are on.
    disk: String,
    rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    unit: String,
    /// One figure a round.
    figures: Vec<(Contestant, Vec<f64>)>,
}

/// One figure of one round.
pub(crate) struct Sample {
    name: String,
    unit: &'static str,
    value: f64,
}

/// A figure and what it is meant to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Goal {
    name: String,
    unit: String,
    pub(crate) value: f64,
    wanted: Option<Wanted>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Wanted {
    Below(f64),
    AtLeast(f64),
}

// === impl Sample ===

impl Sample {
    pub(crate) fn of(name: &str, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            value,
        }
    }
}

// === impl Goal ===

impl Goal {
    pub(crate) fn told(name: &str, unit: &str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
            wanted: None,
        }
    }

    /// The same with another figure.
    pub(crate) fn at(self, value: f64) -> Self {
        Self { value, ..self }
    }

    pub(crate) fn below(name: &str, unit: &str, value: f64, limit: f64) -> Self {
        Self {
            wanted: Some(Wanted::Below(limit)),
            ..Self::told(name, unit, value)
        }
    }

    pub(crate) fn above(name: &str, unit: &str, value: f64, limit: f64) -> Self {
        Self {
            wanted: Some(Wanted::AtLeast(limit)),
            ..Self::told(name, unit, value)
        }
    }
}

// === impl Recorded ===

impl Recorded {
    pub(crate) fn begin(folder: &Path) -> Self {
        Self {
            machine: machine(),
            disk: disk(folder),
            rows: Vec::new(),
            goals: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, contestant: Contestant, samples: Vec<Sample>) {
        for Sample { name, unit, value } in samples {
            let at = match self.rows.iter().position(|row| row.name == name) {
                Some(at) => at,
                None => {
                    let unit = unit.to_owned();
                    let figures = Vec::new();
                    self.rows.push(Row {
                        name,
                        unit,
                        figures,
                    });
                    self.rows.len() - 1
                }
            };
            let figures = &mut self.rows[at].figures;
            match figures.iter_mut().find(|(one, _)| *one == contestant) {
                Some((_, values)) => values.push(value),
                None => figures.push((contestant, vec![value])),
            }
        }
    }

    /// The table, in Markdown: medians, and how the durable store stands to etcd.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{}; stores on {}\n\n", self.machine, self.disk);
        out.push_str("| | kube-apiserver + etcd | durable | | memory |\n|---|--:|--:|---|--:|\n");
        for row in &self.rows {
            let cell = |contestant| match row.median(contestant) {
                Some(value) => format!("{} {}", figure(value), row.unit),
                None => "–".to_owned(),
            };
            writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                row.name,
                cell(Contestant::Real),
                cell(Contestant::Durable),
                row.verdict().unwrap_or_default(),
                cell(Contestant::Memory)
            )
            .expect("writing to a string");
        }
        if !self.goals.is_empty() {
            out.push_str("\n| the memory store in one process | | goal |\n|---|--:|---|\n");
        }
        for goal in &self.goals {
            let (name, unit, value) = (&goal.name, &goal.unit, figure(goal.value));
            let wanted = match goal.wanted {
                Some(Wanted::Below(limit)) => format!("< {} {unit}", figure(limit)),
                Some(Wanted::AtLeast(limit)) => format!("≥ {} {unit}", figure(limit)),
                None => String::new(),
            };
            writeln!(out, "| {name} | {value} {unit} | {wanted} |").expect("writing to a string");
        }
        out
    }
}

// === impl Row ===

impl Row {
    fn median(&self, contestant: Contestant) -> Option<f64> {
        let found = self.figures.iter().find(|(one, _)| *one == contestant);
        found.map(|(_, values)| median(values))
    }

    /// How many times better the durable store is than etcd.
    fn verdict(&self) -> Option<String> {
        let (real, durable) = (
            self.median(Contestant::Real)?,
            self.median(Contestant::Durable)?,
        );
        let times = if self.unit == "/s" {
            durable / real
        } else {
            real / durable
        };
        let word = if times >= 1.0 { "×" } else { "× **behind**" };
        Some(format!("{times:.1}{word}"))
    }
}

fn figure(value: f64) -> String {
    match value {
        value if value >= 1e4 => format!("{},{:03.0}", (value / 1e3).trunc(), value % 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// The file system of a folder, by the longest mount point above it.
fn disk(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    above
        .max()
        .map_or("an unknown file system", |(_, kind)| kind)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_the_durable_store_stands_to_etcd() {
        let mut recorded = Recorded::begin(Path::new("/"));
        for (contestant, rate, millis) in [
            (Contestant::Real, 1000.0, 2.0),
            (Contestant::Durable, 3000.0, 4.0),
            (Contestant::Durable, 5000.0, 4.0),
        ] {
            let samples = vec![Sample::of("a", "/s", rate), Sample::of("b", "ms", millis)];
            recorded.add(contestant, samples);
        }
        let table = recorded.table();
        assert!(
            table.contains("| a | 1000 /s | 4000 /s | 4.0× | – |"),
            "{table}"
        );
        assert!(
            table.contains("| b | 2.00 ms | 4.00 ms | 0.5× **behind** | – |"),
            "{table}"
        );
    }

    #[test]
    fn large_figures_have_their_thousands_apart() {
        assert_eq!(figure(12_034.4), "12,034");
        assert_eq!(figure(0.5), "0.50");
    }
}
