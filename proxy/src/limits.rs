//! Limits of a service: live sessions, live flows, new ones a second, and the same per client.
//!
//! One [`Limiter`] a service, shared by all data threads and outliving snapshots. Limits of the
//! service are exact: one atomic each, never above the limit on any thread. A rate of `n` a second
//! lets `n` through at once and then one every `1/n` seconds, so at most `n × (t + 1)` in `t`
//! seconds.
//!
//! Limits per client live in a table of fixed size ([`table`]), which exists only while one of them
//! is set. Its error is one-sided: nobody within their limit is refused, but while more than
//! [`table::CLIENTS_MAX`] clients are active at a time some are not limited; each such admission is
//! counted. An IPv6 client is its /64.
//!
//! Costs without limits: one atomic add. With limits per client also a mutex over 1/256 of the
//! table.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use fairlead_config::policy::Limits;
use fairlead_runtime::clock::Tick;
use parking_lot::RwLock;

use crate::{access_log::Reason, metrics::ServiceMetrics};
use table::{ClientKey, ClientTable, Taken};

pub mod table;

#[cfg(test)]
mod tests;

/// The limits of one service and what counts against them.
#[derive(Debug)]
pub struct Limiter {
    sessions: Slots,
    flows: Slots,
    rate: Rate,
    /// Zero where neither limit per client is set, so that the common path reads one word.
    per_client: AtomicU64,
    clients: RwLock<Option<Arc<ClientTable>>>,
    metrics: Arc<ServiceMetrics>,
    seed: u64,
}

/// A live session's or flow's place under its service's limits; given back when dropped.
#[derive(Debug)]
pub struct Admitted {
    limiter: Arc<Limiter>,
    client: Option<(Arc<ClientTable>, ClientKey)>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    Flow,
}

/// A count with a limit.
#[derive(Debug)]
struct Slots {
    taken: AtomicU32,
    limit: AtomicU32,
}

/// A token bucket that holds one second's worth, as the time at which it will be full again
/// (GCRA).
#[derive(Debug, Default)]
struct Rate {
    full_at: AtomicU64,
    /// Zero: no limit.
    interval_nanos: AtomicU64,
    per_second: AtomicU32,
}

// === impl Limiter ===

impl Limiter {
    /// Nothing counted yet. `seed` keys the table of clients, whose addresses strangers choose.
    pub fn new(limits: &Limits, seed: u64, metrics: Arc<ServiceMetrics>) -> Arc<Self> {
        let limiter = Self {
            sessions: Slots::new(),
            flows: Slots::new(),
            rate: Rate::default(),
            per_client: AtomicU64::new(0),
            clients: RwLock::default(),
            metrics,
            seed,
        };
        limiter.update(limits);
        Arc::new(limiter)
    }

    /// Takes new limits. Those live already stay, also above a lower limit. Sessions that began
    /// while no limit per client was set are never counted for their client.
    pub fn update(&self, limits: &Limits) {
        self.sessions.set_limit(limits.connections);
        self.flows.set_limit(limits.flows);
        self.rate.set(limits.new_per_second);
        let per_client = pack(
            limits.connections_per_client,
            limits.new_per_second_per_client,
        );
        let mut clients = self.clients.write();
        match (per_client, clients.is_some()) {
            (0, _) => *clients = None,
            (_, false) => *clients = Some(Arc::new(ClientTable::new(self.seed))),
            (_, true) => {}
        }
        self.per_client.store(per_client, Ordering::Release);
    }

    /// A place for a session of `client`, or the limit that refuses it.
    pub fn admit_session(self: &Arc<Self>, client: IpAddr, now: Tick) -> Result<Admitted, Reason> {
        self.admit(Kind::Session, client, now)
    }

    /// A place for a flow of `client`, or the limit that refuses it. Flows count against `flows`
    /// and the rates, not against `connectionsPerClient`.
    pub fn admit_flow(self: &Arc<Self>, client: IpAddr, now: Tick) -> Result<Admitted, Reason> {
        self.admit(Kind::Flow, client, now)
    }

    /// A place for a flow that began before, in another process: it is not new, so no rate counts it.
    pub fn readmit_flow(self: &Arc<Self>) -> Result<Admitted, Reason> {
        if !self.slots(Kind::Flow).take() {
            return Err(Reason::LimitConnections);
        }
        Ok(Admitted {
            limiter: Arc::clone(self),
            client: None,
            kind: Kind::Flow,
        })
    }

    /// Live sessions.
    pub fn sessions(&self) -> u32 {
        self.sessions.taken.load(Ordering::Relaxed)
    }

    /// Live flows.
    pub fn flows(&self) -> u32 {
        self.flows.taken.load(Ordering::Relaxed)
    }

    fn admit(self: &Arc<Self>, kind: Kind, client: IpAddr, now: Tick) -> Result<Admitted, Reason> {
        if !self.slots(kind).take() {
            return Err(Reason::LimitConnections);
        }
        let mut admitted = Admitted {
            limiter: Arc::clone(self),
            client: None,
            kind,
        };
        let per_client = self.per_client.load(Ordering::Acquire);
        if per_client == 0 {
            return self.rate.take(now).map(|()| admitted);
        }
        let Some(table) = self.clients.read().clone() else {
            return self.rate.take(now).map(|()| admitted);
        };
        let (mut live_max, rate_max) = unpack(per_client);
        if kind == Kind::Flow {
            live_max = None;
        }
        let key = ClientKey::new(client);
        // The service's rate is asked last, under the client's lock, so that a client that is
        // over its own limit costs the others nothing.
        let taken = table.take(key, live_max, rate_max, now, || self.rate.take(now))?;
        if taken != Taken::Counted {
            self.metrics.clients_untracked.inc();
        }
        if taken != Taken::NoRoom {
            admitted.client = Some((table, key));
        }
        Ok(admitted)
    }

    fn slots(&self, kind: Kind) -> &Slots {
        match kind {
            Kind::Session => &self.sessions,
            Kind::Flow => &self.flows,
        }
    }
}

// === impl Admitted ===

impl Drop for Admitted {
    fn drop(&mut self) {
        self.limiter.slots(self.kind).give_back();
        if let Some((table, key)) = &self.client {
            table.give_back(*key);
        }
    }
}

// === impl Slots ===

impl Slots {
    fn new() -> Self {
        Self {
            taken: AtomicU32::new(0),
            limit: AtomicU32::new(UNLIMITED),
        }
    }

    fn set_limit(&self, limit: Option<u32>) {
        self.limit
            .store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == UNLIMITED {
            self.taken.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        try_raise(&self.taken, limit)
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Rate ===

impl Rate {
    fn set(&self, per_second: Option<u32>) {
        self.per_second
            .store(per_second.unwrap_or_default(), Ordering::Relaxed);
        let interval = per_second.map_or(0, interval_nanos);
        self.interval_nanos.store(interval, Ordering::Relaxed);
    }

    fn take(&self, now: Tick) -> Result<(), Reason> {
        let interval = self.interval_nanos.load(Ordering::Relaxed);
        if interval == 0 {
            return Ok(());
        }
        let per_second = self.per_second.load(Ordering::Relaxed);
        let taken = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                next_full(full_at, interval, per_second, now)
            });
        taken.map(|_| ()).map_err(|_| Reason::LimitRate)
    }
}

/// Raises `count` unless it is at `limit` already; never above it, whatever other threads do.
pub fn try_raise(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < limit).then(|| taken + 1)
        })
        .is_ok()
}

/// When a bucket will be full again after one more token is taken; `None` when it is empty.
fn next_full(full_at: u64, interval: u64, per_second: u32, now: Tick) -> Option<u64> {
    let next = full_at.max(now.0).saturating_add(interval);
    // A bucket that holds `n` tokens takes `n` intervals to fill.
    (next - now.0 <= interval.saturating_mul(u64::from(per_second))).then_some(next)
}

/// The time a token takes to come back.
fn interval_nanos(per_second: u32) -> u64 {
    // Nothing at all is let through by a rate of 0: no bucket holds a token then.
    (SECOND.as_nanos() as u64 / u64::from(per_second.max(1))).max(1)
}

/// Both limits per client in one word, so that a reader never sees one old and one new.
fn pack(live: Option<u32>, rate: Option<u32>) -> u64 {
    let half =
        |limit: Option<u32>| limit.map_or(0, |limit| u64::from(limit.min(UNLIMITED - 2)) + 1);
    (half(live) << 32) | half(rate)
}

fn unpack(packed: u64) -> (Option<u32>, Option<u32>) {
    let half = |half: u64| (half as u32).checked_sub(1);
    (half(packed >> 32), half(packed & u64::from(u32::MAX)))
}

const UNLIMITED: u32 = u32::MAX;
const SECOND: Duration = Duration::from_secs(1);
