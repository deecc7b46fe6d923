//! Whether endpoints can take sessions, and why not.
//!
//! | module | what it knows |
//! |---|---|
//! | [`verdict`] | the truth table: object state, control link, probes and passive signals to one verdict |
//! | [`probe`] | which endpoint is probed when, within a budget, and what results add up to |
//! | [`passive`] | three strikes in a row, ejection and its cap, the trial that ends it |
//! | [`member`] | members of which most recent connects failed |
//! | [`times`] | how long connects take |
//! | [`io`] | the probes themselves |
//!
//! The signals are kept apart: each has flags of its own in
//! [`EndpointState`], so one that ends never undoes another. Passive
//! ejections are capped and never take the last usable endpoint; failed probes and object state are
//! neither. Data threads note outcomes in relaxed counters and report only what may change a verdict.

use std::sync::Arc;

use fairlead_runtime::clock::Tick;

use crate::registry::{EndpointState, Flags, Outcome};

pub mod io;
pub mod member;
pub mod passive;
pub mod probe;
pub mod times;
pub mod verdict;

/// What a data thread saw that may change a verdict.
#[derive(Debug, Clone)]
pub struct Report {
    /// The endpoint.
    pub endpoint: Arc<EndpointState>,
    /// How it did.
    pub outcome: Outcome,
    /// Its strikes in a row by then; 0 when this was none.
    pub strikes: u32,
}

/// Takes note of an outcome where the endpoint's counters are; the report, where one is due, is for
/// the health owner.
///
/// A few relaxed writes. Good outcomes are reported only while they can end an ejection.
pub fn note(endpoint: &Arc<EndpointState>, outcome: Outcome, now: Tick) -> Option<Report> {
    let strikes = endpoint.record(outcome, now);
    let good = matches!(outcome, Outcome::Connected(_) | Outcome::Served);
    let due = strikes > 0 || good && endpoint.flags().has(Flags::EJECTED);
    due.then(|| Report {
        endpoint: endpoint.clone(),
        outcome,
        strikes,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::services::service;

    #[test]
    fn only_what_may_change_a_verdict_is_reported() {
        let endpoint = service("a:1").build().endpoints()[0].clone();
        let connected = Outcome::Connected(Duration::from_millis(1));
        let reported = |outcome| note(&endpoint, outcome, Tick(0)).map(|report| report.strikes);
        assert_eq!(reported(connected), None);
        assert_eq!(reported(Outcome::Served), None);
        assert_eq!(reported(Outcome::Ours), None);
        assert_eq!(reported(Outcome::Refused), Some(1));
        endpoint.change_flags(Flags::EJECTED, Flags::NONE);
        assert_eq!(reported(connected), Some(0));
        assert_eq!(reported(Outcome::Served), Some(0));
    }
}
