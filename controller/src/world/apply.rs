//! How each kind of object gets into the World and out of it.

use std::sync::Arc;

use fairlead_api::{
    export::ExportRecord, labels, mcs::ServiceImport, member::MemberCluster, proxy::ProxyGroup,
    service::MultiClusterService,
};
use fairlead_config::name::MemberName;
use k8s_openapi::{
    api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::distribute::View;

use super::{ExportKey, GroupName, Kind, Object, ObjectKey, ServiceKey, World, convert};

impl World {
    /// Every object of a kind.
    pub(crate) fn objects(&self, kind: Kind) -> Vec<ObjectKey> {
        let cluster: Arc<str> = "".into();
        match kind {
            Kind::Member => {
                let names = self.members.keys();
                names
                    .map(|name| (cluster.clone(), name.as_str().into()))
                    .collect()
            }
            Kind::Export => self.export_at.keys().cloned().collect(),
            Kind::Slice => self.slice_at.keys().cloned().collect(),
            Kind::Group => {
                let names = self.groups.keys();
                names.map(|name| (cluster.clone(), name.clone())).collect()
            }
            Kind::Service => self.service_at.keys().cloned().collect(),
            Kind::Import => {
                let keys = self.imports.keys();
                keys.map(|key| (key.namespace.clone(), key.name.clone()))
                    .collect()
            }
        }
    }

    /// Whether some of these objects, as they were listed, are older than they are known to be: only a
    /// store that was restored goes back. What is gone from a list may have been deleted.
    pub fn is_later_than(&self, listed: &[Object]) -> bool {
        listed.iter().any(|object| {
            let known = self.version_of(object.kind(), &object.key());
            known.is_some_and(|known| known > object.version())
        })
    }

    fn version_of(&self, kind: Kind, at: &ObjectKey) -> Option<u64> {
        match kind {
            Kind::Member => {
                let name = MemberName::parse(&at.1).ok()?;
                Some(self.members.get(&name)?.version)
            }
            Kind::Export => {
                let slot = ExportKey {
                    member: member_of(&at.0)?,
                    object: at.1.clone(),
                };
                let of_key = self.exports.get(self.export_at.get(at)?)?;
                Some(of_key.get(&slot)?.version)
            }
            Kind::Slice => {
                let of_key = self.slices.get(self.slice_at.get(at)?)?;
                Some(of_key.get(&member_of(&at.0)?)?.get(&at.1)?.version)
            }
            Kind::Group => Some(convert::version(&self.groups.get(&at.1)?.metadata)),
            Kind::Service => {
                let of_key = self.services.get(self.service_at.get(at)?)?;
                Some(convert::version(&of_key.get(&at.1)?.metadata))
            }
            Kind::Import => {
                let key = ServiceKey::new(&at.0, &at.1);
                Some(convert::version(&self.imports.get(&key)?.metadata))
            }
        }
    }

    pub(super) fn apply_member(&mut self, object: &MemberCluster) {
        let Some(Ok(name)) = object.metadata.name.as_deref().map(MemberName::parse) else {
            return;
        };
        let member = convert::member(object);
        let old = self.members.get(&name);
        let same = old.is_some_and(|old| convert::same_member(old, &member));
        self.dirty.removals |= member.leaving && !same;
        let moved = old.is_none_or(|old| old.labels != member.labels);
        let version = member.version;
        self.members.insert(name.clone(), member);
        if !same {
            self.saw(version);
            self.touch_member(&name);
        }
        if moved {
            self.touch_groups_of_member(&name);
        }
    }

    pub(super) fn apply_export(&mut self, object: ExportRecord) {
        let Some((at, member)) = attributed(&object.metadata) else {
            return;
        };
        let key = ServiceKey::new(&object.spec.service_namespace, &object.spec.service_name);
        if self.export_at.get(&at).is_some_and(|old| *old != key) {
            self.drop_export(&at);
        }
        let export = convert::export(object);
        let slot = ExportKey {
            member,
            object: at.1.clone(),
        };
        let of_key = self.exports.entry(key.clone()).or_default();
        let same = of_key
            .get(&slot)
            .is_some_and(|old| convert::same_export(old, &export));
        let version = export.version;
        of_key.insert(slot, export);
        self.export_at.insert(at, key.clone());
        if !same {
            self.saw(version);
            self.aggregates.remove(&key);
            self.dirty.services.insert(key);
        }
    }

    pub(super) fn drop_export(&mut self, at: &ObjectKey) {
        let Some(key) = self.export_at.remove(at) else {
            return;
        };
        if let Some(of_key) = self.exports.get_mut(&key)
            && let Some(member) = member_of(&at.0)
        {
            of_key.remove(&ExportKey {
                member,
                object: at.1.clone(),
            });
            if of_key.is_empty() {
                self.exports.remove(&key);
            }
        }
        self.aggregates.remove(&key);
        self.dirty.services.insert(key);
        self.dirty.removals = true;
    }

    pub(super) fn apply_slice(&mut self, object: &EndpointSlice) {
        let Some((at, member)) = attributed(&object.metadata) else {
            return;
        };
        let Some(key) = convert::service_of_slice(object) else {
            self.drop_slice(&at);
            return;
        };
        if self.slice_at.get(&at).is_some_and(|old| *old != key) {
            self.drop_slice(&at);
        }
        let slice = convert::slice(object);
        let of_member = self
            .slices
            .entry(key.clone())
            .or_default()
            .entry(member.clone())
            .or_default();
        let old = of_member.insert(at.1.clone(), slice.clone());
        self.slice_at.insert(at, key.clone());
        if old
            .as_ref()
            .is_none_or(|old| !convert::same_slice(old, &slice))
        {
            self.dirty.removals |= old.is_some_and(|old| convert::loses_endpoints(&old, &slice));
            self.saw(slice.version);
            self.touch_slices(key, member);
        }
    }

    pub(super) fn drop_slice(&mut self, at: &ObjectKey) {
        let Some(key) = self.slice_at.remove(at) else {
            return;
        };
        if let Some(of_key) = self.slices.get_mut(&key)
            && let Some(member) = member_of(&at.0)
        {
            if let Some(of_member) = of_key.get_mut(&member) {
                of_member.remove(&at.1);
                if of_member.is_empty() {
                    of_key.remove(&member);
                }
            }
            if of_key.is_empty() {
                self.slices.remove(&key);
            }
        }
        if let Some(member) = member_of(&at.0) {
            self.touch_slices(key, member);
        }
        self.dirty.removals = true;
    }

    pub(super) fn apply_group(&mut self, object: ProxyGroup) {
        let Some(name) = object.metadata.name.clone() else {
            return;
        };
        let name: GroupName = name.into();
        let old = self.groups.insert(name.clone(), Arc::new(object));
        self.look_at(&name);
        let new = &self.groups[&name];
        if old.is_none_or(|old| !convert::same_group(&old, new)) {
            let version = convert::version(&new.metadata);
            self.saw(version);
            self.dirty.groups.insert(name.clone());
            self.touch_services_of_group(&name);
            self.touch_imports_of_group(&name);
        }
    }

    pub(super) fn apply_service(&mut self, object: MultiClusterService) {
        let Some(at) = convert::object_key(&object.metadata) else {
            return;
        };
        let key = ServiceKey::new(&at.0, &object.spec.service_import.name);
        if self.service_at.get(&at).is_some_and(|old| *old != key) {
            self.drop_service(&at);
        }
        let version = convert::version(&object.metadata);
        let of_key = self.services.entry(key.clone()).or_default();
        let old = of_key.insert(at.1.clone(), Arc::new(object.clone()));
        self.service_at.insert(at, key.clone());
        if old.is_none_or(|old| !convert::same_service(&old, &object)) {
            self.saw(version);
            self.dirty.services.insert(key);
        }
    }

    pub(super) fn drop_service(&mut self, at: &ObjectKey) {
        let Some(key) = self.service_at.remove(at) else {
            return;
        };
        if let Some(of_key) = self.services.get_mut(&key) {
            of_key.remove(&at.1);
            if of_key.is_empty() {
                self.services.remove(&key);
            }
        }
        self.dirty.services.insert(key);
    }

    pub(super) fn apply_import(&mut self, object: ServiceImport) {
        let Some((namespace, name)) = convert::object_key(&object.metadata) else {
            return;
        };
        let key = ServiceKey { namespace, name };
        let old = self.imports.insert(key.clone(), Arc::new(object));
        let new = &self.imports[&key];
        // What the import says is decided here, so it is no ground for decisions; but somebody's
        // edit has to be taken back.
        if old.is_none_or(|old| old.spec != new.spec || old.status != new.status) {
            self.dirty.services.insert(key);
        }
    }

    pub(super) fn touch_member(&mut self, member: &MemberName) {
        for (key, of_key) in &self.exports {
            let first = ExportKey {
                member: member.clone(),
                object: "".into(),
            };
            let theirs = of_key
                .range(first..)
                .next()
                .is_some_and(|(export, _)| export.member == *member);
            if theirs
                || self
                    .slices
                    .get(key)
                    .is_some_and(|of| of.contains_key(member))
            {
                self.dirty.services.insert(key.clone());
                self.aggregates.remove(key);
                if let Some(rows) = self.rows.get_mut(key) {
                    rows.remove(member);
                }
            }
        }
    }

    /// Where a member is decides which tier its proxies find others in.
    pub(super) fn touch_groups_of_member(&mut self, member: &MemberName) {
        let theirs = self.groups.iter().filter(|(_, group)| {
            let own = group.spec.member.as_deref();
            own == Some(member.as_str())
        });
        let theirs: Vec<GroupName> = theirs.map(|(name, _)| name.clone()).collect();
        for name in theirs {
            self.look_at(&name);
            self.dirty.groups.insert(name);
        }
    }

    /// Works a group's view out anew.
    pub(super) fn look_at(&mut self, name: &str) {
        let group = self.groups.get_key_value(name);
        let group = group.filter(|(_, group)| group.metadata.deletion_timestamp.is_none());
        match group {
            Some((name, group)) => {
                let view = View::of_group(self, name, group);
                self.views.insert(name.clone(), Arc::new(view));
            }
            None => drop(self.views.remove(name)),
        }
    }

    /// A group's allocations and addresses show in the status of the services that name it.
    pub(super) fn touch_services_of_group(&mut self, group: &str) {
        for (key, of_key) in &self.services {
            let names_it = of_key.values().any(|service| {
                let frontends = &service.spec.frontends;
                frontends
                    .iter()
                    .any(|frontend| frontend.proxy_group == group)
            });
            if names_it {
                self.dirty.services.insert(key.clone());
            }
        }
    }

    /// Whether a member's proxies serve a service decides whether its import is told with endpoints.
    pub(super) fn touch_imports_of_group(&mut self, group: &str) {
        let patterns = |world: &Self| {
            let view = world.views.get(group)?;
            view.place.member.as_ref()?;
            Some(view.services.clone())
        };
        let now = patterns(self);
        let before = match &now {
            Some(now) => self.own_services.insert(group.into(), now.clone()),
            None => self.own_services.remove(group),
        };
        if now == before {
            return;
        }
        let left_out = |patterns: &Option<Vec<String>>, key: &ServiceKey| {
            let serves = |all: &Vec<String>| {
                let mut all = all.iter();
                all.any(|pattern| super::matches_pattern(pattern, key))
            };
            patterns.as_ref().is_some_and(|all| !serves(all))
        };
        for key in self.service_keys() {
            if left_out(&before, &key) != left_out(&now, &key) {
                self.dirty.services.insert(key);
            }
        }
    }

    fn touch_slices(&mut self, key: ServiceKey, member: MemberName) {
        if let Some(rows) = self.rows.get_mut(&key) {
            rows.remove(&member);
            if rows.is_empty() {
                self.rows.remove(&key);
            }
        }
        self.dirty.slices.entry(key).or_default().insert(member);
    }

    pub(super) fn saw(&mut self, version: u64) {
        self.as_of = self.as_of.max(version);
    }
}

pub(super) fn member_of(namespace: &str) -> Option<MemberName> {
    MemberName::parse(labels::member_of_namespace(namespace)?).ok()
}

fn attributed(metadata: &ObjectMeta) -> Option<(ObjectKey, MemberName)> {
    let at = convert::object_key(metadata)?;
    let member = member_of(&at.0)?;
    Some((at, member))
}
