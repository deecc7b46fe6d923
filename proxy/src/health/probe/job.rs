//! A probe to send, and what comes back.

use std::{sync::Arc, time::Duration};

use fairlead_config::service::Service;

use crate::registry::EndpointState;

/// A probe to send.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whom to ask.
    pub endpoint: Arc<EndpointState>,
    /// The service whose `healthCheck` says what to ask.
    pub service: Arc<Service>,
    /// Sent for its member's sake, because the budget doesn't reach all.
    pub is_sample: bool,
}

/// What came of a probe. Every job ends in one.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The probe.
    pub job: Job,
    /// How long the connect took (none for datagrams), or what went wrong.
    pub result: Result<Option<Duration>, ProbeError>,
}

/// What went wrong with a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ProbeError {
    /// The connect or the datagram was refused.
    #[error("refused")]
    Refused,
    /// No way there.
    #[error("unreachable")]
    Unreachable,
    /// No answer to the connect in time, or none at all to a datagram.
    #[error("nobody answered in time")]
    Unanswered,
    /// Connected, but no whole answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// Closed or reset before the answer was whole.
    #[error("closed before the answer was whole")]
    Closed,
    /// The answer isn't the one expected.
    #[error("unexpected answer")]
    Unexpected,
    /// An HTTP status outside the range.
    #[error("HTTP status {0}")]
    Status(u16),
    /// gRPC: the service isn't SERVING.
    #[error("not serving (health status {0})")]
    NotServing(u8),
    /// gRPC: the call failed with this code.
    #[error("gRPC status {0}")]
    Grpc(u8),
    /// Our own fault; says nothing about the endpoint.
    #[error("the proxy could not probe")]
    Ours,
}

impl ProbeError {
    /// Whether nobody is there: refused, reset, or no answer to the connect. All else comes from
    /// somebody who may serve well enough.
    pub fn is_death(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::Unreachable | Self::Unanswered | Self::Closed
        )
    }
}
