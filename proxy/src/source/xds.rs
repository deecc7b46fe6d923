//! A control plane over xDS v3, incremental ADS.
//!
//! [`Ads`] is the client without its socket: what it asks for, what it makes of an answer, what it
//! acknowledges. It asks for all Clusters, chunks of endpoints and Listeners, and by name for the
//! assignments that the Clusters use. What becomes of each resource of an answer is an [`Intake`]'s to say.
//!
//! What took force is kept on disk ([`saved`]), so a restart without a control plane serves at once.
//! Memory: besides what it says, the envelope of each resource; and where there is a disk to write
//! to, its bytes, some 40 an endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_config::{
    problem::{Place, Problem},
    snapshot::Delta,
    xds::{
        Type, chunks,
        decoder::{Decoded, Decoder},
        envelope::{self, Stamp},
        intake::{Holder, Intake, Outcome, Refusal},
        proto::{
            core::Node,
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
        },
    },
};
use fairlead_runtime::clock::Tick;

mod io;
#[cfg(test)]
pub(in crate::source) mod tests;

pub use fairlead_config::xds::{intake::Counts, saved};
pub(in crate::source) use io::channel;
pub use io::{Link, Options, XdsSource, XdsStatus};

/// The state of a client, over all its streams.
#[derive(Debug)]
pub struct Ads {
    node: Node,
    intake: Intake<Held>,
    /// The assignments asked for on this stream.
    asked: BTreeSet<String>,
}

/// What is in force.
#[derive(Debug, Default)]
struct Held {
    decoder: Decoder,
    by_type: BTreeMap<Type, BTreeMap<String, Arc<Resource>>>,
    /// Only envelopes are kept: nobody writes contents to a disk.
    forgets_content: bool,
    /// What has changed since it was asked last.
    delta: Delta,
    /// Whether clusters may use other assignments than before.
    moved: bool,
}

/// What is to be done after an answer, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Changes for the control thread.
    pub delta: Delta,
    /// What was refused.
    pub problems: Vec<Problem>,
    /// What to send.
    pub requests: Vec<DeltaDiscoveryRequest>,
}

// === impl Ads ===

impl Ads {
    /// A client that has nothing yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            intake: Intake::new(Held::default()),
            asked: BTreeSet::new(),
        }
    }

    /// Keeps no content from now on, and [`Self::in_force`] is empty.
    pub fn forget_content(&mut self) {
        self.intake.holder_mut().forgets_content = true;
    }

    /// Takes over what was in force when it was saved. Problems mean that an older process wrote
    /// what this one refuses; the rest takes force.
    pub fn restore(&mut self, resources: Vec<(String, Resource)>) -> Step {
        let known = resources
            .into_iter()
            .filter_map(|(url, resource)| Some((Type::parse(&url)?, resource)))
            .filter(|(of, _)| Held::TYPES.contains(of));
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|(of, _)| *of);
        let outcome = self.intake.restore(known);
        self.step(outcome)
    }

    /// The first requests of a new stream.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.intake.connect();
        self.asked = self.wanted();
        let names: Vec<String> = self.asked.iter().cloned().collect();
        let all = || vec![WILDCARD.to_owned()];
        let mut requests = vec![
            self.intake.subscribe(Type::Cluster, all()),
            // Before the assignments: so they come without endpoints, and chunks come instead.
            self.intake.subscribe(Type::Chunk, all()),
            self.intake.subscribe(Type::Listener, all()),
        ];
        if !names.is_empty() {
            requests.insert(2, self.intake.subscribe(Type::Assignment, names));
        }
        requests[0].node = Some(Node {
            metadata: envelope::node_metadata(self.intake.stamp()),
            ..self.node.clone()
        });
        requests
    }

    /// Takes an answer.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse, now: Tick) -> Step {
        let (answer, outcome) = self.intake.receive(response, now.since(Tick::ZERO));
        let mut step = self.step(outcome);
        step.requests.insert(0, answer);
        step
    }

    /// When [`Self::release`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.intake.next_deadline().map(Tick::from_start)
    }

    /// Accepts what has been held back for long enough.
    pub fn release(&mut self, now: Tick) -> Step {
        let outcome = self.intake.release(now.since(Tick::ZERO));
        self.step(outcome)
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.intake.counts()
    }

    /// The highest `asOf` that took force in the newest epoch; the default when nothing states one.
    pub fn stamp(&self) -> Stamp {
        self.intake.stamp().clone()
    }

    /// What is in force, with types, for the disk.
    pub fn in_force(&self) -> Vec<(&'static str, Arc<Resource>)> {
        let by_type = &self.intake.holder().by_type;
        let pairs = by_type.iter().flat_map(|(of, held)| {
            let whole = held.values().filter(|held| held.resource.is_some());
            whole.map(|resource| (of.url(), Arc::clone(resource)))
        });
        pairs.collect()
    }

    /// The names of services whose endpoints have not come.
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.intake.holder().decoder.waiting();
        waiting.map(ToString::to_string).collect()
    }

    /// Whether there is such a service.
    pub fn is_waiting(&self) -> bool {
        self.intake.holder().decoder.waiting().next().is_some()
    }

    fn step(&mut self, outcome: Outcome) -> Step {
        let moved = std::mem::take(&mut self.intake.holder_mut().moved);
        let follow = if moved { self.follow() } else { Vec::new() };
        Step {
            delta: std::mem::take(&mut self.intake.holder_mut().delta),
            problems: outcome.problems,
            requests: follow,
        }
    }

    fn wanted(&self) -> BTreeSet<String> {
        let names = self.intake.holder().decoder.assignment_names();
        names.map(str::to_owned).collect()
    }

    /// Asks for the assignments that the clusters use now, and no longer for others. One that is needed
    /// again, and of which only the envelope is left, is given up and asked for anew.
    fn follow(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let wanted = self.wanted();
        let anew = self.intake.holder().without_content();
        for name in &anew {
            self.asked.remove(name);
            self.intake.forget(Type::Assignment, name);
        }
        let request = |subscribe, unsubscribe| DeltaDiscoveryRequest {
            type_url: Type::Assignment.url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        };
        let mut requests = Vec::new();
        if !anew.is_empty() {
            requests.push(request(Vec::new(), anew));
        }
        let subscribe: Vec<String> = wanted.difference(&self.asked).cloned().collect();
        let unsubscribe: Vec<String> = self.asked.difference(&wanted).cloned().collect();
        for name in &unsubscribe {
            self.intake.forget(Type::Assignment, name);
        }
        self.asked = wanted;
        self.intake.holder_mut().pass_on();
        if !subscribe.is_empty() || !unsubscribe.is_empty() {
            requests.push(request(subscribe, unsubscribe));
        }
        requests
    }
}

// === impl Held ===

impl Held {
    /// Assignments that a cluster waits for and of which there is an envelope only.
    fn without_content(&self) -> Vec<String> {
        let missing = self.decoder.missing();
        let empty = |name: &&str| {
            let held = self.find(Type::Assignment, name);
            held.is_some_and(|held| held.resource.is_none())
        };
        missing.filter(empty).map(str::to_owned).collect()
    }

    /// Keeps what was accepted, and says of each what became of it.
    fn judge(
        &mut self,
        of: Type,
        decoded: Decoded,
        resources: &[Arc<Resource>],
    ) -> Vec<Result<bool, Refusal>> {
        self.delta.changes.extend(decoded.delta.changes);
        let mut refused: BTreeMap<&str, Vec<Problem>> = BTreeMap::new();
        for problem in &decoded.problems {
            if let Place::Resource { name, .. } = &problem.place {
                refused.entry(name).or_default().push(problem.clone());
            }
        }
        let verdict = |resource: &Arc<Resource>| match refused.remove(&*resource.name) {
            Some(problems) => Err(Refusal {
                problems,
                may_fit_later: decoded.displaced.contains(&resource.name),
            }),
            None => {
                self.keep(of, resource);
                Ok(true)
            }
        };
        resources.iter().map(verdict).collect()
    }

    fn keep(&mut self, of: Type, resource: &Arc<Resource>) {
        self.moved |= of == Type::Cluster;
        let kept = if self.forgets_content {
            Arc::new(envelope_of(resource))
        } else {
            Arc::clone(resource)
        };
        let of_type = self.by_type.entry(of).or_default();
        of_type.insert(kept.name.clone(), kept);
    }

    /// A cluster may have taken over the assignment of another one: it is here, so it is not sent
    /// again.
    fn pass_on(&mut self) {
        let missing: Vec<String> = self.decoder.missing().map(str::to_owned).collect();
        for name in missing {
            if let Some(held) = self.find(Type::Assignment, &name).cloned() {
                let one = std::slice::from_ref(&*held);
                let decoded = self.decoder.decode(Type::Assignment.url(), one, &[]);
                self.delta.changes.extend(decoded.delta.changes);
            }
        }
    }
}

impl Holder for Held {
    const TYPES: &'static [Type] = &Type::OF_PROXIES;

    fn find(&self, of: Type, name: &str) -> Option<&Arc<Resource>> {
        self.by_type.get(&of)?.get(name)
    }

    fn all(&self, of: Type) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_type.get(&of).into_iter().flat_map(BTreeMap::values)
    }

    fn put(&mut self, of: Type, resource: Arc<Resource>) -> Result<bool, Refusal> {
        let one = std::slice::from_ref(&*resource);
        let decoded = self.decoder.decode(of.url(), one, &[]);
        let mut judged = self.judge(of, decoded, std::slice::from_ref(&resource));
        judged.pop().expect("as many verdicts as resources")
    }

    fn put_together(
        &mut self,
        of: Type,
        resources: &[Arc<Resource>],
    ) -> Vec<Result<bool, Refusal>> {
        let all: Vec<Resource> = resources.iter().map(|one| Resource::clone(one)).collect();
        let decoded = self.decoder.decode(of.url(), &all, &[]);
        self.judge(of, decoded, resources)
    }

    fn remove(&mut self, of: Type, name: &str) -> bool {
        let decoded = self.decoder.decode(of.url(), &[], &[name.to_owned()]);
        self.delta.changes.extend(decoded.delta.changes);
        self.moved |= of == Type::Cluster;
        if of == Type::Assignment
            && let Some(held) = self.by_type.get_mut(&Type::Chunk)
        {
            // Chunks go with their assignment.
            let prefix = chunks::prefix(name);
            let first = held.range(prefix.clone()..);
            let theirs = first.take_while(|(name, _)| name.starts_with(&prefix));
            for name in theirs.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                held.remove(&name);
            }
        }
        let of_type = self.by_type.get_mut(&of);
        of_type.is_some_and(|held| held.remove(name).is_some())
    }
}

/// A resource without its content.
fn envelope_of(resource: &Resource) -> Resource {
    Resource {
        name: resource.name.clone(),
        aliases: Vec::new(),
        version: resource.version.clone(),
        resource: None,
        ttl: None,
        metadata: resource.metadata.clone(),
    }
}

/// Everything of a type.
const WILDCARD: &str = "*";
