//! The API server's conformance suite: black-box, written against plain `kube::Client`, and run
//! unchanged on the embedded server and on a real kube-apiserver with its controller manager.
//!
//! The real run needs `KUBEBUILDER_ASSETS` (see `tests/kube/build.sh`); without it only the embedded
//! one is tested, and the suite says so.

use std::{future::Future, pin::Pin, sync::Arc};

use fairlead_tests::{cluster::Cluster, same};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

mod crds;
mod helm;
mod input;
mod lifecycle;
mod lists;
mod objects;
mod patches;
mod rights;
mod scales;
mod services;
mod support;
mod watches;

/// What a case is given: a cluster and a namespace of its own.
struct Case {
    cluster: Arc<Cluster>,
    namespace: String,
}

type Outcome = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;
type Run = fn(Case) -> Outcome;

/// Lists cases by name.
macro_rules! cases {
    ($($module:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($case)),
            (|case: $crate::Case| -> $crate::Outcome { Box::pin($module::$case(case)) }) as $crate::Run,
        )),*),*]
    };
}

const CASES: &[(&str, Run)] = cases! {
    objects: [
        a_created_object_has_identity_and_can_be_read,
        a_missing_object_is_not_found_with_its_name,
        a_second_create_already_exists,
        a_stale_update_conflicts,
        an_update_without_a_version_wins,
        a_generated_name_extends_its_prefix,
        an_invalid_name_is_refused_with_its_field,
        a_dry_run_changes_nothing,
        strict_validation_refuses_unknown_fields,
        lists_filter_by_labels_and_fields,
        lists_come_in_pages_of_one_state,
        a_bad_selector_is_a_bad_request,
        a_precondition_guards_a_delete,
        an_update_of_another_object_conflicts,
        a_collection_is_deleted_by_selector,
        a_spec_change_raises_the_generation,
        status_and_spec_are_written_apart,
        a_table_has_columns_and_rows,
        metadata_can_be_asked_for_alone,
        malformed_json_is_a_bad_request,
        a_wrong_content_type_is_unsupported,
        an_unknown_path_is_not_found,
    ],
    lists: [
        field_selectors_are_read_to_the_letter,
        label_selectors_are_read_to_the_letter,
        pages_and_versions_have_rules,
        a_collection_is_deleted_by_the_page,
        an_empty_namespace_in_a_path_is_all_of_them,
        metadata_of_one_and_of_many_are_different_shapes,
    ],
    scales: [
        a_scale_is_applied_with_owners_and_conflicts,
        what_is_no_scale_is_refused,
        a_scale_is_shown_as_a_table,
    ],
    patches: [
        a_merge_patch_sets_and_removes,
        a_json_patch_tests_before_it_writes,
        a_json_patch_forgives_what_its_library_forgives,
        a_patch_stays_with_its_kind,
        a_strategic_patch_merges_containers_by_name,
        apply_creates_and_owns,
        apply_conflicts_name_the_owner,
        apply_removes_what_it_no_longer_names,
        forced_apply_takes_over,
        applying_twice_changes_nothing,
        service_ports_merge_by_port_and_protocol_in_apply,
        updates_are_recorded_as_managed_fields,
        nobody_owns_what_a_write_could_not_change,
    ],
    watches: [
        a_watch_sees_changes_in_order,
        a_deletion_has_a_version_of_its_own,
        a_watch_from_now_tells_nothing_of_before,
        a_watch_of_tables_defines_its_columns_once,
        a_watch_resumes_without_loss,
        a_watch_translates_selector_changes,
        a_streaming_list_ends_with_a_bookmark,
        a_watch_ends_at_its_timeout,
        a_version_from_the_future_is_refused,
    ],
    crds: [
        a_definition_is_established_and_served,
        instances_are_defaulted_pruned_and_validated,
        what_is_no_instance_at_all_is_refused,
        rules_see_the_old_value,
        what_was_there_before_a_rule_is_forgiven,
        both_versions_serve_the_same_object,
        an_update_in_each_version_is_an_entry_of_its_own,
        printer_columns_show_in_tables,
        the_status_of_an_instance_is_a_subresource,
        deleting_a_definition_deletes_its_instances,
        a_scale_finds_its_numbers_or_says_what_is_there,
        a_rule_that_cannot_be_evaluated_refuses,
        doubtful_finalizers_are_warned_of,
        what_a_definition_serves_is_discovered,
        a_definition_without_structure_is_refused,
    ],
    rights: [
        a_user_without_rights_is_forbidden,
        a_role_grants_what_it_names_and_no_more,
        a_role_speaks_of_its_own_namespace_too,
        nobody_grants_more_than_they_have,
        reviews_answer_for_others_and_for_oneself,
        a_requested_token_is_reviewed_with_its_audience,
        a_token_is_bound_to_a_pod_of_its_account,
        a_cluster_role_aggregates_others,
    ],
    lifecycle: [
        a_namespace_brings_its_service_account_and_root_ca,
        a_deleted_namespace_takes_its_objects_along,
        a_terminating_namespace_takes_nothing_new,
        the_namespaces_of_every_cluster_stay,
        a_finalizer_holds_an_object,
        dependents_go_with_their_owner,
        orphans_outlive_their_owner,
        a_foreground_delete_waits_for_dependents,
    ],
    input: [
        a_body_beyond_the_limit_is_too_large,
        a_body_of_any_form_is_answered,
        broken_bodies_are_bad_requests,
        good_yaml_is_as_good_as_json,
        unknown_and_repeated_fields_are_warned_of_refused_or_ignored,
        bad_names_tell_their_field,
        bad_questions_are_refused,
        bad_patches_are_refused,
    ],
    helm: [
        a_chart_is_installed_upgraded_rolled_back_and_uninstalled,
        waiting_for_what_never_is_ready_ends_in_failure,
    ],
    services: [
        a_service_gets_an_address_and_keeps_it,
        a_headless_service_gets_none,
        what_a_refused_service_asked_for_is_free_again,
        an_invalid_service_names_its_fields,
        slices_refuse_loopback_addresses,
        a_lease_is_renewed_under_its_version,
        an_event_is_the_same_in_both_of_its_groups,
    ],
};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
    );
    let mut servers = vec![("embedded", Arc::new(runtime.block_on(Cluster::embedded())?))];
    // Starting the real one for a mere listing would be a waste.
    let real = if arguments.list {
        None
    } else {
        runtime.block_on(Cluster::real())?
    };
    match real {
        Some(cluster) => servers.push(("real", Arc::new(cluster))),
        None => eprintln!(
            "SKIPPED: the runs on a real kube-apiserver; set KUBEBUILDER_ASSETS=$(tests/kube/build.sh)"
        ),
    }
    let trials = servers
        .iter()
        .flat_map(|(kind, cluster)| {
            CASES
                .iter()
                .map(|(name, run)| trial(&runtime, (kind, cluster), (name, *run)))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ends the real server's processes before the exit does.
    drop(servers);
    conclusion.exit()
}

fn trial(
    runtime: &Arc<Runtime>,
    (kind, cluster): (&&str, &Arc<Cluster>),
    (name, run): (&&str, Run),
) -> Trial {
    let (runtime, cluster) = (runtime.clone(), cluster.clone());
    Trial::test(format!("{kind}::{name}"), move || {
        let outcome: anyhow::Result<()> = runtime.block_on(async move {
            let namespace = support::namespace(&cluster.client()).await?;
            run(Case { cluster, namespace }).await
        });
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    })
}
