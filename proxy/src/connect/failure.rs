//! Why a connect failed, and whose fault that is.

use crate::{balancer::NoEndpoint, registry::Outcome};

/// Why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// The endpoint refused it.
    #[error("connection refused")]
    Refused,
    /// No way there, or an ICMP error.
    #[error("unreachable")]
    Unreachable,
    /// The kernel gave up waiting.
    #[error("connect timed out")]
    TimedOut,
    /// No local port is left for this endpoint.
    #[error("no local port left")]
    OutOfPorts,
    /// No descriptor, buffer or memory is left, or a local rule forbids it.
    #[error("out of descriptors, buffers or memory")]
    OutOfResources,
}

/// Why a session gets no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GiveUp {
    /// There was none to try.
    #[error("no endpoint: {0}")]
    NoEndpoint(NoEndpoint),
    /// The last candidate refused.
    #[error("the last candidate refused the connection")]
    Refused,
    /// The last candidate could not be reached.
    #[error("the last candidate is unreachable")]
    Unreachable,
    /// No candidate answered within the connect timeout.
    #[error("no candidate answered within the connect timeout")]
    TimedOut,
    /// Our own fault.
    #[error("the proxy could not connect: {0}")]
    Ours(Failure),
}

impl Failure {
    /// From the error number of `connect` or `socket`.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ECONNREFUSED | libc::ECONNRESET | libc::ECONNABORTED => Self::Refused,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EAGAIN => Self::OutOfPorts,
            // ENOSPC is epoll's word for fs.epoll.max_user_watches.
            libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::ENOSPC
            | libc::EPERM => Self::OutOfResources,
            _ => Self::Unreachable,
        }
    }

    /// What it says about the endpoint.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Refused => Outcome::Refused,
            Self::Unreachable => Outcome::Unreachable,
            Self::TimedOut => Outcome::TimedOut,
            Self::OutOfPorts | Self::OutOfResources => Outcome::Ours,
        }
    }

    /// Whether another endpoint may do better.
    pub(super) fn leaves_others_a_chance(self) -> bool {
        self != Self::OutOfResources
    }
}

impl GiveUp {
    /// The end of a session whose last candidate failed like this.
    pub(super) fn after(failure: Failure) -> Self {
        match failure {
            Failure::Refused => Self::Refused,
            Failure::Unreachable => Self::Unreachable,
            Failure::TimedOut => Self::TimedOut,
            Failure::OutOfPorts | Failure::OutOfResources => Self::Ours(failure),
        }
    }
}
