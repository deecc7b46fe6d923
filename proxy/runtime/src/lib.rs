//! The small shells that every process of Fairlead shares.
//!
//! | module | what it owns |
//! |---|---|
//! | [`clock`] | time as a [`clock::Tick`]; the only place that asks the system for it |
//! | [`tasks`] | background tasks: each has an owner, an observed end and a place on a board |
//! | [`signals`] | SIGTERM, SIGHUP and SIGUSR2 as a stream of requests |
//! | [`drain`] | the phases in which a process leaves, and their deadlines |

pub mod clock;
pub mod drain;
pub mod signals;
pub mod tasks;
