//! Leases.

use super::field::{FieldErrors, Path};
use super::value::{existing, number, present, remove};
use super::{Ctx, Strategy};
use crate::error::{ApiError, Cause};
use serde_json::Value;

pub(super) struct Lease;

impl Strategy for Lease {
    fn prepare_create(&self, lease: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        drop_coordinated(lease);
        Ok(())
    }

    fn prepare_update(&self, new: &mut Value, _: &Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        drop_coordinated(new);
        Ok(())
    }

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

/// Coordinated leader election is off by default, and its fields are dropped.
fn drop_coordinated(lease: &mut Value) {
    if let Some(spec) = existing(lease, "spec") {
        remove(spec, "strategy");
        remove(spec, "preferredHolder");
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
    errors.into_causes()
}
