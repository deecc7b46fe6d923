//! What a process that has just started still waits for.

use std::time::Duration;

use fairlead_config::snapshot::Snapshot;
use fairlead_runtime::{
    clock::Tick,
    ready::{Readiness, Token},
};

use crate::{
    control::Control,
    source::{feed::Feed, xds::XdsSource},
};

/// Each wait, until it is over.
pub(super) struct Waits {
    /// A first answer of every probe and of every look-up, or enough patience for it.
    first_round: Option<(Token, Tick)>,
    /// Something to serve with all that it needs, or a word from the control plane that there is nothing.
    control_plane: Option<Token>,
    /// Sockets that an earlier process left, while a control plane may still ask for them.
    inherited_until: Option<Tick>,
}

impl Waits {
    /// Of a process that starts with a file, or with a control plane.
    pub(super) fn new(readiness: &Readiness, with_file: bool, now: Tick) -> Self {
        let first_round = readiness.wait_for("the first round of probes");
        let control_plane = || readiness.wait_for("the control plane's first answer");
        Self {
            first_round: Some((first_round, now + FIRST_ROUND_MAX)),
            control_plane: (!with_file).then(control_plane),
            inherited_until: (!with_file).then_some(now + INHERITED_MAX),
        }
    }

    /// When [`Self::step`] has something to do by time alone.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        let first_round = self.first_round.as_ref().map(|(_, until)| *until);
        let deadlines = [first_round, self.inherited_until];
        deadlines.into_iter().flatten().min()
    }

    /// Ends what is over.
    pub(super) fn step(&mut self, control: &mut Control, feed: &Feed, now: Tick) {
        if let Some((_, until)) = &self.first_round {
            let answered = control.directory().unverified() == 0 && control.unanswered_names() == 0;
            if now >= *until || answered {
                self.first_round = None;
            }
        }
        if self.control_plane.is_some() {
            let xds = feed.xds.as_ref();
            let told = || xds.is_some_and(|xds| xds.has_told_all(now));
            let waiting = || xds.is_some_and(XdsSource::is_waiting);
            if (is_served(control.snapshot()) && !waiting()) || told() {
                self.control_plane = None;
            }
        }
        if self.inherited_until.is_some_and(|until| now >= until) {
            control.drop_inherited();
            self.inherited_until = None;
        }
    }
}

/// Whether there is a frontend, and no frontend without its service.
fn is_served(snapshot: &Snapshot) -> bool {
    let mut frontends = snapshot.frontends.values();
    !snapshot.frontends.is_empty()
        && frontends.all(|frontend| snapshot.services.contains_key(&frontend.service))
}

/// How long readiness waits for probes.
const FIRST_ROUND_MAX: Duration = Duration::from_secs(5);
/// How long a control plane may take to ask for the sockets that its proxy had before. Clients wait
/// in their queues meanwhile.
const INHERITED_MAX: Duration = Duration::from_secs(10);
