use fairlead_api::{
    conditions,
    member::{MemberClusterStatus, MemberReportSpec},
};

use super::*;
use crate::{testing::time, world::ServiceKey};

fn at(second: u64) -> Tick {
    Tick::from_start(Duration::from_secs(second))
}

fn name(text: &str) -> MemberName {
    MemberName::parse(text).unwrap()
}

/// Members m0 to m(n-1), all heard at second 0.
fn heartbeats(count: usize) -> Heartbeats {
    let mut all = Heartbeats::default();
    for n in 0..count {
        let member = name(&format!("m{n}"));
        all.join(member.clone(), Verdict::NeverSeen, at(0));
        all.renewed(&member, "r0", at(0));
    }
    all.step(at(0));
    all
}

fn renew(all: &mut Heartbeats, members: std::ops::Range<usize>, second: u64) {
    for n in members {
        all.renewed(&name(&format!("m{n}")), &format!("r{second}"), at(second));
    }
}

#[test]
fn a_member_is_lost_fifteen_seconds_after_its_last_renewal_was_seen() {
    let mut all = heartbeats(5);
    renew(&mut all, 0..5, 5);
    renew(&mut all, 1..5, 15);
    assert_eq!(all.step(at(19)), []);
    assert_eq!(all.step(at(20)), [(name("m0"), Verdict::Lost)]);
    renew(&mut all, 0..5, 25);
    assert_eq!(all.step(at(25)), [(name("m0"), Verdict::Fresh)]);
}

#[test]
fn the_same_renewal_seen_again_is_no_sign_of_life() {
    let mut all = heartbeats(5);
    renew(&mut all, 1..5, 14);
    all.renewed(&name("m0"), "r0", at(14));
    assert_eq!(all.step(at(16)), [(name("m0"), Verdict::Lost)]);
}

#[test]
fn time_without_a_watch_counts_for_nobody() {
    let mut all = heartbeats(5);
    all.blind(at(1));
    assert_eq!(all.step(at(100)), []);
    all.sighted(at(100));
    assert_eq!(all.step(at(101)), []);
    assert_eq!(all.step(at(115)).len(), 5);
}

#[test]
fn most_members_falling_silent_at_once_withdraws_nothing() {
    let mut all = heartbeats(5);
    renew(&mut all, 0..2, 14);
    let changed = all.step(at(15));
    assert_eq!(changed.len(), 3);
    assert!(
        changed
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::Suspended)
    );
    assert_eq!(all.silent(), (3, 5));
    renew(&mut all, 0..4, 17);
    let changed = all.step(at(17));
    assert_eq!(
        changed,
        [
            (name("m2"), Verdict::Fresh),
            (name("m3"), Verdict::Fresh),
            (name("m4"), Verdict::Lost),
        ],
        "who is left alone in silence is lost"
    );
}

#[test]
fn the_first_of_a_mass_loss_is_given_back() {
    let mut all = heartbeats(4);
    renew(&mut all, 1..4, 4);
    assert_eq!(all.step(at(15)), [(name("m0"), Verdict::Lost)]);
    let changed = all.step(at(19));
    assert_eq!(changed.len(), 4, "{changed:?}");
    assert_eq!(all.verdict(&name("m0")), Verdict::Suspended);
}

#[test]
fn deaths_far_apart_or_of_a_minority_are_deaths() {
    let mut all = heartbeats(6);
    renew(&mut all, 3..6, 14);
    assert!(
        all.step(at(15))
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::Lost)
    );
    renew(&mut all, 4..6, 28);
    assert_eq!(all.step(at(29)), [(name("m3"), Verdict::Lost)]);
}

#[test]
fn a_new_leader_keeps_the_verdict_until_it_sees_a_renewal_of_its_own() {
    let mut all = Heartbeats::default();
    all.join(name("a"), Verdict::Lost, at(0));
    all.join(name("b"), Verdict::Fresh, at(0));
    all.renewed(&name("a"), "old", at(0));
    all.renewed(&name("b"), "old", at(0));
    assert_eq!(all.step(at(1)), []);
    all.renewed(&name("a"), "new", at(5));
    assert_eq!(all.step(at(5)), [(name("a"), Verdict::Fresh)]);
    assert_eq!(all.step(at(16)), [(name("b"), Verdict::Lost)]);
}

fn facts(verdict: Verdict) -> Facts<'static> {
    Facts {
        report: None,
        verdict,
        prepared: true,
        leaving: false,
        kept_by: &[],
        exports: 2,
        silent: (3, 5),
        generation: Some(1),
    }
}

#[test]
fn status_says_why_and_stands_still_while_nothing_changes() {
    let old = MemberClusterStatus::default();
    let first = status(&old, &facts(Verdict::NeverSeen), &time(0)).unwrap();
    let joined = conditions::find(&first.conditions, "Joined").unwrap();
    assert!(joined.message.contains("fairlead join"));
    let report = MemberReportSpec {
        agent_version: "0.1.0".into(),
        api_server_ready: true,
        observed_at: Some(time(1)),
        ..Default::default()
    };
    let with = |verdict| Facts {
        report: Some(&report),
        ..facts(verdict)
    };
    let second = status(&first, &with(Verdict::Fresh), &time(1)).unwrap();
    assert_eq!(second.agent_version.as_deref(), Some("0.1.0"));
    assert!(conditions::is_true(&second.conditions, "Healthy"));
    assert_eq!(status(&second, &with(Verdict::Fresh), &time(30)), None);
    let later = status(&second, &with(Verdict::Fresh), &time(61)).unwrap();
    assert_eq!(later.last_seen, Some(time(61)));
    let mass = status(&later, &with(Verdict::Suspended), &time(70)).unwrap();
    let healthy = conditions::find(&mass.conditions, "Healthy").unwrap();
    assert_eq!(
        (healthy.status.as_str(), healthy.reason.as_str()),
        ("Unknown", "MassLoss")
    );
    assert!(healthy.message.contains("3 of 5"));
    assert_eq!(mass.last_seen, Some(time(61)));
}

#[test]
fn a_member_that_is_deleted_says_what_keeps_it_and_the_next_step() {
    let keys: Vec<ServiceKey> = (0..7)
        .map(|number| ServiceKey::new("shop", &format!("web-{number}")))
        .collect();
    let mut held: Facts<'_> = facts(Verdict::Fresh);
    held.kept_by = &keys;
    let said = status(&MemberClusterStatus::default(), &held, &time(0)).unwrap();
    let leaving = conditions::find(&said.conditions, "Leaving").unwrap();
    assert_eq!(
        (&*leaving.status, &*leaving.reason),
        ("False", "ExportsInUse")
    );
    for words in [
        "7 of its exports: shop/web-0, ",
        "web-4 and 2 more",
        "validationMode to Skip",
    ] {
        assert!(leaving.message.contains(words), "{}", leaving.message);
    }
    assert!(
        conditions::is_true(&said.conditions, "Joined"),
        "it goes on"
    );
    let mut free = facts(Verdict::Fresh);
    free.leaving = true;
    let said = status(&said, &free, &time(0)).unwrap();
    assert!(conditions::is_true(&said.conditions, "Leaving"));
    assert!(!conditions::is_true(&said.conditions, "Joined"));
}
