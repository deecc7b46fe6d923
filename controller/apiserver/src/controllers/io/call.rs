//! Requests of the controllers to their own server.

use crate::auth::User;
use crate::core::Core;
use crate::resource::Resource;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use std::sync::Arc;

/// Talks to the REST layer as the server's own user.
pub(super) struct Caller {
    core: Arc<Core>,
    user: User,
}

/// An answer: the status code and the body.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Value,
}

/// How a write ended that was decided on a state which others may have changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raced {
    /// It took place, or never can.
    Won,
    /// The object is another by now: read it and decide again.
    Lost,
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            user: User::loopback(),
        }
    }

    pub(super) async fn create(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::POST, path, JSON, object).await
    }

    pub(super) async fn replace(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::PUT, path, JSON, object).await
    }

    pub(super) async fn patch(&self, path: &str, patch: &Value) -> Answer {
        self.send(Method::PATCH, path, MERGE_PATCH, patch).await
    }

    pub(super) async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, JSON, options).await
    }

    /// Sets the rules of an aggregating ClusterRole.
    pub(super) async fn aggregate(&self, name: &str, rules: &Value) -> Raced {
        let name = encode(name);
        let path = format!(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}?fieldManager=clusterrole-aggregation-controller"
        );
        self.patch(&path, &json!({"rules": rules}))
            .await
            .report("aggregate a ClusterRole")
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: &Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::USER_AGENT, AGENT);
        let Ok(request) = request.body(()) else {
            return Answer {
                code: 400,
                body: json!({"message": format!("{path} is no path")}),
            };
        };
        let (head, ()) = request.into_parts();
        let bytes = Bytes::from(serde_json::to_vec(body).expect("a JSON value is serialisable"));
        // Boxed: this future holds the whole write path, and the controllers' task lives as long
        // as its server.
        let response = Box::pin(crate::rest::answer(
            &self.core,
            &self.user,
            &head,
            Full::new(bytes),
        ))
        .await;
        let code = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        Answer {
            code,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        }
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn ok(&self) -> bool {
        self.code < 300
    }

    /// Whether another write came first. Logs any other failure, unless the object is gone.
    pub(super) fn report(&self, what: &str) -> Raced {
        if self.code == 409 {
            return Raced::Lost;
        }
        if !self.ok() && self.code != 404 {
            let message = self.body["message"].as_str().unwrap_or_default();
            tracing::warn!(
                code = self.code,
                what,
                message,
                "a controller could not do its work"
            );
        }
        Raced::Won
    }
}

/// The path of an object of `resource`, or of the collection when `name` is empty.
pub(super) fn path(resource: &Resource, namespace: &str, name: &str) -> String {
    let mut path = if resource.group.is_empty() {
        "/api".to_owned()
    } else {
        format!("/apis/{}", resource.group)
    };
    path.push('/');
    path.push_str(&resource.version);
    if resource.namespaced {
        path.push_str(&format!("/namespaces/{namespace}"));
    }
    path.push('/');
    path.push_str(&resource.resource);
    if !name.is_empty() {
        path.push('/');
        path.push_str(&encode(name));
    }
    path
}

/// Percent-encodes what can't stand in a path segment.
fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const AGENT: &str = "kube-controller-manager/v1.37.2";
