//! Rounds: every contestant in turn, every row in each, in an order that rotates.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddrV4,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    load::{
        client::{Kind, Outcome},
        server::ECHO_PORT,
    },
    peers::{self, Contestant, Running, Setup},
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
    /// Rounds with trials (reload, upgrade, faults), which take longest.
    #[arg(long, default_value_t = 3)]
    trials: usize,
    /// Only these contestants (floor, fairlead, haproxy, nginx, envoy).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only rows whose name contains this.
    #[arg(long)]
    row: Option<String>,
    /// One short round of Fairlead and the floor, to see that everything works.
    #[arg(long)]
    smoke: bool,
    /// Where to write the result as JSON. Rounds are added to those that are there already, so
    /// that a long run can be made in slices.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Where to write the chart.
    #[arg(long)]
    chart: Option<PathBuf>,
}

/// Runs everything and prints the table.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let contestants = options.contestants()?;
    let rows = options.rows();
    let mut recorded = options.recorded(&contestants)?;
    let place = Place::build()?;
    place.describe().clone_into(&mut recorded.place);
    let mut server = peers::start_server(&place, place.ip(Role::Server))?;
    let result = rounds(options, &place, (&contestants, &rows), &mut recorded);
    server.kill()?;
    server.wait()?;
    result?;
    print!("{}", recorded.table());
    if let Some(path) = &options.record {
        std::fs::write(path, serde_json::to_string(&recorded)? + "\n")?;
    }
    if let Some(path) = &options.chart {
        std::fs::write(path, recorded.chart())?;
    }
    match recorded.errors() {
        errors if options.smoke && errors > 0 => bail!("{errors} errors"),
        _ => Ok(()),
    }
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
            match self.smoke {
                true => ["floor", "fairlead"].contains(&name),
                false => self.only.is_empty() || self.only.iter().any(|only| only == name),
            }
        };
        Ok(Contestant::ALL.into_iter().filter(wanted).collect())
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = if self.smoke {
            rows::smoke()
        } else {
            rows::all()
        };
        let part = self.row.as_deref().unwrap_or_default();
        rows.retain(|row| row.name.contains(part));
        rows
    }

    fn rounds(&self) -> usize {
        if self.smoke { 1 } else { self.rounds }
    }

    fn seconds(&self) -> f64 {
        if self.smoke {
            SMOKE_SECONDS
        } else {
            self.seconds
        }
    }

    /// What there is already, or a new record.
    fn recorded(&self, contestants: &[Contestant]) -> anyhow::Result<Recorded> {
        let fresh = Recorded::begin(contestants)?;
        let Some(path) = self.record.as_ref().filter(|path| path.is_file()) else {
            return Ok(fresh);
        };
        let recorded: Recorded = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        if recorded.machine != fresh.machine || recorded.versions != fresh.versions {
            bail!("{} is of another machine or other programs", path.display());
        }
        Ok(recorded)
    }
}

fn rounds(
    options: &Options,
    place: &Place,
    (contestants, rows): (&[Contestant], &[Row]),
    recorded: &mut Recorded,
) -> anyhow::Result<()> {
    let first = recorded.rounds();
    for round in first..first + options.rounds() {
        let mut add = |row: &Row, sample: Sample| recorded.add(row, Sample { round, ..sample });
        for row in rows.iter().filter(|row| row.figure == Figure::Latency) {
            let target = SocketAddrV4::new(place.ip(Role::Server), ECHO_PORT);
            let outcome = load(options, place, row, target)?;
            add(row, outcome.sample(row, Contestant::Direct, 0.0)?);
        }
        for step in 0..contestants.len() {
            let contestant = contestants[(round + step) % contestants.len()];
            eprintln!("round {}: {contestant}", round + 1);
            let name = |row: &Row| format!("{contestant}, {}", row.name);
            let running = contestant.start(place, Setup::default())?;
            for row in rows.iter().filter(|row| row.trial.is_none()) {
                if !row.is_udp() || contestant.speaks_udp() {
                    let sample = measure(options, place, row, (&running, contestant));
                    add(row, sample.with_context(|| name(row))?);
                }
            }
            running.stop(place)?;
            for row in rows.iter().filter(|_| round - first < options.trials) {
                let trial = row.trial.filter(|trial| trial.suits(contestant, place));
                if let Some(trial) = trial {
                    let values = trial.run(place, contestant);
                    add(
                        row,
                        Sample::of(contestant, values.with_context(|| name(row))?),
                    );
                }
            }
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    place: &Place,
    row: &Row,
    (running, contestant): (&Running, Contestant),
) -> anyhow::Result<Sample> {
    let target = SocketAddrV4::new(place.ip(Role::Proxy), row.port());
    if row.kind == Kind::Udp {
        // What it costs to open the flows is another row.
        let opening = Row {
            kind: Kind::Flow,
            rate: None,
            ..row.clone()
        };
        load(options, place, &opening, target)?;
    }
    let before = usage::of_tree(running.pid());
    if row.figure == Figure::BaseMegabytes {
        return Ok(Sample::of(contestant, vec![before.memory as f64 / 1e6]));
    }
    if row.kind == Kind::Idle {
        let client = client(options, place, row, target)?;
        let grown = hold(client, row, running, before.memory)?;
        return Ok(Sample::of(
            contestant,
            vec![grown / 1e3 / row.parallel as f64],
        ));
    }
    let outcome = load(options, place, row, target)?;
    let after = usage::of_tree(running.pid());
    outcome.sample(row, contestant, (after.cpu_nanos - before.cpu_nanos) as f64)
}

/// Loads a target as the row says.
fn load(
    options: &Options,
    place: &Place,
    row: &Row,
    target: SocketAddrV4,
) -> anyhow::Result<Outcome> {
    let output = client(options, place, row, target)?.output()?;
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
    Ok(outcome)
}

impl Outcome {
    fn sample(&self, row: &Row, contestant: Contestant, cpu_nanos: f64) -> anyhow::Result<Sample> {
        let units = self.units as f64;
        let values = match row.figure {
            // Nanoseconds a byte are seconds a gigabyte.
            Figure::SecondsPerGigabyte => vec![cpu_nanos / units],
            Figure::MicrosPerUnit => vec![cpu_nanos / 1e3 / units],
            Figure::Latency => {
                let latency = self.latency.context("no latency")?;
                latency.map(|value| value as f64).to_vec()
            }
            Figure::KilobytesPerIdle | Figure::BaseMegabytes | Figure::Outage => {
                bail!("measured elsewhere")
            }
        };
        Ok(Sample {
            per_second: units / self.seconds,
            errors: self.errors,
            ..Sample::of(contestant, values)
        })
    }
}

fn client(
    options: &Options,
    place: &Place,
    row: &Row,
    target: SocketAddrV4,
) -> anyhow::Result<Command> {
    let mut command = place.command(Role::Client, &std::env::current_exe()?);
    let kind = serde_json::to_value(row.kind)?;
    command.args([
        "client",
        "--kind",
        kind.as_str().context("a kind is a string")?,
    ]);
    command.arg("--target").arg(target.to_string());
    let seconds = match options.smoke {
        true => options.seconds(),
        false => options.seconds().max(row.seconds_min()),
    };
    command.arg("--seconds").arg(seconds.to_string());
    command.arg("--parallel").arg(row.parallel.to_string());
    command.arg("--size").arg(row.size.max(1).to_string());
    if let Some(rate) = row.rate {
        command.arg("--rate").arg(rate.to_string());
    }
    Ok(command)
}

/// Holds idle connections and sees by how many bytes the proxy grows.
fn hold(mut client: Command, row: &Row, running: &Running, before: u64) -> anyhow::Result<f64> {
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
    Ok(held.saturating_sub(before) as f64)
}

/// Enough to see that a row works.
const SMOKE_SECONDS: f64 = 0.2;
