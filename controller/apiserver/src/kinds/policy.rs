//! PodDisruptionBudgets.

use super::field::{FieldErrors, Path};
use super::value::{present, set, text};
use super::workload::{int_or_percent, internal, not_over_100_percent};
use super::{Ctx, Generation, Strategy, metadata};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};

pub(super) struct DisruptionBudget;

impl Strategy for DisruptionBudget {
    fn prepare_create(&self, budget: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        let zero = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        set(budget, "status", zero);
        Ok(())
    }

    fn validate_create(&self, budget: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate(budget)
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        if ctx.subresource == "status" {
            Vec::new()
        } else {
            validate(new)
        }
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

fn validate(budget: &Value) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    let path = Path::root("spec");
    let spec = budget.get("spec").unwrap_or(&Value::Null);
    if present(spec, "minAvailable") && present(spec, "maxUnavailable") {
        let fields = [
            "MinAvailable",
            "Selector",
            "MaxUnavailable",
            "UnhealthyPodEvictionPolicy",
        ];
        errors.invalid(
            &path,
            internal(spec, &fields),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for key in ["minAvailable", "maxUnavailable"] {
        let value = spec.get(key).unwrap_or(&Value::Null);
        int_or_percent(value, &path.child(key), &mut errors);
        not_over_100_percent(value, &path.child(key), &mut errors);
    }
    metadata::validate_selector(
        spec.get("selector").unwrap_or(&Value::Null),
        &path.child("selector"),
        &mut errors,
    );
    if let Some(policy) = text(spec, "unhealthyPodEvictionPolicy")
        && !matches!(policy, "AlwaysAllow" | "IfHealthyBudget")
    {
        errors.not_supported(
            &path.child("unhealthyPodEvictionPolicy"),
            policy,
            &["AlwaysAllow", "IfHealthyBudget"],
        );
    }
    errors.into_causes()
}
