//! The server as a tower service: no socket between client and server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};

use crate::auth::User;
use crate::core::Core;
use crate::faults::Disconnected;
use crate::http::Body;
use crate::rest;

/// Answers the requests of one user.
#[derive(Debug, Clone)]
pub(super) struct LocalService {
    core: Arc<Core>,
    user: Arc<User>,
}

impl LocalService {
    pub(super) fn new(core: Arc<Core>, user: User) -> Self {
        Self {
            core,
            user: Arc::new(user),
        }
    }
}

impl tower::Service<Request<kube::client::Body>> for LocalService {
    type Response = Response<Body>;
    type Error = Disconnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Disconnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Disconnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let (core, user) = (Arc::clone(&self.core), Arc::clone(&self.user));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            deliver(rest::handle(&core, &user, &head, body).await)
        })
    }
}

/// The response, unless an injected fault keeps it from the client.
pub(super) fn deliver(response: Response<Body>) -> Result<Response<Body>, Disconnected> {
    match response.extensions().get::<Disconnected>() {
        Some(&disconnected) => Err(disconnected),
        None => Ok(response),
    }
}
