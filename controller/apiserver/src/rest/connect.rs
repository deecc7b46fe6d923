//! Requests that are no plain write: reviews, and subresources with a kind of their own.

use std::sync::Arc;

use http::Response;
use serde_json::Value;

use super::{Request, meta, warn};
use crate::auth::review::Reviewer;
use crate::error::ApiError;
use crate::http::{Body, json as respond};
use crate::store::{Change, Object, Write};

impl Request<'_> {
    /// Answers a question, or creates what has no object of its own.
    pub(super) async fn connect(&self, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let (body, warnings) = self.decode(body)?;
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
        let mut response = respond(201, self.accept.syntax, &answer);
        warn(&mut response, &warnings);
        Ok(response)
    }

    /// After an object was stored: CRDs change what is served.
    pub(super) async fn written(&self, stored: &Object) {
        if self
            .resource
            .is("apiextensions.k8s.io", "customresourcedefinitions")
        {
            let crd = stored.value(&self.resource.head());
            self.core.serve_crd(&crd);
            let now = crate::clock::rfc3339(self.core.now());
            if let Some(established) = crate::crd::established(&crd, &now) {
                let write = Write {
                    table: Arc::clone(&self.resource.table),
                    key: stored.key().clone(),
                    expected: Some(stored.revision()),
                    change: Change::Put(meta::draft(&established, &self.resource, self.strategy())),
                };
                // A write that came first brings its own status.
                drop(self.core.store.commit(write).await);
            }
        }
    }

    /// After an object has left the store.
    pub(super) fn removed(&self, object: &Value) {
        if self
            .resource
            .is("apiextensions.k8s.io", "customresourcedefinitions")
        {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            self.core.registry.set_custom(name, Vec::new());
        }
    }
}
