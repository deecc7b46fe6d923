use super::*;
use serde_json::json;

fn owner(uid: &str) -> Owner {
    Owner {
        api_version: "v1".into(),
        kind: "A".into(),
        name: uid.into(),
        uid: uid.into(),
        blocks: uid == "b",
    }
}

fn object(meta: Value) -> Value {
    json!({"metadata": meta})
}

#[test]
fn an_object_lives_as_long_as_one_owner_holds_it() {
    use OwnerState::{Gone, Solid, Unknown, Waiting};
    let plain = object(json!({}));
    let delete = Verdict::Delete;
    let release = |uids: &[&str]| Verdict::Release(uids.iter().map(|uid| (*uid).into()).collect());
    for (states, has_dependents, wanted) in [
        (vec![], false, Verdict::Keep),
        (vec![Solid], false, Verdict::Keep),
        (vec![Unknown], false, Verdict::Keep),
        (vec![Gone], false, delete(Policy::Background)),
        (vec![Gone, Gone], true, delete(Policy::Background)),
        (vec![Solid, Gone], false, release(&["1"])),
        (vec![Unknown, Waiting], false, release(&["1"])),
        (vec![Waiting], false, delete(Policy::Background)),
        (vec![Waiting], true, delete(Policy::Foreground)),
        (vec![Waiting, Gone], true, delete(Policy::Foreground)),
    ] {
        let owners: Vec<(Owner, OwnerState)> = states
            .iter()
            .enumerate()
            .map(|(at, state)| (owner(&at.to_string()), *state))
            .collect();
        assert_eq!(
            decide(&plain, &owners, has_dependents),
            wanted,
            "{states:?}"
        );
    }
}

#[test]
fn finalizers_choose_the_policy_and_a_deletion_under_way_is_left_alone() {
    let gone = [(owner("1"), OwnerState::Gone)];
    let with = |finalizer: &str| object(json!({"finalizers": [finalizer]}));
    assert_eq!(
        decide(&with("orphan"), &gone, false),
        Verdict::Delete(Policy::Orphan)
    );
    assert_eq!(
        decide(&with("foregroundDeletion"), &gone, false),
        Verdict::Delete(Policy::Foreground)
    );
    let deleting = object(json!({"deletionTimestamp": "now", "finalizers": ["x/y"]}));
    assert_eq!(decide(&deleting, &gone, false), Verdict::Keep);
}

#[test]
fn the_graph_knows_dependents_and_blockers() {
    let mut graph = Graph::default();
    let place = |name: &str| Place {
        table: "t".into(),
        key: Key::new("blue", name),
    };
    let (a, b) = (owner("a"), owner("b"));
    let both = || vec![a.clone(), b.clone()];
    assert_eq!(graph.observe(&place("x"), both()), Some(vec![]));
    assert_eq!(graph.observe(&place("x"), both()), None, "unchanged");
    assert_eq!(graph.observe(&place("y"), vec![a.clone()]), Some(vec![]));
    assert_eq!(graph.dependents("a").count(), 2);
    assert_eq!(graph.blockers("b"), [place("x")]);
    assert!(graph.blockers("a").is_empty());
    let freed = graph.observe(&place("x"), vec![a.clone()]);
    assert_eq!(freed, Some(vec![b.clone()]), "it may have waited for that");
    assert_eq!(graph.dependents("b").count(), 0);
    assert_eq!(graph.forget(&place("x")), std::slice::from_ref(&a));
    assert_eq!(graph.forget(&place("y")), [a]);
    assert!(graph.is_empty() && graph.dependents.is_empty());
}

#[test]
fn an_owner_that_no_longer_blocks_is_told_of_too() {
    let mut graph = Graph::default();
    let place = Place {
        table: "t".into(),
        key: Key::new("blue", "x"),
    };
    let lax = Owner {
        blocks: false,
        ..owner("b")
    };
    graph.observe(&place, vec![owner("b")]);
    let freed = graph.observe(&place, vec![lax]);
    assert_eq!(freed, Some(vec![owner("b")]));
    assert!(graph.blockers("b").is_empty());
    assert_eq!(graph.dependents("b").count(), 1);
}

#[test]
fn the_dead_are_remembered_as_long_as_somebody_names_them() {
    let mut graph = Graph::default();
    let place = Place {
        table: "t".into(),
        key: Key::new("blue", "x"),
    };
    graph.bury("a");
    assert!(!graph.is_gone("a"), "nobody names it");
    graph.observe(&place, vec![owner("a")]);
    graph.bury("a");
    graph.observe(&place, vec![owner("a"), owner("b")]);
    assert!(graph.is_gone("a"));
    graph.forget(&place);
    assert!(!graph.is_gone("a"));
}
