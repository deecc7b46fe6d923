//! Why sessions of a service go where they go, for people.

use std::{sync::Arc, time::Duration};

use fairlead_config::name::ServiceName;
use fairlead_runtime::clock::Tick;

use super::{Directory, Served};
use crate::{
    balancer::{
        pool::Mode,
        tiers::{ONE, TierShare},
    },
    health::verdict::{Cause, Probed, Reason, Verdict},
    registry::{EndpointState, RAMP_FULL, Row, ServiceState},
    view::{Entry, MemberView},
};

/// A service as it is served now.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Its name.
    pub service: ServiceName,
    /// In order of preference.
    pub tiers: Vec<TierReport>,
    /// Ejections prevented by the cap, or because nothing else was usable.
    pub ejections_prevented: u32,
}

/// A tier.
#[derive(Debug, Clone, PartialEq)]
pub struct TierReport {
    /// Its part of new sessions, of one.
    pub share: f64,
    /// Healthy endpoints that count.
    pub healthy: u32,
    /// All endpoints that count.
    pub all: u32,
    /// How much longer it is held back before it takes sessions back.
    pub held: Option<Duration>,
    /// It has fewer healthy endpoints than `minHealthy`.
    pub below_min: bool,
    /// Which endpoints it uses: `usable`; `all-but-dead` (panic: what is healthy and what only soft
    /// evidence stands against); `all` (nothing is healthy anywhere); or `draining`.
    pub uses: &'static str,
    /// In the order of the configuration.
    pub members: Vec<MemberReport>,
}

/// A member.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberReport {
    /// Its name.
    pub name: String,
    /// Its part of all new sessions, of one.
    pub share: f64,
    /// Its configured weight in points.
    pub weight: f64,
    /// The same, scaled by its own health and slow start.
    pub effective_weight: f64,
    /// How much longer it is suspect.
    pub suspect: Option<Duration>,
    /// The time that 95 of 100 connects stay within; none before 20 samples.
    pub connect_p95: Option<Duration>,
    /// In the order of their addresses.
    pub endpoints: Vec<EndpointReport>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointReport {
    /// Where it is.
    pub addr: std::net::SocketAddr,
    /// Against the others of its member.
    pub weight: u16,
    /// Whether it takes sessions.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// How long ago that verdict began; none when it was never another.
    pub since: Option<Duration>,
    /// Live sessions and flows.
    pub inflight: u32,
    /// How much of its weight counts during slow start, of one.
    pub ramp: f64,
}

impl Directory {
    /// Explains a service; none when it isn't known.
    pub fn explain(&self, name: &ServiceName, now: Tick) -> Option<Explanation> {
        let state = self.service(name)?;
        let served = self.served.get(&state.id)?;
        let view = state.view().clone()?;
        let shares = view.shares();
        let mut weights = served
            .service
            .tiers
            .iter()
            .flat_map(|tier| &tier.members)
            .map(|member| f64::from(member.weight.thousandths()) / 1000.0);
        let mut tiers: Vec<TierReport> = view
            .tiers
            .iter()
            .map(|tier| tier_report(tier, now))
            .collect();
        for (member, share) in view.members.iter().zip(shares) {
            let report = MemberReport {
                name: member.state.name.to_string(),
                share: part(share),
                weight: weights.next().unwrap_or_default(),
                effective_weight: f64::from(member.weight) / 1000.0,
                suspect: served
                    .suspicions
                    .get(&member.state.identity)
                    .and_then(|suspicion| Some(suspicion.until()?.since(now))),
                connect_p95: member.state.times().and_then(|times| times.p95()),
                endpoints: self.endpoint_reports(served, member, now),
            };
            tiers[usize::from(member.tier)].members.push(report);
        }
        Some(Explanation {
            service: name.clone(),
            tiers,
            ejections_prevented: served.ejections.prevented(),
        })
    }

    /// Every service with its members and endpoints, as they are numbered.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.registry.services()
    }

    /// The removed endpoints of a service that still have sessions, or have just lost the last.
    pub fn leaving(
        &self,
        service: &Arc<ServiceState>,
    ) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.registry.leaving_of(service)
    }

    /// The grounds of the verdict on an endpoint of a service.
    pub fn grounds(&self, service: &ServiceState, entry: &Entry) -> Reason {
        let served = self.served.get(&service.id);
        served.map_or(Reason::Removed, |served| self.reason(served, entry))
    }

    fn endpoint_reports(
        &self,
        served: &Served,
        member: &MemberView,
        now: Tick,
    ) -> Vec<EndpointReport> {
        let slow_start = served.service.policy.slow_start;
        let report = |entry: &Entry| EndpointReport {
            addr: entry.state.addr,
            weight: entry.weight,
            verdict: Verdict::of(entry.state.flags()),
            reason: self.reason(served, entry),
            since: served
                .since
                .get(&entry.state.id)
                .map(|&(_, since)| now.since(since)),
            inflight: entry.state.inflight(),
            ramp: f64::from(entry.state.ramp(slow_start, now)) / f64::from(RAMP_FULL),
        };
        member.endpoints.iter().map(report).collect()
    }

    fn reason(&self, served: &Served, entry: &Entry) -> Reason {
        let id = entry.state.id;
        match Verdict::of(entry.state.flags()) {
            Verdict::Usable if self.probes.probed(id) == Probed::Unverified => Reason::Unverified,
            Verdict::Usable => Reason::Fine,
            Verdict::Draining => Reason::Leaving,
            Verdict::Down(Cause::Removed) => Reason::Removed,
            Verdict::Down(Cause::NotReady) => Reason::NotReady,
            Verdict::Down(Cause::LinkLost) => Reason::LinkLost,
            Verdict::Down(Cause::Probes) => self
                .probes
                .error(id)
                .map_or(Reason::MemberDead, Reason::Probe),
            Verdict::Down(Cause::Ejected) => match served.ejections.reason(id) {
                Some((outcome, times, _)) => Reason::Ejected { outcome, times },
                None => Reason::Fine,
            },
        }
    }
}

fn tier_report(tier: &TierShare, now: Tick) -> TierReport {
    TierReport {
        share: part(tier.share),
        healthy: tier.healthy,
        all: tier.all,
        held: tier.held_until.map(|until| until.since(now)),
        below_min: tier.below_min,
        uses: match tier.mode {
            Mode::Usable => "usable",
            Mode::Doubtful => "all-but-dead",
            Mode::Hopeful => "all",
            Mode::Draining => "draining",
        },
        members: Vec::new(),
    }
}

fn part(share: u64) -> f64 {
    share as f64 / ONE as f64
}
