//! What hub, agent and tools must spell alike: labels, annotations, namespaces, names.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The namespace in the hub that only the member `name` and the hub may touch.
pub fn member_namespace(name: &str) -> String {
    format!("{MEMBER_NAMESPACE_PREFIX}{name}")
}

/// The member that a hub namespace belongs to: the only source of an object's member.
pub fn member_of_namespace(namespace: &str) -> Option<&str> {
    namespace
        .strip_prefix(MEMBER_NAMESPACE_PREFIX)
        .filter(|name| !name.is_empty())
}

/// The name of a hub object: a hash of its origin, so that no name from a member is ever too long
/// or taken. `kind` keeps names of different kinds apart for people (`export`, `slice`).
///
/// 100 bits: two origins of one member never share a name by accident.
pub fn object_name(kind: &str, origin: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in origin {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut name = format!("{kind}-");
    for byte in &hash.finalize()[..13] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The name of the ExportRecord of `namespace/name`.
pub fn export_record_name(namespace: &str, name: &str) -> String {
    object_name("export", &[namespace, name])
}

/// The name of the hub's mirror of the EndpointSlice `slice` of service `namespace/name`.
pub fn slice_mirror_name(namespace: &str, name: &str, slice: &str) -> String {
    object_name("slice", &[namespace, name, slice])
}

/// Whether exports from (and imports into) this namespace are refused: it belongs to a control
/// plane.
pub fn is_reserved_namespace(namespace: &str) -> bool {
    namespace.starts_with("kube-") || namespace.starts_with("fairlead-")
}

/// The hub's and the agent's own namespace.
pub const SYSTEM_NAMESPACE: &str = "fairlead-system";
/// What the name of a member's hub namespace starts with.
pub const MEMBER_NAMESPACE_PREFIX: &str = "fairlead-member-";
/// What the subject of a proxy starts with; its group follows.
pub const PROXY_SUBJECT_PREFIX: &str = "fairlead-proxy-";
/// The ServiceAccount of a member's agent, in the member's hub namespace.
pub const AGENT_ACCOUNT: &str = "agent";
/// The Role and RoleBinding of a member's agent, in the member's hub namespace.
pub const AGENT_ROLE: &str = "fairlead-agent";
/// The Lease that a member's agent renews, in the member's hub namespace.
pub const HEARTBEAT_LEASE: &str = "heartbeat";
/// The name of the MemberReport in the member's hub namespace.
pub const MEMBER_REPORT: &str = "report";
/// The Lease that the leading hub holds, in [`SYSTEM_NAMESPACE`].
pub const LEADER_LEASE: &str = "fairlead-hub";
/// Audience of the tokens that streams are opened with.
pub const XDS_AUDIENCE: &str = "fairlead-xds";

/// On hub objects that stand for something of a service: the service's namespace.
pub const SERVICE_NAMESPACE: &str = "fairlead.dev/service-namespace";
/// MCS: the name of the service that an EndpointSlice (or an ExportRecord) belongs to.
pub const SERVICE_NAME: &str = "multicluster.kubernetes.io/service-name";
/// MCS: the cluster that an EndpointSlice comes from. Informational: who wrote it decides.
pub const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// The member that an object of the hub was made for.
pub const MEMBER: &str = "fairlead.dev/member";
/// Who manages an EndpointSlice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on slices of ours.
pub const MANAGER: &str = "fairlead.dev";
/// The field manager of the hub's writes.
pub const HUB_MANAGER: &str = "fairlead-hub";
/// The field manager of the agent's writes.
pub const AGENT_MANAGER: &str = "fairlead-agent";

/// On a Service or a workload: `"true"` exports it.
pub const EXPORT: &str = "fairlead.dev/export";
/// On a ServiceExport (or an annotated Service): its weight, 0 to 1000.
pub const WEIGHT: &str = "fairlead.dev/weight";
/// Fleet's spelling of [`WEIGHT`], read where ours is absent.
pub const FLEET_WEIGHT: &str = "networking.fleet.azure.com/weight";
/// On the mirror of an EndpointSlice: when its source changed (RFC 3339), for latency.
pub const CHANGED_AT: &str = "fairlead.dev/changed-at";
/// On a member's heartbeat Lease, by the hub: the epoch of its store, once that was restored.
pub const EPOCH: &str = "fairlead.dev/epoch";
/// On a MemberCluster: its finalizer, taken off once the member's hub namespace is gone.
pub const MEMBER_FINALIZER: &str = "fairlead.dev/member";
/// On a MemberCluster: `"true"` removes it without waiting for its agent.
pub const FORCE_LEAVE: &str = "fairlead.dev/force-leave";
/// On a MemberCluster or node: where it is.
pub const REGION: &str = "topology.kubernetes.io/region";
/// On a MemberCluster or node: where it is, more exactly.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// About API: the cluster's id.
pub const CLUSTER_ID_PROPERTY: &str = "cluster.clusterset.k8s.io";
/// About API: the set the cluster belongs to.
pub const CLUSTERSET_PROPERTY: &str = "clusterset.k8s.io";
