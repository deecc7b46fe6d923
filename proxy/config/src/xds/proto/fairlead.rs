//! `fairlead.v1`: what the published messages have no place for.

use std::collections::BTreeMap;

use prost::{Enumeration, Message};

use super::core::Address;

/// What a proxy says of one endpoint.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Verdict {
    /// `namespace/name:port`.
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub member: String,
    #[prost(message, optional, tag = "3")]
    pub address: Option<Address>,
    #[prost(enumeration = "VerdictKind", tag = "4")]
    pub kind: i32,
    /// For people, for example `connect refused 3 times in a row`.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// Milliseconds since the Unix epoch, by the proxy's clock.
    #[prost(uint64, tag = "6")]
    pub since_unix_millis: u64,
}

/// The state of an endpoint at a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum VerdictKind {
    /// Gone from the proxy, or not known to it.
    Unknown = 0,
    /// Takes sessions; a probe or real traffic says it is good.
    Healthy = 1,
    /// Takes sessions, nothing has been heard of it yet.
    Unverified = 2,
    /// Probes fail.
    ProbeFailed = 3,
    /// Ejected by failures of real connections.
    Ejected = 4,
    /// Its member is suspect.
    Suspect = 5,
    /// Its owner says it isn't ready.
    NotReady = 6,
    /// Finishes old sessions, gets no new ones.
    Draining = 7,
}

/// The state of a proxy as a whole.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ProxyState {
    #[prost(string, tag = "1")]
    pub version: String,
    /// The epoch of the newest resource in force.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// The highest `asOf` in force.
    #[prost(uint64, tag = "3")]
    pub as_of: u64,
    /// Frontends, services and endpoints in force.
    #[prost(uint64, tag = "4")]
    pub frontends: u64,
    #[prost(uint64, tag = "5")]
    pub services: u64,
    #[prost(uint64, tag = "6")]
    pub endpoints: u64,
    /// Live sessions and flows.
    #[prost(uint64, tag = "7")]
    pub sessions: u64,
    #[prost(uint64, tag = "8")]
    pub flows: u64,
    /// The process leaves: it takes no new sessions for long.
    #[prost(bool, tag = "9")]
    pub leaving: bool,
}

/// An imported service, for the agent of a member: what to write as ServiceImport, derived Service
/// and EndpointSlices. Type URL `type.fairlead.dev/fairlead.v1.Import`; named `namespace/name`.
#[derive(Clone, PartialEq, Message)]
pub struct Import {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(enumeration = "ImportType", tag = "3")]
    pub r#type: i32,
    #[prost(message, repeated, tag = "4")]
    pub ports: Vec<ImportPort>,
    #[prost(enumeration = "SessionAffinity", tag = "5")]
    pub session_affinity: i32,
    /// Of client-IP affinity; absent: none was set.
    #[prost(uint32, optional, tag = "6")]
    pub session_affinity_timeout_seconds: Option<u32>,
    /// `IPv4`, `IPv6`, in order of preference.
    #[prost(string, repeated, tag = "7")]
    pub ip_families: Vec<String>,
    /// The exporting members, sorted.
    #[prost(string, repeated, tag = "8")]
    pub members: Vec<String>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "10")]
    pub annotations: BTreeMap<String, String>,
    #[prost(string, tag = "11")]
    pub internal_traffic_policy: String,
    #[prost(string, tag = "12")]
    pub traffic_distribution: String,
    /// The endpoints of each member, for a headless import and where no proxy runs.
    #[prost(message, repeated, tag = "13")]
    pub endpoints: Vec<ImportEndpoint>,
}

/// MCS `ServiceImport.spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ImportType {
    ClusterSetIp = 0,
    Headless = 1,
}

/// `Service.spec.sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum SessionAffinity {
    None = 0,
    ClientIp = 1,
}

/// One port of an [`Import`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImportPort {
    /// May be empty when it is the only one.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `TCP` or `UDP`.
    #[prost(string, tag = "2")]
    pub protocol: String,
    #[prost(string, tag = "3")]
    pub app_protocol: String,
    #[prost(uint32, tag = "4")]
    pub port: u32,
}

/// One endpoint of an [`Import`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImportEndpoint {
    #[prost(string, tag = "1")]
    pub member: String,
    #[prost(string, tag = "2")]
    pub ip: String,
    /// By port name; equal to the import's port where absent.
    #[prost(btree_map = "string, uint32", tag = "3")]
    pub ports: BTreeMap<String, u32>,
    #[prost(string, tag = "4")]
    pub hostname: String,
    #[prost(string, tag = "5")]
    pub zone: String,
    #[prost(string, tag = "6")]
    pub node: String,
    #[prost(bool, tag = "7")]
    pub ready: bool,
    #[prost(bool, tag = "8")]
    pub serving: bool,
    #[prost(bool, tag = "9")]
    pub terminating: bool,
}
