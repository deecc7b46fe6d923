//! What the cases share.

use anyhow::{Context, bail, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, PostParams},
    core::Status,
};
use serde::de::DeserializeOwned;

use crate::Case;

impl Case {
    pub(crate) fn client(&self) -> Client {
        self.cluster.client()
    }

    /// The objects of a kind in the case's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// A name that no other case uses, for objects without a namespace.
    pub(crate) fn unique(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.namespace)
    }

    /// Asks for a path; the status code and the body.
    pub(crate) async fn get(&self, uri: &str) -> anyhow::Result<(u16, serde_json::Value)> {
        self.raw(http::Request::get(uri).body(Vec::new())?).await
    }

    /// Sends a request as it is; the status code and the body.
    pub(crate) async fn raw(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> anyhow::Result<(u16, serde_json::Value)> {
        let (status, bytes) = self.bytes(request).await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Sends a request as it is; the status code and the headers.
    pub(crate) async fn head(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> anyhow::Result<(u16, http::HeaderMap)> {
        let (parts, body) = request.into_parts();
        let request = http::Request::from_parts(parts, body.into());
        let response = self.client().send(request).await?;
        Ok((response.status().as_u16(), response.headers().clone()))
    }

    /// Sends a request as it is; what is answered, until it ends.
    pub(crate) async fn text(&self, request: http::Request<Vec<u8>>) -> anyhow::Result<String> {
        let (_, bytes) = self.bytes(request).await?;
        Ok(String::from_utf8(bytes)?)
    }

    async fn bytes(&self, request: http::Request<Vec<u8>>) -> anyhow::Result<(u16, Vec<u8>)> {
        use futures::AsyncReadExt as _;
        let (parts, body) = request.into_parts();
        let request = http::Request::from_parts(parts, body.into());
        let response = self.client().send(request).await?;
        let status = response.status().as_u16();
        let stream =
            futures::stream::TryStreamExt::into_async_read(futures::stream::TryStreamExt::map_err(
                http_body_util::BodyExt::into_data_stream(response.into_body()),
                std::io::Error::other,
            ));
        let mut bytes = Vec::new();
        std::pin::pin!(stream).read_to_end(&mut bytes).await?;
        Ok((status, bytes))
    }
}

/// A fresh namespace.
pub(crate) async fn namespace(client: &Client) -> anyhow::Result<String> {
    let meta = ObjectMeta {
        generate_name: Some("case-".into()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace {
        metadata: meta,
        ..Namespace::default()
    };
    let made = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(made.name_any())
}

/// A ConfigMap with one key.
pub(crate) fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some([("key".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// Reads a typed object from JSON written in place.
pub(crate) fn object<K: DeserializeOwned>(value: serde_json::Value) -> anyhow::Result<K> {
    Ok(serde_json::from_value(value)?)
}

/// The Status of a refusal, with its code and reason as expected.
pub(crate) fn refused<T>(
    result: kube::Result<T>,
    code: u16,
    reason: &str,
) -> anyhow::Result<Box<Status>> {
    match result {
        Ok(_) => bail!("expected {code} {reason}, but it was accepted"),
        Err(kube::Error::Api(status)) => {
            ensure!(
                (status.code, status.reason.as_str()) == (code, reason),
                "expected {code} {reason}, got {} {}: {}",
                status.code,
                status.reason,
                status.message
            );
            Ok(status)
        }
        Err(error) => Err(error).context("expected an API error"),
    }
}

/// `(reason, field)` of each cause, sorted.
pub(crate) fn causes(status: &Status) -> Vec<(String, String)> {
    let details = status.details.as_ref();
    let mut causes: Vec<_> = details
        .into_iter()
        .flat_map(|details| &details.causes)
        .map(|cause| (cause.reason.clone(), cause.field.clone()))
        .collect();
    causes.sort();
    causes
}
