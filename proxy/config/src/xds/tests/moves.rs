//! Resources that take the place of others.

use super::*;

#[test]
fn a_listener_takes_the_place_of_one_that_goes_in_the_same_answer() {
    let at = |port: u16| {
        let text = format!(
            "services: [ {{ name: a/b:c, frontends: [ {{ protocol: tcp, address: '192.0.2.1:{port}' }} ], \
             tiers: [ {{ members: [ {{ name: m, endpoints: [ {{ address: '10.0.0.1:80' }} ] }} ] }} ] }} ]"
        );
        of_file(&text)
    };
    let [old, new] = [at(1000), at(2000)].map(|wanted| encode(&wanted, &Stamp::default()));
    assert_ne!(old.listeners[0].name, new.listeners[0].name);
    let (mut decoder, mut running) = (Decoder::default(), Snapshot::default());
    for (url, resources) in parts(&old) {
        running.apply(decoder.decode(url, resources, &[]).delta);
    }
    let gone = [old.listeners[0].name.clone()];
    let decoded = decoder.decode(Listener::URL, &new.listeners, &gone);
    assert_eq!(decoded.problems, []);
    running.apply(decoded.delta);
    let frontends = running.frontends.values();
    let ports: Vec<_> = frontends.map(|row| *row.ports.start()).collect();
    assert_eq!(ports, [2000]);
}

/// Listeners by name; what each has besides a filter is a name for its frontend.
fn listeners(told: &[(&str, &str)]) -> Vec<Resource> {
    let listener = |(name, frontend): &(&str, &str)| {
        let listener = tcp_listener(name, |chain| {
            let fields = [("frontend".to_owned(), text(*frontend))];
            let fields = fields.into_iter().collect();
            chain.metadata = metadata(Struct { fields });
        });
        sealed(name, &listener)
    };
    told.iter().flat_map(listener).collect()
}

/// Which frontends a decoder that has `before` leaves out of what it is told next.
fn swap(before: &[(&str, &str)], next: &[(&str, &str)]) -> (Snapshot, Vec<String>) {
    let (mut decoder, mut running) = (Decoder::default(), Snapshot::default());
    let first = decoder.decode(Listener::URL, &listeners(before), &[]);
    assert_eq!(first.problems, []);
    running.apply(first.delta);
    let decoded = decoder.decode(Listener::URL, &listeners(next), &[]);
    assert_eq!(decoded.problems.len(), decoded.displaced.len());
    let refused = problems(&decoded);
    let all = running.frontends.len();
    running.apply(decoded.delta);
    assert!(running.frontends.len() >= all, "none goes");
    (running, refused)
}

#[test]
fn listeners_of_one_answer_may_swap_their_frontends() {
    for (before, next) in [
        (&[("a", "1"), ("b", "2")][..], &[("a", "2"), ("b", "1")][..]),
        (
            &[("a", "1"), ("b", "2"), ("c", "3")],
            &[("a", "2"), ("b", "3"), ("c", "1")],
        ),
        // The last one goes where nobody was.
        (&[("a", "1"), ("b", "2")], &[("a", "2"), ("b", "3")]),
    ] {
        let (_, refused) = swap(before, next);
        assert_eq!(refused, Vec::<String>::new(), "{next:?}");
    }
}

#[test]
fn a_listener_that_cannot_move_keeps_the_one_out_that_would_follow() {
    let before = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")];
    // `a` wants what `c` has, `b` what `a` has; `d` and `e` have nothing to do with it.
    let (running, refused) = swap(&before, &[("a", "3"), ("b", "1"), ("d", "5"), ("e", "4")]);
    assert_eq!(
        refused,
        [
            "listener a: the frontend 3 is listener c's already",
            "listener b: the frontend 1 is listener a's already",
        ]
    );
    assert_eq!(running.frontends.len(), 5);
}

#[test]
fn who_has_a_frontend_keeps_it_against_one_that_is_told_it_too() {
    let (_, refused) = swap(&[("b", "1")], &[("a", "1"), ("b", "1")]);
    assert_eq!(
        refused,
        ["listener a: the frontend 1 is listener b's already"]
    );
}
