//! `fairlead`: see `--help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fairlead_runtime::clock::Clock;

mod crds;
mod up;

/// One endpoint per service, across clusters.
#[derive(Parser)]
#[command(name = "fairlead", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole fleet on this machine: a hub, members, sample workloads and a proxy.
    Up(up::Options),
    /// Print the custom resource definitions, for `kubectl apply -f -`.
    Crds(crds::Options),
    /// A member of `up`.
    #[command(hide = true)]
    UpMember(up::member::Options),
    /// The proxy of `up`.
    #[command(hide = true)]
    UpProxy(Box<fairlead_proxy::settings::Flags>),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Up(options) => up::run(&options),
        Command::Crds(options) => crds::run(&options),
        Command::UpMember(options) => up::member::run(options),
        Command::UpProxy(flags) => fairlead_proxy::app::process::run(&flags, Clock::system()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const AFTER_HELP: &str = "\
EXIT CODES
  0  done
  1  failed; standard error says why and what to do
  2  the command line is wrong
  3  a drain did not finish in time; sessions are still live
";
