//! Whole fleets, as a user sees them: `fairlead up` in processes of its own, clients at its endpoint,
//! the command line and `kubectl`'s view of its API servers.
//!
//! Each case has a fleet of its own, on embedded clusters; those that say nothing about how `up` makes
//! its sample clusters run on real ones, too, where `KUBEBUILDER_ASSETS` names their programs. What a
//! case measures in seconds it prints and doesn't judge: a busy machine is no fault.

use std::{future::Future, path::Path, pin::Pin, sync::Arc};

use fairlead_tests::{fleet::Fleet, same};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

mod attacks;
mod backup;
mod commands;
mod exports;
mod imports;
mod join;
mod leave;
mod real;
mod roll;
mod start;
mod strict;
mod traffic;

use real::{Clusters, OnReal};

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_fairlead");

/// What the clusters of a case are.
#[derive(Clone)]
enum Stage {
    Embedded,
    Real(Arc<Clusters>),
}

/// A fleet on a stage.
enum OnStage<'c> {
    Embedded(Box<Fleet>),
    Real(Box<OnReal<'c>>),
}

type Outcome = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

#[derive(Clone, Copy)]
enum Case {
    /// About embedded clusters.
    Embedded(fn() -> Outcome),
    /// On any.
    Any(fn(Stage) -> Outcome),
    /// About what only real clusters do.
    Real(fn(Stage) -> Outcome),
}

/// Lists cases by name.
macro_rules! cases {
    ($($module:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        [$($((
            concat!(stringify!($module), "::", stringify!($case)),
            Case::Embedded(|| -> Outcome { Box::pin($module::$case()) }),
        )),*),*]
    };
    (on $stage:ident; $($module:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        [$($((
            concat!(stringify!($module), "::", stringify!($case)),
            Case::$stage(|stage| -> Outcome { Box::pin($module::$case(stage)) }),
        )),*),*]
    };
}

fn cases() -> Vec<(&'static str, Case)> {
    let mut all = embedded();
    all.extend(on_any());
    all.extend(cases! {
        on Real;
        start: [
            a_fleet_is_ready_once_every_member_serves,
        ],
        roll: [
            pods_roll_one_by_one_and_no_client_notices,
        ],
    });
    all
}

fn embedded() -> Vec<(&'static str, Case)> {
    let all = cases! {
        start: [
            the_ready_file_says_where_everything_is,
            a_fleet_leaves_nothing_behind,
            a_restart_keeps_objects_identities_and_addresses,
            a_folder_or_a_port_in_use_is_refused_with_a_way_out,
        ],
        traffic: [
            a_silent_member_is_left_out_until_it_is_healed,
        ],
        roll: [
            endpoints_roll_one_by_one_and_no_client_notices,
        ],
        backup: [
            a_hub_restored_from_a_backup_serves_what_members_have_now,
        ],
        commands: [
            a_question_about_nothing_says_what_to_do,
        ],
        join: [
            a_cluster_joins_by_two_commands_and_leaves_by_one,
            a_cluster_with_an_id_of_its_own_is_left_as_it_is,
            a_dry_run_prints_what_would_be_applied,
        ],
    };
    all.to_vec()
}

fn on_any() -> Vec<(&'static str, Case)> {
    let all = cases! {
        on Any;
        traffic: [
            all_members_answer_tcp_and_udp_in_equal_shares,
            a_weight_shifts_new_connections_and_no_client_notices,
            the_first_tier_takes_all_in_shares_by_weight,
            a_killed_member_gets_no_more_connections_and_no_more_flows,
            a_drain_waits_for_sessions_and_fails_no_client,
            a_drain_of_nobody_is_refused,
            a_restart_of_the_hub_fails_no_client,
        ],
        commands: [
            status_and_explain_tell_people_and_programs_the_same,
        ],
        exports: [
            an_export_that_cannot_be_served_says_what_to_do,
            exports_that_disagree_say_who_wins,
            a_bad_annotation_keeps_the_earlier_state_and_says_so,
            a_schema_refuses_with_the_field_and_why,
        ],
        attacks: [
            a_member_touches_nothing_but_its_own_namespace,
            a_forged_export_is_refused_with_a_reason,
            addresses_that_are_not_a_members_own_are_left_out,
            an_invitation_is_good_once_and_for_one_cluster,
            a_stream_with_a_token_for_something_else_is_refused,
        ],
        imports: [
            an_import_is_served_in_every_member,
            a_namespace_that_goes_takes_its_exports_and_imports_along,
        ],
        join: [
            what_a_dry_run_prints_starts_an_agent_that_serves_proxies,
        ],
        leave: [
            a_member_that_leaves_keeps_its_workloads,
            a_member_that_is_deleted_serves_on_until_it_is_told_to_leave,
            a_member_that_is_gone_for_good_leaves_by_force,
        ],
    };
    all.to_vec()
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let arguments = Arguments::from_args();
    let mut with_real = std::env::var_os("KUBEBUILDER_ASSETS").is_some();
    if !with_real {
        eprintln!(
            "SKIPPED: fleets on real clusters; set KUBEBUILDER_ASSETS=$(tests/kube/build.sh)"
        );
    } else if !arguments.list && !real::is_inside() {
        let error = real::enter_namespace();
        eprintln!("SKIPPED: fleets on real clusters need a network namespace: {error:#}");
        with_real = false;
    }
    let runtime = Arc::new(
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
    );
    let clusters = Arc::new(Clusters::default());
    let mut trials = Vec::new();
    for (name, case) in cases() {
        if !matches!(case, Case::Real(_)) {
            trials.push(trial(
                &runtime,
                &format!("embedded::{name}"),
                case,
                Stage::Embedded,
            ));
        }
        if with_real && !matches!(case, Case::Embedded(_)) {
            let stage = Stage::Real(clusters.clone());
            trials.push(trial(&runtime, &format!("real::{name}"), case, stage));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ends the real servers' processes before the exit does.
    drop(clusters);
    Ok(conclusion.exit_code())
}

fn trial(runtime: &Arc<Runtime>, name: &str, case: Case, stage: Stage) -> Trial {
    let runtime = runtime.clone();
    Trial::test(name, move || {
        let outcome = match case {
            Case::Embedded(run) => runtime.block_on(run()),
            Case::Any(run) | Case::Real(run) => runtime.block_on(run(stage)),
        };
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

impl Stage {
    /// A fleet with all its members answering: three on embedded clusters, two on real ones.
    async fn fleet(&self) -> anyhow::Result<OnStage<'_>> {
        Ok(match self {
            Self::Embedded => OnStage::Embedded(Box::new(Fleet::start(program(), &[]).await?)),
            Self::Real(clusters) => OnStage::Real(Box::new(clusters.fleet().await?)),
        })
    }
}

impl OnStage<'_> {
    /// Ends a member as a power cut would.
    fn kill(&mut self, member: &str) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.kill(member),
            Self::Real(real) => real.kill(member),
        }
    }
}

impl std::ops::Deref for OnStage<'_> {
    type Target = Fleet;

    fn deref(&self) -> &Fleet {
        match self {
            Self::Embedded(fleet) => fleet,
            Self::Real(real) => &real.fleet,
        }
    }
}

impl std::ops::DerefMut for OnStage<'_> {
    fn deref_mut(&mut self) -> &mut Fleet {
        match self {
            Self::Embedded(fleet) => fleet,
            Self::Real(real) => &mut real.fleet,
        }
    }
}

fn program() -> &'static Path {
    Path::new(PROGRAM)
}
