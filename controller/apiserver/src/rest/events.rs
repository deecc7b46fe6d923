//! Events in their two groups: one object, two sets of names.
//!
//! They are stored in the form of the core group. `events.k8s.io` names some fields anew and marks
//! the older ones as deprecated.

use serde_json::Value;

use crate::resource::Resource;

/// Name in the core group, name in `events.k8s.io`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Is what this resource shows stored under other names?
pub(super) fn is_renamed(resource: &Resource) -> bool {
    resource.is("events.k8s.io", "events")
}

pub(super) fn to_stored(object: &mut Value) {
    rename(object, |(core, new)| (new, core));
}

pub(super) fn from_stored(object: &mut Value) {
    rename(object, |names| names);
}

fn rename(
    object: &mut Value,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    for names in NAMES {
        let (from, to) = direction(*names);
        if let Some(value) = object.shift_remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_comes_back_as_it_was_stored() {
        let new = json!({"regarding": {"name": "a"}, "note": "b", "type": "Normal"});
        let mut event = new.clone();
        to_stored(&mut event);
        assert_eq!(
            event,
            json!({"type": "Normal", "involvedObject": {"name": "a"}, "message": "b"})
        );
        from_stored(&mut event);
        assert_eq!(event, new);
    }
}
