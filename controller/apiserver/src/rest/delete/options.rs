//! What a delete asks for: `DeleteOptions` from the query or the body.

use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::http::{ContentType, options_invalid};
use crate::rest::Request;
use crate::rest::decode::{parse_json, parse_protobuf, parse_yaml};
use crate::schema::{self, go_type};

#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

/// What happens to the objects that this one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Request<'_> {
    pub(super) fn delete_options(&self, body: &[u8]) -> Result<Options, ApiError> {
        let dry_run = self.query.dry_run("DeleteOptions")?;
        if body.is_empty() {
            let grace_seconds = self.query.integer("gracePeriodSeconds")?;
            let propagation = propagation(
                self.query.text("propagationPolicy"),
                self.query.flag("orphanDependents"),
            )?;
            let grace_seconds = grace_seconds.map(at_least_one);
            return Ok(Options {
                grace_seconds,
                propagation,
                dry_run,
                ..Options::default()
            });
        }
        let body = self.delete_body(body)?;
        let dry_runs = body["dryRun"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if dry_runs.iter().any(|value| value != "All") {
            let cause = Cause::not_supported("dryRun", &body["dryRun"], &["All"]);
            return Err(options_invalid("DeleteOptions", vec![cause]));
        }
        let precondition = |key: &str| body["preconditions"][key].as_str().map(str::to_owned);
        Ok(Options {
            grace_seconds: body["gracePeriodSeconds"].as_i64().map(at_least_one),
            propagation: propagation(
                body["propagationPolicy"].as_str(),
                body["orphanDependents"].as_bool(),
            )?,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: dry_run || !dry_runs.is_empty(),
        })
    }

    fn delete_body(&self, body: &[u8]) -> Result<Value, ApiError> {
        let mut body = match ContentType::of_object(self.headers)? {
            ContentType::Yaml => parse_yaml(body).map_err(ApiError::bad_request)?,
            ContentType::Protobuf => parse_protobuf(body)?,
            _ => parse_json(body).map_err(ApiError::bad_request)?.0,
        };
        if !body.is_object() {
            let found = go_type(&body);
            return Err(ApiError::bad_request(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type \
                 struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                 \"json:\\\"kind,omitempty\\\"\" }}"
            )));
        }
        let kind = body["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            let version = body["apiVersion"].as_str().unwrap_or_default();
            return Err(ApiError::bad_request(format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \
                 \"pkg/runtime/scheme.go:111\""
            )));
        }
        body["kind"] = json!("DeleteOptions");
        if let Some(schema) = schema::builtin("", "v1", "DeleteOptions") {
            schema.decode(&mut body).map_err(ApiError::bad_request)?;
        }
        Ok(body)
    }
}

/// A negative grace counts as one second.
fn at_least_one(grace: i64) -> i64 {
    if grace < 0 { 1 } else { grace }
}

fn propagation(
    policy: Option<&str>,
    orphan: Option<bool>,
) -> Result<Option<Propagation>, ApiError> {
    let policy = policy.filter(|policy| !policy.is_empty());
    let invalid = |cause| Err(options_invalid("DeleteOptions", vec![cause]));
    match (policy, orphan) {
        (Some(policy), Some(_)) => invalid(Cause::invalid(
            "propagationPolicy",
            &json!(policy),
            "orphanDependents and deletionPropagation cannot be both set",
        )),
        (None, None) => Ok(None),
        (Some("Orphan"), None) | (None, Some(true)) => Ok(Some(Propagation::Orphan)),
        (Some("Background"), None) | (None, Some(false)) => Ok(Some(Propagation::Background)),
        (Some("Foreground"), None) => Ok(Some(Propagation::Foreground)),
        (Some(other), None) => invalid(Cause::not_supported(
            "propagationPolicy",
            &json!(other),
            &["Foreground", "Background", "Orphan", "nil"],
        )),
    }
}
