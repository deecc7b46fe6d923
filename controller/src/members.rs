//! Whether members are alive, by their heartbeat.
//!
//! A member's agent renews a Lease every 5 s. Its clock doesn't matter: what counts is when this
//! process saw the renewal on a live watch, so a member is lost [`LOST_AFTER`] after the last
//! change it made, and time in which nothing could be seen counts for nobody.
//!
//! Mass loss: when more than half of the members, and at least [`MASS_MIN`], fall silent within
//! [`MASS_WINDOW`], the fault is more likely on this side. Their verdict is then `Suspended`:
//! nothing is withdrawn until they are heard again, or until so few of them are left silent that
//! they are taken for lost one by one.
//!
//! Only the leader runs this; its verdicts go to MemberCluster.status, where every replica reads
//! them. A step costs O(members).

mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use fairlead_config::name::MemberName;
use fairlead_runtime::clock::Tick;

pub use status::{Facts, status};

/// What a member's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// It has not been heard of yet.
    #[default]
    NeverSeen,
    /// Its heartbeat is fresh.
    Fresh,
    /// Its heartbeat is lost.
    Lost,
    /// Its heartbeat is lost together with those of most members.
    Suspended,
}

/// When each member was heard last.
#[derive(Debug, Clone, Default)]
pub struct Heartbeats {
    members: BTreeMap<MemberName, Seen>,
    /// While the watch is down nobody grows older.
    blind_since: Option<Tick>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// The renewal seen last, as the Lease states it.
    renewal: Option<String>,
    /// When it was seen.
    at: Tick,
    /// Whether `at` is a sign of life, or grace for want of one.
    alive: bool,
    verdict: Verdict,
    /// When it fell silent, by the clock of this process.
    silent_at: Option<Tick>,
}

impl Heartbeats {
    /// Takes a member in, with the verdict that an earlier leader wrote. It is given the full time
    /// to be heard.
    pub fn join(&mut self, member: MemberName, verdict: Verdict, now: Tick) {
        self.members.entry(member).or_insert_with(|| Seen {
            renewal: None,
            at: now,
            silent_at: matches!(verdict, Verdict::Lost | Verdict::Suspended).then_some(now),
            alive: verdict == Verdict::Fresh,
            verdict,
        });
    }

    /// Forgets a member.
    pub fn leave(&mut self, member: &MemberName) {
        self.members.remove(member);
    }

    /// A Lease was seen. Only a renewal that differs from the last one is a sign of life.
    pub fn renewed(&mut self, member: &MemberName, renewal: &str, now: Tick) {
        let Some(seen) = self.members.get_mut(member) else {
            return;
        };
        let old = seen.renewal.replace(renewal.to_owned());
        if old.as_deref() == Some(renewal) {
            return;
        }
        // The first look at a Lease shows what was, not that anybody is alive now, unless the
        // member was never lost.
        if old.is_some() || matches!(seen.verdict, Verdict::NeverSeen | Verdict::Fresh) {
            seen.at = now;
            seen.alive = true;
        }
    }

    /// The watch on Leases is down.
    pub fn blind(&mut self, now: Tick) {
        self.blind_since.get_or_insert(now);
    }

    /// The watch is back: the time without it is given to everybody.
    pub fn sighted(&mut self, now: Tick) {
        if let Some(since) = self.blind_since.take() {
            let lost = now.since(since);
            for seen in self.members.values_mut() {
                seen.at = seen.at.after(lost);
            }
        }
    }

    /// Judges everybody; the verdicts that changed come back.
    pub fn step(&mut self, now: Tick) -> Vec<(MemberName, Verdict)> {
        if self.blind_since.is_some() {
            return Vec::new();
        }
        for seen in self.members.values_mut() {
            let heard = seen.alive && now.since(seen.at) < LOST_AFTER;
            match (heard, seen.silent_at) {
                (true, _) => seen.silent_at = None,
                (false, None) if seen.verdict != Verdict::NeverSeen => {
                    seen.silent_at = (now.since(seen.at) >= LOST_AFTER).then_some(now);
                }
                _ => {}
            }
        }
        let suspended = self.is_mass_loss();
        let mut changed = Vec::new();
        for (name, seen) in &mut self.members {
            let verdict = match (seen.silent_at, seen.alive) {
                (Some(at), _) if suspended.is_some_and(|window| window.holds(at)) => {
                    Verdict::Suspended
                }
                (Some(_), _) => Verdict::Lost,
                (None, true) => Verdict::Fresh,
                (None, false) => seen.verdict,
            };
            if seen.verdict != verdict {
                seen.verdict = verdict;
                changed.push((name.clone(), verdict));
            }
        }
        changed
    }

    /// The verdict on a member.
    pub fn verdict(&self, member: &MemberName) -> Verdict {
        let seen = self.members.get(member);
        seen.map_or(Verdict::NeverSeen, |seen| seen.verdict)
    }

    /// How many of how many members are silent.
    pub fn silent(&self) -> (usize, usize) {
        let joined = self.joined().count();
        (
            self.joined()
                .filter(|seen| seen.silent_at.is_some())
                .count(),
            joined,
        )
    }

    fn joined(&self) -> impl Iterator<Item = &Seen> {
        let all = self.members.values();
        all.filter(|seen| seen.verdict != Verdict::NeverSeen || seen.renewal.is_some())
    }

    /// The first window of silence that holds more than half of the members.
    fn is_mass_loss(&self) -> Option<Window> {
        let members = self.joined().count();
        let mut silent: Vec<Tick> = self.joined().filter_map(|seen| seen.silent_at).collect();
        silent.sort_unstable();
        silent.iter().enumerate().find_map(|(first, at)| {
            let window = Window { from: *at };
            let count = silent[first..]
                .iter()
                .take_while(|at| window.holds(**at))
                .count();
            (count >= MASS_MIN && count * 2 > members).then_some(window)
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Window {
    from: Tick,
}

impl Window {
    fn holds(self, at: Tick) -> bool {
        self.from <= at && at.since(self.from) <= MASS_WINDOW
    }
}

/// Three renewals of 5 s.
pub const LOST_AFTER: Duration = Duration::from_secs(15);
/// Silence within this time counts as one event.
pub const MASS_WINDOW: Duration = Duration::from_secs(10);
/// Of two members one may well die alone.
pub const MASS_MIN: usize = 3;
