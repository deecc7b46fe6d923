//! Deployments, StatefulSets, DaemonSets, ReplicaSets and ReplicationControllers.

use super::field::{FieldErrors, Path};
use super::pod::{defaults, spec};
use super::value::{default, existing, items, list, number, object, present, remove, set, text};
use super::{Ctx, Generation, Strategy, metadata, names};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};

/// One strategy for all five: they differ by rows of defaults and by what may change.
pub(super) struct Workload(pub(super) Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    ReplicationController,
}

impl Strategy for Workload {
    fn defaults(&self, object_: &mut Value) {
        let Some(spec) = object(object_, "spec") else {
            return;
        };
        match self.0 {
            Kind::Deployment => default_deployment(spec),
            Kind::StatefulSet => default_stateful_set(spec),
            Kind::DaemonSet => default_daemon_set(spec),
            Kind::ReplicaSet => default(spec, "replicas", 1),
            Kind::ReplicationController => default(spec, "replicas", 1),
        }
        // In this one kind the template may be missing.
        if self.0 != Kind::ReplicationController || present(spec, "template") {
            defaults::apply_template(spec, "template");
        }
        if self.0 == Kind::ReplicationController {
            if number(spec, "minReadySeconds") == 0 {
                remove(spec, "minReadySeconds");
            }
            let labels = spec.pointer("/template/metadata/labels").cloned();
            if let Some(labels) = labels {
                if !present(spec, "selector") {
                    set(spec, "selector", labels.clone());
                }
                if let Some(meta) = object(object_, "metadata") {
                    default(meta, "labels", labels);
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        let status = match self.0 {
            Kind::Deployment => json!({}),
            Kind::StatefulSet => json!({"replicas": 0, "availableReplicas": 0}),
            Kind::DaemonSet => json!({
                "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
            }),
            Kind::ReplicaSet | Kind::ReplicationController => json!({"replicas": 0}),
        };
        set(object, "status", status);
        if self.0 == Kind::DaemonSet {
            set_template_generation(object, 1);
        }
        Ok(())
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        if self.0 == Kind::DaemonSet && ctx.subresource.is_empty() {
            let known = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str();
            let known: i64 = known.and_then(|text| text.parse().ok()).unwrap_or_default();
            let (a, b) = (&new["spec"]["template"], &old["spec"]["template"]);
            let moved = !metadata::semantically_equal(a, b);
            set_template_generation(new, known + i64::from(moved));
        }
        Ok(())
    }

    fn validate_create(&self, object: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        self.validate(object, &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        if ctx.subresource == "status" {
            validate_status(&new["status"], &mut errors);
            return errors.into_causes();
        }
        if self.0 == Kind::StatefulSet {
            for key in [
                "selector",
                "volumeClaimTemplates",
                "serviceName",
                "podManagementPolicy",
            ] {
                let (a, b) = (new["spec"].get(key), old["spec"].get(key));
                metadata::immutable(&SPEC.child(key), a, b, &mut errors);
            }
        } else if self.0 != Kind::ReplicationController {
            let (a, b) = (new["spec"].get("selector"), old["spec"].get("selector"));
            metadata::immutable(&SPEC.child("selector"), a, b, &mut errors);
        }
        self.validate(new, &mut errors);
        errors.into_causes()
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        match self.0 {
            Kind::ReplicaSet | Kind::ReplicationController => &["status.replicas"],
            _ => &[],
        }
    }
}

impl Workload {
    fn noun(&self) -> &'static str {
        match self.0 {
            Kind::Deployment => "deployment",
            Kind::StatefulSet => "statefulset",
            Kind::DaemonSet => "daemonset",
            Kind::ReplicaSet => "deployment",
            Kind::ReplicationController => "replicationcontroller",
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        if self.0 == Kind::StatefulSet {
            validate_stateful(spec, errors);
        }
        for key in [
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
            "progressDeadlineSeconds",
        ] {
            nonnegative(spec, key, &SPEC, errors);
        }
        if self.0 == Kind::ReplicationController {
            self.validate_map_selector(spec, errors);
            return;
        }
        let template = spec.get("template").unwrap_or(&Value::Null);
        let path = SPEC.child("template");
        if self.validate_selector(spec, errors) {
            spec::validate_selected(template, &spec["selector"], &path, errors);
        }
        spec::validate_template(template, &path, errors);
        spec::validate_restart_policy(template, &["Always"], &path, errors);
        if present(&template["spec"], "activeDeadlineSeconds") {
            let noun = match self.0 {
                Kind::StatefulSet => "StatefulSet",
                Kind::DaemonSet => "DaemonSet",
                _ => "ReplicaSet",
            };
            let path = path.child("spec");
            errors.forbidden(
                &path.child("activeDeadlineSeconds"),
                &format!("activeDeadlineSeconds in {noun} is not Supported"),
            );
        }
        match self.0 {
            Kind::Deployment => validate_rollout(spec, "strategy", "Recreate", errors),
            Kind::DaemonSet => validate_rollout(spec, "updateStrategy", "OnDelete", errors),
            _ => {}
        }
        let deadline = number(spec, "progressDeadlineSeconds");
        if self.0 == Kind::Deployment && deadline <= number(spec, "minReadySeconds") {
            errors.invalid(
                &SPEC.child("progressDeadlineSeconds"),
                deadline,
                "must be greater than minReadySeconds",
            );
        }
    }

    /// Answers whether the selector can be read, so that it can be held against the template.
    fn validate_selector(&self, spec: &Value, errors: &mut FieldErrors) -> bool {
        let selector = spec.get("selector").unwrap_or(&Value::Null);
        let path = SPEC.child("selector");
        if selector.is_null() {
            // A DaemonSet's missing selector selects nothing, and only that is told.
            if self.0 != Kind::DaemonSet {
                errors.required(&path, "");
            }
            return true;
        }
        let before = errors.len();
        metadata::validate_selector(selector, &path, errors);
        let readable = errors.len() == before;
        if metadata::selector_is_empty(selector) {
            let text = format!("empty selector is invalid for {}", self.noun());
            errors.invalid(&path, selector.clone(), &text);
        }
        match self.0 {
            _ if readable => {}
            Kind::StatefulSet => errors.invalid(&path, selector.clone(), ""),
            Kind::DaemonSet => {}
            _ => errors.invalid(&path, selector.clone(), "invalid label selector"),
        }
        readable
    }

    fn validate_map_selector(&self, spec: &Value, errors: &mut FieldErrors) {
        let path = SPEC.child("selector");
        let selector = spec.get("selector").unwrap_or(&Value::Null);
        if selector.as_object().is_none_or(serde_json::Map::is_empty) {
            errors.required(&path, "");
        }
        metadata::validate_labels(selector, &path, errors);
        let path = SPEC.child("template");
        match spec.get("template").filter(|template| !template.is_null()) {
            None => errors.required(&path, ""),
            Some(template) => {
                let selector = json!({"matchLabels": selector});
                spec::validate_selected(template, &selector, &path, errors);
                spec::validate_template(template, &path, errors);
                spec::validate_restart_policy(template, &["Always"], &path, errors);
            }
        }
    }
}

/// Reports a negative count.
pub(super) fn nonnegative(value: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = number(value, key);
    if number < 0 {
        errors.invalid(
            &path.child(key),
            number,
            "must be greater than or equal to 0",
        );
    }
}

/// A count, or a share such as `25%`.
pub(super) fn int_or_percent(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errors.invalid(path, text.as_str(), PERCENT);
            }
        }
        other if other.as_i64().is_some_and(|number| number < 0) => {
            errors.invalid(path, other.clone(), "must be greater than or equal to 0");
        }
        _ => {}
    }
}

fn default_deployment(spec: &mut Value) {
    default(spec, "replicas", 1);
    if let Some(strategy) = object(spec, "strategy") {
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
    }
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
}

fn default_stateful_set(spec: &mut Value) {
    default(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = object(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
            default(rolling, "maxUnavailable", 1);
        }
    }
    if let Some(retention) = object(spec, "persistentVolumeClaimRetentionPolicy") {
        default(retention, "whenDeleted", "Retain");
        default(retention, "whenScaled", "Retain");
    }
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    for claim in items(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = existing(claim, "spec") {
            default(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = object(claim, "status") {
            default(status, "phase", "Pending");
        }
    }
}

fn default_daemon_set(spec: &mut Value) {
    if let Some(strategy) = object(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    default(spec, "revisionHistoryLimit", 10);
}

fn validate_stateful(spec: &Value, errors: &mut FieldErrors) {
    let policy = text(spec, "podManagementPolicy").unwrap_or_default();
    if !matches!(policy, "OrderedReady" | "Parallel") {
        errors.invalid(
            &SPEC.child("podManagementPolicy"),
            policy,
            "must be 'OrderedReady' or 'Parallel'",
        );
    }
    let strategy = &spec["updateStrategy"];
    let path = SPEC.child("updateStrategy");
    match text(strategy, "type").unwrap_or_default() {
        "RollingUpdate" => nonnegative(
            &strategy["rollingUpdate"],
            "partition",
            &path.child("rollingUpdate"),
            errors,
        ),
        "OnDelete" => {
            if present(strategy, "rollingUpdate") {
                errors.invalid(
                    &path.child("rollingUpdate"),
                    internal(&strategy["rollingUpdate"], &["Partition", "MaxUnavailable"]),
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        other => errors.invalid(
            &path,
            json!({"Type": other, "RollingUpdate": null}),
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
    if let Some(name) = text(spec, "serviceName") {
        for fault in names::label(name) {
            errors.invalid(&SPEC.child("serviceName"), name, &fault);
        }
    }
    let path = SPEC.child("volumeClaimTemplates");
    for (index, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
        if text(&claim["metadata"], "name").is_none() {
            let path = path.index(index);
            let path = path.child("metadata");
            errors.required(&path.child("name"), "");
        }
    }
}

fn validate_rollout(spec: &Value, key: &str, other: &str, errors: &mut FieldErrors) {
    let strategy = &spec[key];
    let path = SPEC.child(key);
    let kind = text(strategy, "type").unwrap_or_default();
    if kind == other {
        if present(strategy, "rollingUpdate") && other == "Recreate" {
            errors.forbidden(
                &path.child("rollingUpdate"),
                "may not be specified when strategy `type` is 'Recreate'",
            );
        }
    } else if kind == "RollingUpdate" {
        let path = path.child("rollingUpdate");
        validate_rolling(
            &strategy["rollingUpdate"],
            other == "Recreate",
            &path,
            errors,
        );
    } else {
        let supported: &[&str] = if other == "Recreate" {
            &["Recreate", "RollingUpdate"]
        } else {
            &["RollingUpdate", "OnDelete"]
        };
        let printed = json!({"Type": kind, "RollingUpdate": null});
        errors.not_supported(&path, printed, supported);
    }
}

fn validate_rolling(rolling: &Value, deployment: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let (unavailable, surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
    int_or_percent(&rolling["maxUnavailable"], &unavailable, errors);
    int_or_percent(&rolling["maxSurge"], &surge, errors);
    let zero = |key: &str| rolling[key] == 0 || rolling[key] == "0%" || !present(rolling, key);
    match (zero("maxUnavailable"), zero("maxSurge")) {
        (true, true) if deployment => errors.invalid(
            &unavailable,
            rolling["maxUnavailable"].clone(),
            "may not be 0 when `maxSurge` is 0",
        ),
        (true, true) => errors.required(&unavailable, "cannot be 0 when maxSurge is 0"),
        (false, false) if !deployment => errors.invalid(
            &surge,
            rolling["maxSurge"].clone(),
            "may not be set when maxUnavailable is non-zero",
        ),
        _ => {}
    }
    not_over_100_percent(&rolling["maxUnavailable"], &unavailable, errors);
    if !deployment {
        not_over_100_percent(&rolling["maxSurge"], &surge, errors);
    }
}

/// Reports a share above the whole.
pub(super) fn not_over_100_percent(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%'))
        .and_then(|text| text.parse::<u64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// A value as the real server prints it here: its internal form, with the names of Go.
pub(super) fn internal(value: &Value, fields: &[&str]) -> Value {
    let mut printed = serde_json::Map::new();
    for field in fields {
        let key = format!("{}{}", field[..1].to_lowercase(), &field[1..]);
        printed.insert(
            (*field).to_owned(),
            value.get(&key).cloned().unwrap_or_default(),
        );
    }
    Value::Object(printed)
}

/// Counts of a status fit one another.
fn validate_status(status: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    for (key, value) in status.as_object().into_iter().flatten() {
        if value.as_i64().is_some_and(|number| number < 0) {
            nonnegative(status, key, &path, errors);
        }
    }
    let replicas = number(status, "replicas");
    for key in [
        "fullyLabeledReplicas",
        "updatedReplicas",
        "currentReplicas",
        "readyReplicas",
        "availableReplicas",
    ] {
        let count = number(status, key);
        if count > replicas {
            errors.invalid(
                &path.child(key),
                count,
                "cannot be greater than status.replicas",
            );
        }
    }
    let (available, ready) = (
        number(status, "availableReplicas"),
        number(status, "readyReplicas"),
    );
    if available > ready {
        errors.invalid(
            &path.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        );
    }
}

/// A field of an old version, kept in an annotation.
fn set_template_generation(object_: &mut Value, generation: i64) {
    if let Some(meta) = object(object_, "metadata")
        && let Some(annotations) = object(meta, "annotations")
    {
        set(annotations, TEMPLATE_GENERATION, generation.to_string());
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const SPEC: Path<'static> = Path::root("spec");
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
