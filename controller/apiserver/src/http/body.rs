//! Response bodies: complete, or a stream of watch events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::error::ApiError;
use crate::http::Syntax;

/// The body of every response.
pub(crate) struct Body(Content);

enum Content {
    Whole(Option<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

// === impl Body ===

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Content::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// The stream of a streamed body; a whole one comes back.
    pub(crate) fn into_stream(self) -> Result<Pin<Box<dyn Stream<Item = Bytes> + Send>>, Self> {
        match self.0 {
            Content::Stream(stream) => Ok(stream),
            whole @ Content::Whole(_) => Err(Self(whole)),
        }
    }

    pub(crate) fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(Content::Stream(Box::pin(stream)))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Content::Whole(bytes) => f.debug_tuple("Whole").field(bytes).finish(),
            Content::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let next = match &mut self.0 {
            Content::Whole(bytes) => bytes.take(),
            Content::Stream(stream) => match stream.as_mut().poll_next(context) {
                Poll::Ready(next) => next,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(next.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.0 {
            Content::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Content::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

/// A response from bytes that are JSON already, as YAML if that is wanted.
pub(crate) fn raw(code: u16, syntax: Syntax, json: Vec<u8>) -> Response<Body> {
    let (kind, bytes) = match syntax {
        Syntax::Json => ("application/json", json),
        Syntax::Yaml => ("application/yaml", yaml(json)),
    };
    let mut response = Response::new(Body::whole(bytes));
    *response.status_mut() = StatusCode::from_u16(code).expect("status codes are constants");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A response from any serialisable value.
pub(crate) fn json(code: u16, syntax: Syntax, value: &impl Serialize) -> Response<Body> {
    raw(
        code,
        syntax,
        serde_json::to_vec(value).expect("JSON values are serialisable"),
    )
}

/// A response in words.
pub(crate) fn text(code: u16, words: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(words));
    *response.status_mut() = StatusCode::from_u16(code).expect("status codes are constants");
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A failure's response.
pub(crate) fn status(error: &ApiError, syntax: Syntax) -> Response<Body> {
    let mut response = json(error.code(), syntax, &error.status());
    if error.retry_after_seconds() > 0 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, error.retry_after_seconds().into());
    }
    if error.code() == 401 {
        let challenge = HeaderValue::from_static("Bearer realm=\"kubernetes-master\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn yaml(json: Vec<u8>) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(&json).expect("we wrote this JSON");
    match serde_saphyr::to_string(&value) {
        Ok(text) => text.into_bytes(),
        // JSON is YAML too.
        Err(_) => json,
    }
}
