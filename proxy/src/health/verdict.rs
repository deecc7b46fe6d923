//! One verdict from three signals that are kept apart.
//!
//! | objects | link to the hub | probes from here | ejected | verdict |
//! |---|---|---|---|---|
//! | not ready | any | any | any | down here and everywhere: not ready |
//! | any other | any | bad | any | down here: probes (and withdrawn elsewhere only if they see it too) |
//! | any other | lost | none | any | down: nothing vouches for it |
//! | any other | lost | good | no | as its objects last said: the API's absence breaks nothing |
//! | any other | any | any other | yes | down: strikes |
//! | draining | any other | any other | no | draining |
//! | ready | any other | any other | no | usable |

use std::fmt;

use fairlead_config::endpoint::ObjectState;

use super::probe::ProbeError;
use crate::registry::{Flags, Outcome};

/// What the probes of an endpoint say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Probed {
    /// Nothing probes it.
    #[default]
    Unchecked,
    /// It is probed, and no probe has ended a streak yet.
    Unverified,
    /// It answers.
    Good,
    /// It doesn't.
    Bad,
}

/// Whether a member's agent is in touch with the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Link {
    /// It is, or nobody says otherwise.
    #[default]
    Present,
    /// Its lease ran out.
    Lost,
}

/// Whether an endpoint takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It does.
    Usable,
    /// Only when nothing else in its member can.
    Draining,
    /// It doesn't.
    Down(Cause),
}

/// Which signal took an endpoint out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It is gone from the snapshot.
    Removed,
    /// Its objects say that it isn't ready.
    NotReady,
    /// Probes from here fail.
    Probes,
    /// Its member is out of touch with the hub, and nothing probes it.
    LinkLost,
    /// Three strikes in a row.
    Ejected,
}

/// A verdict's grounds, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing stands against it.
    Fine,
    /// Probed, but no probe has answered yet; it takes sessions meanwhile.
    Unverified,
    /// It leaves.
    Leaving,
    /// Gone from the snapshot.
    Removed,
    /// Its objects say so.
    NotReady,
    /// The last failed probe.
    Probe(ProbeError),
    /// Every sampled endpoint of its member failed twice.
    MemberDead,
    /// The hub lost its member, and nothing probes it.
    LinkLost,
    /// The last strike, and how many times it was ejected lately.
    Ejected {
        /// What the third strike was.
        outcome: Outcome,
        /// From 1.
        times: u32,
    },
}

/// The truth table.
pub fn judge(object: ObjectState, link: Link, probed: Probed, ejected: bool) -> Verdict {
    match (object, link, probed) {
        (ObjectState::NotReady, _, _) => Verdict::Down(Cause::NotReady),
        (_, _, Probed::Bad) => Verdict::Down(Cause::Probes),
        (_, Link::Lost, Probed::Unchecked) => Verdict::Down(Cause::LinkLost),
        _ if ejected => Verdict::Down(Cause::Ejected),
        (ObjectState::Draining, _, _) => Verdict::Draining,
        (ObjectState::Ready, _, _) => Verdict::Usable,
    }
}

impl Verdict {
    /// The verdict that flags amount to.
    pub fn of(flags: Flags) -> Self {
        if flags.has(Flags::REMOVED) {
            return Self::Down(Cause::Removed);
        }
        let object = if flags.has(Flags::NOT_READY) {
            ObjectState::NotReady
        } else if flags.has(Flags::DRAINING) {
            ObjectState::Draining
        } else {
            ObjectState::Ready
        };
        // A lost link is flagged only where nothing probes.
        let link = if flags.has(Flags::LINK_LOST) {
            Link::Lost
        } else {
            Link::Present
        };
        let probed = if flags.has(Flags::PROBE_DOWN) {
            Probed::Bad
        } else {
            Probed::Unchecked
        };
        judge(object, link, probed, flags.has(Flags::EJECTED))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine => write!(out, "fine"),
            Self::Unverified => write!(out, "no probe has answered yet"),
            Self::Leaving => write!(out, "its objects say that it is terminating"),
            Self::Removed => write!(out, "it is gone from the configuration"),
            Self::NotReady => write!(out, "its objects say that it is not ready"),
            Self::Probe(error) => write!(out, "probe: {error}"),
            Self::MemberDead => write!(
                out,
                "every sampled endpoint of its member failed its probes"
            ),
            Self::LinkLost => write!(out, "its member is out of touch and nothing probes it"),
            Self::Ejected { outcome, times } => {
                let what = match outcome {
                    Outcome::Refused => "refused",
                    Outcome::Unreachable => "unreachable",
                    Outcome::TimedOut => "unanswered",
                    _ => "reset before data",
                };
                write!(
                    out,
                    "ejected after three strikes, the last one {what} (ejection {times})"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_table_holds() {
        use Cause::{Ejected, LinkLost, NotReady, Probes};
        use ObjectState as O;
        use Probed as P;
        let down = Verdict::Down;
        let rows = [
            // API lost + probes good = keep serving.
            (O::Ready, Link::Lost, P::Good, false, Verdict::Usable),
            (O::Draining, Link::Lost, P::Good, false, Verdict::Draining),
            // API lost + probes bad = withdraw.
            (O::Ready, Link::Lost, P::Bad, false, down(Probes)),
            // API good + probes bad here = withdraw here.
            (O::Ready, Link::Present, P::Bad, false, down(Probes)),
            (O::Draining, Link::Present, P::Bad, false, down(Probes)),
            // A lost lease withdraws only what nothing probes.
            (O::Ready, Link::Lost, P::Unchecked, false, down(LinkLost)),
            (O::Ready, Link::Lost, P::Unverified, false, Verdict::Usable),
            // Good probes don't overrule the objects, nor strikes that came since.
            (O::NotReady, Link::Present, P::Good, false, down(NotReady)),
            (O::NotReady, Link::Lost, P::Bad, true, down(NotReady)),
            (O::Ready, Link::Present, P::Good, true, down(Ejected)),
            // Never observed = usable.
            (
                O::Ready,
                Link::Present,
                P::Unchecked,
                false,
                Verdict::Usable,
            ),
            (
                O::Ready,
                Link::Present,
                P::Unverified,
                false,
                Verdict::Usable,
            ),
            (
                O::Draining,
                Link::Present,
                P::Unchecked,
                false,
                Verdict::Draining,
            ),
        ];
        for (object, link, probed, ejected, expected) in rows {
            let found = judge(object, link, probed, ejected);
            assert_eq!(
                found, expected,
                "{object:?} {link:?} {probed:?} ejected {ejected}"
            );
        }
    }

    #[test]
    fn flags_and_verdicts_agree_on_what_is_usable() {
        for bits in 0..256 {
            let flags = Flags(bits);
            let verdict = Verdict::of(flags);
            assert_eq!(verdict == Verdict::Usable, flags.is_usable(), "{flags:?}");
            assert_eq!(
                verdict == Verdict::Draining,
                flags.is_draining(),
                "{flags:?}"
            );
        }
    }
}
