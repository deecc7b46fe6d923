//! Which sockets to listen on, and on which thread.
//!
//! [`plan`] is pure: frontends, threads and a budget of descriptors in, one [`Planned`] an address
//! out. An address gets a listener on every thread (the kernel spreads connections over them)
//! while the budget lasts; after that a single one, whose thread hands connections on. The
//! [`io`] half binds.

use std::{collections::BTreeMap, net::SocketAddr};

use fairlead_config::{
    frontend::{Frontend, Protocol},
    name::FrontendName,
};

pub mod io;

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

/// Plans the sockets of `frontends`, which are those whose service exists. Costs O(n log n) of the
/// addresses; the same input gives the same plan, and addresses come in order, so that adding one
/// moves few.
pub fn plan<'a>(
    frontends: impl IntoIterator<Item = &'a Frontend>,
    threads: usize,
    fd_budget: usize,
) -> Plan {
    let mut asked: BTreeMap<Bind, FrontendName> = BTreeMap::new();
    for frontend in frontends {
        for port in frontend.ports.clone() {
            let bind = Bind {
                protocol: frontend.protocol,
                addr: SocketAddr::new(frontend.ip, port),
            };
            asked.entry(bind).or_insert_with(|| frontend.name.clone());
        }
    }
    let count = asked.len();
    // What is left over when each has one goes to the first ones.
    let mut extra = fd_budget.saturating_sub(count);
    let per_spread = threads.max(1) - 1;
    let mut plan = Plan::default();
    for (place, (bind, asked_by)) in asked.into_iter().enumerate() {
        if place >= fd_budget {
            plan.refused.push((bind, asked_by));
            continue;
        }
        let spread = if per_spread <= extra {
            extra -= per_spread;
            Spread::Every
        } else {
            Spread::One(place % threads.max(1))
        };
        plan.binds.insert(bind, Planned { spread, asked_by });
    }
    plan
}

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
