//! `fairlead-proxy`: a TCP and UDP load balancer.
//!
//! A connection's way: [`tcp`] accepts, admits, routes, picks ([`view`], [`balancer`]), connects
//! ([`connect`]), relays and closes; a datagram's way is in [`udp`]. What they run on comes from a
//! [`source`] through [`control`], which alone writes; data threads read whole views.
//!
//! | module | what it owns |
//! |---|---|
//! | [`app`], [`settings`] | the process: start, events, leaving; flags |
//! | [`source`] | the file or the control plane; load reports |
//! | [`control`], [`directory`] | from configuration and health to what the data threads run on |
//! | [`registry`] | numbers, and the state of endpoints that outlives snapshots |
//! | [`view`], [`balancer`] | a service as data threads see it; who takes the next session |
//! | [`health`], [`dns`] | probes, strikes and verdicts; names with their TTL |
//! | [`connect`] | retries, hedges and their budgets |
//! | [`tcp`], [`udp`] | sessions and flows |
//! | [`proxy_protocol`], [`sni`] | parsers of what comes before a session's data |
//! | [`limits`] | exact limits, rates, and the table of clients |
//! | [`sockets`], [`sys`] | which sockets to bind; system calls that no crate wraps |
//! | [`upgrade`] | handing everything over to a new process |
//! | [`metrics`], [`access_log`], [`admin`] | what an operator sees |

pub mod access_log;
pub mod admin;
pub mod app;
pub mod balancer;
pub mod connect;
pub mod control;
pub mod directory;
pub mod dns;
pub mod health;
pub(crate) mod keyed_hash;
pub mod limits;
pub mod metrics;
pub mod proxy_protocol;
pub mod registry;
pub mod settings;
pub mod sni;
pub mod sockets;
pub mod source;
pub mod sys;
pub mod tcp;
pub mod udp;
pub mod upgrade;
pub mod view;

#[cfg(test)]
pub(crate) mod testing;
