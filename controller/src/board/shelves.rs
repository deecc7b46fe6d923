//! The endpoints of services in chunks, once for all groups that are told of them.
//!
//! A change is found by comparing the rows of each member with those before, which are mostly the very
//! same ones; only the chunks of members that differ are cut and encoded. So a change of one endpoint
//! costs a walk over the pointers of the service's endpoints (10,000: some 100 µs) and one chunk.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    sync::Arc,
};

use fairlead_config::{
    endpoint::Endpoint,
    name::{MemberName, ServiceName},
    snapshot::Endpoints,
    xds::{
        chunks,
        envelope::{Stamp, seal},
    },
};

use super::{Table, Type};
use crate::world::GroupName;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    shelves: BTreeMap<ServiceName, Shelf>,
    table: Table,
}

/// The chunks of one service.
#[derive(Debug, Default)]
struct Shelf {
    rows: Arc<Endpoints>,
    /// What the chunks are, as one number.
    sum: u128,
    /// Who is told of them.
    groups: BTreeSet<GroupName>,
}

impl Shelves {
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn restamp(&mut self, stamp: &Stamp) {
        self.table.restamp(stamp.clone());
    }

    /// Brings the chunks of a service in line with its endpoints; how much that moves the content of
    /// each group that is told of them, `group` among them from now on.
    pub(super) fn put(
        &mut self,
        service: &ServiceName,
        rows: &Arc<Endpoints>,
        group: &GroupName,
        (stamp, revision): (&Stamp, u64),
    ) -> Vec<(GroupName, u128)> {
        let shelf = self.shelves.entry(service.clone()).or_default();
        let before = shelf.sum;
        if !Arc::ptr_eq(&shelf.rows, rows) && shelf.rows != *rows {
            let changed = changed_members(&shelf.rows, rows);
            for member in &changed {
                let (old, new) = (shelf.rows.of_member(member), rows.of_member(member));
                let sums = replace(&mut self.table, service, (old, new), (stamp, revision));
                shelf.sum = shelf.sum.wrapping_add(sums);
            }
        }
        shelf.rows = Arc::clone(rows);
        let moved = shelf.sum.wrapping_sub(before);
        let told = shelf.groups.iter().filter(|_| moved != 0);
        let mut all: Vec<_> = told.map(|name| (name.clone(), moved)).collect();
        if shelf.groups.insert(group.clone()) {
            all.push((group.clone(), shelf.sum));
        }
        all
    }

    /// A group is told of a service no more; how much that moves its content.
    pub(super) fn leave(
        &mut self,
        service: &ServiceName,
        group: &GroupName,
        revision: u64,
    ) -> u128 {
        let Some(shelf) = self.shelves.get_mut(service) else {
            return 0;
        };
        if !shelf.groups.remove(group) {
            return 0;
        }
        let moved = 0_u128.wrapping_sub(shelf.sum);
        if shelf.groups.is_empty() {
            self.shelves.remove(service);
            let prefix = chunks::prefix(service.as_str());
            let names = self.table.under(Type::Chunk, &prefix);
            let names: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
            for name in names {
                self.table.remove(Type::Chunk, &name, revision);
            }
        }
        moved
    }
}

/// Replaces the chunks of one member by others; says how much the content moves.
fn replace(
    table: &mut Table,
    service: &ServiceName,
    (old, new): (&[Arc<Endpoint>], &[Arc<Endpoint>]),
    (stamp, revision): (&Stamp, u64),
) -> u128 {
    let cut = |rows| -> BTreeMap<String, &[Arc<Endpoint>]> {
        let all = chunks::cut(rows);
        all.filter_map(|chunk| Some((chunks::name(service, chunk)?, chunk)))
            .collect()
    };
    let (old, new) = (cut(old), cut(new));
    let before = table.sum();
    for (name, chunk) in &new {
        if old.get(name) != Some(chunk) {
            let resource = seal(name, &chunks::message(chunk), stamp);
            table.put(Type::Chunk, resource.into(), revision);
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        table.remove(Type::Chunk, name, revision);
    }
    table.sum().wrapping_sub(before)
}

/// The members of which any row differs.
fn changed_members(old: &Endpoints, new: &Endpoints) -> Vec<MemberName> {
    let of_member = |one: &Arc<Endpoint>, other: &Arc<Endpoint>| one.key.member == other.key.member;
    let mut old = old.values().as_slice().chunk_by(of_member).peekable();
    let mut changed = Vec::new();
    for rows in new.values().as_slice().chunk_by(of_member) {
        let member = &rows[0].key.member;
        changed.extend(before(&mut old, member));
        let same = old.next_if(|rows| rows[0].key.member == *member);
        if same != Some(rows) {
            changed.push(member.clone());
        }
    }
    changed.extend(old.map(|rows| rows[0].key.member.clone()));
    changed
}

/// Members that come before this one.
fn before<'r>(
    all: &mut Peekable<impl Iterator<Item = &'r [Arc<Endpoint>]>>,
    member: &MemberName,
) -> Vec<MemberName> {
    let mut names = Vec::new();
    while let Some(rows) = all.next_if(|rows| rows[0].key.member < *member) {
        names.push(rows[0].key.member.clone());
    }
    names
}
