use std::{collections::BTreeMap, net::SocketAddr};

use fairlead_config::frontend::Protocol;

use super::*;
use crate::testing::services::{Fixture, service};

fn key(client: u32) -> FlowKey {
    FlowKey {
        client: SocketAddr::from((
            [10, (client >> 16) as u8, (client >> 8) as u8, client as u8],
            40_000,
        )),
        local: SocketAddr::from(([192, 0, 2, 1], 443)),
        protocol: Protocol::Tcp,
    }
}

fn counts(fixture: &Fixture, draw: &mut Draw, picks: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for client in 0..picks {
        let pick = fixture
            .view()
            .pick(&key(client), draw, fixture.now, &Tried::new())
            .unwrap();
        *counts
            .entry(pick.endpoint.member.name.to_string())
            .or_default() += 1;
    }
    counts
}

#[test]
fn shares_follow_the_weights_of_the_members() {
    let fixture = service("a=80:2 b=20:2 | c=100:1").build();
    let found = counts(&fixture, &mut Draw::new(1), 10_000);
    assert!(found["a"].abs_diff(8000) <= 100, "{found:?}");
    assert!(found["b"].abs_diff(2000) <= 100, "{found:?}");
    assert_eq!(found.get("c"), None);
}
