//! Which sockets to listen on, and on which thread.
//!
//! [`plan`] is pure: addresses, threads and a [`Budget`] of descriptors in, one [`Planned`] an address
//! out. An address gets a listener on every thread (the kernel spreads connections over them)
//! while a quarter of the process's files lasts; after that a single one, whose thread hands
//! connections on, up to five eighths. Flows have a quarter, so an eighth is left for sessions in any
//! case: of 20,000 files, 12,500 for listeners, 5,000 for flows and 2,500 for sessions, two each. The
//! [`io`] half binds.

use std::{collections::BTreeMap, net::SocketAddr};

use fairlead_config::{frontend::Protocol, name::FrontendName};

pub mod io;
pub(crate) mod ports;

#[cfg(test)]
mod tests;

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bind {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where.
    pub addr: SocketAddr,
}

/// How an address is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// On which threads.
    pub spread: Spread,
    /// Who asked for it, the first one first.
    pub asked_by: FrontendName,
}

/// The threads of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// A socket each.
    Every,
    /// One socket on this thread.
    One(usize),
}

/// What is to be listened on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// By address.
    pub binds: BTreeMap<Bind, Planned>,
    /// Addresses beyond the budget, with who asked for them.
    pub refused: Vec<(Bind, FrontendName)>,
}

/// How many listening sockets there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// In all, where addresses have one on every thread.
    pub spread: usize,
    /// In all, where an address has but one.
    pub most: usize,
    /// The limit of open files that this is a part of.
    pub files: usize,
}

/// What is listened on already, which a plan leaves as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Addresses.
    pub addresses: usize,
    /// Sockets, of which an address may have several.
    pub sockets: usize,
}

/// Plans sockets at the addresses `asked` for, beside those that are `held`. Costs O(n log n) of the
/// addresses asked for; the same input gives the same plan.
pub fn plan(
    asked: BTreeMap<Bind, FrontendName>,
    held: Held,
    threads: usize,
    budget: Budget,
) -> Plan {
    // What is left over when each has one goes to the first ones.
    let mut extra = budget.spread.saturating_sub(held.sockets + asked.len());
    let per_spread = threads.max(1) - 1;
    let mut plan = Plan::default();
    let mut room = budget.most.saturating_sub(held.sockets);
    for (place, (bind, asked_by)) in (held.addresses..).zip(asked) {
        if room == 0 {
            plan.refused.push((bind, asked_by));
            continue;
        }
        let spread = if per_spread <= extra {
            extra -= per_spread;
            Spread::Every
        } else {
            Spread::One(place % threads.max(1))
        };
        room = room.saturating_sub(spread.threads(threads).len());
        plan.binds.insert(bind, Planned { spread, asked_by });
    }
    plan
}

// === impl Budget ===

impl Budget {
    /// The part of a limit of open files.
    pub const fn of_files(files: usize) -> Self {
        Self {
            spread: files / 4,
            most: files / 8 * 5,
            files,
        }
    }
}

// === impl Spread ===

impl Spread {
    /// The threads, of `threads`.
    pub fn threads(self, threads: usize) -> std::ops::Range<usize> {
        match self {
            Self::Every => 0..threads,
            Self::One(thread) => thread..thread + 1,
        }
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.protocol.as_str(), self.addr)
    }
}
