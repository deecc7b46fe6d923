//! Server-side apply.

use serde_json::Value;

use super::field_set::FieldSet;
use super::managed_fields::{self, Entry, Managers, Operation, Writer, empty_object, strip_set};
use super::typed::{self, Comparison, Type};
use crate::error::{Cause, CauseReason};

/// An object after an apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub object: Value,
    /// False where the configuration was in effect already and nobody's ownership moved.
    pub changed: bool,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// Fields that the kind doesn't have, or wrong types; Kubernetes answers 500 with this text.
    #[error("{0}")]
    NotTyped(String),
    /// 409 Conflict: other managers own what the configuration would change.
    #[error("{message}")]
    Conflict { message: String, causes: Vec<Cause> },
}

/// Who applies, and what an apply may do.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub writer: Writer<'a>,
    /// Fields that this request can't own.
    pub reset: &'a FieldSet,
    /// Conflicts move ownership instead of refusing.
    pub force: bool,
}

/// Applies a configuration for its manager. `live` is the stored object, none when it is to be created; `config` carries the
/// apiVersion of the writer.
///
/// The result is not yet defaulted or validated, and its server-set metadata is `live`'s.
pub fn apply(
    schema: Type<'_>,
    live: Option<&Value>,
    config: &Value,
    terms: Terms<'_>,
) -> Result<Applied, ApplyError> {
    let writer = terms.writer;
    check(schema, config, writer)?;
    let mut managers = live
        .map(|live| managers_before(schema, live, writer))
        .unwrap_or_default();
    let (before, merged) = match live {
        Some(live) => {
            let before = without_managed_fields(live);
            let merged = typed::merge(schema, &before, config);
            (before, merged)
        }
        None => (empty_object(schema), config.clone()),
    };
    let fields = typed::field_set(schema, config).recursive_difference(terms.reset);
    let mine = Entry::of_writer(writer, Operation::Apply, fields);
    let (place, last) = managers.enter(mine);
    let mut object = match &last {
        Some(last) => prune(schema, merged, &managers, &last.fields),
        None => merged,
    };
    let changed = typed::compare(schema, Some(&before), Some(&object));
    let allowed = || allowed_by_last_applied(schema, &before, writer);
    let place = settle(changed, &mut managers, place, terms, &allowed)?;
    if live.is_some() && object == before {
        // A first apply that changes no value has no time.
        managers.entries[place].time = last.and_then(|last| last.time);
    }
    strip(&mut managers, place);
    managers.store(&mut object);
    if writer.manager == "kubectl" {
        sync_last_applied(&mut object, config);
    }
    if let Some(live) = live {
        managed_fields::keep_times_if_same(live, &mut object);
    }
    let changed = live != Some(&object);
    Ok(Applied { object, changed })
}

fn check(schema: Type<'_>, config: &Value, writer: Writer<'_>) -> Result<(), ApplyError> {
    let version = config
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if version != writer.api_version {
        let kind = kind_title(config);
        return Err(ApplyError::BadRequest(format!(
            "invalid object type: {kind}"
        )));
    }
    if managed_fields::managed_fields(config).is_some_and(|entries| !entries.is_null()) {
        return Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    check_types(schema, config)
}

/// Has a configuration only fields that its kind has, each of the right type?
pub(super) fn check_types(schema: Type<'_>, config: &Value) -> Result<(), ApplyError> {
    let faults = typed::faults(schema, config);
    if faults.is_empty() {
        return Ok(());
    }
    let metadata = &config["metadata"];
    let part = |key: &str| metadata[key].as_str().unwrap_or_default();
    let faults = match faults.as_slice() {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(ApplyError::NotTyped(format!(
        "failed to create typed patch object ({}/{}; {}): {faults}",
        part("namespace"),
        part("name"),
        kind_title(config),
    )))
}

/// `apps/v1, Kind=Deployment`, or `/v1, Kind=ConfigMap`.
pub(crate) fn kind_title(object: &Value) -> String {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let version = text("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", text("kind"))
}

/// The owners so far. An object that nobody tracked belongs to `before-first-apply`.
fn managers_before(schema: Type<'_>, live: &Value, writer: Writer<'_>) -> Managers {
    let stored = managed_fields::managed_fields(live).and_then(Managers::decode);
    let mut managers = stored.unwrap_or_default();
    if managers.entries.is_empty() {
        let earlier = Writer {
            manager: "before-first-apply",
            subresource: "",
            ..writer
        };
        let bare = without_managed_fields(live);
        let everything = managed_fields::change(schema, None, &bare);
        managers.update(everything, earlier, &FieldSet::default());
    }
    managers
}

fn without_managed_fields(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(metadata) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    bare
}

/// Finds conflicts, or gives way where forced, and records what moved. Gives the applier's new place. `allowed` are fields
/// that kubectl may take over from itself.
fn settle(
    changed: Comparison,
    managers: &mut Managers,
    place: usize,
    terms: Terms<'_>,
    allowed: &dyn Fn() -> FieldSet,
) -> Result<usize, ApplyError> {
    let removed = changed.removed.children.recursive_difference(terms.reset);
    let modified = changed.modified.children.recursive_difference(terms.reset);
    let taken = modified.union(changed.added.children.recursive_difference(terms.reset));
    if !terms.force {
        let mut conflicts = conflicts(managers, place, &taken);
        if !conflicts.is_empty() && terms.writer.manager == "kubectl" {
            let allowed = allowed();
            for conflict in &mut conflicts {
                conflict.1 = std::mem::take(&mut conflict.1).difference(&allowed);
            }
            conflicts.retain(|(_, fields)| !fields.is_empty());
        }
        if !conflicts.is_empty() {
            return Err(conflict_error(&conflicts));
        }
    }
    let place = managers.release(&taken, &removed, Some(place));
    Ok(place.expect("the applier keeps its entry"))
}

fn conflicts(managers: &Managers, place: usize, taken: &FieldSet) -> Vec<(String, FieldSet)> {
    let others = managers
        .entries
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != place);
    let mut conflicts: Vec<_> = others
        .map(|(_, entry)| (entry.title(), entry.fields.intersection(taken)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    conflicts.sort_by(|a, b| a.0.cmp(&b.0));
    conflicts
}

pub(super) fn conflict_error(conflicts: &[(String, FieldSet)]) -> ApplyError {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (manager, fields) in conflicts {
        lines.push(format!("conflicts with {manager}:"));
        for path in fields.paths() {
            lines.push(format!("- {path}"));
            let message = format!("conflict with {manager}");
            causes.push(Cause::new(CauseReason::FieldManagerConflict, path, message));
        }
    }
    let message = match causes.as_slice() {
        [one] => format!(
            "Apply failed with 1 conflict: {}: {}",
            one.message, one.field
        ),
        many => format!(
            "Apply failed with {} conflicts: {}",
            many.len(),
            lines.join("\n")
        ),
    };
    ApplyError::Conflict { message, causes }
}

/// Removes what the manager applied last time and not now, unless somebody else owns it.
fn prune(schema: Type<'_>, merged: Value, managers: &Managers, last: &FieldSet) -> Value {
    if last.is_empty() {
        return merged;
    }
    let named = |set: &FieldSet| typed::with_named_fields(schema, set);
    let last = named(last);
    let removed = |set: &FieldSet| -> Value {
        typed::remove(schema, &merged, set).unwrap_or_else(|| Value::Object(serde_json::Map::new()))
    };
    let owned = managers
        .entries
        .iter()
        .fold(FieldSet::default(), |all, entry| {
            all.union(entry.fields.clone())
        });
    let all = named(&typed::field_set(schema, &merged));
    // What is left without the last configuration, plus what anybody owns…
    let pruned = named(&typed::field_set(schema, &removed(&last)));
    let kept = pruned.union(named(&owned));
    let pruned = removed(&all.clone().difference(&kept));
    // …plus what was never this manager's.
    let pruned = named(&typed::field_set(schema, &pruned));
    removed(&all.difference(&pruned).intersection(&last))
}

fn strip(managers: &mut Managers, place: usize) {
    let fields = std::mem::take(&mut managers.entries[place].fields);
    let fields = fields.difference(strip_set());
    if fields.is_empty() {
        managers.entries.remove(place);
    } else {
        managers.entries[place].fields = fields;
    }
}

// === kubectl's client-side apply ===

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn last_applied(object: &Value) -> Option<&str> {
    let text = object["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    (!text.is_empty()).then_some(text)
}

/// What `kubectl apply` set on the client side and nobody changed since belongs to kubectl, so no conflict arises from it.
fn allowed_by_last_applied(schema: Type<'_>, live: &Value, writer: Writer<'_>) -> FieldSet {
    let parsed = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(config) = parsed else {
        return FieldSet::default();
    };
    if config["apiVersion"].as_str() != Some(writer.api_version) {
        return FieldSet::default();
    }
    let changed = typed::compare(schema, Some(&config), Some(live));
    typed::field_set(schema, &config)
        .difference(&changed.modified.children)
        .difference(&changed.added.children)
        .difference(&changed.removed.children)
}

/// Keeps the annotation in step where there is one, so that going back to client-side apply works.
fn sync_last_applied(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(LAST_APPLIED);
    }
    let text = format!("{config}\n");
    object["metadata"]["annotations"][LAST_APPLIED] = Value::String(text);
}
