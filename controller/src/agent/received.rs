//! What came down from the hub: imports, and the resources of the member's own proxies.
//!
//! [`Received`] is the agent's side of its one ADS stream, without the socket: what it asks for, what
//! it makes of an answer, what it acknowledges, what belongs on disk. It holds the resources as they
//! came, in the same [`Table`]s that the hub serves from, so they are passed on to proxies unchanged,
//! with their hashes and stamps.
//!
//! A resource with an equal hash is ignored. One with a smaller `asOf` of the same epoch comes from
//! a replica that is behind: it is held back for [`HELD_BACK`] and then accepted, counted. An import
//! that cannot be read is refused by name, and the earlier one stays; resources of proxies are the
//! proxies' to judge.
//!
//! "The hub has nothing" and "the hub has not said anything yet" are told apart by asking for a name
//! that never exists ([`END`]): the hub answers that it is gone after everything else. Until then,
//! nothing is taken for missing.
//!
//! Memory and disk are bounded by [`BYTES_MAX`]; what goes beyond is refused. Cost: O(resources of
//! an answer).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fairlead_config::{
    snapshot::Snapshot,
    xds::{
        decoder::Decoder,
        envelope::{self, Stamp},
        proto::{
            core::{INVALID_ARGUMENT, Node, Status},
            discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
            fairlead::Import,
            unpack,
        },
    },
};
use fairlead_runtime::clock::Tick;
use prost::Message;

use crate::board::{self, Table, Type};

/// Everything that came down, over all streams.
#[derive(Debug, Default)]
pub struct Received {
    node: Node,
    imports: Table,
    proxies: Table,
    group: String,
    revision: u64,
    bytes: usize,
    imports_known: bool,
    proxies_known: bool,
    /// The stamps of what was removed, so that a replica that is behind can't bring it back.
    removed: BTreeMap<(Type, String), Stamp>,
    deferred: BTreeMap<(Type, String), Deferred>,
    newest: Stamp,
    counts: Counts,
    decoder: Decoder,
    snapshot: Snapshot,
}

#[derive(Debug)]
struct Deferred {
    resource: Resource,
    until: Tick,
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

impl Received {
    /// For the agent of `member`, which has nothing yet.
    pub fn new(member: &str, version: &str) -> Self {
        use fairlead_config::xds::proto::core::UserAgentVersion;
        Self {
            node: Node {
                id: member.to_owned(),
                cluster: format!("member/{member}"),
                user_agent_name: "fairlead-agent".to_owned(),
                user_agent_version: Some(UserAgentVersion::Text(version.to_owned())),
                ..Node::default()
            },
            ..Self::default()
        }
    }

    /// Takes over what was kept on disk by [`Self::kept`]; says how many resources that were.
    pub fn restore(&mut self, resources: Vec<(String, Resource)>) -> usize {
        self.revision += 1;
        let mut restored = 0;
        let mut problems = Vec::new();
        for (url, resource) in resources {
            match Type::parse(&url) {
                Some(of) => {
                    restored += 1;
                    self.accept(of, resource, &mut problems);
                }
                None if url == GROUP_URL => self.group = resource.name,
                None if url == KNOWN_URL => {
                    self.imports_known |= resource.name == IMPORTS;
                    self.proxies_known |= resource.name == PROXIES;
                }
                None => {}
            }
        }
        restored
    }

    /// What belongs on disk; `None` before the hub has told everything for the first time.
    pub fn kept(&self) -> Option<Vec<(&'static str, board::Resource)>> {
        if !self.imports_known {
            return None;
        }
        let mark = |url, name: &str| {
            let resource = Resource {
                name: name.to_owned(),
                ..Resource::default()
            };
            (url, resource.into())
        };
        let mut all = vec![mark(KNOWN_URL, IMPORTS)];
        if self.proxies_known {
            all.push(mark(KNOWN_URL, PROXIES));
        }
        if !self.group.is_empty() {
            all.push(mark(GROUP_URL, &self.group));
        }
        for of in Type::ALL {
            let held = self.table(of).all(of);
            all.extend(held.map(|(_, resource)| (of.url(), resource.clone())));
        }
        Some(all)
    }

    /// The first requests of a new stream.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        // What an earlier stream said is said again if it is still so.
        self.deferred.clear();
        let node = Node {
            metadata: envelope::node_metadata(&self.newest),
            ..self.node.clone()
        };
        let requests = Type::ALL.into_iter().map(|of| {
            let held = self.table(of).all(of);
            let versions = held.map(|(name, held)| (name.clone(), held.version.clone()));
            let mut names = vec!["*".to_owned()];
            if matches!(of, Type::Import | Type::Cluster) {
                names.push(END.to_owned());
            }
            DeltaDiscoveryRequest {
                node: Some(node.clone()),
                type_url: of.url().to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: versions.collect(),
                ..DeltaDiscoveryRequest::default()
            }
        });
        requests.collect()
    }

    /// Takes an answer; the answer to it, and whether anything changed.
    pub fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Tick,
    ) -> (DeltaDiscoveryRequest, bool) {
        self.counts.responses += 1;
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let Some(of) = Type::parse(&response.type_url) else {
            answer.error_detail = Some(refusal("is a type that was not asked for"));
            return (answer, false);
        };
        self.revision += 1;
        let mut changed = self.group != response.proxy_group;
        self.group = response.proxy_group;
        // First, as the decoder does: a listener may take the place of one that goes.
        for name in &response.removed_resources {
            changed |= self.remove(of, name);
        }
        let mut problems = Vec::new();
        for resource in response.resources {
            match self.judge(of, &resource) {
                Verdict::Unchanged => {
                    self.counts.unchanged += 1;
                    self.deferred.remove(&(of, resource.name));
                }
                Verdict::Behind => {
                    self.counts.deferred += 1;
                    let until = now + HELD_BACK;
                    let key = (of, resource.name.clone());
                    self.deferred.insert(key, Deferred { resource, until });
                }
                Verdict::Fresh => changed |= self.accept(of, resource, &mut problems),
            }
        }
        if !problems.is_empty() {
            answer.error_detail = Some(refusal(&problems.join("; ")));
        }
        (answer, changed)
    }

    /// When [`Self::release`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deferred.values().map(|deferred| deferred.until).min()
    }

    /// Accepts what has been held back for long enough; says whether anything changed.
    pub fn release(&mut self, now: Tick) -> bool {
        self.revision += 1;
        let due = self
            .deferred
            .extract_if(.., |_, deferred| deferred.until <= now);
        let due: Vec<_> = due.collect();
        let mut changed = false;
        for ((of, _), deferred) in due {
            self.counts.accepted_stale += 1;
            // The hub was told long ago that it came: a refusal can only be counted.
            changed |= self.accept(of, deferred.resource, &mut Vec::new());
        }
        changed
    }

    /// The imports.
    pub fn imports(&self) -> &Table {
        &self.imports
    }

    /// An import by its name, `namespace/name`.
    pub fn import(&self, name: &str) -> Option<Import> {
        let held = self.imports.get(Type::Import, name)?;
        unpack(held.resource.as_ref()?).ok()
    }

    /// What the member's proxies are told.
    pub fn proxies(&self) -> &Table {
        &self.proxies
    }

    /// The same, as far as this version can read it.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The member's own proxy group; `None` where it has none, or none is known.
    pub fn group(&self) -> Option<&str> {
        Some(self.group.as_str()).filter(|group| !group.is_empty())
    }

    /// Whether every import is known: what is not here does not exist.
    pub fn imports_known(&self) -> bool {
        self.imports_known
    }

    /// Whether everything for proxies is known.
    pub fn proxies_known(&self) -> bool {
        self.proxies_known
    }

    /// Moves with each change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The highest `asOf` that took force, with its epoch.
    pub fn stamp(&self) -> &Stamp {
        &self.newest
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn table(&self, of: Type) -> &Table {
        match of {
            Type::Import => &self.imports,
            Type::Cluster | Type::Assignment | Type::Listener => &self.proxies,
        }
    }

    fn table_mut(&mut self, of: Type) -> &mut Table {
        match of {
            Type::Import => &mut self.imports,
            Type::Cluster | Type::Assignment | Type::Listener => &mut self.proxies,
        }
    }

    fn judge(&self, of: Type, resource: &Resource) -> Verdict {
        let new = envelope::stamp(resource);
        let Some(held) = self.table(of).get(of, &resource.name) else {
            let old = self.removed.get(&(of, resource.name.clone()));
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

    fn accept(&mut self, of: Type, resource: Resource, problems: &mut Vec<String>) -> bool {
        let key = (of, resource.name.clone());
        self.deferred.remove(&key);
        let old = self.table(of).get(of, &resource.name);
        let bytes = self.bytes - old.map_or(0, |old| old.encoded_len()) + resource.encoded_len();
        let fault = match of {
            _ if bytes > BYTES_MAX => Some(format!(
                "more than {BYTES_MAX} bytes in all, which is what an agent keeps; \
                 import less into this member"
            )),
            Type::Import => unreadable(&resource),
            _ => None,
        };
        if let Some(fault) = fault {
            self.counts.refused += 1;
            problems.push(format!("{} {}: {fault}", kind(of), resource.name));
            return false;
        }
        self.counts.accepted += 1;
        self.bytes = bytes;
        let stamp = envelope::stamp(&resource);
        if stamp.epoch != self.newest.epoch {
            self.removed.clear();
        }
        if stamp.epoch != self.newest.epoch || stamp.as_of > self.newest.as_of {
            self.newest = stamp;
        }
        self.removed.remove(&key);
        if of != Type::Import {
            self.read(of, std::slice::from_ref(&resource), &[]);
        }
        let revision = self.revision;
        self.table_mut(of).put(of, resource.into(), revision)
    }

    fn remove(&mut self, of: Type, name: &str) -> bool {
        if name == END {
            let known = match of {
                Type::Import => &mut self.imports_known,
                _ => &mut self.proxies_known,
            };
            return !std::mem::replace(known, true);
        }
        self.deferred.remove(&(of, name.to_owned()));
        let Some(held) = self.table(of).get(of, name).cloned() else {
            return false;
        };
        self.counts.removed += 1;
        self.bytes -= held.encoded_len();
        if self.removed.len() < REMOVED_MAX {
            let stamp = envelope::stamp(&held);
            self.removed.insert((of, name.to_owned()), stamp);
        }
        if of != Type::Import {
            self.read(of, &[], &[name.to_owned()]);
        }
        let revision = self.revision;
        self.table_mut(of).remove(of, name, revision)
    }

    /// What this version can't read is left out of the snapshot, not out of what proxies are told:
    /// theirs may be newer.
    fn read(&mut self, of: Type, resources: &[Resource], removed: &[String]) {
        let decoded = self.decoder.decode(of.url(), resources, removed);
        let (_, _) = self.snapshot.apply(decoded.delta);
    }
}

/// What to make of one resource before it is read.
enum Verdict {
    Unchanged,
    Behind,
    Fresh,
}

/// Why an import makes no sense: its name must be what it says.
fn unreadable(resource: &Resource) -> Option<String> {
    let Some(any) = &resource.resource else {
        return Some("it is empty".to_owned());
    };
    match unpack::<Import>(any) {
        Err(error) => Some(error),
        Ok(import) if resource.name != format!("{}/{}", import.namespace, import.name) => Some(
            format!("it says that it is {}/{}", import.namespace, import.name),
        ),
        Ok(import) => {
            let names: BTreeSet<&str> = import.ports.iter().map(|port| &*port.name).collect();
            (names.len() < import.ports.len()).then(|| "two ports have one name".to_owned())
        }
    }
}

fn kind(of: Type) -> &'static str {
    match of {
        Type::Import => "import",
        Type::Cluster => "cluster",
        Type::Assignment => "endpoints",
        Type::Listener => "listener",
    }
}

fn refusal(message: &str) -> Status {
    let cut = message.char_indices().map(|(at, _)| at);
    let end = cut.take_while(|at| *at <= REFUSAL_BYTES_MAX).last();
    Status {
        code: INVALID_ARGUMENT,
        message: match message.len() > REFUSAL_BYTES_MAX {
            true => format!("{}…", &message[..end.unwrap_or_default()]),
            false => message.to_owned(),
        },
        details: Vec::new(),
    }
}

/// A name that no resource has: that it is gone is the last thing the hub says of a type.
pub const END: &str = "fairlead.dev/end";
/// How long a resource of a replica that is behind waits for something newer.
pub const HELD_BACK: Duration = Duration::from_secs(10);
/// All resources together. A thousand services of a hundred endpoints each take about 20 MiB.
pub const BYTES_MAX: usize = 256 * 1024 * 1024;

/// Removed resources that are remembered; beyond that a replica that is behind brings them back for
/// as long as it is.
const REMOVED_MAX: usize = 10_000;
/// Of the text of a refusal; it ends up in a log of the hub.
const REFUSAL_BYTES_MAX: usize = 4096;
/// On disk: marks, beside the resources.
const GROUP_URL: &str = "fairlead.dev/proxy-group";
const KNOWN_URL: &str = "fairlead.dev/known";
const IMPORTS: &str = "imports";
const PROXIES: &str = "proxies";

#[cfg(test)]
mod tests;
