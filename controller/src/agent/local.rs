//! Everything an agent has observed: its cluster's services and what stands in its hub namespace.
//!
//! Watches feed [`Local::apply`], [`Local::delete`] and [`Local::reset`]; each marks the services
//! that the object touches. No I/O, no clock. Cost: O(log n) an object; a workload or the labels of a
//! namespace's Services cost O(Services of that namespace).

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::{export::ExportRecord, labels, mcs::v1beta1::ServiceExport};
use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::workloads::Workload;

/// `(namespace, name)`.
pub type Key = (String, String);

/// The slices of a service, by name. Boxed: most services have one, and a map has room for eleven.
pub(super) type Slices = BTreeMap<String, Box<EndpointSlice>>;

/// Everything observed.
#[derive(Debug, Default)]
pub struct Local {
    pub(super) services: BTreeMap<Key, Service>,
    pub(super) exports: BTreeMap<Key, ServiceExport>,
    pub(super) slices: BTreeMap<Key, Slices>,
    pub(super) workloads: BTreeMap<(String, Key), Workload>,
    /// By service: what the hub has of this member.
    pub(super) records: BTreeMap<Key, ExportRecord>,
    /// By service, then by the mirror's name.
    pub(super) mirrors: BTreeMap<Key, Slices>,
    slice_at: BTreeMap<Key, Key>,
    dirty: BTreeSet<Key>,
}

/// One observed object.
#[derive(Debug, Clone)]
pub enum Object {
    /// Of the member.
    Service(Box<Service>),
    /// Of the member.
    Export(Box<ServiceExport>),
    /// Of the member.
    Slice(Box<EndpointSlice>),
    /// Of the member: a Deployment, StatefulSet or DaemonSet.
    Workload(Box<Workload>),
    /// In the member's hub namespace.
    Record(Box<ExportRecord>),
    /// In the member's hub namespace.
    Mirror(Box<EndpointSlice>),
}

impl Local {
    /// Takes in an object as it is now.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Service(service) => {
                let key = key(&service.metadata);
                self.touch_workloads(&key.0);
                self.services.insert(key.clone(), *service);
                self.dirty.insert(key);
            }
            Object::Export(export) => {
                let key = key(&export.metadata);
                self.exports.insert(key.clone(), *export);
                self.dirty.insert(key);
            }
            Object::Slice(slice) => self.apply_slice(slice),
            Object::Workload(workload) => {
                let namespace = workload.key.0.clone();
                self.workloads
                    .insert((workload.kind.clone(), workload.key.clone()), *workload);
                self.touch_namespace(&namespace);
            }
            Object::Record(record) => {
                let spec = &record.spec;
                let key = (spec.service_namespace.clone(), spec.service_name.clone());
                self.records.insert(key.clone(), *record);
                self.dirty.insert(key);
            }
            Object::Mirror(mirror) => {
                if let Some(key) = service_of_mirror(&mirror) {
                    let name = mirror.metadata.name.clone().unwrap_or_default();
                    self.mirrors
                        .entry(key.clone())
                        .or_default()
                        .insert(name, mirror);
                    self.dirty.insert(key);
                }
            }
        }
    }

    /// Forgets an object.
    pub fn delete(&mut self, object: &Object) {
        let touched = match object {
            Object::Service(service) => {
                let key = key(&service.metadata);
                self.services.remove(&key);
                self.touch_workloads(&key.0);
                Some(key)
            }
            Object::Export(export) => {
                let key = key(&export.metadata);
                self.exports.remove(&key);
                Some(key)
            }
            Object::Slice(slice) => self.delete_slice(&key(&slice.metadata)),
            Object::Workload(workload) => {
                self.workloads
                    .remove(&(workload.kind.clone(), workload.key.clone()));
                self.touch_namespace(&workload.key.0.clone());
                None
            }
            Object::Record(record) => {
                let spec = &record.spec;
                let key = (spec.service_namespace.clone(), spec.service_name.clone());
                self.records.remove(&key);
                Some(key)
            }
            Object::Mirror(mirror) => service_of_mirror(mirror).inspect(|key| {
                if let Some(of_service) = self.mirrors.get_mut(key) {
                    of_service.remove(mirror.metadata.name.as_deref().unwrap_or_default());
                }
            }),
        };
        self.dirty.extend(touched);
    }

    /// Replaces all objects of a kind by those of a fresh list.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) {
        match kind {
            Kind::Service => self
                .dirty
                .extend(std::mem::take(&mut self.services).into_keys()),
            Kind::Export => self
                .dirty
                .extend(std::mem::take(&mut self.exports).into_keys()),
            Kind::Slice => {
                self.slice_at.clear();
                self.dirty
                    .extend(std::mem::take(&mut self.slices).into_keys());
            }
            Kind::Workload(kind) => {
                let gone = self.workloads.extract_if(.., |key, _| key.0 == kind);
                let namespaces: BTreeSet<String> = gone.map(|((_, key), _)| key.0).collect();
                namespaces
                    .iter()
                    .for_each(|namespace| self.touch_namespace(namespace));
            }
            Kind::Record => self
                .dirty
                .extend(std::mem::take(&mut self.records).into_keys()),
            Kind::Mirror => self
                .dirty
                .extend(std::mem::take(&mut self.mirrors).into_keys()),
        }
        for object in objects {
            self.apply(object);
        }
    }

    /// The services touched since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// Marks services again, whose writes failed.
    pub fn touch(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.dirty.extend(keys);
    }

    fn apply_slice(&mut self, slice: Box<EndpointSlice>) {
        let at = key(&slice.metadata);
        let owner = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|all| all.get(LOCAL_SERVICE_NAME));
        let Some(owner) = owner.cloned() else {
            let touched = self.delete_slice(&at);
            self.dirty.extend(touched);
            return;
        };
        let service = (at.0.clone(), owner);
        if self.slice_at.get(&at).is_some_and(|old| *old != service) {
            let touched = self.delete_slice(&at);
            self.dirty.extend(touched);
        }
        self.slice_at.insert(at.clone(), service.clone());
        self.slices
            .entry(service.clone())
            .or_default()
            .insert(at.1, slice);
        self.dirty.insert(service);
    }

    fn delete_slice(&mut self, at: &Key) -> Option<Key> {
        let service = self.slice_at.remove(at)?;
        if let Some(of_service) = self.slices.get_mut(&service) {
            of_service.remove(&at.1);
            if of_service.is_empty() {
                self.slices.remove(&service);
            }
        }
        Some(service)
    }

    /// A Service came or went: a workload's own Service may be needed now, or no more.
    fn touch_workloads(&mut self, namespace: &str) {
        let names = self
            .workloads
            .values()
            .filter(|workload| workload.key.0 == namespace)
            .map(|workload| workload.key.clone());
        self.dirty.extend(names.collect::<Vec<_>>());
    }

    fn touch_namespace(&mut self, namespace: &str) {
        self.touch_workloads(namespace);
        let from = (namespace.to_owned(), String::new());
        let keys = self.services.range(from..).map(|(key, _)| key);
        self.dirty
            .extend(keys.take_while(|key| key.0 == namespace).cloned());
    }
}

/// What can be listed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// See [`Object::Service`].
    Service,
    /// See [`Object::Export`].
    Export,
    /// See [`Object::Slice`].
    Slice,
    /// Workloads of one kind.
    Workload(&'static str),
    /// See [`Object::Record`].
    Record,
    /// See [`Object::Mirror`].
    Mirror,
}

/// `(namespace, name)` of an object.
pub(super) fn key(meta: &ObjectMeta) -> Key {
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn service_of_mirror(mirror: &EndpointSlice) -> Option<Key> {
    let all = mirror.metadata.labels.as_ref()?;
    Some((
        all.get(labels::SERVICE_NAMESPACE)?.clone(),
        all.get(labels::SERVICE_NAME)?.clone(),
    ))
}

/// On an EndpointSlice: the Service of the same namespace that it belongs to.
const LOCAL_SERVICE_NAME: &str = "kubernetes.io/service-name";
