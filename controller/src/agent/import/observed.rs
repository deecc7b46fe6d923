//! What an agent has observed of imports: objects in its member, and what came down from the hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_api::{labels, mcs::v1beta1::ServiceImport};
use fairlead_config::{
    frontend::Frontend,
    name::ServiceName,
    snapshot::{Endpoints, Snapshot},
    xds::proto::fairlead::Import,
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{derived_name, is_ours};
use crate::agent::local::{Key, Slices, key};

/// Everything observed.
#[derive(Debug, Default)]
pub struct Observed {
    pub(super) namespaces: BTreeSet<String>,
    pub(super) imports: BTreeMap<Key, ServiceImport>,
    /// Ours, and those that have a name that ours should have.
    services: BTreeMap<Key, Service>,
    /// Ours, by import, then by name.
    slices: BTreeMap<Key, Slices>,
    slice_at: BTreeMap<Key, Key>,
    /// The slices of the member's own proxies, by name.
    pub(super) pods: BTreeMap<String, EndpointSlice>,
    pub(super) told: BTreeMap<Key, Import>,
    /// Where the member's proxies take clients of a service's port.
    pub(super) frontends: BTreeMap<ServiceName, Vec<Arc<Frontend>>>,
    /// Endpoints that the proxies are told, for when there is no proxy.
    pub(super) behind: BTreeMap<ServiceName, Arc<Endpoints>>,
    pub(super) failures: BTreeMap<Key, Failure>,
    dirty: BTreeSet<Key>,
}

/// A write that the member's API server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its words.
    pub message: String,
    /// Whether it lacks an address family that the import needs.
    pub family: bool,
}

/// One observed object of the member.
#[derive(Debug, Clone)]
pub enum Object {
    /// A namespace.
    Namespace(Box<Namespace>),
    /// Anybody's.
    Import(Box<ServiceImport>),
    /// A derived Service, or one that has its name.
    Service(Box<Service>),
    /// One of ours.
    Slice(Box<EndpointSlice>),
    /// Of the Service of the member's proxies.
    Pods(Box<EndpointSlice>),
}

/// What can be listed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Object")]
pub enum Kind {
    Namespace,
    Import,
    Service,
    Slice,
    Pods,
}

impl Observed {
    /// Takes in an object as it is now.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                let name = namespace.metadata.name.clone().unwrap_or_default();
                let leaving = namespace.metadata.deletion_timestamp.is_some();
                self.touch_namespace(&name);
                match leaving {
                    true => self.namespaces.remove(&name),
                    false => self.namespaces.insert(name),
                };
            }
            Object::Import(import) => {
                let key = key(&import.metadata);
                let have = self.imports.get(&key);
                if have.is_none_or(|have| !is_older(&import.metadata, &have.metadata)) {
                    self.dirty.insert(key.clone());
                    self.imports.insert(key, *import);
                }
            }
            Object::Service(service) => {
                let at = key(&service.metadata);
                let have = self.services.get(&at);
                if have.is_none_or(|have| !is_older(&service.metadata, &have.metadata)) {
                    self.touch_derived(&at, &service);
                    self.services.insert(at, *service);
                }
            }
            Object::Slice(slice) => {
                let at = key(&slice.metadata);
                let have = self
                    .slice_at
                    .get(&at)
                    .and_then(|of| self.slices.get(of)?.get(&at.1));
                if have.is_some_and(|have| is_older(&slice.metadata, &have.metadata)) {
                    return;
                }
                self.forget_slice(&at);
                if let Some(import) = import_of(&slice.metadata.labels, &at.0) {
                    self.dirty.insert(import.clone());
                    self.slice_at.insert(at.clone(), import.clone());
                    self.slices.entry(import).or_default().insert(at.1, slice);
                }
            }
            Object::Pods(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                self.pods.insert(name, *slice);
                self.touch_all();
            }
        }
    }

    /// Forgets an object.
    pub fn delete(&mut self, object: &Object) {
        match object {
            Object::Namespace(namespace) => {
                let name = namespace.metadata.name.clone().unwrap_or_default();
                self.touch_namespace(&name);
                self.namespaces.remove(&name);
            }
            Object::Import(import) => {
                let key = key(&import.metadata);
                self.imports.remove(&key);
                self.dirty.insert(key);
            }
            Object::Service(service) => {
                let at = key(&service.metadata);
                self.services.remove(&at);
                self.touch_derived(&at, service);
            }
            Object::Slice(slice) => self.forget_slice(&key(&slice.metadata)),
            Object::Pods(slice) => {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                self.pods.remove(name);
                self.touch_all();
            }
        }
    }

    /// Replaces all objects of a kind by those of a fresh list.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) {
        match kind {
            Kind::Namespace => self.namespaces.clear(),
            Kind::Import => self
                .dirty
                .extend(std::mem::take(&mut self.imports).into_keys()),
            Kind::Service => self.services.clear(),
            Kind::Slice => {
                self.slice_at.clear();
                let gone = std::mem::take(&mut self.slices);
                self.dirty.extend(gone.into_keys());
            }
            Kind::Pods => self.pods.clear(),
        }
        for object in objects {
            self.apply(object);
        }
        self.touch_all();
    }

    /// What the hub says of an import now; `None`: it is gone.
    pub fn tell(&mut self, key: Key, import: Option<Import>) {
        let same = self.told.get(&key) == import.as_ref();
        match import {
            Some(import) => self.told.insert(key.clone(), import),
            None => self.told.remove(&key),
        };
        if !same {
            self.dirty.insert(key);
        }
    }

    /// The imports that the hub told of.
    pub fn told(&self) -> impl Iterator<Item = &Key> {
        self.told.keys()
    }

    /// What the member's proxies serve now. O(services).
    pub fn serve(&mut self, snapshot: &Snapshot) {
        let mut frontends: BTreeMap<ServiceName, Vec<Arc<Frontend>>> = BTreeMap::new();
        for frontend in snapshot.frontends.values() {
            let of_service = frontends.entry(frontend.service.clone()).or_default();
            of_service.push(Arc::clone(frontend));
        }
        let behind = &snapshot.endpoints;
        let same = |one: Option<&Arc<Endpoints>>, other: Option<&Arc<Endpoints>>| match (one, other)
        {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
            (None, None) => true,
            _ => false,
        };
        let names = frontends.keys().chain(self.frontends.keys());
        let names = names.chain(behind.keys()).chain(self.behind.keys());
        for name in names.collect::<BTreeSet<_>>() {
            if frontends.get(name) != self.frontends.get(name)
                || !same(behind.get(name), self.behind.get(name))
            {
                let (namespace, service, _) = name.parts();
                let key = (namespace.to_owned(), service.to_owned());
                self.dirty.insert(key);
            }
        }
        self.frontends = frontends;
        self.behind.clone_from(behind);
    }

    /// How the writes of an import went.
    pub fn conclude(&mut self, key: &Key, failure: Option<Failure>) {
        let same = self.failures.get(key) == failure.as_ref();
        match failure {
            Some(failure) => self.failures.insert(key.clone(), failure),
            None => self.failures.remove(key),
        };
        if !same {
            self.dirty.insert(key.clone());
        }
    }

    /// Marks the imports again that could not be brought about.
    pub fn touch_unfinished(&mut self) {
        let failed = self.failures.keys().cloned();
        let taken = self
            .services
            .iter()
            .filter(|(_, one)| !is_ours(&one.metadata));
        let taken: Vec<Key> = taken.map(|(at, _)| at.clone()).collect();
        self.dirty.extend(failed);
        for at in taken {
            // Looked at again: whoever made it may have taken it away, which is not watched.
            self.services.remove(&at);
            let of = self
                .told
                .keys()
                .find(|key| key.0 == at.0 && derived_name(key) == at.1);
            self.dirty.extend(of.cloned());
        }
    }

    /// The imports touched since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// The derived Service of an import, or whatever has its name.
    pub(super) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(&(key.0.clone(), derived_name(key)))
    }

    /// Our slices of an import.
    pub(super) fn slices(&self, key: &Key) -> impl Iterator<Item = &EndpointSlice> + use<'_> {
        let of_import = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        of_import.map(|slice| &**slice)
    }

    fn forget_slice(&mut self, at: &Key) {
        let Some(import) = self.slice_at.remove(at) else {
            return;
        };
        if let Some(of_import) = self.slices.get_mut(&import) {
            of_import.remove(&at.1);
            if of_import.is_empty() {
                self.slices.remove(&import);
            }
        }
        self.dirty.insert(import);
    }

    fn touch_derived(&mut self, at: &Key, service: &Service) {
        let named = import_of(&service.metadata.labels, &at.0);
        let named = named.filter(|key| derived_name(key) == at.1);
        match named {
            Some(key) => drop(self.dirty.insert(key)),
            // Its label was taken off: only the name tells.
            None => {
                let of = self
                    .told
                    .keys()
                    .find(|key| key.0 == at.0 && derived_name(key) == at.1);
                self.dirty.extend(of.cloned());
            }
        }
    }

    fn touch_namespace(&mut self, namespace: &str) {
        let told = self.told.keys().chain(self.imports.keys());
        let inside = told.filter(|key| key.0 == namespace);
        self.dirty.extend(inside.cloned().collect::<Vec<_>>());
    }

    fn touch_all(&mut self) {
        self.dirty.extend(self.told.keys().cloned());
    }
}

impl Failure {
    pub(super) fn reason(&self) -> &'static str {
        use fairlead_api::conditions::reason;
        match self.family {
            true => reason::IP_FAMILY_NOT_SUPPORTED,
            false => reason::FAILED,
        }
    }
}

/// Whether an object is an earlier state of one that is known: the answer to a write and the watch
/// overtake each other.
fn is_older(new: &ObjectMeta, have: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
    new.uid == have.uid
        && version(new)
            .zip(version(have))
            .is_some_and(|(new, have)| new < have)
}

/// The import that an object of ours belongs to.
fn import_of(labelled: &Option<BTreeMap<String, String>>, namespace: &str) -> Option<Key> {
    let name = labelled.as_ref()?.get(labels::SERVICE_NAME)?;
    Some((namespace.to_owned(), name.clone()))
}
