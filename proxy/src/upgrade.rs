//! Handing everything over to a new process without refusing or resetting a connection.
//!
//! ```text
//!   taker                                giver
//!   Hello {versions} ───────────────────▶
//!                     ◀───────────────── Begin {version, batches}    or Refuse {reason}
//!                     ◀───────────────── Batch {n, sockets | parcel} + descriptors
//!   Taken {n} ──────────────────────────▶                            … until all are taken
//!   (binds, starts its threads, accepts)
//!   Ready ──────────────────────────────▶                            (UDP: gives its flows away)
//!                     ◀───────────────── Flows {n} + their sockets
//!   Taken {n} ──────────────────────────▶                            … until all are taken
//!                     ◀───────────────── Released                    the giver accepts no more
//!   (takes datagrams)
//! ```
//!
//! The sockets are the same ones in both processes, so what waits in their queues is lost to
//! nobody, and from Ready to Released both accept. Until Ready the giver serves as if nothing had
//! happened: any error, time-out or unknown version ends the attempt there. After Ready the taker
//! serves, whatever becomes of the giver; the giver finishes its sessions and exits. A table of
//! flows belongs to its listening socket, whose kernel hash leads to it; datagrams wait in the
//! sockets for the milliseconds in which nobody has the table, and a taker that fails before it
//! has taken every flow leaves them where they were.
//!
//! Three ways lead here: SIGUSR2 (the giver starts the binary on disk as its child), `--takeover`
//! (the taker finds the giver at a path) and [`systemd`], which keeps the sockets while no process
//! runs. Cost: one message for every 64 sockets.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use fairlead_config::frontend::Protocol;

use crate::sockets::Bind;

pub mod io;
pub mod systemd;
pub mod wire;

/// What is offered to a taker.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// Listening sockets.
    pub sockets: Vec<(SocketRow, Arc<OwnedFd>)>,
    /// The places in [`Self::sockets`] of the data threads' listeners, by id.
    pub places: BTreeMap<u32, u32>,
    /// What was learned, by kind.
    pub parcels: Vec<Parcel>,
}

/// What a taker got.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets, by their place in the offer.
    pub sockets: Vec<(u32, SocketRow, OwnedFd)>,
    /// What was learned, by kind.
    pub parcels: Vec<Parcel>,
    /// Another process still has the flows.
    pub flows_follow: bool,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketRow {
    /// Who listens on it.
    pub role: Role,
    /// Where.
    pub addr: SocketAddr,
}

/// Who listens on a socket.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// A TCP frontend.
    Tcp,
    /// A UDP frontend.
    Udp,
    /// The admin server.
    Admin,
}

/// Something learned that the successor should know; unknown kinds are ignored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Parcel {
    /// What it is.
    pub kind: String,
    /// JSON, at most [`wire::PARCEL_BYTES_MAX`].
    pub body: String,
}

// === impl Role ===

impl From<Protocol> for Role {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

// === impl Inheritance ===

impl Inheritance {
    /// Takes out the sockets of a frontend's address, with their places.
    pub fn take_bind(&mut self, bind: Bind) -> Vec<(u32, OwnedFd)> {
        self.take(|row| row.role == bind.protocol.into() && row.addr == bind.addr)
    }

    /// Takes out the admin server's socket, if it listens at `addr`.
    pub fn take_admin(&mut self, addr: SocketAddr) -> Option<OwnedFd> {
        // A service manager knows it as a TCP socket like any other.
        let mut found = self.take(|row| row.role != Role::Udp && row.addr == addr);
        found.pop().map(|(_, socket)| socket)
    }

    fn take(&mut self, wanted: impl Fn(&SocketRow) -> bool) -> Vec<(u32, OwnedFd)> {
        let all = std::mem::take(&mut self.sockets);
        let (taken, left): (Vec<_>, _) = all.into_iter().partition(|(_, row, _)| wanted(row));
        self.sockets = left;
        let taken = taken.into_iter();
        taken.map(|(place, _, socket)| (place, socket)).collect()
    }
}
