//! One session: a connection of a client, from accept to close, as one owned value.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use fairlead_runtime::clock::Tick;
use smallvec::SmallVec;

use super::{
    leg::Side,
    preamble::Preamble,
    relay::Relay,
    route::{Group, Route},
    slab::{GENERATION_MASK, Key},
};
use crate::{
    balancer::FlowKey,
    connect::{AttemptId, Connecting, Loser, Summary},
    limits::Admitted,
    metrics::MemberMetrics,
    registry::Live,
};

/// A session. An idle one is this value and nothing else.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) phase: Phase,
    /// The client, as its PROXY header says where there is one.
    pub(crate) client: SocketAddr,
    /// The address it connected to, likewise.
    pub(crate) local: SocketAddr,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) admitted: Option<Admitted>,
    pub(crate) served: Option<Served>,
    /// What only some sessions have.
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) accepted: Tick,
    /// The last event of either side.
    pub(crate) active: Tick,
    /// When the first of its streams ended; [`Tick::MAX`] before.
    pub(crate) half_since: Tick,
    pub(crate) marks: Marks,
    pub(crate) summary: Summary,
}

/// Where a session stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Reading what comes before the payload.
    Preamble(Box<Waiting>),
    /// Looking for an endpoint that answers.
    Dialling(Box<Dialling>),
    /// Served.
    Relaying(Relay),
    /// Between two phases, or closed.
    Over,
}

/// Reading the preamble.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) down: Side,
    pub(crate) preamble: Preamble,
    pub(crate) group: Arc<Group>,
}

/// Looking for an endpoint.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(crate) down: Side,
    pub(crate) policy: Connecting,
    pub(crate) key: FlowKey,
    pub(crate) sockets: SmallVec<[(AttemptId, OwnedFd); 2]>,
    pub(crate) began: Tick,
    /// What goes to the endpoint first: our PROXY header and what the client said already.
    pub(crate) prefix: Vec<u8>,
    /// The part of it that isn't payload.
    pub(crate) header_len: usize,
}

/// What serves a session.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) live: Live,
    pub(crate) member: Option<Arc<MemberMetrics>>,
    pub(crate) tier: u8,
    /// Which of the connects it was, for the poller's tokens.
    pub(crate) attempt: AttemptId,
    pub(crate) connect_micros: u32,
}

/// What only some sessions have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Who sent the PROXY header.
    pub(crate) peer: Option<SocketAddr>,
    /// The server name.
    pub(crate) host: Option<Box<str>>,
}

/// Yes-or-no facts of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    /// The endpoint has sent a byte.
    pub(crate) answered: bool,
    /// Both sides notice dead peers.
    pub(crate) live_checked: bool,
    /// Its listener's options may be those of another service.
    pub(crate) own_options: bool,
    /// It may not begin with a PROXY header.
    pub(crate) guarded: bool,
    /// It waits for its next turn.
    pub(crate) queued: bool,
    /// It was counted and logged.
    pub(crate) settled: bool,
}

/// A connect that goes on without its session, for what its time says.
#[derive(Debug)]
pub(crate) struct Straggler {
    pub(crate) socket: OwnedFd,
    pub(crate) loser: Loser,
    pub(crate) route: Arc<Route>,
}

/// What a poller's token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Mailbox,
    Listener(u32),
    /// The client's side of a session.
    Down(Key),
    /// A connect of a session, and later its endpoint's side.
    Up(Key, AttemptId),
    Straggler(Key),
    /// A socket that datagrams come to.
    Datagrams(u32),
    /// The endpoint's side of a flow.
    Flow(Key),
}

// === impl Session ===

impl Session {
    pub(crate) fn new(client: SocketAddr, local: SocketAddr, accepted: Tick, phase: Phase) -> Self {
        Self {
            phase,
            client,
            local,
            route: None,
            admitted: None,
            served: None,
            extra: None,
            accepted,
            active: accepted,
            half_since: Tick::MAX,
            marks: Marks::default(),
            summary: Summary::default(),
        }
    }

    /// The client's side, in every phase that has one.
    pub(crate) fn down(&mut self) -> Option<&mut Side> {
        match &mut self.phase {
            Phase::Preamble(waiting) => Some(&mut waiting.down),
            Phase::Dialling(dialling) => Some(&mut dialling.down),
            Phase::Relaying(relay) => Some(&mut relay.down),
            Phase::Over => None,
        }
    }

    /// When a served session has to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        let timeouts = &self.route.as_ref()?.service.policy.timeouts;
        let idle = timeouts.idle.map(|idle| self.active + idle);
        let life = timeouts.lifetime.map(|life| self.accepted + life);
        let half = timeouts.half_closed.map(|half| self.half_since + half);
        let first = [idle, life, half].into_iter().flatten().min()?;
        (first < Tick::MAX).then_some(first)
    }
}

// === impl Token ===

impl Token {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Self::Mailbox => MAILBOX << 56,
            Self::Listener(slot) => LISTENER << 56 | u64::from(slot),
            Self::Straggler(key) => STRAGGLER << 56 | pack(key),
            Self::Datagrams(slot) => DATAGRAMS << 56 | u64::from(slot),
            Self::Flow(key) => FLOW << 56 | pack(key),
            Self::Down(key) => pack(key),
            Self::Up(key, AttemptId(attempt)) => (u64::from(attempt) + 1) << 56 | pack(key),
        }
    }

    pub(crate) fn unpack(token: u64) -> Self {
        let key = Key {
            index: token as u32,
            generation: (token >> 32) as u32 & GENERATION_MASK,
        };
        match token >> 56 {
            MAILBOX => Self::Mailbox,
            LISTENER => Self::Listener(key.index),
            STRAGGLER => Self::Straggler(key),
            DATAGRAMS => Self::Datagrams(key.index),
            FLOW => Self::Flow(key),
            0 => Self::Down(key),
            attempt => Self::Up(key, AttemptId(attempt as u8 - 1)),
        }
    }
}

fn pack(key: Key) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.index)
}

const MAILBOX: u64 = 0xff;
const LISTENER: u64 = 0xfe;
const STRAGGLER: u64 = 0xfd;
const DATAGRAMS: u64 = 0xfc;
const FLOW: u64 = 0xfb;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let key = Key {
            index: 0xdead_beef,
            generation: GENERATION_MASK,
        };
        let tokens = [
            Token::Mailbox,
            Token::Listener(7),
            Token::Down(key),
            Token::Up(key, AttemptId(0)),
            Token::Up(key, AttemptId(5)),
            Token::Straggler(key),
            Token::Datagrams(7),
            Token::Flow(key),
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    // With the slab's 12 bytes and the wheel's 12, an idle session stays far below 1 kB.
    #[test]
    fn an_idle_session_is_small() {
        assert!(
            size_of::<Session>() <= 384,
            "{} bytes",
            size_of::<Session>()
        );
    }
}
