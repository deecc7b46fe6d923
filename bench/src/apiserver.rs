//! The embedded API server beside a real kube-apiserver with etcd: same machine, same disk, same
//! client, the contestants in turn within each round.
//!
//! All three are processes of their own that answer over HTTPS on loopback, with JSON. Only the
//! durable store is compared with etcd: both make a write safe with an fsync before they answer. The
//! memory store stands beside them, and what it is meant to reach in one process is measured apart.

use std::path::PathBuf;

use clap::Args;
use tokio::runtime::Runtime;

mod contestant;
mod goals;
pub(crate) mod host;
mod load;
mod report;
mod rows;
mod watchers;

use contestant::Contestant;
use report::Recorded;

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; the table shows medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load a row.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Objects in the store, and in a list.
    #[arg(long, default_value_t = 10_000)]
    objects: u64,
    /// Leave out what the memory store is meant to reach in one process.
    #[arg(long)]
    no_goals: bool,
    /// The folder with kube-apiserver and etcd; without it only the embedded one runs.
    #[arg(long, env = "KUBEBUILDER_ASSETS")]
    programs: Option<PathBuf>,
    /// Where the stores live: on the disk that is to be measured.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where to write the result as JSON.
    #[arg(long)]
    record: Option<PathBuf>,
}

/// Runs everything and prints the table.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let folder = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let mut recorded = Recorded::begin(&folder);
    let runtime = Runtime::new()?;
    let contestants = Contestant::with(options.programs.is_some());
    for round in 0..options.rounds {
        for step in 0..contestants.len() {
            let contestant = contestants[(round + step) % contestants.len()];
            eprintln!("round {} of {}: {contestant}", round + 1, options.rounds);
            let samples = runtime.block_on(rows::measure(options, contestant, &folder))?;
            recorded.add(contestant, samples);
        }
    }
    if !options.no_goals {
        eprintln!("the memory store in one process");
        recorded.goals = runtime.block_on(goals::measure(options))?;
    }
    print!("{}", recorded.table());
    if let Some(path) = &options.record {
        std::fs::write(path, serde_json::to_string_pretty(&recorded)? + "\n")?;
    }
    Ok(())
}
