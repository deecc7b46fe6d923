use super::*;
use crate::{
    plan,
    testing::{export, group, member, port, service, slice, time},
    world::{Dirty, Settings, World},
};

fn world(members: &[&str]) -> World {
    let mut world = World::new(Settings::default());
    for (at, name) in members.iter().enumerate() {
        world.apply(member(name).into());
        let ports = vec![port("http", "TCP", 80)];
        world.apply(export(name, "web", 0, ports.clone()).into());
        let ip = format!("10.0.{at}.1");
        world.apply(slice(name, "web", "s", &ports, &[&ip]).into());
    }
    let mut edge = group("edge");
    edge.spec.services = vec!["*/*".into()];
    world.apply(edge.into());
    world.apply(service("web", "web", "edge").into());
    world
}

fn board(world: &World, as_of: u64) -> Board {
    let mut board = Board::new("e1".into());
    board.apply(&plan::plan(world, &Dirty::everything(), &time(0)), as_of);
    board
}

#[test]
fn two_replicas_that_decided_the_same_have_the_same_hash() {
    let one = board(&world(&["a", "b"]), 7);
    let mut other = Board::new("e1".into());
    let mut grown = world(&["b"]);
    let dirty = grown.take_dirty();
    other.apply(&plan::plan(&grown, &dirty, &time(0)), 3);
    grown.apply(member("a").into());
    for object in [member("b"), member("a")] {
        grown.apply(object.into());
    }
    let other_world = world(&["a", "b"]);
    other.apply(&plan::plan(&other_world, &Dirty::everything(), &time(9)), 9);
    assert_eq!(one.hash("edge"), other.hash("edge"));
    let less = board(&world(&["a"]), 7);
    assert_ne!(one.hash("edge"), less.hash("edge"));
}

#[test]
fn a_plan_that_changes_nothing_moves_no_revision_and_touches_no_row() {
    let world = world(&["a", "b"]);
    let mut board = board(&world, 7);
    let before = board.revision();
    assert!(!board.apply(&plan::plan(&world, &Dirty::everything(), &time(50)), 99));
    assert_eq!(board.revision(), before);
    let table = board.group("edge").unwrap();
    assert_eq!(table.changed_since(before).unwrap(), BTreeSet::new());
}

#[test]
fn one_endpoint_more_touches_one_chunk_and_the_import_with_endpoints() {
    let mut world = world(&["a", "b"]);
    world.want_full_imports(true);
    let mut board = board(&world, 7);
    let before = board.revision();
    world.take_dirty();
    let ports = [port("http", "TCP", 80)];
    world.apply(slice("a", "web", "s", &ports, &["10.0.0.1", "10.0.0.2"]).into());
    let dirty = world.take_dirty();
    assert!(board.apply(&plan::plan(&world, &dirty, &time(1)), 8));
    let changed = board.group("edge").unwrap().changed_since(before).unwrap();
    assert_eq!(changed, BTreeSet::new(), "neither tiers nor weights");
    let chunks = board.chunks().changed_since(before).unwrap();
    let ours = chunks
        .iter()
        .filter(|(_, name)| name.starts_with("shop/web:http/a/"));
    assert_eq!((chunks.len(), ours.count()), (1, 1), "{chunks:?}");
    let bare = board.imports(false).changed_since(before).unwrap();
    assert_eq!(bare, BTreeSet::new());
    let full = board.imports(true).changed_since(before).unwrap();
    assert_eq!(full, BTreeSet::from([(Type::Import, "shop/web")]));
}

#[test]
fn what_a_proxy_decodes_is_what_was_decided() {
    let board = board(&world(&["a", "b"]), 7);
    let mut decoder = fairlead_config::xds::decoder::Decoder::default();
    let mut snapshot = Snapshot::default();
    for of in Type::OF_PROXIES {
        let table = match of {
            Type::Chunk => board.chunks(),
            _ => board.group("edge").unwrap(),
        };
        let resources: Vec<_> = table.all(of).map(|(_, one)| (**one).clone()).collect();
        let decoded = decoder.decode(of.url(), &resources, &[]);
        assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
        let (_, problems) = snapshot.apply(decoded.delta);
        assert!(problems.is_empty(), "{problems:?}");
    }
    let decided = board.snapshot("edge");
    assert_eq!(snapshot.endpoints, decided.endpoints);
    assert_eq!(snapshot.services, decided.services);
}

#[test]
fn a_name_that_changed_often_is_looked_at_once() {
    let mut table = Table::default();
    for revision in 1..=10_000_u64 {
        table.put(Type::Cluster, resource("x", revision).into(), revision);
    }
    assert_eq!(table.changed_since(1).unwrap().len(), 1);
    assert_eq!(table.changed_since(9_999).unwrap().len(), 1);
    assert_eq!(table.changed_since(10_000).unwrap().len(), 0);
}

#[test]
fn removals_that_nobody_remembers_are_said_to_be_unknown() {
    let mut table = Table::default();
    for revision in 1..=70_000_u64 {
        let name = format!("x{revision}");
        table.put(Type::Cluster, resource(&name, 1).into(), revision);
        table.remove(Type::Cluster, &name, revision);
    }
    assert_eq!(table.changed_since(1), None);
    assert_eq!(table.changed_since(69_999).unwrap().len(), 1);
    assert_eq!(table.hash(), Table::default().hash());
}

fn resource(name: &str, version: u64) -> fairlead_config::xds::proto::discovery::Resource {
    fairlead_config::xds::proto::discovery::Resource {
        name: name.into(),
        version: version.to_string(),
        ..Default::default()
    }
}
