//! What a client of incremental ADS makes of an answer, whatever the resources are about.
//!
//! An [`Intake`] judges, its [`Holder`] keeps. Of an answer, removals go first, so that a resource
//! can take the place of one that goes. The others are judged by their envelopes:
//!
//! - the hash of what is in force: ignored;
//! - a smaller `asOf` of the same epoch than what is in force, or none higher than when it was
//!   removed: it comes from a replica that is behind. It is held back for [`HELD_BACK`] and then
//!   takes force, counted, because by then it is the truth;
//! - anything else takes force, unless its holder refuses it.
//!
//! What is refused changes nothing. It is named with the reason in the answer to the answer, and in
//! each later one of its type for as long as that is so: whoever serves knows how things are. A
//! resource that is refused only because its place is taken is kept, and tried again when something
//! has gone or was replaced; so the order inside an answer, and between answers, doesn't matter. All
//! that are kept are tried together, so two may swap their places.
//!
//! Removals always act: whether it is wise to remove this much is for whoever serves to decide.
//!
//! Memory: names and stamps of what was removed ([`envelope::REMOVED_MAX`]), what is held back, what is
//! refused ([`REFUSED_MAX`], [`REFUSED_BYTES_MAX`]). Cost: O(log n) a resource, besides its
//! holder's; one try of each refused one where something has gone.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use prost::Message;

use super::{
    Type, chunks,
    envelope::{self, Stamp},
    proto::{
        core::{INVALID_ARGUMENT, Status},
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    },
};
use crate::problem::Problem;

/// Keeps what is in force, and knows what resources mean.
pub trait Holder {
    /// The types that are asked for.
    const TYPES: &'static [Type];

    /// What is in force under this name.
    fn find(&self, of: Type, name: &str) -> Option<&Arc<Resource>>;

    /// Everything of a type that is in force.
    fn all(&self, of: Type) -> impl Iterator<Item = &Arc<Resource>>;

    /// Makes a resource take force in place of the one of the same name; says whether that changes
    /// anything. When it is refused, nothing changes.
    fn put(&mut self, of: Type, resource: Arc<Resource>) -> Result<bool, Refusal>;

    /// The same for several, of which some may only have their places together; what became of each.
    fn put_together(
        &mut self,
        of: Type,
        resources: &[Arc<Resource>],
    ) -> Vec<Result<bool, Refusal>> {
        let each = resources.iter().cloned();
        each.map(|resource| self.put(of, resource)).collect()
    }

    /// Makes a resource go, if it is there; says whether that changes anything. It is also told of
    /// names that it doesn't have.
    fn remove(&mut self, of: Type, name: &str) -> bool;
}

/// Why a resource does not take force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// All that is wrong with it.
    pub problems: Vec<Problem>,
    /// Whether it is well formed and only finds its place taken: it may take force once something
    /// else goes.
    pub may_fit_later: bool,
}

/// The client's state, over all its streams.
#[derive(Debug, Default)]
pub struct Intake<H> {
    holder: H,
    /// The stamps of what was removed, so that a replica that is behind can't bring it back.
    removed: BTreeMap<Key, Stamp>,
    deferred: BTreeMap<Key, Deferred>,
    refused: BTreeMap<Key, Refused>,
    refused_bytes: usize,
    /// Whether a place may be free that was not when refused ones were tried last.
    freed: bool,
    newest: Stamp,
    counts: Counts,
}

type Key = (Type, String);

#[derive(Debug)]
struct Deferred {
    resource: Arc<Resource>,
    until: Duration,
}

#[derive(Debug)]
struct Refused {
    problems: Vec<Problem>,
    /// To be tried again.
    kept: Option<Arc<Resource>>,
}

/// What came of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether anything that is in force changed.
    pub changed: bool,
    /// What is refused that was not before.
    pub problems: Vec<Problem>,
}

/// What has happened so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Answers.
    pub responses: u64,
    /// Resources that took force.
    pub accepted: u64,
    /// Resources that were refused.
    pub refused: u64,
    /// Of those, the ones that took force once their place was free.
    pub fitted_later: u64,
    /// Resources with the content that was in force.
    pub unchanged: u64,
    /// Resources held back.
    pub deferred: u64,
    /// Resources that took force although something newer had been seen.
    pub accepted_stale: u64,
    /// Resources removed.
    pub removed: u64,
}

// === impl Intake ===

impl<H: Holder> Intake<H> {
    /// Nothing is in force but what `holder` has.
    pub fn new(holder: H) -> Self {
        Self {
            holder,
            removed: BTreeMap::new(),
            deferred: BTreeMap::new(),
            refused: BTreeMap::new(),
            refused_bytes: 0,
            freed: false,
            newest: Stamp::default(),
            counts: Counts::default(),
        }
    }

    /// Takes over what was in force in an earlier life, which is nobody's answer.
    pub fn restore(&mut self, resources: Vec<(Type, Resource)>) -> Outcome {
        let mut round = Round::default();
        for (of, resource) in resources {
            self.accept(of, Arc::new(resource), &mut round);
        }
        self.finish(round)
    }

    /// A new stream begins. What an earlier one said and was held back or refused is forgotten: it
    /// is said again if it is still so.
    pub fn connect(&mut self) {
        self.deferred.clear();
        self.refused.clear();
        self.refused_bytes = 0;
    }

    /// The first request of a type: what is asked for, and what is here already.
    pub fn subscribe(&self, of: Type, names: Vec<String>) -> DeltaDiscoveryRequest {
        let held = self.holder.all(of);
        DeltaDiscoveryRequest {
            type_url: of.url().to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: held
                .map(|held| (held.name.clone(), held.version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Takes an answer at `now`, counted from a start that is the caller's to choose; the answer to
    /// it, and what came of it.
    pub fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Duration,
    ) -> (DeltaDiscoveryRequest, Outcome) {
        self.counts.responses += 1;
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let asked = |of: &Type| H::TYPES.contains(of);
        let Some(of) = Type::parse(&response.type_url).filter(asked) else {
            let message = "is a type that was not asked for".to_owned();
            answer.error_detail = Some(status(message));
            return (answer, Outcome::default());
        };
        let mut round = Round::default();
        for name in &response.removed_resources {
            round.changed |= self.remove(of, name);
        }
        for resource in response.resources {
            self.judge(of, Arc::new(resource), now, &mut round);
        }
        let outcome = self.finish(round);
        answer.error_detail = self.refusal(of, &outcome.problems);
        (answer, outcome)
    }

    /// When [`Self::release`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deferred.values().map(|deferred| deferred.until).min()
    }

    /// Accepts what has been held back for long enough. The server was told long ago that it came:
    /// a refusal shows in the answer to what it says next.
    pub fn release(&mut self, now: Duration) -> Outcome {
        let due = |_: &Key, deferred: &mut Deferred| deferred.until <= now;
        let due: Vec<(Key, Deferred)> = self.deferred.extract_if(.., due).collect();
        let mut round = Round::default();
        for ((of, _), deferred) in due {
            self.counts.accepted_stale += 1;
            self.accept(of, deferred.resource, &mut round);
        }
        self.finish(round)
    }

    /// Gives up a resource that is no longer asked for. Nobody said that it is gone, so it may come
    /// back as it was.
    pub fn forget(&mut self, of: Type, name: &str) {
        let key = (of, name.to_owned());
        self.deferred.remove(&key);
        self.unrefuse(&key);
        self.freed |= self.holder.remove(of, name);
    }

    /// What is in force.
    pub fn holder(&self) -> &H {
        &self.holder
    }

    /// The same, for what is not told by resources.
    pub fn holder_mut(&mut self) -> &mut H {
        &mut self.holder
    }

    /// The highest `asOf` that took force in the newest epoch; the default when nothing states one.
    pub fn stamp(&self) -> &Stamp {
        &self.newest
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn judge(&mut self, of: Type, resource: Arc<Resource>, now: Duration, round: &mut Round) {
        match self.verdict(of, &resource) {
            Verdict::Unchanged => {
                self.counts.unchanged += 1;
                let key = (of, resource.name.clone());
                self.deferred.remove(&key);
                self.unrefuse(&key);
            }
            Verdict::Behind => {
                self.counts.deferred += 1;
                let until = now + HELD_BACK;
                let key = (of, resource.name.clone());
                self.deferred.insert(key, Deferred { resource, until });
            }
            Verdict::Fresh => self.accept(of, resource, round),
        }
    }

    fn verdict(&self, of: Type, resource: &Resource) -> Verdict {
        let new = envelope::stamp(resource);
        let behind = match self.holder.find(of, &resource.name) {
            Some(held) if !resource.version.is_empty() && held.version == resource.version => {
                return Verdict::Unchanged;
            }
            Some(held) => {
                let old = envelope::stamp(held);
                new.epoch == old.epoch && new.as_of < old.as_of
            }
            None => {
                let old = self.removed.get(&(of, resource.name.clone()));
                let behind = |old: &Stamp| new.epoch == old.epoch && new.as_of <= old.as_of;
                new.as_of > 0 && old.is_some_and(behind)
            }
        };
        if behind {
            Verdict::Behind
        } else {
            Verdict::Fresh
        }
    }

    fn accept(&mut self, of: Type, resource: Arc<Resource>, round: &mut Round) {
        let key = (of, resource.name.clone());
        if of == Type::Chunk && chunks::is_gone(&resource) {
            round.changed |= self.remove(of, &resource.name);
            envelope::remember(&mut self.removed, key, &resource);
            return;
        }
        self.deferred.remove(&key);
        self.unrefuse(&key);
        match self.put(&key, &resource) {
            Ok(changed) => {
                round.changed |= changed;
                round.refused.remove(&key);
            }
            Err(refusal) => self.refuse(key, resource, refusal, round),
        }
    }

    fn put(&mut self, key: &Key, resource: &Arc<Resource>) -> Result<bool, Refusal> {
        let replaces = self.holder.find(key.0, &key.1).is_some();
        let changed = self.holder.put(key.0, Arc::clone(resource))?;
        self.note_accepted(key, resource, replaces);
        Ok(changed)
    }

    fn note_accepted(&mut self, key: &Key, resource: &Resource, replaces: bool) {
        self.counts.accepted += 1;
        self.freed |= replaces;
        let stamp = envelope::stamp(resource);
        if stamp.epoch != self.newest.epoch {
            self.removed.clear();
        }
        if stamp.epoch != self.newest.epoch || stamp.as_of > self.newest.as_of {
            self.newest = stamp;
        }
        self.removed.remove(key);
    }

    fn remove(&mut self, of: Type, name: &str) -> bool {
        let key = (of, name.to_owned());
        self.deferred.remove(&key);
        self.unrefuse(&key);
        if let Some(held) = self.holder.find(of, name) {
            self.counts.removed += 1;
            self.freed = true;
            envelope::remember(&mut self.removed, key, held);
        }
        self.holder.remove(of, name)
    }

    fn refuse(&mut self, key: Key, resource: Arc<Resource>, refusal: Refusal, round: &mut Round) {
        if self.refused.len() >= REFUSED_MAX {
            round.beyond.extend(refusal.problems);
            return;
        }
        let bytes = resource.encoded_len();
        let fits = self.refused_bytes + bytes <= REFUSED_BYTES_MAX;
        let kept = Some(resource).filter(|_| refusal.may_fit_later && fits);
        self.refused_bytes += kept.as_ref().map_or(0, |_| bytes);
        round.refused.insert(key.clone());
        let problems = refusal.problems;
        self.refused.insert(key, Refused { problems, kept });
    }

    fn unrefuse(&mut self, key: &Key) {
        if let Some(refused) = self.refused.remove(key) {
            let kept = refused.kept.as_ref();
            self.refused_bytes -= kept.map_or(0, |kept| kept.encoded_len());
        }
    }

    /// Tries what was refused for as long as something goes; then counts what is refused.
    fn finish(&mut self, mut round: Round) -> Outcome {
        // What was refused just now may have its place together with another one.
        let mut again = !round.refused.is_empty();
        while std::mem::take(&mut self.freed) || std::mem::take(&mut again) {
            let types = self.refused.keys().map(|(of, _)| *of);
            for of in types.collect::<BTreeSet<_>>() {
                self.try_again(of, &mut round);
            }
        }
        let new = round.refused.iter().filter_map(|key| self.refused.get(key));
        let problems = new.flat_map(|refused| refused.problems.iter().cloned());
        let mut problems: Vec<Problem> = problems.collect();
        self.counts.refused += (round.refused.len() + round.beyond.len()) as u64;
        problems.extend(round.beyond);
        Outcome {
            changed: round.changed,
            problems,
        }
    }

    fn try_again(&mut self, of: Type, round: &mut Round) {
        let waiting = self.refused.iter().filter(|((one, _), _)| *one == of);
        let waiting = waiting.filter_map(|(_, one)| one.kept.clone());
        let waiting: Vec<Arc<Resource>> = waiting.collect();
        let here = |one: &Arc<Resource>| self.holder.find(of, &one.name).is_some();
        let replaces: Vec<bool> = waiting.iter().map(here).collect();
        let results = self.holder.put_together(of, &waiting);
        for ((resource, replaces), result) in waiting.iter().zip(replaces).zip(results) {
            let key = (of, resource.name.clone());
            match result {
                Ok(changed) => {
                    self.note_accepted(&key, resource, replaces);
                    round.changed |= changed;
                    self.unrefuse(&key);
                    let before = !round.refused.remove(&key);
                    self.counts.fitted_later += u64::from(before);
                }
                Err(refusal) => {
                    let refused = self.refused.get_mut(&key).expect("it was there to try");
                    refused.problems = refusal.problems;
                }
            }
        }
    }

    /// What of a type is refused now: what was before, and what is `new`.
    fn refusal(&self, of: Type, new: &[Problem]) -> Option<Status> {
        let known = self.refused.range((of, String::new())..);
        let known = known.take_while(|((one, _), _)| *one == of);
        let known = known.flat_map(|(_, refused)| &refused.problems);
        let known = known.filter(|problem| !new.contains(problem));
        let problems: Vec<&Problem> = new.iter().chain(known).collect();
        let mut text = String::new();
        for (index, problem) in problems.iter().enumerate() {
            let line = problem.to_string();
            let room = REFUSAL_BYTES_MAX - "; and 1000000 more".len();
            if text.len() + line.len() > room && index > 0 {
                text.push_str(&format!("; and {} more", problems.len() - index));
                break;
            }
            if index > 0 {
                text.push_str("; ");
            }
            text.push_str(&line);
        }
        (!problems.is_empty()).then(|| status(text))
    }
}

/// What came of the resources of one answer so far.
#[derive(Default)]
struct Round {
    changed: bool,
    /// Which are refused.
    refused: BTreeSet<Key>,
    /// What is wrong with those that are not remembered.
    beyond: Vec<Problem>,
}

/// What to make of one resource before it is read.
enum Verdict {
    Unchanged,
    Behind,
    Fresh,
}

fn status(mut message: String) -> Status {
    message.truncate(message.floor_char_boundary(REFUSAL_BYTES_MAX));
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// How long a resource of a replica that is behind waits for something newer.
pub const HELD_BACK: Duration = Duration::from_secs(10);

/// Refused resources that are remembered; what goes beyond is named once and not tried again.
pub const REFUSED_MAX: usize = 1000;

/// Of refused resources that wait for their place; what goes beyond is not tried again. As much as
/// the largest answer holds, several times over.
pub const REFUSED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Of the text of a refusal; it ends up in a condition's message and in a log.
const REFUSAL_BYTES_MAX: usize = 4096;
