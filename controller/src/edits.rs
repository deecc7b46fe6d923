//! Edits of derived objects, which are put right: who made them, where, and what to do instead.
//!
//! Told as an event, because the object itself shows nothing of it a moment later. The same again is
//! counted in the event's series.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde::Serialize;
use serde_json::Value;

/// The reason of the events.
pub(crate) const EDIT_UNDONE: &str = "EditUndone";

/// What is told of an edit that `manager`, whose object it is, puts right; `None` where `have` lacks nothing
/// of `wanted`, or where nobody else has written the object.
pub(crate) fn note<T: Serialize>(
    what: &str,
    (have, wanted): (&T, &T),
    meta: &ObjectMeta,
    manager: &str,
) -> Option<String> {
    let editor = editor(meta, manager)?;
    let [have, wanted] = [have, wanted].map(|one| serde_json::to_value(one).unwrap_or_default());
    let mut fields = Vec::new();
    differences(&have, &wanted, "", &mut fields);
    let more = fields.len().saturating_sub(FIELDS_MAX);
    fields.truncate(FIELDS_MAX);
    if fields.is_empty() {
        return None;
    }
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{what} was changed by {editor} in {}{more}, and {manager} put it back: it is derived from the \
         exports. To change it, change the exported Services, or the MultiClusterService on the hub",
        fields.join(", ")
    ))
}

/// Who has written the object since `manager` did; statuses don't count. An older edit was put right
/// then, or was none.
fn editor<'m>(meta: &'m ObjectMeta, manager: &str) -> Option<&'m str> {
    let entries = meta.managed_fields.iter().flatten();
    let entries = entries.filter(|entry| entry.subresource.is_none());
    let (ours, others): (Vec<_>, Vec<_>) =
        entries.partition(|entry| entry.manager.as_deref() == Some(manager));
    let time = |entry: &&ManagedFieldsEntry| entry.time.as_ref().map(|time| time.0);
    let last = others.into_iter().max_by_key(time)?;
    let own = ours.iter().filter_map(time).max();
    (time(&last) >= own).then(|| last.manager.as_deref().unwrap_or("somebody"))
}

/// The fields of `wanted` that `have` lacks or has otherwise. What `have` has besides is nobody's fault,
/// but of lists, which are somebody's as a whole.
fn differences(have: &Value, wanted: &Value, path: &str, out: &mut Vec<String>) {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                let path = match path {
                    "" => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                differences(have.get(key).unwrap_or(&Value::Null), wanted, &path, out);
            }
        }
        (Value::Array(have), Value::Array(wanted)) if have.len() == wanted.len() => {
            for (index, (have, wanted)) in have.iter().zip(wanted).enumerate() {
                differences(have, wanted, &format!("{path}[{index}]"), out);
            }
        }
        _ if have != wanted => out.push(path.to_owned()),
        _ => {}
    }
}

/// Fields that are named.
const FIELDS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use fairlead_api::labels::{AGENT_MANAGER, HUB_MANAGER};
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn service(ports: &[u16], managers: &[(&str, Option<&str>, &str)]) -> Service {
        let ports: Vec<Value> = ports.iter().map(|port| json!({ "port": port })).collect();
        let entry = |(manager, subresource, time): &(&str, Option<&str>, &str)| json!({ "manager": manager, "subresource": subresource, "time": time });
        let managers: Vec<Value> = managers.iter().map(entry).collect();
        let object = json!({
            "metadata": { "name": "web", "managedFields": managers },
            "spec": { "ports": ports, "type": "ClusterIP" },
        });
        serde_json::from_value(object).unwrap()
    }

    fn note_of(have: &Service, wanted: &Service) -> Option<String> {
        note(
            "Service shop/web",
            (have, wanted),
            &have.metadata,
            AGENT_MANAGER,
        )
    }

    #[test]
    fn an_edit_names_who_where_and_what_to_do_instead() {
        let mut wanted = service(&[80, 81], &[]);
        wanted.metadata.managed_fields = None;
        let edited = service(
            &[80, 99],
            &[
                ("early", None, "2026-01-01T00:00:00Z"),
                ("kubectl-edit", None, "2026-01-03T00:00:00Z"),
                ("status-writer", Some("status"), "2026-01-04T00:00:00Z"),
                (AGENT_MANAGER, None, "2026-01-02T00:00:00Z"),
            ],
        );
        let told = note_of(&edited, &wanted).unwrap();
        for words in [
            "Service shop/web was changed by kubectl-edit in spec.ports[1].port,",
            "put it back",
            "change the exported Services",
        ] {
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn what_nobody_else_wrote_or_what_lacks_nothing_is_no_edit() {
        let mut wanted = service(&[80], &[]);
        wanted.metadata.managed_fields = None;
        let ours = service(&[81], &[(AGENT_MANAGER, None, "2026-01-05T00:00:00Z")]);
        assert_eq!(note_of(&ours, &wanted), None);
        let before = service(
            &[81],
            &[
                ("kubectl-edit", None, "2026-01-04T00:00:00Z"),
                (AGENT_MANAGER, None, "2026-01-05T00:00:00Z"),
            ],
        );
        assert_eq!(note_of(&before, &wanted), None);
        let mut labelled = service(&[80], &[(HUB_MANAGER, None, "2026-01-05T00:00:00Z")]);
        labelled.metadata.labels = Some([("mine".to_owned(), "stays".to_owned())].into());
        assert_eq!(note_of(&labelled, &wanted), None);
    }
}
