//! Fairlead's benchmarks, one command: `fairlead-bench compare` runs HAProxy, nginx, Envoy, Fairlead
//! and a bare relay in turn in the same run and prints what each unit of work costs them.
//!
//! | module | what it is |
//! |---|---|
//! | [`fleet`] | how long a change takes from a member to a proxy, in a fleet of any size |
//! | [`compare`] | rounds: start a proxy, load it row by row, stop it, next |
//! | [`apiserver`] | the embedded API server beside kube-apiserver and etcd |
//! | [`rows`] | what is measured, in which unit |
//! | [`trials`] | reloads, upgrades and faults under load, and what clients notice of them |
//! | [`scale`] | what 10,000 services of 100 endpoints cost the whole process |
//! | [`peers`] | how each proxy is found, configured, started and stopped |
//! | [`floor`] | the relay without any feature: what user space costs at least |
//! | [`load`] | clients and servers; latencies count from the intended start |
//! | [`place`] | network namespaces and cores |
//! | [`usage`] | CPU time and memory of a process tree |
//! | [`report`] | ratios, tables, JSON and the chart |
//! | [`sys`] | epoll, splice and recvmmsg for the floor |

use clap::{Parser, Subcommand};

mod apiserver;
mod compare;
mod fleet;
mod floor;
mod load;
mod peers;
mod place;
mod report;
mod rows;
mod scale;
mod sys;
mod trials;
mod usage;

#[derive(Parser)]
#[command(
    version,
    about = "Benchmarks of Fairlead against its peers, in one run"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run all contestants in turn and compare them.
    Compare(compare::Options),
    /// Start a fleet in this process and measure how long changes of endpoints take to a proxy.
    Fleet(fleet::Options),
    /// Run the embedded API server beside a real kube-apiserver with etcd.
    Apiserver(apiserver::Options),
    /// An embedded API server (started by apiserver).
    #[command(hide = true)]
    ApiserverHost(apiserver::host::Options),
    /// Load 10,000 services of 100 endpoints from a control plane, and change them.
    Scale(scale::Options),
    /// Show a recorded result again.
    Show(report::ShowOptions),
    /// The bare relay (started by compare).
    #[command(hide = true)]
    Floor(floor::Options),
    /// A load generator (started by compare).
    #[command(hide = true)]
    Client(load::client::Options),
    /// Connects that reach an address (started by compare).
    #[command(hide = true)]
    Tap(load::tap::Options),
    /// The servers behind the proxies (started by compare).
    #[command(hide = true)]
    Server(load::server::Options),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Fleet(options) => fleet::run(&options),
        Command::Apiserver(options) => apiserver::run(&options),
        Command::ApiserverHost(options) => apiserver::host::run(&options),
        Command::Scale(options) => scale::run(&options),
        Command::Show(options) => report::show(&options),
        Command::Floor(options) => floor::run(&options),
        Command::Client(options) => load::client::run(&options),
        Command::Tap(options) => load::tap::run(&options),
        Command::Server(options) => load::server::run(&options),
    }
}
