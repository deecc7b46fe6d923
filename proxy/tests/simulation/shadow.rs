//! What must be so: counts and streaks kept a second time, in the plainest way.

use std::{collections::BTreeMap, sync::Arc};

use fairlead_proxy::{
    health::{probe::ProbeError, verdict::Verdict},
    registry::{EndpointId, EndpointState, Flags, Outcome},
    view::ServiceView,
};

/// The second bookkeeping.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    /// Attempts and sessions that are alive.
    pub(crate) live: BTreeMap<EndpointId, u32>,
    /// Failed connects and resets in a row.
    strikes: BTreeMap<EndpointId, (u32, u32)>,
    /// Probes in a row: good when positive.
    probes: BTreeMap<EndpointId, i64>,
    /// Whether the last failed probe found nobody there.
    deaths: BTreeMap<EndpointId, bool>,
    /// Flags as they were last seen.
    flags: BTreeMap<EndpointId, Flags>,
}

impl Shadow {
    pub(crate) fn begin(&mut self, endpoint: &EndpointState) {
        *self.live.entry(endpoint.id).or_default() += 1;
    }

    pub(crate) fn end(&mut self, endpoint: &EndpointState) {
        let live = self.live.get_mut(&endpoint.id).expect("it began");
        *live -= 1;
    }

    /// Strikes in a row after this outcome; 0 when it is none.
    pub(crate) fn outcome(&mut self, endpoint: &EndpointState, outcome: Outcome) -> u32 {
        let row = self.strikes.entry(endpoint.id).or_default();
        match outcome {
            Outcome::Connected(_) => row.0 = 0,
            Outcome::Served => *row = (0, 0),
            Outcome::Ours => {}
            Outcome::Refused | Outcome::Unreachable | Outcome::TimedOut => {
                row.0 += 1;
                return row.0 + row.1;
            }
            Outcome::ResetBeforeData => {
                row.1 += 1;
                return row.0 + row.1;
            }
        }
        0
    }

    pub(crate) fn probe(&mut self, endpoint: &EndpointState, error: Option<ProbeError>) {
        let row = self.probes.entry(endpoint.id).or_default();
        let good = error.is_none();
        if let Some(error) = error {
            self.deaths.insert(endpoint.id, error.is_death());
        }
        *row = match (good, *row > 0) {
            (true, true) => *row + 1,
            (true, false) => 1,
            (false, true) => -1,
            (false, false) => *row - 1,
        };
    }

    /// Whether probes have found nobody there often enough, and nobody since.
    pub(crate) fn is_dead(&self, endpoint: &EndpointState) -> bool {
        endpoint.flags().has(Flags::PROBE_DOWN)
            && self.deaths.get(&endpoint.id).copied().unwrap_or(false)
    }

    /// A new life: what was counted before counts no more.
    pub(crate) fn forget(&mut self, endpoint: &EndpointState) {
        self.strikes.remove(&endpoint.id);
        self.deaths.remove(&endpoint.id);
        self.probes.remove(&endpoint.id);
        self.flags.remove(&endpoint.id);
    }

    /// Compares the flags with those seen before: no transition without its streak. `struck` is the
    /// endpoint whose strikes were reported just now, with their number.
    pub(crate) fn check_transitions(
        &mut self,
        view: &ServiceView,
        struck: Option<(EndpointId, u32)>,
    ) {
        let policy = &view.service.policy;
        for (_, entry) in view.endpoints() {
            let id = entry.state.id;
            let now = entry.state.flags();
            let known = self.flags.insert(id, now);
            if known.is_none() {
                self.strikes.remove(&id);
                self.probes.remove(&id);
            }
            let before = known.unwrap_or_default();
            assert_eq!(
                now.has(Flags::DEAD_HERE),
                self.is_dead(&entry.state),
                "whether {} is known dead",
                entry.state.addr
            );
            let row = self.probes.get(&id).copied().unwrap_or(0);
            if let Some(check) = &policy.health_check {
                if now.has(Flags::PROBE_DOWN) && !before.has(Flags::PROBE_DOWN) {
                    assert!(row <= -i64::from(check.unhealthy_after), "down after {row}");
                }
                if before.has(Flags::PROBE_DOWN) && !now.has(Flags::PROBE_DOWN) {
                    assert!(row >= i64::from(check.healthy_after), "up after {row}");
                }
            }
            if now.has(Flags::EJECTED) && !before.has(Flags::EJECTED) {
                let strikes = struck.filter(|&(endpoint, _)| endpoint == id);
                assert!(
                    strikes.is_some_and(|(_, strikes)| strikes >= 3),
                    "ejected after {strikes:?}"
                );
            }
            if before.has(Flags::EJECTED) != now.has(Flags::EJECTED)
                || now.has(Flags::TRIAL) && !before.has(Flags::TRIAL)
            {
                let ended = !now.has(Flags::EJECTED) || now.has(Flags::TRIAL);
                if ended {
                    self.strikes.remove(&id);
                }
            }
        }
    }

    /// Takes note of trials that data threads took since the flags were last seen.
    pub(crate) fn note_trials(&mut self, view: &ServiceView) {
        for (_, entry) in view.endpoints() {
            if let Some(flags) = self.flags.get_mut(&entry.state.id)
                && !entry.state.flags().has(Flags::TRIAL)
            {
                flags.0 &= !Flags::TRIAL.0;
            }
        }
    }

    /// What holds at any moment.
    pub(crate) fn check(&self, view: &ServiceView) {
        let policy = &view.service.policy;
        let weights: Vec<bool> = view
            .service
            .tiers
            .iter()
            .enumerate()
            .flat_map(|(tier, row)| {
                let may = tier == 0 || !policy.no_fallback;
                row.members
                    .iter()
                    .map(move |member| may && !member.weight.is_drain())
            })
            .collect();
        let (mut all, mut ejected, mut usable, mut only_ejected) = (0u32, 0u32, 0u32, 0u32);
        for (member, counts) in view.members.iter().zip(weights) {
            for entry in &*member.endpoints {
                let flags = entry.state.flags();
                all += 1;
                ejected += u32::from(flags.has(Flags::EJECTED));
                usable += u32::from(counts && flags.is_usable());
                let but = Flags(flags.0 & !Flags::EJECTED.0);
                only_ejected += u32::from(counts && flags.has(Flags::EJECTED) && but.is_usable());
                self.check_count(&entry.state);
            }
        }
        let cap = (all * u32::from(policy.passive.max_ejected)).div_ceil(100);
        assert!(ejected <= cap, "{ejected} of {all} ejected, {cap} may be");
        assert!(
            usable > 0 || only_ejected == 0,
            "the last usable endpoint was ejected"
        );
        let total: u64 = view.shares().iter().sum();
        assert!(
            total == 1 << 32 || total == 0 && usable == 0,
            "shares sum to {total}"
        );
    }

    /// A pick of a view that may be older than the flags.
    pub(crate) fn check_pick(&self, view: &ServiceView, endpoint: &Arc<EndpointState>) {
        let member = view
            .members
            .iter()
            .find(|member| Arc::ptr_eq(&member.state, &endpoint.member));
        let member = member.expect("a pick is of a member of its view");
        let uses = view.tiers[usize::from(member.tier)].mode;
        let flags = endpoint.flags();
        // A trial is taken by the pick itself, so its flag is down already.
        let on_trial = flags.has(Flags::EJECTED) && Flags(flags.0 & !Flags::EJECTED.0).is_usable();
        assert!(
            member.weight > 0 || on_trial,
            "{} weighs nothing",
            member.state.name
        );
        let fits = uses.admits(flags) || on_trial;
        assert!(
            fits,
            "picked {} while {:?} ({uses:?})",
            endpoint.addr,
            Verdict::of(flags)
        );
    }

    fn check_count(&self, endpoint: &EndpointState) {
        let expected = self.live.get(&endpoint.id).copied().unwrap_or(0);
        assert_eq!(
            endpoint.inflight(),
            expected,
            "live sessions of {}",
            endpoint.addr
        );
    }
}
