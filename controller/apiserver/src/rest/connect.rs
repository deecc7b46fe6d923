//! Requests that are no plain write: reviews, and subresources with a kind of their own.

use http::Response;

use super::Request;
use crate::auth::review::Reviewer;
use crate::error::ApiError;
use crate::http::{Body, json as respond};

impl Request<'_> {
    /// Answers a question, or creates what has no object of its own.
    pub(super) async fn connect(&self, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let body = self.decode(body)?;
        match self.place.subresource.as_str() {
            "binding" => return self.bind(&body).await,
            "eviction" => return self.evict(&body).await,
            _ => {}
        }
        let ctx = self.ctx(self.query.dry_run("CreateOptions")?);
        let reviewer = Reviewer {
            ctx: &ctx,
            authorizer: &*self.core.authorizer,
            authentication: &self.core.authentication,
        };
        let answer = match self.place.subresource.as_str() {
            "" => reviewer.answer(body)?,
            "token" => reviewer.issue(&self.place.name, body)?,
            _ => return Err(ApiError::method_not_allowed()),
        };
        let response = respond(201, self.accept.syntax, &answer);
        Ok(response)
    }
}
