//! Which hub replica writes.
//!
//! A Lease names the leader. Its holder renews it every [`RENEW_EVERY`]; others take it once they
//! have seen it unchanged for its duration, by their own clock. The Lease gates writers; what fences
//! a deposed one is the resourceVersion that each write carries.

pub mod io;

use std::time::Duration;

use fairlead_runtime::clock::Tick;

use crate::epoch::Vouch;

/// The Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Who holds it; empty when it was given up.
    pub holder: String,
    /// The renewal it states, in microseconds since 1970 by its holder's clock; 0 when it states none.
    pub renewal: i64,
    /// How often it changed hands.
    pub transitions: i32,
    /// Where its holder takes what others hand on; empty when it says nothing.
    pub url: String,
    /// The epoch of the store that its holder is sure of; empty while it is not.
    pub epoch: String,
}

/// One replica's view of the Lease.
#[derive(Debug, Clone)]
pub struct Election {
    me: String,
    seen: Option<(Record, Tick)>,
    /// Until when this replica may write.
    until: Option<Tick>,
    /// What the last renewal of another holder said that came while this replica looked on.
    vouch: Option<Vouch>,
    /// A write of this replica is under way, or how it ended is unknown.
    writes: bool,
    /// How often the Lease was found to be an earlier one than this replica knows.
    went_back: u64,
    /// When the last look at it began that was answered.
    looked: Option<Tick>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write the Lease with this replica as holder; `takeover` counts a transition.
    Claim {
        /// It was somebody else's.
        takeover: bool,
    },
    /// Look again later.
    Wait,
}

impl Election {
    /// A replica that leads nothing yet.
    pub fn new(me: String) -> Self {
        Self {
            me,
            seen: None,
            until: None,
            vouch: None,
            writes: false,
            went_back: 0,
            looked: None,
        }
    }

    /// The Lease is about to be observed as it was at `began` or later.
    pub fn note_look(&mut self, began: Tick) {
        self.looked = Some(began);
    }

    /// When the last look at the Lease began that was answered.
    pub fn looked(&self) -> Option<Tick> {
        self.looked
    }

    /// The Lease was read; `None`: there is none.
    pub fn observe(&mut self, record: Option<Record>, now: Tick) -> Step {
        let Some(record) = record else {
            // Nobody deletes it.
            self.note_back(self.seen.is_some());
            self.seen = None;
            return Step::Claim { takeover: true };
        };
        let mine = record.holder == self.me;
        let old = self.seen.take();
        let back = old
            .as_ref()
            .is_some_and(|(old, _)| self.is_later(old, &record));
        self.note_back(back);
        let given_up = record.holder.is_empty();
        let same = old.as_ref().filter(|(old, _)| *old == record);
        let since = same.map_or(now, |(_, since)| *since);
        if old.is_some() && same.is_none() && !back && !mine && !given_up {
            let sure = !record.epoch.is_empty();
            self.vouch = sure.then(|| Vouch {
                epoch: record.epoch.clone(),
                renewal: record.renewal,
            });
        }
        self.seen = Some((record, since));
        if mine || given_up || now.since(since) >= DURATION {
            self.writes = true;
            return Step::Claim { takeover: !mine };
        }
        self.until = None;
        Step::Wait
    }

    /// Whether the Lease was known in a later state than it was found in.
    fn is_later(&self, known: &Record, found: &Record) -> bool {
        if found.transitions != known.transitions {
            return found.transitions < known.transitions;
        }
        // Nobody else writes in this replica's name.
        let mine = found.holder == self.me && known.holder == self.me;
        let forgot = mine && found != known && !self.writes;
        // Who takes it over counts that. A holder whose own clock was set back is taken for one that
        // went back once: that costs a look.
        let held_by_two = found.holder != known.holder && !found.holder.is_empty();
        forgot || held_by_two || found.renewal < known.renewal
    }

    /// What was vouched for in a state that is no more is worth nothing.
    fn note_back(&mut self, back: bool) {
        if back {
            self.went_back += 1;
            self.vouch = None;
        }
    }

    /// The Lease was written with this replica as holder, in a request started at `started`.
    pub fn claimed(&mut self, record: Record, started: Tick) {
        self.writes = false;
        self.until = Some(started.after(DURATION - MARGIN));
        self.seen = Some((record, started));
    }

    /// The write failed: somebody else may have it.
    pub fn refused(&mut self) {
        self.until = None;
    }

    /// Whether this replica may write now.
    pub fn leads(&self, now: Tick) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What the last renewal of another leader said of the store, if this replica saw it come.
    pub fn vouch(&self) -> Option<&Vouch> {
        self.vouch.as_ref()
    }

    /// How often the Lease was found to be an earlier one than this replica knows: its store was
    /// restored.
    pub fn went_back(&self) -> u64 {
        self.went_back
    }

    /// This replica's name.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Who holds the Lease, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|(record, _)| record.holder.as_str())
    }

    /// Where the leader takes what this replica has to hand on; `None` while this one leads, or
    /// nobody does.
    pub fn hand_on_to(&self, now: Tick) -> Option<&str> {
        let (record, _) = self.seen.as_ref()?;
        let theirs = !record.holder.is_empty() && record.holder != self.me;
        let url = Some(record.url.as_str()).filter(|url| !url.is_empty());
        url.filter(|_| theirs && !self.leads(now))
    }

    /// How often the Lease changed hands.
    pub fn transitions(&self) -> i32 {
        self.seen
            .as_ref()
            .map_or(0, |(record, _)| record.transitions)
    }
}

/// How long a Lease holds.
pub const DURATION: Duration = Duration::from_secs(9);
/// A third of it.
pub const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The leader stops writing this long before others may start.
pub const MARGIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Tick {
        Tick::from_start(Duration::from_secs(second))
    }

    fn record(holder: &str, renewal: i64) -> Record {
        Record {
            holder: holder.into(),
            renewal,
            transitions: 1,
            url: format!("https://{holder}"),
            epoch: "one".into(),
        }
    }

    #[test]
    fn only_a_renewal_by_somebody_else_that_came_while_one_looked_vouches() {
        let mut me = Election::new("a".into());
        me.observe(Some(record("b", 1)), at(0));
        assert_eq!(me.vouch(), None, "it may be long dead");
        me.observe(Some(record("b", 1)), at(1));
        assert_eq!(me.vouch(), None);
        me.observe(Some(record("b", 2)), at(2));
        let vouch = me.vouch().cloned().unwrap();
        assert_eq!((vouch.epoch.as_str(), vouch.renewal), ("one", 2));
        let unsure = Record {
            epoch: String::new(),
            transitions: 2,
            ..record("c", 3)
        };
        me.observe(Some(unsure), at(3));
        assert_eq!(me.vouch(), None, "who took over is not sure");
        let mut named_alike = Election::new("a".into());
        named_alike.observe(Some(record("a", 1)), at(0));
        named_alike.observe(Some(record("a", 2)), at(1));
        assert_eq!(named_alike.vouch(), None, "an earlier life of one's own");
    }

    #[test]
    fn a_free_lease_is_claimed_and_a_held_one_respected() {
        let mut me = Election::new("a".into());
        assert_eq!(me.observe(None, at(0)), Step::Claim { takeover: true });
        assert_eq!(me.observe(Some(record("b", 1)), at(0)), Step::Wait);
        assert_eq!(me.observe(Some(record("b", 2)), at(8)), Step::Wait);
        assert_eq!(me.observe(Some(record("b", 2)), at(16)), Step::Wait);
        assert_eq!(
            me.observe(Some(record("b", 2)), at(17)),
            Step::Claim { takeover: true }
        );
        assert_eq!(
            me.observe(Some(record("", 3)), at(18)),
            Step::Claim { takeover: true }
        );
    }

    #[test]
    fn a_lease_that_forgets_a_renewal_or_a_leader_went_back() {
        let mut me = Election::new("a".into());
        me.claimed(record("a", 1), at(0));
        me.observe(Some(record("a", 1)), at(3));
        me.claimed(record("a", 2), at(3));
        me.observe(Some(record("a", 2)), at(6));
        assert_eq!(me.went_back(), 0);
        // A write whose end is unknown may be what is found next.
        me.observe(Some(record("a", 3)), at(9));
        assert_eq!(me.went_back(), 0);
        me.claimed(record("a", 4), at(9));
        me.observe(Some(record("a", 2)), at(12));
        assert_eq!(me.went_back(), 1, "two renewals are forgotten");
        let mut other = Election::new("b".into());
        let later = Record {
            transitions: 2,
            ..record("a", 5)
        };
        other.observe(Some(later), at(0));
        other.observe(Some(record("c", 4)), at(1));
        assert_eq!(other.went_back(), 1, "a leader is forgotten");
        other.observe(Some(record("c", 5)), at(2));
        assert!(other.vouch().is_some());
        other.observe(Some(record("c", 4)), at(3));
        assert_eq!(other.went_back(), 2, "a renewal is forgotten");
        assert_eq!(other.vouch(), None, "it is none that came now");
        other.observe(Some(record("d", 6)), at(4));
        assert_eq!(other.went_back(), 3, "another has followed the same leader");
        other.observe(None, at(5));
        assert_eq!(other.went_back(), 4, "nobody had led");
    }

    #[test]
    fn a_leader_stops_before_anybody_else_may_start() {
        let mut leader = Election::new("a".into());
        leader.claimed(record("a", 1), at(10));
        let mut other = Election::new("b".into());
        other.observe(Some(record("a", 1)), at(10));
        for second in 10..30 {
            let taken = other.observe(Some(record("a", 1)), at(second));
            let may_start = matches!(taken, Step::Claim { .. });
            assert!(!(leader.leads(at(second)) && may_start), "both at {second}");
        }
        assert!(leader.leads(at(16)) && !leader.leads(at(17)));
    }

    #[test]
    fn a_follower_hands_on_to_the_leader_and_a_leader_to_nobody() {
        let mut me = Election::new("a".into());
        assert_eq!(me.hand_on_to(at(0)), None, "nothing is known yet");
        me.observe(Some(record("b", 1)), at(0));
        assert_eq!(me.hand_on_to(at(1)), Some("https://b"));
        me.observe(Some(record("", 2)), at(2));
        assert_eq!(me.hand_on_to(at(2)), None, "it was given up");
        me.claimed(record("a", 3), at(3));
        assert_eq!(me.hand_on_to(at(4)), None, "this one leads");
    }

    #[test]
    fn whoever_loses_the_race_does_not_lead() {
        let mut me = Election::new("a".into());
        me.claimed(record("a", 1), at(0));
        me.refused();
        assert!(!me.leads(at(1)));
        me.claimed(record("a", 2), at(2));
        me.observe(Some(record("b", 3)), at(3));
        assert!(!me.leads(at(3)));
    }
}
