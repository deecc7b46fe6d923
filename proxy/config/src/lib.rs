//! What a Fairlead proxy is told, as typed values that cannot be invalid.
//!
//! | module | what it holds |
//! |---|---|
//! | [`name`] | names of frontends, services and members; the `namespace/name:port` rule |
//! | [`frontend`] | where clients connect: protocol, addresses, SNI, allow-lists, PROXY protocol in |
//! | [`policy`] | how a service is balanced, probed, timed, limited and drained; every default |
//! | [`service`] | a service: its policy and its tiers of weighted members |
//! | [`endpoints`] | the endpoints of one service as a table |
//! | [`endpoint`] | one backend of one member: target, weight, object state, hop |
//! | [`snapshot`] | the three tables, and deltas that upsert or remove their rows |
//! | [`rule`] | what single values must keep, whichever source they come from |
//! | [`yaml`] | the configuration file, read with all its problems, and written |
//! | [`xds`] | the messages of a control plane, and the tables as such messages and back |
//! | [`problem`] | what is wrong with a piece of configuration, and where |
//!
//! There are two sources of one model: a YAML file ([`yaml`]) and a control plane over xDS. Both
//! decode into a [`snapshot::Delta`]; neither can build a row that breaks a rule, because rows are
//! parsed, not validated. No I/O, no clock and no async code live here.

pub mod endpoint;
pub mod endpoints;
pub mod frontend;
pub mod name;
pub mod policy;
pub mod problem;
pub mod rule;
pub mod service;
pub mod snapshot;
pub mod xds;
pub mod yaml;

#[cfg(test)]
mod tests;
