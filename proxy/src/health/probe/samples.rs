//! The endpoints of one member that stand for all of it.

use fairlead_runtime::clock::Tick;

use super::ProbeError;
use crate::registry::EndpointId;

/// A member's probed endpoints, in every service.
#[derive(Debug, Default)]
pub(super) struct Samples {
    endpoints: Vec<EndpointId>,
    cursor: usize,
    /// The second of the last round; 0 before the first.
    second: u64,
    /// Answers that the current round waits for, and whether one of them wasn't bad.
    pending: u32,
    spared: bool,
    bad_rounds: u8,
    dead: bool,
    /// Whether all bad answers of the last whole round were [`ProbeError::is_death`], and so far of
    /// the current one.
    silent: bool,
    silent_so_far: bool,
}

impl Samples {
    /// Adds an endpoint; the answer is its place.
    pub(super) fn add(&mut self, endpoint: EndpointId) -> u32 {
        self.endpoints.push(endpoint);
        self.endpoints.len() as u32 - 1
    }

    /// Removes the endpoint at a place; the answer is the one that stands there now.
    pub(super) fn remove(&mut self, place: u32) -> Option<EndpointId> {
        self.endpoints.swap_remove(place as usize);
        self.endpoints.get(place as usize).copied()
    }

    pub(super) fn endpoints(&self) -> &[EndpointId] {
        &self.endpoints
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Dead, and nobody is there.
    pub(super) fn is_silent(&self) -> bool {
        self.dead && self.silent
    }

    /// When its next round begins.
    pub(super) fn next(&self, now: Tick) -> Tick {
        if second(now) > self.second {
            now
        } else {
            Tick((second(now) + 1) * NANOS_PER_SECOND)
        }
    }

    /// The samples of a new round: `count` in turn, all where there are no more. None while this
    /// second's round, or one that began earlier, isn't over.
    pub(super) fn take(&mut self, count: usize, now: Tick) -> Vec<EndpointId> {
        if second(now) <= self.second || self.pending > 0 {
            return Vec::new();
        }
        self.second = second(now);
        let count = count.min(self.endpoints.len());
        let chosen: Vec<EndpointId> = (0..count)
            .map(|step| self.endpoints[(self.cursor + step) % self.endpoints.len()])
            .collect();
        self.cursor = (self.cursor + count) % self.endpoints.len().max(1);
        self.pending = count as u32;
        self.spared = false;
        self.silent_so_far = true;
        chosen
    }

    /// Adds an answer, or that there will be none; true when the member's verdict changed. Any good
    /// answer brings it back.
    pub(super) fn answered(
        &mut self,
        good: Option<bool>,
        error: Option<ProbeError>,
        is_sample: bool,
    ) -> bool {
        let before = (self.dead, self.silent);
        if good == Some(true) {
            self.bad_rounds = 0;
            self.dead = false;
        }
        if good != Some(false) {
            self.spared = true;
        }
        if is_sample && self.pending > 0 {
            self.pending -= 1;
            self.silent_so_far &= error.is_some_and(ProbeError::is_death);
            if self.pending == 0 && !self.spared {
                self.bad_rounds = (self.bad_rounds + 1).min(2);
                self.dead = self.bad_rounds == 2;
                self.silent = self.silent_so_far;
            }
        }
        (self.dead, self.silent) != before
    }
}

fn second(now: Tick) -> u64 {
    // From 1, so that 0 stands for never.
    now.0 / NANOS_PER_SECOND + 1
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
