//! The verbs of the API on resources.
//!
//! A request is taken apart ([`crate::http`]), authorized, and handed to its verb. Reads print
//! stored bytes; writes decode, let the kind's strategy prepare and validate, record field
//! ownership, and commit with the revision they were decided on.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;

use crate::auth::impersonate::impersonate;
use crate::auth::{Attributes, Decision, User};
use crate::core::Core;
use crate::discovery;
use crate::error::{ApiError, Cause, CauseReason};
use crate::faults::{Disconnected, Fate, Subject, disconnect};
use crate::http::{Accept, Body, Place, Query, Shape, Syntax, Target, options_invalid, status};
use crate::kinds::{Ctx, Strategy, strategy};
use crate::resource::Resource;

mod connect;
mod create;
mod decode;
mod definitions;
mod delete;
mod events;
mod fields;
mod list;
mod meta;
mod patch;
mod pods;
mod print;
mod scale;
mod table;
mod update;
mod watch;

/// A request to a resource that exists, from a user who may.
pub(crate) struct Request<'a> {
    pub core: &'a Arc<Core>,
    pub user: &'a User,
    pub headers: &'a HeaderMap,
    pub query: Query,
    pub place: Place,
    pub resource: Arc<Resource>,
    pub accept: Accept,
    /// What the client is warned of, whether the request succeeds or not.
    pub warnings: Mutex<Vec<String>>,
}

/// What a body may hold at most: the limit of Kubernetes, which follows etcd's.
pub(crate) const BODY_BYTES_MAX: usize = 3 << 20;
const FIELD_MANAGER_LENGTH_MAX: usize = 128;

/// Answers one request of an authenticated user: with the faults that a test injected, and on
/// record.
pub(crate) async fn handle<B>(
    core: &Arc<Core>,
    user: &User,
    head: &Parts,
    body: B,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if core.faults.is_none() && core.audit.is_none() {
        return answer(core, user, head, body).await;
    }
    let response = match &core.faults {
        Some(faults) => {
            let subject = Subject::new(user, head);
            match faults.meet(&subject).await {
                Fate::Handled if subject.verb == "watch" => {
                    faults.expose(subject, answer(core, user, head, body).await)
                }
                Fate::Handled => answer(core, user, head, body).await,
                Fate::Lost => disconnect(answer(core, user, head, body).await),
                Fate::Answered(response) => response,
            }
        }
        None => answer(core, user, head, body).await,
    };
    if let Some(audit) = &core.audit {
        let lost = response.extensions().get::<Disconnected>().is_some();
        let code = if lost { 0 } else { response.status().as_u16() };
        audit.write(core.now(), user, head, code);
    }
    response
}

/// Answers one request; the controllers of the server come in here.
pub(crate) async fn answer<B>(
    core: &Arc<Core>,
    user: &User,
    head: &Parts,
    body: B,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acting = match impersonate(user, &head.headers, &*core.authorizer) {
        Ok(acting) => acting,
        Err(error) => return status(&error, Syntax::of_error(&head.headers)),
    };
    match route(core, acting.as_ref().unwrap_or(user), head, body).await {
        Ok(response) => response,
        Err(error) => status(&error, Syntax::of_error(&head.headers)),
    }
}

async fn route<B>(
    core: &Arc<Core>,
    user: &User,
    head: &Parts,
    body: B,
) -> Result<Response<Body>, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let target = Target::parse(head.uri.path());
    let Target::Resource(place) = target else {
        authorize_path(core, user, &head.method, head.uri.path())?;
        return discovery::answer(core, &target, head);
    };
    let query = Query::parse(head.uri.query());
    let verb = verb(&head.method, &place, &query)?;
    authorize(core, user, verb, &place)?;
    let found = core
        .registry
        .find(&place.group, &place.version, &place.resource);
    let Some(resource) = found else {
        return discovery::nothing_served(&place.group);
    };
    match check_place(&place, &resource, verb) {
        // Custom kinds have no other places than their own.
        Err(error) if error.code() == 404 && place.subresource.is_empty() => {
            return discovery::nothing_served(&place.group);
        }
        checked => checked?,
    }
    let shapes: &[Shape] = &[
        Shape::Full,
        Shape::Metadata,
        Shape::MetadataList,
        Shape::Table,
    ];
    let accept = Accept::negotiate(&head.headers, shapes)?;
    let request = Request {
        core,
        user,
        headers: &head.headers,
        query,
        place,
        resource,
        accept,
        warnings: Mutex::default(),
    };
    if request.resource.is("", "endpoints") {
        request
            .warn(["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"]);
    }
    let mut response = match request.answer(verb, body).await {
        Ok(response) => response,
        Err(error) => status(&error, accept.syntax),
    };
    add_warnings(&mut response, &request.warnings.lock());
    Ok(response)
}

impl Request<'_> {
    async fn answer<B>(&self, verb: &str, body: B) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match verb {
            "get" => return self.get(),
            "list" => return self.list(),
            "watch" => return self.watch(),
            _ => {}
        }
        self.check_manager(verb)?;
        let body = read(body).await?;
        match verb {
            "create" => Box::pin(self.create(body)).await,
            "update" => Box::pin(self.update(body)).await,
            "patch" => Box::pin(self.patch(body)).await,
            "delete" => Box::pin(self.delete(body)).await,
            _ => Box::pin(self.delete_collection(body)).await,
        }
    }

    /// Refuses a `fieldManager` that can't be recorded.
    fn check_manager(&self, verb: &str) -> Result<(), ApiError> {
        let Some(manager) = self.query.text("fieldManager") else {
            return Ok(());
        };
        let options = match verb {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            _ => return Ok(()),
        };
        let mut causes = Vec::new();
        if manager.len() > FIELD_MANAGER_LENGTH_MAX {
            causes.push(Cause::too_long("fieldManager", FIELD_MANAGER_LENGTH_MAX));
        }
        if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
            let detail = format!("invalid character {} (at position {at})", code_point(c));
            let value = manager.replace(c, &escaped(c));
            // Printed as Go does, not as JSON.
            let message = format!("Invalid value: \"{value}\": {detail}");
            causes.push(Cause::new(
                CauseReason::FieldValueInvalid,
                "fieldManager",
                message,
            ));
        }
        if causes.is_empty() {
            Ok(())
        } else {
            Err(options_invalid(options, causes))
        }
    }

    /// Warns the client of this, once.
    fn warn<W: Into<String>>(&self, texts: impl IntoIterator<Item = W>) {
        let mut warnings = self.warnings.lock();
        for text in texts.into_iter().map(Into::into) {
            if !warnings.contains(&text) {
                warnings.push(text);
            }
        }
    }

    fn strategy(&self) -> &'static dyn Strategy {
        strategy(&self.resource.group, &self.resource.kind)
    }

    fn ctx(&self, dry_run: bool) -> Ctx<'_> {
        let place = &self.place;
        self.core.ctx(
            self.user,
            &self.resource,
            &place.subresource,
            &place.namespace,
            dry_run,
        )
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(
            &self.resource.group,
            &self.resource.resource,
            &self.place.name,
        )
    }

    /// Who is recorded as the owner of fields that this request sets.
    fn manager(&self) -> String {
        let agent = self
            .headers
            .get(http::header::USER_AGENT)
            .and_then(|a| a.to_str().ok());
        let from_agent = || {
            agent
                .unwrap_or_default()
                .split('/')
                .next()
                .unwrap_or_default()
        };
        let manager = self.query.text("fieldManager").unwrap_or_else(from_agent);
        if manager.is_empty() {
            "unknown".to_owned()
        } else {
            manager.to_owned()
        }
    }
}

/// A control character as Go quotes it.
fn escaped(c: char) -> String {
    let named = match c {
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        _ => return format!("\\x{:02x}", u32::from(c)),
    };
    named.to_owned()
}

fn code_point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

fn verb(method: &Method, place: &Place, query: &Query) -> Result<&'static str, ApiError> {
    let named = !place.name.is_empty();
    match *method {
        Method::GET if place.watch => Ok("watch"),
        Method::GET if named => Ok("get"),
        Method::GET if query.flag("watch") == Some(true) => Ok("watch"),
        Method::GET => Ok("list"),
        Method::POST => Ok("create"),
        Method::PUT if named => Ok("update"),
        Method::PATCH if named => Ok("patch"),
        Method::DELETE if named => Ok("delete"),
        Method::DELETE => Ok("deletecollection"),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Does the resource have such a place, and does the place have such a verb?
fn check_place(place: &Place, resource: &Resource, verb: &str) -> Result<(), ApiError> {
    if place.rest || (!resource.namespaced && !place.namespace.is_empty()) {
        return Err(ApiError::unknown_path());
    }
    if resource.namespaced && !place.name.is_empty() && place.namespace.is_empty() {
        return Err(ApiError::unknown_path());
    }
    let allowed = if place.subresource.is_empty() {
        let collection = verb == "create" && !place.name.is_empty();
        let nowhere = verb == "create" && resource.namespaced && place.namespace.is_empty();
        resource.verbs.contains(verb) && !collection && !nowhere
    } else {
        let subresource = resource.subresource(&place.subresource).ok_or_else(|| {
            // Custom resources answer here as for a missing object.
            if resource.custom.is_some() {
                return ApiError::not_found(&resource.group, &resource.resource, &place.name);
            }
            ApiError::unknown_path()
        })?;
        subresource.verbs.contains(&verb)
    };
    if allowed {
        Ok(())
    } else {
        Err(ApiError::method_not_allowed())
    }
}

fn authorize(core: &Core, user: &User, verb: &str, place: &Place) -> Result<(), ApiError> {
    // A request about a namespace itself counts as one inside it.
    let about_namespace = place.group.is_empty() && place.resource == "namespaces";
    let namespace = if about_namespace {
        &place.name
    } else {
        &place.namespace
    };
    let attributes = Attributes {
        user,
        verb,
        group: &place.group,
        resource: &place.resource,
        subresource: &place.subresource,
        namespace,
        name: &place.name,
        path: "",
    };
    let reason = match core.authorizer.authorize(&attributes) {
        Decision::Allow => return Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
    };
    let resource = if place.subresource.is_empty() {
        place.resource.clone()
    } else {
        format!("{}/{}", place.resource, place.subresource)
    };
    let (name, group) = (&user.name, &place.group);
    let at = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let mut why =
        format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {at}");
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Err(ApiError::forbidden(
        group,
        &place.resource,
        &place.name,
        &why,
    ))
}

fn authorize_path(core: &Core, user: &User, method: &Method, path: &str) -> Result<(), ApiError> {
    let verb = method.as_str().to_ascii_lowercase();
    let attributes = Attributes {
        user,
        verb: &verb,
        group: "",
        resource: "",
        subresource: "",
        namespace: "",
        name: "",
        path,
    };
    match core.authorizer.authorize(&attributes) {
        Decision::Allow => Ok(()),
        Decision::Deny(_) | Decision::NoOpinion(_) => {
            let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
            Err(ApiError::forbidden("", "", "", &why))
        }
    }
}

async fn read<B>(body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::request_entity_too_large(BODY_BYTES_MAX))
        }
        Err(error) => Err(ApiError::bad_request(format!(
            "unable to read the body: {error}"
        ))),
    }
}

/// Adds `Warning` headers, one for each text.
fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
