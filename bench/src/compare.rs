//! Rounds: every contestant in turn, every row in each, in an order that rotates.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    load::client::{Kind, Outcome},
    peers::{self, Contestant, Running},
    place::{Place, Role},
    report::{Recorded, Sample},
    rows::{self, Figure, Row},
    usage,
};

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; ten or more for a result to quote.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Seconds of load a row.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Only these contestants (floor, fairlead, haproxy, nginx, envoy).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only rows whose name contains this.
    #[arg(long)]
    row: Option<String>,
    /// Where to write the result as JSON.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Where to write the chart.
    #[arg(long)]
    chart: Option<PathBuf>,
}

/// Runs everything and prints the table.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let contestants = options.contestants()?;
    let rows: Vec<Row> = rows::all()
        .into_iter()
        .filter(|row| {
            options
                .row
                .as_ref()
                .is_none_or(|part| row.name.contains(part))
        })
        .collect();
    let mut recorded = Recorded::begin(&contestants)?;
    let place = Place::build()?;
    recorded.place = place.describe().to_owned();
    let mut server = peers::start_server(&place)?;
    let result = rounds(options, &place, (&contestants, &rows), &mut recorded);
    server.kill()?;
    server.wait()?;
    result?;
    print!("{}", recorded.table());
    if let Some(path) = &options.record {
        std::fs::write(path, serde_json::to_string_pretty(&recorded)? + "\n")?;
    }
    if let Some(path) = &options.chart {
        std::fs::write(path, recorded.chart())?;
    }
    Ok(())
}

impl Options {
    fn contestants(&self) -> anyhow::Result<Vec<Contestant>> {
        for name in &self.only {
            if !Contestant::ALL
                .iter()
                .any(|contestant| contestant.name() == name)
            {
                bail!(
                    "--only {name}: no such contestant; floor, fairlead, haproxy, nginx and envoy are"
                );
            }
        }
        let wanted = |contestant: &Contestant| {
            let name = contestant.name().split(' ').next().unwrap_or_default();
            self.only.is_empty() || self.only.iter().any(|only| only == name)
        };
        Ok(Contestant::ALL.into_iter().filter(wanted).collect())
    }
}

fn rounds(
    options: &Options,
    place: &Place,
    (contestants, rows): (&[Contestant], &[Row]),
    recorded: &mut Recorded,
) -> anyhow::Result<()> {
    for round in 0..options.rounds {
        for step in 0..contestants.len() {
            let contestant = contestants[(round + step) % contestants.len()];
            eprintln!("round {} of {}: {contestant}", round + 1, options.rounds);
            let running = contestant.start(place)?;
            for row in rows {
                if row.is_udp() && !contestant.speaks_udp() {
                    continue;
                }
                let sample = measure(options, place, row, &running)
                    .with_context(|| format!("{contestant}, {}", row.name))?;
                recorded.add(
                    row,
                    Sample {
                        contestant,
                        round,
                        ..sample
                    },
                );
            }
            running.stop(place)?;
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    place: &Place,
    row: &Row,
    running: &Running,
) -> anyhow::Result<Sample> {
    let before = usage::of_tree(running.pid());
    if row.figure == Figure::BaseMegabytes {
        return Ok(Sample::of(vec![before.memory as f64 / 1e6]));
    }
    let mut client = client(options, place, row)?;
    if row.kind == Kind::Idle {
        return hold(client, row, running, before.memory);
    }
    let output = client.output()?;
    let after = usage::of_tree(running.pid());
    if !output.status.success() {
        bail!(
            "the client failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let outcome: Outcome = serde_json::from_slice(&output.stdout)?;
    if outcome.units == 0 {
        bail!("nothing went through: {} errors", outcome.errors);
    }
    let cpu_nanos = (after.cpu_nanos - before.cpu_nanos) as f64;
    let values = match row.figure {
        // Nanoseconds a byte are seconds a gigabyte.
        Figure::SecondsPerGigabyte => vec![cpu_nanos / outcome.units as f64],
        Figure::MicrosPerUnit => vec![cpu_nanos / 1e3 / outcome.units as f64],
        Figure::Latency => outcome
            .latency
            .context("no latency")?
            .map(|value| value as f64)
            .to_vec(),
        Figure::KilobytesPerIdle | Figure::BaseMegabytes => bail!("measured elsewhere"),
    };
    let per_second = outcome.units as f64 / outcome.seconds;
    Ok(Sample {
        per_second,
        errors: outcome.errors,
        ..Sample::of(values)
    })
}

fn client(options: &Options, place: &Place, row: &Row) -> anyhow::Result<Command> {
    let mut command = place.command(Role::Client, &std::env::current_exe()?);
    let kind = serde_json::to_value(row.kind)?;
    command.args([
        "client",
        "--kind",
        kind.as_str().context("a kind is a string")?,
    ]);
    command
        .arg("--target")
        .arg(format!("{}:{}", place.ip(Role::Proxy), row.port()));
    command.arg("--seconds").arg(options.seconds.to_string());
    command.arg("--parallel").arg(row.parallel.to_string());
    command.arg("--size").arg(row.size.max(1).to_string());
    if let Some(rate) = row.rate {
        command.arg("--rate").arg(rate.to_string());
    }
    Ok(command)
}

/// Holds idle connections and sees what they cost.
fn hold(mut client: Command, row: &Row, running: &Running, before: u64) -> anyhow::Result<Sample> {
    let mut child = client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("the client's output")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let held = usage::of_tree(running.pid()).memory;
    drop(child.stdin.take());
    stdout.read_to_string(&mut String::new())?;
    child.wait()?;
    if line.trim() != "holding" {
        bail!("the client could not hold {} connections", row.parallel);
    }
    let grown = held.saturating_sub(before) as f64;
    Ok(Sample::of(vec![grown / 1e3 / row.parallel as f64]))
}
