//! What is special about a kind: defaults, preparation, validation, generation.
//!
//! The REST layer does what is common to all kinds and asks the kind's [`Strategy`] for the rest.
//! The order on create is `defaults`, `prepare_create`, `validate_create`; on update and patch it is
//! `defaults`, `prepare_update`, `validate_update`. Metadata (name, uid, timestamps, managedFields,
//! resourceVersion, deletion) belongs to the REST layer, and so do generation and the split between
//! an object and its status, by the answers of `generation` and `has_status`.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::auth::User;
use crate::auth::index::Rbac;
use crate::clock::Random;
use crate::error::{ApiError, Cause};
use crate::resource::Resource;

mod account;
mod batch;
mod config;
mod endpointslice;
pub mod field;
mod lease;
pub mod metadata;
pub mod names;
mod namespace;
mod network;
mod pod;
mod policy;
mod rbac;
pub(crate) mod service;
pub(crate) mod value;
mod workload;

pub use names::NameRule;

/// Settings that change what kinds accept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// EndpointSlices may hold loopback addresses. A real API server refuses them; a fleet in one
    /// process has no others.
    pub allow_loopback_endpoints: bool,
    /// Where ClusterIPs are allocated from; the second range, if any, is of the other family.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Node ports, both ends included.
    pub node_ports: (u16, u16),
}

/// One change: namespace, name, and the object unless it was deleted.
pub type Changed = (String, String, Option<Value>);

/// Reads of other objects, at the present state of the store.
pub trait Lookup: Send + Sync {
    fn one(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value>;

    /// All objects of a namespace, or of all namespaces when it is empty.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value>;

    /// What changed in a resource after a revision, as (namespace, name, present object if there is
    /// one); `None` when that is no longer known.
    fn changes(&self, _group: &str, _resource: &str, _since: u64) -> Option<Vec<Changed>> {
        None
    }

    /// The resourceVersion of the last write to that resource, zero for none: what was compiled
    /// from its objects is current while this stays the same.
    fn revision(&self, group: &str, resource: &str) -> u64;
}

/// One request, as a strategy sees it.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    pub now: Timestamp,
    pub user: &'a User,
    pub resource: &'a Resource,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub dry_run: bool,
    pub settings: &'a Settings,
    pub random: &'a dyn Random,
    pub lookup: &'a dyn Lookup,
    pub state: &'a State,
}

/// What strategies remember between requests (allocators, the RBAC index), one per server.
#[derive(Debug, Default)]
pub struct State {
    pub rbac: Arc<Rbac>,
    services: Mutex<service::pool::Pool>,
}

/// When `metadata.generation` moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// One at creation, then with each change outside metadata and status.
    Desired,
    /// One at creation, then with each change outside metadata (kinds without a status subresource).
    Anything,
}

/// A kind's own rules. The defaults fit a kind without any.
pub trait Strategy: Send + Sync {
    fn defaults(&self, _object: &mut Value) {}

    /// Fills in and resets what the server decides; may refuse (quota, escalation, allocation).
    fn prepare_create(&self, _object: &mut Value, _ctx: &Ctx<'_>) -> Result<(), ApiError> {
        Ok(())
    }

    fn prepare_update(
        &self,
        _new: &mut Value,
        _old: &Value,
        _ctx: &Ctx<'_>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    fn validate_create(&self, _object: &Value, _ctx: &Ctx<'_>) -> Vec<Cause> {
        Vec::new()
    }

    fn validate_update(&self, _new: &Value, _old: &Value, _ctx: &Ctx<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// After the object has left the store (allocations are given back).
    fn deleted(&self, _object: &Value, _ctx: &Ctx<'_>) {}

    /// The write did not take place after `prepare_create` or `prepare_update` succeeded.
    fn abandoned(&self, _object: &Value, _old: Option<&Value>, _ctx: &Ctx<'_>) {}

    /// A write to the object leaves `status` alone, and a write to `/status` leaves the rest alone.
    fn has_status(&self) -> bool {
        false
    }

    /// A create may bring a status (nodes register with theirs).
    fn status_on_create(&self) -> bool {
        false
    }

    fn generation(&self) -> Generation {
        Generation::None
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// A PUT to a name that isn't there creates the object (leases, events, config maps: no; few
    /// kinds say yes).
    fn create_on_update(&self) -> bool {
        false
    }

    /// An update without a resourceVersion is accepted.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Seconds between a delete and the end of the object when the client names none; only pods
    /// have one.
    fn default_grace_seconds(&self, _object: &Value) -> i64 {
        0
    }

    /// Fields that `fieldSelector` may name besides `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value of one of those fields, as selectors compare it.
    fn selectable_value(&self, object: &Value, field: &str) -> String {
        let mut here = object;
        for part in field.split('.') {
            match here.get(part) {
                Some(next) => here = next,
                None => return String::new(),
            }
        }
        match here {
            Value::String(text) => text.clone(),
            Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
            other => other.to_string(),
        }
    }
}

/// The rules of a kind; [`Plain`] for a kind without any.
pub fn strategy(group: &str, kind: &str) -> &'static dyn Strategy {
    use workload::{Kind, Workload};
    match (group, kind) {
        ("", "ConfigMap") => &config::ConfigMap,
        ("", "Secret") => &config::Secret,
        ("", "Namespace") => &namespace::Namespace,
        ("", "Node") => &account::Node,
        ("", "Pod") => &pod::Pod,
        ("", "PodTemplate") => &pod::PodTemplate,
        ("", "ReplicationController") => &Workload(Kind::ReplicationController),
        ("", "Service") => &service::Service,
        ("", "ServiceAccount") => &account::ServiceAccount,
        ("" | "events.k8s.io", "Event") => &account::Event,
        ("apps", "DaemonSet") => &Workload(Kind::DaemonSet),
        ("apps", "Deployment") => &Workload(Kind::Deployment),
        ("apps", "ReplicaSet") => &Workload(Kind::ReplicaSet),
        ("apps", "StatefulSet") => &Workload(Kind::StatefulSet),
        ("batch", "CronJob") => &batch::CronJob,
        ("batch", "Job") => &batch::Job,
        ("coordination.k8s.io", "Lease") => &lease::Lease,
        ("discovery.k8s.io", "EndpointSlice") => &endpointslice::EndpointSlice,
        ("networking.k8s.io", "Ingress") => &network::Ingress,
        ("networking.k8s.io", "NetworkPolicy") => &network::NetworkPolicy,
        ("policy", "PodDisruptionBudget") => &policy::DisruptionBudget,
        (rbac::GROUP, "ClusterRole" | "Role") => &rbac::Role,
        (rbac::GROUP, "ClusterRoleBinding" | "RoleBinding") => &rbac::Binding,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &crate::crd::Definition,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy")
        | ("autoscaling", "HorizontalPodAutoscaler")
        | ("flowcontrol.apiserver.k8s.io", "FlowSchema" | "PriorityLevelConfiguration")
        | ("networking.k8s.io", "ServiceCIDR")
        | ("apiregistration.k8s.io", "APIService") => &WithStatus,
        ("certificates.k8s.io", "ClusterTrustBundle") => &Signed { status: false },
        ("certificates.k8s.io", _) => &Signed { status: true },
        ("", "PersistentVolumeClaim" | "PersistentVolume" | "ResourceQuota")
        | ("resource.k8s.io", "DeviceTaintRule" | "ResourceClaim")
        | ("storage.k8s.io", "CSINode" | "VolumeAttachment")
        | ("storagemigration.k8s.io", "StorageVersionMigration") => &StatusOnly,
        _ => &Plain,
    }
}

/// Data: neither defaults, status nor generation.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

/// A spec with a generation and a status subresource, and nothing else of its own.
#[derive(Debug, Clone, Copy)]
pub struct WithStatus;

/// A status subresource, and nothing else of its own.
#[derive(Debug, Clone, Copy)]
pub struct StatusOnly;

/// What a signer is to look for: found by its name.
#[derive(Debug, Clone, Copy)]
struct Signed {
    status: bool,
}

impl Strategy for Signed {
    fn has_status(&self) -> bool {
        self.status
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }
}

impl Strategy for Plain {}

impl Strategy for StatusOnly {
    fn has_status(&self) -> bool {
        true
    }
}

impl Strategy for WithStatus {
    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        let range = ipnet::Ipv4Net::new(std::net::Ipv4Addr::new(10, 96, 0, 0), 16)
            .expect("16 is a valid prefix length");
        Self {
            allow_loopback_endpoints: false,
            service_cidrs: vec![range.into()],
            node_ports: (30_000, 32_767),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
