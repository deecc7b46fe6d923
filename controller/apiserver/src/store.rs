//! Objects by key, one counter of revisions, and enough history to resume watches.
//!
//! A store owns every object of one server in serialised form, without `apiVersion`, `kind` and
//! `resourceVersion` ([`Object`] says why), one log of recent changes for each table, and the
//! watchers' positions in those logs. It knows nothing of kinds, versions and HTTP.
//!
//! Invariants: revisions only grow, by one for each change; a reader at revision R sees exactly the
//! changes up to R; a [`Watcher`] gets each change of its scope after its position once and in
//! order, or learns that history was trimmed past it ([`Lost`]); it never buffers, so a slow one
//! costs nothing but its own position.
//!
//! Cost: a write is one map insertion and one log entry under a short lock; it wakes only the
//! watchers whose scope (everything, a namespace, one name) it touches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::Notify;

mod durable;
mod object;
mod table;
mod watcher;

#[cfg(test)]
mod tests;

use durable::Disk;
pub use durable::OpenError;
pub use object::{Draft, Key, Object};
use table::Table;
pub use watcher::{Batch, Feed, Scope, Watcher};

/// How much history a store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Changes remembered for each table. At the limit the oldest is trimmed; a watcher that had
    /// not read it is closed and its client lists again.
    pub history_events_max: usize,
    /// The same in bytes of superseded objects.
    pub history_bytes_max: usize,
}

/// A change to one object, decided on the revision that was read.
#[derive(Debug)]
pub struct Write {
    pub table: Arc<str>,
    pub key: Key,
    /// The revision that the object must have; `None` if it must not exist.
    pub expected: Option<u64>,
    pub change: Change,
}

#[derive(Debug)]
pub enum Change {
    Put(Draft),
    /// The draft is the object's last state, which watchers get.
    Delete(Draft),
}

/// Why a write did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the object exists already")]
    Exists,
    #[error("the object is gone")]
    Missing,
    #[error("the object has revision {0} by now")]
    Modified(u64),
    #[error("the store could not make the change safe")]
    Failed,
}

/// History before a revision was compacted or trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} is no longer in the history, which starts after {floor}")]
pub struct Lost {
    pub asked: u64,
    pub floor: u64,
}

/// One change as watchers see it.
#[derive(Debug, Clone)]
pub struct Event {
    pub revision: u64,
    /// The object after the change; for a deletion its last state, with the deletion's revision.
    pub object: Arc<Object>,
    /// The object before the change, `None` for a creation.
    pub previous: Option<Arc<Object>>,
    pub deleted: bool,
    /// Hash of the namespace, to skip other namespaces' events without touching the object.
    namespace_hash: u32,
}

/// What a change is to somebody who sees only some objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Added,
    Modified,
    Deleted,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only the object of this name (in that namespace).
    pub name: Option<String>,
    /// The state at exactly this revision instead of the present one.
    pub at: Option<u64>,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// At most this many objects.
    pub limit: Option<usize>,
}

#[derive(Debug)]
pub struct Listing {
    pub objects: Vec<Arc<Object>>,
    pub revision: u64,
    /// Keys that follow the last object (matching or not); zero on the last page.
    pub remaining: usize,
}

/// A store in memory, or on disk ([`Store::open`]). Cloning gives another handle to the same store.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>, Option<Arc<Disk>>);

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    limits: Limits,
    /// Woken by every change, for feeds.
    changed: Notify,
    /// Watchers closed because history was trimmed past them.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    /// The highest revision that was compacted by request.
    compacted: u64,
    tables: HashMap<Arc<str>, Table>,
}

// === impl Limits ===

impl Default for Limits {
    /// Real API servers keep about 75 s of changes; this is as much at 200 writes a second to one
    /// resource.
    fn default() -> Self {
        Self {
            history_events_max: 16_384,
            history_bytes_max: 32 << 20,
        }
    }
}

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Store {
    /// An empty store at revision one.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            revision: 1,
            ..State::default()
        };
        Self(Arc::new(Shared::new(state, limits)), None)
    }

    /// The revision of the last change to anything.
    pub fn revision(&self) -> u64 {
        self.0.state.read().revision
    }

    /// The revision of the last change to a table, zero if there was none.
    pub fn table_revision(&self, table: &str) -> u64 {
        self.0
            .state
            .read()
            .tables
            .get(table)
            .map_or(0, |table| table.last)
    }

    pub fn read(&self, table: &str, key: &Key) -> Option<Arc<Object>> {
        self.0
            .state
            .read()
            .tables
            .get(table)?
            .objects
            .get(key)
            .cloned()
    }

    /// The number of objects in a table.
    pub fn count(&self, table: &str) -> usize {
        self.0
            .state
            .read()
            .tables
            .get(table)
            .map_or(0, |table| table.objects.len())
    }

    /// Lists the objects that `matches` accepts, in the order of their keys.
    pub fn list(
        &self,
        table: &str,
        range: &Range,
        matches: &dyn Fn(&Object) -> bool,
    ) -> Result<Listing, Lost> {
        let state = self.0.state.read();
        let revision = range.at.unwrap_or(state.revision);
        let empty = || Listing {
            objects: Vec::new(),
            revision,
            remaining: 0,
        };
        if revision < state.compacted {
            return Err(Lost {
                asked: revision,
                floor: state.compacted,
            });
        }
        let Some(table) = state.tables.get(table) else {
            return Ok(empty());
        };
        if revision < table.floor {
            return Err(Lost {
                asked: revision,
                floor: table.floor,
            });
        }
        let past = if range.at.is_some() {
            table.changes_since(revision)
        } else {
            BTreeMap::new()
        };
        Ok(table.list(range, &past, revision, matches))
    }

    /// Makes a change if the object still is what it was decided on. Returns the object after the
    /// change (for a deletion: its last state, with the deletion's revision). The answer comes once
    /// the change is as safe as this store makes it.
    pub async fn commit(&self, write: Write) -> Result<Arc<Object>, Refused> {
        match &self.1 {
            Some(disk) => disk.commit(write).await,
            None => self.apply(write),
        }
    }

    /// A watcher of the changes after `from`; `from` zero means from now on.
    pub fn watch(&self, table: &Arc<str>, scope: Scope, from: u64) -> Result<Watcher, Lost> {
        let mut state = self.0.state.write();
        let from = if from == 0 { state.revision } else { from };
        let compacted = state.compacted;
        let entry = state
            .tables
            .entry(Arc::clone(table))
            .or_insert_with(|| Table::new(compacted));
        if from < entry.floor {
            return Err(Lost {
                asked: from,
                floor: entry.floor,
            });
        }
        let slot = entry.slot(&scope);
        Ok(Watcher::new(
            Arc::clone(&self.0),
            Arc::clone(table),
            scope,
            slot,
            from,
        ))
    }

    /// A consistent list together with a watcher that goes on exactly where it ends.
    pub fn list_and_watch(
        &self,
        table: &Arc<str>,
        range: &Range,
        scope: Scope,
        matches: &dyn Fn(&Object) -> bool,
    ) -> (Listing, Watcher) {
        let mut state = self.0.state.write();
        let revision = state.revision;
        let compacted = state.compacted;
        let entry = state
            .tables
            .entry(Arc::clone(table))
            .or_insert_with(|| Table::new(compacted));
        let listing = entry.list(range, &BTreeMap::new(), revision, matches);
        let slot = entry.slot(&scope);
        let watcher = Watcher::new(
            Arc::clone(&self.0),
            Arc::clone(table),
            scope,
            slot,
            revision,
        );
        (listing, watcher)
    }

    /// All changes of all tables after `from`, for the server's own controllers.
    pub fn feed(&self, from: u64) -> Feed {
        Feed::new(Arc::clone(&self.0), from)
    }

    /// Forgets the history up to and including a revision.
    pub fn compact(&self, through: u64) {
        let mut state = self.0.state.write();
        let through = through.min(state.revision);
        state.compacted = state.compacted.max(through);
        for table in state.tables.values_mut() {
            table.trim_through(through);
        }
    }

    /// Ends writing and frees the file of a store on disk; blocks for as long as a sync takes.
    /// Reading goes on. Later writes are refused.
    pub fn close(&self) {
        if let Some(disk) = &self.1 {
            disk.close();
        }
    }

    /// How many watchers were closed because history was trimmed past them.
    pub fn lost_watchers(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    fn apply(&self, write: Write) -> Result<Arc<Object>, Refused> {
        let mut state = self.0.state.write();
        let found = state
            .tables
            .get(&write.table)
            .and_then(|table| table.objects.get(&write.key));
        check(write.expected, found.map(|object| object.revision))?;
        let revision = state.revision + 1;
        let object = state.put(write, revision, &self.0.limits);
        drop(state);
        self.0.changed.notify_waiters();
        Ok(object)
    }
}

// === impl Shared ===

impl Shared {
    fn new(state: State, limits: Limits) -> Self {
        Self {
            state: RwLock::new(state),
            limits,
            changed: Notify::new(),
            lost: AtomicU64::new(0),
        }
    }
}

// === impl State ===

impl State {
    /// Makes a change that was decided, as `revision`.
    fn put(&mut self, write: Write, revision: u64, limits: &Limits) -> Arc<Object> {
        let compacted = self.compacted;
        let table = self
            .tables
            .entry(write.table)
            .or_insert_with(|| Table::new(compacted));
        let previous = table.objects.get(&write.key).cloned();
        self.revision = revision;
        let (draft, deleted) = match write.change {
            Change::Put(draft) => (draft, false),
            Change::Delete(draft) => (draft, true),
        };
        // The key of a replaced object is shared, so an update allocates none.
        let key = previous
            .as_ref()
            .map_or(write.key, |previous| previous.key.clone());
        let object = Arc::new(Object::new(key.clone(), revision, draft));
        if deleted {
            table.objects.remove(&key);
        } else {
            table.objects.insert(key, Arc::clone(&object));
        }
        table.record(Event::new(revision, Arc::clone(&object), previous, deleted));
        table.trim(limits);
        object
    }
}

/// Whether an object of revision `found` (`None`: there is none) is what a write was decided on.
fn check(expected: Option<u64>, found: Option<u64>) -> Result<(), Refused> {
    match (expected, found) {
        (None, Some(_)) => Err(Refused::Exists),
        (Some(_), None) => Err(Refused::Missing),
        (Some(wanted), Some(found)) if wanted != found => Err(Refused::Modified(found)),
        (None, None) | (Some(_), Some(_)) => Ok(()),
    }
}

// === impl Event ===

impl Event {
    fn new(
        revision: u64,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
        deleted: bool,
    ) -> Self {
        let namespace_hash = hash(object.key.namespace());
        Self {
            revision,
            object,
            previous,
            deleted,
            namespace_hash,
        }
    }

    /// The change to somebody who sees only the objects that `matches` accepts, with the object to
    /// show; `None` if it is none to them. A deleted object is shown as it was last, one that left
    /// the selection as it was while it could be seen; both with this event's revision.
    pub fn seen(&self, matches: impl Fn(&Object) -> bool) -> Option<(Seen, &Arc<Object>)> {
        let before = self.previous.as_ref().filter(|object| matches(object));
        let now = (!self.deleted && matches(&self.object)).then_some(&self.object);
        match (before, now) {
            (None, None) => None,
            (None, Some(object)) => Some((Seen::Added, object)),
            (Some(_), Some(object)) => Some((Seen::Modified, object)),
            (Some(_), None) if self.deleted => Some((Seen::Deleted, &self.object)),
            (Some(before), None) => Some((Seen::Deleted, before)),
        }
    }
}

// === impl Seen ===

impl Seen {
    /// The `type` of a watch event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// FNV-1a: equal strings have equal hashes, and that is all that is asked.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn after(key: Option<&Key>) -> Bound<&str> {
    key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_str()))
}

type Log = VecDeque<Event>;
