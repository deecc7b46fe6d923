//! From a request body to an object that belongs where it was sent.

use serde_json::{Map, Value};

use super::Request;
use crate::error::ApiError;
use crate::http::ContentType;

/// What to do with fields that the kind doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Request<'_> {
    pub(super) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.query.text("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let value = Value::String(other.to_owned());
                let cause = crate::Cause::not_supported(
                    "fieldValidation",
                    &value,
                    &["", "Ignore", "Strict", "Warn"],
                );
                Err(crate::http::options_invalid("CreateOptions", vec![cause]))
            }
        }
    }

    /// The object in a body of the request's content type.
    pub(super) fn decode(&self, body: &[u8]) -> Result<Value, ApiError> {
        let value = match ContentType::of_object(self.headers)? {
            ContentType::Yaml => parse_yaml(body)?,
            _ => parse_json(body)?,
        };
        self.check_type(value)
    }

    /// Is it an object of the kind that this place takes? Built-in kinds may leave that out.
    pub(super) fn check_type(&self, mut value: Value) -> Result<Value, ApiError> {
        let (group_version, kind) = self.expected_type();
        let Value::Object(object) = &mut value else {
            return Err(ApiError::bad_request(format!(
                "the body is not an object of kind {kind}: it is JSON of another type"
            )));
        };
        for (key, what) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
            let given = object.get(key).and_then(Value::as_str).unwrap_or_default();
            if given.is_empty() && self.resource.custom.is_some() {
                let text = Value::Object(object.clone());
                let message = format!("Object '{what}' is missing in '{text}'");
                return Err(ApiError::bad_request(message));
            }
        }
        let given_kind = text(object, "kind").unwrap_or_else(|| kind.clone());
        let given_version = text(object, "apiVersion").unwrap_or_else(|| group_version.clone());
        if given_kind != kind {
            return Err(ApiError::bad_request(format!(
                "{given_kind} in version {given_version:?} cannot be handled as a {kind}: the \
                 object provided is unrecognized (must be of type {kind})"
            )));
        }
        if given_version != group_version {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given_version}) does not match the expected API \
                 version ({group_version})"
            )));
        }
        object.insert("kind".to_owned(), Value::String(kind));
        object.insert("apiVersion".to_owned(), Value::String(group_version));
        if !object.get("metadata").is_some_and(Value::is_object) {
            object.insert("metadata".to_owned(), Value::Object(Map::new()));
        }
        if self.resource.custom.is_none() {
            drop_nulls(&mut value);
        }
        Ok(value)
    }

    /// The apiVersion and kind of this place: a subresource may have its own.
    pub(super) fn expected_type(&self) -> (String, String) {
        let own = || (self.resource.api_version(), self.resource.kind.clone());
        let subresource = self.resource.subresource(&self.place.subresource);
        match subresource {
            Some(sub) if !sub.version.is_empty() => {
                let version = match sub.group.as_str() {
                    "" => sub.version.clone(),
                    group => format!("{group}/{}", sub.version),
                };
                (version, sub.kind.clone())
            }
            _ => own(),
        }
    }
}

pub(super) fn parse_json(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad_request(
            "the body is empty; an object is needed",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    })
}

pub(super) fn parse_yaml(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::bad_request(format!("yaml: not UTF-8: {error}")))?;
    serde_saphyr::from_str(text).map_err(|error| {
        ApiError::bad_request(format!("error converting YAML to JSON: yaml: {error}"))
    })
}

/// A typed decoder reads null as "not set", so it never stores one.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    object
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}
