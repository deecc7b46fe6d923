//! TCP through a whole proxy on real sockets: bytes, metrics and log asserted together.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "tcp/support.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod support;

#[path = "tcp/admission.rs"]
mod admission;
#[path = "tcp/changes.rs"]
mod changes;
#[path = "tcp/connects.rs"]
mod connects;
#[path = "tcp/sessions.rs"]
mod sessions;
#[path = "tcp/threads.rs"]
mod threads;
