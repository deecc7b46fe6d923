//! What of a change is worth an event: compared with what the object said before.

use fairlead_api::{
    conditions::{find, kind, reason},
    labels,
    member::MemberClusterStatus,
};
use fairlead_config::name::MemberName;
use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::apis::meta::v1::Condition};

use super::events::{About, News};
use crate::{
    edits, services,
    status::Write,
    world::{ExportKey, ServiceKey, World},
};

/// What a write states that was not so before.
pub(super) fn of(world: &World, write: &Write) -> Vec<News> {
    match write {
        Write::Export { slot, status, .. } => match world.export(slot) {
            Some((key, old)) => of_export((key, slot), &old.status.conditions, &status.conditions),
            None => Vec::new(),
        },
        Write::Service {
            namespace,
            name,
            status,
            ..
        } => {
            let about = About::Service(namespace.clone(), name.clone());
            let refused = |all: &[Condition]| {
                let found = find(all, kind::PROGRAMMED);
                let found = found.filter(|one| one.reason == reason::REFUSED);
                found.map(|one| one.message.clone())
            };
            let old = world
                .policy(namespace, name)
                .and_then(|old| old.status.as_ref());
            let before = old.and_then(|old| refused(&old.conditions));
            let now = refused(&status.conditions).filter(|now| before.as_ref() != Some(now));
            let news = now.map(|message| News::warning(about, "Refused", message));
            news.into_iter().collect()
        }
        Write::Import { key, object, .. } => {
            let about = About::Import(key.namespace.to_string(), key.name.to_string());
            let what = format!("ServiceImport {key}");
            let have = world.imports.get(key);
            let note = have.and_then(|have| {
                let wanted = object.as_ref();
                edits::note(
                    &what,
                    (&**have, wanted),
                    &have.metadata,
                    labels::HUB_MANAGER,
                )
            });
            let news = note.map(|note| News::warning(about, edits::EDIT_UNDONE, note));
            news.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Refusals are told of the member, whose operator can do something; disagreements of the service.
fn of_export(
    (key, slot): (&ServiceKey, &ExportKey),
    old: &[Condition],
    new: &[Condition],
) -> Vec<News> {
    let mut news = Vec::new();
    for (of, what) in [
        (kind::VALID, "ExportRefused"),
        (kind::READY, "AddressesRefused"),
        (kind::AGE_PLAUSIBLE, "AgeUnverified"),
    ] {
        let said = find(new, of).filter(|one| one.status == "False");
        let said = said.filter(|one| of != kind::READY || one.reason == reason::REFUSED_ADDRESSES);
        let before = find(old, of).map(|one| (&one.status, &one.reason));
        if let Some(one) = said.filter(|one| before != Some((&one.status, &one.reason))) {
            let about = About::Member(slot.member.to_string());
            let note = format!("export {key}: {}", one.message);
            let action = format!("{} {key}", one.reason);
            news.push(News::warning(about, what, note).with_action(action));
        }
    }
    let conflict = |all: &[Condition]| {
        let found = find(all, kind::CONFLICT).filter(|one| one.status == "True");
        found.map(|one| one.message.clone())
    };
    let about = || About::Import(key.namespace.to_string(), key.name.to_string());
    match (conflict(old), conflict(new)) {
        (before, Some(now)) => {
            let winner = services::winner(&now).unwrap_or_default();
            if before.as_deref().and_then(services::winner) != Some(winner) {
                let action = format!("Prefer {winner}");
                news.push(News::warning(about(), "Conflict", now).with_action(action));
            }
        }
        (Some(_), None) => {
            let note = "its exports agree again".to_owned();
            news.push(News::normal(about(), "ConflictResolved", note));
        }
        (None, None) => {}
    }
    news
}

/// What becomes of a member.
pub(super) fn of_member(
    name: &MemberName,
    old: &MemberClusterStatus,
    new: &MemberClusterStatus,
) -> Vec<News> {
    let about = || About::Member(name.to_string());
    let mut news = Vec::new();
    for (of, reasons) in [
        (kind::JOINED, &[(reason::JOINED, "Joined", false)][..]),
        (
            kind::LEAVING,
            &[
                (reason::LEAVING, "Leaving", false),
                (reason::EXPORTS_IN_USE, "DeletionHeld", true),
            ],
        ),
    ] {
        let before = find(&old.conditions, of).map(|one| one.reason.as_str());
        let Some(now) = find(&new.conditions, of) else {
            continue;
        };
        for (reason, what, warning) in reasons {
            if now.reason == *reason && before != Some(reason) {
                let news_of = if *warning {
                    News::warning
                } else {
                    News::normal
                };
                news.push(news_of(about(), what, now.message.clone()));
            }
        }
    }
    news
}

/// Its taints are these now.
pub(super) fn of_taints(member: &MemberName, taints: &[Taint]) -> News {
    let said = taints.iter().map(|taint| {
        let value = taint.value.as_deref().unwrap_or_default();
        format!("{}={value}:{}", taint.key, taint.effect)
    });
    let said: Vec<String> = said.collect();
    let note = match said.is_empty() {
        true => "it has no taints any more".to_owned(),
        false => format!("its taints are {} now", said.join(", ")),
    };
    News::normal(About::Member(member.to_string()), "TaintsChanged", note)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn condition(of: &str, status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: of.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    fn conflict(winner: &str) -> Condition {
        let message = format!(
            "Conflicting type. Using \"x\" from oldest service export in \"{winner}\". 1/2 clusters disagree."
        );
        condition(kind::CONFLICT, "True", reason::TYPE_CONFLICT, &message)
    }

    fn told(old: Option<&Condition>, new: &Condition) -> Vec<(&'static str, String)> {
        let old = old.map(std::slice::from_ref).unwrap_or_default();
        let new = std::slice::from_ref(new);
        let key = ServiceKey::new("shop", "web");
        let slot = ExportKey {
            member: MemberName::parse("a").unwrap(),
            object: "record".into(),
        };
        let news = of_export((&key, &slot), old, new);
        news.into_iter().map(|one| (one.reason, one.note)).collect()
    }

    #[test]
    fn an_export_that_is_refused_is_told_once_with_the_reason() {
        let no = condition(kind::VALID, "False", reason::NOT_ALLOWED, "not allowed");
        let yes = condition(kind::VALID, "True", reason::VALID, "");
        let expected = ("ExportRefused", "export shop/web: not allowed".to_owned());
        assert_eq!(told(None, &no), std::slice::from_ref(&expected));
        assert_eq!(told(Some(&yes), &no), [expected]);
        assert_eq!(told(Some(&no), &no), []);
    }

    #[test]
    fn another_winner_of_a_conflict_is_told_and_more_losers_are_not() {
        let reasons = |old: &Condition, new: &Condition| -> Vec<&str> {
            told(Some(old), new).into_iter().map(|one| one.0).collect()
        };
        let none = condition(kind::CONFLICT, "False", reason::NO_CONFLICTS, "");
        assert_eq!(reasons(&none, &conflict("a")), ["Conflict"]);
        assert_eq!(reasons(&conflict("a"), &conflict("b")), ["Conflict"]);
        let mut more = conflict("a");
        more.message = more.message.replace("1/2", "2/3");
        assert!(reasons(&conflict("a"), &more).is_empty());
        assert_eq!(reasons(&conflict("a"), &none), ["ConflictResolved"]);
    }

    #[test]
    fn a_member_is_told_of_when_it_joins_is_held_and_leaves() {
        let name = MemberName::parse("a").unwrap();
        let state = |of: &str, reason: &str| MemberClusterStatus {
            conditions: vec![condition(of, "True", reason, "why")],
            ..MemberClusterStatus::default()
        };
        for (of, before, now, what) in [
            (
                kind::JOINED,
                reason::NEVER_SEEN,
                reason::JOINED,
                Some("Joined"),
            ),
            (kind::JOINED, reason::JOINED, reason::JOINED, None),
            (
                kind::LEAVING,
                "",
                reason::EXPORTS_IN_USE,
                Some("DeletionHeld"),
            ),
            (
                kind::LEAVING,
                reason::EXPORTS_IN_USE,
                reason::LEAVING,
                Some("Leaving"),
            ),
            (kind::LEAVING, reason::LEAVING, reason::LEAVING, None),
        ] {
            let news = of_member(&name, &state(of, before), &state(of, now));
            let told = news.first().map(|one| one.reason);
            assert_eq!(told, what, "{of}: {before} to {now}");
        }
    }
}
