//! The partition matrix: hub, members and proxies, cut off from each other in every way, crashing,
//! losing watches, and a hub restored from a back-up; the real decisions on simulated time.
//!
//! What decides is the code that runs in production: the agent's plan of exports, the hub's World,
//! plan, board, heartbeats, election, epochs and fleet of proxies, the streams, the proxy's xDS
//! client, directory, probes, picks, flows and load reports. What is simulated is what lies between them: API server, network, clock, processes.
//!
//! Invariants, checked after every step:
//! - no session and no datagram goes to an endpoint that has been dead, as seen from that proxy, for
//!   more than 3 s while a healthy one is known (nor, in the runs whose policy has `panicBelow`, while
//!   half of its tier is healthy);
//! - a session, and a datagram, finds an endpoint while a healthy one is known;
//! - nothing new goes to a member that the proxy was told to drain, nor to a later tier while the
//!   first is well;
//! - an endpoint that lives and that its member exports is never taken away from a proxy that has it,
//!   nor are its sessions and flows, unless its member is drained;
//! - the status never counts fewer live sessions than there have been for long on proxies whose
//!   reports arrive, and counts them once all do;
//! - after everything has healed each proxy has exactly what members export, and runs on what is
//!   published; members' shares of sessions and flows are within one point of what tiers and claims
//!   make them.
//!
//! `FAIRLEAD_SIM_SEED=17 cargo test -p fairlead-tests --test partition -- --nocapture` replays one seed
//! and prints its trace; `FAIRLEAD_SIM_SEEDS=1000` widens the sweep.

#![allow(clippy::unwrap_used, reason = "a test has nobody to hand an error to")]

mod agent;
mod datagrams;
mod dice;
mod faults;
mod fleet;
mod invariants;
mod loads;
mod matrix;
mod proxy;
mod replica;
mod store;
mod truth;

use fleet::Fleet;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_seed_breaks_an_invariant() {
    if let Some(seed) = number("FAIRLEAD_SIM_SEED") {
        println!("{}", Fleet::random(seed, true).run());
        return;
    }
    for seed in 0..number("FAIRLEAD_SIM_SEEDS").unwrap_or(16) {
        let outcome = std::panic::catch_unwind(|| Fleet::random(seed, false).run());
        assert!(outcome.is_ok(), "replay with FAIRLEAD_SIM_SEED={seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let run = |seed| Fleet::random(seed, false).run();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
