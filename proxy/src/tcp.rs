//! TCP: accept → admit → route → (preamble) → pick → connect → relay → close.
//!
//! | module | part of the way |
//! |---|---|
//! | `worker` | the loop of one data thread |
//! | `commands` | what it is told: listeners, cuts, flows, leaving |
//! | `deadlines` | what is due by time alone |
//! | `accept` | listeners, shedding, admission, the preamble's bytes |
//! | `handoff` | which thread should take a connection (pure) |
//! | [`route`] | local address and server name to frontend and service (pure) |
//! | `preamble` | PROXY header and TLS hello (pure) |
//! | `dial` | the shell around [`crate::connect`] |
//! | `relay` | bytes from side to side |
//! | `close` | how sockets are closed, and the one record |
//! | `datagrams` | how [`crate::udp`] hangs in the loop |
//! | [`pace`] | how fast sessions may be reset (pure) |
//! | `session`, `slab`, `wheel`, `pipes`, `mailbox`, `leg` | what the above is made of |
//!
//! One owner: a session belongs to the thread that took it and never moves. One record: `close`
//! takes the session out of the slab, counts it and logs it, whatever ended it.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use fairlead_runtime::clock::{Clock, Tick};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::{
    access_log::Reason, health::Report, metrics::Metrics, registry::EndpointId, sockets::Bind,
    udp::passing::FlowRow,
};

mod accept;
mod close;
mod commands;
mod datagrams;
mod deadlines;
mod dial;
mod handoff;
mod leg;
mod mailbox;
pub mod pace;
mod pipes;
mod preamble;
mod relay;
pub mod route;
mod session;
pub(crate) mod slab;
pub(crate) mod wheel;
mod worker;

#[cfg(test)]
mod tests;

use handoff::Loads;
use mailbox::Mailbox;
use route::RouteTable;
use worker::Worker;

/// What the data threads share with each other and with the control thread.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) mailboxes: Box<[Mailbox<Command>]>,
    pub(crate) loads: Loads,
    /// Where sessions go; swapped as a whole.
    pub routes: ArcSwap<RouteTable>,
    /// Where flows go, likewise.
    pub datagram_routes: ArcSwap<RouteTable>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the health owner should hear.
    pub reports: Reports,
    /// Connections between two threads.
    pub(crate) in_transit: AtomicI64,
    /// Threads that have closed their listeners for good.
    pub(crate) closed: AtomicUsize,
    pub(crate) clock: Clock,
}

/// What a data thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take a connection that another thread accepted.
    Take(Handed),
    /// Accept, or take datagrams, from this socket.
    Listen {
        id: u32,
        socket: Arc<OwnedFd>,
        bind: Bind,
        start: Start,
    },
    /// Stop taking datagrams and give all flows away.
    Freeze(mpsc::Sender<Vec<FrozenFlow>>),
    /// Go on with flows that came by this listener.
    Adopt {
        id: u32,
        flows: Vec<(FlowRow, OwnedFd)>,
    },
    /// Take datagrams from sockets that were held.
    Release,
    /// Empty the listener's queue, then close it.
    Unlisten { id: u32 },
    /// Reset the sessions of an endpoint, at the pace of its service.
    Cut {
        endpoint: EndpointId,
        reason: Reason,
        cancelled: Arc<AtomicBool>,
    },
    /// Close all listeners and tell when the last session has ended.
    Drain(Queues),
    /// Reset what lives and end.
    End,
}

/// When a socket is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From now on.
    Now,
    /// Datagrams only from [`Fleet::release_datagrams`] on: another process still has the flows.
    Held,
}

/// A flow that its thread gave away: the listener it came by, what it is, its socket.
pub type FrozenFlow = (u32, FlowRow, OwnedFd);

/// What becomes of connections that wait in a queue when its listener is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queues {
    /// They are accepted first.
    Empty,
    /// They are left to another process that has the same socket.
    Leave,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) socket: OwnedFd,
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) accepted: Tick,
}

/// What may change a verdict, from the data threads to the control thread.
#[derive(Debug, Default)]
pub struct Reports {
    queue: Mutex<Vec<Report>>,
    notify: Notify,
}

// === impl Fleet ===

impl Fleet {
    /// A fleet of `threads` data threads, none of which runs yet.
    pub fn new(threads: usize, metrics: Arc<Metrics>, clock: Clock) -> io::Result<Arc<Self>> {
        let mailboxes = (0..threads).map(|_| Mailbox::new());
        Ok(Arc::new(Self {
            mailboxes: mailboxes.collect::<io::Result<_>>()?,
            loads: Loads::new(threads),
            routes: ArcSwap::default(),
            datagram_routes: ArcSwap::default(),
            metrics,
            reports: Reports::default(),
            in_transit: AtomicI64::new(0),
            closed: AtomicUsize::new(0),
            clock,
        }))
    }

    /// How many data threads there are.
    pub fn threads(&self) -> usize {
        self.mailboxes.len()
    }

    /// Runs data thread `index` on the calling thread, until [`Self::end`].
    pub fn run(self: &Arc<Self>, index: usize, seed: u64) -> io::Result<()> {
        Worker::new(index, self.clone(), seed)?.run()
    }

    /// Lets thread `thread` accept from a listening socket, or take datagrams from a bound one.
    pub fn listen(&self, thread: usize, id: u32, socket: Arc<OwnedFd>, bind: Bind, start: Start) {
        self.mailboxes[thread].post(Command::Listen {
            id,
            socket,
            bind,
            start,
        });
    }

    /// Stops taking datagrams and collects the flows of all threads.
    pub async fn freeze_flows(&self) -> Vec<FrozenFlow> {
        let (give, mut given) = mpsc::channel(self.threads());
        for mailbox in &self.mailboxes {
            mailbox.post(Command::Freeze(give.clone()));
        }
        drop(give);
        let mut all = Vec::new();
        while let Some(some) = given.recv().await {
            all.extend(some);
        }
        all
    }

    /// Lets thread `thread` go on with flows that came by listener `id`.
    pub fn adopt_flows(&self, thread: usize, id: u32, flows: Vec<(FlowRow, OwnedFd)>) {
        self.mailboxes[thread].post(Command::Adopt { id, flows });
    }

    /// Takes datagrams from all sockets that were held or frozen.
    pub fn release_datagrams(&self) {
        for mailbox in &self.mailboxes {
            mailbox.post(Command::Release);
        }
    }

    /// Lets thread `thread` empty and close listener `id`.
    pub fn unlisten(&self, thread: usize, id: u32) {
        self.mailboxes[thread].post(Command::Unlisten { id });
    }

    /// Resets the sessions of an endpoint, paced; raise the answer to stop that.
    pub fn cut(&self, endpoint: EndpointId, reason: Reason) -> Arc<AtomicBool> {
        let cancelled = Arc::new(AtomicBool::new(false));
        for mailbox in &self.mailboxes {
            mailbox.post(Command::Cut {
                endpoint,
                reason,
                cancelled: cancelled.clone(),
            });
        }
        cancelled
    }

    /// Closes all listeners for good. [`Reports::wait`] wakes when a thread has no session left.
    pub fn drain(&self, queues: Queues) {
        for mailbox in &self.mailboxes {
            mailbox.post(Command::Drain(queues));
        }
    }

    /// Resets what lives and ends all threads.
    pub fn end(&self) {
        for mailbox in &self.mailboxes {
            mailbox.post(Command::End);
        }
    }

    /// Live sessions of all threads.
    pub fn sessions(&self) -> u64 {
        let threads = self.metrics.threads().iter();
        let live = threads.map(|thread| thread.sessions_active.value());
        u64::try_from(live.sum::<i64>() + self.in_transit.load(Relaxed)).unwrap_or(0)
    }

    /// Whether every thread has closed its listeners and no session is left.
    pub fn is_idle(&self) -> bool {
        self.closed.load(Relaxed) == self.threads() && self.sessions() == 0
    }
}

// === impl Reports ===

impl Reports {
    /// Waits until there are some, or a thread has drained.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Takes all.
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.queue.lock())
    }

    pub(crate) fn push(&self, report: Report) {
        let mut queue = self.queue.lock();
        // The endpoint's own count of strikes says the same, so a lost report is not a lost strike.
        if queue.len() < REPORTS_MAX {
            queue.push(report);
        }
        drop(queue);
        self.notify.notify_one();
    }

    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }
}

const REPORTS_MAX: usize = 4096;
