//! One resource's objects and the log of their recent changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::watcher::{Scope, Slot};
use super::{Event, Key, Limits, Listing, Log, Object, Range, after};

#[derive(Debug)]
pub(super) struct Table {
    pub(super) objects: BTreeMap<Key, Arc<Object>>,
    pub(super) log: Log,
    /// Size of the objects that only the log keeps alive.
    log_bytes: usize,
    /// Changes up to here are no longer in the log.
    pub(super) floor: u64,
    /// The revision of the last change.
    pub(super) last: u64,
    slots: HashMap<Scope, Arc<Slot>>,
}

impl Table {
    pub(super) fn new(floor: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            log: Log::new(),
            log_bytes: 0,
            floor,
            last: 0,
            slots: HashMap::new(),
        }
    }

    /// Adds a change to the log and wakes whom it concerns.
    pub(super) fn record(&mut self, event: Event) {
        self.last = event.revision;
        self.log_bytes += held(&event);
        self.each_slot(&event, |slot| slot.notify.notify_waiters());
        self.log.push_back(event);
    }

    pub(super) fn trim(&mut self, limits: &Limits) {
        while self.log.len() > limits.history_events_max
            || self.log_bytes > limits.history_bytes_max
        {
            self.forget_oldest();
        }
    }

    pub(super) fn trim_through(&mut self, revision: u64) {
        while self
            .log
            .front()
            .is_some_and(|event| event.revision <= revision)
        {
            self.forget_oldest();
        }
        self.floor = self.floor.max(revision);
    }

    /// The slot of a scope, made when it is the first watcher's.
    pub(super) fn slot(&mut self, scope: &Scope) -> Arc<Slot> {
        let slot = self.slots.entry(scope.clone()).or_default();
        slot.watchers.fetch_add(1, Ordering::Relaxed);
        Arc::clone(slot)
    }

    /// Scopes that somebody watches.
    #[cfg(test)]
    pub(super) fn scopes(&self) -> usize {
        self.slots.len()
    }

    /// A watcher of that scope is gone.
    pub(super) fn release(&mut self, scope: &Scope) {
        if let Some(slot) = self.slots.get(scope)
            && slot.watchers.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.slots.remove(scope);
        }
    }

    /// The part of the log after a revision.
    pub(super) fn after(&self, revision: u64) -> impl Iterator<Item = &Event> {
        let start = self.log.partition_point(|event| event.revision <= revision);
        self.log.range(start..)
    }

    /// What the keys that changed since a revision held at that revision.
    pub(super) fn changes_since(&self, revision: u64) -> BTreeMap<Key, Option<Arc<Object>>> {
        let mut past = BTreeMap::new();
        for event in self.after(revision) {
            past.entry(event.object.key.clone())
                .or_insert_with(|| event.previous.clone());
        }
        past
    }

    /// Lists the present state, overlaid by what `past` says of some keys.
    pub(super) fn list(
        &self,
        range: &Range,
        past: &BTreeMap<Key, Option<Arc<Object>>>,
        revision: u64,
        matches: &dyn Fn(&Object) -> bool,
    ) -> Listing {
        let prefix = range
            .namespace
            .as_ref()
            .map(|namespace| format!("{namespace}/"));
        if let Some(name) = &range.name {
            let key = Key::new(range.namespace.as_deref().unwrap_or_default(), name);
            let found = match past.get(&key) {
                Some(then) => then.as_ref(),
                None => self.objects.get(&key),
            };
            let is_left = range.after.as_ref().is_none_or(|after| key > *after);
            let objects = found
                .filter(|object| is_left && matches(object))
                .cloned()
                .into_iter()
                .collect();
            return Listing {
                objects,
                revision,
                remaining: 0,
            };
        }
        let start = match (&prefix, &range.after) {
            (Some(prefix), None) => std::ops::Bound::Included(prefix.as_str()),
            (_, key) => after(key.as_ref()),
        };
        let bounds = (start, std::ops::Bound::Unbounded);
        let within = |key: &Key| prefix.as_ref().is_none_or(|p| key.as_str().starts_with(p));
        let present = self
            .objects
            .range::<str, _>(bounds)
            .take_while(|(key, _)| within(key))
            .filter(|(key, _)| !past.contains_key(*key));
        let then = past
            .range::<str, _>(bounds)
            .take_while(|(key, _)| within(key))
            .filter_map(|(key, object)| Some((key, object.as_ref()?)));
        collect(merge(present, then), range.limit, revision, matches)
    }

    fn forget_oldest(&mut self) {
        let Some(event) = self.log.pop_front() else {
            return;
        };
        self.log_bytes -= held(&event);
        self.floor = self.floor.max(event.revision);
        self.each_slot(&event, |slot| {
            slot.trimmed.store(event.revision, Ordering::Relaxed);
            slot.notify.notify_waiters();
        });
    }

    fn each_slot(&self, event: &Event, act: impl Fn(&Slot)) {
        if self.slots.is_empty() {
            return;
        }
        let key = &event.object.key;
        for scope in Scope::touched_by(key) {
            if let Some(slot) = self.slots.get(&scope) {
                act(slot);
            }
        }
    }
}

/// What the log alone keeps in memory: the superseded object, or a deleted one's last state.
fn held(event: &Event) -> usize {
    let last = if event.deleted {
        event.object.size()
    } else {
        0
    };
    last + event
        .previous
        .as_ref()
        .map_or(0, |previous| previous.size())
}

fn collect<'a>(
    mut found: impl Iterator<Item = (&'a Key, &'a Arc<Object>)>,
    limit: Option<usize>,
    revision: u64,
    matches: &dyn Fn(&Object) -> bool,
) -> Listing {
    let mut objects = Vec::new();
    for (_, object) in found.by_ref() {
        if matches(object) {
            objects.push(Arc::clone(object));
            if Some(objects.len()) == limit {
                break;
            }
        }
    }
    let remaining = if limit.is_some() { found.count() } else { 0 };
    Listing {
        objects,
        revision,
        remaining,
    }
}

/// Two sorted iterators without common keys as one.
fn merge<'a, V: 'a>(
    left: impl Iterator<Item = (&'a Key, V)>,
    right: impl Iterator<Item = (&'a Key, V)>,
) -> impl Iterator<Item = (&'a Key, V)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some((a, _)), Some((b, _))) if b < a => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
