//! Who answers, and what clients notice.

use anyhow::ensure;
use fairlead_tests::{
    clients::{self, Counts},
    fleet::Fleet,
};

use crate::program;

pub(crate) async fn all_members_answer_tcp_and_udp_in_equal_shares() -> anyhow::Result<()> {
    let fleet = Fleet::start(program(), &[]).await?;
    let endpoint = fleet.ready.endpoint;
    let thirds = [("member-1", 1.0), ("member-2", 1.0), ("member-3", 1.0)];
    shares(&clients::count_tcp(endpoint.tcp, REQUESTS).await?, &thirds)?;
    shares(&clients::count_udp(endpoint.udp, REQUESTS).await?, &thirds)
}

/// Fails unless each member has its part of all, to one percentage point.
fn shares(counts: &Counts, weights: &[(&str, f64)]) -> anyhow::Result<()> {
    let all: usize = counts.values().sum();
    let weight: f64 = weights.iter().map(|(_, weight)| weight).sum();
    for (member, part) in weights {
        let count = counts.get(*member).copied().unwrap_or_default();
        let (is, should) = (count as f64 / all as f64, part / weight);
        ensure!(
            (is - should).abs() <= 0.01,
            "{member} has {is:.4}, not {should:.4}, of {all}: {counts:?}"
        );
    }
    ensure!(
        counts.len() <= weights.len(),
        "strangers answer: {counts:?}"
    );
    Ok(())
}

const REQUESTS: usize = 10_000;
