//! Resources into a [`Delta`], with a verdict for each.
//!
//! A service is told by two resources, so the decoder keeps what it has of either: a policy waits
//! for its assignment, an assignment for its policy. A resource that is refused changes nothing, and
//! what was in force of that name stays. Memory: a policy and the tiers of each service, besides
//! the endpoints of assignments that wait and of all chunks.
//!
//! An assignment may leave its endpoints to [`chunks`]. Those of a response are judged one by one and
//! then taken together, so that an endpoint that moves between two of them is never missing. Cost of a
//! chunk: its endpoints, and those of its member for each that it no longer holds. A service has at
//! most [`ENDPOINTS_MAX`] endpoints, however they come: what would be more is refused.
//!
//! Listeners of a response are judged together ([`places`]), so two may swap what they have.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Type, chunks,
    endpoints::{self, Assignment},
    listeners, policy,
    proto::{
        Any, Typed,
        cluster::{Cluster, ClusterDiscoveryType, DiscoveryType},
        discovery::Resource,
        endpoint::ClusterLoadAssignment,
        listener::Listener,
        unpack,
    },
};
use crate::{
    endpoint::{Endpoint, EndpointKey},
    frontend::Frontend,
    name::{MemberName, ServiceName},
    policy::Policy,
    problem::Problem,
    service::{ENDPOINTS_MAX, Service, Tier},
    snapshot::{Change, Delta},
    yaml::metadata::Fault,
};

mod places;

use places::Places;

/// Decodes the resources of one control plane.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    places: Places,
    clusters: BTreeMap<ServiceName, Told>,
    /// Assignment to what it said.
    assignments: BTreeMap<String, Assigned>,
    /// Assignment to the cluster that uses it.
    users: BTreeMap<String, ServiceName>,
    /// Assignment to what its chunks hold, whether or not it is there.
    chunks: BTreeMap<String, Collections>,
}

/// What the chunks of an assignment hold.
#[derive(Debug, Clone, Default)]
struct Collections {
    members: BTreeMap<MemberName, Chunks>,
    /// Endpoints, all together, also of members that the assignment does not name: they may wait to be.
    rows: usize,
}

/// A member's endpoints, by the names of the chunks that hold them.
type Chunks = BTreeMap<String, Box<[Endpoint]>>;

/// What became of a member's endpoints.
#[derive(Debug, Default)]
struct Moved {
    come: Vec<Endpoint>,
    gone: BTreeSet<EndpointKey>,
}

/// What became of a response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded {
    /// The changes of the resources that were accepted.
    pub delta: Delta,
    /// The refused ones, each with every fault; `kind` is `cluster`, `endpoints` (of assignments and
    /// chunks) or `listener`.
    pub problems: Vec<Problem>,
    /// The names of those that would be accepted if another one did not have their place.
    pub displaced: Vec<String>,
}

/// Why a resource is refused.
struct Refused {
    faults: Vec<Fault>,
    /// Whether that is only because another one has its place.
    displaced: bool,
}

/// What a Cluster said.
#[derive(Debug, Clone)]
struct Told {
    policy: Policy,
    explicit_spill: bool,
    /// The assignment to wait for; `None` when it came with the Cluster.
    assignment: Option<String>,
}

/// What an assignment said.
#[derive(Debug, Clone)]
struct Assigned {
    tiers: Vec<Tier>,
    spill_factor: Option<u32>,
    /// Members whose endpoints come in chunks.
    collections: BTreeSet<MemberName>,
    /// Endpoints that stood in the assignment itself.
    own: usize,
    /// Those, until they are handed on; those of chunks are handed on with them.
    waiting: Option<Vec<Endpoint>>,
}

// === impl Decoder ===

impl Decoder {
    /// Decodes updates and removals of one type. An unknown type is a problem of each resource.
    pub fn decode(
        &mut self,
        type_url: &str,
        resources: &[Resource],
        removed: &[String],
    ) -> Decoded {
        let mut decoded = Decoded::default();
        let kind = Type::parse(type_url).map_or("resource", Type::noun);
        // First, so that a resource of the same answer can take the place of one that goes.
        for name in removed {
            self.remove(type_url, name, &mut decoded.delta.changes);
        }
        let mut moved: BTreeMap<(String, MemberName), Moved> = BTreeMap::new();
        if type_url == chunks::URL {
            for name in removed {
                self.drop_chunk(name, &mut moved);
            }
        }
        let mut listeners = places::Told::new();
        for resource in resources {
            let changes = &mut decoded.delta.changes;
            let taken = match type_url {
                chunks::URL => self.chunk(resource, &mut moved),
                Listener::URL => listener(resource).map(|frontends| {
                    listeners.insert(resource.name.clone(), frontends);
                }),
                _ => self.take(type_url, resource, changes),
            };
            if let Err(refused) = taken {
                decoded.refuse(kind, &resource.name, refused);
            }
        }
        for displaced in self.places.put(listeners, &mut decoded.delta.changes) {
            let places::Displaced {
                frontend, owner, ..
            } = &displaced;
            let message = format!("the frontend {frontend} is listener {owner}'s already");
            let refused = Refused::displaced(whole(message));
            decoded.refuse(kind, &displaced.listener, refused);
        }
        self.hand_all_on(moved, &mut decoded.delta.changes);
        decoded
    }

    /// The assignments that the clusters ask for: what a client subscribes to by name.
    pub fn assignment_names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The services whose assignment has not come yet.
    pub fn waiting(&self) -> impl Iterator<Item = &ServiceName> {
        self.clusters.iter().filter_map(|(name, told)| {
            let assignment = told.assignment.as_ref()?;
            (!self.assignments.contains_key(assignment)).then_some(name)
        })
    }

    /// The assignments that have not come, though a cluster uses them.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let used = self.clusters.values();
        let used = used.filter_map(|told| told.assignment.as_deref());
        used.filter(|name| !self.assignments.contains_key(*name))
    }

    fn take(
        &mut self,
        type_url: &str,
        resource: &Resource,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        let any = content(resource)?;
        match type_url {
            Cluster::URL => self.cluster(&unpack(any).map_err(whole)?, resource, changes),
            ClusterLoadAssignment::URL => {
                self.assignment(&unpack(any).map_err(whole)?, resource, changes)
            }
            other => {
                let message = format!("is of type {other:?}, which was not asked for");
                Err(whole(message).into())
            }
        }
    }

    fn cluster(
        &mut self,
        cluster: &Cluster,
        resource: &Resource,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        check_name(&resource.name, &cluster.name)?;
        let name = ServiceName::parse(&cluster.name).map_err(|broken| whole(broken.to_string()))?;
        let (policy, explicit_spill) = policy::read(cluster)?;
        let (assignment, inline) = self.source(cluster, &name)?;
        self.unlink(&name, assignment.as_deref());
        if let Some(assignment) = &assignment {
            self.users.insert(assignment.clone(), name.clone());
        }
        let told = Told {
            policy,
            explicit_spill,
            assignment,
        };
        self.clusters.insert(name.clone(), told);
        if let Some(inline) = inline {
            let assigned = Assigned::from(inline);
            self.assignments.insert(inline_key(&name), assigned);
        }
        self.emit(&name, changes);
        Ok(())
    }

    /// Where the endpoints come from: an assignment's name, or the Cluster itself.
    fn source(
        &self,
        cluster: &Cluster,
        name: &ServiceName,
    ) -> Result<(Option<String>, Option<Assignment>), Refused> {
        let fault = |message: &str| Refused::from(vec![("type".to_owned(), message.to_owned())]);
        let kind = match &cluster.discovery_type {
            Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind),
            Some(ClusterDiscoveryType::Custom(_)) => {
                return Err(fault("custom types are not supported"));
            }
            None => Ok(DiscoveryType::Static),
        };
        match kind {
            Ok(DiscoveryType::Eds) => {
                let config = cluster.eds_cluster_config.as_ref();
                let given = config.map_or("", |config| config.service_name.as_str());
                let assignment = if given.is_empty() {
                    name.as_str()
                } else {
                    given
                };
                if let Some(user) = self.users.get(assignment).filter(|user| *user != name) {
                    let message = format!("the endpoints {assignment} are {user}'s already");
                    let faults = vec![("eds_cluster_config".to_owned(), message)];
                    return Err(Refused::displaced(faults));
                }
                Ok((Some(assignment.to_owned()), None))
            }
            Ok(kind @ (DiscoveryType::Static | DiscoveryType::StrictDns)) => {
                let none = ClusterLoadAssignment::default();
                let message = cluster.load_assignment.as_ref().unwrap_or(&none);
                let inline = endpoints::read(message, kind == DiscoveryType::StrictDns);
                let inline = inline.map_err(|faults| {
                    let place = |(field, message)| (format!("load_assignment.{field}"), message);
                    faults.into_iter().map(place).collect::<Vec<_>>()
                })?;
                Ok((None, Some(inline)))
            }
            Ok(DiscoveryType::LogicalDns | DiscoveryType::OriginalDst) | Err(_) => {
                Err(fault("is not supported; use EDS, STRICT_DNS or STATIC"))
            }
        }
    }

    fn assignment(
        &mut self,
        message: &ClusterLoadAssignment,
        resource: &Resource,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        check_name(&resource.name, &message.cluster_name)?;
        let mut assigned = Assigned::from(endpoints::read(message, false)?);
        let chunked = self.chunks.get(&resource.name);
        let count = assigned.own + chunked.map_or(0, |chunks| chunks.rows);
        if count > ENDPOINTS_MAX {
            return Err(Refused::displaced(too_many(count)));
        }
        let old = self.assignments.get(&resource.name);
        if old.is_some_and(|old| old.is_told_by_the_chunks_of(&assigned)) {
            assigned.waiting = None;
        }
        self.assignments.insert(resource.name.clone(), assigned);
        if let Some(user) = self.users.get(&resource.name).cloned() {
            self.emit(&user, changes);
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        resource: &Resource,
        moved: &mut BTreeMap<(String, MemberName), Moved>,
    ) -> Result<(), Refused> {
        let (assignment, member, rows) = chunks::read(resource)?;
        let own = self.assignments.get(assignment);
        let own = own.map_or(0, |assigned| assigned.own);
        let of_assignment = self.chunks.entry(assignment.to_owned()).or_default();
        let old = of_assignment.find(&member, &resource.name);
        let count = own + of_assignment.rows - old.map_or(0, <[_]>::len) + rows.len();
        if count > ENDPOINTS_MAX {
            return Err(Refused {
                faults: too_many(count),
                displaced: rows.len() <= ENDPOINTS_MAX,
            });
        }
        let old = of_assignment.put(&member, &resource.name, rows.clone().into());
        let moved = moved.entry((assignment.to_owned(), member)).or_default();
        let kept: BTreeSet<&EndpointKey> = rows.iter().map(|row| &row.key).collect();
        let gone = old.iter().filter(|row| !kept.contains(&row.key));
        moved.gone.extend(gone.map(|row| row.key.clone()));
        let old: BTreeMap<&EndpointKey, &Endpoint> =
            old.iter().map(|row| (&row.key, row)).collect();
        let is_new = |row: &Endpoint| old.get(&row.key).is_none_or(|old| *old != row);
        moved.come.extend(rows.into_iter().filter(is_new));
        Ok(())
    }

    fn drop_chunk(&mut self, name: &str, moved: &mut BTreeMap<(String, MemberName), Moved>) {
        let named = chunks::parts(name).and_then(|(assignment, member)| {
            Some((assignment.to_owned(), MemberName::parse(member).ok()?))
        });
        let Some(at) = named else {
            return;
        };
        let of_assignment = self.chunks.get_mut(&at.0);
        if let Some(old) = of_assignment.and_then(|chunks| chunks.remove(&at.1, name)) {
            let gone = old.iter().map(|row| row.key.clone());
            moved.entry(at).or_default().gone.extend(gone);
        }
    }

    /// Hands on what chunks say anew. What goes does so first: a service that is full has room for
    /// what comes.
    fn hand_all_on(
        &mut self,
        moved: BTreeMap<(String, MemberName), Moved>,
        changes: &mut Vec<Change>,
    ) {
        let mut come = Vec::new();
        for ((assignment, member), moved) in moved {
            self.hand_on(&assignment, &member, moved, (changes, &mut come));
        }
        changes.append(&mut come);
    }

    /// Of one member, where an assignment names its chunks and is in force.
    fn hand_on(
        &mut self,
        assignment: &str,
        member: &MemberName,
        moved: Moved,
        (changes, coming): (&mut Vec<Change>, &mut Vec<Change>),
    ) {
        let (Some(user), Some(assigned)) = (
            self.users.get(assignment).cloned(),
            self.assignments.get_mut(assignment),
        ) else {
            return;
        };
        if assigned.waiting.is_some() || !assigned.collections.contains(member) {
            return;
        }
        if assigned.own == 0 && moved.come.len() + moved.gone.len() > ONE_BY_ONE_MAX {
            assigned.waiting = Some(Vec::new());
            return self.emit(&user, changes);
        }
        let of_assignment = self.chunks.get(assignment);
        let of_member = of_assignment.and_then(|chunks| chunks.members.get(member));
        let still = |key: &EndpointKey| {
            let mut rows = of_member.into_iter().flatten().flat_map(|(_, rows)| rows);
            rows.any(|row| row.key == *key)
        };
        let come = moved.come.into_iter();
        coming.extend(come.map(|row| Change::Endpoint(user.clone(), row)));
        let gone = moved.gone.into_iter().filter(|key| !still(key));
        changes.extend(gone.map(|key| Change::RemoveEndpoint(user.clone(), key)));
    }

    fn remove(&mut self, type_url: &str, name: &str, changes: &mut Vec<Change>) {
        match type_url {
            Listener::URL => self.places.remove(name, changes),
            Cluster::URL => {
                let Ok(name) = ServiceName::parse(name) else {
                    return;
                };
                self.unlink(&name, None);
                if self.clusters.remove(&name).is_some() {
                    changes.push(Change::RemoveService(name));
                }
            }
            // The service goes on without endpoints, as its control plane says.
            ClusterLoadAssignment::URL => {
                self.chunks.remove(name);
                if self.assignments.remove(name).is_some()
                    && let Some(user) = self.users.get(name).cloned()
                {
                    let none = Assigned::from(Assignment::default());
                    self.assignments.insert(name.to_owned(), none);
                    self.emit(&user, changes);
                }
            }
            _ => {}
        }
    }

    /// Forgets where a service's endpoints came from and what was said there, unless it is `kept`.
    fn unlink(&mut self, name: &ServiceName, kept: Option<&str>) {
        let Some(told) = self.clusters.get(name) else {
            return;
        };
        match told.assignment.as_deref() {
            Some(old) if Some(old) == kept => {}
            Some(old) => {
                self.users.remove(old);
                self.assignments.remove(old);
            }
            None => {
                self.assignments.remove(&inline_key(name));
            }
        }
    }

    /// Hands on what is known of a service, once both halves are.
    fn emit(&mut self, name: &ServiceName, changes: &mut Vec<Change>) {
        let Some(told) = self.clusters.get(name) else {
            return;
        };
        let key = told.assignment.clone().unwrap_or_else(|| inline_key(name));
        let Some(assigned) = self.assignments.get_mut(&key) else {
            return;
        };
        let mut policy = told.policy.clone();
        if let Some(factor) = assigned.spill_factor.filter(|_| !told.explicit_spill) {
            policy.spill_factor = factor;
        }
        let service = Service {
            name: name.clone(),
            policy,
            tiers: assigned.tiers.clone(),
        };
        changes.push(Change::Service(Box::new(service)));
        if let Some(mut endpoints) = assigned.waiting.take() {
            let of_assignment = self.chunks.get(&key);
            for member in &assigned.collections {
                let of_member = of_assignment.and_then(|chunks| chunks.members.get(member));
                let rows = of_member.into_iter().flatten();
                endpoints.extend(rows.flat_map(|(_, rows)| rows).cloned());
            }
            changes.push(Change::Endpoints(name.clone(), endpoints));
        }
    }
}

// === impl Collections ===

impl Collections {
    fn find(&self, member: &MemberName, name: &str) -> Option<&[Endpoint]> {
        Some(self.members.get(member)?.get(name)?)
    }

    fn put(&mut self, member: &MemberName, name: &str, rows: Box<[Endpoint]>) -> Box<[Endpoint]> {
        self.rows += rows.len();
        let of_member = self.members.entry(member.clone()).or_default();
        let old = of_member.insert(name.to_owned(), rows).unwrap_or_default();
        self.rows -= old.len();
        old
    }

    fn remove(&mut self, member: &MemberName, name: &str) -> Option<Box<[Endpoint]>> {
        let old = self.members.get_mut(member)?.remove(name)?;
        self.rows -= old.len();
        Some(old)
    }
}

// === impl Decoded ===

impl Decoded {
    fn refuse(&mut self, kind: &'static str, name: &str, refused: Refused) {
        let problem = |(field, message)| Problem::resource(kind, name, field, message);
        self.problems
            .extend(refused.faults.into_iter().map(problem));
        if refused.displaced {
            self.displaced.push(name.to_owned());
        }
    }
}

// === impl Refused ===

impl Refused {
    fn displaced(faults: Vec<Fault>) -> Self {
        Self {
            faults,
            displaced: true,
        }
    }
}

impl From<Vec<Fault>> for Refused {
    fn from(faults: Vec<Fault>) -> Self {
        Self {
            faults,
            displaced: false,
        }
    }
}

impl Assigned {
    /// Whether everything that `new` says of endpoints was handed on already.
    fn is_told_by_the_chunks_of(&self, new: &Self) -> bool {
        self.waiting.is_none()
            && self.own == 0
            && new.own == 0
            && self.collections == new.collections
    }
}

impl From<Assignment> for Assigned {
    fn from(assignment: Assignment) -> Self {
        Self {
            tiers: assignment.tiers,
            spill_factor: assignment.spill_factor,
            own: assignment.endpoints.len(),
            collections: assignment.collections,
            waiting: Some(assignment.endpoints),
        }
    }
}

/// Endpoints of a member that are changed one by one; above it, all of the service are told anew in
/// one pass.
const ONE_BY_ONE_MAX: usize = 256;

/// The frontends of a Listener.
fn listener(resource: &Resource) -> Result<Vec<Frontend>, Refused> {
    let listener: Listener = unpack(content(resource)?).map_err(whole)?;
    check_name(&resource.name, &listener.name)?;
    Ok(listeners::read(&listener)?)
}

fn content(resource: &Resource) -> Result<&Any, Vec<Fault>> {
    let any = resource.resource.as_ref();
    any.ok_or_else(|| whole("has no content".to_owned()))
}

fn too_many(count: usize) -> Vec<Fault> {
    whole(format!(
        "would be one of {count} endpoints of its service, {ENDPOINTS_MAX} is the limit; split the \
         service into several, or export it in fewer members"
    ))
}

/// No assignment's name: those come from messages and can't hold a NUL.
fn inline_key(name: &ServiceName) -> String {
    format!("\0{name}")
}

fn check_name(resource: &str, message: &str) -> Result<(), Vec<Fault>> {
    if resource == message {
        Ok(())
    } else {
        Err(whole(format!("its content is named {message:?}")))
    }
}

fn whole(message: String) -> Vec<Fault> {
    vec![(String::new(), message)]
}
