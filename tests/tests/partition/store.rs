//! The hub's API server: objects, a number that grows with each write, and what changed when.

use std::collections::BTreeMap;

use fairlead_api::{labels, mcs::ServiceImport, proxy::ProxyGroupStatus};
use fairlead_config::name::MemberName;
use fairlead_controller::{
    epoch::Epoch,
    leader::Record,
    status::Write,
    world::{Kind, Object, ObjectKey},
};
use kube::Resource;

/// Everything it holds. A clone is a back-up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) revision: u64,
    objects: BTreeMap<(Kind, ObjectKey), Object>,
    log: Vec<(u64, Seen)>,
    /// Renewals of members' heartbeats, and the epoch stated on them.
    pub(crate) heartbeats: BTreeMap<MemberName, (u64, Option<String>)>,
    /// The epoch in which each member says that it mirrored anew.
    pub(crate) mirrored: BTreeMap<MemberName, Option<String>>,
    pub(crate) epoch: Epoch,
    pub(crate) leader: Option<Record>,
}

/// What a watch sees.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Apply(Object),
    Delete(Object),
    Heartbeat(MemberName, u64),
}

impl Store {
    /// Writes an object.
    pub(crate) fn put(&mut self, mut object: Object) -> Object {
        self.revision += 1;
        metadata(&mut object).resource_version = Some(self.revision.to_string());
        self.objects
            .insert((object.kind(), object.key()), object.clone());
        self.log.push((self.revision, Seen::Apply(object.clone())));
        object
    }

    pub(crate) fn delete(&mut self, kind: Kind, key: &ObjectKey) {
        if let Some(mut object) = self.objects.remove(&(kind, key.clone())) {
            self.revision += 1;
            metadata(&mut object).resource_version = Some(self.revision.to_string());
            self.log.push((self.revision, Seen::Delete(object)));
        }
    }

    /// Renews a heartbeat; the number of the write, and the epoch stated on it.
    pub(crate) fn renew(&mut self, member: &MemberName) -> (u64, Option<String>) {
        self.revision += 1;
        let row = self.heartbeats.entry(member.clone()).or_default();
        row.0 += 1;
        let (renewal, epoch) = row.clone();
        self.log
            .push((self.revision, Seen::Heartbeat(member.clone(), renewal)));
        (self.revision, epoch)
    }

    /// All objects of a kind.
    pub(crate) fn list(&self, kind: Kind) -> Vec<Object> {
        let all = self.objects.iter().filter(|((of, _), _)| *of == kind);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// What happened after `revision`. A watch that begins later than the store is waits.
    pub(crate) fn since(&self, revision: u64) -> impl Iterator<Item = &Seen> {
        let at = self.log.partition_point(|(at, _)| *at <= revision);
        self.log[at..].iter().map(|(_, seen)| seen)
    }

    /// Carries out a write of the hub; one that was decided from another state is refused.
    pub(crate) fn write(&mut self, write: Write) {
        match write {
            Write::Export {
                slot,
                version,
                status,
            } => {
                let namespace = labels::member_namespace(slot.member.as_str());
                self.change(Kind::Export, &namespace, &slot.object, version, |object| {
                    if let Object::Export(export) = object {
                        export.status = Some(status);
                    }
                });
            }
            Write::Import {
                key,
                version,
                object,
            } => self.write_import(&key, version, *object),
            Write::ImportStatus {
                key,
                version,
                status,
            } => {
                self.change(Kind::Import, &key.namespace, &key.name, version, |object| {
                    if let Object::Import(import) = object {
                        import.status = Some(status);
                    }
                });
            }
            Write::DeleteImport { key, .. } => {
                self.delete(Kind::Import, &(key.namespace, key.name));
            }
            Write::Service {
                namespace,
                name,
                version,
                status,
            } => {
                self.change(Kind::Service, &namespace, &name, version, |object| {
                    if let Object::Service(service) = object {
                        service.status = Some(*status);
                    }
                });
            }
            group @ (Write::GroupPorts { .. } | Write::GroupProxies { .. }) => {
                self.write_group(group);
            }
            Write::Member {
                name,
                version,
                status,
            } => {
                self.change(Kind::Member, "", &name, version, |object| {
                    if let Object::Member(member) = object {
                        member.status = Some(*status);
                    }
                });
            }
        }
    }

    fn write_group(&mut self, write: Write) {
        match write {
            Write::GroupPorts {
                name,
                version,
                frontends,
            } => {
                self.change(Kind::Group, "", &name, version, |object| {
                    if let Object::Group(group) = object {
                        group.status.get_or_insert_default().frontends = frontends;
                    }
                });
            }
            Write::GroupProxies {
                name,
                version,
                status,
            } => {
                self.change(Kind::Group, "", &name, version, |object| {
                    if let Object::Group(group) = object {
                        patch(group.status.get_or_insert_default(), &status);
                    }
                });
            }
            _ => unreachable!("only writes to groups come here"),
        }
    }

    fn write_import(
        &mut self,
        key: &fairlead_controller::world::ServiceKey,
        version: u64,
        mut object: ServiceImport,
    ) {
        let at = (Kind::Import, (key.namespace.clone(), key.name.clone()));
        let old = self.objects.get(&at);
        let current = old.map_or(0, Object::version);
        if current == version {
            if let Some(Object::Import(old)) = old {
                object.status.clone_from(&old.status);
            }
            object.metadata.namespace = Some(key.namespace.to_string());
            object.metadata.name = Some(key.name.to_string());
            self.put(object.into());
        }
    }

    fn change(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: u64,
        change: impl FnOnce(&mut Object),
    ) {
        let at = (kind, (namespace.into(), name.into()));
        let Some(object) = self.objects.get(&at) else {
            return;
        };
        if version == 0 || object.version() == version {
            let mut object = object.clone();
            change(&mut object);
            self.put(object);
        }
    }
}

/// Replaces the fields of a status that the patch has.
fn patch(status: &mut ProxyGroupStatus, patch: &serde_json::Value) {
    let mut all = serde_json::to_value(&*status).unwrap();
    let fields = all.as_object_mut().unwrap();
    fields.extend(patch.as_object().unwrap().clone());
    *status = serde_json::from_value(all).unwrap();
}

fn metadata(
    object: &mut Object,
) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    match object {
        Object::Member(one) => one.meta_mut(),
        Object::Export(one) => one.meta_mut(),
        Object::Slice(one) => one.meta_mut(),
        Object::Group(one) => one.meta_mut(),
        Object::Service(one) => one.meta_mut(),
        Object::Import(one) => one.meta_mut(),
    }
}
