//! Whole fleets, as a user sees them: `fairlead up` in processes of its own, clients at its endpoint,
//! the command line and `kubectl`'s view of its API servers.
//!
//! Each case has a fleet of its own. What a case measures in seconds it prints and doesn't judge: a
//! busy machine is no fault.

use std::{future::Future, path::Path, pin::Pin};

use libtest_mimic::{Arguments, Failed, Trial};

mod start;
mod traffic;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_fairlead");

type Outcome = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;
type Run = fn() -> Outcome;

/// Lists cases by name.
macro_rules! cases {
    ($($module:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($case)),
            (|| -> $crate::Outcome { Box::pin($module::$case()) }) as $crate::Run,
        )),*),*]
    };
}

const CASES: &[(&str, Run)] = cases! {
    start: [
        the_ready_file_says_where_everything_is,
        a_fleet_leaves_nothing_behind,
        a_restart_keeps_objects_identities_and_addresses,
        a_folder_or_a_port_in_use_is_refused_with_a_way_out,
    ],
    traffic: [
        all_members_answer_tcp_and_udp_in_equal_shares,
    ],
};

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let trials = CASES.iter().map(|(name, run)| trial(name, *run)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, run: Run) -> Trial {
    Trial::test(format!("embedded::{name}"), move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(run());
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn program() -> &'static Path {
    Path::new(PROGRAM)
}

/// Fails unless the two are equal, and shows both.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr $(,)?) => {
        match (&$left, &$right) {
            (left, right) => anyhow::ensure!(
                left == right,
                "{}:{}: {} is {left:?}, not {right:?}",
                file!(),
                line!(),
                stringify!($left)
            ),
        }
    };
}
