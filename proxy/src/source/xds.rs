//! A control plane over xDS v3, incremental ADS.
//!
//! [`Ads`] is the client without its socket: what it asks for, what it makes of an answer, what it
//! acknowledges. It asks for all Clusters and Listeners, and by name for the assignments that the
//! Clusters use. Each answer is acknowledged; resources that are refused are named with the reason,
//! the others of the same answer take force.
//!
//! A resource carries the hash of its content as its version, `asOf` and `epoch`. An equal hash is
//! ignored. A resource with a smaller `asOf` of the same epoch comes from a replica that is behind:
//! it is held back for [`HELD_BACK`] and then accepted, counted, because by then it is the truth. So
//! is a resource that comes back no newer than it was when it was removed.
//!
//! What took force is kept on disk ([`saved`]), so a restart without a control plane serves at once.
//! Memory: the bytes of each resource, besides what they say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_config::{
    problem::{Place, Problem},
    snapshot::Delta,
    xds::{
        TYPES,
        decoder::Decoder,
        envelope::{self, Stamp},
        proto::{
            core::{INVALID_ARGUMENT, Node, Status},
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
        },
    },
};
use fairlead_runtime::clock::Tick;

mod io;
#[cfg(test)]
pub(in crate::source) mod tests;

pub use fairlead_config::xds::saved;
pub(in crate::source) use io::channel;
pub use io::{Link, Options, XdsSource, XdsStatus};

/// The state of a client, over all its streams.
#[derive(Debug)]
pub struct Ads {
    node: Node,
    decoder: Decoder,
    /// In force, by type (as in [`TYPES`]) and name.
    held: [BTreeMap<String, Arc<Resource>>; 3],
    /// The assignments asked for on this stream.
    asked: BTreeSet<String>,
    /// The stamps of what was removed, so that a replica that is behind can't bring it back.
    removed: BTreeMap<(usize, String), Stamp>,
    /// Resources of a replica that is behind, by type and name.
    deferred: BTreeMap<(usize, String), Deferred>,
    newest: Stamp,
    counts: Counts,
}

/// A resource that is held back.
#[derive(Debug)]
struct Deferred {
    resource: Resource,
    until: Tick,
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

/// What has happened so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Answers.
    pub responses: u64,
    /// Resources that took force.
    pub accepted: u64,
    /// Resources that were refused.
    pub refused: u64,
    /// Resources with the content that was in force.
    pub unchanged: u64,
    /// Resources held back.
    pub deferred: u64,
    /// Resources that took force although something newer had been seen.
    pub accepted_stale: u64,
    /// Resources removed.
    pub removed: u64,
}

// === impl Ads ===

impl Ads {
    /// A client that has nothing yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            decoder: Decoder::default(),
            held: Default::default(),
            asked: BTreeSet::new(),
            removed: BTreeMap::new(),
            deferred: BTreeMap::new(),
            newest: Stamp::default(),
            counts: Counts::default(),
        }
    }

    /// Takes over what was in force when it was saved. Problems mean that an older process wrote
    /// what this one refuses; the rest takes force.
    pub fn restore(&mut self, resources: Vec<(String, Resource)>) -> Step {
        let mut step = Step::default();
        let mut by_type: [Vec<Resource>; 3] = Default::default();
        for (type_url, resource) in resources {
            if let Some(kind) = kind_of(&type_url) {
                by_type[kind].push(resource);
            }
        }
        for (kind, resources) in by_type.into_iter().enumerate() {
            self.accept(kind, resources, &[], &mut step);
        }
        step
    }

    /// The first requests of a new stream. What an earlier stream said and was held back is
    /// forgotten: it is said again if it is still so.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.deferred.clear();
        self.asked = self.decoder.assignment_names().map(str::to_owned).collect();
        let names: Vec<String> = self.asked.iter().cloned().collect();
        let mut requests = vec![
            self.subscribe(CLUSTERS, vec![WILDCARD.to_owned()]),
            self.subscribe(LISTENERS, vec![WILDCARD.to_owned()]),
        ];
        if !names.is_empty() {
            requests.insert(1, self.subscribe(ASSIGNMENTS, names));
        }
        requests[0].node = Some(Node {
            metadata: envelope::node_metadata(&self.newest),
            ..self.node.clone()
        });
        requests
    }

    /// Takes an answer.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse, now: Tick) -> Step {
        self.counts.responses += 1;
        let mut step = Step::default();
        let mut ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let Some(kind) = kind_of(&response.type_url) else {
            ack.error_detail = Some(refusal("is a type that was not asked for".to_owned()));
            step.requests.push(ack);
            return step;
        };
        let mut fresh = Vec::new();
        for resource in response.resources {
            match self.judge(kind, &resource) {
                Verdict::Unchanged => {
                    self.counts.unchanged += 1;
                    self.deferred.remove(&(kind, resource.name));
                }
                Verdict::Behind => {
                    self.counts.deferred += 1;
                    let until = now + HELD_BACK;
                    let key = (kind, resource.name.clone());
                    self.deferred.insert(key, Deferred { resource, until });
                }
                Verdict::Fresh => fresh.push(resource),
            }
        }
        self.accept(kind, fresh, &response.removed_resources, &mut step);
        ack.error_detail = refusal_of(&step.problems);
        step.requests.insert(0, ack);
        step
    }

    /// When [`Self::release`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deferred.values().map(|deferred| deferred.until).min()
    }

    /// Accepts what has been held back for long enough.
    pub fn release(&mut self, now: Tick) -> Step {
        let mut step = Step::default();
        let due = |deferred: &Deferred| deferred.until <= now;
        for kind in 0..TYPES.len() {
            let keys: Vec<_> = self
                .deferred
                .iter()
                .filter(|((of, _), deferred)| *of == kind && due(deferred))
                .map(|(key, _)| key.clone())
                .collect();
            let released: Vec<Resource> = keys
                .iter()
                .filter_map(|key| self.deferred.remove(key))
                .map(|deferred| deferred.resource)
                .collect();
            self.counts.accepted_stale += released.len() as u64;
            self.accept(kind, released, &[], &mut step);
        }
        step
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The highest `asOf` that took force in the newest epoch; the default when nothing states one.
    pub fn stamp(&self) -> Stamp {
        self.newest.clone()
    }

    /// What is in force, with types, for the disk.
    pub fn in_force(&self) -> Vec<(&'static str, Arc<Resource>)> {
        let of_type = |(url, held): (&&'static str, &BTreeMap<String, Arc<Resource>>)| {
            let url: &'static str = url;
            let pairs = held.values().map(|resource| (url, resource.clone()));
            pairs.collect::<Vec<_>>()
        };
        TYPES.iter().zip(&self.held).flat_map(of_type).collect()
    }

    /// The names of services whose endpoints have not come.
    pub fn waiting(&self) -> Vec<String> {
        self.decoder.waiting().map(ToString::to_string).collect()
    }

    /// Whether there is such a service.
    pub fn is_waiting(&self) -> bool {
        self.decoder.waiting().next().is_some()
    }

    fn judge(&self, kind: usize, resource: &Resource) -> Verdict {
        let new = envelope::stamp(resource);
        let Some(held) = self.held[kind].get(&resource.name) else {
            let key = (kind, resource.name.clone());
            let old = self.removed.get(&key);
            let behind = |old: &Stamp| new.epoch == old.epoch && new.as_of <= old.as_of;
            return if new.as_of > 0 && old.is_some_and(behind) {
                Verdict::Behind
            } else {
                Verdict::Fresh
            };
        };
        if !resource.version.is_empty() && held.version == resource.version {
            return Verdict::Unchanged;
        }
        let old = envelope::stamp(held);
        if new.epoch == old.epoch && new.as_of < old.as_of {
            Verdict::Behind
        } else {
            Verdict::Fresh
        }
    }

    fn accept(
        &mut self,
        kind: usize,
        resources: Vec<Resource>,
        removed: &[String],
        step: &mut Step,
    ) {
        let decoded = self.decoder.decode(TYPES[kind], &resources, removed);
        let refused: BTreeSet<&str> = decoded.problems.iter().filter_map(resource_name).collect();
        self.counts.refused += refused.len() as u64;
        for resource in resources {
            let key = (kind, resource.name.clone());
            self.deferred.remove(&key);
            if !refused.contains(resource.name.as_str()) {
                self.counts.accepted += 1;
                let stamp = envelope::stamp(&resource);
                if stamp.epoch != self.newest.epoch {
                    self.removed.clear();
                }
                if stamp.epoch != self.newest.epoch || stamp.as_of > self.newest.as_of {
                    self.newest = stamp;
                }
                self.removed.remove(&key);
                self.held[kind].insert(resource.name.clone(), Arc::new(resource));
            }
        }
        for name in removed {
            let key = (kind, name.clone());
            self.deferred.remove(&key);
            let Some(gone) = self.held[kind].remove(name) else {
                continue;
            };
            self.counts.removed += 1;
            if self.removed.len() < REMOVED_MAX {
                self.removed.insert(key, envelope::stamp(&gone));
            }
        }
        step.delta.changes.extend(decoded.delta.changes);
        step.problems.extend(decoded.problems);
        if kind == CLUSTERS {
            step.requests.extend(self.follow());
        }
    }

    /// Asks for the assignments that the clusters use now, and no longer for others.
    fn follow(&mut self) -> Option<DeltaDiscoveryRequest> {
        let wanted: BTreeSet<String> = self.decoder.assignment_names().map(str::to_owned).collect();
        let subscribe: Vec<String> = wanted.difference(&self.asked).cloned().collect();
        let unsubscribe: Vec<String> = self.asked.difference(&wanted).cloned().collect();
        for name in &unsubscribe {
            self.held[ASSIGNMENTS].remove(name);
            self.deferred.remove(&(ASSIGNMENTS, name.clone()));
        }
        self.asked = wanted;
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        Some(DeltaDiscoveryRequest {
            type_url: TYPES[ASSIGNMENTS].to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn subscribe(&self, kind: usize, names: Vec<String>) -> DeltaDiscoveryRequest {
        let version =
            |(name, held): (&String, &Arc<Resource>)| (name.clone(), held.version.clone());
        DeltaDiscoveryRequest {
            type_url: TYPES[kind].to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: self.held[kind].iter().map(version).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

/// What to make of one resource before it is decoded.
enum Verdict {
    Unchanged,
    Behind,
    Fresh,
}

fn kind_of(type_url: &str) -> Option<usize> {
    TYPES.iter().position(|known| *known == type_url)
}

fn resource_name(problem: &Problem) -> Option<&str> {
    match &problem.place {
        Place::Resource { name, .. } => Some(name),
        Place::File { .. } => None,
    }
}

/// The refusal that names resources and reasons, cut to what a status can show.
fn refusal_of(problems: &[Problem]) -> Option<Status> {
    if problems.is_empty() {
        return None;
    }
    let mut text = String::new();
    for (index, problem) in problems.iter().enumerate() {
        let line = problem.to_string();
        if text.len() + line.len() > REFUSAL_BYTES_MAX && index > 0 {
            text.push_str(&format!("; and {} more", problems.len() - index));
            break;
        }
        if index > 0 {
            text.push_str("; ");
        }
        text.push_str(&line);
    }
    Some(refusal(text))
}

fn refusal(message: String) -> Status {
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// How long a resource of a replica that is behind waits for something newer.
pub const HELD_BACK: Duration = Duration::from_secs(10);

/// Removed resources that are remembered; beyond that a replica that is behind brings them back for
/// as long as it is.
const REMOVED_MAX: usize = 10_000;

/// Indexes into [`TYPES`].
const CLUSTERS: usize = 0;
const ASSIGNMENTS: usize = 1;
const LISTENERS: usize = 2;
/// Everything of a type.
const WILDCARD: &str = "*";
/// Of the text of a refusal; it ends up in a condition's message.
const REFUSAL_BYTES_MAX: usize = 4096;
