//! `fairlead-proxy`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use fairlead_proxy::{app::process, settings::Flags};
use fairlead_runtime::clock::Clock;

fn main() -> ExitCode {
    let clock = Clock::system();
    match process::run(&Flags::parse(), clock) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
