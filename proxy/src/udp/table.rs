//! The flows of one thread: found by their ends, ordered for eviction, timed by a wheel.
//!
//! Two queues order them: those that no endpoint has answered, oldest first; and the others, by
//! when they were last known to be active. The second is kept lazily, so that a datagram costs it
//! nothing: a flow that turns out to have been active since it was queued goes to the back, and is
//! taken only if nobody who was looked at is idle for longer.
//! Everything is O(1); only a new flow may allocate.

use std::time::Duration;

use fairlead_runtime::clock::Tick;
use hashbrown::HashTable;

use crate::{
    keyed_hash::KeyedHash,
    tcp::{
        slab::{Key, Slab},
        wheel::Wheel,
    },
};

use super::{
    flow::{Ends, Flow},
    flows::World,
};

/// Flows by their ends.
pub(super) struct Table<W: World> {
    slab: Slab<Entry<W>>,
    by_ends: HashTable<Key>,
    hash: KeyedHash,
    wheel: Wheel,
    /// Waiting for their first answer.
    fresh: Queue,
    /// Answered.
    proven: Queue,
}

struct Entry<W: World> {
    flow: Flow<W>,
    queued: Tick,
    previous: Option<Key>,
    next: Option<Key>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Queue {
    front: Option<Key>,
    back: Option<Key>,
    len: usize,
}

// === impl Table ===

impl<W: World> Table<W> {
    pub(super) fn new(seed: u64, now: Tick) -> Self {
        Self {
            slab: Slab::new(),
            by_ends: HashTable::new(),
            hash: KeyedHash::new(seed),
            wheel: Wheel::new(now),
            fresh: Queue::default(),
            proven: Queue::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn find(&self, ends: &Ends) -> Option<Key> {
        let is_it = |key: &Key| {
            self.slab
                .get(*key)
                .is_some_and(|entry| entry.flow.ends == *ends)
        };
        self.by_ends
            .find(self.hash.hash(ends.words()), is_it)
            .copied()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Flow<W>> {
        self.slab.get_mut(key).map(|entry| &mut entry.flow)
    }

    /// The flow must not be in the table.
    pub(super) fn insert(&mut self, flow: Flow<W>, now: Tick) -> Key {
        let hash = self.hash.hash(flow.ends.words());
        let key = self.slab.insert_with(|_| Entry {
            flow,
            queued: now,
            previous: None,
            next: None,
        });
        let (slab, keyed) = (&self.slab, self.hash);
        self.by_ends.insert_unique(hash, key, |key| {
            let entry = slab.get(*key).expect("every key in the index is live");
            keyed.hash(entry.flow.ends.words())
        });
        self.push(key, now);
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Flow<W>> {
        self.unlink(key);
        self.wheel.disarm(key.index);
        let entry = self.slab.remove(key)?;
        let hash = self.hash.hash(entry.flow.ends.words());
        let found = self.by_ends.find_entry(hash, |other| *other == key);
        found.expect("every live flow is in the index").remove();
        Some(entry.flow)
    }

    /// Marks the flow as answered.
    pub(super) fn prove(&mut self, key: Key, now: Tick) {
        self.unlink(key);
        if let Some(flow) = self.get_mut(key) {
            flow.answered = true;
            self.push(key, now);
        }
    }

    /// Who has to go when there is no room. As long as no more than `waiting` flows wait for their
    /// first answer, that is the one that is idle for longest, if for `idle`; else, and beyond, the
    /// oldest that waits.
    pub(super) fn victim(&mut self, waiting: usize, idle: Duration, now: Tick) -> Option<Key> {
        if self.fresh.len > waiting {
            return self.fresh.front;
        }
        self.idlest(idle, now).or(self.fresh.front)
    }

    /// Any flow; for taking the table apart.
    pub(super) fn any(&self) -> Option<Key> {
        self.fresh.front.or(self.proven.front)
    }

    pub(super) fn each_mut(&mut self, mut each: impl FnMut(&mut Flow<W>)) {
        for index in 0..self.slab.bound() {
            if let Some(key) = self.slab.key_at(index)
                && let Some(flow) = self.get_mut(key)
            {
                each(flow);
            }
        }
    }

    pub(super) fn arm(&mut self, key: Key, at: Tick) {
        self.wheel.arm(key.index, at);
    }

    /// The flows whose timers may be due.
    pub(super) fn fire(&mut self, now: Tick, due: &mut Vec<u32>) {
        self.wheel.fire(now, due);
    }

    pub(super) fn key_at(&self, index: u32) -> Option<Key> {
        self.slab.key_at(index)
    }

    pub(super) fn wait(&self, now: Tick) -> Option<Duration> {
        self.wheel.wait(now)
    }

    /// The answered flow that is idle for longest and for `idle`, as far as [`LOOKS`] looks find it.
    fn idlest(&mut self, idle: Duration, now: Tick) -> Option<Key> {
        let mut idlest: Option<(Tick, Key)> = None;
        for _ in 0..LOOKS {
            let Some(key) = self.proven.front else { break };
            let entry = self.slab.get_mut(key).expect("queues link live flows");
            let (active, queued) = (entry.flow.active, entry.queued);
            if idlest.is_none_or(|(other, _)| active < other) {
                idlest = Some((active, key));
            }
            if active <= queued {
                break;
            }
            self.unlink(key);
            self.push(key, active);
        }
        let (active, key) = idlest?;
        (now - active >= idle).then_some(key)
    }

    /// Puts an unlinked flow at the back of the queue it belongs to.
    fn push(&mut self, key: Key, queued: Tick) {
        let Some(entry) = self.slab.get_mut(key) else {
            return;
        };
        let queue = if entry.flow.answered {
            &mut self.proven
        } else {
            &mut self.fresh
        };
        queue.len += 1;
        entry.queued = queued;
        entry.next = None;
        entry.previous = queue.back.replace(key);
        match entry.previous {
            None => queue.front = Some(key),
            Some(previous) => {
                let previous = self.slab.get_mut(previous);
                previous.expect("a queue links live flows").next = Some(key);
            }
        }
    }

    fn unlink(&mut self, key: Key) {
        let Some(entry) = self.slab.get_mut(key) else {
            return;
        };
        let (previous, next) = (entry.previous.take(), entry.next.take());
        let queue = if entry.flow.answered {
            &mut self.proven
        } else {
            &mut self.fresh
        };
        queue.len -= 1;
        match previous.and_then(|previous| self.slab.get_mut(previous)) {
            Some(previous) => previous.next = next,
            None => queue.front = next,
        }
        match next.and_then(|next| self.slab.get_mut(next)) {
            Some(next) => next.previous = previous,
            None => queue.back = previous,
        }
    }

    /// What must hold after each change; O(n), for tests.
    #[cfg(any(test, fuzzing))]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.by_ends.len(), self.slab.len());
        let mut linked = 0;
        for (queue, answered) in [(self.fresh, false), (self.proven, true)] {
            let (mut previous, mut at) = (None, queue.front);
            let before = linked;
            while let Some(key) = at {
                let entry = self.slab.get(key).expect("queues link live flows");
                assert_eq!(entry.flow.answered, answered);
                assert_eq!(entry.previous, previous);
                let (next, ends) = (entry.next, entry.flow.ends);
                assert_eq!(self.find(&ends), Some(key));
                (previous, at) = (Some(key), next);
                linked += 1;
            }
            assert_eq!(queue.back, previous);
            assert_eq!(queue.len, linked - before);
        }
        assert_eq!(linked, self.slab.len());
    }
}

/// Flows looked at for one that may be evicted, so that a newcomer costs O(1).
const LOOKS: usize = 8;
