//! Leases.

use super::field::{FieldErrors, Path};
use super::value::{number, present, text};
use super::{Ctx, Strategy};
use crate::error::Cause;
use serde_json::Value;

pub(super) struct Lease;

impl Strategy for Lease {
    fn validate_create(&self, lease: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate(lease)
    }

    fn validate_update(&self, new: &Value, _: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate(new)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

fn validate(lease: &Value) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    let path = Path::root("spec");
    let spec = lease.get("spec").unwrap_or(&Value::Null);
    let duration = number(spec, "leaseDurationSeconds");
    if present(spec, "leaseDurationSeconds") && duration <= 0 {
        errors.invalid(
            &path.child("leaseDurationSeconds"),
            duration,
            "must be greater than 0",
        );
    }
    let transitions = number(spec, "leaseTransitions");
    if transitions < 0 {
        let text = "must be greater than or equal to 0";
        errors.invalid(&path.child("leaseTransitions"), transitions, text);
    }
    if text(spec, "preferredHolder").is_some() && text(spec, "strategy").is_none() {
        let text = "may only be specified if `strategy` is defined";
        errors.forbidden(&path.child("preferredHolder"), text);
    }
    errors.into_causes()
}
