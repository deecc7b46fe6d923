//! UDP flows.
//!
//! A flow is what one client sends to one of our addresses, and what an endpoint answers. It has a
//! connected socket of its own, so the kernel tells the endpoint's answers and ICMP errors apart.
//!
//! | module | pure? | what it owns |
//! |---|---|---|
//! | [`flow`] | yes | one flow: its home, its clocks, what it carried |
//! | [`table`] | yes | the flows of a thread by address, in order of eviction, with their timers |
//! | [`flows`] | yes | the decisions: open, forward, re-home, drop, evict, expire |
//! | [`world`] | yes | where the decisions meet frontends, views, limits and health |
//! | [`passing`] | yes | a flow as another process gets it |
//! | `io` | no | sockets: batches in, batches out |
//!
//! The core is sans-io: datagrams, answers, errors and the time go in, verdicts come out. It never
//! blocks, takes the seed of its table as an argument, and allocates nothing for a datagram of a
//! flow that exists; each datagram costs O(1), each timer too.
//!
//! When a flow's endpoint is removed, ejected or fails its probes, the flow is re-homed by the
//! client's next datagram; a draining one keeps it until it is idle or the drain's deadline. What
//! an endpoint still answers reaches the client meanwhile, and for 5 s after the flow has left it,
//! as long as there is room in the table.
//!
//! Limits: a thread has a fixed number of flows, its part of a quarter of the process's file
//! descriptors. At that limit an eighth of them may wait for their first answer, so that the answer
//! to a new flow finds it: as long as no more do, the flow that is idle for longest makes room, if
//! for more than a second, and otherwise the oldest that waits. Where none waits and none is idle,
//! the newcomer's datagram is dropped. So a flood of made-up sources costs memory of known size and,
//! of the flows that work, at most an eighth of the table, the idle ones; their next datagram opens
//! them anew.

pub mod flow;
pub mod flows;
pub(crate) mod io;
pub mod passing;
pub mod table;
pub mod world;

#[cfg(test)]
mod tests;
