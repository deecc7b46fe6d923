//! What a data thread needs to pick an endpoint of one service.
//!
//! A view is immutable and whole: policy, shares, members, endpoints and the balancers' tables, built
//! off the data path whenever anything of the service changes (O(n log n); some 10 µs at 100
//! endpoints) and swapped by [`crate::registry::ServiceState::swap_view`]. What changes faster than
//! that, flags and live sessions, is read from the endpoints at each pick, so an ejection counts
//! before the view that follows from it is there. An endpoint costs 16 bytes in a view.

use std::sync::Arc;

use fairlead_config::{
    policy::{Affinity, Balancer},
    service::Service,
};
use fairlead_runtime::clock::Tick;

use crate::{
    balancer::{
        FlowKey, NoEndpoint, Pick, Tried,
        draw::Draw,
        hash::{self, KeyHash},
        maglev::Maglev,
        pool::{Candidates, Mode, Rules},
        round_robin::Round,
        tiers::TierShare,
    },
    registry::{EndpointState, MemberState, ServiceId},
};

mod build;
mod walk;

pub use build::{Input, MemberInput};

/// One service as it is served now.
#[derive(Debug)]
pub struct ServiceView {
    /// Its number.
    pub id: ServiceId,
    /// Its row in the snapshot: the policy with every timeout and limit.
    pub service: Arc<Service>,
    /// Every member in order of tiers.
    pub members: Box<[MemberView]>,
    /// What was decided for each tier, and why.
    pub tiers: Box<[TierShare]>,
    rules: Rules,
    /// Running sums of the shares of `slots`, of 2^32; the last one is left out, it is 2^32.
    thresholds: Box<[u32]>,
    /// The members that take new sessions.
    slots: Box<[u16]>,
    /// Tiers that may be used: one where there is no fallback.
    tiers_used: u8,
    /// Ejected endpoints that one connection may try: positions of the member and in it.
    trials: Box<[(u16, u32)]>,
}

/// One member of it.
#[derive(Debug)]
pub struct MemberView {
    /// What is known about it.
    pub state: Arc<MemberState>,
    /// Its tier, from 0.
    pub tier: u8,
    /// Its weight against the others of the tier, scaled by its health; 0 takes no session.
    pub weight: u32,
    /// Its configured endpoints in the order of their addresses.
    pub endpoints: Arc<[Entry]>,
    /// Those that a random draw goes over.
    pub(crate) candidates: Candidates,
    mode: Mode,
    picker: Picker,
}

/// One endpoint of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is known about it.
    pub state: Arc<EndpointState>,
    /// From 1.
    pub weight: u16,
}

/// What a balancer prepares.
#[derive(Debug, Clone)]
enum Picker {
    None,
    Round(Arc<Round>),
    Maglev(Arc<Maglev>),
}

impl ServiceView {
    /// Picks an endpoint that isn't in `tried`.
    ///
    /// About 50 ns without retries; never allocates. The first pick follows the shares; later ones
    /// follow `tried.next`.
    pub fn pick(
        &self,
        key: &FlowKey,
        draw: &mut Draw,
        now: Tick,
        tried: &Tried,
    ) -> Result<Pick, NoEndpoint> {
        let hash = self.hash(key);
        let sticky = hash.filter(|_| self.service.policy.affinity != Affinity::None);
        let walk = walk::Walk {
            view: self,
            tried,
            hash,
            sticky,
            now,
        };
        if tried.is_empty() {
            walk.first(draw)
        } else {
            walk.next(draw)
        }
        .ok_or_else(|| self.why_none(tried))
    }

    /// The shares of new sessions, of 2^32, by position in [`Self::members`].
    pub fn shares(&self) -> Vec<u64> {
        let mut shares = vec![0; self.members.len()];
        let mut before = 0;
        let ends = self.thresholds.iter().map(|&end| u64::from(end));
        let last = std::iter::once(1 << 32);
        for (&slot, end) in self.slots.iter().zip(ends.chain(last)) {
            shares[usize::from(slot)] = end - before;
            before = end;
        }
        shares
    }

    /// Every endpoint with its member.
    pub fn endpoints(&self) -> impl Iterator<Item = (&MemberView, &Entry)> {
        self.members
            .iter()
            .flat_map(|member| member.endpoints.iter().map(move |entry| (member, entry)))
    }

    fn hash(&self, key: &FlowKey) -> Option<KeyHash> {
        let policy = &self.service.policy;
        match (policy.affinity, policy.balancer) {
            (Affinity::ClientIp, _) => Some(hash::client(policy.affinity_seed, key)),
            (Affinity::FiveTuple, _)
            | (Affinity::None, Balancer::Maglev | Balancer::Rendezvous) => {
                Some(hash::five_tuple(policy.affinity_seed, key))
            }
            (Affinity::None, _) => None,
        }
    }

    /// The member at a point of the flattened shares.
    fn slot_at(&self, point: u32) -> Option<usize> {
        let place = self.thresholds.partition_point(|&end| end <= point);
        self.slots.get(place).map(|&slot| usize::from(slot))
    }

    #[cold]
    fn why_none(&self, tried: &Tried) -> NoEndpoint {
        if self
            .members
            .iter()
            .all(|member| member.endpoints.is_empty())
        {
            return NoEndpoint::Empty;
        }
        let mut weighted = self
            .members
            .iter()
            .zip(self.configured_weights())
            .filter(|&(_, weight)| weight > 0)
            .map(|(member, _)| member)
            .peekable();
        if weighted.peek().is_none() {
            return NoEndpoint::Drained;
        }
        let full = weighted
            .flat_map(|member| member.endpoints.iter())
            .any(|entry| {
                let limit = self.rules.connections_max;
                entry.state.is_usable() && limit.is_some_and(|max| entry.state.inflight() >= max)
            });
        match (full, tried.is_empty()) {
            (true, _) => NoEndpoint::Full,
            (false, true) => NoEndpoint::Unusable,
            (false, false) => NoEndpoint::Exhausted,
        }
    }

    fn configured_weights(&self) -> impl Iterator<Item = u32> {
        self.service
            .tiers
            .iter()
            .flat_map(|tier| &tier.members)
            .map(|member| member.weight.thousandths())
    }
}

impl MemberView {
    /// Its Maglev table; the service's balancer must be `maglev`.
    pub(crate) fn maglev(&self) -> Option<&Maglev> {
        match &self.picker {
            Picker::Maglev(table) => Some(table),
            _ => None,
        }
    }

    /// The layout of its turns; the service's balancer must be `round-robin`.
    pub(crate) fn round(&self) -> Option<&Round> {
        match &self.picker {
            Picker::Round(round) => Some(round),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
