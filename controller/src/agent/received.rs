//! What came down from the hub: imports, and the resources of the member's own proxies.
//!
//! [`Received`] is the agent's side of its one ADS stream, without the socket: what it asks for, what
//! it makes of an answer, what it acknowledges, what belongs on disk. What becomes of each resource
//! is an [`Intake`]'s to say. They are held as they came, in the same [`Table`]s that the hub serves
//! from, so they are passed on to proxies unchanged, with their hashes and stamps.
//!
//! An import that cannot be read is refused by name, and the earlier one stays; resources of proxies
//! are the proxies' to judge.
//!
//! "The hub has nothing" and "the hub has not said anything yet" are told apart by asking for a name
//! that never exists ([`END`]): the hub answers that it is gone after everything else. Until then,
//! nothing is taken for missing.
//!
//! Memory and disk are bounded by [`BYTES_MAX`]; what goes beyond is refused until something goes.
//! Cost: O(resources of an answer).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_config::{
    problem::Problem,
    snapshot::Snapshot,
    xds::{
        chunks,
        decoder::Decoder,
        envelope::{self, Stamp},
        intake::{Counts, Holder, Intake, Refusal},
        proto::{
            core::Node,
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
#[derive(Debug)]
pub struct Received {
    node: Node,
    group: String,
    intake: Intake<Held>,
}

/// What is in force.
#[derive(Debug, Default)]
struct Held {
    imports: Table,
    proxies: Table,
    revision: u64,
    bytes: usize,
    imports_known: bool,
    proxies_known: bool,
    decoder: Decoder,
    snapshot: Snapshot,
    /// What the decoder refused because another one has its place.
    displaced: BTreeMap<(Type, String), Arc<Resource>>,
}

impl Received {
    /// For the agent of `member`, which has nothing yet.
    pub fn new(member: &str, version: &str) -> Self {
        use fairlead_config::xds::proto::core::UserAgentVersion;
        let node = Node {
            id: member.to_owned(),
            cluster: format!("member/{member}"),
            user_agent_name: "fairlead-agent".to_owned(),
            user_agent_version: Some(UserAgentVersion::Text(version.to_owned())),
            ..Node::default()
        };
        Self {
            node,
            group: String::new(),
            intake: Intake::new(Held::default()),
        }
    }

    /// Takes over what was kept on disk by [`Self::kept`]; says how many resources that were.
    pub fn restore(&mut self, resources: Vec<(String, Resource)>) -> usize {
        let held = self.intake.holder_mut();
        held.revision += 1;
        let mut known = Vec::new();
        for (url, resource) in resources {
            match Type::parse(&url) {
                Some(of) => known.push((of, resource)),
                None if url == GROUP_URL => self.group = resource.name,
                None if url == KNOWN_URL => {
                    held.imports_known |= resource.name == IMPORTS;
                    held.proxies_known |= resource.name == PROXIES;
                }
                None => {}
            }
        }
        let restored = known.len();
        self.intake.restore(known);
        self.intake.holder_mut().place();
        restored
    }

    /// What belongs on disk; `None` before the hub has told everything for the first time.
    pub fn kept(&self) -> Option<Vec<(&'static str, board::Resource)>> {
        if !self.imports_known() {
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
        if self.proxies_known() {
            all.push(mark(KNOWN_URL, PROXIES));
        }
        if !self.group.is_empty() {
            all.push(mark(GROUP_URL, &self.group));
        }
        for of in Type::ALL {
            let held = self.intake.holder().all(of);
            all.extend(held.map(|resource| (of.url(), Arc::clone(resource))));
        }
        Some(all)
    }

    /// The first requests of a new stream.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.intake.connect();
        let node = Node {
            metadata: envelope::node_metadata(self.stamp()),
            ..self.node.clone()
        };
        let requests = Type::ALL.into_iter().map(|of| {
            let mut names = vec!["*".to_owned()];
            if matches!(of, Type::Import | Type::Cluster) {
                names.push(END.to_owned());
            }
            DeltaDiscoveryRequest {
                node: Some(node.clone()),
                ..self.intake.subscribe(of, names)
            }
        });
        requests.collect()
    }

    /// Takes an answer; the answer to it, and whether anything changed.
    pub fn receive(
        &mut self,
        mut response: DeltaDiscoveryResponse,
        now: Tick,
    ) -> (DeltaDiscoveryRequest, bool) {
        self.intake.holder_mut().revision += 1;
        let mut changed = false;
        if Type::parse(&response.type_url).is_some() {
            changed = self.group != response.proxy_group;
            self.group = std::mem::take(&mut response.proxy_group);
        }
        let (answer, outcome) = self.intake.receive(response, now.since(Tick::ZERO));
        self.intake.holder_mut().place();
        (answer, changed | outcome.changed)
    }

    /// When [`Self::release`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.intake.next_deadline().map(Tick::from_start)
    }

    /// Accepts what has been held back for long enough; says whether anything changed.
    pub fn release(&mut self, now: Tick) -> bool {
        self.intake.holder_mut().revision += 1;
        let changed = self.intake.release(now.since(Tick::ZERO)).changed;
        self.intake.holder_mut().place();
        changed
    }

    /// The imports.
    pub fn imports(&self) -> &Table {
        &self.intake.holder().imports
    }

    /// An import by its name, `namespace/name`.
    pub fn import(&self, name: &str) -> Option<Import> {
        let held = self.imports().get(Type::Import, name)?;
        unpack(held.resource.as_ref()?).ok()
    }

    /// What the member's proxies are told.
    pub fn proxies(&self) -> &Table {
        &self.intake.holder().proxies
    }

    /// The same, as far as this version can read it.
    pub fn snapshot(&self) -> &Snapshot {
        &self.intake.holder().snapshot
    }

    /// The member's own proxy group; `None` where it has none, or none is known.
    pub fn group(&self) -> Option<&str> {
        Some(self.group.as_str()).filter(|group| !group.is_empty())
    }

    /// Whether every import is known: what is not here does not exist.
    pub fn imports_known(&self) -> bool {
        self.intake.holder().imports_known
    }

    /// Whether everything for proxies is known.
    pub fn proxies_known(&self) -> bool {
        self.intake.holder().proxies_known
    }

    /// Moves with each change.
    pub fn revision(&self) -> u64 {
        self.intake.holder().revision
    }

    /// The highest `asOf` that took force, with its epoch.
    pub fn stamp(&self) -> &Stamp {
        self.intake.stamp()
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.intake.counts()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.intake.holder().bytes
    }
}

// === impl Held ===

impl Holder for Held {
    const TYPES: &'static [Type] = &Type::ALL;

    fn find(&self, of: Type, name: &str) -> Option<&Arc<Resource>> {
        self.table(of).get(of, name)
    }

    fn all(&self, of: Type) -> impl Iterator<Item = &Arc<Resource>> {
        self.table(of).all(of).map(|(_, resource)| resource)
    }

    fn put(&mut self, of: Type, resource: Arc<Resource>) -> Result<bool, Refusal> {
        let refusal = |message: String, may_fit_later| Refusal {
            problems: vec![Problem::resource(of.noun(), &*resource.name, "", message)],
            may_fit_later,
        };
        let old = self.find(of, &resource.name);
        let bytes = self.bytes - old.map_or(0, |old| old.encoded_len()) + resource.encoded_len();
        if bytes > BYTES_MAX {
            let message = format!(
                "more than {BYTES_MAX} bytes in all, which is what an agent keeps; \
                 import less into this member"
            );
            return Err(refusal(message, true));
        }
        if of == Type::Import
            && let Some(fault) = unreadable(&resource)
        {
            return Err(refusal(fault, false));
        }
        self.bytes = bytes;
        if of != Type::Import {
            self.read(of, std::slice::from_ref(&resource), &[]);
            self.proxies.restamp(envelope::stamp(&resource));
        }
        let revision = self.revision;
        Ok(self.table_mut(of).put(of, resource, revision))
    }

    fn remove(&mut self, of: Type, name: &str) -> bool {
        if name == END {
            let known = match of {
                Type::Import => &mut self.imports_known,
                _ => &mut self.proxies_known,
            };
            return !std::mem::replace(known, true);
        }
        let Some(held) = self.find(of, name) else {
            return false;
        };
        self.bytes -= held.encoded_len();
        if of != Type::Import {
            self.read(of, &[], &[name.to_owned()]);
        }
        if of == Type::Assignment {
            self.drop_chunks(name);
        }
        let revision = self.revision;
        self.table_mut(of).remove(of, name, revision)
    }
}

impl Held {
    fn table(&self, of: Type) -> &Table {
        match of {
            Type::Import => &self.imports,
            Type::Cluster | Type::Chunk | Type::Assignment | Type::Listener => &self.proxies,
        }
    }

    fn table_mut(&mut self, of: Type) -> &mut Table {
        match of {
            Type::Import => &mut self.imports,
            Type::Cluster | Type::Chunk | Type::Assignment | Type::Listener => &mut self.proxies,
        }
    }

    /// Chunks go with their assignment.
    fn drop_chunks(&mut self, assignment: &str) {
        let prefix = chunks::prefix(assignment);
        let held = self.proxies.under(Type::Chunk, &prefix);
        let held: Vec<board::Resource> = held.map(|(_, one)| one.clone()).collect();
        for chunk in held {
            self.bytes -= chunk.encoded_len();
            self.proxies.remove(Type::Chunk, &chunk.name, self.revision);
        }
    }

    /// What this version can't read is left out of the snapshot, not out of what proxies are told:
    /// theirs may be newer.
    fn read(&mut self, of: Type, resources: &[Arc<Resource>], removed: &[String]) {
        let names = resources.iter().map(|one| &one.name).chain(removed);
        for name in names {
            self.displaced.remove(&(of, name.clone()));
        }
        let all: Vec<Resource> = resources.iter().map(|one| Resource::clone(one)).collect();
        let decoded = self.decoder.decode(of.url(), &all, removed);
        let displaced = resources.iter();
        let displaced = displaced.filter(|one| decoded.displaced.contains(&one.name));
        let displaced = displaced.map(|one| ((of, one.name.clone()), Arc::clone(one)));
        self.displaced.extend(displaced);
        let (_, _) = self.snapshot.apply(decoded.delta);
    }

    /// Gives what found its place taken its place, if it is free now, or is with all of them.
    fn place(&mut self) {
        let mut before = usize::MAX;
        while !self.displaced.is_empty() && self.displaced.len() < before {
            before = self.displaced.len();
            let mut by_type: BTreeMap<Type, Vec<Arc<Resource>>> = BTreeMap::new();
            for ((of, _), resource) in &self.displaced {
                by_type.entry(*of).or_default().push(Arc::clone(resource));
            }
            for (of, resources) in by_type {
                self.read(of, &resources, &[]);
            }
        }
    }
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

/// A name that no resource has: that it is gone is the last thing the hub says of a type.
pub const END: &str = "fairlead.dev/end";
/// All resources together. A thousand services of a hundred endpoints each take about 20 MiB.
pub const BYTES_MAX: usize = 256 * 1024 * 1024;

/// On disk: marks, beside the resources.
const GROUP_URL: &str = "fairlead.dev/proxy-group";
const KNOWN_URL: &str = "fairlead.dev/known";
const IMPORTS: &str = "imports";
const PROXIES: &str = "proxies";

#[cfg(test)]
mod tests;
