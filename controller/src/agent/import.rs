//! Imports in the member: which ServiceImports, derived Services and EndpointSlices there should be.
//!
//! | module | what it decides |
//! |---|---|
//! | [`observed`] | what is there, and what came down |
//! | [`backends`] | who answers behind the clusterset IP: the member's proxies, or endpoints |
//! | [`objects`] | the ServiceImport and the derived Service |
//! | [`slices`] | the EndpointSlices, changed as little as possible |
//!
//! [`plan`] looks at one import and returns every write that is missing; planned again on its own
//! result it returns nothing. The clusterset IP is the ClusterIP of the derived Service, a Service
//! without selector in the import's namespace, so kube-proxy serves it and nothing else has to.
//!
//! What is not ours is not touched: a namespace that is missing is not made, a ServiceImport or a
//! Service that somebody else made stays as it is, and a condition says so, with the next step. Ours
//! carries [`MANAGED_BY`] or was written by the agent's field manager; every change names the UID
//! that it was decided on, so an object made anew by somebody else is never hit.
//!
//! Cost: O(endpoints of the import).

pub mod backends;
mod edits;
pub mod objects;
pub mod observed;
pub mod slices;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use fairlead_api::{
    conditions::{self, Wanted, find, kind, reason},
    labels,
    mcs::v1beta1::{ServiceImport, ServiceImportStatus},
};
use fairlead_config::xds::proto::fairlead::{Import, ImportType};
use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
};

pub use edits::undone;
pub use observed::{Failure, Kind, Object, Observed};

use super::local::Key;

/// One write in the member. Each may be made twice. An object with a UID is changed only if it is
/// still that one; one without is made only if there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// The ServiceImport.
    PutImport(Box<ServiceImport>),
    /// The derived Service.
    PutService(Box<Service>),
    /// One of its slices.
    PutSlice(Box<EndpointSlice>),
    /// By namespace and name, and UID.
    DeleteImport(Key, String),
    /// By namespace and name, and UID.
    DeleteService(Key, String),
    /// By namespace and name, and UID.
    DeleteSlice(Key, String),
    /// What our ServiceImport should say.
    Status(Key, Box<ServiceImportStatus>),
    /// What somebody else's ServiceImport should say: our condition alone, `None` to take it back.
    Note(Key, Option<Box<Condition>>),
}

/// The member, as far as imports go.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The moment of planning, for conditions.
    pub now: Time,
}

/// Every write that is missing for an import.
pub fn plan(observed: &Observed, member: &Member, key: &Key) -> Vec<Write> {
    let mut writes = Vec::new();
    if !observed.namespaces.contains(&key.0) || labels::is_reserved_namespace(&key.0) {
        return writes;
    }
    let import = observed.imports.get(key);
    let foreign = import.is_some_and(|import| !is_ours(&import.metadata));
    match observed.told.get(key) {
        Some(told) if !foreign => keep(observed, member, (key, told), &mut writes),
        told => {
            withdraw(observed, key, &BTreeSet::new(), &mut writes);
            let wanted = told.is_some() && foreign;
            writes.extend(import.and_then(|import| note(import, key, wanted, &member.now)));
        }
    }
    writes
}

/// Whether an object is one that this agent made.
pub fn is_ours(meta: &ObjectMeta) -> bool {
    let labelled = meta.labels.as_ref().and_then(|all| all.get(MANAGED_BY));
    let managers = meta.managed_fields.iter().flatten();
    let mut ours = managers.filter(|entry| {
        entry.subresource.is_none() && entry.manager.as_deref() == Some(labels::AGENT_MANAGER)
    });
    labelled.is_some_and(|by| by == labels::MANAGER) || ours.next().is_some()
}

/// The name of the derived Service of an import, in the import's namespace.
pub fn derived_name(key: &Key) -> String {
    labels::object_name("derived", &[&key.0, &key.1])
}

/// Objects and status of an import that is there.
fn keep(observed: &Observed, member: &Member, (key, told): (&Key, &Import), out: &mut Vec<Write>) {
    let service = observed.service(key);
    let ours = service.filter(|service| is_ours(&service.metadata));
    let import = observed.imports.get(key);
    let wanted = objects::import(told, ours, import);
    if import.is_none_or(|import| !objects::covers(import, &wanted)) {
        out.push(Write::PutImport(Box::new(wanted)));
    }
    let Some(import) = import else {
        // Everything else belongs to it by its UID.
        return;
    };
    if service.is_some() == ours.is_some() {
        keep_service(told, import, ours, out);
    }
    let mut pieces = slices::Pieces::default();
    let mut served = backends::Served::default();
    if ours.is_some() {
        served = backends::backends(observed, &member.name, told);
        pieces = slices::plan(key, told, import, &served.backends, observed.slices(key));
    }
    out.extend(pieces.puts.into_iter().map(Box::new).map(Write::PutSlice));
    withdraw_slices(observed, key, &pieces.kept, out);
    let status = status(observed, (key, told), import, &served, &member.now);
    out.extend(status.map(|status| Write::Status(key.clone(), Box::new(status))));
}

fn keep_service(
    told: &Import,
    import: &ServiceImport,
    have: Option<&Service>,
    out: &mut Vec<Write>,
) {
    if let Some(have) = have
        && !objects::can_become(have, told)
    {
        // What cannot be changed is made anew once it is gone.
        let at = super::local::key(&have.metadata);
        out.push(Write::DeleteService(at, uid(&have.metadata)));
        return;
    }
    let wanted = objects::service(told, import, have);
    if have.is_none_or(|have| !objects::covers(have, &wanted)) {
        out.push(Write::PutService(Box::new(wanted)));
    }
}

/// What of ours has to go with an import that is gone.
fn withdraw(observed: &Observed, key: &Key, kept: &BTreeSet<String>, out: &mut Vec<Write>) {
    withdraw_slices(observed, key, kept, out);
    if let Some(service) = observed.service(key)
        && is_ours(&service.metadata)
        && service.metadata.deletion_timestamp.is_none()
    {
        let at = super::local::key(&service.metadata);
        out.push(Write::DeleteService(at, uid(&service.metadata)));
    }
    if let Some(import) = observed.imports.get(key)
        && is_ours(&import.metadata)
        && import.metadata.deletion_timestamp.is_none()
    {
        out.push(Write::DeleteImport(key.clone(), uid(&import.metadata)));
    }
}

fn withdraw_slices(observed: &Observed, key: &Key, kept: &BTreeSet<String>, out: &mut Vec<Write>) {
    let stale = observed.slices(key).filter(|slice| {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        !kept.contains(name) && slice.metadata.deletion_timestamp.is_none()
    });
    out.extend(stale.map(|slice| {
        let at = super::local::key(&slice.metadata);
        Write::DeleteSlice(at, uid(&slice.metadata))
    }));
}

/// What somebody else's ServiceImport is told.
fn note(import: &ServiceImport, key: &Key, wanted: bool, now: &Time) -> Option<Write> {
    let status = import.status.as_ref();
    let have = status.map(|status| &status.conditions[..]);
    let have = have.unwrap_or_default();
    let old = find(have, SERVED);
    if !wanted {
        return (old.is_some() && !is_ours(&import.metadata))
            .then(|| Write::Note(key.clone(), None));
    }
    let message = format!(
        "the service is exported to this cluster set, but this ServiceImport was made by somebody \
         else and is left alone; to have it served by Fairlead, delete it, or keep its maker from \
         importing {}/{}",
        key.0, key.1
    );
    let said = Wanted::no(SERVED, NOT_OURS, message);
    let generation = import.metadata.generation;
    let mine: Vec<Condition> = old.cloned().into_iter().collect();
    let new = conditions::set(&mine, &[said], generation, now)?;
    let condition = new.into_iter().next().map(Box::new);
    Some(Write::Note(key.clone(), condition))
}

fn status(
    observed: &Observed,
    (key, told): (&Key, &Import),
    import: &ServiceImport,
    served: &backends::Served,
    now: &Time,
) -> Option<ServiceImportStatus> {
    let ready = ready(observed, (key, told), import, served);
    let none = ServiceImportStatus::default();
    let old = import.status.as_ref().unwrap_or(&none);
    let generation = import.metadata.generation;
    let conditions = conditions::set(&old.conditions, &[ready], generation, now);
    let new = ServiceImportStatus {
        clusters: objects::clusters(told),
        conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
        endpoint_slice_objects: Some("Present".to_owned()),
    };
    // Where the installed CRD is too old for the field, it is pruned each time: that is no change.
    let same = new.clusters == old.clusters && new.conditions == old.conditions;
    let said = old.endpoint_slice_objects.is_some() || !old.conditions.is_empty();
    (!same || !said).then_some(new)
}

/// The Ready condition: what stands in the way first.
fn ready(
    observed: &Observed,
    (key, told): (&Key, &Import),
    import: &ServiceImport,
    served: &backends::Served,
) -> Wanted {
    let no = |reason: &str, message: String| Wanted::no(kind::READY, reason, message);
    if let Some(service) = observed.service(key)
        && !is_ours(&service.metadata)
    {
        let name = derived_name(key);
        return no(
            NAME_TAKEN,
            format!(
                "Service {}/{name} was made by somebody else and is left alone, but the clusterset \
                 IP needs that name; delete or rename it, and the agent makes its own within \
                 {} s",
                key.0, RETRY_SECONDS
            ),
        );
    }
    if let Some(failure) = observed.failures.get(key) {
        return no(failure.reason(), failure.message.clone());
    }
    let headless = told.r#type() == ImportType::Headless;
    let service = observed.service(key);
    if service.is_none() || (!headless && import.spec.ips.is_empty()) {
        let message = "waits for the derived Service and its address".to_owned();
        return no(reason::PENDING, message);
    }
    if !served.unserved.is_empty() && served.backends.is_empty() {
        return no(
            reason::NO_FRONTEND,
            format!(
                "nothing answers for port {}: the hub told of no endpoints, and the member's proxy \
                 group has no frontend for it; look at the exports of {}/{}, or name it in \
                 spec.services of the ProxyGroup",
                served.unserved.join(", "),
                key.0,
                key.1
            ),
        );
    }
    let ready = served.backends.iter().filter(|one| one.ready).count();
    let what = match served.by_proxies {
        true => "proxies of this member",
        false => "endpoints",
    };
    let left_out = match served.left_out {
        0 => String::new(),
        more => format!("; {more} beyond the limit are left out"),
    };
    Wanted::yes(
        kind::READY,
        reason::READY,
        format!("served by {ready} ready {what}{left_out}"),
    )
}

fn uid(meta: &ObjectMeta) -> String {
    meta.uid.clone().unwrap_or_default()
}

/// On everything that the agent makes for imports; the value is [`labels::MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Our condition on a ServiceImport that somebody else made.
pub const SERVED: &str = "fairlead.dev/Served";
/// [`SERVED`]: somebody else made it.
pub const NOT_OURS: &str = "NotOurs";
/// Ready: somebody's Service has the derived Service's name.
pub const NAME_TAKEN: &str = "DerivedNameTaken";
/// How often what could not be done is tried again, in seconds.
pub const RETRY_SECONDS: u64 = 5;
