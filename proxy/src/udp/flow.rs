//! One flow.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use fairlead_runtime::clock::Tick;

use crate::access_log::{Reason, Traffic};

use super::flows::{Key, World};

/// Both ends of a flow on the client's side; what identifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    /// Who sends.
    pub client: SocketAddr,
    /// Where to; answers leave from here.
    pub local: SocketAddr,
}

/// Some datagrams of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// All together.
    pub bytes: u64,
    /// How many.
    pub datagrams: u64,
}

/// How a flow's endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes flows.
    Good,
    /// It keeps those it has until the drain's deadline.
    Draining,
    /// It is removed, ejected or fails its probes.
    Gone,
}

/// A flow of world `W`.
pub struct Flow<W: World> {
    /// Who with whom.
    pub ends: Ends,
    /// The service it is for.
    pub service: W::Service,
    /// The endpoint that serves it.
    pub home: W::Home,
    /// What it carried.
    pub traffic: Traffic,
    /// How often its endpoint was replaced.
    pub rehomed: u32,
    /// When it began.
    pub opened: Tick,
    /// When the last datagram passed in either direction.
    pub active: Tick,
    /// An endpoint has answered.
    pub answered: bool,
    /// Its present one has, since it refused anything.
    pub heard: bool,
    /// When its present one was asked first.
    pub asked: Tick,
    /// Datagrams to its present one that no answer came for yet, as far as one answers each.
    pub open_questions: u64,
    /// The endpoint's host refused a datagram and nothing was answered since.
    pub refused: bool,
    /// Its endpoint's time is over: it must not stay there.
    pub expelled: bool,
    /// Since when its endpoint was seen to drain.
    pub draining: Option<Tick>,
    /// The routes by which it was found; others may lead elsewhere.
    pub(super) routes: u32,
    /// What was handed over to the counters already.
    pub(super) counted: Traffic,
    /// Given back when the flow ends.
    pub(super) _permit: W::Permit,
}

/// A flow that ended.
pub struct Closed<W: World> {
    /// What it was found by; its socket is to be closed before anything else is opened.
    pub key: Key,
    /// What it was.
    pub flow: Flow<W>,
    /// Why it ended.
    pub reason: Reason,
}

/// What a re-homed flow leaves behind.
pub struct Left<W: World> {
    /// The endpoint.
    pub home: W::Home,
    /// What it carried there since it was last reported.
    pub traffic: Traffic,
    /// Whether answers may still be under way.
    pub awaited: bool,
}

// === impl Ends ===

impl Ends {
    /// For the table's keyed hash.
    pub(super) fn words(&self) -> [u64; 5] {
        let halves = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => (0xffff << 32 | u64::from(ip.to_bits()), 0),
            IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64),
        };
        let (client, local) = (halves(self.client.ip()), halves(self.local.ip()));
        let ports = u64::from(self.client.port()) << 16 | u64::from(self.local.port());
        [client.0, client.1, local.0, local.1, ports]
    }
}

// === impl Flow ===

impl<W: World> Flow<W> {
    /// When it will have been idle for too long, as things stand.
    pub fn idle_at(&self, idle: Duration) -> Tick {
        self.active + idle
    }

    /// What it carried since this was asked last.
    pub fn take_traffic(&mut self) -> Traffic {
        let (now, before) = (self.traffic, self.counted);
        self.counted = now;
        Traffic {
            bytes_up: now.bytes_up - before.bytes_up,
            bytes_down: now.bytes_down - before.bytes_down,
            datagrams_up: now.datagrams_up - before.datagrams_up,
            datagrams_down: now.datagrams_down - before.datagrams_down,
        }
    }
}

impl<W: World> std::fmt::Debug for Closed<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?} {:?}", self.flow, self.reason)
    }
}

impl<W: World> std::fmt::Debug for Flow<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Flow")
            .field("ends", &self.ends)
            .field("traffic", &self.traffic)
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}
