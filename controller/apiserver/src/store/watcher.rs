//! Positions in the history: watchers of one table, feeds of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::table::Table;
use super::{Event, Key, Lost, Shared, hash};

/// Which objects of a table a watcher wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    All,
    Namespace(Arc<str>),
    One(Key),
}

/// What the watchers of one scope share.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) notify: Notify,
    /// The last change of this scope that was dropped from the log.
    pub(super) trimmed: AtomicU64,
    pub(super) watchers: AtomicUsize,
}

/// A position in one table's history. Dropping it costs the store nothing more.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    table: Arc<str>,
    scope: Scope,
    slot: Arc<Slot>,
    position: u64,
}

/// Some changes, and the revision up to which there are no others in the scope.
#[derive(Debug)]
pub struct Batch {
    pub events: Vec<Event>,
    pub through: u64,
}

/// A position in the history of all tables.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    position: u64,
}

/// Changes handed over at once: bounds the time under the lock and the memory of a slow reader.
const BATCH_EVENTS_MAX: usize = 256;

// === impl Scope ===

impl Scope {
    pub fn new(namespace: &str, name: Option<&str>) -> Self {
        match name {
            Some(name) => Self::One(Key::new(namespace, name)),
            None if namespace.is_empty() => Self::All,
            None => Self::Namespace(Arc::from(namespace)),
        }
    }

    pub(super) fn touched_by(key: &Key) -> impl Iterator<Item = Self> {
        let namespace = key.namespace();
        let within = (!namespace.is_empty()).then(|| Self::Namespace(Arc::from(namespace)));
        [Self::All, Self::One(key.clone())]
            .into_iter()
            .chain(within)
    }

    fn hash(&self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Namespace(namespace) => Some(hash(namespace)),
            Self::One(key) => Some(hash(key.namespace())),
        }
    }

    fn contains(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => key.namespace() == &**namespace,
            Self::One(one) => key == one,
        }
    }
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        table: Arc<str>,
        scope: Scope,
        slot: Arc<Slot>,
        position: u64,
    ) -> Self {
        Self {
            shared,
            table,
            scope,
            slot,
            position,
        }
    }

    /// The changes since the last call, oldest first, without waiting.
    pub fn take(&mut self) -> Result<Batch, Lost> {
        let state = self.shared.state.read();
        let floor = self.slot.trimmed.load(Ordering::Relaxed);
        if self.position < floor {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return Err(Lost {
                asked: self.position,
                floor,
            });
        }
        let mut events = Vec::new();
        let mut through = state.revision;
        let wanted_hash = self.scope.hash();
        for event in state
            .tables
            .get(&self.table)
            .into_iter()
            .flat_map(|t| t.after(self.position))
        {
            let maybe = wanted_hash.is_none_or(|hash| hash == event.namespace_hash);
            if !maybe || !self.scope.contains(&event.object.key) {
                continue;
            }
            if events.len() == BATCH_EVENTS_MAX {
                through = events.last().map_or(through, |last: &Event| last.revision);
                break;
            }
            events.push(event.clone());
        }
        // A watcher may start at a revision that the store has yet to reach.
        self.position = self.position.max(through);
        Ok(Batch {
            events,
            through: self.position,
        })
    }

    /// The next changes; waits for at least one.
    pub async fn next(&mut self) -> Result<Batch, Lost> {
        let slot = Arc::clone(&self.slot);
        loop {
            let mut woken = std::pin::pin!(slot.notify.notified());
            woken.as_mut().enable();
            let batch = self.take()?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            woken.await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.shared.state.write();
        if let Some(table) = state.tables.get_mut(&self.table) {
            table.release(&self.scope);
        }
    }
}

// === impl Feed ===

impl Feed {
    pub(super) fn new(shared: Arc<Shared>, position: u64) -> Self {
        Self { shared, position }
    }

    /// The next changes of all tables in the order of their revisions, each with its table; waits
    /// for at least one. After [`Lost`] the reader must list again and take a new feed.
    pub async fn next(&mut self) -> Result<Vec<(Arc<str>, Event)>, Lost> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut woken = std::pin::pin!(shared.changed.notified());
            woken.as_mut().enable();
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            woken.await;
        }
    }

    /// All changes up to this revision were handed over.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// As [`Self::next`], without waiting.
    pub fn take(&mut self) -> Result<Vec<(Arc<str>, Event)>, Lost> {
        let state = self.shared.state.read();
        let changed = |table: &Table| table.last > self.position;
        let mut events = Vec::new();
        for (name, table) in state.tables.iter().filter(|(_, table)| changed(table)) {
            if table.floor > self.position {
                return Err(Lost {
                    asked: self.position,
                    floor: table.floor,
                });
            }
            let later = table.after(self.position).take(BATCH_EVENTS_MAX);
            events.extend(later.map(|event| (Arc::clone(name), event.clone())));
        }
        events.sort_by_key(|(_, event)| event.revision);
        // Each table gave its first changes only: what lies after the end of a full batch waits.
        events.truncate(BATCH_EVENTS_MAX);
        let full = events.len() == BATCH_EVENTS_MAX;
        self.position = match events.last() {
            Some((_, last)) if full => last.revision,
            _ => state.revision,
        };
        Ok(events)
    }
}
