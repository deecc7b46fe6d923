//! Which endpoint takes the next client.
//!
//! | module | what it decides |
//! |---|---|
//! | [`tiers`] | how much of the new sessions each tier and member takes: health, spill, panic, hysteresis |
//! | [`draw`] | the point at which those shares are read: a low-discrepancy sequence per thread and service |
//! | [`pool`] | the endpoints of one member that may be picked now; exact weighted draws |
//! | [`p2c`], [`round_robin`], [`least_connections`], [`random`] | one endpoint of the pool, by load or weight |
//! | [`maglev`], [`rendezvous`] | one endpoint of the configured set, by hash |
//! | [`affinity`] | tier, member and endpoint of a client that must come back to the same place |
//! | [`hash`], [`logarithm`] | the specified hash and the fixed-point logarithm that weighs it |
//!
//! Everything is pure: time, draws and seeds are arguments. A pick costs two cache lines a candidate
//! and allocates nothing. Whatever the balancer, the shares of tiers and members come first; it only
//! chooses inside the member that the shares chose.
//!
//! A new balancer is one file with `fn pick(&Pool, …) -> Option<usize>`, its test table, a variant of
//! [`fairlead_config::policy::Balancer`] and its line in `choose`.

use std::{net::SocketAddr, sync::Arc};

use fairlead_config::{frontend::Protocol, policy::Balancer};
use smallvec::SmallVec;

use crate::registry::{EndpointId, EndpointState, Live};

pub mod affinity;
pub mod draw;
pub mod hash;
pub mod least_connections;
pub mod logarithm;
pub mod maglev;
pub mod p2c;
pub mod pool;
pub mod random;
pub mod rendezvous;
pub mod round_robin;
pub mod tiers;

use draw::Draw;
use hash::{Identity, KeyHash};
use pool::Pool;

/// What identifies a session or flow before it has an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The client, as the PROXY header says where there is one.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// The endpoint to use, and where it stands.
#[derive(Debug, Clone)]
pub struct Pick {
    /// The endpoint.
    pub endpoint: Arc<EndpointState>,
    /// From 0, the most preferred.
    pub tier: u8,
    /// Its member's identity.
    pub member: Identity,
}

/// Why there is nothing to pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoEndpoint {
    /// No member has an endpoint.
    #[error("the service has no endpoints")]
    Empty,
    /// Every member with endpoints has weight 0.
    #[error("every member of the service is drained")]
    Drained,
    /// None may take a session now.
    #[error("no endpoint of the service is usable")]
    Unusable,
    /// Every usable one is at its connection limit.
    #[error("every usable endpoint of the service is at its connection limit")]
    Full,
    /// Every usable one was tried already.
    #[error("every usable endpoint of the service was tried")]
    Exhausted,
}

/// The endpoints that a session tried already, and what that means for the next pick.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    attempts: SmallVec<[Attempt; 2]>,
    /// What the next pick should look for.
    pub next: Next,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    endpoint: EndpointId,
    tier: u8,
    member: Identity,
}

/// What the next pick should look for. Each endpoint is picked once at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Next {
    /// The tier in use until it had [`TIER_ATTEMPTS_MAX`] candidates, then the next usable tier; the
    /// last usable one takes the rest.
    #[default]
    Retry,
    /// Another endpoint of the last member; any as in `Retry` when it has none.
    SameMember,
    /// Another member, in the same tier if possible.
    OtherMember,
}

// === impl Tried ===

impl Tried {
    /// Nothing tried yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a candidate.
    pub fn push(&mut self, pick: &Pick) {
        self.attempts.push(Attempt {
            endpoint: pick.endpoint.id,
            tier: pick.tier,
            member: pick.member,
        });
    }

    /// Candidates so far.
    pub fn len(&self) -> usize {
        self.attempts.len()
    }

    /// Whether this is the first pick.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Whether this endpoint was tried.
    pub fn contains(&self, endpoint: EndpointId) -> bool {
        self.attempts
            .iter()
            .any(|attempt| attempt.endpoint == endpoint)
    }

    pub(crate) fn has_member(&self, member: Identity) -> bool {
        self.attempts.iter().any(|attempt| attempt.member == member)
    }

    pub(crate) fn last_member(&self) -> Option<Identity> {
        self.attempts.last().map(|attempt| attempt.member)
    }

    pub(crate) fn first_tier(&self) -> u8 {
        self.attempts.first().map_or(0, |attempt| attempt.tier)
    }

    pub(crate) fn in_tier(&self, tier: u8) -> usize {
        self.attempts
            .iter()
            .filter(|attempt| attempt.tier == tier)
            .count()
    }
}

// === impl Pick ===

impl Pick {
    /// Counts the session at its endpoint until the answer is dropped.
    pub fn begin(&self) -> Live {
        self.endpoint.begin()
    }
}

/// Picks inside a member by the service's balancer; `None` when nothing in the pool is eligible.
///
/// `key` is there for the balancers that hash, and for every balancer when clients have affinity.
pub(crate) fn choose(pool: &Pool<'_>, key: Option<KeyHash>, draw: &mut Draw) -> Option<usize> {
    let member = pool.member();
    match (pool.balancer(), key) {
        (Balancer::Maglev, Some(key)) => maglev::pick(pool, member.maglev()?, key),
        (_, Some(key)) => rendezvous::pick(pool, key),
        (Balancer::P2c, None) => p2c::pick(pool, draw),
        (Balancer::RoundRobin, None) => {
            round_robin::pick(pool, member.round()?, member.state.next_turn())
        }
        (Balancer::LeastConnections, None) => least_connections::pick(pool, draw),
        // The last two hash; without a key there is only the weight.
        (Balancer::Random | Balancer::Maglev | Balancer::Rendezvous, None) => {
            random::pick(pool, draw)
        }
    }
}

/// Candidates of one tier while a later tier is usable.
pub const TIER_ATTEMPTS_MAX: usize = 2;

#[cfg(test)]
mod laws;
