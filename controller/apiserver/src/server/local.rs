//! The server as a tower service: no socket between client and server.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};

use crate::auth::User;
use crate::core::Core;
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
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let (core, user) = (Arc::clone(&self.core), Arc::clone(&self.user));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            Ok(rest::handle(&core, &user, &head, body).await)
        })
    }
}
