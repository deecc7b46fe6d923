//! What single clients have taken, in a table of fixed size.
//!
//! Eight entries a bucket; a client's bucket is fixed by a keyed hash. An entry is free for others
//! once its client has nothing live and its rate has recovered. Where all eight are busy, the one
//! that is nearest to that and has nothing live is forgotten; where all eight have something live,
//! the new client isn't tracked. Both are counted.

use std::net::IpAddr;

use fairlead_runtime::clock::Tick;
use parking_lot::Mutex;

use super::{interval_nanos, next_full};
use crate::{access_log::Reason, keyed_hash::KeyedHash};

/// See the module.
#[derive(Debug)]
pub struct ClientTable {
    stripes: Box<[Mutex<Box<[Bucket]>>]>,
    hash: KeyedHash,
}

/// A client: an IPv4 address or an IPv6 /64, which is what one customer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey(u64);

/// How a place was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Counted for its client.
    Counted,
    /// Counted, and another client was forgotten for it.
    Forgetting,
    /// Not counted: every entry of its bucket has something live.
    NoRoom,
}

type Bucket = [Entry; WAYS];

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Meaningless in an entry that is idle.
    key: u64,
    full_at: u64,
    live: u32,
}

// === impl ClientKey ===

impl ClientKey {
    /// The client with this address.
    pub fn new(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            // No prefix beginning with these bits is assigned.
            IpAddr::V4(ip) => Self(0x0000_ffff_0000_0000 | u64::from(ip.to_bits())),
            IpAddr::V6(ip) => Self((ip.to_bits() >> 64) as u64),
        }
    }
}

// === impl ClientTable ===

impl ClientTable {
    /// Empty; takes [`CLIENTS_MAX`] × 24 bytes.
    pub fn new(seed: u64) -> Self {
        let buckets = CLIENTS_MAX / WAYS / STRIPES;
        Self {
            stripes: (0..STRIPES)
                .map(|_| Mutex::new(vec![Bucket::default(); buckets].into()))
                .collect(),
            hash: KeyedHash::new(seed),
        }
    }

    /// Takes a place for `key`, if it is below both limits and `also` agrees; nothing is taken
    /// otherwise.
    pub(super) fn take(
        &self,
        key: ClientKey,
        live_max: Option<u32>,
        rate_max: Option<u32>,
        now: Tick,
        also: impl FnOnce() -> Result<(), Reason>,
    ) -> Result<Taken, Reason> {
        let mut stripe = self.stripe(key).lock();
        let bucket = self.bucket(&mut stripe, key);
        let Some((entry, forgets)) = find(bucket, key, now) else {
            drop(stripe);
            also()?;
            return Ok(Taken::NoRoom);
        };
        let mut next = *entry;
        if next.key != key.0 || next.is_idle(now) {
            next = Entry {
                key: key.0,
                ..Entry::default()
            };
        }
        if live_max.is_some_and(|max| next.live >= max) {
            return Err(Reason::LimitConnectionsPerClient);
        }
        if let Some(rate) = rate_max {
            next.full_at = next_full(next.full_at, interval_nanos(rate), rate, now)
                .ok_or(Reason::LimitRatePerClient)?;
        }
        also()?;
        next.live += 1;
        *entry = next;
        Ok(if forgets {
            Taken::Forgetting
        } else {
            Taken::Counted
        })
    }

    /// Gives back what [`Self::take`] counted. The entry is there: one with something live is never
    /// reused.
    pub(super) fn give_back(&self, key: ClientKey) {
        let mut stripe = self.stripe(key).lock();
        let bucket = self.bucket(&mut stripe, key);
        let counted = |entry: &&mut Entry| entry.key == key.0 && entry.live > 0;
        if let Some(entry) = bucket.iter_mut().find(counted) {
            entry.live -= 1;
        }
    }

    fn stripe(&self, key: ClientKey) -> &Mutex<Box<[Bucket]>> {
        &self.stripes[(self.hash(key) >> 32) as usize % STRIPES]
    }

    fn bucket<'a>(&self, stripe: &'a mut [Bucket], key: ClientKey) -> &'a mut Bucket {
        let at = (self.hash(key) as u32) as usize % stripe.len();
        &mut stripe[at]
    }

    fn hash(&self, key: ClientKey) -> u64 {
        self.hash.hash([key.0])
    }
}

// === impl Entry ===

impl Entry {
    fn is_idle(&self, now: Tick) -> bool {
        self.live == 0 && self.full_at <= now.0
    }
}

/// The client's entry, or an idle one, or the least busy one without anything live; and whether
/// that makes the table forget somebody.
fn find(bucket: &mut Bucket, key: ClientKey, now: Tick) -> Option<(&mut Entry, bool)> {
    let own = bucket
        .iter()
        .position(|entry| entry.key == key.0 && !entry.is_idle(now));
    let at = own.or_else(|| bucket.iter().position(|entry| entry.is_idle(now)));
    if let Some(at) = at {
        return Some((&mut bucket[at], false));
    }
    let unused = bucket.iter_mut().filter(|entry| entry.live == 0);
    let least = unused.min_by_key(|entry| entry.full_at)?;
    *least = Entry::default();
    Some((least, true))
}

/// Clients that can be active at a time: more than a process with 20,000 descriptors has sessions
/// for, in 768 KiB.
pub const CLIENTS_MAX: usize = 32 * 1024;

const WAYS: usize = 8;
const STRIPES: usize = 256;
