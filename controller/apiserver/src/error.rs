//! Failures as Kubernetes tells them: every [`ApiError`] is one `Status` body.
//!
//! Codes, reasons, details and the shape of messages follow `apimachinery/pkg/api/errors` and
//! `apimachinery/pkg/util/validation/field`. Clients compare code, reason and the causes' type and
//! field; messages are for people but kept in the same form.

use serde_json::{Map, Value, json};

/// What is wrong with one field, with the wire names of `metav1.CauseType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CauseReason {
    FieldValueNotFound,
    FieldValueRequired,
    FieldValueDuplicate,
    FieldValueInvalid,
    FieldValueNotSupported,
    FieldValueForbidden,
    FieldValueTooLong,
    FieldValueTooMany,
    FieldValueTypeInvalid,
    FieldManagerConflict,
    DisruptionBudget,
    InternalError,
    NamespaceTerminating,
    ResourceVersionTooLarge,
    UnexpectedServerResponse,
    /// A cause without a `reason`, as the eviction API and aggregated errors give.
    Unset,
}

/// One entry of `status.details.causes`. `message` starts with the reason in words, as
/// `field.Error.ErrorBody()` prints it; use the constructors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub reason: CauseReason,
    pub field: String,
    pub message: String,
}

/// A failed request. Cheap to move; [`ApiError::status`] gives the response body.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<Failure>);

#[derive(Debug, Clone, PartialEq)]
struct Failure {
    code: u16,
    reason: &'static str,
    message: String,
    name: String,
    group: String,
    kind: String,
    uid: String,
    causes: Vec<Cause>,
    retry_after_seconds: u32,
    /// A generic answer carries empty details, an authentication failure none at all.
    details: bool,
    continue_token: String,
}

// === impl CauseReason ===

impl CauseReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FieldValueNotFound => "FieldValueNotFound",
            Self::FieldValueRequired => "FieldValueRequired",
            Self::FieldValueDuplicate => "FieldValueDuplicate",
            Self::FieldValueInvalid => "FieldValueInvalid",
            Self::FieldValueNotSupported => "FieldValueNotSupported",
            Self::FieldValueForbidden => "FieldValueForbidden",
            Self::FieldValueTooLong => "FieldValueTooLong",
            Self::FieldValueTooMany => "FieldValueTooMany",
            Self::FieldValueTypeInvalid => "FieldValueTypeInvalid",
            Self::FieldManagerConflict => "FieldManagerConflict",
            Self::DisruptionBudget => "DisruptionBudget",
            Self::InternalError => "InternalError",
            Self::NamespaceTerminating => "NamespaceTerminating",
            Self::ResourceVersionTooLarge => "ResourceVersionTooLarge",
            Self::UnexpectedServerResponse => "UnexpectedServerResponse",
            Self::Unset => "",
        }
    }
}

// === impl Cause ===

impl Cause {
    pub fn new(reason: CauseReason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(
            CauseReason::FieldValueRequired,
            field,
            with_detail("Required value", detail),
        )
    }

    /// `value` is printed as Go prints it: strings quoted, objects and lists as compact JSON.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let head = format!("Invalid value: {}", printed(value));
        Self::new(
            CauseReason::FieldValueInvalid,
            field,
            with_detail(&head, detail),
        )
    }

    /// A value of the wrong JSON type; `value` is the type's name or the value itself.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let head = format!("Invalid value: {}", printed(value));
        Self::new(
            CauseReason::FieldValueTypeInvalid,
            field,
            with_detail(&head, detail),
        )
    }

    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let mut message = format!("Unsupported value: {}", printed(value));
        if !supported.is_empty() {
            let list: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
            message.push_str(&format!(": supported values: {}", list.join(", ")));
        }
        Self::new(CauseReason::FieldValueNotSupported, field, message)
    }

    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", printed(value));
        Self::new(CauseReason::FieldValueDuplicate, field, message)
    }

    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Not found: {}", printed(value));
        Self::new(CauseReason::FieldValueNotFound, field, message)
    }

    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(
            CauseReason::FieldValueForbidden,
            field,
            with_detail("Forbidden", detail),
        )
    }

    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let message = format!("Too long: may not be more than {max} bytes");
        Self::new(CauseReason::FieldValueTooLong, field, message)
    }

    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        let message = format!("Too many: {actual}: must have at most {max} {items}");
        Self::new(CauseReason::FieldValueTooMany, field, message)
    }

    fn sentence(&self) -> String {
        if self.field.is_empty() {
            return self.message.clone();
        }
        format!("{}: {}", self.field, self.message)
    }

    fn json(&self) -> Value {
        let mut cause = Map::new();
        insert_nonempty(&mut cause, "reason", self.reason.as_str());
        insert_nonempty(&mut cause, "message", &self.message);
        insert_nonempty(&mut cause, "field", &self.field);
        Value::Object(cause)
    }
}

// === impl ApiError ===

impl ApiError {
    // --- 4xx about one object: `resource` is the plural, as in the path ---

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(resource, group));
        Self::about(404, "NotFound", message, group, resource, name)
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(resource, group));
        Self::about(409, "AlreadyExists", message, group, resource, name)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(resource, group);
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Self::about(409, "Conflict", message, group, resource, name)
    }

    /// The optimistic lock failed: the object changed since the client read it.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(group, resource, name, why)
    }

    /// Server-side apply met fields of other managers.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        let mut failure = Failure::new(409, "Conflict", message.into());
        failure.causes = causes;
        Self(Box::new(failure))
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(resource, group);
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, true) => format!("forbidden: {why}"),
            (true, false) => format!("forbidden: {why}"),
            (false, true) => format!("{what} is forbidden: {why}"),
            (false, false) => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::about(403, "Forbidden", message, group, resource, name)
    }

    /// 422 with every problem at once. `kind` is the kind, not the plural.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let mut sentences: Vec<_> = causes.iter().map(Cause::sentence).collect();
        let mut seen = std::collections::HashSet::new();
        sentences.retain(|sentence| seen.insert(sentence.clone()));
        let list = match sentences.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(kind, group));
        Self::about(422, "Invalid", message, group, kind, name).with_causes(causes)
    }

    // --- 4xx about the request ---

    pub fn bad_request(message: impl Into<String>) -> Self {
        let mut failure = Failure::new(400, "BadRequest", message.into());
        failure.details = false;
        Self(Box::new(failure))
    }

    pub fn unauthorized() -> Self {
        let mut failure = Failure::new(401, "Unauthorized", "Unauthorized".to_owned());
        failure.details = false;
        Self(Box::new(failure))
    }

    /// A path that no handler serves.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self(Box::new(Failure::new(404, "NotFound", message)))
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Self(Box::new(Failure::new(405, "MethodNotAllowed", message)))
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!("406: Not Acceptable\n\nAvailable representations: {list}");
        Self(Box::new(Failure::new(406, "NotAcceptable", message)))
    }

    /// An object as a list, or the other way round.
    pub fn not_of_that_shape(message: String) -> Self {
        Self(Box::new(Failure::plain(406, "NotAcceptable", message)))
    }

    /// A watch in a form that can't be streamed.
    pub fn not_streamable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!("only the following media types are accepted: {list}");
        Self(Box::new(Failure::plain(406, "NotAcceptable", message)))
    }

    /// A patch of a type that no patch has.
    pub fn unsupported_patch_type() -> Self {
        let message = "415: Unsupported Media Type".to_owned();
        Self(Box::new(Failure::new(415, "UnsupportedMediaType", message)))
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {list}"
        );
        Self(Box::new(Failure::plain(
            415,
            "UnsupportedMediaType",
            message,
        )))
    }

    pub fn request_entity_too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self(Box::new(Failure::plain(
            413,
            "RequestEntityTooLarge",
            message,
        )))
    }

    /// The same for a limit that isn't about the body's size.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self(Box::new(Failure::plain(
            413,
            "RequestEntityTooLarge",
            message.into(),
        )))
    }

    /// A patch that can't be applied to the object it is for.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self(Box::new(Failure::new(422, "Invalid", message.to_owned())))
    }

    /// A resourceVersion or continue token from before the last compaction.
    pub fn expired(message: impl Into<String>) -> Self {
        Self(Box::new(Failure::plain(410, "Expired", message.into())))
    }

    pub fn too_many(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut failure = Failure::new(429, "TooManyRequests", message.into());
        failure.retry_after_seconds = retry_after_seconds;
        Self(Box::new(failure))
    }

    // --- 5xx ---

    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        let failure = Failure::new(500, "InternalError", message);
        Self(Box::new(failure)).with_causes(vec![Cause::new(
            CauseReason::Unset,
            "",
            why.to_string(),
        )])
    }

    /// An error that Kubernetes hands on without a reason of its own.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self(Box::new(Failure::plain(500, "", message.into())))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self(Box::new(Failure::plain(
            503,
            "ServiceUnavailable",
            message.into(),
        )))
    }

    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut failure = Failure::new(504, "Timeout", format!("Timeout: {}", message.into()));
        failure.retry_after_seconds = retry_after_seconds;
        Self(Box::new(failure))
    }

    /// The client names a resourceVersion that this server has not reached.
    pub fn too_large_resource_version(wanted: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let cause = "Too large resource version";
        Self::timeout(message, 1).with_causes(vec![Cause::new(
            CauseReason::ResourceVersionTooLarge,
            "",
            cause,
        )])
    }

    // --- refinements ---

    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.0.causes = causes;
        self
    }

    pub fn with_uid(mut self, uid: &str) -> Self {
        self.0.uid = uid.to_owned();
        self
    }

    /// Where an expired list can go on, inconsistently.
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.continue_token = token;
        self
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn causes(&self) -> &[Cause] {
        &self.0.causes
    }

    /// Seconds for the `Retry-After` header, zero for none.
    pub fn retry_after_seconds(&self) -> u32 {
        self.0.retry_after_seconds
    }

    /// The `Status` object that is the response's body.
    pub fn status(&self) -> Value {
        let failure = &*self.0;
        let mut metadata = Map::new();
        insert_nonempty(&mut metadata, "continue", &failure.continue_token);
        let mut status = Map::new();
        status.insert("kind".to_owned(), json!("Status"));
        status.insert("apiVersion".to_owned(), json!("v1"));
        status.insert("metadata".to_owned(), Value::Object(metadata));
        status.insert("status".to_owned(), json!("Failure"));
        insert_nonempty(&mut status, "message", &failure.message);
        insert_nonempty(&mut status, "reason", failure.reason);
        if failure.details {
            status.insert("details".to_owned(), failure.details());
        }
        status.insert("code".to_owned(), json!(failure.code));
        Value::Object(status)
    }

    fn about(
        code: u16,
        reason: &'static str,
        message: String,
        group: &str,
        kind: &str,
        name: &str,
    ) -> Self {
        let mut failure = Failure::new(code, reason, message);
        failure.group = group.to_owned();
        failure.kind = kind.to_owned();
        failure.name = name.to_owned();
        Self(Box::new(failure))
    }
}

// === impl Failure ===

impl Failure {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self {
            code,
            reason,
            message,
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            details: true,
            continue_token: String::new(),
        }
    }

    fn plain(code: u16, reason: &'static str, message: String) -> Self {
        Self {
            details: false,
            ..Self::new(code, reason, message)
        }
    }

    fn details(&self) -> Value {
        let mut details = Map::new();
        insert_nonempty(&mut details, "name", &self.name);
        insert_nonempty(&mut details, "group", &self.group);
        insert_nonempty(&mut details, "kind", &self.kind);
        insert_nonempty(&mut details, "uid", &self.uid);
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::json).collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            details.insert(
                "retryAfterSeconds".to_owned(),
                json!(self.retry_after_seconds),
            );
        }
        Value::Object(details)
    }
}

/// `deployments.apps`, or `configmaps` in the core group.
pub(crate) fn qualified(what: &str, group: &str) -> String {
    if group.is_empty() {
        what.to_owned()
    } else {
        format!("{what}.{group}")
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}: {detail}")
    }
}

fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

fn insert_nonempty(map: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        map.insert(key.to_owned(), Value::String(value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_reads_as_kubernetes_prints_it() {
        let status = ApiError::not_found("apps", "deployments", "web").status();
        assert_eq!(
            status,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound",
                "details": {"name": "web", "group": "apps", "kind": "deployments"},
                "code": 404,
            })
        );
    }

    #[test]
    fn invalid_lists_every_cause_once_in_the_message() {
        let causes = vec![
            Cause::required("spec.a", ""),
            Cause::invalid("spec.b", &json!("x"), "must be short"),
            Cause::required("spec.a", ""),
        ];
        let error = ApiError::invalid("", "Service", "web", causes);
        assert_eq!(error.code(), 422);
        assert_eq!(
            error.message(),
            "Service \"web\" is invalid: [spec.a: Required value, spec.b: Invalid value: \"x\": \
             must be short]"
        );
        assert_eq!(error.causes().len(), 3);
    }

    #[test]
    fn unauthorized_has_no_details() {
        assert!(ApiError::unauthorized().status().get("details").is_none());
        assert!(ApiError::unknown_path().status().get("details").is_some());
    }
}
