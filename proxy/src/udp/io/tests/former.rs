//! Answers of endpoints that flows have left.

use super::*;

#[test]
fn an_answer_under_way_reaches_the_client_after_its_flow_was_rehomed() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1", "127.0.0.1"], |_| {});
    let client = socket("127.0.0.1");
    let (home, _) = rig.echo(&client, b"zero").unwrap();
    client.send_to(b"one", rig.front).unwrap();
    rig.turn();
    rig.endpoint(home).change_flags(Flags::REMOVED, Flags::NONE);
    client.send_to(b"two", rig.front).unwrap();
    rig.turn();
    assert_eq!(rig.metrics().flows_rehomed.value(), 1);
    assert_eq!(rig.endpoint(home).inflight(), 1, "an answer is awaited");
    // The old endpoint answers last.
    let mut buffer = [0; 10];
    for (index, text) in [(1 - home, b"two"), (home, b"one")] {
        assert!(rig.answer(index));
        rig.turn();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&text[..], rig.front));
    }
    let later = rig.datagrams.now + LINGER;
    assert!(rig.datagrams.wait(later) <= Some(Duration::ZERO));
    rig.datagrams.fire(later);
    assert_eq!(rig.endpoint(home).inflight(), 0, "its time is over");
    assert_eq!(rig.datagrams.flows(), 1);
    rig.datagrams.close_all(Reason::Shutdown);
    let member = rig.metrics().member(&member());
    let carried = (member.datagrams_up.value(), member.datagrams_down.value());
    assert_eq!(carried, (3, 3));
    let line = &rig.log()[0];
    assert_eq!(
        (&line["rehomed"], &line["datagramsDown"]),
        (&1.into(), &3.into())
    );
}

#[test]
fn sockets_that_flows_have_left_stay_inside_the_budget() {
    let mut rig = Rig::new("127.0.0.1", &["127.0.0.1", "127.0.0.1"], |_| {});
    let clients: Vec<_> = (0..FLOWS_MAX).map(|_| socket("127.0.0.1")).collect();
    for client in &clients[..FLOWS_MAX / 2] {
        client.send_to(b"one", rig.front).unwrap();
        rig.turn();
    }
    rig.endpoint(0).change_flags(Flags::REMOVED, Flags::NONE);
    for client in &clients[..FLOWS_MAX / 2] {
        client.send_to(b"two", rig.front).unwrap();
        rig.turn();
    }
    assert!(rig.endpoint(0).inflight() > 0);
    for client in &clients[FLOWS_MAX / 2..] {
        client.send_to(b"new", rig.front).unwrap();
        rig.turn();
        assert!(rig.endpoint(0).inflight() + rig.endpoint(1).inflight() <= FLOWS_MAX as u32);
    }
    assert_eq!(
        (rig.datagrams.flows(), rig.endpoint(0).inflight()),
        (FLOWS_MAX, 0)
    );
}
