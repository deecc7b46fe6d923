//! Sessions by number.
//!
//! Grows by whole chunks, so that a session never moves and growth never copies the live ones.
//! Each slot counts its uses: a key of an earlier use finds nothing, and so an event for a socket
//! that was closed earlier in the same batch does no harm. Everything is O(1).

/// Where a value stands, and which use of that slot it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub(crate) index: u32,
    /// Wraps after 16 million uses of one slot.
    pub(crate) generation: u32,
}

/// Values by [`Key`].
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

// === impl Slab ===

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One more than the largest index in use so far.
    pub(crate) fn bound(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).expect("fds run out long before")
    }

    /// Stores what `make` returns for its key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot(index).expect("a free index has a slot");
        let key = Key {
            index,
            generation: slot.generation,
        };
        let value = make(key);
        slot.value = Some(value);
        let next = slot.next_free;
        self.free = next;
        self.len += 1;
        key
    }

    /// The value, unless it was removed.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.chunks.get(key.index as usize / CHUNK)?;
        let slot = &slot[key.index as usize % CHUNK];
        let value = slot.value.as_ref()?;
        (slot.generation == key.generation).then_some(value)
    }

    /// The value to change, unless it was removed.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slot(key.index)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.value.as_mut()
    }

    /// The key of the value at `index`, if there is one.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        let slot = self.chunks.get(index as usize / CHUNK)?;
        let slot = &slot[index as usize % CHUNK];
        slot.value.as_ref().map(|_| Key {
            index,
            generation: slot.generation,
        })
    }

    /// Takes the value out; its key finds nothing from now on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let free = self.free;
        let slot = self.slot(key.index)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        slot.next_free = free;
        self.free = key.index;
        self.len -= 1;
        Some(value)
    }

    fn slot(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        Some(&mut chunk[index as usize % CHUNK])
    }

    fn grow(&mut self) {
        let first = self.bound();
        let last = first + u32::try_from(CHUNK).expect("a chunk is small") - 1;
        let chunk = (first..=last).map(|index| Slot {
            generation: 0,
            next_free: if index == last { NONE } else { index + 1 },
            value: None,
        });
        self.chunks.push(chunk.collect());
        self.free = first;
    }
}

/// 64 sessions of some 300 bytes: growth costs one allocation of about 20 kB.
const CHUNK: usize = 64;
const NONE: u32 = u32::MAX;
/// Generations share a 64-bit token with the index and one byte of meaning.
pub(crate) const GENERATION_MASK: u32 = 0x00ff_ffff;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_as_a_map_whose_keys_are_never_used_twice(
            steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 0..400)
        ) {
            let mut slab = Slab::new();
            let mut model = BTreeMap::new();
            let mut gone: Vec<Key> = Vec::new();
            for (insert, value) in steps {
                if insert || model.is_empty() {
                    let key = slab.insert_with(|_| value);
                    prop_assert!(model.insert((key.index, key.generation), value).is_none());
                } else {
                    let nth = value as usize % model.len();
                    let (index, generation) = *model.keys().nth(nth).expect("below its length");
                    let key = Key { index, generation };
                    prop_assert_eq!(slab.remove(key), model.remove(&(index, generation)));
                    gone.push(key);
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            for ((index, generation), mut value) in model {
                let key = Key { index, generation };
                prop_assert_eq!(slab.get_mut(key), Some(&mut value));
                prop_assert_eq!(slab.key_at(index), Some(key));
            }
            for key in gone {
                prop_assert!(slab.get_mut(key).is_none());
                prop_assert!(slab.remove(key).is_none());
            }
        }
    }
}
