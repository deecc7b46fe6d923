//! A member's agent: states its cluster's exports to the hub, and keeps what came down from it.
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`annotations`] | exports and weights asked for by annotation |
//! | [`local`] | everything observed in the member and of its hub namespace, as plain maps |
//! | [`exports`] | what the hub should be told of a service, and what its ServiceExport should say |
//! | [`workloads`] | which Services an annotated workload exports |
//! | [`received`] | what came down from the hub: imports, and what the member's proxies are told |
//! | [`import`] | which ServiceImports, derived Services and slices there should be |
//! | [`invitation`] | how a cluster is invited |
//! | [`report`] | versions, properties and capacity |
//! | [`restored`] | whether the hub's store is still the same |
//! | [`io`] | watches, writers, the heartbeat, the stream from the hub, the port for proxies |
//!
//! The agent dials out to the hub only, and touches nothing there but its own namespace. When the
//! hub is away it keeps everything and tries again; when its own API server is away, so that it sees
//! nothing, it withdraws nothing.

pub mod annotations;
pub mod exports;
pub mod import;
pub mod invitation;
pub mod io;
pub mod local;
pub mod received;
pub mod report;
pub mod restored;
pub mod workloads;

pub use io::{
    AgentConfig, AgentHandle, Credentials, Downward, Port, Status, Uplink, run,
    secret::{INVITATION, Keeper},
};
