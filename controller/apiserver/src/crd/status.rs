//! A CRD's status: are its names free, is it served.

use serde_json::{Value, json};

/// The CRD with the status it deserves among `others` of its group, or `None` if it has that already.
///
/// Names are accepted when no other CRD holds them; then the CRD is established, once and for all.
pub(crate) fn settled(crd: &Value, others: &[Value], now: &str) -> Option<Value> {
    let conflict = conflict(crd, others);
    let accepted = conflict.is_none();
    let established = accepted || is_true(crd, "Established");
    let mut new = crd.clone();
    let names = &crd["spec"]["names"];
    if accepted {
        new["status"]["acceptedNames"] = names.clone();
    } else if new["status"].get("acceptedNames").is_none() {
        new["status"]["acceptedNames"] = json!({"plural": "", "kind": ""});
    }
    match conflict {
        None => set(
            &mut new,
            "NamesAccepted",
            true,
            "NoConflicts",
            "no conflicts found",
            now,
        ),
        Some((reason, message)) => set(&mut new, "NamesAccepted", false, reason, &message, now),
    }
    if !is_true(crd, "Established") {
        let (reason, message) = if established {
            (
                "InitialNamesAccepted",
                "the initial names have been accepted",
            )
        } else {
            ("NotAccepted", "not all names are accepted")
        };
        set(&mut new, "Established", established, reason, message, now);
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
    set(
        crd,
        "Terminating",
        true,
        "InstanceDeletionPending",
        message,
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

fn set(crd: &mut Value, kind: &str, on: bool, reason: &str, message: &str, now: &str) {
    let status = if on { "True" } else { "False" };
    let mut condition = json!({
        "type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
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

/// The first name that another CRD of the group holds.
fn conflict(crd: &Value, others: &[Value]) -> Option<(&'static str, String)> {
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
    let names = &crd["spec"]["names"];
    let resources = &["plural", "singular", "shortNames"][..];
    let kinds = &["kind", "listKind"][..];
    let rules = [
        ("plural", resources, "PluralConflict"),
        ("singular", resources, "SingularConflict"),
        ("shortNames", resources, "ShortNamesConflict"),
        ("kind", kinds, "KindConflict"),
        ("listKind", kinds, "ListKindConflict"),
    ];
    for (key, keys, reason) in rules {
        let wanted: Vec<&Value> = match &names[key] {
            Value::Array(list) => list.iter().collect(),
            Value::Null => Vec::new(),
            single => vec![single],
        };
        if let Some(name) = wanted.into_iter().find(|name| held(keys, name)) {
            return Some((reason, format!("{name} is already in use")));
        }
    }
    None
}

fn is_rival(crd: &Value, other: &Value) -> bool {
    other["spec"]["group"] == crd["spec"]["group"]
        && other["metadata"]["name"] != crd["metadata"]["name"]
}
