//! What an answer consists of, as the server sends it.
//!
//! A large page is made in parts, each one when the connection has room for it: what a page costs
//! is a part or two, however long it is and however slowly it is read. Parts are made on threads of
//! their own, so a page never holds up who shares the server's thread.

use std::{
    fmt,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// The content of an answer.
#[derive(Debug)]
pub enum Body {
    /// There as a whole.
    Whole(Bytes),
    /// Made while it is sent.
    Parts(Parts),
}

/// A content made part by part. A panic ends the connection in the middle of the body, which its
/// reader notices.
pub struct Parts(Box<dyn Iterator<Item = Bytes> + Send>);

/// A body under way.
#[derive(Debug)]
pub(super) enum Sending {
    Whole(Option<Bytes>),
    /// Until the connection asks for more.
    Waiting(Parts),
    Making(JoinHandle<(Parts, Option<Bytes>)>),
    Over,
}

// === impl Body ===

impl Body {
    /// The content where it is there as a whole.
    pub fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Parts(_) => None,
        }
    }
}

// === impl Parts ===

impl Parts {
    /// A content in these parts; `next` may take a while, but must not wait.
    pub fn new(parts: impl Iterator<Item = Bytes> + Send + 'static) -> Self {
        Self(Box::new(parts))
    }
}

impl Iterator for Parts {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        // An empty frame would end a chunked body.
        self.0.find(|part| !part.is_empty())
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Parts")
    }
}

// === impl Sending ===

impl From<Body> for Sending {
    fn from(body: Body) -> Self {
        match body {
            Body::Whole(bytes) => Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Body::Parts(parts) => Self::Waiting(parts),
        }
    }
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = JoinError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, JoinError>>> {
        loop {
            match std::mem::replace(&mut *self, Self::Over) {
                Self::Whole(bytes) => {
                    return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
                }
                Self::Over => return Poll::Ready(None),
                Self::Waiting(mut parts) => {
                    let make = move || {
                        let part = parts.next();
                        (parts, part)
                    };
                    *self = Self::Making(spawn_blocking(make));
                }
                Self::Making(mut making) => {
                    let Poll::Ready(made) = Pin::new(&mut making).poll(context) else {
                        *self = Self::Making(making);
                        return Poll::Pending;
                    };
                    return Poll::Ready(match made {
                        Ok((parts, Some(part))) => {
                            *self = Self::Waiting(parts);
                            Some(Ok(Frame::data(part)))
                        }
                        Ok((_, None)) => None,
                        Err(error) => Some(Err(error)),
                    });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Over)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Over => SizeHint::with_exact(0),
            Self::Waiting(_) | Self::Making(_) => SizeHint::default(),
        }
    }
}
