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
//! | [`agent`] | a member's side of all this |
//! | [`board`] | what everybody is told, plans laid on top of each other |

pub mod addresses;
pub mod agent;
pub mod board;
pub mod claims;
pub mod distribute;
pub mod plan;
pub mod ports;
pub mod services;
pub mod status;
#[cfg(test)]
mod testing;
pub mod world;
