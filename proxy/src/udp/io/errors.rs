//! What errors of sockets mean for a datagram.

use std::io;

use crate::{
    access_log::Reason,
    metrics::{DatagramDrop, Fault},
    registry::Outcome,
};

/// Why a datagram didn't leave.
pub(super) enum Unsent {
    /// The endpoint's host answered an earlier one with an ICMP error, or there is no way to it.
    Refused(Outcome),
    Dropped(DatagramDrop),
    /// This host can't open a socket for the flow, so it ends.
    Fault(DatagramDrop, Reason),
}

pub(super) fn unsent_of(error: &io::Error) -> Unsent {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Unsent::Refused(Outcome::Refused),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
            Unsent::Refused(Outcome::Unreachable)
        }
        _ => Unsent::Dropped(drop_of(error)),
    }
}

pub(super) fn drop_of(error: &io::Error) -> DatagramDrop {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => DatagramDrop::SendBufferFull,
        Some(libc::EMSGSIZE) => DatagramDrop::TooLarge,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
            DatagramDrop::Pressure
        }
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
            DatagramDrop::Unreachable
        }
        _ => DatagramDrop::SendError,
    }
}

/// The path or its device takes no trains, or none of such datagrams.
pub(super) fn is_no_train(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP)
    )
}

/// The fault of this host that keeps a flow from its socket, and why the flow ends.
pub(super) fn fault_of(error: &io::Error) -> (Fault, Reason) {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => (Fault::Fds, Reason::FdPressure),
        Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
            (Fault::Memory, Reason::MemoryPressure)
        }
        Some(libc::EADDRNOTAVAIL | libc::EAGAIN) => (Fault::Ports, Reason::LocalFault),
        Some(libc::EPERM | libc::EACCES) => (Fault::Permission, Reason::LocalFault),
        _ => (Fault::Other, Reason::LocalFault),
    }
}
