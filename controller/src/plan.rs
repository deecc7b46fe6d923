//! One decision over everything observed.
//!
//! [`plan`] takes the World and what has changed in it, and returns what the hub's objects should
//! say, what each proxy group is told, and a report: each thing not done, and why. A plan of what
//! changed is equal to the part of a plan of everything that concerns it (a property test holds it
//! to that), and neither depends on the order of events.
//!
//! Cost: O(exports, endpoints and groups of the services that changed). The ports of a group are
//! worked out anew, at O(frontends of the group), only when a service's frontends differ from what
//! the group's status holds.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_config::{name::MemberName, xds::proto::fairlead::Import};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    distribute::{self, Backend, Rows, View},
    imports,
    ports::{self, WantedPort},
    services::{Aggregate, Outcome},
    status::{self, Write},
    world::{Dirty, GroupName, ServiceKey, World},
};

/// A complete decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// What changed, complete for each service named.
    pub services: BTreeMap<ServiceKey, ServicePlan>,
    /// What each named group is told of services that did not change themselves.
    pub groups: BTreeMap<GroupName, BTreeMap<ServiceKey, Rows>>,
    /// Groups that are told nothing any more.
    pub gone: BTreeSet<GroupName>,
    /// What to write on the hub.
    pub writes: Vec<Write>,
    /// What was not done, and why.
    pub report: Report,
}

/// What is decided of one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServicePlan {
    /// For every member; `None` takes the import away.
    pub import: Option<Arc<Import>>,
    /// What each group is told; a group that is not named is told nothing of it.
    pub rows: BTreeMap<GroupName, Rows>,
    /// Its ports, while some member is to take less than its weight.
    pub watched: Vec<String>,
}

/// What was not done, and why; what `explain` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By subject: a service or a proxy group.
    pub notes: BTreeMap<String, Vec<String>>,
}

/// Decides everything that `dirty` names.
pub fn plan(world: &World, dirty: &Dirty, now: &Time) -> Plan {
    let mut plan = Plan::default();
    let views: Vec<Arc<View>> = world.views.values().cloned().collect();
    let keys = if dirty.everything {
        world.service_keys()
    } else {
        dirty.keys()
    };
    let mut reallocate: BTreeSet<GroupName> = match dirty.everything {
        true => views.iter().map(|view| view.group.clone()).collect(),
        false => BTreeSet::new(),
    };
    reallocate.extend(dirty.groups.iter().cloned());
    for key in &keys {
        let decided = decide(world, key);
        plan_service(world, key, &decided, &views, &mut plan);
        let only = dirty.only_members(key);
        write_statuses(world, key, &decided, only, now, &mut plan);
        for view in &views {
            if !has_settled_ports(world, key, &decided, view) {
                reallocate.insert(view.group.clone());
            }
        }
    }
    for name in &reallocate {
        let Some(view) = world.views.get(name) else {
            plan.gone.insert(name.clone());
            continue;
        };
        allocate(world, view, &mut plan);
        if dirty.groups.contains(name) && !dirty.everything {
            let rows = rows_of_group(world, view, &keys);
            plan.groups.insert(name.clone(), rows);
        }
    }
    plan
}

struct Decided {
    aggregate: Arc<Aggregate>,
    backend: Option<Backend>,
}

fn decide(world: &World, key: &ServiceKey) -> Decided {
    let aggregate = world.aggregate(key);
    let import = aggregate.import.as_ref();
    let backend = import.map(|import| distribute::backend(world, key, import));
    Decided { aggregate, backend }
}

fn plan_service(
    world: &World,
    key: &ServiceKey,
    decided: &Decided,
    views: &[Arc<View>],
    plan: &mut Plan,
) {
    let Decided { aggregate, backend } = decided;
    let import = aggregate.import.as_ref();
    let mut service = ServicePlan {
        import: import.map(|import| Arc::new(imports::message(world, key, import))),
        rows: BTreeMap::new(),
        watched: backend
            .as_ref()
            .map_or_else(Vec::new, |one| one.watched(world, key)),
    };
    let mut shared: Option<Rows> = None;
    for view in views {
        if let Some(backend) = backend {
            let rows = distribute::rows(world, key, backend, view, shared.as_ref());
            if shared.is_none() && !rows.is_empty() && !backend.is_relative() {
                shared = Some(rows.clone());
            }
            if !rows.is_empty() {
                service.rows.insert(view.group.clone(), rows);
            }
        }
    }
    plan.services.insert(key.clone(), service);
}

/// `only` names the members whose exports can have changed; all where absent.
fn write_statuses(
    world: &World,
    key: &ServiceKey,
    decided: &Decided,
    only: Option<&BTreeSet<MemberName>>,
    now: &Time,
    plan: &mut Plan,
) {
    let Decided { aggregate, backend } = decided;
    let import = aggregate.import.as_ref();
    let policies = world.policies(key);
    let policy = policies.first().map(|policy| &***policy);
    let mut problems = missing_groups(world, policy);
    for view in world.views.values() {
        problems.extend(distribute::wanted(key, import, policy, view).1);
    }
    plan.writes.extend(status::exports(
        world,
        key,
        aggregate,
        backend.as_ref(),
        only,
        now,
    ));
    plan.writes.extend(status::import(world, key, import, now));
    plan.writes.extend(status::services(
        world,
        key,
        backend.as_ref(),
        &problems,
        now,
    ));
    report(key, decided, problems, &mut plan.report);
}

fn missing_groups(
    world: &World,
    policy: Option<&fairlead_api::service::MultiClusterService>,
) -> Vec<String> {
    let frontends = policy.map_or(&[][..], |policy| &policy.spec.frontends);
    let mut names: Vec<&str> = frontends
        .iter()
        .map(|one| one.proxy_group.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !world.groups.contains_key(*name));
    names
        .iter()
        .map(|name| format!("there is no ProxyGroup {name}; make one"))
        .collect()
}

fn report(key: &ServiceKey, decided: &Decided, mut notes: Vec<String>, report: &mut Report) {
    for (slot, outcome) in &decided.aggregate.outcomes {
        if let Outcome::Refused { reason, message } = outcome {
            notes.push(format!(
                "export of {} refused ({reason}): {message}",
                slot.member
            ));
        }
    }
    let members = decided.backend.iter().flat_map(|backend| &backend.members);
    for (name, part) in members {
        for (address, why) in part.refused.iter().take(NOTED_MAX) {
            notes.push(format!("address {address} of {name} refused: it {why}"));
        }
        if part.left_out > 0 {
            notes.push(format!(
                "{} endpoints of {name} are above the limit",
                part.left_out
            ));
        }
        if part.withdrawn {
            notes.push(format!(
                "{name} withdrawn: heartbeat lost, nothing probes its endpoints"
            ));
        }
    }
    if !notes.is_empty() {
        report.notes.insert(key.to_string(), notes);
    }
}

fn has_settled_ports(world: &World, key: &ServiceKey, decided: &Decided, view: &View) -> bool {
    let Some(group) = world.groups.get(&view.group) else {
        return true;
    };
    let policies = world.policies(key);
    let policy = policies.first().map(|policy| &***policy);
    let (wanted, _) = distribute::wanted(key, decided.aggregate.import.as_ref(), policy, view);
    distribute::is_settled(key, &wanted, view, group.spec.port_range)
}

fn allocate(world: &World, view: &View, plan: &mut Plan) {
    let Some(group) = world.groups.get(&view.group) else {
        return;
    };
    let wanted = wanted_of_group(world, view);
    let current = group.status.as_ref().map(|status| &status.frontends[..]);
    let found = ports::allocate(group.spec.port_range, wanted, current.unwrap_or_default());
    let notes: Vec<String> = found
        .refused
        .iter()
        .map(|(want, why)| format!("no frontend for {}: {why}", want.service))
        .collect();
    if !notes.is_empty() {
        let subject = format!("proxy group {}", view.group);
        plan.report.notes.insert(subject, notes);
    }
    plan.writes.extend(status::group_ports(group, found.ports));
}

fn wanted_of_group(world: &World, view: &View) -> Vec<WantedPort> {
    let mut all = Vec::new();
    for key in world.service_keys() {
        let policies = world.policies(&key);
        let policy = policies.first().map(|policy| &***policy);
        if view.serves(&key, policy) {
            let aggregate = world.aggregate(&key);
            all.extend(distribute::wanted(&key, aggregate.import.as_ref(), policy, view).0);
        }
    }
    all
}

/// What a group that changed is told of services that did not.
fn rows_of_group(
    world: &World,
    view: &View,
    planned: &BTreeSet<ServiceKey>,
) -> BTreeMap<ServiceKey, Rows> {
    let mut all = BTreeMap::new();
    for key in world.service_keys() {
        let policies = world.policies(&key);
        if planned.contains(&key) || !view.serves(&key, policies.first().map(|one| &***one)) {
            continue;
        }
        let Some(backend) = decide(world, &key).backend else {
            continue;
        };
        let rows = distribute::rows(world, &key, &backend, view, None);
        if !rows.is_empty() {
            all.insert(key, rows);
        }
    }
    all
}

/// Addresses of a member that a report names one by one.
const NOTED_MAX: usize = 5;
