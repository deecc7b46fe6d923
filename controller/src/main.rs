//! `fairlead-controller`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use fairlead_controller::{
    app,
    settings::{Flags, Role},
};
use fairlead_runtime::{clock::Clock, logging};

fn main() -> ExitCode {
    let clock = Clock::system();
    let flags = Flags::parse();
    match run(&flags, clock) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags, clock: Clock) -> anyhow::Result<()> {
    logging::start(&flags.log, logging::Format::Text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match &flags.role {
            Role::Hub(hub) => app::run_hub(hub, flags.admin, clock).await,
            Role::Member(member) => app::run_member(member, flags.admin, clock).await,
        }
    })
}
