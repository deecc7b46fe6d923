//! `fairlead`: see `--help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod connection;
mod crds;
mod drain;
mod explain;
mod join;
mod output;
mod status;
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
    /// Show members, services, tiers, weights and claims, and why.
    Status(status::Options),
    /// Explain a decision.
    Explain(explain::Options),
    /// Take a member's traffic away, and wait until its sessions have finished.
    Drain(drain::DrainOptions),
    /// Give a member its traffic back.
    Undrain(drain::UndrainOptions),
    /// Make a cluster a member: NAME on the hub, then --invitation in the cluster.
    Join(join::JoinOptions),
    /// Take a member out.
    Leave(join::leave::LeaveOptions),
    /// Credentials of standalone proxies.
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Print the custom resource definitions, for `kubectl apply -f -`.
    Crds(crds::Options),
    /// A member of `up`.
    #[command(hide = true)]
    UpMember(up::member::Options),
    /// The proxy of `up`.
    #[command(hide = true)]
    UpProxy(Box<fairlead_proxy::settings::Flags>),
}

#[derive(Subcommand)]
enum ProxyCommand {
    /// Print a token for the proxies of a group.
    Token(join::TokenOptions),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Up(options) => up::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Drain(options) => match drain::drain(&options) {
            Ok(drain::Drained::TimedOut) => return ExitCode::from(3),
            Ok(drain::Drained::Done) => Ok(()),
            Err(error) => Err(error),
        },
        Command::Undrain(options) => drain::undrain(&options),
        Command::Join(options) => join::join(&options),
        Command::Leave(options) => match join::leave::leave(&options) {
            Ok(join::leave::Left::TimedOut) => return ExitCode::from(3),
            Ok(join::leave::Left::Done) => Ok(()),
            Err(error) => Err(error),
        },
        Command::Proxy(ProxyCommand::Token(options)) => join::proxy_token(&options),
        Command::Crds(options) => crds::run(&options),
        Command::UpMember(options) => up::member::run(&options),
        Command::UpProxy(flags) => up::proxy::run(&flags),
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
  3  a drain or a leave did not finish in time; what was asked for stays asked for
";
