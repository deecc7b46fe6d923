//! Questions to the server: may I, may they, who is this, who am I; and tokens on request.
//!
//! A review is answered and never stored: the response is the request with a `status`.

use super::authenticate::Authentication;
use super::index::Verdict;
use super::jwt::{Claims, ObjectUid, PrivateClaims};
use super::rbac::{Action, service_account_user};
use super::{Attributes, Authorizer, Decision, User};
use crate::clock::{new_uid, rfc3339};
use crate::error::ApiError;
use crate::kinds::Ctx;
use crate::kinds::field::{FieldErrors, Path};
use crate::kinds::value::{list, object, present, set, strings, text};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

/// What reviews are answered from.
#[derive(Clone, Copy)]
pub(crate) struct Reviewer<'a> {
    pub(crate) ctx: &'a Ctx<'a>,
    pub(crate) authorizer: &'a dyn Authorizer,
    pub(crate) authentication: &'a Authentication,
}

impl Reviewer<'_> {
    /// Answers the review in `body`, whose kind the request's resource says.
    ///
    /// # Errors
    /// 400 or 422 for a question that makes no sense; 404 for a resource that is no review.
    pub(crate) fn answer(&self, mut body: Value) -> Result<Value, ApiError> {
        let status = match self.ctx.resource.resource.as_str() {
            "tokenreviews" => self.token(&body)?,
            "subjectaccessreviews" | "localsubjectaccessreviews" => self.subject(&mut body)?,
            "selfsubjectaccessreviews" => self.own_access(&body)?,
            "selfsubjectrulesreviews" => self.own_rules(&body)?,
            "selfsubjectreviews" => json!({"userInfo": user_info(self.ctx.user)}),
            _ => return Err(ApiError::unknown_path()),
        };
        if self.ctx.resource.resource == "selfsubjectrulesreviews" {
            // The real server answers with an empty spec here.
            body["spec"] = json!({});
        }
        if self.ctx.resource.resource == "selfsubjectreviews" {
            let now = rfc3339(self.ctx.now);
            if let Some(meta) = object(&mut body, "metadata") {
                set(meta, "creationTimestamp", now);
            }
        }
        set(&mut body, "status", status);
        Ok(body)
    }

    fn token(&self, body: &Value) -> Result<Value, ApiError> {
        let spec = &body["spec"];
        let Some(token) = text(spec, "token") else {
            return Err(ApiError::bad_request(
                "token is required for TokenReview in authentication",
            ));
        };
        let mut audiences: Vec<String> = strings(spec, "audiences")
            .into_iter()
            .map(str::to_owned)
            .collect();
        if audiences.is_empty() {
            audiences = self.authentication.audiences().to_vec();
        }
        let now = self.ctx.now.as_second();
        Ok(
            match self
                .authentication
                .review(token, &audiences, now, self.ctx.lookup)
            {
                Ok(authenticated) => json!({
                    "authenticated": true,
                    "user": user_info(&authenticated.user),
                    "audiences": authenticated.audiences,
                }),
                Err(why) => {
                    let why = why.to_string();
                    let error = if why.starts_with(INVALID_TOKEN) {
                        INVALID_TOKEN.to_owned()
                    } else {
                        format!("[{INVALID_TOKEN}, {why}]")
                    };
                    json!({"user": {}, "error": error})
                }
            },
        )
    }

    fn subject(&self, body: &mut Value) -> Result<Value, ApiError> {
        let spec = body["spec"].clone();
        let mut errors = FieldErrors::default();
        validate_attributes(&spec, &mut errors);
        self.validate_meta(body, &mut errors);
        if text(&spec, "user").is_none() && list(&spec, "groups").is_empty() {
            errors.invalid(
                &SPEC.child("user"),
                text(&spec, "user").unwrap_or_default(),
                "at least one of user or group must be specified",
            );
        }
        let local = self.ctx.resource.resource == "localsubjectaccessreviews";
        if local {
            self.validate_local(&spec, &mut errors);
        }
        if !errors.is_empty() {
            // The kind is empty in the answers of the real server too.
            let causes = errors.into_causes();
            return Err(ApiError::invalid(&self.ctx.resource.group, "", "", causes));
        }
        if local && let Some(meta) = object(body, "metadata") {
            set(meta, "namespace", self.ctx.namespace);
        }
        let user = User {
            name: text(&spec, "user").unwrap_or_default().to_owned(),
            uid: text(&spec, "uid").unwrap_or_default().to_owned(),
            groups: strings(&spec, "groups")
                .into_iter()
                .map(str::to_owned)
                .collect(),
            extra: std::collections::BTreeMap::new(),
        };
        Ok(self.decide(&user, &spec))
    }

    /// A review has no name, no labels and, but for local ones, no namespace.
    fn validate_meta(&self, body: &Value, errors: &mut FieldErrors) {
        let meta = body["metadata"].as_object();
        let local = self.ctx.resource.namespaced;
        let stray = |key: &String| key != "managedFields" && !(local && key == "namespace");
        if meta.is_some_and(|meta| meta.keys().any(stray)) {
            let text = if local {
                "must be empty except for namespace"
            } else {
                "must be empty"
            };
            errors.invalid(&Path::root("metadata"), body["metadata"].clone(), text);
        }
    }

    fn validate_local(&self, spec: &Value, errors: &mut FieldErrors) {
        let path = SPEC.child("resourceAttributes");
        if present(spec, "resourceAttributes") {
            let namespace = text(&spec["resourceAttributes"], "namespace").unwrap_or_default();
            if namespace != self.ctx.namespace {
                errors.invalid(
                    &path.child("namespace"),
                    namespace,
                    "must match metadata.namespace",
                );
            }
        }
        if let Some(other) = spec
            .get("nonResourceAttributes")
            .filter(|other| !other.is_null())
        {
            errors.invalid(
                &SPEC.child("nonResourceAttributes"),
                other.clone(),
                "disallowed on this kind of request",
            );
        }
    }

    fn own_access(&self, body: &Value) -> Result<Value, ApiError> {
        let spec = &body["spec"];
        let mut errors = FieldErrors::default();
        validate_attributes(spec, &mut errors);
        self.validate_meta(body, &mut errors);
        if !errors.is_empty() {
            // The kind is empty in the answers of the real server too.
            let causes = errors.into_causes();
            return Err(ApiError::invalid(&self.ctx.resource.group, "", "", causes));
        }
        Ok(self.decide(self.ctx.user, spec))
    }

    fn decide(&self, user: &User, spec: &Value) -> Value {
        let read = |key: &str| text(&spec["resourceAttributes"], key).unwrap_or_default();
        let other = &spec["nonResourceAttributes"];
        let by_path = present(spec, "nonResourceAttributes");
        let attributes = Attributes {
            user,
            verb: if by_path {
                text(other, "verb").unwrap_or_default()
            } else {
                read("verb")
            },
            group: read("group"),
            resource: read("resource"),
            subresource: read("subresource"),
            namespace: read("namespace"),
            name: read("name"),
            path: text(other, "path").unwrap_or_default(),
        };
        let mut status = Map::new();
        match self.authorizer.authorize(&attributes) {
            Decision::Allow => {
                status.insert("allowed".into(), true.into());
                if let Some(reason) = self.reason(user, &attributes.action()) {
                    status.insert("reason".into(), reason.into());
                }
            }
            Decision::Deny(reason) => {
                status.insert("allowed".into(), false.into());
                status.insert("denied".into(), true.into());
                insert_text(&mut status, "reason", reason);
            }
            Decision::NoOpinion(reason) => {
                status.insert("allowed".into(), false.into());
                // What RBAC could not look up is an evaluation error beside its reason.
                let failed = reason.strip_prefix("RBAC: ").map(str::to_owned);
                insert_text(&mut status, "reason", reason);
                insert_text(&mut status, "evaluationError", failed.unwrap_or_default());
            }
        }
        Value::Object(status)
    }

    fn reason(&self, user: &User, action: &Action<'_>) -> Option<String> {
        if user.is_master() {
            return None;
        }
        match self
            .ctx
            .state
            .rbac
            .refreshed(self.ctx.lookup)
            .decide(user, action)
        {
            Verdict::Allowed(reason) => Some(reason),
            Verdict::Refused(_) => None,
        }
    }

    fn own_rules(&self, body: &Value) -> Result<Value, ApiError> {
        let Some(namespace) = text(&body["spec"], "namespace") else {
            return Err(ApiError::bad_request("no namespace on request"));
        };
        let index = self.ctx.state.rbac.refreshed(self.ctx.lookup);
        let held = index.rules_for(self.ctx.user, namespace);
        let (paths, resources): (Vec<_>, Vec<_>) = held
            .iter()
            .partition(|rule| !rule.non_resource_urls.is_empty());
        Ok(json!({
            "resourceRules": resources.iter().map(|rule| rule.to_value()).collect::<Vec<_>>(),
            "nonResourceRules": paths.iter().map(|rule| rule.to_value()).collect::<Vec<_>>(),
            "incomplete": false,
        }))
    }

    /// Issues a token for the ServiceAccount `name` (`serviceaccounts/NAME/token`).
    ///
    /// # Errors
    /// 404 for a missing account or bound object, 409 for one of another uid, 422 for a lifetime
    /// out of bounds, 400 for an object no token can be bound to.
    pub(crate) fn issue(&self, name: &str, mut body: Value) -> Result<Value, ApiError> {
        let namespace = self.ctx.namespace;
        let account = self
            .ctx
            .lookup
            .one("", "serviceaccounts", namespace, name)
            .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
        self.check_names(name, &body)?;
        let uid = account["metadata"]["uid"].as_str().unwrap_or_default();
        let mut audiences: Vec<String> = strings(&body["spec"], "audiences")
            .into_iter()
            .map(str::to_owned)
            .collect();
        if audiences.is_empty() {
            audiences = self.authentication.audiences().to_vec();
        }
        let seconds = lifetime(&body["spec"])?;
        let mut private = PrivateClaims {
            namespace: namespace.to_owned(),
            serviceaccount: ObjectUid {
                name: name.to_owned(),
                uid: uid.to_owned(),
            },
            ..PrivateClaims::default()
        };
        self.bind(name, &body["spec"]["boundObjectRef"], &mut private)?;
        let now = self.ctx.now.as_second();
        let token = self.authentication.key().sign(&Claims {
            aud: audiences.clone(),
            exp: now + seconds,
            iat: now,
            iss: self.authentication.issuer().to_owned(),
            jti: new_uid(self.ctx.random),
            kubernetes: private,
            nbf: now,
            sub: service_account_user(namespace, name),
        });
        let expires = self.ctx.now.checked_add(SignedDuration::from_secs(seconds));
        if let Some(spec) = object(&mut body, "spec") {
            set(spec, "audiences", audiences);
            set(spec, "expirationSeconds", seconds);
            if !present(spec, "boundObjectRef") {
                set(spec, "boundObjectRef", Value::Null);
            }
        }
        if let Some(meta) = object(&mut body, "metadata") {
            set(meta, "name", name);
            set(meta, "namespace", namespace);
            set(meta, "uid", uid);
            set(meta, "creationTimestamp", rfc3339(self.ctx.now));
        }
        let expires = rfc3339(expires.unwrap_or(Timestamp::MAX));
        set(
            &mut body,
            "status",
            json!({"token": token, "expirationTimestamp": expires}),
        );
        Ok(body)
    }

    fn check_names(&self, name: &str, body: &Value) -> Result<(), ApiError> {
        let path = Path::root("metadata");
        for (key, wanted, what) in [
            ("name", name, "name"),
            ("namespace", self.ctx.namespace, "namespace"),
        ] {
            let given = text(&body["metadata"], key).unwrap_or(wanted);
            if given != wanted {
                let mut errors = FieldErrors::default();
                let detail = format!("must match the service account {what} if specified");
                errors.invalid(&path.child(key), given, &detail);
                let causes = errors.into_causes();
                return Err(ApiError::invalid(
                    "authentication.k8s.io",
                    "TokenRequest",
                    name,
                    causes,
                ));
            }
        }
        Ok(())
    }

    fn bind(
        &self,
        account: &str,
        wish: &Value,
        claims: &mut PrivateClaims,
    ) -> Result<(), ApiError> {
        if wish.is_null() {
            return Ok(());
        }
        let (kind, name) = (
            text(wish, "kind").unwrap_or_default(),
            text(wish, "name").unwrap_or_default(),
        );
        let core = matches!(text(wish, "apiVersion"), None | Some("v1"));
        let (resource, namespace) = match kind {
            "Pod" if core => ("pods", self.ctx.namespace),
            "Secret" if core => ("secrets", self.ctx.namespace),
            "Node" if core => ("nodes", ""),
            _ => {
                let version = text(wish, "apiVersion").unwrap_or_default();
                let version = if version.contains('/') {
                    version.to_owned()
                } else {
                    format!("/{version}")
                };
                let text = format!("cannot bind token to object of type {version}, Kind={kind}");
                return Err(ApiError::bad_request(text));
            }
        };
        let found = self
            .ctx
            .lookup
            .one("", resource, namespace, name)
            .ok_or_else(|| ApiError::not_found("", resource, name))?;
        let uid = found["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if kind == "Pod" && found["spec"]["serviceAccountName"] != account {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        if let Some(wanted) = text(wish, "uid").filter(|wanted| *wanted != uid) {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict("", kind, name, &why));
        }
        let bound = Some(ObjectUid {
            name: name.to_owned(),
            uid,
        });
        match kind {
            "Pod" => {
                claims.pod = bound;
                claims.node = text(&found["spec"], "nodeName").map(|node| self.node(node));
            }
            "Secret" => claims.secret = bound,
            _ => claims.node = bound,
        }
        Ok(())
    }

    /// The node of a pod: by name alone when it isn't registered.
    fn node(&self, name: &str) -> ObjectUid {
        let node = self.ctx.lookup.one("", "nodes", "", name);
        let uid = node.and_then(|node| node["metadata"]["uid"].as_str().map(str::to_owned));
        ObjectUid {
            name: name.to_owned(),
            uid: uid.unwrap_or_default(),
        }
    }
}

fn lifetime(spec: &Value) -> Result<i64, ApiError> {
    let seconds = spec
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(LIFETIME_DEFAULT);
    let detail = if seconds < LIFETIME_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LIFETIME_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    let mut errors = FieldErrors::default();
    errors.invalid(&SPEC.child("expirationSeconds"), seconds, detail);
    Err(ApiError::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        errors.into_causes(),
    ))
}

fn validate_attributes(spec: &Value, errors: &mut FieldErrors) {
    if present(spec, "resourceAttributes") == present(spec, "nonResourceAttributes") {
        errors.invalid(
            &SPEC,
            match spec
                .get("nonResourceAttributes")
                .filter(|path| !path.is_null())
            {
                Some(path) => json!({"Path": path["path"], "Verb": path["verb"]}),
                None => Value::Null,
            },
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
}

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    insert_text(&mut info, "username", user.name.clone());
    insert_text(&mut info, "uid", user.uid.clone());
    if !user.groups.is_empty() {
        info.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> = user
            .extra
            .iter()
            .map(|(key, values)| (key.clone(), values.clone().into()))
            .collect();
        info.insert("extra".into(), extra.into());
    }
    Value::Object(info)
}

fn insert_text(map: &mut Map<String, Value>, key: &str, text: String) {
    if !text.is_empty() {
        map.insert(key.to_owned(), text.into());
    }
}

const SPEC: Path<'static> = Path::root("spec");
const INVALID_TOKEN: &str = "invalid bearer token";
const LIFETIME_MIN: i64 = 600;
const LIFETIME_MAX: i64 = 1 << 32;
const LIFETIME_DEFAULT: i64 = 3600;

#[cfg(test)]
mod tests;
