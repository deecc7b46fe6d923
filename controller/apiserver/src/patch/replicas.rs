//! Who owns the number of replicas that a Scale shows: a write to the scale subresource is one to that field of the object.

use serde_json::Value;

use super::apply::{ApplyError, check_types, conflict_error};
use super::field_set::FieldSet;
use super::managed_fields::{self, Entry, Managers, Operation, Writer};

/// The same field in the object and in its Scale, before and after a write. A Scale doesn't show zero.
#[derive(Debug, Clone)]
pub struct Replicas {
    pub field: FieldSet,
    pub before: Option<i64>,
    pub after: Option<i64>,
}

impl Replicas {
    /// Records an update of the Scale in the object: whoever changes the number owns it, alone.
    pub fn record_update(&self, object: &mut Value, writer: Writer<'_>) {
        if self.before == self.after {
            return;
        }
        let mut managers = managers(object);
        let tracked = self.owners(&managers).next().is_some();
        managers.release(&self.field, &FieldSet::default(), None);
        // What nobody tracks stays so until somebody applies.
        if self.after.is_some() && tracked {
            managers.add(self.entry(writer, Operation::Update));
        }
        managers.store(object);
    }

    /// Records that `config`, a Scale, was applied.
    ///
    /// # Errors
    /// For what is no Scale; a conflict, unless forced, when others own a number that this would change.
    pub fn record_apply(
        &self,
        object: &mut Value,
        config: &Value,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<(), ApplyError> {
        let schema = crate::schema::builtin("autoscaling", "v1", "Scale");
        check_types(schema.as_deref(), config)?;
        if self.after.is_none() {
            return Ok(());
        }
        let mut managers = managers(object);
        if self.before.is_some() && self.owners(&managers).next().is_none() {
            let earlier = Writer {
                manager: "before-first-apply",
                ..writer
            };
            managers.add(self.entry(earlier, Operation::Update));
        }
        let (place, _) = managers.enter(self.entry(writer, Operation::Apply));
        if self.before != self.after {
            let conflicts = self.conflicts(&managers, place);
            if !conflicts.is_empty() && !force {
                return Err(conflict_error(&conflicts));
            }
            managers.release(&self.field, &FieldSet::default(), Some(place));
        }
        managers.store(object);
        Ok(())
    }

    fn owners<'m>(&self, managers: &'m Managers) -> impl Iterator<Item = (usize, &'m Entry)> {
        let owns = |entry: &Entry| !entry.fields.intersection(&self.field).is_empty();
        let entries = managers.entries.iter().enumerate();
        entries.filter(move |(_, entry)| owns(entry))
    }

    fn conflicts(&self, managers: &Managers, place: usize) -> Vec<(String, FieldSet)> {
        let shown = FieldSet::of_fields(&[&["spec", "replicas"]]);
        let owners = self
            .owners(managers)
            .filter(|(at, _)| *at != place)
            .map(|(_, entry)| {
                let as_scale = Entry {
                    api_version: SCALE_VERSION.to_owned(),
                    ..entry.clone()
                };
                (as_scale.title(), shown.clone())
            });
        let mut conflicts: Vec<_> = owners.collect();
        conflicts.sort_by(|a, b| a.0.cmp(&b.0));
        conflicts
    }

    /// An entry without a time: the real server loses it on the way through the Scale.
    fn entry(&self, writer: Writer<'_>, operation: Operation) -> Entry {
        Entry {
            time: None,
            ..Entry::of_writer(writer, operation, self.field.clone())
        }
    }
}

fn managers(object: &Value) -> Managers {
    managed_fields::managed_fields(object)
        .and_then(Managers::decode)
        .unwrap_or_default()
}

/// The version in which the owners of a Scale are told.
const SCALE_VERSION: &str = "autoscaling/v1";
