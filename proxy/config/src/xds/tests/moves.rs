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
