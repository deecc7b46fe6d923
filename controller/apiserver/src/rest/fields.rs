//! Fields: unknown ones, their owners, and what custom schemas say of them.

use serde_json::Value;

use super::Request;
use super::decode::FieldValidation;
use crate::error::{ApiError, Cause};

impl Request<'_> {
    /// Removes fields that the kind doesn't have, and warns of them or refuses the object, as the
    /// client wishes.
    pub(super) fn check_fields(&self, object: &mut Value) -> Result<Vec<String>, ApiError> {
        let wish = self.field_validation()?;
        let Some(schema) = self.schema() else {
            return Ok(Vec::new());
        };
        let mut unknown = schema.prune(object);
        unknown.sort();
        let texts: Vec<_> = unknown
            .iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect();
        match wish {
            FieldValidation::Strict if !texts.is_empty() => {
                let list = texts.join(", ");
                let mut message = format!("strict decoding error: {list}");
                if self.resource.custom.is_none() {
                    let (version, kind) = self.expected_type();
                    message = format!(
                        "{kind} in version {version:?} cannot be handled as a {kind}: {message}"
                    );
                }
                return Err(ApiError::bad_request(message));
            }
            FieldValidation::Ignore => return Ok(Vec::new()),
            FieldValidation::Strict | FieldValidation::Warn => {}
        }
        if self.resource.custom.is_none() {
            let faults = schema.validate(object);
            if let Some(fault) = faults.first() {
                let (version, kind) = self.expected_type();
                return Err(ApiError::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: {}: {}",
                    fault.field, fault.message
                )));
            }
        }
        Ok(texts)
    }

    /// Records which fields this request's manager owns after a create, update or patch.
    pub(super) fn record_fields(&self, _old: Option<&Value>, _new: &mut Value) {}

    /// What a CRD's schema and rules say against an object.
    pub(super) fn validate_custom(&self, object: &Value, _old: Option<&Value>) -> Vec<Cause> {
        match (&self.resource.custom, self.schema()) {
            (Some(_), Some(schema)) => schema.validate(object),
            _ => Vec::new(),
        }
    }
}
