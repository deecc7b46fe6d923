//! Balancer, health and connect policy together, under faults, against a shadow model.
//!
//! Time, faults and draws come from one seed, so a run can be had again:
//! `FAIRLEAD_SIM_SEED=17 cargo test -p fairlead-proxy --test simulation -- --nocapture` replays one
//! seed and prints its trace; `FAIRLEAD_SIM_SEEDS=5000` widens the sweep.

#![allow(clippy::unwrap_used, reason = "a test has nobody to hand an error to")]

mod simulation {
    pub(crate) mod run;
    pub(crate) mod shadow;
    pub(crate) mod world;
}

use simulation::run::Simulation;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_seed_breaks_an_invariant() {
    if let Some(seed) = number("FAIRLEAD_SIM_SEED") {
        let mut simulation = Simulation::new(seed, true);
        simulation.run();
        println!("{}", simulation.summary());
        return;
    }
    for seed in 0..number("FAIRLEAD_SIM_SEEDS").unwrap_or(24) {
        let outcome = std::panic::catch_unwind(|| Simulation::new(seed, false).run());
        assert!(outcome.is_ok(), "replay with FAIRLEAD_SIM_SEED={seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let trace = |seed| {
        let mut simulation = Simulation::new(seed, false);
        simulation.run();
        simulation.trace()
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}
