//! Namespaces: phase, the `kubernetes` finalizer, the name label, the `finalize` subresource.

use super::field::{FieldErrors, Path};
use super::metadata::{FOREGROUND, ORPHAN};
use super::value::{list, object, replace, set};
use super::{Ctx, NameRule, Strategy, names};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};

pub(super) struct Namespace;

impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn defaults(&self, namespace: &mut Value) {
        label(namespace);
        if let Some(status) = object(namespace, "status")
            && status.get("phase").is_none()
        {
            set(status, "phase", "Active");
        }
    }

    fn prepare_create(&self, namespace: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        label(namespace);
        let mut finalizers = list(&namespace["spec"], "finalizers").to_vec();
        if !finalizers.iter().any(|name| name == KUBERNETES) {
            finalizers.push(KUBERNETES.into());
        }
        if let Some(spec) = object(namespace, "spec") {
            set(spec, "finalizers", finalizers);
        }
        set(namespace, "status", json!({"phase": "Active"}));
        Ok(())
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        label(new);
        match ctx.subresource {
            // `spec` is written by `finalize` alone, and that writes nothing else of it.
            "finalize" => replace(new, "status", old.get("status")),
            "status" => replace(new, "spec", old.get("spec")),
            _ => {
                if let Some(spec) = object(new, "spec") {
                    replace(spec, "finalizers", old["spec"].get("finalizers"));
                }
                replace(new, "status", old.get("status"));
            }
        }
        Ok(())
    }

    fn validate_create(&self, namespace: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate_finalizers(namespace, false, &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        match ctx.subresource {
            "finalize" => validate_finalizers(new, true, &mut errors),
            "status" => validate_phase(new, &mut errors),
            _ => {}
        }
        errors.into_causes()
    }

    fn has_status(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.phase"]
    }
}

fn label(namespace: &mut Value) {
    let Some(name) = namespace["metadata"]["name"]
        .as_str()
        .filter(|name| !name.is_empty())
    else {
        return;
    };
    let name = name.to_owned();
    if let Some(meta) = object(namespace, "metadata")
        && let Some(labels) = object(meta, "labels")
    {
        set(labels, "kubernetes.io/metadata.name", name);
    }
}

fn validate_finalizers(namespace: &Value, indexed: bool, errors: &mut FieldErrors) {
    let root = Path::root("spec");
    let path = root.child("finalizers");
    for (index, name) in list(&namespace["spec"], "finalizers").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        let at = path.index(index);
        let path = if indexed { &at } else { &path };
        for fault in names::qualified_name(name) {
            errors.invalid(path, name, &fault);
        }
        if !name.contains('/') && ![ORPHAN, FOREGROUND, KUBERNETES].contains(&name) {
            errors.invalid(
                path,
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

fn validate_phase(namespace: &Value, errors: &mut FieldErrors) {
    let deleting = namespace["metadata"]
        .get("deletionTimestamp")
        .is_some_and(|at| !at.is_null());
    let phase = namespace["status"]["phase"].as_str().unwrap_or_default();
    let (wanted, when) = if deleting {
        ("Terminating", "not empty")
    } else {
        ("Active", "empty")
    };
    if phase != wanted {
        let path = Path::root("status");
        errors.invalid(
            &path.child("Phase"),
            phase,
            &format!("may only be '{wanted}' if `deletionTimestamp` is {when}"),
        );
    }
}

/// The finalizer in `spec` that the namespace controller removes when the content is gone.
pub(crate) const KUBERNETES: &str = "kubernetes";
