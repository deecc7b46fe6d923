//! The query part of a request: options of the verbs.

use std::num::{IntErrorKind, ParseIntError};

use crate::error::{ApiError, Cause};
use serde_json::Value;

/// Query parameters in their order; a name may repeat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// An option that the server can't accept, as the 422 of the options kind.
pub(crate) fn options_invalid(kind: &str, causes: Vec<Cause>) -> ApiError {
    ApiError::invalid("meta.k8s.io", kind, "", causes)
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let Some(query) = query else {
            return Self::default();
        };
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter; an empty one counts as absent, as in Kubernetes.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Present and not `false` or `0`: how Kubernetes reads booleans in queries.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let found = self.0.iter().find(|(key, _)| key == name)?;
        Some(!matches!(
            found.1.to_ascii_lowercase().as_str(),
            "false" | "0"
        ))
    }

    /// A number; an empty text is none.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.all(name).next() else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error: ParseIntError| {
            let why = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }

    /// `dryRun=All`; anything else is refused. `kind` names the verb's options.
    pub(crate) fn dry_run(&self, kind: &str) -> Result<bool, ApiError> {
        if kind != "DeleteOptions" {
            self.check_field_options(kind)?;
        }
        let mut dry = false;
        for value in self.all("dryRun") {
            if value != "All" {
                let value = Value::Array(vec![Value::String(value.to_owned())]);
                return Err(options_invalid(
                    kind,
                    vec![Cause::not_supported("dryRun", &value, &["All"])],
                ));
            }
            dry = true;
        }
        Ok(dry)
    }

    /// `fieldManager` and `fieldValidation`, which every write takes.
    fn check_field_options(&self, kind: &str) -> Result<(), ApiError> {
        let mut causes = Vec::new();
        let manager = self.text("fieldManager").unwrap_or_default();
        if manager.len() > FIELD_MANAGER_BYTES_MAX {
            causes.push(Cause::too_long("fieldManager", FIELD_MANAGER_BYTES_MAX));
        }
        if manager.chars().any(char::is_control) {
            let value = Value::String(manager.to_owned());
            let detail = "should only contain printable characters";
            causes.push(Cause::invalid("fieldManager", &value, detail));
        }
        let validation = self.text("fieldValidation").unwrap_or_default();
        if !matches!(validation, "" | "Ignore" | "Strict" | "Warn") {
            let value = Value::String(validation.to_owned());
            let supported = &["", "Ignore", "Strict", "Warn"];
            causes.push(Cause::not_supported("fieldValidation", &value, supported));
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(options_invalid(kind, causes))
    }
}

const FIELD_MANAGER_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_empty_ones_are_absent() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc&watch=1&limit=&dryRun=All"));
        assert_eq!(query.text("labelSelector"), Some("a=b,c"));
        assert_eq!(query.flag("watch"), Some(true));
        assert_eq!(query.integer("timeoutSeconds").unwrap(), None);
        assert_eq!(query.integer("limit").unwrap_err().code(), 400);
        assert!(query.dry_run("CreateOptions").unwrap());
        let bad = Query::parse(Some("dryRun=Some&limit=x"));
        assert_eq!(bad.dry_run("CreateOptions").unwrap_err().code(), 422);
        assert_eq!(bad.integer("limit").unwrap_err().code(), 400);
    }
}
