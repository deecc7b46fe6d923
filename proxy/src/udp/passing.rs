//! Flows on their way to another process, with their sockets: endpoints see the same peer before
//! and after, and clients the same answers.

use std::{net::SocketAddr, time::Duration};

use fairlead_runtime::clock::Tick;
use serde::{Deserialize, Serialize};

use super::flow::Ends;
use crate::access_log::Traffic;

/// A flow as its successor gets it; its connected socket travels beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRow {
    /// The listening socket whose kernel hash leads to it: its place in the offer.
    pub socket: u32,
    /// Who sends.
    pub client: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
    /// The endpoint's member.
    pub member: String,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Its tier.
    pub tier: u8,
    /// Since it began, in milliseconds.
    pub age_millis: u64,
    /// Since its last datagram, in milliseconds.
    pub idle_millis: u64,
    /// Its endpoint has answered.
    pub answered: bool,
    /// How often its endpoint was replaced.
    pub rehomed: u32,
    /// Bytes and datagrams up, bytes and datagrams down.
    pub carried: [u64; 4],
}

// === impl FlowRow ===

impl FlowRow {
    /// Both ends on the client's side.
    pub fn ends(&self) -> Ends {
        Ends {
            client: self.client,
            local: self.local,
        }
    }

    /// What it carried.
    pub fn traffic(&self) -> Traffic {
        let [bytes_up, datagrams_up, bytes_down, datagrams_down] = self.carried;
        Traffic {
            bytes_up,
            bytes_down,
            datagrams_up,
            datagrams_down,
        }
    }
}

/// `millis` before `now`, or the start of the process.
pub(super) fn before(now: Tick, millis: u64) -> Tick {
    let span = Duration::from_millis(millis);
    Tick(now.0.saturating_sub(Tick::from_start(span).0))
}

/// From `then` to `now`.
pub(super) fn millis(now: Tick, then: Tick) -> u64 {
    u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX)
}
