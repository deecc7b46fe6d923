//! Faults of requests.

use http::request::Parts;
use http::{Method, Response};

use super::{Effect, Faults};
use crate::auth::User;
use crate::error::ApiError;
use crate::http::{Body, Query, Syntax, Target, status};

/// What a rule may name of a request.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) verb: &'static str,
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) user: String,
}

/// The connection closed on purpose; also the mark of a response that must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection was closed by an injected fault")]
pub struct Disconnected;

/// What becomes of a request.
pub(crate) enum Fate {
    Handled,
    /// Handled, but its answer is lost.
    Lost,
    Answered(Response<Body>),
}

impl Subject {
    pub(crate) fn new(user: &User, head: &Parts) -> Self {
        let place = match Target::parse(head.uri.path()) {
            Target::Resource(place) => place,
            _ => crate::http::Place::default(),
        };
        let query = Query::parse(head.uri.query());
        let named = !place.name.is_empty();
        let verb = match head.method {
            Method::GET | Method::HEAD if query.flag("watch") == Some(true) => "watch",
            Method::GET | Method::HEAD if named || place.resource.is_empty() => "get",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            Method::DELETE => "deletecollection",
            _ => "",
        };
        Self {
            verb,
            resource: place.resource,
            namespace: place.namespace,
            name: place.name,
            user: user.name.clone(),
        }
    }
}

impl Faults {
    /// Lets a request through, or not, after what the rules make it wait for.
    pub(crate) async fn meet(&self, subject: &Subject) -> Fate {
        let on_requests = |effect| {
            matches!(
                effect,
                Effect::Delay(_)
                    | Effect::Fail(_)
                    | Effect::Close
                    | Effect::LoseAnswer
                    | Effect::Hang
            )
        };
        let mut fate = Fate::Handled;
        for active in self.strike(subject, on_requests) {
            match active.rule.effect {
                Effect::Delay(time) => tokio::time::sleep(time).await,
                Effect::Fail(code) => return Fate::Answered(status(&failure(code), Syntax::Json)),
                Effect::Close => return Fate::Answered(disconnect(Response::new(Body::whole("")))),
                Effect::Hang => {
                    active.end().await;
                    return Fate::Answered(disconnect(Response::new(Body::whole(""))));
                }
                _ => fate = Fate::Lost,
            }
        }
        fate
    }
}

/// Marks a response as one that must not reach the client.
pub(crate) fn disconnect(mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Disconnected);
    response
}

fn failure(code: u16) -> ApiError {
    match code {
        429 => ApiError::too_many("too many requests, please try again later", 1),
        503 => ApiError::unavailable("the server is currently unable to handle the request"),
        504 => ApiError::timeout("the request did not complete in time", 0),
        409 => ApiError::conflict("", "", "", "an injected conflict"),
        _ => ApiError::internal("an injected fault"),
    }
}
