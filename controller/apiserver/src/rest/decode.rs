//! From a request body to an object that belongs where it was sent.

use serde_json::{Map, Value};

use super::Request;
use crate::error::{ApiError, Cause};
use crate::http::ContentType;
use crate::{protobuf, schema};

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
                let cause = Cause::not_supported(
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
        let (value, repeated) = match ContentType::of_object(self.headers)? {
            ContentType::Yaml => {
                parse_yaml_leniently(body).map_err(|why| self.unrecognized(&why))?
            }
            ContentType::Protobuf => (parse_protobuf(body)?, vec![]),
            _ => parse_json(body).map_err(|why| self.unrecognized(&why))?,
        };
        let mut value = self.check_type(value)?;
        self.check_fields(&mut value, repeated)?;
        Ok(value)
    }

    /// Is it an object of the kind that this place takes? Built-in kinds may leave that out.
    pub(super) fn check_type(&self, mut value: Value) -> Result<Value, ApiError> {
        let (group, version, kind) = self.expected_type();
        let group_version = joined(&group, &version);
        let Value::Object(object) = &mut value else {
            return Err(self.unrecognized(
                "couldn't get version/kind; json parse error: json: the \
                 body is not an object",
            ));
        };
        if self.resource.custom.is_some() && text(object, "kind").is_none() {
            let shown = Value::Object(object.clone());
            return Err(ApiError::bad_request(format!(
                "Object 'Kind' is missing in '{shown}'"
            )));
        }
        if self.resource.custom.is_some() && text(object, "apiVersion").is_none() {
            return Err(wrong_version("", &group_version));
        }
        let given_kind = text(object, "kind").unwrap_or_else(|| kind.clone());
        let given_version = text(object, "apiVersion").unwrap_or_else(|| group_version.clone());
        if given_kind != kind && self.resource.custom.is_some() {
            if given_version != group_version {
                return Err(wrong_version(&given_version, &group_version));
            }
            let must = format!("must be {kind}");
            let cause = Cause::invalid("kind", &Value::String(given_kind.clone()), &must);
            let name = object
                .get("metadata")
                .and_then(|metadata| metadata["name"].as_str());
            let name = name.unwrap_or_default();
            return Err(ApiError::invalid(&group, &given_kind, name, vec![cause]));
        }
        if given_kind != kind {
            let short = group.split('.').next().filter(|group| !group.is_empty());
            return Err(ApiError::bad_request(format!(
                "{given_kind} in version {given_version:?} cannot be handled as a {kind}: \
                 converting ({given_version}.{given_kind}) to ({}.{kind}): unknown conversion",
                short.unwrap_or("core")
            )));
        }
        if given_version != group_version {
            if self.resource.custom.is_some() {
                return Err(wrong_version(&given_version, &group_version));
            }
            return Err(ApiError::bad_request(format!(
                "{kind} in version {given_version:?} cannot be handled as a {kind}: no kind \
                 {kind:?} is registered for version {given_version:?} in scheme \
                 \"pkg/runtime/scheme.go:111\""
            )));
        }
        object.insert("kind".to_owned(), Value::String(kind));
        object.insert("apiVersion".to_owned(), Value::String(group_version));
        // One of another form is for the schema to refuse.
        if object.get("metadata").is_none_or(Value::is_null) {
            object.insert("metadata".to_owned(), Value::Object(Map::new()));
        }
        Ok(value)
    }

    fn unrecognized(&self, why: &str) -> ApiError {
        let (_, _, kind) = self.expected_type();
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why}"
        ))
    }

    /// Group, version and kind of this place: a subresource may have its own.
    pub(super) fn expected_type(&self) -> (String, String, String) {
        let resource = &self.resource;
        match resource.subresource(&self.place.subresource) {
            Some(sub) if !sub.version.is_empty() => {
                (sub.group.clone(), sub.version.clone(), sub.kind.clone())
            }
            _ => (
                resource.group.clone(),
                resource.version.clone(),
                resource.kind.clone(),
            ),
        }
    }
}

fn wrong_version(given: &str, expected: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the API version in the data ({given}) does not match the expected API version \
         ({expected})"
    ))
}

pub(super) fn joined(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The document and a text for each key that came twice; else what is wrong with it.
pub(super) fn parse_json(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    if body.is_empty() {
        return Err(
            "couldn't get version/kind; json parse error: unexpected end of JSON input \
                    (<empty>)"
                .to_owned(),
        );
    }
    let parsed = schema::parse_json(body)
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    let repeated = parsed.messages();
    Ok((parsed.value, repeated))
}

pub(super) fn parse_yaml(body: &[u8]) -> Result<Value, String> {
    parse_yaml_leniently(body).map(|(value, _)| value)
}

/// The document, where the last of equal keys wins, and a complaint of the first key that came twice.
pub(super) fn parse_yaml_leniently(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("yaml: not UTF-8: {error}"))?;
    // The first line says what and where; a picture of the text follows.
    let first_line = |error: serde_saphyr::Error| {
        error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let fault = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => first_line(error),
    };
    let Some(complaint) = repeated_key(&fault) else {
        return Err(format!("yaml: {fault}"));
    };
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| format!("yaml: {}", first_line(error)))?;
    Ok((value, vec![complaint]))
}

/// `line 4: key "a" already set in map`, from the parser's words.
fn repeated_key(fault: &str) -> Option<String> {
    let (place, key) = fault.split_once("duplicate mapping key: ")?;
    let line = place.split("line ").nth(1)?.split(' ').next()?;
    let key = key.split(", set ").next()?;
    Some(format!("line {line}: key {key:?} already set in map"))
}

pub(super) fn parse_protobuf(body: &[u8]) -> Result<Value, ApiError> {
    protobuf::decode(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    object
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}
