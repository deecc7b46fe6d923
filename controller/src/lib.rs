//! The control plane: the hub and a member's agent.
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`world`] | everything observed on the hub, as plain maps |
//! | [`services`] | exports to imports, and their conflicts |
//! | [`addresses`] | which endpoint addresses a member may name |
//! | [`claims`] | what is left of a member's weight |
//! | [`distribute`] | what a proxy group is told of a service |
//! | [`ports`] | which port each frontend gets |
//! | [`status`] | what the hub's objects should say, as writes |
//! | [`plan`] | all of that at once, for what changed |
//! | [`imports`] | imports as they travel to agents |
//! | [`members`] | whether members are alive, by their heartbeat |
//! | [`identity`] | namespaces, identities and rights of members and proxies |
//! | [`leader`] | which replica writes |
//! | [`stream`] | one incremental ADS stream, without its socket |
//! | [`fleet`] | proxies that are connected, and what they report |
//! | [`authority`] | who signs members' certificates |
//! | [`epoch`] | whether the hub's store was restored, and when to distribute again |
//! | [`join`] | how a cluster becomes a member, and gets its tokens |
//! | [`hub`] | all of that wired together: a shell |
//! | [`agent`] | a member's side of all this |
//! | [`app`], [`settings`] | the process |
//! | [`board`] | what everybody is told, plans laid on top of each other |

pub mod addresses;
pub mod agent;
pub mod app;
pub mod authority;
pub mod board;
pub mod claims;
pub mod distribute;
mod edits;
pub mod epoch;
pub mod fleet;
pub mod hub;
pub mod identity;
pub mod imports;
pub mod join;
pub mod leader;
pub mod manifests;
pub mod members;
pub mod plan;
pub mod ports;
pub mod services;
pub mod settings;
pub mod status;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod time;
pub mod world;
