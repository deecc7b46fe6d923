//! From shares to one endpoint: which member, and which one next when a candidate failed.
//!
//! The first pick goes where the shares (or the client's hash) say. Every later one walks: the tier
//! of the first candidate, the later tiers, then the earlier ones. Each member is asked once, so a
//! walk is finite, and each endpoint tried is passed over, so its picks are distinct.

use fairlead_runtime::clock::Tick;
use smallvec::SmallVec;

use super::ServiceView;
use crate::{
    balancer::{
        Next, Pick, TIER_ATTEMPTS_MAX, Tried, affinity, choose,
        draw::{Draw, scale},
        hash::{Identity, KeyHash},
        pool::{Mode, Pool},
    },
    registry::Flags,
};

/// One pick under way.
pub(super) struct Walk<'v> {
    pub(super) view: &'v ServiceView,
    pub(super) tried: &'v Tried,
    /// For balancers that hash.
    pub(super) hash: Option<KeyHash>,
    /// The same, where it also decides tier and member.
    pub(super) sticky: Option<KeyHash>,
    pub(super) now: Tick,
}

impl Walk<'_> {
    /// The pick of a session that tried nothing yet.
    pub(super) fn first(&self, draw: &mut Draw) -> Option<Pick> {
        if !self.view.trials.is_empty()
            && let Some(pick) = self.trial()
        {
            return Some(pick);
        }
        let position = match self.sticky {
            None => self.view.slot_at(draw.next_point(self.view.id)),
            Some(key) => self.sticky_slot(key),
        }?;
        if draw.is_tenth(self.view.id) {
            self.view.members[position].state.service.hedges.add_ten();
        }
        // None there means that flags are ahead of the view.
        self.inside(position, draw)
            .or_else(|| self.through_tiers(self.view.members[position].tier, draw))
    }

    /// The next candidate, as `tried.next` asks for it.
    pub(super) fn next(&self, draw: &mut Draw) -> Option<Pick> {
        match self.tried.next {
            Next::Retry => self.retry(draw),
            Next::SameMember => self.in_last_member(draw).or_else(|| self.retry(draw)),
            Next::OtherMember => self.through_tiers(self.tried.first_tier(), draw),
        }
    }

    /// An ejected endpoint whose trial is open. Where clients are sticky, only one in a member that
    /// has nothing else: elsewhere its own clients come by.
    #[cold]
    fn trial(&self) -> Option<Pick> {
        let max = self.view.rules.connections_max;
        self.view.trials.iter().find_map(|&(position, index)| {
            let member = &self.view.members[usize::from(position)];
            let endpoint = &member.endpoints[index as usize].state;
            let is_wanted = self.sticky.is_none() || member.weight == 0;
            let is_full = max.is_some_and(|max| endpoint.inflight() >= max);
            let taken =
                is_wanted && !is_full && endpoint.flags().is_on_trial() && endpoint.take_trial();
            taken.then(|| Pick {
                endpoint: endpoint.clone(),
                tier: member.tier,
                member: member.state.identity,
            })
        })
    }

    fn retry(&self, draw: &mut Draw) -> Option<Pick> {
        let order = self.tier_order(self.tried.first_tier());
        let is_fresh = |&tier: &u8| self.tried.in_tier(tier) < TIER_ATTEMPTS_MAX;
        order
            .clone()
            .filter(is_fresh)
            .find_map(|tier| self.in_tier(tier, draw))
            // No later tier is usable: the last one that is takes the rest.
            .or_else(|| order.rev().find_map(|tier| self.in_tier(tier, draw)))
    }

    fn through_tiers(&self, first: u8, draw: &mut Draw) -> Option<Pick> {
        self.tier_order(first)
            .find_map(|tier| self.in_tier(tier, draw))
    }

    /// `first`, the later ones, then the earlier ones.
    fn tier_order(&self, first: u8) -> impl DoubleEndedIterator<Item = u8> + Clone + use<> {
        let used = self.view.tiers_used;
        let first = first.min(used);
        (first..used).chain(0..first)
    }

    fn in_last_member(&self, draw: &mut Draw) -> Option<Pick> {
        let last = self.tried.last_member()?;
        let position = self.position(last)?;
        (self.view.members[position].weight > 0)
            .then(|| self.inside(position, draw))
            .flatten()
    }

    fn position(&self, member: Identity) -> Option<usize> {
        self.view
            .members
            .iter()
            .position(|view| view.state.identity == member)
    }

    /// An endpoint of any member of the tier: members by weight (or hash), each asked once.
    fn in_tier(&self, tier: u8, draw: &mut Draw) -> Option<Pick> {
        let mut left: SmallVec<[u16; 16]> = (0..)
            .zip(&self.view.members)
            .filter(|(_, member)| member.tier == tier && member.weight > 0)
            .filter(|(_, member)| !self.is_barred(member.state.identity))
            .map(|(position, _)| position)
            .collect();
        while !left.is_empty() {
            let place = self.member_of(&left, draw);
            let position = usize::from(left.swap_remove(place));
            if let Some(pick) = self.inside(position, draw) {
                return Some(pick);
            }
            // Many members without a usable endpoint: in order from here, so that a walk stays O(n).
            if left.len() > RANDOM_MEMBERS_MAX {
                return left
                    .iter()
                    .find_map(|&position| self.inside(position.into(), draw));
            }
        }
        None
    }

    fn is_barred(&self, member: Identity) -> bool {
        self.tried.next == Next::OtherMember && self.tried.has_member(member)
    }

    /// A place in `left`, which is not empty.
    fn member_of(&self, left: &[u16], draw: &mut Draw) -> usize {
        let members = || {
            left.iter()
                .map(|&position| &self.view.members[usize::from(position)])
        };
        if let Some(key) = self.sticky {
            let weighed = members().map(|member| (member.state.identity, member.weight));
            return affinity::member(key, weighed).unwrap_or(0);
        }
        let total: u64 = members().map(|member| u64::from(member.weight)).sum();
        let mut point = u64::from(scale(
            draw.next_random(),
            total.min(u64::from(u32::MAX)) as u32,
        ));
        for (place, member) in members().enumerate() {
            let weight = u64::from(member.weight);
            if point < weight {
                return place;
            }
            point -= weight;
        }
        left.len() - 1
    }

    fn sticky_slot(&self, key: KeyHash) -> Option<usize> {
        let tier = affinity::tier(key, self.view.tiers.iter().map(|tier| tier.share))?;
        let weighed = self.view.members.iter().map(|member| {
            let weight = if usize::from(member.tier) == tier {
                member.weight
            } else {
                0
            };
            (member.state.identity, weight)
        });
        affinity::member(key, weighed)
    }

    fn inside(&self, position: usize, draw: &mut Draw) -> Option<Pick> {
        let member = &self.view.members[position];
        let pool = Pool::new(member, &self.view.rules, self.tried, member.mode, self.now);
        for _ in 0..TRIALS_LOST_MAX {
            let endpoint = &member.endpoints[choose(&pool, self.hash, draw)?].state;
            let on_trial = member.mode == Mode::Usable && endpoint.flags().has(Flags::EJECTED);
            // Another thread may have taken the trial since the pool looked.
            if !on_trial || endpoint.take_trial() {
                return Some(Pick {
                    endpoint: endpoint.clone(),
                    tier: member.tier,
                    member: member.state.identity,
                });
            }
        }
        None
    }
}

/// Members drawn one by one before the rest is gone through in order.
const RANDOM_MEMBERS_MAX: usize = 32;
/// Lost races for a trial after which the member counts as having nothing.
const TRIALS_LOST_MAX: usize = 8;
