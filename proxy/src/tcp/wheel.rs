//! Deadlines of many sessions, at O(1) each.
//!
//! One entry a session, linked through an array beside the slab, so that arming and disarming
//! allocate nothing. An entry fires at most 4 ms late and may fire *early*: whoever it belongs to
//! looks at its own deadlines and arms it again if none is due. That makes a read or a write free:
//! it only notes when it happened.
//!
//! Near deadlines (a second) have slots of 4 ms; far ones (4 minutes) have slots of a second, of
//! which the beginning fires. What is further off fires at the far end.

use std::time::Duration;

use fairlead_runtime::clock::Tick;

/// The deadlines of one data thread.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Heads of the lists: near slots, then far slots.
    heads: Box<[u32]>,
    links: Vec<Link>,
    near_used: [u64; SLOTS / 64],
    far_used: [u64; SLOTS / 64],
    /// The near slot, counted since the start, up to which everything has fired.
    fired: u64,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    /// Index into `heads`, or [`NONE`].
    slot: u32,
}

// === impl Wheel ===

impl Wheel {
    /// Empty, at `now`.
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            heads: vec![NONE; 2 * SLOTS].into_boxed_slice(),
            links: Vec::new(),
            near_used: [0; SLOTS / 64],
            far_used: [0; SLOTS / 64],
            fired: near_slot(now),
        }
    }

    /// Arms `index` for `at`, instead of what it was armed for.
    pub(crate) fn arm(&mut self, index: u32, at: Tick) {
        self.disarm(index);
        let near = at.0.div_ceil(NEAR_NANOS).max(self.fired + 1);
        let far = near / SLOTS_WIDE;
        let fired_far = self.fired / SLOTS_WIDE;
        let slot = if near - self.fired < SLOTS_WIDE {
            (near % SLOTS_WIDE) as usize
        } else {
            let far = far.min(fired_far + SLOTS_WIDE - 1);
            SLOTS + (far % SLOTS_WIDE) as usize
        };
        self.link(index, slot);
    }

    /// Disarms `index`, if it is armed.
    pub(crate) fn disarm(&mut self, index: u32) {
        let Some(link) = self.links.get(index as usize).copied() else {
            return;
        };
        if link.slot == NONE {
            return;
        }
        if link.previous == NONE {
            self.heads[link.slot as usize] = link.next;
        } else {
            self.links[link.previous as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        if self.heads[link.slot as usize] == NONE {
            self.mark(link.slot as usize, false);
        }
        self.links[index as usize].slot = NONE;
    }

    /// Disarms every index whose time has come and appends it to `due`.
    pub(crate) fn fire(&mut self, now: Tick, due: &mut Vec<u32>) {
        let target = near_slot(now);
        while self.fired < target {
            let Some(next) = self.next_used(target) else {
                self.fired = target;
                return;
            };
            self.fired = next;
            if next.is_multiple_of(SLOTS_WIDE) {
                self.take(SLOTS + ((next / SLOTS_WIDE) % SLOTS_WIDE) as usize, due);
            }
            self.take((next % SLOTS_WIDE) as usize, due);
        }
    }

    /// How long the wheel can be left alone; `None` when nothing is armed.
    pub(crate) fn wait(&self, now: Tick) -> Option<Duration> {
        let next = self.next_used(u64::MAX)?;
        Some(Tick(next.saturating_mul(NEAR_NANOS)) - now)
    }

    /// The first slot after `fired`, not after `limit`, at which something may fire.
    fn next_used(&self, limit: u64) -> Option<u64> {
        let near =
            first_after(&self.near_used, self.fired % SLOTS_WIDE).map(|ahead| self.fired + ahead);
        let far_now = self.fired / SLOTS_WIDE;
        let far = first_after(&self.far_used, far_now % SLOTS_WIDE)
            .map(|ahead| (far_now + ahead) * SLOTS_WIDE);
        let next = match (near, far) {
            (Some(near), Some(far)) => near.min(far),
            (near, far) => near.or(far)?,
        };
        (next <= limit).then_some(next)
    }

    fn take(&mut self, slot: usize, due: &mut Vec<u32>) {
        let mut index = std::mem::replace(&mut self.heads[slot], NONE);
        self.mark(slot, false);
        while index != NONE {
            let link = &mut self.links[index as usize];
            link.slot = NONE;
            due.push(index);
            index = link.next;
        }
    }

    fn link(&mut self, index: u32, slot: usize) {
        let position = index as usize;
        if position >= self.links.len() {
            self.links.resize(position + 1, UNLINKED);
        }
        let next = std::mem::replace(&mut self.heads[slot], index);
        if next != NONE {
            self.links[next as usize].previous = index;
        }
        self.links[position] = Link {
            previous: NONE,
            next,
            slot: u32::try_from(slot).expect("there are 512 slots"),
        };
        self.mark(slot, true);
    }

    fn mark(&mut self, slot: usize, used: bool) {
        let map = if slot < SLOTS {
            &mut self.near_used
        } else {
            &mut self.far_used
        };
        let bit = 1 << (slot % 64);
        let word = &mut map[slot % SLOTS / 64];
        *word = if used { *word | bit } else { *word & !bit };
    }
}

/// How far after `position` the next bit is set, 1 to 256, going round.
fn first_after(map: &[u64; SLOTS / 64], position: u64) -> Option<u64> {
    let start = (position + 1) % SLOTS_WIDE;
    for step in 0..=map.len() as u64 {
        let word = (start / 64 + step) % map.len() as u64;
        let mut bits = map[word as usize];
        if step == 0 {
            bits &= u64::MAX << (start % 64);
        }
        if bits != 0 {
            let found = word * 64 + u64::from(bits.trailing_zeros());
            return Some((found + SLOTS_WIDE - start) % SLOTS_WIDE + 1);
        }
    }
    None
}

fn near_slot(at: Tick) -> u64 {
    at.0 / NEAR_NANOS
}

const SLOTS: usize = 256;
const SLOTS_WIDE: u64 = SLOTS as u64;
/// Hedges are timed from 20 ms up: 4 ms keep them within a fifth.
const NEAR_NANOS: u64 = 4_000_000;
const NONE: u32 = u32::MAX;
const UNLINKED: Link = Link {
    previous: NONE,
    next: NONE,
    slot: NONE,
};

#[cfg(test)]
mod tests;
