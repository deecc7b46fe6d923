//! The table of README.md.

use std::fmt::Write as _;

use super::{Recorded, Sample, best_peer, brief, median, ratios};
use crate::{
    peers::Contestant,
    rows::{Figure, Row},
};

/// All rows, a line each.
pub(super) fn table(recorded: &Recorded) -> String {
    let heads = SHOWN.map(Contestant::name).join(" | ");
    let mut out = format!(
        "| per unit of work | {heads} | of the floor | of the best peer |\n|---|{}--:|--:|\n",
        "--:|".repeat(SHOWN.len())
    );
    for (row, samples) in &recorded.rows {
        line(&mut out, row, samples);
    }
    out
}

fn line(out: &mut String, row: &Row, samples: &[Sample]) {
    let unit = match row.figure {
        Figure::Outage => "failed (cut in flight) / worst wait / last affected, or in rotation",
        figure => figure.unit(),
    };
    write!(out, "| {}, {unit}", row.name).expect("writing to a string");
    for contestant in SHOWN {
        let cell = cell(row, samples, contestant).unwrap_or_else(|| "–".to_owned());
        write!(out, " | {cell}").expect("writing to a string");
    }
    let over = |other: Option<Contestant>| {
        let ratios = ratios(row, samples, Contestant::Fairlead, other?)?;
        (row.figure != Figure::Outage).then(|| format!("{:.2}", median(&ratios)))
    };
    let of_floor = over(Some(Contestant::Floor)).unwrap_or_default();
    let of_best = over(best_peer(row, samples)).unwrap_or_default();
    writeln!(out, " | {of_floor} | {of_best} |").expect("writing to a string");
}

fn cell(row: &Row, samples: &[Sample], contestant: Contestant) -> Option<String> {
    let brief = brief(row, samples, contestant)?;
    let values = &brief.values;
    let gigabits = brief.per_second * 8.0 / 1e9;
    Some(match row.figure {
        Figure::SecondsPerGigabyte if row.rate.is_none() => {
            format!("{:.2} ({gigabits:.1} Gbit/s)", values[0])
        }
        Figure::SecondsPerGigabyte | Figure::KilobytesPerIdle => format!("{:.2}", values[0]),
        Figure::MicrosPerUnit if brief.errors > 0 => {
            format!("{:.1} ({} lost)", values[0], brief.errors)
        }
        Figure::MicrosPerUnit | Figure::BaseMegabytes => format!("{:.1}", values[0]),
        Figure::Latency => {
            let parts: Vec<String> = values.iter().map(|value| format!("{value:.0}")).collect();
            parts.join(" / ")
        }
        Figure::Outage => format!(
            "{}{} / {} / {}",
            values[0],
            match values.get(4) {
                Some(cut) if *cut > 0.0 => format!(" ({cut})"),
                _ => String::new(),
            },
            time(values.get(1).copied()),
            time(values.get(5).or(values.get(3)).copied())
        ),
    })
}

fn time(millis: Option<f64>) -> String {
    match millis.unwrap_or_default() {
        millis if millis >= 1000.0 => format!("{:.1} s", millis / 1e3),
        millis => format!("{millis:.0} ms"),
    }
}

const SHOWN: [Contestant; 5] = [
    Contestant::Floor,
    Contestant::Fairlead,
    Contestant::Haproxy,
    Contestant::Nginx,
    Contestant::Envoy,
];
