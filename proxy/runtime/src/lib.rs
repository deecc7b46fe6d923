//! The small shells that every process of Fairlead shares.
//!
//! | module | what it owns |
//! |---|---|
//! | [`clock`] | time as a [`clock::Tick`]; the only place that asks the system for it |
//! | [`tasks`] | background tasks: each has an owner, an observed end and a place on a board |
//! | [`signals`] | SIGTERM, SIGHUP and SIGUSR2 as a stream of requests |
//! | [`ready`] | what the process still waits for before it is ready |
//! | [`admin`] | the admin pages over HTTP |
//! | [`logging`] | log lines |
//! | [`files`] | what is kept on disk for the next start |
//! | [`drain`] | the phases in which a process leaves, and their deadlines |

pub mod admin;
pub mod clock;
pub mod drain;
pub mod files;
pub mod logging;
pub mod ready;
pub mod signals;
pub mod tasks;
