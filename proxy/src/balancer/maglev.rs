//! By hash, from a table: one look for the usual pick, however many endpoints there are.
//!
//! Eisenbud et al., "Maglev" (NSDI 2016), with weights: endpoints take turns filling their next
//! free preferred slot, each as often as its weight says. The table is over the *configured* set, so
//! a change of health never rebuilds it: a key whose endpoint isn't eligible goes on to further slots
//! of its own sequence. It is built at the first pick (about 100 µs at 100 endpoints) and shared by
//! later views while the set and the weights stay the same.
//!
//! The size depends on the number of endpoints in steps: at most 16, 32, 64, 128, 1,638, 6,553 or
//! 100,000 of them, so that each has 64 slots or more up to 128. Inside a step a removed endpoint moves its
//! own keys and a few others; crossing one moves almost all. A table belongs to a member: 10,000
//! services of 100 endpoints, in one member or in four, cost 80 MB when each of them is used.

use std::sync::OnceLock;

use super::{
    hash::{GOLDEN, Identity, KeyHash, mix},
    pool::Pool,
    rendezvous,
};

/// A table that is built when it is first used.
#[derive(Debug)]
pub struct Maglev {
    /// Identity and weight of each configured endpoint.
    set: Box<[(Identity, u16)]>,
    slots: OnceLock<Slots>,
}

#[derive(Debug)]
enum Slots {
    Small(Box<[u8]>),
    Medium(Box<[u16]>),
    Large(Box<[u32]>),
}

/// Picks from the pool; `None` when nothing is eligible.
pub fn pick(pool: &Pool<'_>, table: &Maglev, key: KeyHash) -> Option<usize> {
    let slots = table.slots();
    let count = slots.len();
    if count == 0 {
        return None;
    }
    let mut word = key.0;
    for _ in 0..LOOKS_MAX {
        word = mix(word.wrapping_add(GOLDEN));
        let index = slots.at((((word >> 32) * count as u64) >> 32) as usize);
        let score = key.score(pool.entries()[index].state.identity);
        if pool.is_eligible(index) && rendezvous::takes(score, pool.ramp(index)) {
            return Some(index);
        }
    }
    rendezvous::pick(pool, key)
}

impl Maglev {
    /// A table of these endpoints, in the order of the member's list; weights are not 0.
    pub fn new(set: Box<[(Identity, u16)]>) -> Self {
        Self {
            set,
            slots: OnceLock::new(),
        }
    }

    /// Whether it is the table of this set.
    pub fn is_of(&self, set: &[(Identity, u16)]) -> bool {
        *self.set == *set
    }

    /// The bytes that its slots take now.
    pub fn bytes(&self) -> usize {
        match self.slots.get() {
            None => 0,
            Some(Slots::Small(slots)) => slots.len(),
            Some(Slots::Medium(slots)) => slots.len() * 2,
            Some(Slots::Large(slots)) => slots.len() * 4,
        }
    }

    /// The endpoint in a slot, for tests and explanations.
    pub fn slot(&self, slot: usize) -> usize {
        self.slots().at(slot)
    }

    /// Slots in all.
    pub fn len(&self) -> usize {
        table_size(self.set.len())
    }

    /// Whether there are no endpoints.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    fn slots(&self) -> &Slots {
        self.slots.get_or_init(|| {
            let owners = populate(&self.set);
            match self.set.len() {
                0..=256 => Slots::Small(owners.iter().map(|&owner| owner as u8).collect()),
                257..=65_536 => Slots::Medium(owners.iter().map(|&owner| owner as u16).collect()),
                _ => Slots::Large(owners.into()),
            }
        })
    }
}

impl Slots {
    fn len(&self) -> usize {
        match self {
            Self::Small(slots) => slots.len(),
            Self::Medium(slots) => slots.len(),
            Self::Large(slots) => slots.len(),
        }
    }

    fn at(&self, slot: usize) -> usize {
        match self {
            Self::Small(slots) => slots[slot].into(),
            Self::Medium(slots) => slots[slot].into(),
            Self::Large(slots) => slots[slot] as usize,
        }
    }
}

/// Fills the slots: in rounds, each endpoint earns its weight and takes a slot for each heaviest weight
/// earned, in the order of identities so that the order of the list doesn't matter.
fn populate(set: &[(Identity, u16)]) -> Vec<u32> {
    let size = table_size(set.len());
    let mut owners = vec![FREE; size];
    let mut order: Vec<u32> = (0..set.len() as u32).collect();
    order.sort_unstable_by_key(|&index| set[index as usize].0);
    let heaviest = set
        .iter()
        .map(|&(_, weight)| u32::from(weight))
        .max()
        .unwrap_or(1);
    let mut walks: Vec<Walk> = order
        .iter()
        .map(|&index| Walk::new(index, set[index as usize], size as u64))
        .collect();
    let mut free = size;
    while free > 0 {
        for walk in &mut walks {
            walk.earned += walk.weight;
            if walk.earned < heaviest {
                continue;
            }
            walk.earned -= heaviest;
            let slot = walk.next_free(&owners);
            owners[slot] = walk.index;
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    owners
}

/// One endpoint's way through the table.
struct Walk {
    index: u32,
    weight: u32,
    earned: u32,
    slot: u64,
    skip: u64,
    size: u64,
}

impl Walk {
    fn new(index: u32, (identity, weight): (Identity, u16), size: u64) -> Self {
        Self {
            index,
            weight: u32::from(weight),
            earned: 0,
            slot: mix(identity.0) % size,
            skip: mix(identity.0 ^ GOLDEN) % (size - 1) + 1,
            size,
        }
    }

    // The size is prime, so the walk comes by every slot; one is free.
    fn next_free(&mut self, owners: &[u32]) -> usize {
        while owners[self.slot as usize] != FREE {
            self.slot = (self.slot + self.skip) % self.size;
        }
        self.slot as usize
    }
}

/// Slots for so many endpoints: a prime.
fn table_size(endpoints: usize) -> usize {
    match endpoints {
        0 => 0,
        1..=16 => 1_021,
        17..=32 => 2_039,
        33..=64 => 4_093,
        65..=128 => 8_191,
        129..=1_638 => 16_381,
        1_639..=6_553 => 65_521,
        _ => 1_048_573,
    }
}

/// No owner yet; more than there may be endpoints.
const FREE: u32 = u32::MAX;
/// Slots looked at before all endpoints are gone through; only a member in ruins needs it.
const LOOKS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn set(weights: &[u16]) -> Box<[(Identity, u16)]> {
        let identities = (1u64..).map(|number| Identity(mix(number)));
        identities.zip(weights.iter().copied()).collect()
    }

    fn shares(weights: &[u16]) -> Vec<usize> {
        let table = Maglev::new(set(weights));
        let mut counts = vec![0; weights.len()];
        (0..table.len()).for_each(|slot| counts[table.slot(slot)] += 1);
        counts
    }

    #[test]
    fn equal_endpoints_have_the_same_number_of_slots_but_for_one() {
        for count in [1, 2, 16, 17, 33, 100, 129, 300, 2000] {
            let counts = shares(&vec![7; count]);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{least} to {most} at {count}");
        }
    }

    #[test]
    fn slots_follow_the_weights() {
        let counts = shares(&[1, 2, 3, 10]);
        for (found, weight) in counts.iter().zip([1, 2, 3, 10]) {
            let expected = 1021 * weight / 16;
            assert!(found.abs_diff(expected) <= 4, "{found} for {expected}");
        }
    }

    #[test]
    fn sizes_are_primes_and_leave_every_endpoint_slots() {
        for count in [
            1, 16, 17, 32, 33, 64, 65, 128, 129, 1_638, 1_639, 6_553, 6_554, 100_000,
        ] {
            let size = table_size(count);
            assert!(
                (2..)
                    .take_while(|divisor| divisor * divisor <= size)
                    .all(|divisor| !size.is_multiple_of(divisor))
            );
            assert!(size / count >= 9, "{size} for {count}");
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let one = set(&[1, 2, 3, 4, 5]);
        let mut other = one.clone();
        other.reverse();
        let (one, other) = (Maglev::new(one), Maglev::new(other));
        assert!((0..one.len()).all(|slot| one.slot(slot) == 4 - other.slot(slot)));
    }

    #[test]
    fn a_table_takes_a_byte_a_slot_for_up_to_256_endpoints_once_it_is_used() {
        let table = Maglev::new(set(&[1; 100]));
        assert_eq!(table.bytes(), 0);
        table.slot(0);
        assert_eq!(table.bytes(), 8_191);
    }
}
