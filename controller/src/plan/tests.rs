use fairlead_api::{labels, mcs::ServicePort, member::TrafficClaim};
use proptest::prelude::*;

mod follower;

use follower::{Follower, bare};

use super::*;
use crate::{
    board::Board,
    testing::{export, group, member, port, service, slice, time},
    world::{Kind, Settings},
};

const MEMBERS: [&str; 3] = ["a", "b", "c"];
const SERVICES: [&str; 3] = ["api", "cart", "web"];

fn ports() -> Vec<ServicePort> {
    vec![port("http", "TCP", 80), port("dns", "UDP", 53)]
}

/// Members a, b and c export `shop/web` with one endpoint each; group `edge` serves it.
fn fleet() -> World {
    let mut world = World::new(Settings::default());
    for (at, name) in MEMBERS.iter().enumerate() {
        world.apply(member(name).into());
        world.apply(export(name, "web", at as i64, ports()).into());
        let ip = format!("10.0.{at}.1");
        world.apply(slice(name, "web", "s", &ports(), &[&ip]).into());
    }
    world.apply(group("edge").into());
    world.apply(service("web", "web", "edge").into());
    world
}

/// Plans and writes until nothing is left to write, as the leader does.
fn settle(world: &mut World, board: &mut Board) {
    for _ in 0..10 {
        let dirty = world.take_dirty();
        let plan = plan(world, &dirty, &time(100));
        board.apply(&plan, 1);
        if plan.writes.is_empty() && !world.is_dirty() {
            return;
        }
        for write in plan.writes {
            perform(world, write);
        }
    }
    panic!("a plan writes for ever");
}

fn perform(world: &mut World, write: Write) {
    match write {
        Write::Export { slot, status, .. } => {
            let of_key = world.exports.values().find(|of| of.contains_key(&slot));
            let old = of_key.unwrap()[&slot].clone();
            let mut record =
                fairlead_api::export::ExportRecord::new(&slot.object, (*old.spec).clone());
            record.metadata.namespace = Some(labels::member_namespace(slot.member.as_str()));
            record.metadata.creation_timestamp = old.created.map(Time);
            record.status = Some(status);
            world.apply(record.into());
        }
        Write::Import { object, key, .. } => {
            let mut object = *object;
            object.status = world.imports.get(&key).and_then(|have| have.status.clone());
            world.apply(object.into());
        }
        Write::ImportStatus { key, status, .. } => {
            let mut object = (*world.imports[&key]).clone();
            object.status = Some(status);
            world.apply(object.into());
        }
        Write::DeleteImport { key, .. } => world.delete(Kind::Import, &key.namespace, &key.name),
        Write::Service { name, status, .. } => {
            let found = world.services.values().find_map(|of| of.get(name.as_str()));
            let mut object = (**found.unwrap()).clone();
            object.status = Some(*status);
            world.apply(object.into());
        }
        Write::GroupProxies { .. } | Write::Member { .. } => unreachable!("no plan writes these"),
        Write::GroupPorts {
            name, frontends, ..
        } => {
            let mut object = (*world.groups[name.as_str()]).clone();
            let status = object.status.get_or_insert_default();
            status.frontends = frontends;
            world.apply(object.into());
        }
    }
}

fn status(world: &World) -> fairlead_api::service::MultiClusterServiceStatus {
    let found = world.services.values().find_map(|of| of.get("web"));
    found.unwrap().status.clone().unwrap()
}

#[test]
fn exports_become_an_import_frontends_and_endpoints_of_all_members() {
    let (mut world, mut board) = (fleet(), Board::default());
    settle(&mut world, &mut board);
    let key = ServiceKey::new("shop", "web");
    assert_eq!(world.imports[&key].spec.ports.len(), 2);
    let clusters = &world.imports[&key].status.as_ref().unwrap().clusters;
    assert_eq!(clusters.len(), 3);
    let snapshot = board.snapshot("edge");
    assert_eq!((snapshot.frontends.len(), snapshot.services.len()), (2, 2));
    for row in snapshot.endpoints.values() {
        assert_eq!(row.len(), 3);
    }
    let status = status(&world);
    assert_eq!(status.summary, "3/3");
    assert_eq!(status.frontends.len(), 2);
    assert!(status.frontends[0].endpoint.starts_with("192.0.2.1:30"));
    assert!(fairlead_api::conditions::is_true(
        &status.conditions,
        "Ready"
    ));
}

#[test]
fn a_udp_port_takes_the_verdict_of_the_tcp_port_beside_it() {
    let (mut world, mut board) = (fleet(), Board::default());
    settle(&mut world, &mut board);
    let snapshot = board.snapshot("edge");
    let checks: Vec<_> = snapshot
        .services
        .values()
        .map(|service| service.policy.health_check.clone().unwrap().port)
        .collect();
    assert_eq!(
        checks,
        [Some(8080), None],
        "dns asks at http's port, http at its own"
    );
}

#[test]
fn a_drain_is_a_claim_and_shows_its_owner_and_reason() {
    let (mut world, mut board) = (fleet(), Board::default());
    let mut drained = member("b");
    drained.spec.traffic_claims = vec![TrafficClaim {
        owner: "user".into(),
        permille: 0,
        reason: "kernel upgrade".into(),
        since: None,
        services: None,
    }];
    world.apply(drained.into());
    settle(&mut world, &mut board);
    let status = status(&world);
    assert_eq!(status.summary, "2/3");
    let b = &status.members[1];
    assert_eq!(
        (b.configured_weight, b.effective_weight_thousandths),
        (100, 0)
    );
    assert!(
        b.reason.contains("user") && b.reason.contains("kernel upgrade"),
        "{}",
        b.reason
    );
    world.apply(member("b").into());
    settle(&mut world, &mut board);
    let snapshot = board.snapshot("edge");
    let weights: BTreeSet<u32> = snapshot
        .services
        .values()
        .flat_map(|service| service.tiers.iter().flat_map(|tier| &tier.members))
        .map(|member| member.weight.thousandths())
        .collect();
    assert_eq!(
        weights,
        BTreeSet::from([100_000]),
        "undrained is exactly as before"
    );
}

#[test]
fn a_member_that_leaves_takes_its_endpoints_along_within_one_plan() {
    let (mut world, mut board) = (fleet(), Board::default());
    settle(&mut world, &mut board);
    world.delete(Kind::Member, "", "c");
    let dirty = world.take_dirty();
    assert!(dirty.removals);
    board.apply(&plan(&world, &dirty, &time(1)), 1);
    for row in board.snapshot("edge").endpoints.values() {
        assert!(row.keys().all(|key| key.member.as_str() != "c"));
    }
}

#[test]
fn a_lost_heartbeat_withdraws_only_what_nothing_probes() {
    let (mut world, mut board) = (fleet(), Board::default());
    let silent = |world: &mut World| {
        let mut object = member("a");
        let lost = fairlead_api::conditions::Wanted::no("Healthy", "HeartbeatLost", "");
        let conditions = fairlead_api::conditions::set(&[], &[lost], None, &time(5)).unwrap();
        object.status.get_or_insert_default().conditions = conditions;
        world.apply(object.into());
    };
    silent(&mut world);
    settle(&mut world, &mut board);
    let usable = |board: &Board| {
        let snapshot = board.snapshot("edge");
        let rows = snapshot.endpoints.values().flat_map(|row| row.values());
        rows.filter(|row| row.state == fairlead_config::endpoint::ObjectState::Ready)
            .count()
    };
    assert_eq!(usable(&board), 6, "both ports are probed");
    assert_eq!(
        status(&world).members[0].state,
        fairlead_api::service::MemberState::Silent
    );
    let mut unprobed = service("web", "web", "edge");
    unprobed.spec.health_check = Some(fairlead_api::service::HealthCheck {
        off: Some(true),
        ..Default::default()
    });
    world.apply(unprobed.into());
    settle(&mut world, &mut board);
    assert_eq!(usable(&board), 4);
    assert_eq!(
        status(&world).members[0].state,
        fairlead_api::service::MemberState::Withdrawn
    );
}

#[test]
fn a_change_of_one_endpoint_tells_a_proxy_less_than_a_kibibyte() {
    let (mut world, mut board) = (fleet(), Board::default());
    let ports = ports();
    let ip = |member: usize, number: usize| format!("10.{member}.0.{number}");
    let all = |member: usize, first: usize| -> Vec<String> {
        (first..first + 100)
            .map(|number| ip(member, number))
            .collect()
    };
    for (at, name) in MEMBERS.iter().enumerate() {
        let ips = all(at, 0);
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        world.apply(slice(name, "web", "s", &ports[..1], &ips).into());
    }
    settle(&mut world, &mut board);
    let mut proxy = Follower::new(true);
    proxy.follow(&board);
    assert!(proxy.bytes > 10_000, "{}", proxy.bytes);
    proxy.bytes = 0;
    for change in 1..=100 {
        let ips = all(0, change);
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        world.apply(slice("a", "web", "s", &ports[..1], &ips).into());
        settle(&mut world, &mut board);
        assert_eq!(proxy.follow(&board), bare(board.snapshot("edge")));
    }
    // Each is one endpoint less and one more.
    let mean = proxy.bytes / 200;
    assert!(mean < 1024, "{mean} bytes a change");
}

#[test]
fn a_member_whose_proxies_do_not_serve_an_import_is_told_its_endpoints() {
    let (mut world, mut board) = (fleet(), Board::default());
    let mut own = group("own");
    own.spec.member = Some("b".into());
    own.spec.services = vec!["shop/other".into()];
    world.apply(own.clone().into());
    settle(&mut world, &mut board);
    let key = ServiceKey::new("shop", "web");
    let endpoints = |board: &Board, full| {
        let import = board
            .imports(full)
            .get(crate::board::Type::Import, "shop/web");
        let any = import.unwrap().resource.as_ref().unwrap();
        let message: Import = fairlead_config::xds::proto::unpack(any).unwrap();
        message.endpoints.len()
    };
    assert!(!board.serves("own", &key));
    assert_eq!((endpoints(&board, true), endpoints(&board, false)), (3, 0));
    own.spec.services = vec!["shop/*".into()];
    world.apply(own.into());
    settle(&mut world, &mut board);
    assert!(board.serves("own", &key));
    assert_eq!(endpoints(&board, true), 0, "nobody wants them any more");
}

#[test]
fn a_policy_that_asks_for_what_is_not_there_hears_it() {
    let (mut world, mut board) = (fleet(), Board::default());
    let mut wrong = service("web", "web", "edgy");
    wrong.spec.frontends[0].port = Some("https".into());
    world.apply(wrong.into());
    settle(&mut world, &mut board);
    let status = status(&world);
    let valid = fairlead_api::conditions::find(&status.conditions, "Valid").unwrap();
    assert_eq!(valid.status, "False");
    assert!(
        valid.message.contains("no ProxyGroup edgy"),
        "{}",
        valid.message
    );
}

#[derive(Debug, Clone)]
enum Event {
    Export(usize, usize, i64, bool),
    Unexport(usize, usize),
    Slice(usize, usize, u16),
    Unslice(usize, usize),
    Claim(usize, i32),
    Leave(usize),
    Policy(usize, Option<i32>),
    Unpolicy(usize),
    Group(bool),
    Plan,
}

fn event() -> impl Strategy<Value = Event> {
    let pair = (0..MEMBERS.len(), 0..SERVICES.len());
    prop_oneof![
        4 => (pair.clone(), 0..3i64, any::<bool>()).prop_map(|((m, s), age, all)| Event::Export(m, s, age, all)),
        1 => pair.clone().prop_map(|(m, s)| Event::Unexport(m, s)),
        4 => (pair.clone(), any::<u16>()).prop_map(|((m, s), ips)| Event::Slice(m, s, ips)),
        1 => pair.prop_map(|(m, s)| Event::Unslice(m, s)),
        1 => (0..MEMBERS.len(), 0..1001i32).prop_map(|(m, permille)| Event::Claim(m, permille)),
        1 => (0..MEMBERS.len()).prop_map(Event::Leave),
        2 => (0..SERVICES.len(), proptest::option::of(30_000..30_003i32)).prop_map(|(s, port)| Event::Policy(s, port)),
        1 => (0..SERVICES.len()).prop_map(Event::Unpolicy),
        1 => any::<bool>().prop_map(Event::Group),
        3 => Just(Event::Plan),
    ]
}

fn happen(world: &mut World, event: &Event) {
    match event {
        Event::Export(m, s, age, all) => {
            let mut list = ports();
            list.truncate(if *all { 2 } else { 1 });
            world.apply(export(MEMBERS[*m], SERVICES[*s], *age, list).into());
        }
        Event::Unexport(m, s) => {
            let name = labels::export_record_name("shop", SERVICES[*s]);
            world.delete(Kind::Export, &labels::member_namespace(MEMBERS[*m]), &name);
        }
        Event::Slice(m, s, ips) => {
            let ips: Vec<String> = (0..16u8)
                .filter(|bit| ips & (1 << bit) != 0)
                .map(|bit| format!("10.{m}.0.{bit}"))
                .collect();
            let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
            world.apply(slice(MEMBERS[*m], SERVICES[*s], "s", &ports(), &ips).into());
        }
        Event::Unslice(m, s) => {
            let name = labels::slice_mirror_name("shop", SERVICES[*s], "s");
            world.delete(Kind::Slice, &labels::member_namespace(MEMBERS[*m]), &name);
        }
        Event::Claim(m, permille) => {
            let mut object = member(MEMBERS[*m]);
            object.spec.traffic_claims = vec![TrafficClaim {
                owner: "user".into(),
                permille: *permille,
                reason: String::new(),
                since: None,
                services: None,
            }];
            world.apply(object.into());
        }
        Event::Leave(m) => world.delete(Kind::Member, "", MEMBERS[*m]),
        Event::Policy(s, listen) => {
            let mut object = service(SERVICES[*s], SERVICES[*s], "edge");
            object.spec.frontends[0].listen_port = *listen;
            world.apply(object.into());
        }
        Event::Unpolicy(s) => world.delete(Kind::Service, "shop", SERVICES[*s]),
        Event::Group(there) => match there {
            true => world.apply(group("edge").into()),
            false => world.delete(Kind::Group, "", "edge"),
        },
        Event::Plan => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_of_what_changed_is_the_plan_of_everything(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut world = World::new(Settings::default());
        let mut board = Board::default();
        let (mut apart, mut whole) = (Follower::new(true), Follower::new(false));
        for event in &events {
            happen(&mut world, event);
            if let Event::Leave(_) = event {
                apart.connect();
                whole.connect();
            }
            if !matches!(event, Event::Plan) {
                continue;
            }
            let dirty = world.take_dirty();
            let found = plan(&world, &dirty, &time(9));
            board.apply(&found, 1);
            let mut fresh = Board::default();
            let everything = plan(&world, &Dirty::everything(), &time(9));
            fresh.apply(&everything, 1);
            prop_assert_eq!(board.snapshot("edge"), fresh.snapshot("edge"));
            let hash = |board: &Board| board.hash("edge").filter(|hash| !hash.starts_with("00000000"));
            prop_assert_eq!(hash(&board), hash(&fresh));
            let decided = bare(board.snapshot("edge"));
            prop_assert_eq!(&apart.follow(&board), &decided);
            prop_assert_eq!(&whole.follow(&board), &decided);
            for full in [false, true] {
                prop_assert_eq!(board.imports(full).hash(), fresh.imports(full).hash());
            }
            for write in &found.writes {
                prop_assert!(everything.writes.contains(write), "{}", write.target());
            }
            for write in found.writes {
                perform(&mut world, write);
            }
        }
    }

    #[test]
    fn the_order_of_events_never_shows(
        events in proptest::collection::vec(event(), 1..25),
        seed in any::<u64>(),
    ) {
        let mut one = World::new(Settings::default());
        let mut latest: Vec<Event> = Vec::new();
        for name in MEMBERS {
            one.apply(member(name).into());
        }
        for event in events {
            if matches!(event, Event::Export(..) | Event::Slice(..)) {
                let same = |old: &Event| match (old, &event) {
                    (Event::Export(m, s, ..), Event::Export(n, t, ..))
                    | (Event::Slice(m, s, _), Event::Slice(n, t, _)) => (m, s) == (n, t),
                    _ => false,
                };
                latest.retain(|old| !same(old));
                latest.push(event);
            }
        }
        for event in &latest {
            happen(&mut one, event);
        }
        let mut other = World::new(Settings::default());
        let turn = if latest.is_empty() { 0 } else { seed as usize % latest.len() };
        latest.rotate_left(turn);
        latest.reverse();
        for event in latest.iter().chain(&latest) {
            happen(&mut other, event);
        }
        for name in MEMBERS {
            other.apply(member(name).into());
        }
        let everything = Dirty::everything();
        let first = plan(&one, &everything, &time(9));
        prop_assert_eq!(first, plan(&other, &everything, &time(9)));
    }
}
