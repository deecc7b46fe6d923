//! From what is configured and known to a view.

use std::{sync::Arc, time::Duration};

use fairlead_config::{policy::Balancer, service::Service};
use fairlead_runtime::clock::Tick;

use super::{Entry, MemberView, Picker, ServiceView};
use crate::{
    balancer::{
        hash::Identity,
        maglev::Maglev,
        pool::{Candidates, Mode, Rules},
        round_robin::Round,
        tiers::{Counts, Distribution, Holds, ONE, TierShare, distribute},
    },
    registry::{Flags, MemberState, RAMP_FULL, ServiceId},
};

/// What a view is made of.
#[derive(Debug)]
pub struct Input<'a> {
    /// The service's number.
    pub id: ServiceId,
    /// Its row in the snapshot.
    pub service: Arc<Service>,
    /// Its members in the order of the row: tier by tier.
    pub members: Vec<MemberInput>,
    /// The view that this one replaces, for the tables that it can go on using.
    pub previous: Option<&'a ServiceView>,
}

/// A member, its endpoints, and what is held against it.
#[derive(Debug, Clone)]
pub struct MemberInput {
    /// What is known about it.
    pub state: Arc<MemberState>,
    /// Its configured endpoints in the order of their addresses.
    pub endpoints: Arc<[Entry]>,
    /// Most of its recent connects failed.
    pub suspect: bool,
}

impl ServiceView {
    /// Builds the view of this moment and moves the holds on; also says when the shares change
    /// without anybody's doing: a tier returns, or a slow start goes on.
    pub fn build(input: Input<'_>, holds: &mut Holds, now: Tick) -> (Self, Option<Tick>) {
        let policy = &input.service.policy;
        let counts = count(&input, now);
        let ramping = counts
            .iter()
            .flatten()
            .any(|member| member.ramp < RAMP_FULL);
        let Distribution { tiers, again } = distribute(&counts, policy, holds, now);
        let ramp_step =
            ramping.then(|| now.after((policy.slow_start / RAMP_STEPS).max(RAMP_STEP_MIN)));
        let again = again.into_iter().chain(ramp_step).min();

        let members = members(&input, &tiers);
        let (thresholds, slots) = flatten(&tiers, &members);
        let used = if policy.no_fallback {
            tiers.len().min(1)
        } else {
            tiers.len()
        };
        let view = Self {
            id: input.id,
            rules: Rules {
                balancer: policy.balancer,
                slow_start: policy.slow_start,
                connections_max: policy.limits.connections_per_endpoint,
            },
            thresholds,
            slots,
            tiers_used: used as u8,
            trials: trials(&input.service, &input.members, &members, &tiers),
            members,
            tiers: tiers.into(),
            service: input.service,
        };
        (view, again)
    }
}

/// What each member brings, tier by tier.
fn count(input: &Input<'_>, now: Tick) -> Vec<Vec<Counts>> {
    let mut members = input.members.iter();
    let slow_start = input.service.policy.slow_start;
    input
        .service
        .tiers
        .iter()
        .map(|tier| {
            let rows = tier.members.iter().zip(members.by_ref());
            rows.map(|(row, member)| {
                count_member(row.weight.thousandths(), member, slow_start, now)
            })
            .collect()
        })
        .collect()
}

fn count_member(weight: u32, member: &MemberInput, slow_start: Duration, now: Tick) -> Counts {
    let mut counts = Counts {
        weight,
        suspect: member.suspect,
        ..Counts::default()
    };
    let (mut full, mut ramped) = (0u64, 0u64);
    for entry in &*member.endpoints {
        let flags = entry.state.flags();
        if flags.has(Flags::REMOVED) {
            continue;
        }
        if flags.has(Flags::DRAINING) {
            counts.draining += u32::from(flags.is_draining());
            continue;
        }
        counts.all += 1;
        counts.doubtful += u32::from(flags.is_doubtful());
        counts.hopeful += u32::from(flags.is_hopeful());
        if flags.is_usable() {
            counts.healthy += 1;
            let weight = u64::from(entry.weight);
            full += weight * u64::from(RAMP_FULL);
            ramped += weight * u64::from(entry.state.ramp(slow_start, now));
        }
    }
    counts.ramp = (ramped * u64::from(RAMP_FULL))
        .checked_div(full)
        .map_or(RAMP_FULL, |ramp| ramp as u32);
    counts
}

fn members(input: &Input<'_>, tiers: &[TierShare]) -> Box<[MemberView]> {
    let mut views = Vec::with_capacity(input.members.len());
    for (tier, share) in tiers.iter().enumerate() {
        for &weight in &share.members {
            let member = &input.members[views.len()];
            let mode = share.mode;
            let candidates = Candidates::new(member.endpoints.iter().map(|entry| {
                if mode.admits(entry.state.flags()) {
                    entry.weight
                } else {
                    0
                }
            }));
            let previous = input.previous.and_then(|view| {
                let same = |old: &&MemberView| Arc::ptr_eq(&old.state, &member.state);
                view.members.iter().find(same)
            });
            views.push(MemberView {
                state: member.state.clone(),
                tier: tier as u8,
                weight,
                endpoints: member.endpoints.clone(),
                candidates,
                mode,
                picker: picker(input.service.policy.balancer, &member.endpoints, previous),
            });
        }
    }
    views.into()
}

/// What the balancer prepares; the previous view's while the configured set is the same.
fn picker(balancer: Balancer, endpoints: &Arc<[Entry]>, previous: Option<&MemberView>) -> Picker {
    let same = previous.filter(|old| Arc::ptr_eq(&old.endpoints, endpoints));
    match (balancer, same.map(|old| &old.picker)) {
        (Balancer::RoundRobin, Some(kept @ Picker::Round(_))) => kept.clone(),
        (Balancer::Maglev, Some(kept @ Picker::Maglev(_))) => kept.clone(),
        (Balancer::RoundRobin, _) => Picker::Round(Arc::new(Round::new(
            endpoints.iter().map(|entry| entry.weight),
        ))),
        (Balancer::Maglev, _) => {
            let set: Box<[(Identity, u16)]> = endpoints
                .iter()
                .map(|entry| (entry.state.identity, entry.weight))
                .collect();
            match previous.map(|old| &old.picker) {
                Some(Picker::Maglev(table)) if table.is_of(&set) => Picker::Maglev(table.clone()),
                _ => Picker::Maglev(Arc::new(Maglev::new(set))),
            }
        }
        _ => Picker::None,
    }
}

/// The ejected endpoints that are to be tried, wherever sessions may go: up to the last tier in use. Not
/// left to the shares, because a member of which everything is ejected has none.
fn trials(
    service: &Service,
    inputs: &[MemberInput],
    members: &[MemberView],
    tiers: &[TierShare],
) -> Box<[(u16, u32)]> {
    let used = tiers
        .iter()
        .rposition(|tier| tier.share > 0)
        .map_or(0, |last| last + 1);
    let weights = service.tiers.iter().flat_map(|tier| &tier.members);
    let candidates = (0u16..).zip(members.iter().zip(inputs).zip(weights));
    candidates
        .filter(|(_, ((member, input), configured))| {
            let may_be_used = usize::from(member.tier) < used && !configured.weight.is_drain();
            may_be_used && !input.suspect && member.mode == Mode::Usable
        })
        .flat_map(|(position, ((member, _), _))| {
            let on_trial = (0u32..)
                .zip(&*member.endpoints)
                .filter(|(_, entry)| entry.state.flags().is_on_trial());
            on_trial.map(move |(index, _)| (position, index))
        })
        .collect()
}

/// The shares of tiers and members as one row of thresholds.
fn flatten(tiers: &[TierShare], members: &[MemberView]) -> (Box<[u32]>, Box<[u16]>) {
    let mut thresholds = Vec::new();
    let mut slots = Vec::new();
    let mut tier_start = 0;
    let mut end_before = 0;
    let mut position = 0u16;
    for tier in tiers {
        let total: u64 = tier.members.iter().map(|&weight| u64::from(weight)).sum();
        let mut running = 0;
        for &weight in &tier.members {
            running += u64::from(weight);
            let within = (u128::from(tier.share) * u128::from(running)).checked_div(total.into());
            let end = tier_start + within.unwrap_or(0) as u64;
            if weight > 0 && end > end_before {
                thresholds.push(end);
                slots.push(position);
                end_before = end;
            }
            position += 1;
        }
        tier_start += tier.share;
    }
    debug_assert_eq!(
        position as usize,
        members.len(),
        "a slot names its member by position"
    );
    debug_assert!(
        thresholds.last().is_none_or(|&end| end == ONE),
        "shares sum to one or are none"
    );
    // The last threshold is 2^32, which every point is below.
    thresholds.pop();
    (
        thresholds.iter().map(|&end| end as u32).collect(),
        slots.into(),
    )
}

/// A member's share grows in this many steps during slow start.
const RAMP_STEPS: u32 = 10;
/// No view is rebuilt more often for a slow start.
const RAMP_STEP_MIN: Duration = Duration::from_millis(100);
