//! Changing objects and knowing whose each field is: JSON patch, merge patch, strategic merge patch, server-side apply, and the
//! upkeep of `metadata.managedFields`.
//!
//! Everything here is a pure function on JSON values; the time is an argument. Ownership follows the rules of structured
//! merge: a set of fields for each manager ([`FieldSet`]), conflicts where an apply would change what another manager owns,
//! and removal of what an applier no longer asks for.

mod apply;
mod field_set;
mod json;
mod managed_fields;
mod merge;
mod replicas;
mod strategic;
mod typed;

pub(crate) use apply::kind_title;
pub use apply::{Applied, ApplyError, Terms, apply};
pub use field_set::{FieldSet, PathElement};
pub use json::{JsonPatchError, json, json_complaints};
pub use managed_fields::{Writer, keep_times_if_same, record_update};
pub use merge::merge;
pub use replicas::Replicas;
pub(crate) use strategic::printed;
pub use strategic::{StrategicError, strategic};

#[cfg(test)]
mod tests;
