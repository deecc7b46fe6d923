//! Endpoints that are given by a DNS name.
//!
//! [`Names`] is the pure half: which names are asked for when, and which addresses they stand for;
//! [`io`] asks. A name is asked again when its TTL ends, clamped to [`TTL_MIN`]..[`TTL_MAX`]. A
//! look-up that fails, also one that finds no such name or no address, changes nothing: the last
//! good answer stays, and the name is asked again after a growing delay. An address that is gone
//! from a good answer takes no new sessions; its live ones stay.
//!
//! Limits: [`LOOKUPS_MAX`] look-ups at a time, [`ADDRESSES_MAX`] addresses a name (the lowest ones,
//! so that every proxy keeps the same). Cost: O(log n) a name asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use fairlead_config::name::ServiceName;
use fairlead_runtime::clock::Tick;

use crate::{keyed_hash::KeyedHash, metrics::DnsResult};

pub mod io;

#[cfg(test)]
mod tests;

/// A host name, lower case and without a trailing dot.
pub type Host = Box<str>;

/// What a name server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Not empty.
    pub addresses: Vec<IpAddr>,
    /// The smallest of their records.
    pub ttl: Duration,
}

/// A look-up that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// What was asked for.
    pub host: Host,
    /// What was answered, or why nothing was.
    pub result: Result<Found, Failure>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such name, or it has no address.
    #[error("no such name, or no address for it")]
    NoName,
    /// No name server answered in time.
    #[error("no name server answered in time")]
    TimedOut,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The names in use.
#[derive(Debug)]
pub struct Names {
    names: BTreeMap<Host, Name>,
    hosts_of: BTreeMap<ServiceName, BTreeSet<Host>>,
    /// Names by when they are to be asked.
    due: BTreeSet<(Tick, Host)>,
    asking: usize,
    hash: KeyedHash,
}

#[derive(Debug)]
struct Name {
    services: BTreeSet<ServiceName>,
    /// Sorted; the last good answer's.
    addresses: Vec<IpAddr>,
    next: Next,
    failures: u32,
    answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    At(Tick),
    /// A look-up is under way.
    Asking,
}

// === impl Names ===

impl Names {
    /// None. The seed spreads the repeated look-ups of this process.
    pub fn new(seed: u64) -> Self {
        Self {
            names: BTreeMap::new(),
            hosts_of: BTreeMap::new(),
            due: BTreeSet::new(),
            asking: 0,
            hash: KeyedHash::new(seed),
        }
    }

    /// The names that the endpoints of a service have now; new ones are due at once, those that
    /// nobody uses any more are forgotten.
    pub fn set(&mut self, service: &ServiceName, hosts: BTreeSet<Host>, now: Tick) {
        let before = self.hosts_of.remove(service).unwrap_or_default();
        for gone in before.difference(&hosts) {
            self.release(gone, service);
        }
        for host in hosts.difference(&before) {
            let due = &mut self.due;
            let name = self.names.entry(host.clone()).or_insert_with(|| {
                due.insert((now, host.clone()));
                Name {
                    services: BTreeSet::new(),
                    addresses: Vec::new(),
                    next: Next::At(now),
                    failures: 0,
                    answered: false,
                }
            });
            name.services.insert(service.clone());
        }
        if !hosts.is_empty() {
            self.hosts_of.insert(service.clone(), hosts);
        }
    }

    /// The addresses that a name stands for.
    pub fn addresses(&self, host: &str) -> &[IpAddr] {
        self.names.get(host).map_or(&[], |name| &name.addresses)
    }

    /// The names to ask for now; each has to come back as [`Self::looked`].
    pub fn take_due(&mut self, now: Tick) -> Vec<Host> {
        let mut hosts = Vec::new();
        while self.asking < LOOKUPS_MAX
            && self.due.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, host)) = self.due.pop_first()
        {
            if let Some(name) = self.names.get_mut(&host) {
                name.next = Next::Asking;
                self.asking += 1;
                hosts.push(host);
            }
        }
        hosts
    }

    /// When [`Self::take_due`] has something; `None` also while as many look-ups as may be are
    /// under way.
    pub fn next_deadline(&self) -> Option<Tick> {
        let first = self.due.first().filter(|_| self.asking < LOOKUPS_MAX);
        first.map(|(at, _)| *at)
    }

    /// Names that were never answered for, in either way.
    pub fn unanswered(&self) -> usize {
        self.names.values().filter(|name| !name.answered).count()
    }

    /// A look-up came back. Returns the services whose endpoints differ now.
    pub fn looked(&mut self, looked: Looked, now: Tick) -> Vec<ServiceName> {
        self.asking = self.asking.saturating_sub(1);
        let Looked { host, result } = looked;
        let spread = self
            .hash
            .hash([now.0, host.len() as u64, self.asking as u64]);
        let Some(name) = self.names.get_mut(&host) else {
            // Nobody uses it any more.
            return Vec::new();
        };
        if name.next != Next::Asking {
            // It was forgotten and is used again since; that use asks for itself.
            return Vec::new();
        }
        name.answered = true;
        let (delay, differs) = match result {
            Ok(found) => {
                name.failures = 0;
                let ttl = found.ttl.clamp(TTL_MIN, TTL_MAX);
                (ttl, name.replace(found.addresses))
            }
            Err(_) => {
                let delay = RETRY_MIN
                    .saturating_mul(1 << name.failures.min(10))
                    .min(RETRY_MAX);
                name.failures += 1;
                // Up to a quarter less, so that names that failed together come apart.
                (
                    delay - delay.mul_f64((spread % 1024) as f64 / 4096.0),
                    false,
                )
            }
        };
        name.next = Next::At(now + delay);
        self.due.insert((now + delay, host));
        if differs {
            name.services.iter().cloned().collect()
        } else {
            Vec::new()
        }
    }

    fn release(&mut self, host: &str, service: &ServiceName) {
        let Some(name) = self.names.get_mut(host) else {
            return;
        };
        name.services.remove(service);
        if name.services.is_empty() {
            if let Next::At(at) = name.next {
                self.due.remove(&(at, host.into()));
            }
            self.names.remove(host);
        }
    }

    /// What must hold after each call; O(n), for tests.
    #[cfg(test)]
    fn check_invariants(&self) {
        let waiting: BTreeSet<_> = self
            .names
            .iter()
            .filter_map(|(host, name)| match name.next {
                Next::At(at) => Some((at, host.clone())),
                Next::Asking => None,
            })
            .collect();
        assert_eq!(waiting, self.due);
        for (host, name) in &self.names {
            assert!(!name.services.is_empty());
            for service in &name.services {
                assert!(self.hosts_of[service].contains(host));
            }
        }
        assert!(self.asking <= LOOKUPS_MAX);
    }
}

// === impl Name ===

impl Name {
    /// Whether the addresses differ now.
    fn replace(&mut self, mut addresses: Vec<IpAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        let differs = addresses != self.addresses;
        self.addresses = addresses;
        differs
    }
}

// === impl Failure ===

impl Looked {
    /// How it is counted.
    pub fn counted(&self) -> DnsResult {
        match &self.result {
            Ok(_) => DnsResult::Answered,
            Err(Failure::NoName) => DnsResult::NoName,
            Err(Failure::TimedOut) => DnsResult::TimedOut,
            Err(Failure::Other(_)) => DnsResult::Failed,
        }
    }
}

/// Shorter TTLs are taken for this: a name server is not a health check.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Longer TTLs are taken for this: a moved backend is found within minutes.
pub const TTL_MAX: Duration = Duration::from_secs(300);
/// The first delay after a failure; it doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest delay after a failure.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// Look-ups at a time.
pub const LOOKUPS_MAX: usize = 32;
/// Addresses of one name.
pub const ADDRESSES_MAX: usize = 256;
