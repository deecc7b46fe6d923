//! The life of the hub's store.
//!
//! Decisions are stamped with the resourceVersion they were made at, and receivers hold back what
//! seems to come from a replica that is behind. A store restored from a back-up counts from an
//! earlier number and has forgotten what happened since. So it gets another epoch, an id in an
//! object of the hub: begun by the leader when it, or a proxy, has seen a later state than the API
//! server has. In a new epoch nothing is distributed before the members that are present have
//! mirrored anew, or [`PATIENCE`] is over: everybody keeps serving what they have.
//!
//! Numbers tell nothing once a restored store has been written to as often as was lost, nor when it was
//! restored with its numbers raised. So a process trusts only what another one, alive beside it,
//! vouches for: the leader states the epoch on its Lease with every renewal. A process that starts
//! holds until it sees such a renewal; one that becomes the leader first begins a new epoch. When the
//! hub's processes are all new, members are always asked.
//!
//! [`Life`] is one replica's view of that. It refuses nothing; a step costs nothing.

use std::time::Duration;

use fairlead_runtime::clock::Tick;

/// What the hub's object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epoch {
    /// Different for each life of the store.
    pub id: String,
    /// The epochs before it, oldest first: a store that knows nothing of the epoch that a replica is
    /// in was restored to before it began.
    pub after: Vec<String>,
    /// The store was restored, and members have not mirrored anew yet.
    pub remirroring: bool,
}

/// What a replica knows of the store's life.
#[derive(Debug, Clone)]
pub struct Life {
    epoch: Epoch,
    /// The highest resourceVersion that anybody has shown in this epoch.
    shown: u64,
    /// A later state than the store's was shown, and no new epoch has begun yet.
    ahead: bool,
    /// The store is known to be the one that this process, or one beside it, has been writing to.
    sure: bool,
    /// What the leader vouched with before there was doubt: only a later renewal ends it.
    doubted: Option<Vouch>,
    /// Since when this replica has known that members mirror anew.
    since: Option<Tick>,
}

/// What was found on the API server. What is [`Life::shown`] must be older than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The hub's object.
    pub epoch: Epoch,
    /// The API server's own resourceVersion.
    pub revision: u64,
    /// Members that are present and have not mirrored anew; asked for only while that matters.
    pub missing: usize,
    /// Whether this replica may write.
    pub leads: bool,
    /// The last renewal of another leader that came while this process looked on.
    pub vouch: Option<Vouch>,
}

/// A leader that is sure of the store's epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouch {
    /// The epoch.
    pub epoch: String,
    /// The renewal that it stood on.
    pub renewal: i64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Write an epoch after these, in which members mirror anew, then call [`Life::begun`].
    Begin {
        /// [`Epoch::after`].
        after: Vec<String>,
    },
    /// Distribute nothing, until the leader has begun a new epoch, or vouched for this one.
    Hold,
    /// Another epoch is in force; it says whether anything may be distributed.
    Adopt(Epoch),
    /// Write that members have mirrored anew, then call [`Life::adopt`].
    Settle,
}

impl Life {
    /// As found at the start, at `revision`; `made`: there was none, and this process made it, so
    /// nobody was ever told anything.
    pub fn new(epoch: Epoch, revision: u64, made: bool, now: Tick) -> Self {
        let since = epoch.remirroring.then_some(now);
        Self {
            epoch,
            shown: revision,
            ahead: false,
            sure: made,
            doubted: None,
            since,
        }
    }

    /// Objects went back: what was known of the store holds no more. `vouch` is the leader's last.
    pub fn doubt(&mut self, vouch: Option<Vouch>) {
        self.sure = false;
        self.doubted = vouch;
    }

    /// Somebody has seen a state of this epoch.
    pub fn show(&mut self, epoch: &str, as_of: u64) {
        if epoch == self.epoch.id {
            self.shown = self.shown.max(as_of);
        }
    }

    /// What to do now.
    pub fn step(&mut self, found: &Found, now: Tick) -> Step {
        let same = found.epoch.id == self.epoch.id;
        let later = found.epoch.after.contains(&self.epoch.id);
        if (same && self.shown > found.revision) || !(same || later) {
            self.ahead = true;
            let after = self.history(&found.epoch);
            return match found.leads {
                true => Step::Begin { after },
                false => Step::Hold,
            };
        }
        if found.epoch != self.epoch {
            self.adopt(found.epoch.clone(), found.revision, now);
            return Step::Adopt(found.epoch.clone());
        }
        self.shown = found.revision;
        if !self.sure {
            return self.ask_for_trust(found);
        }
        let Some(since) = self.since.filter(|_| found.leads) else {
            return Step::Stay;
        };
        let patient = now.since(since) < PATIENCE;
        if found.missing > 0 && patient {
            Step::Stay
        } else {
            Step::Settle
        }
    }

    fn ask_for_trust(&mut self, found: &Found) -> Step {
        let vouch = found.vouch.as_ref().filter(|vouch| {
            let fresh = self.doubted.as_ref() != Some(*vouch);
            fresh && vouch.epoch == self.epoch.id
        });
        match (vouch, found.leads) {
            (_, true) => Step::Begin {
                after: self.history(&found.epoch),
            },
            (Some(_), false) => {
                self.trust();
                Step::Adopt(self.epoch.clone())
            }
            (None, false) => Step::Hold,
        }
    }

    fn trust(&mut self) {
        self.sure = true;
        self.doubted = None;
    }

    /// This replica has begun an epoch, in a store at `revision`.
    pub fn begun(&mut self, epoch: Epoch, revision: u64, now: Tick) {
        self.adopt(epoch, revision, now);
        self.trust();
    }

    /// Another epoch is in force, in a store at `revision`.
    pub fn adopt(&mut self, epoch: Epoch, revision: u64, now: Tick) {
        if epoch.id != self.epoch.id {
            self.shown = revision;
            self.ahead = false;
            self.since = None;
        }
        self.since = epoch.remirroring.then(|| self.since.unwrap_or(now));
        self.epoch = epoch;
    }

    /// All that a next epoch comes after.
    fn history(&self, found: &Epoch) -> Vec<String> {
        let mut all = found.after.clone();
        for id in self.epoch.after.iter().chain([&found.id, &self.epoch.id]) {
            if !all.contains(id) {
                all.push(id.clone());
            }
        }
        let surplus = all.len().saturating_sub(HISTORY_MAX);
        all.split_off(surplus)
    }

    /// The epoch in force.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Whether everybody has to keep what they have.
    pub fn holds(&self) -> bool {
        self.ahead || !self.sure || self.epoch.remirroring
    }

    /// Whether a later state than the store's was shown.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// The epoch that this replica stands for, while it is sure of it.
    pub fn vouches_for(&self) -> Option<&str> {
        (self.sure && !self.ahead).then_some(self.epoch.id.as_str())
    }
}

/// Epochs remembered: a replica that has slept through more of them holds until it is restarted.
const HISTORY_MAX: usize = 32;
/// How long members are waited for: twelve heartbeats.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Tick {
        Tick::from_start(Duration::from_secs(second))
    }

    fn epoch(id: &str, remirroring: bool) -> Epoch {
        let after = match id {
            "two" => vec!["one".to_owned()],
            "three" => vec!["one".to_owned(), "two".to_owned()],
            _ => Vec::new(),
        };
        Epoch {
            id: id.into(),
            after,
            remirroring,
        }
    }

    fn found(epoch: Epoch, revision: u64) -> Found {
        Found {
            epoch,
            revision,
            missing: 0,
            leads: true,
            vouch: None,
        }
    }

    fn life() -> Life {
        Life::new(epoch("one", false), 100, true, at(0))
    }

    #[test]
    fn a_state_that_the_store_has_reached_is_no_sign_of_anything() {
        let mut life = life();
        life.show("one", 120);
        assert_eq!(
            life.step(&found(epoch("one", false), 120), at(1)),
            Step::Stay
        );
        life.show("another", 900);
        assert_eq!(
            life.step(&found(epoch("one", false), 121), at(2)),
            Step::Stay
        );
        assert!(!life.holds());
    }

    #[test]
    fn a_store_that_goes_back_between_two_looks_was_restored() {
        let mut life = life();
        assert_eq!(
            life.step(&found(epoch("one", false), 200), at(1)),
            Step::Stay
        );
        let back = life.step(&found(epoch("one", false), 199), at(3));
        assert!(matches!(back, Step::Begin { .. }), "{back:?}");
    }

    #[test]
    fn a_store_behind_what_was_shown_gets_a_new_epoch_from_the_leader_and_holds_at_a_follower() {
        let mut life = life();
        life.show("one", 120);
        let mut seen = found(epoch("one", false), 119);
        seen.leads = false;
        assert_eq!(life.step(&seen, at(1)), Step::Hold);
        assert!(life.holds());
        seen.leads = true;
        let after = vec!["one".to_owned()];
        let begin = Step::Begin { after };
        assert_eq!(life.step(&seen, at(2)), begin);
        // The write failed: the next step begins anew.
        assert_eq!(life.step(&seen, at(3)), begin);
        life.adopt(epoch("two", true), 119, at(4));
        assert!(life.holds());
        life.show("one", 900);
        seen.epoch = epoch("two", true);
        seen.missing = 1;
        assert_eq!(life.step(&seen, at(5)), Step::Stay, "of an earlier life");
    }

    #[test]
    fn distribution_begins_when_members_have_mirrored_or_patience_is_over() {
        let mut life = life();
        life.begun(epoch("two", true), 10, at(0));
        assert!(life.holds());
        let mut seen = found(epoch("two", true), 11);
        seen.missing = 2;
        assert_eq!(life.step(&seen, at(59)), Step::Stay);
        assert_eq!(life.step(&seen, at(60)), Step::Settle);
        seen.missing = 0;
        assert_eq!(life.step(&seen, at(7)), Step::Settle);
        seen.leads = false;
        assert_eq!(life.step(&seen, at(70)), Step::Stay, "the leader says so");
        seen.epoch = epoch("two", false);
        assert_eq!(
            life.step(&seen, at(71)),
            Step::Adopt(epoch("two", false)),
            "and a follower follows"
        );
        assert!(!life.holds());
    }

    #[test]
    fn a_second_restore_amid_the_first_begins_again() {
        let mut life = life();
        life.begun(epoch("two", true), 10, at(0));
        life.show("two", 30);
        let after = vec!["one".to_owned(), "two".to_owned()];
        assert_eq!(
            life.step(&found(epoch("two", true), 5), at(50)),
            Step::Begin { after }
        );
        life.adopt(epoch("three", true), 5, at(50));
        let mut seen = found(epoch("three", true), 6);
        seen.missing = 1;
        assert_eq!(
            life.step(&seen, at(61)),
            Step::Stay,
            "with patience of its own"
        );
        // A store from before the first restore brings its old epoch back.
        let after = ["two", "one", "three"].map(str::to_owned).to_vec();
        let mut back = found(epoch("one", false), 4);
        let Step::Begin { after: history } = life.step(&back, at(62)) else {
            panic!("not a later epoch");
        };
        assert_eq!(history.len(), after.len());
        assert!(after.iter().all(|id| history.contains(id)));
        back.leads = false;
        assert_eq!(life.step(&back, at(63)), Step::Hold);
    }

    #[test]
    fn a_process_trusts_what_another_one_vouches_for_and_as_the_leader_asks_members() {
        let vouch = |epoch: &str, renewal: i64| {
            Some(Vouch {
                epoch: epoch.into(),
                renewal,
            })
        };
        let mut life = Life::new(epoch("one", false), 100, false, at(0));
        assert!(life.holds() && life.vouches_for().is_none());
        let mut seen = found(epoch("one", false), 900);
        seen.leads = false;
        assert_eq!(life.step(&seen, at(1)), Step::Hold, "nobody is there");
        seen.vouch = vouch("zero", 1);
        assert_eq!(life.step(&seen, at(2)), Step::Hold, "of another epoch");
        let mut first = life.clone();
        seen.vouch = vouch("one", 2);
        assert_eq!(
            life.step(&seen, at(3)),
            Step::Adopt(epoch("one", false)),
            "it goes on"
        );
        assert!(!life.holds());
        assert_eq!(life.vouches_for(), Some("one"));

        life.doubt(seen.vouch.clone());
        assert_eq!(life.step(&seen, at(4)), Step::Hold, "said before the doubt");
        seen.vouch = vouch("one", 3);
        assert_eq!(life.step(&seen, at(5)), Step::Adopt(epoch("one", false)));
        assert!(!life.holds());

        seen.leads = true;
        let after = vec!["one".to_owned()];
        assert_eq!(first.step(&seen, at(3)), Step::Begin { after });
        first.begun(epoch("two", true), 901, at(3));
        assert!(first.holds(), "members mirror anew");
        assert_eq!(first.vouches_for(), Some("two"));
    }

    #[test]
    fn a_process_that_starts_amid_a_new_epoch_begins_again_when_it_leads() {
        let mut life = Life::new(epoch("two", true), 10, false, at(0));
        let begin = life.step(&found(epoch("two", true), 11), at(0));
        assert!(matches!(begin, Step::Begin { .. }), "{begin:?}");
    }

    #[test]
    fn a_replica_that_slept_through_a_restore_follows() {
        let mut life = life();
        life.show("one", 120);
        let seen = found(epoch("three", false), 7);
        assert_eq!(life.step(&seen, at(1)), Step::Adopt(epoch("three", false)));
        assert!(!life.holds());
    }
}
