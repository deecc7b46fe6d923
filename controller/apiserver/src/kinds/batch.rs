//! Jobs and CronJobs.

use super::field::{FieldErrors, Path};
use super::pod::{defaults, spec};
use super::value::{default, object, present, set, text};
use super::workload::nonnegative;
use super::{Ctx, Generation, Strategy, metadata};
use crate::error::{ApiError, Cause};
use serde_json::{Map, Value, json};

pub(super) struct Job;
pub(super) struct CronJob;

impl Strategy for Job {
    fn defaults(&self, job: &mut Value) {
        let Some(spec) = object(job, "spec") else {
            return;
        };
        default_spec(spec);
        let labels = spec.pointer("/template/metadata/labels").cloned();
        if let (Some(meta), Some(labels)) = (object(job, "metadata"), labels)
            && meta
                .get("labels")
                .and_then(Value::as_object)
                .is_none_or(Map::is_empty)
        {
            set(meta, "labels", labels);
        }
    }

    fn prepare_create(&self, job: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        set(job, "status", json!({}));
        if job["spec"]["manualSelector"] != true {
            select_own_pods(job);
        }
        Ok(())
    }

    fn validate_create(&self, job: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate(&job["spec"], &SPEC, &mut errors);
        validate_selector(&job["spec"], &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        if ctx.subresource == "status" {
            return Vec::new();
        }
        validate(&new["spec"], &SPEC, &mut errors);
        let suspended = old["spec"]["suspend"] == true && !present(&old["status"], "startTime");
        let elastic = new["spec"]["completionMode"] == "Indexed"
            && new["spec"]["completions"] == new["spec"]["parallelism"];
        for key in [
            "completions",
            "selector",
            "template",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ] {
            if key == "template" && suspended || key == "completions" && elastic {
                continue;
            }
            metadata::immutable(
                &SPEC.child(key),
                new["spec"].get(key),
                old["spec"].get(key),
                &mut errors,
            );
        }
        errors.into_causes()
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn selectable_value(&self, job: &Value, _: &str) -> String {
        job["status"]["succeeded"]
            .as_i64()
            .unwrap_or_default()
            .to_string()
    }
}

impl Strategy for CronJob {
    fn defaults(&self, cron: &mut Value) {
        let Some(spec) = object(cron, "spec") else {
            return;
        };
        default(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = object(spec, "jobTemplate")
            && let Some(job) = object(template, "spec")
        {
            defaults::apply_template(job, "template");
        }
    }

    fn prepare_create(&self, cron: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        set(cron, "status", json!({}));
        Ok(())
    }

    fn validate_create(&self, cron: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate_cron(cron)
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        if ctx.subresource == "status" {
            Vec::new()
        } else {
            validate_cron(new)
        }
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }
}

fn default_spec(spec: &mut Value) {
    if !present(spec, "completions") && !present(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let limit = if present(spec, "backoffLimitPerIndex") {
        i32::MAX
    } else {
        6
    };
    default(spec, "backoffLimit", limit);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let replacement = if present(spec, "podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    default(spec, "podReplacementPolicy", replacement);
    default(spec, "manualSelector", false);
    defaults::apply_template(spec, "template");
}

/// A job owns exactly the pods that carry its uid, in the labels of both naming schemes.
fn select_own_pods(job: &mut Value) {
    let uid = job["metadata"]["uid"].clone();
    let name = job["metadata"]["name"].clone();
    // Labels that were taken from the template follow it.
    let same = |job: &Value| {
        let labels = job["metadata"].get("labels").cloned().unwrap_or_default();
        metadata::semantically_equal(
            &labels,
            job.pointer("/spec/template/metadata/labels")
                .unwrap_or(&Value::Null),
        )
    };
    let taken = same(job);
    let Some(spec) = object(job, "spec") else {
        return;
    };
    if !present(spec, "selector") {
        set(spec, "selector", json!({"matchLabels": {}}));
    }
    if let Some(selector) = object(spec, "selector")
        && let Some(labels) = object(selector, "matchLabels")
    {
        set(labels, "batch.kubernetes.io/controller-uid", uid.clone());
    }
    if let Some(template) = object(spec, "template")
        && let Some(meta) = object(template, "metadata")
        && let Some(labels) = object(meta, "labels")
    {
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            set(labels, key, value.clone());
        }
    }
    if taken {
        let labels = job
            .pointer("/spec/template/metadata/labels")
            .cloned()
            .unwrap_or_default();
        set(&mut job["metadata"], "labels", labels);
    }
}

fn validate(job: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        nonnegative(job, key, path, errors);
    }
    match text(job, "completionMode") {
        Some("Indexed") if !present(job, "completions") => {
            errors.required(
                &path.child("completions"),
                "when completion mode is Indexed",
            );
        }
        Some(mode) if !matches!(mode, "Indexed" | "NonIndexed") => {
            errors.not_supported(
                &path.child("completionMode"),
                mode,
                &["NonIndexed", "Indexed"],
            );
        }
        _ => {}
    }
    let template = job.get("template").unwrap_or(&Value::Null);
    let path = path.child("template");
    spec::validate_template(template, &path, errors);
    // `Always` is the default and no use for a job: the list is in the order of the real message.
    if template["spec"]["restartPolicy"] == "Always" {
        let spec = path.child("spec");
        errors.required(
            &spec.child("restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        );
    }
}

fn validate_selector(job: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("selector");
    let selector = job.get("selector").unwrap_or(&Value::Null);
    if selector.is_null() {
        errors.required(&path, "");
        return;
    }
    metadata::validate_selector(selector, &path, errors);
    let own = selector["matchLabels"].as_object().is_some_and(|labels| {
        labels.len() == 1 && labels.contains_key("batch.kubernetes.io/controller-uid")
    });
    if job["manualSelector"] != true && !own {
        errors.invalid(&path, selector.clone(), "`selector` not auto-generated");
    }
    let labels = job
        .pointer("/template/metadata/labels")
        .unwrap_or(&Value::Null);
    if !metadata::selector_matches(selector, labels) {
        let template = SPEC.child("template");
        let meta = template.child("metadata");
        errors.invalid(
            &meta.child("labels"),
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
}

fn validate_cron(cron: &Value) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    let spec = &cron["spec"];
    if let Some(schedule) = text(spec, "schedule") {
        let fields = schedule.split_whitespace().count();
        if !schedule.starts_with('@') && fields != 5 {
            let text = format!("expected exactly 5 fields, found {fields}: [{schedule}]");
            errors.invalid(&SPEC.child("schedule"), schedule, &text);
        }
    }
    for key in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        nonnegative(spec, key, &SPEC, &mut errors);
    }
    spec::one_of(
        spec,
        "concurrencyPolicy",
        &["Allow", "Forbid", "Replace"],
        &SPEC,
        &mut errors,
    );
    let template = SPEC.child("jobTemplate");
    validate(
        &spec["jobTemplate"]["spec"],
        &template.child("spec"),
        &mut errors,
    );
    if text(spec, "schedule").is_none() {
        errors.required(&SPEC.child("schedule"), "");
    }
    if cron["metadata"]["name"]
        .as_str()
        .is_some_and(|name| name.len() > CRON_NAME_MAX)
    {
        let path = Path::root("metadata");
        let name = cron["metadata"]["name"].clone();
        errors.invalid(
            &path.child("name"),
            name,
            "must be no more than 52 characters",
        );
    }
    errors.into_causes()
}

const SPEC: Path<'static> = Path::root("spec");
/// A job's name adds eleven characters, and a label holds 63.
const CRON_NAME_MAX: usize = 52;
