//! One incremental ADS stream, without its socket.
//!
//! A [`Stream`] knows what its client subscribed to, what it was sent and what it acknowledged, and
//! answers two questions: what does this request mean, and what is to be sent now. Subscriptions
//! follow xDS v3: a first request of a type without names asks for everything, `*` adds everything,
//! `initial_resource_versions` say what the client has from an earlier stream.
//!
//! A client that subscribed to chunks before assignments is sent endpoints in chunks, before the
//! assignment that they belong to: those that changed, or all of an assignment that is new to it. They go
//! with the assignment, without a word. Everybody else gets assignments with all endpoints in them.
//!
//! Cost: O(changed names), or O(resources) when the client is new. A stream remembers a version of
//! each resource that it sent, but nothing of chunks: those are as they were when it looked last. A response holds
//! at most [`RESPONSE_BYTES_MAX`] of resources, so no state is too large to send.

pub(crate) mod io;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fairlead_config::xds::{
    chunks,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use prost::Message;

use crate::board::{Table, Type};

/// One stream.
#[derive(Debug, Default)]
pub struct Stream {
    types: BTreeMap<Type, Subscription>,
    nonce: u64,
    /// The hash of the newest state that the client is known to run on in full.
    applied: Option<String>,
    chunks: Chunks,
}

/// What the client has of chunks.
#[derive(Debug, Default)]
struct Chunks {
    /// What it said that it has, as far as it was not looked at yet.
    stated: BTreeMap<String, String>,
    /// The assignments of which it has all chunks as they were at the last look.
    complete: BTreeSet<String>,
    /// Too far behind to know what was removed.
    lost: bool,
}

#[derive(Debug, Default)]
struct Subscription {
    everything: bool,
    names: BTreeSet<String>,
    /// What the client has, by name: the version sent last or stated by the client.
    has: BTreeMap<String, String>,
    /// Names to look at although nothing changed: newly subscribed ones.
    fresh: BTreeSet<String>,
    /// Everything has to be looked at.
    compare_all: bool,
    /// The revision up to which changes have been looked at.
    seen: u64,
    /// Nonces that wait for an answer, with the hash of the table when they were sent.
    unanswered: VecDeque<(String, String)>,
    refused: Option<String>,
}

/// What a request meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The client asked for other resources, or for the first ones.
    Subscribed,
    /// What was sent is in force.
    Acknowledged(Type),
    /// Something of what was sent was refused; the client says what and why.
    Refused(Type, String),
    /// The same is refused as before.
    StillRefused(Type),
    /// An answer to nothing that was asked.
    Stale,
    /// A type that is not served.
    Unknown(String),
}

impl Stream {
    /// Takes a request in.
    pub fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Heard {
        let Some(of) = Type::parse(&request.type_url) else {
            return Heard::Unknown(request.type_url.clone());
        };
        let first = !self.types.contains_key(&of);
        let subscription = self.types.entry(of).or_default();
        if first {
            subscription.has = request.initial_resource_versions.clone();
            subscription.compare_all = true;
            subscription.everything = request.resource_names_subscribe.is_empty();
            if of == Type::Chunk {
                self.chunks.stated = std::mem::take(&mut subscription.has);
            }
        }
        let mut changed = first;
        for name in &request.resource_names_subscribe {
            changed |= subscription.subscribe(name);
            if of == Type::Assignment {
                self.chunks.complete.remove(name);
            }
        }
        for name in &request.resource_names_unsubscribe {
            changed |= subscription.unsubscribe(name);
        }
        if request.response_nonce.is_empty() {
            return if changed {
                Heard::Subscribed
            } else {
                Heard::Stale
            };
        }
        let (heard, hash) = subscription.answered(of, request);
        if hash.is_some() && self.is_settled() {
            self.applied = hash;
        }
        heard
    }

    /// What to send of these types, make before break, from a table that holds chunks too.
    pub fn say(
        &mut self,
        table: &Table,
        revision: u64,
        types: &[Type],
    ) -> Vec<DeltaDiscoveryResponse> {
        self.say_with(table, table, revision, types)
    }

    /// What to send of these types, make before break; the chunks of the table's assignments are in
    /// another one.
    pub fn say_with(
        &mut self,
        table: &Table,
        chunks: &Table,
        revision: u64,
        types: &[Type],
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = self.updates(table, chunks, types);
        for of in types.iter().rev() {
            if let Some(subscription) = self.types.get_mut(of) {
                let removed = match of {
                    Type::Chunk => Vec::new(),
                    _ => subscription.removals(*of, table),
                };
                subscription.looked(revision);
                if removed.is_empty() {
                    continue;
                }
                // What comes last and goes first does so at once: a listener that takes another
                // one's place, as when its port changes, must find that place free.
                let at_once = *of == Type::Listener;
                let mut sent = responses.iter_mut().filter(|_| at_once);
                match sent.find(|response| response.type_url == of.url()) {
                    Some(response) => response.removed_resources = removed,
                    None => responses.push(removal(*of, removed)),
                }
            }
        }
        self.number(&mut responses, table.hash());
        responses
    }

    /// What to send of imports to a member: without endpoints those that its proxies serve, with endpoints
    /// the others.
    pub fn say_imports(
        &mut self,
        (bare, full): (&Table, &Table),
        is_served: &dyn Fn(&str) -> bool,
        revision: u64,
    ) -> Vec<DeltaDiscoveryResponse> {
        let of = Type::Import;
        let Some(subscription) = self.types.get_mut(&of) else {
            return Vec::new();
        };
        let names = match (
            subscription.candidates(of, bare),
            subscription.candidates(of, full),
        ) {
            (Some(bare), Some(full)) => bare.into_iter().chain(full).collect(),
            _ => full
                .all(of)
                .map(|(name, _)| name)
                .collect::<BTreeSet<&str>>(),
        };
        let wanted = names.into_iter().filter(|name| subscription.wants(name));
        let resources = wanted.filter_map(|name| match is_served(name) {
            true => bare.get(of, name),
            false => full.get(of, name),
        });
        let updates = subscription.lacks(resources.cloned().collect());
        let mut responses = pack(of, updates);
        let removed = subscription.removals(of, full);
        subscription.looked(revision);
        if !removed.is_empty() {
            responses.push(removal(of, removed));
        }
        self.number(&mut responses, full.hash());
        responses
    }

    fn updates(
        &mut self,
        table: &Table,
        chunks: &Table,
        types: &[Type],
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let seen = self.types.get(&Type::Chunk).map(|chunks| chunks.seen);
        for of in types.iter().filter(|of| **of != Type::Chunk) {
            let Some(subscription) = self.types.get_mut(of) else {
                continue;
            };
            let updates = match of {
                Type::Assignment if seen.is_none() => subscription.whole(table, chunks),
                _ => subscription.updates(*of, table),
            };
            if *of == Type::Assignment
                && let Some(seen) = seen
            {
                let has = &subscription.has;
                let named = |name: &str| has.contains_key(name) && table.get(*of, name).is_some();
                let news = self.chunks.news(chunks, seen, has.keys(), named);
                responses.extend(pack(Type::Chunk, news));
            }
            responses.extend(pack(*of, updates));
        }
        responses
    }

    /// Gives responses their numbers, under which they are answered.
    fn number(&mut self, responses: &mut [DeltaDiscoveryResponse], hash: String) {
        if responses.is_empty() && !self.types.is_empty() && self.is_settled() {
            // What changed was nothing to this client.
            self.applied = Some(hash);
            return;
        }
        for response in responses {
            self.nonce += 1;
            response.nonce = self.nonce.to_string();
            response.system_version_info = hash.clone();
            let of = Type::parse(&response.type_url).expect("made from a type");
            if let Some(subscription) = self.types.get_mut(&of) {
                let sent = (response.nonce.clone(), hash.clone());
                subscription.unanswered.push_back(sent);
            }
        }
    }

    /// Whether the client is so far behind that it has to come back and say what it has.
    pub fn is_lost(&self) -> bool {
        self.chunks.lost
    }

    /// The tables are others from now on: everything has to be looked at again.
    pub fn start_over(&mut self) {
        for subscription in self.types.values_mut() {
            subscription.compare_all = true;
        }
    }

    /// Other imports than before are told with endpoints.
    pub fn compare_imports(&mut self) {
        if let Some(imports) = self.types.get_mut(&Type::Import) {
            imports.compare_all = true;
        }
    }

    /// Whether the client acknowledged everything it was sent.
    pub fn is_settled(&self) -> bool {
        let mut all = self.types.values();
        all.all(|one| one.unanswered.is_empty() && one.refused.is_none())
    }

    /// The hash of the newest state of which the client has acknowledged all that it asked for.
    pub fn applied(&self) -> Option<&str> {
        self.applied.as_deref()
    }

    /// What the client refuses now, by type.
    pub fn refused(&self) -> impl Iterator<Item = (Type, &str)> {
        let all = self.types.iter();
        all.filter_map(|(of, one)| Some((*of, one.refused.as_deref()?)))
    }

    /// Whether the client asked for anything of these types.
    pub fn asks_for(&self, types: &[Type]) -> bool {
        types.iter().any(|of| self.types.contains_key(of))
    }
}

impl Chunks {
    /// Chunks to send, those that are gone among them, of the assignments that the client has.
    fn news<'n>(
        &mut self,
        table: &Table,
        seen: u64,
        has: impl Iterator<Item = &'n String>,
        named: impl Fn(&str) -> bool,
    ) -> Vec<crate::board::Resource> {
        let mut new = Vec::new();
        self.complete.retain(|assignment| named(assignment));
        if !self.complete.is_empty() {
            let Some(changed) = table.changed_since(seen) else {
                self.lost = true;
                return new;
            };
            for (_, name) in changed.range((Type::Chunk, "")..(Type::Assignment, "")) {
                let of = chunks::parts(name).map_or("", |(assignment, _)| assignment);
                if !self.complete.contains(of) {
                    continue;
                }
                new.push(match table.get(Type::Chunk, name) {
                    Some(chunk) => chunk.clone(),
                    None => chunks::gone(name, table.stamp()).into(),
                });
            }
        }
        for assignment in has.filter(|name| named(name)) {
            if self.complete.contains(assignment) {
                continue;
            }
            self.compare(table, assignment, &mut new);
            self.complete.insert(assignment.clone());
        }
        new
    }

    /// Everything of an assignment that is new to the client, against what it said that it has.
    fn compare(&mut self, table: &Table, assignment: &str, new: &mut Vec<crate::board::Resource>) {
        let prefix = chunks::prefix(assignment);
        let of_assignment = |(name, _): &(&String, &String)| name.starts_with(&prefix);
        let first = self.stated.range(prefix.clone()..);
        let stated = first.take_while(of_assignment);
        let stated: Vec<String> = stated.map(|(name, _)| name.clone()).collect();
        for (name, chunk) in table.under(Type::Chunk, &prefix) {
            if self.stated.get(name) != Some(&chunk.version) {
                new.push(chunk.clone());
            }
        }
        for name in stated {
            let version = self.stated.remove(&name);
            if table.get(Type::Chunk, &name).is_none() {
                let gone = chunks::gone(&name, table.stamp());
                if version.as_ref() != Some(&gone.version) {
                    new.push(gone.into());
                }
            }
        }
    }
}

impl Subscription {
    /// Everything up to this revision was looked at.
    fn looked(&mut self, revision: u64) {
        self.compare_all = false;
        self.fresh.clear();
        self.seen = revision;
    }

    fn subscribe(&mut self, name: &str) -> bool {
        if name == "*" {
            let new = !self.everything;
            self.everything = true;
            self.compare_all |= new;
            return new;
        }
        // Asking again for a name means: send it, even if it is unchanged.
        self.has.remove(name);
        self.fresh.insert(name.to_owned());
        self.names.insert(name.to_owned());
        true
    }

    fn unsubscribe(&mut self, name: &str) -> bool {
        if name == "*" {
            self.everything = false;
            let names = &self.names;
            self.has.retain(|name, _| names.contains(name));
            return true;
        }
        let known = self.names.remove(name);
        if known && !self.everything {
            self.has.remove(name);
        }
        known
    }

    /// What an answer means, and the hash of the state that is in force now.
    fn answered(&mut self, of: Type, request: &DeltaDiscoveryRequest) -> (Heard, Option<String>) {
        let nonce = &request.response_nonce;
        let Some(at) = self.unanswered.iter().position(|(sent, _)| sent == nonce) else {
            return (Heard::Stale, None);
        };
        let (_, hash) = self
            .unanswered
            .drain(..=at)
            .next_back()
            .expect("found above");
        match &request.error_detail {
            Some(detail) => {
                let old = self.refused.replace(detail.message.clone());
                let heard = match old.is_some_and(|old| old == detail.message) {
                    true => Heard::StillRefused(of),
                    false => Heard::Refused(of, detail.message.clone()),
                };
                (heard, None)
            }
            None => {
                self.refused = None;
                (Heard::Acknowledged(of), Some(hash))
            }
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }

    /// Names that may have to be sent, or `None` for all.
    fn candidates<'t>(&'t self, of: Type, table: &'t Table) -> Option<BTreeSet<&'t str>> {
        if self.compare_all {
            return None;
        }
        let changed = table.changed_since(self.seen)?.into_iter();
        let names = changed.filter(|(one, _)| *one == of).map(|(_, name)| name);
        Some(names.chain(self.fresh.iter().map(String::as_str)).collect())
    }

    fn updates(&mut self, of: Type, table: &Table) -> Vec<crate::board::Resource> {
        let is_new = |name: &str, version: &str| {
            self.wants(name) && self.has.get(name).map(String::as_str) != Some(version)
        };
        let updates: Vec<crate::board::Resource> = match self.candidates(of, table) {
            None => table
                .all(of)
                .filter(|(name, resource)| is_new(name, &resource.version))
                .map(|(_, resource)| resource.clone())
                .collect(),
            Some(names) => names
                .into_iter()
                .filter_map(|name| table.get(of, name))
                .filter(|resource| is_new(&resource.name, &resource.version))
                .cloned()
                .collect(),
        };
        for resource in &updates {
            self.has
                .insert(resource.name.clone(), resource.version.clone());
        }
        updates
    }

    /// Assignments with all their endpoints in them.
    fn whole(&mut self, table: &Table, chunks: &Table) -> Vec<crate::board::Resource> {
        let of = Type::Assignment;
        let names: BTreeSet<&str> =
            match (self.candidates(of, table), chunks.changed_since(self.seen)) {
                (Some(mut names), Some(changed)) => {
                    let changed = changed.range((Type::Chunk, "")..(of, ""));
                    let assignments = changed.filter_map(|(_, name)| chunks::parts(name));
                    names.extend(assignments.map(|(assignment, _)| assignment));
                    names
                }
                _ => table.all(of).map(|(name, _)| name).collect(),
            };
        let wanted = names.into_iter().filter(|name| self.wants(name));
        let outlines = wanted.filter_map(|name| table.get(of, name));
        let wholes = outlines.map(|outline| table.whole(outline, chunks));
        self.lacks(wholes.collect())
    }

    /// Of these, what the client has not; from now on it has.
    fn lacks(&mut self, mut updates: Vec<crate::board::Resource>) -> Vec<crate::board::Resource> {
        updates.retain(|one| self.has.get(&one.name) != Some(&one.version));
        for resource in &updates {
            self.has
                .insert(resource.name.clone(), resource.version.clone());
        }
        updates
    }

    fn removals(&mut self, of: Type, table: &Table) -> Vec<String> {
        let is_gone = |name: &str| table.get(of, name).is_none();
        let mut gone: Vec<String> = match self.candidates(of, table) {
            None => {
                let all = self.has.keys();
                all.filter(|name| is_gone(name)).cloned().collect()
            }
            Some(names) => {
                let known = names
                    .into_iter()
                    .filter(|name| self.has.contains_key(*name));
                known
                    .filter(|name| is_gone(name))
                    .map(str::to_owned)
                    .collect()
            }
        };
        // A name that was asked for and isn't there is said to be gone, so that nobody waits.
        let missing = self.fresh.iter().filter(|name| is_gone(name));
        gone.extend(
            missing
                .filter(|name| !self.has.contains_key(*name))
                .cloned(),
        );
        gone.sort();
        gone.dedup();
        for name in &gone {
            self.has.remove(name);
        }
        gone
    }
}

fn removal(of: Type, removed: Vec<String>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: of.url().to_owned(),
        removed_resources: removed,
        ..DeltaDiscoveryResponse::default()
    }
}

fn pack(of: Type, updates: Vec<crate::board::Resource>) -> Vec<DeltaDiscoveryResponse> {
    let mut responses: Vec<DeltaDiscoveryResponse> = Vec::new();
    let mut bytes = 0;
    for resource in updates {
        let size = resource.encoded_len();
        let fits = bytes + size <= RESPONSE_BYTES_MAX;
        match responses.last_mut().filter(|_| fits) {
            Some(response) => response.resources.push((*resource).clone()),
            None => {
                bytes = 0;
                responses.push(DeltaDiscoveryResponse {
                    type_url: of.url().to_owned(),
                    resources: vec![(*resource).clone()],
                    ..DeltaDiscoveryResponse::default()
                });
            }
        }
        bytes += size;
    }
    responses
}

/// Below the 4 MiB that gRPC clients take by default.
pub const RESPONSE_BYTES_MAX: usize = 3 * 1024 * 1024;
