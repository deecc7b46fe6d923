//! A CRD's status: are its names free, is it served.

use serde_json::{Value, json};

/// The CRD with the status it deserves among `others` of its group, or `None` if it has that already.
///
/// Names are accepted when no other CRD holds them; then the CRD is established, once and for all.
pub(crate) fn settled(crd: &Value, others: &[Value], now: &str) -> Option<Value> {
    let (names, conflict) = accepted(crd, others);
    let established = conflict.is_none() || is_true(crd, "Established");
    let mut new = crd.clone();
    new["status"]["acceptedNames"] = names;
    let (reason, message) = match &conflict {
        None => ("NoConflicts", "no conflicts found"),
        Some((reason, message)) => (*reason, message.as_str()),
    };
    let on = conflict.is_none();
    set(
        &mut new,
        &Verdict {
            kind: "NamesAccepted",
            on,
            reason,
            message,
        },
        now,
    );
    if !is_true(crd, "Established") {
        let (reason, message) = if established {
            (
                "InitialNamesAccepted",
                "the initial names have been accepted",
            )
        } else {
            ("NotAccepted", "not all names are accepted")
        };
        set(
            &mut new,
            &Verdict {
                kind: "Established",
                on: established,
                reason,
                message,
            },
            now,
        );
    }
    (new != *crd).then_some(new)
}

/// Marks a CRD that was asked to go: its instances go first.
pub(crate) fn terminating(crd: &mut Value, now: &str) {
    let metadata = &mut crd["metadata"];
    match metadata["finalizers"].as_array_mut() {
        Some(list) if list.iter().any(|name| name == CLEANUP) => {}
        Some(list) => list.push(json!(CLEANUP)),
        None => metadata["finalizers"] = json!([CLEANUP]),
    }
    let message =
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    let reason = "InstanceDeletionPending";
    set(
        crd,
        &Verdict {
            kind: "Terminating",
            on: true,
            reason,
            message,
        },
        now,
    );
}

/// The CRD without the finalizer that kept it for its instances.
pub(crate) fn released(crd: &Value) -> Value {
    let mut crd = crd.clone();
    if let Some(list) = crd["metadata"]["finalizers"].as_array_mut() {
        list.retain(|name| name != CLEANUP);
    }
    crd
}

pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(crate) fn is_true(crd: &Value, kind: &str) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    found.is_some_and(|condition| condition["status"] == "True")
}

/// A condition's type and reason.
struct Verdict<'a> {
    kind: &'a str,
    on: bool,
    reason: &'a str,
    message: &'a str,
}

fn set(crd: &mut Value, verdict: &Verdict<'_>, now: &str) {
    let (kind, status) = (verdict.kind, if verdict.on { "True" } else { "False" });
    let mut condition = json!({
        "type": kind, "status": status, "lastTransitionTime": now, "reason": verdict.reason,
        "message": verdict.message,
    });
    let holder = &mut crd["status"]["conditions"];
    let Some(list) = holder.as_array_mut() else {
        *holder = json!([condition]);
        return;
    };
    match list.iter_mut().find(|old| old["type"] == kind) {
        Some(old) => {
            if old["status"] == status {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}

/// The names that nobody else of the group holds, and the last conflict over the others.
fn accepted(crd: &Value, others: &[Value]) -> (Value, Option<(&'static str, String)>) {
    let held = |keys: &[&str], name: &Value| -> bool {
        others
            .iter()
            .filter(|other| is_rival(crd, other))
            .any(|other| {
                let accepted = &other["status"]["acceptedNames"];
                keys.iter().any(|key| match &accepted[*key] {
                    Value::Array(list) => list.contains(name),
                    single => single == name,
                })
            })
    };
    let resources = &["plural", "singular", "shortNames"][..];
    let kinds = &["kind", "listKind"][..];
    let rules = [
        ("plural", resources, "PluralConflict"),
        ("singular", resources, "SingularConflict"),
        ("shortNames", resources, "ShortNamesConflict"),
        ("kind", kinds, "KindConflict"),
        ("listKind", kinds, "ListKindConflict"),
    ];
    let mut names = json!({"plural": "", "kind": ""});
    if let Some(before) = crd["status"]
        .get("acceptedNames")
        .filter(|names| names.is_object())
    {
        names = before.clone();
    }
    let mut conflict = None;
    for (key, keys, reason) in rules {
        let wanted = crd["spec"]["names"].get(key);
        let list: Vec<&Value> = match wanted {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(single) => vec![single],
            None => Vec::new(),
        };
        match list.into_iter().find(|name| held(keys, name)) {
            Some(name) => conflict = Some((reason, format!("{name} is already in use"))),
            None => take(&mut names, key, wanted),
        }
    }
    take(
        &mut names,
        "categories",
        crd["spec"]["names"].get("categories"),
    );
    (names, conflict)
}

fn take(names: &mut Value, key: &str, wanted: Option<&Value>) {
    match (wanted, names.as_object_mut()) {
        (Some(wanted), _) => names[key] = wanted.clone(),
        (None, Some(names)) => drop(names.shift_remove(key)),
        (None, None) => {}
    }
}

fn is_rival(crd: &Value, other: &Value) -> bool {
    other["spec"]["group"] == crd["spec"]["group"]
        && other["metadata"]["name"] != crd["metadata"]["name"]
}
