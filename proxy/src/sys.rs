//! System calls of the data path, one thin and safe function each.
//!
//! rustix makes the calls (no `unsafe` of ours, no errno round trip); this folder picks the flags,
//! names the outcome and states what the kernel promises. Nothing here decides anything.
//!
//! | module | what it wraps |
//! |---|---|
//! | `datagram` | batches of datagrams, with packet info, GRO and GSO |
//! | [`fdpass`] | descriptors over Unix sockets, and from a service manager |
//! | `handshake` | what lies between a SYN and a listener's queue |
//! | [`pipe`] | pipes for `splice(2)`, and the two halves of a splice |
//! | [`poll`] | epoll, edge-triggered |
//! | [`mod@slice`] | how soon a thread runs once it is woken |
//! | [`tcp`] | accept, connect, receive, send, options, the ways to close |
//! | [`wake`] | a counter that wakes a thread which waits in [`poll`] |

pub(crate) mod datagram;
pub mod fdpass;
pub(crate) mod handshake;
pub mod pipe;
pub mod poll;
pub mod slice;
pub mod tcp;
pub mod wake;

#[cfg(test)]
pub(crate) mod faults;
