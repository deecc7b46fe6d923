//! `metadata.managedFields`: who owns which fields, since when.
//!
//! An entry belongs to a manager's name, operation, subresource and, for updates, apiVersion. Appliers have one entry whatever
//! version they apply in. Entries are kept sorted as the real server sorts them, at most ten of them by updates: the
//! oldest beyond that are merged into `ancient-changes`.

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::typed::{self, Comparison, Type};
use crate::schema::{Kind, Schema};

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager`, or what stands for it; empty counts as `unknown`.
    pub manager: &'a str,
    /// The apiVersion the request was made in.
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with whole seconds.
    pub now: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Option<String>,
    pub(crate) fields: FieldSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Managers {
    pub(crate) entries: Vec<Entry>,
}

/// Brings the managedFields of `new` up to date after a create, an update, or a patch that isn't an apply.
///
/// `live` is the stored object, none on create; `reset` are fields that this write can't change (the status, for writes to
/// the object itself). A write that changes nothing keeps the entries with their times. An explicit `managedFields: []`
/// (or `[{}]`) clears them. Cost when nothing changed: one walk over both objects without allocation.
pub fn record_update(
    schema: Type<'_>,
    live: Option<&Value>,
    new: &mut Value,
    writer: Writer<'_>,
    reset: &FieldSet,
) {
    let Some(sent) = take(new) else { return };
    let stored = live.and_then(managed_fields);
    let on_subresource = !writer.subresource.is_empty();
    let cleared = !on_subresource && is_reset(sent.as_ref());
    // Objects that nobody tracks, and those that a client cleared, stay so until somebody applies.
    if cleared && live.is_some() {
        return;
    }
    let changed = change(schema, live, new);
    let replaced = !on_subresource && sent.as_ref().is_some_and(|sent| Some(sent) != stored);
    if let (Some(entries), false) = (stored, replaced) {
        let place = changed
            .is_same()
            .then_some(None)
            .or_else(|| settled_owner(entries, &changed, writer, reset).map(Some));
        if let Some(place) = place {
            let kept = sent.filter(|sent| sent == entries);
            let mut entries = kept.unwrap_or_else(|| entries.clone());
            if let Some(at) = place {
                refresh(&mut entries, at, writer.now);
            }
            put(new, entries);
            return;
        }
    }
    let sent = sent
        .filter(|_| replaced)
        .and_then(|sent| Managers::decode(&sent));
    let mut managers = match sent.filter(|sent| !sent.entries.is_empty()) {
        Some(sent) => sent,
        None => stored.and_then(Managers::decode).unwrap_or_default(),
    };
    let untracked = managers.entries.is_empty() && live.is_some_and(has_uid);
    if !untracked {
        managers.update(changed, writer, reset);
    }
    managers.store(new);
}

/// The place of the writer's entry where it owns already all that it changed and nobody else does: what most updates are.
/// None where ownership moves.
fn settled_owner(
    entries: &Value,
    changed: &Comparison,
    writer: Writer<'_>,
    reset: &FieldSet,
) -> Option<usize> {
    if !changed.removed.is_empty() || !changed.is_apart_from(reset) {
        return None;
    }
    let (modified, added) = (&changed.modified.children, &changed.added.children);
    let mut mine = None;
    for (at, entry) in entries.as_array()?.iter().enumerate() {
        let own = text(entry, "manager") == writer.manager
            && text(entry, "operation") == Operation::Update.name()
            && text(entry, "apiVersion") == writer.api_version
            && text(entry, "subresource") == writer.subresource;
        let fields = entry.get("fieldsV1")?;
        if own {
            let owns = modified.is_within(fields) && added.is_within(fields);
            mine = Some(owns.then_some(at)?);
        } else if modified.meets(fields) || added.meets(fields) {
            return None;
        }
    }
    mine
}

/// Gives an entry a new time, and the place that comes with it: the latest of the updates.
fn refresh(entries: &mut Value, at: usize, now: &str) {
    let Some(list) = entries.as_array_mut() else {
        return;
    };
    let mut entry = list.remove(at);
    entry["time"] = Value::String(now.to_owned());
    let order = |entry: &Value| {
        // "Apply" sorts before "Update" as the operations do.
        ["operation", "time", "manager", "apiVersion", "subresource"]
            .map(|key| text(entry, key).to_owned())
    };
    let wanted = order(&entry);
    let place = list
        .iter()
        .position(|other| order(other) > wanted)
        .unwrap_or(list.len());
    list.insert(place, entry);
}

/// What a write changes, apart from what nobody owns.
pub(crate) fn change(schema: Type<'_>, live: Option<&Value>, new: &Value) -> Comparison {
    let changed = match live {
        Some(live) => typed::compare(schema, Some(live), Some(new)),
        None => typed::compare(schema, Some(&empty_object(schema)), Some(new)),
    };
    changed.without(strip_set())
}

/// The fields that nobody owns: the object's identity and what the server sets.
pub(crate) fn strip_set() -> &'static FieldSet {
    static SET: std::sync::LazyLock<FieldSet> = std::sync::LazyLock::new(|| {
        let metadata = [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ];
        let paths = metadata.map(|name| ["metadata", name]);
        let mut all: Vec<&[&str]> = paths.iter().map(|path| &path[..]).collect();
        all.extend([&["apiVersion"][..], &["kind"], &["metadata"]]);
        FieldSet::of_fields(&all)
    });
    &SET
}

/// The object before its creation: a struct's fields that are always there, so that they count as known.
pub(crate) fn empty_object(schema: Type<'_>) -> Value {
    let mut empty = Value::Object(Map::new());
    if let Some(schema) = schema {
        fill(schema, &mut empty);
    }
    empty
}

fn fill(schema: &Schema, value: &mut Value) {
    let target = schema.target();
    let Value::Object(map) = value else { return };
    if !target.is_struct {
        return;
    }
    for (name, schema) in target.properties.iter() {
        let required = target.required.iter().any(|required| **required == *name);
        let value = match (&schema.default, schema.target().kind) {
            (Some(default), _) => default.clone(),
            (None, Kind::Array | Kind::Object) if required => Value::Null,
            _ => continue,
        };
        let value = map.entry(name).or_insert(value);
        fill(schema, value);
    }
}

fn has_uid(object: &Value) -> bool {
    object["metadata"]["uid"]
        .as_str()
        .is_some_and(|uid| !uid.is_empty())
}

pub(crate) fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// Takes the entries out of an object; None where it has no metadata.
#[expect(clippy::option_option, reason = "no metadata, no entries, entries")]
fn take(object: &mut Value) -> Option<Option<Value>> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    Some(metadata.shift_remove("managedFields"))
}

pub(crate) fn put(object: &mut Value, entries: Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

fn is_reset(sent: Option<&Value>) -> bool {
    match sent.and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// A write that changed nothing but times of entries gets the old times back, so that the object stays the same.
pub fn keep_times_if_same(before: &Value, after: &mut Value) {
    let timeless = |value: &Value| {
        let mut entries = managed_fields(value).cloned().unwrap_or_default();
        for entry in entries.as_array_mut().into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.shift_remove("time");
            }
        }
        entries
    };
    let Some(entries) = managed_fields(before) else {
        return;
    };
    if managed_fields(after) == Some(entries) || timeless(before) != timeless(after) {
        return;
    }
    let entries = entries.clone();
    let Some(new) = take(after).flatten() else {
        return;
    };
    put(after, entries);
    if before != after {
        put(after, new);
    }
}

// === impl Managers ===

impl Managers {
    /// None where an entry isn't one: then they count as lost.
    pub(crate) fn decode(entries: &Value) -> Option<Self> {
        let entries = entries.as_array()?.iter().map(Entry::decode);
        Some(Self {
            entries: entries.collect::<Option<_>>()?,
        })
    }

    /// Writes the entries into the object, or removes them where there is none.
    pub(crate) fn store(mut self, object: &mut Value) {
        if self.entries.is_empty() {
            drop(take(object));
            return;
        }
        self.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        put(
            object,
            Value::Array(self.entries.iter().map(Entry::encode).collect()),
        );
    }

    /// Moves ownership of everything that changed to the writer.
    pub(crate) fn update(&mut self, changed: Comparison, writer: Writer<'_>, reset: &FieldSet) {
        let removed = changed.removed.children.recursive_difference(reset);
        let taken = changed.modified.children.union(changed.added.children);
        let mine = taken.recursive_difference(reset);
        self.release(&mine, &removed, None);
        if mine.is_empty() {
            return;
        }
        self.add(Entry::of_writer(writer, Operation::Update, mine));
    }

    /// Adds an update's fields to those that its manager has.
    pub(crate) fn add(&mut self, entry: Entry) {
        match self
            .entries
            .iter_mut()
            .find(|other| other.is_of_same_manager(&entry))
        {
            Some(old) => {
                let fields = std::mem::take(&mut old.fields).union(entry.fields);
                *old = Entry { fields, ..entry };
            }
            None => self.entries.push(entry),
        }
        self.cap();
    }

    /// Puts an entry in the place of its manager's last one, or at the end: the place, and the last one.
    pub(crate) fn enter(&mut self, entry: Entry) -> (usize, Option<Entry>) {
        let same = self
            .entries
            .iter()
            .position(|other| other.is_of_same_manager(&entry));
        match same {
            Some(at) => (at, Some(std::mem::replace(&mut self.entries[at], entry))),
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1, None)
            }
        }
    }

    /// Everybody but `keep` loses these fields; who owns nothing any more is gone. Gives the place where `keep` is now.
    pub(crate) fn release(
        &mut self,
        taken: &FieldSet,
        removed: &FieldSet,
        keep: Option<usize>,
    ) -> Option<usize> {
        let mut kept = Vec::with_capacity(self.entries.len());
        let mut place = None;
        for (at, mut entry) in std::mem::take(&mut self.entries).into_iter().enumerate() {
            if Some(at) == keep {
                place = Some(kept.len());
            } else {
                entry.fields = entry.fields.difference(taken).difference(removed);
                if entry.fields.is_empty() {
                    continue;
                }
            }
            kept.push(entry);
        }
        self.entries = kept;
        place
    }

    fn cap(&mut self) {
        let updates = |entries: &[Entry]| {
            entries
                .iter()
                .filter(|entry| entry.operation == Operation::Update)
                .count()
        };
        if updates(&self.entries) <= UPDATERS_MAX {
            return;
        }
        self.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        while updates(&self.entries) > UPDATERS_MAX {
            // Of one apiVersion, the two oldest become one.
            let oldest = self
                .entries
                .iter()
                .position(|e| e.operation == Operation::Update);
            let Some(first) = oldest else { return };
            let version = self.entries[first].api_version.clone();
            let next = self.entries.iter().skip(first + 1).position(|entry| {
                entry.operation == Operation::Update && entry.api_version == version
            });
            let Some(next) = next else { return };
            let next = self.entries.remove(first + 1 + next);
            let merged = &mut self.entries[first];
            let fields = std::mem::take(&mut merged.fields).union(next.fields);
            *merged = Entry {
                manager: "ancient-changes".to_owned(),
                operation: Operation::Update,
                api_version: version,
                subresource: String::new(),
                time: next.time,
                fields,
            };
        }
    }
}

/// Entries by updates beyond this are merged.
const UPDATERS_MAX: usize = 10;

// === impl Entry ===

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Entry {
    pub(crate) fn of_writer(writer: Writer<'_>, operation: Operation, fields: FieldSet) -> Self {
        let manager = if writer.manager.is_empty() {
            "unknown"
        } else {
            writer.manager
        };
        Self {
            manager: manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            fields,
        }
    }

    fn decode(entry: &Value) -> Option<Self> {
        let text = |key: &str| text(entry, key).to_owned();
        let operation = match entry.get("operation").and_then(Value::as_str) {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return None,
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let fields = match entry.get("fieldsV1") {
            Some(fields) => FieldSet::decode(fields)?,
            None => FieldSet::default(),
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version,
            subresource: text("subresource"),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            fields,
        })
    }

    fn encode(&self) -> Value {
        let mut entry = Map::with_capacity(7);
        let mut text = |key: &str, value: &str| {
            if !value.is_empty() {
                entry.insert(key.to_owned(), Value::String(value.to_owned()));
            }
        };
        text("manager", &self.manager);
        text("operation", self.operation.name());
        text("apiVersion", &self.api_version);
        text("time", self.time.as_deref().unwrap_or_default());
        text("fieldsType", "FieldsV1");
        entry.insert("fieldsV1".to_owned(), self.fields.encode());
        if !self.subresource.is_empty() {
            entry.insert(
                "subresource".to_owned(),
                Value::String(self.subresource.clone()),
            );
        }
        Value::Object(entry)
    }

    pub(crate) fn is_of_same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// `"kubectl-edit" using v1`, as conflicts name a manager.
    pub(crate) fn title(&self) -> String {
        let mut title = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            title.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            title.push_str(&format!(" using {}", self.api_version));
        }
        title
    }

    fn order(&self) -> (Operation, &str, &str, &str, &str) {
        let time = self.time.as_deref().unwrap_or_default();
        (
            self.operation,
            time,
            &self.manager,
            &self.api_version,
            &self.subresource,
        )
    }
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}
