//! What the control thread knows of services: their rows, the health of their endpoints, their views.
//!
//! Everything that can change where sessions go comes in here, and the views that differ are swapped
//! before the call returns. What follows for live sessions (an endpoint that leaves or turns
//! unhealthy) is collected as [`Change`]s. Pure but for the swap; `now` is an argument.
//!
//! | call | when |
//! |---|---|
//! | [`Directory::apply`] | a snapshot touched services, or a DNS name has other addresses |
//! | [`Directory::observe`] | data threads reported, or probes were answered: as many at once as there are |
//! | [`Directory::advance`] | at [`Directory::next_deadline`] |
//! | [`Directory::take_probes`] | after each of them: the probes to send now |
//! | [`Directory::take_changes`] | after each of them: what to log, and what live sessions must know |
//!
//! Cost: O(n log n) of the one service for its configuration, O(n) for its health.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use fairlead_config::{
    name::{MemberName, ServiceName},
    service::Service,
    snapshot::Snapshot,
};
use fairlead_runtime::clock::Tick;

use crate::{
    balancer::{hash::Identity, tiers::Holds},
    health::{
        Report,
        member::Suspicion,
        passive::{Ejections, Passed},
        probe::{Answer, Job, Judged, Reach, Schedule},
        verdict::{Link, Probed, Verdict},
    },
    registry::{EndpointId, EndpointState, Flags, Outcome, Registry, Row, ServiceId, ServiceState},
    view::{Input, MemberInput, ServiceView},
};

mod explain;
pub mod learned;
mod rows;

pub use explain::{EndpointReport, Explanation, MemberReport, TierReport};

/// The services of a proxy.
#[derive(Debug)]
pub struct Directory {
    registry: Registry,
    served: BTreeMap<ServiceId, Served>,
    /// When each service has something to do by time alone.
    deadlines: BTreeSet<(Tick, ServiceId)>,
    probes: Schedule,
    lost: BTreeSet<MemberName>,
    dirty: BTreeSet<ServiceId>,
    changes: Vec<Change>,
    /// When removed endpoints are looked at again, and how many there may be before that.
    sweep_at: Option<Tick>,
    leaving_max: usize,
}

/// A service that is served.
#[derive(Debug)]
struct Served {
    service: Arc<Service>,
    /// When it got its first endpoints.
    begun: Tick,
    holds: Holds,
    ejections: Ejections,
    suspicions: BTreeMap<Identity, Suspicion>,
    /// When its view changes by time alone.
    again: Option<Tick>,
    /// Its entry in `deadlines`.
    deadline: Option<Tick>,
    /// Endpoints in slow start, and since when.
    ramping: BTreeMap<EndpointId, (Arc<EndpointState>, Tick)>,
    /// How endpoints stand that aren't usable, and since when.
    since: BTreeMap<EndpointId, (ChangeKind, Tick)>,
}

/// Addresses of a DNS name, as they are known now; empty before the first answer.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Vec<IpAddr>;

/// What the control thread is told about health.
#[derive(Debug, Clone)]
pub enum Signal {
    /// From a data thread.
    Report(Report),
    /// From the prober.
    Answer(Answer),
    /// From the hub.
    Link(MemberName, Link),
}

/// What happened to an endpoint that may have live sessions.
#[derive(Debug, Clone)]
pub struct Change {
    /// The endpoint; its flags are already those that follow.
    pub endpoint: Arc<EndpointState>,
    /// The service's row at that time, with the deadlines that hold.
    pub service: Arc<Service>,
    /// What happened.
    pub kind: ChangeKind,
    /// When.
    pub at: Tick,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Gone from the snapshot: `drain.removed` runs.
    Removed,
    /// Its objects say it leaves, or its member has weight 0 now: `drain.draining` runs.
    Draining,
    /// Takes sessions (again): deadlines that run are off.
    Usable,
    /// Takes none: `drain.unhealthy` says what becomes of live ones.
    Unhealthy(Verdict),
}

// === impl Directory ===

impl Directory {
    /// A directory without services; the seed spreads the probes of this process.
    pub fn new(seed: u64) -> Self {
        Self {
            registry: Registry::default(),
            served: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            probes: Schedule::new(seed),
            lost: BTreeSet::new(),
            dirty: BTreeSet::new(),
            changes: Vec::new(),
            sweep_at: None,
            leaving_max: rows::LEAVING_SLACK,
        }
    }

    /// Takes over the rows of `touched` services from a snapshot and swaps their views: first with
    /// what is new or better, then without what is gone or worse, so that a service whose endpoints
    /// are all replaced at once has one at any moment.
    pub fn apply(
        &mut self,
        snapshot: &Snapshot,
        touched: &[ServiceName],
        resolve: Resolve<'_>,
        now: Tick,
    ) {
        let mut withdrawals = Vec::new();
        for name in touched {
            match snapshot.services.get(name) {
                Some(service) => {
                    let endpoints = snapshot.endpoints.get(name).map(|row| &**row);
                    let wanted = rows::wanted(service, endpoints, resolve);
                    let (id, withdrawn) = self.put(service, wanted, now);
                    if !withdrawn.is_empty() {
                        withdrawals.push((id, withdrawn));
                    }
                }
                None => self.remove(name, now),
            }
        }
        self.flush(now);
        for (id, withdrawn) in withdrawals {
            self.withdraw(id, &withdrawn, now);
        }
        self.flush(now);
        if self.registry.leaving() > self.leaving_max {
            self.sweep();
        }
    }

    /// Takes in what was seen, then swaps the views of the services that it changed, each once.
    pub fn observe(&mut self, signals: impl IntoIterator<Item = Signal>, now: Tick) {
        for signal in signals {
            match signal {
                Signal::Report(report) => self.report(&report, now),
                Signal::Answer(answer) => self.answer(&answer, now),
                Signal::Link(member, link) => self.link(member, link, now),
            }
        }
        self.flush(now);
    }

    /// Does what is due by time alone.
    pub fn advance(&mut self, now: Tick) {
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.advance_service(id, now);
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep();
            self.sweep_at = (self.registry.leaving() > 0).then(|| now.after(rows::SWEEP_EVERY));
        }
        self.flush(now);
    }

    /// Forgets removed endpoints that nothing holds. However fast they come and go, at most twice
    /// those that something holds are known, and some: so each is looked at a constant number of times.
    fn sweep(&mut self) {
        self.registry.sweep();
        self.leaving_max = 2 * self.registry.leaving() + rows::LEAVING_SLACK;
    }

    /// When [`Self::advance`] or [`Self::take_probes`] has something to do.
    pub fn next_deadline(&self, now: Tick) -> Option<Tick> {
        let service = self.deadlines.first().map(|&(at, _)| at);
        let probe = self.probes.next_due(now);
        service.into_iter().chain(probe).chain(self.sweep_at).min()
    }

    /// The probes to send now; each has to come back as a [`Signal::Answer`].
    pub fn take_probes(&mut self, now: Tick) -> Vec<Job> {
        self.probes.take_due(now)
    }

    /// What happened to endpoints since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Endpoints with a health check that no probe has answered for yet.
    pub fn unverified(&self) -> u32 {
        self.probes.unverified()
    }

    /// How far the probe budget reaches.
    pub fn probe_reach(&self) -> Reach {
        self.probes.reach()
    }

    /// A service's shared state: hold it, and ask it for its view at each pick.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceState>> {
        self.registry.service(name).map(|row| &row.state)
    }

    /// Every service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.registry.services().map(|row| &row.state)
    }

    /// The table of numbers.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    fn report(&mut self, report: &Report, now: Tick) {
        let endpoint = &report.endpoint;
        let id = endpoint.member.service.id;
        let Some(served) = self.served.get_mut(&id) else {
            return;
        };
        if endpoint.flags().has(Flags::REMOVED) {
            return;
        }
        let passed = match report.outcome {
            Outcome::Connected(_) | Outcome::Served => {
                let connect_only = report.outcome != Outcome::Served;
                served.ejections.good(endpoint, connect_only, now)
            }
            Outcome::Ours => None,
            strike => {
                let row = self.registry.service(&served.service.name);
                let row = row.expect("a served service has a row");
                let census = || rows::census(row, &served.service);
                served
                    .ejections
                    .strike(endpoint, (strike, report.strikes), census, now)
            }
        };
        let suspect = report.strikes > 0 && {
            let member = &endpoint.member;
            let suspicion = served.suspicions.entry(member.identity).or_default();
            suspicion.observe(member.window.counts(now), now)
        };
        let touched = passed.is_some() || suspect;
        if let Some(Passed::Returned(endpoint)) = passed {
            self.ramp(id, &endpoint, now);
        }
        if touched {
            self.dirty.insert(id);
        }
    }

    fn answer(&mut self, answer: &Answer, now: Tick) {
        let endpoint = &answer.job.endpoint;
        let id = endpoint.member.service.id;
        let judged = self.probes.answered(answer, now);
        if answer.result.is_ok()
            && let Some(served) = self.served.get_mut(&id)
            && served.ejections.good(endpoint, false, now).is_some()
        {
            self.ramp(id, endpoint, now);
            self.dirty.insert(id);
        }
        match judged {
            Judged::Same => {}
            Judged::Endpoint(_) => self.set_probed(endpoint, now),
            Judged::Member(member) => {
                for endpoint in self.probes.of_member(member) {
                    self.set_probed(&endpoint, now);
                }
            }
        }
    }

    /// Brings an endpoint's flag in line with its probes.
    fn set_probed(&mut self, endpoint: &Arc<EndpointState>, now: Tick) {
        let both = Flags::PROBE_DOWN.with(Flags::DEAD_HERE);
        let wanted = match self.probes.probed(endpoint.id) {
            Probed::Bad if self.probes.is_gone(endpoint.id) => both,
            Probed::Bad => Flags::PROBE_DOWN,
            Probed::Unchecked | Probed::Unverified | Probed::Good => Flags::NONE,
        };
        if endpoint.flags().0 & both.0 == wanted.0 {
            return;
        }
        endpoint.change_flags(wanted, Flags(both.0 & !wanted.0));
        let id = endpoint.member.service.id;
        if wanted == Flags::NONE {
            self.ramp(id, endpoint, now);
        }
        self.dirty.insert(id);
    }

    fn link(&mut self, member: MemberName, link: Link, now: Tick) {
        let changed = match link {
            Link::Lost => self.lost.insert(member.clone()),
            Link::Present => self.lost.remove(&member),
        };
        if !changed {
            return;
        }
        let of_member = |row: &Row| {
            let found = row.members.iter().find(|known| known.state.name == member);
            found.map(|member| (row.state.id, member.endpoints.clone()))
        };
        let touched: Vec<_> = self.registry.services().filter_map(of_member).collect();
        for (id, endpoints) in touched {
            for entry in &*endpoints {
                self.set_link(&entry.state);
                if link == Link::Present {
                    self.ramp(id, &entry.state, now);
                }
            }
            self.dirty.insert(id);
        }
    }

    /// A lost link counts only where nothing probes.
    fn set_link(&self, endpoint: &EndpointState) {
        let down = self.lost.contains(&endpoint.member.name)
            && self.probes.probed(endpoint.id) == Probed::Unchecked;
        if down {
            endpoint.change_flags(Flags::LINK_LOST, Flags::NONE);
        } else {
            endpoint.change_flags(Flags::NONE, Flags::LINK_LOST);
        }
    }

    fn advance_service(&mut self, id: ServiceId, now: Tick) {
        let Some(served) = self.served.get_mut(&id) else {
            return;
        };
        served.deadline = None;
        let passed = served.ejections.advance(now);
        let mut changed = !passed.is_empty();
        for suspicion in served.suspicions.values_mut() {
            changed |= suspicion.advance(now);
        }
        served
            .suspicions
            .retain(|_, suspicion| !suspicion.is_over(now));
        let slow_start = served.service.policy.slow_start;
        served.ramping.retain(|_, (endpoint, from)| {
            let ramping = now.since(*from) < slow_start;
            if !ramping {
                endpoint.set_ramp(None);
                changed = true;
            }
            ramping
        });
        changed |= served.again.is_some_and(|again| again <= now);
        if changed {
            self.dirty.insert(id);
        } else {
            self.plan(id);
        }
    }

    /// Starts the slow start of an endpoint that came back.
    fn ramp(&mut self, id: ServiceId, endpoint: &Arc<EndpointState>, now: Tick) {
        if let Some(served) = self.served.get_mut(&id)
            && !served.service.policy.slow_start.is_zero()
            && endpoint.is_usable()
        {
            endpoint.set_ramp(Some(now));
            served.ramping.insert(endpoint.id, (endpoint.clone(), now));
        }
    }

    /// Builds and swaps the views of everything that changed.
    fn flush(&mut self, now: Tick) {
        while let Some(id) = self.dirty.pop_first() {
            self.rebuild(id, now);
            self.plan(id);
        }
    }

    fn rebuild(&mut self, id: ServiceId, now: Tick) {
        let Some(served) = self.served.get_mut(&id) else {
            return;
        };
        let row = self.registry.service(&served.service.name);
        let row = row.expect("a served service has a row");
        let returned = rows::enforce(row, served, now);
        for endpoint in &returned {
            if !served.service.policy.slow_start.is_zero() {
                endpoint.set_ramp(Some(now));
                served.ramping.insert(endpoint.id, (endpoint.clone(), now));
            }
        }
        rows::note_changes(row, served, &mut self.changes, now);
        let members = row.members.iter().map(|member| MemberInput {
            state: member.state.clone(),
            endpoints: member.endpoints.clone(),
            suspect: served
                .suspicions
                .get(&member.state.identity)
                .is_some_and(|suspicion| suspicion.until().is_some()),
        });
        let previous = row.state.view();
        let input = Input {
            id,
            service: served.service.clone(),
            members: members.collect(),
            previous: previous.as_deref(),
        };
        let (view, again) = ServiceView::build(input, &mut served.holds, now);
        served.again = again;
        row.state.swap_view(Some(Arc::new(view)));
    }

    /// Enters the service's next deadline.
    fn plan(&mut self, id: ServiceId) {
        let Some(served) = self.served.get_mut(&id) else {
            return;
        };
        let slow_start = served.service.policy.slow_start;
        let ramps = served
            .ramping
            .values()
            .map(|(_, from)| from.after(slow_start));
        let suspicions = served.suspicions.values().filter_map(Suspicion::until);
        let next = ramps
            .chain(suspicions)
            .chain(served.ejections.next_deadline())
            .chain(served.again)
            .min();
        if let Some(old) = std::mem::replace(&mut served.deadline, next) {
            self.deadlines.remove(&(old, id));
        }
        if let Some(next) = next {
            self.deadlines.insert((next, id));
        }
    }
}

#[cfg(test)]
mod tests;
