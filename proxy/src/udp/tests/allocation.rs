//! Datagrams of flows that exist allocate nothing.

use super::*;
use crate::testing::allocation;

#[test]
fn a_datagram_of_a_known_flow_allocates_nothing() {
    let mut bench = Bench::new(1000, 3);
    for client in 0..500 {
        bench.echo(client);
    }
    // Once round each timer, so that every list has had its size.
    for _ in 0..3 {
        bench.now = bench.now + Duration::from_secs(6);
        for client in 0..500 {
            bench.echo(client);
        }
        bench
            .flows
            .fire(&bench.world, bench.now, &mut bench.closed, |_, _| {});
    }
    let before = allocation::count();
    for _ in 0..20 {
        bench.now = bench.now + Duration::from_secs(1);
        for client in 0..500 {
            let ends = ends(client);
            let verdict =
                bench
                    .flows
                    .datagram(&mut bench.world, &ends, ONE, bench.now, &mut bench.closed);
            let Verdict::Forward(key) = verdict else {
                panic!("a known flow")
            };
            bench.flows.answer(key, ONE, bench.now);
        }
        bench
            .flows
            .fire(&bench.world, bench.now, &mut bench.closed, |_, _| {});
    }
    assert_eq!(allocation::count() - before, 0);
}
