//! Everything the hub has observed, as plain ordered maps.
//!
//! Watches feed [`World::apply`], [`World::delete`] and [`World::reset`]; each turns an object into
//! the parts that decisions read, and marks what those parts touch as dirty. An object that changed
//! in nothing that matters marks nothing. The World refuses objects that cannot be attributed: the
//! member of an export or a slice is the one its namespace belongs to, never what it says of itself.
//!
//! Reading is free of I/O and of time; verdicts that depend on time are read from status, where the
//! leader wrote them. Cost: O(log n) an object, plus O(services) when a member changes.

mod apply;
mod convert;
mod dirty;
mod objects;
mod parts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use fairlead_api::{mcs::ServiceImport, proxy::ProxyGroup, service::MultiClusterService};
use fairlead_config::name::MemberName;

#[cfg(test)]
pub(crate) use convert::member as member_of_object;
pub(crate) use convert::version;
pub use dirty::Dirty;
pub use objects::{Kind, Object, ObjectKey};
pub use parts::{Export, ExportKey, Heartbeat, Load, Member, Slice, SliceEndpoint, SlicePort};

use crate::{
    distribute::{self, MemberRows, View},
    services::{self, Aggregate},
};

/// `namespace/name` of a service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The name of a proxy group.
pub type GroupName = Arc<str>;

/// What an operator can set about decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Endpoint addresses that are loopback are taken: for a fleet on one machine only.
    pub allow_loopback: bool,
    /// The age of an export counts from when the hub saw it first, less the tolerated skew, so that
    /// a late joiner cannot take a service over by claiming age.
    pub pin_first_seen: bool,
    /// How far a member's clock may be off before a claimed age is flagged.
    pub skew: std::time::Duration,
}

/// Everything observed.
#[derive(Debug, Default)]
pub struct World {
    /// What the operator set.
    pub settings: Settings,
    pub(crate) members: BTreeMap<MemberName, Member>,
    pub(crate) exports: BTreeMap<ServiceKey, BTreeMap<ExportKey, Export>>,
    pub(crate) slices: BTreeMap<ServiceKey, BTreeMap<MemberName, BTreeMap<Arc<str>, Slice>>>,
    pub(crate) services: BTreeMap<ServiceKey, BTreeMap<Arc<str>, Arc<MultiClusterService>>>,
    pub(crate) imports: BTreeMap<ServiceKey, Arc<ServiceImport>>,
    pub(crate) groups: BTreeMap<GroupName, Arc<ProxyGroup>>,
    /// What is known of the exports of a service, and of a member's slices of it: worked out by
    /// [`Self::take_dirty`] where it has changed.
    aggregates: BTreeMap<ServiceKey, Arc<Aggregate>>,
    rows: BTreeMap<ServiceKey, BTreeMap<MemberName, Arc<MemberRows>>>,
    /// What each group is and where, kept as it is read by every plan.
    pub(crate) views: BTreeMap<GroupName, Arc<View>>,
    /// The patterns of services that members' own groups serve.
    own_services: BTreeMap<GroupName, Vec<String>>,
    pub(crate) loads: BTreeMap<ServiceKey, BTreeMap<MemberName, Load>>,
    pub(crate) refusals: BTreeMap<ServiceKey, Vec<String>>,
    pub(crate) full_imports: bool,
    export_at: BTreeMap<ObjectKey, ServiceKey>,
    slice_at: BTreeMap<ObjectKey, ServiceKey>,
    service_at: BTreeMap<ObjectKey, ServiceKey>,
    as_of: u64,
    dirty: Dirty,
}

// === impl World ===

impl World {
    /// An empty World, everything dirty.
    pub fn new(settings: Settings) -> Self {
        let mut world = Self {
            settings,
            ..Self::default()
        };
        world.dirty.everything = true;
        world
    }

    /// Takes an object in, new or changed.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Member(member) => self.apply_member(&member),
            Object::Export(export) => self.apply_export(*export),
            Object::Slice(slice) => self.apply_slice(&slice),
            Object::Group(group) => self.apply_group(*group),
            Object::Service(service) => self.apply_service(*service),
            Object::Import(import) => self.apply_import(*import),
        }
    }

    /// Forgets an object.
    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        let object: ObjectKey = (namespace.into(), name.into());
        match kind {
            Kind::Member => {
                if let Ok(member) = MemberName::parse(name)
                    && self.members.remove(&member).is_some()
                {
                    self.touch_member(&member);
                    self.touch_groups_of_member(&member);
                    self.dirty.removals = true;
                }
            }
            Kind::Export => self.drop_export(&object),
            Kind::Slice => self.drop_slice(&object),
            Kind::Group => {
                if self.groups.remove(name).is_some() {
                    self.look_at(name);
                    self.dirty.groups.insert(name.into());
                    self.touch_services_of_group(name);
                    self.touch_imports_of_group(name);
                }
            }
            Kind::Service => self.drop_service(&object),
            Kind::Import => {
                let key = ServiceKey::new(namespace, name);
                if self.imports.remove(&key).is_some() {
                    self.dirty.services.insert(key);
                }
            }
        }
    }

    /// Takes the complete list of a kind: objects that are not in it are forgotten.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) {
        let present: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
        for object in objects {
            self.apply(object);
        }
        for (namespace, name) in self.objects(kind) {
            if !present.contains(&(namespace.clone(), name.clone())) {
                self.delete(kind, &namespace, &name);
            }
        }
    }

    /// What has changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        let dirty = std::mem::take(&mut self.dirty);
        let keys = match dirty.everything {
            true => self.service_keys(),
            false => dirty.keys(),
        };
        for key in keys {
            if !self.aggregates.contains_key(&key) && self.exports.contains_key(&key) {
                let aggregate = services::aggregate(self, &key);
                self.aggregates.insert(key.clone(), Arc::new(aggregate));
            }
            let members: Vec<MemberName> = match self.slices.get(&key) {
                Some(slices) => slices.keys().cloned().collect(),
                None => Vec::new(),
            };
            for member in members {
                let known = self
                    .rows
                    .get(&key)
                    .is_some_and(|rows| rows.contains_key(&member));
                if !known {
                    let rows = Arc::new(distribute::member_rows(self, &key, &member));
                    self.rows
                        .entry(key.clone())
                        .or_default()
                        .insert(member, rows);
                }
            }
        }
        dirty
    }

    /// What became of the exports of a service.
    pub fn aggregate(&self, key: &ServiceKey) -> Arc<Aggregate> {
        match self.aggregates.get(key) {
            Some(aggregate) => Arc::clone(aggregate),
            None => Arc::new(services::aggregate(self, key)),
        }
    }

    pub(crate) fn member_rows(&self, key: &ServiceKey, member: &MemberName) -> Arc<MemberRows> {
        match self.rows.get(key).and_then(|rows| rows.get(member)) {
            Some(rows) => Arc::clone(rows),
            None => Arc::new(distribute::member_rows(self, key, member)),
        }
    }

    /// Whether a plan is due.
    pub fn is_dirty(&self) -> bool {
        let Dirty {
            everything,
            services,
            slices,
            groups,
            ..
        } = &self.dirty;
        *everything || !services.is_empty() || !slices.is_empty() || !groups.is_empty()
    }

    /// Whether a removal waits to be planned.
    pub fn has_removals(&self) -> bool {
        self.dirty.removals
    }

    /// The highest resourceVersion among the objects that decisions read.
    pub fn as_of(&self) -> u64 {
        self.as_of
    }

    /// Every service that anything is known of.
    pub fn service_keys(&self) -> BTreeSet<ServiceKey> {
        let exported = self.exports.keys();
        let imported = self.imports.keys();
        exported
            .chain(imported)
            .chain(self.services.keys())
            .cloned()
            .collect()
    }

    /// The members.
    pub fn members(&self) -> &BTreeMap<MemberName, Member> {
        &self.members
    }

    /// The proxy groups.
    pub fn groups(&self) -> &BTreeMap<GroupName, Arc<ProxyGroup>> {
        &self.groups
    }

    /// The policy of a service: the oldest MultiClusterService that names it. The others come
    /// after it.
    pub fn policies(&self, key: &ServiceKey) -> Vec<&Arc<MultiClusterService>> {
        let mut all: Vec<_> = self
            .services
            .get(key)
            .into_iter()
            .flat_map(|of_key| of_key.values())
            .filter(|service| service.metadata.deletion_timestamp.is_none())
            .collect();
        all.sort_by_key(|service| {
            let created = service.metadata.creation_timestamp.as_ref();
            (created.map(|time| time.0), service.metadata.name.clone())
        });
        all
    }

    /// Whether some agent wants imports with endpoints: members that no proxy serves. Others pay
    /// nothing for them.
    pub fn want_full_imports(&mut self, wanted: bool) {
        if self.full_imports != wanted {
            self.full_imports = wanted;
            self.dirty.everything = true;
        }
    }

    /// The state read is at least as new as this resourceVersion: that of the API server before
    /// anything was listed, or of an object's deletion.
    pub fn seen_up_to(&mut self, version: u64) {
        self.saw(version);
    }

    /// The store was replaced by one at this resourceVersion.
    pub fn begin(&mut self, version: u64) {
        self.as_of = version;
    }

    /// Everything has to be planned.
    pub fn touch_everything(&mut self) {
        self.dirty.everything = true;
    }

    /// Marks a group whose proxies or agent came or went.
    pub fn touch_group(&mut self, group: GroupName) {
        self.dirty.groups.insert(group);
    }

    /// Takes in what the proxies report of a service, for its status.
    pub fn apply_loads(&mut self, key: &ServiceKey, loads: BTreeMap<MemberName, Load>) {
        if self.loads.get(key) != Some(&loads) {
            self.loads.insert(key.clone(), loads);
            self.dirty.services.insert(key.clone());
        }
    }

    /// Takes in what proxies refuse of a service, as `proxy: resource: reason`.
    pub fn apply_refusals(&mut self, key: &ServiceKey, refusals: Vec<String>) {
        let old = self.refusals.get(key).map_or(&[][..], Vec::as_slice);
        if old != refusals {
            self.dirty.services.insert(key.clone());
            if refusals.is_empty() {
                self.refusals.remove(key);
            } else {
                self.refusals.insert(key.clone(), refusals);
            }
        }
    }

    /// How many exports a member has, refused ones included.
    pub fn exports_of(&self, member: &MemberName) -> usize {
        let namespace: Arc<str> = fairlead_api::labels::member_namespace(member.as_str()).into();
        let first: ObjectKey = (Arc::clone(&namespace), "".into());
        let theirs = self.export_at.range(first..);
        theirs.take_while(|(at, _)| at.0 == namespace).count()
    }

    /// A MultiClusterService by its own name.
    pub fn policy(&self, namespace: &str, name: &str) -> Option<&MultiClusterService> {
        let at: ObjectKey = (namespace.into(), name.into());
        let of = self.services.get(self.service_at.get(&at)?)?;
        of.get(name).map(AsRef::as_ref)
    }

    /// An export, and of which service it is.
    pub fn export(&self, slot: &ExportKey) -> Option<(&ServiceKey, &Export)> {
        let namespace = fairlead_api::labels::member_namespace(slot.member.as_str());
        let at: ObjectKey = (namespace.into(), slot.object.clone());
        let key = self.export_at.get(&at)?;
        Some((key, self.exports.get(key)?.get(slot)?))
    }

    /// The exports of a member that others use: there are other members, or proxies that serve them.
    pub fn exports_in_use(&self, member: &MemberName) -> Vec<ServiceKey> {
        let mut others = self.members.iter();
        let others = others.any(|(name, one)| name != member && !one.leaving);
        let namespace: Arc<str> = fairlead_api::labels::member_namespace(member.as_str()).into();
        let first: ObjectKey = (Arc::clone(&namespace), "".into());
        let theirs = self.export_at.range(first..);
        let theirs = theirs.take_while(|(at, _)| at.0 == namespace);
        let used = theirs.filter(|(_, key)| {
            let import = self
                .aggregates
                .get(*key)
                .and_then(|one| one.import.as_ref());
            let taken = import.is_some_and(|import| import.members.contains_key(member));
            taken && (others || self.is_asked_for(key))
        });
        used.map(|(_, key)| key.clone()).collect()
    }

    /// Whether any proxies are to serve a service.
    fn is_asked_for(&self, key: &ServiceKey) -> bool {
        let mut groups = self.groups.values();
        self.services.contains_key(key)
            || groups.any(|group| {
                let mut patterns = group.spec.services.iter();
                patterns.any(|pattern| matches_pattern(pattern, key))
            })
    }

    /// The members that have objects of this kind in the hub: what the mass-loss guard counts.
    pub fn members_with(&self, kind: Kind) -> BTreeSet<MemberName> {
        let objects = match kind {
            Kind::Export => &self.export_at,
            Kind::Slice => &self.slice_at,
            _ => return BTreeSet::new(),
        };
        let mut members = BTreeSet::new();
        for (namespace, _) in objects.keys() {
            members.extend(apply::member_of(namespace));
        }
        members
    }
}

// === impl ServiceKey ===

impl ServiceKey {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_loopback: false,
            pin_first_seen: false,
            skew: std::time::Duration::from_secs(300),
        }
    }
}

/// Whether `pattern` (`namespace/name`, either may be `*`) names the service.
pub fn matches_pattern(pattern: &str, key: &ServiceKey) -> bool {
    pattern.split_once('/').is_some_and(|(namespace, name)| {
        (namespace == "*" || namespace == &*key.namespace) && (name == "*" || name == &*key.name)
    })
}
