//! The parts of objects that decisions read.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fairlead_api::{
    export::{ExportRecordSpec, ExportRecordStatus},
    member::TrafficClaim,
};
use fairlead_config::name::MemberName;
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

/// One export among those of a service. A member has one; a second one is forged, and refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExportKey {
    /// Who exports.
    pub member: MemberName,
    /// The ExportRecord's name.
    pub object: Arc<str>,
}

/// A member as far as decisions go.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Labels of the MemberCluster.
    pub labels: BTreeMap<String, String>,
    /// What its endpoint addresses must be in; `Err` holds what cannot be parsed.
    pub cidrs: Option<Result<Vec<IpNet>, String>>,
    /// What it may export, as patterns.
    pub allow_exports: Option<Vec<String>>,
    /// Requests for less traffic.
    pub claims: Vec<TrafficClaim>,
    /// What the leader says of its heartbeat.
    pub heartbeat: Heartbeat,
    /// It is being deleted, and nothing keeps it.
    pub leaving: bool,
    /// Of the MemberCluster.
    pub version: u64,
}

/// The leader's verdict on a member's heartbeat, as read from status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Heartbeat {
    /// Fresh, or not judged yet.
    #[default]
    Fresh,
    /// Lost.
    Lost,
    /// Lost together with so many others that nothing is withdrawn.
    Suspended,
}

/// An ExportRecord as far as decisions go.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// What the agent wrote.
    pub spec: Arc<ExportRecordSpec>,
    /// When the record was made, by the hub's clock.
    pub created: Option<Timestamp>,
    /// What the hub said last.
    pub status: ExportRecordStatus,
    /// Of the spec.
    pub generation: Option<i64>,
    /// The record is being deleted.
    pub leaving: bool,
    /// Of the record.
    pub version: u64,
}

/// A mirrored EndpointSlice as far as decisions go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slice {
    /// Name (empty where none), protocol and number of each port.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Addresses that are none, as given.
    pub unreadable: Vec<String>,
    /// Of the mirror.
    pub version: u64,
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Empty where none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// What the endpoints listen on.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address; the API calls further ones interchangeable.
    pub ip: IpAddr,
    /// What its conditions say.
    pub state: fairlead_config::endpoint::ObjectState,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its host name, for headless services.
    pub hostname: Option<Arc<str>>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Its conditions as given: ready, serving, terminating.
    pub conditions: [bool; 3],
}

/// What the proxies report of a member's part in a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Live sessions, without flows; `None` when a live proxy has not reported.
    pub active: Option<u64>,
    /// Endpoints that some proxy's probes call healthy.
    pub healthy: u32,
    /// Endpoints that some proxy's probes call unhealthy.
    pub unhealthy: u32,
}
