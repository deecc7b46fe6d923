//! From a listener to a session: accept, admit, route.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use fairlead_config::frontend::{AcceptedVersions, PREAMBLE_TIMEOUT};
use fairlead_runtime::clock::Tick;

use super::{
    Command, Handed,
    close::fault_of,
    leg::{Side, Watched},
    preamble::{Preamble, Verdict},
    route::{Entry, Group, Route},
    session::{Extra, Phase, Session, Token, Waiting},
    slab::Key,
    worker::Worker,
};
use crate::{
    access_log::Reason,
    metrics::{Fault, Handoff},
    sys::{
        poll::{Interest, Poller},
        tcp,
    },
};

/// A listening socket of this thread.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: u32,
    pub(crate) socket: Arc<OwnedFd>,
    /// Where its clients connect, unless it listens at a wildcard address.
    fixed: Option<SocketAddr>,
    /// How many are accepted at a time.
    batch: u8,
    /// Not polled before.
    pub(crate) paused_until: Option<Tick>,
}

// === impl Listener ===

impl Listener {
    pub(crate) fn new(id: u32, socket: Arc<OwnedFd>, addr: SocketAddr) -> Self {
        Self {
            id,
            socket,
            fixed: (!addr.ip().is_unspecified()).then_some(addr),
            batch: 1,
            paused_until: None,
        }
    }
}

impl Worker {
    /// Accepts from the listener in `slot` what its last rounds let expect, and no more: telling
    /// whether there is more is the poller's business and costs no call of its own.
    pub(crate) fn accept_ready(&mut self, slot: u32) {
        let Some(Some(listener)) = self.listeners.get(slot as usize) else {
            return;
        };
        let batch = listener.batch;
        for accepted in 0..batch {
            match self.accept_one(slot) {
                Ok(true) => {}
                Ok(false) => return self.set_batch(slot, accepted.max(1)),
                Err(fault) => return self.relieve(slot, fault),
            }
        }
        self.set_batch(slot, (batch * 2).min(ACCEPT_BATCH_MAX));
    }

    /// Accepts until the queue is empty; before its listener closes.
    pub(crate) fn accept_all(&mut self, slot: u32) {
        while let Ok(true) = self.accept_one(slot) {}
    }

    fn accept_one(&mut self, slot: u32) -> Result<bool, Fault> {
        let Some(Some(listener)) = self.listeners.get(slot as usize) else {
            return Ok(false);
        };
        let fixed = listener.fixed;
        match tcp::accept(&listener.socket) {
            Ok((socket, client)) => {
                self.thread().accepted.inc();
                match fixed.map_or_else(|| tcp::local_addr(&socket), Ok) {
                    Ok(local) => self.hand_or_take(Handed {
                        socket,
                        client,
                        local,
                        accepted: self.now,
                    }),
                    // It is gone already.
                    Err(_) => self.fleet.metrics.process.unrouted.inc(Reason::ClientGone),
                }
                Ok(true)
            }
            Err(error) => match error.raw_os_error().unwrap_or(0) {
                libc::EAGAIN => Ok(false),
                errno => match fault_of(errno) {
                    Some(fault @ (Fault::Fds | Fault::Memory)) => Err(fault),
                    // The client's own errors are told by accept, too.
                    _ => Ok(true),
                },
            },
        }
    }

    fn set_batch(&mut self, slot: u32, batch: u8) {
        if let Some(Some(listener)) = self.listeners.get_mut(slot as usize) {
            listener.batch = batch;
        }
    }

    /// Passes a connection to a thread with less to do, or takes it.
    fn hand_or_take(&mut self, handed: Handed) {
        let mut handed = handed;
        if self.may_hand_over() {
            self.publish_load();
            if let Some(other) = self.fleet.loads.relief(self.index) {
                let mailbox = &self.fleet.mailboxes[other];
                self.fleet.in_transit.fetch_add(1, Relaxed);
                match mailbox.offer(Command::Take(handed), HANDED_MAX) {
                    Ok(()) => return self.thread().handoffs.inc(Handoff::Passed),
                    Err(Command::Take(back)) => handed = back,
                    Err(_) => unreachable!("what was offered comes back"),
                }
                self.fleet.in_transit.fetch_sub(1, Relaxed);
                self.fleet.loads.adjust(other, -1);
                self.thread().handoffs.inc(Handoff::QueueFull);
            }
            self.take(handed);
            return self.publish_load();
        }
        self.take(handed);
    }

    /// Makes a session of an accepted connection.
    pub(crate) fn take(&mut self, handed: Handed) {
        let Handed {
            socket,
            client,
            local,
            accepted,
        } = handed;
        let routes = self.fleet.routes.load();
        let Some(group) = routes.group(&local).cloned() else {
            self.fleet.metrics.process.unrouted.inc(Reason::NoRoute);
            return tcp::reset(socket);
        };
        drop(routes);
        let down = Side::accepted(socket);
        let session = Session::new(client, local, accepted, Phase::Over);
        let key = self.sessions.insert_with(|_| session);
        self.gauge.begin(accepted);
        self.thread().sessions_active.inc();
        let header = expected_header(&group, client);
        match (header, group.only()) {
            (Header::Refused | Header::Indifferent, Some(entry)) => {
                self.begin(key, down, entry, Vec::new());
                if let (Header::Refused, Some(session)) = (header, self.sessions.get_mut(key)) {
                    session.marks.guarded = true;
                }
            }
            (header, only) => {
                let preamble = Preamble::new(header.versions(), only.is_none());
                self.await_preamble(key, down, preamble, group);
            }
        }
    }

    fn await_preamble(&mut self, key: Key, mut down: Side, preamble: Preamble, group: Arc<Group>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let watched = watch(&self.poller, &mut down, Token::Down(key));
        session.phase = Phase::Preamble(Box::new(Waiting {
            down,
            preamble,
            group,
        }));
        self.wheel
            .arm(key.index, session.accepted + PREAMBLE_TIMEOUT);
        match watched {
            Ok(()) => self.read_preamble(key),
            Err(error) => self.close_for_fault(key, &error),
        }
    }

    /// Reads what came of the preamble.
    pub(crate) fn read_preamble(&mut self, key: Key) {
        loop {
            let Some(session) = self.sessions.get_mut(key) else {
                return;
            };
            let Phase::Preamble(waiting) = &mut session.phase else {
                return;
            };
            if !waiting.down.readable {
                return;
            }
            let wanted = waiting.preamble.wants();
            let verdict = match waiting.down.receive(&mut self.shared.scratch[..wanted]) {
                Ok(0) => Verdict::Refuse(Reason::ClientGone),
                Ok(len) => waiting.preamble.feed(&self.shared.scratch[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => Verdict::Refuse(Reason::ClientGone),
            };
            match verdict {
                Verdict::Wait => {}
                Verdict::Refuse(reason) => return self.close(key, reason),
                Verdict::Done(facts, rest) => {
                    let group = waiting.group.clone();
                    let route = group.named(facts.host.as_deref());
                    let peer = session.client;
                    if let Some((client, local)) = facts.stated {
                        (session.client, session.local) = (client, local);
                    }
                    session.extra = Some(Box::new(Extra {
                        peer: facts.stated.map(|_| peer),
                        host: facts.host,
                    }));
                    session.marks.own_options = true;
                    let phase = std::mem::replace(&mut session.phase, Phase::Over);
                    let (Some(entry), Phase::Preamble(waiting)) = (route, phase) else {
                        return self.close(key, Reason::NoRoute);
                    };
                    return self.begin(key, waiting.down, entry, rest);
                }
            }
        }
    }

    /// Admits a session to its service and looks for an endpoint.
    fn begin(&mut self, key: Key, down: Side, entry: &Entry, rest: Vec<u8>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let route = entry.load_full();
        let admitted = admit(&route, session.client, self.now);
        session.route = Some(route);
        match admitted {
            Ok(admitted) => {
                session.admitted = Some(admitted);
                self.dial(key, down, rest);
            }
            Err(reason) => {
                down.reset();
                self.close(key, reason);
            }
        }
    }

    /// Out of descriptors or memory: sheds the newest connection where that is possible, and
    /// leaves the listener alone for a moment, so that nothing spins.
    fn relieve(&mut self, slot: u32, fault: Fault) {
        self.fleet.metrics.process.faults.inc(fault);
        let Some(Some(listener)) = self.listeners.get_mut(slot as usize) else {
            return;
        };
        if fault == Fault::Fds && self.spare.take().is_some() {
            if let Ok((socket, _)) = tcp::accept(&listener.socket) {
                tcp::reset(socket);
                self.fleet.metrics.process.unrouted.inc(Reason::FdPressure);
            }
            self.spare = spare();
            if self.spare.is_some() {
                return;
            }
        }
        if self.poller.remove(&listener.socket).is_ok() {
            listener.paused_until = Some(self.now + PAUSE);
            self.paused = true;
        }
    }

    /// Polls listeners again whose pause is over.
    pub(crate) fn resume_listeners(&mut self) {
        self.paused = false;
        self.spare = self.spare.take().or_else(spare);
        for (slot, listener) in (0..).zip(&mut self.listeners) {
            let Some(listener) = listener else { continue };
            match listener.paused_until {
                Some(until) if until <= self.now => {
                    let token = Token::Listener(slot).pack();
                    let added = self.poller.add(&listener.socket, token, Interest::Level);
                    let again = Some(self.now + PAUSE);
                    listener.paused_until = if added.is_ok() { None } else { again };
                    self.paused |= added.is_err();
                }
                Some(_) => self.paused = true,
                None => {}
            }
        }
    }
}

/// Whether a PROXY header is expected of a client.
#[derive(Debug, Clone, Copy)]
enum Header {
    Expected(AcceptedVersions),
    Refused,
    Indifferent,
}

impl Header {
    fn versions(self) -> Option<AcceptedVersions> {
        match self {
            Self::Expected(versions) => Some(versions),
            Self::Refused | Self::Indifferent => None,
        }
    }
}

fn expected_header(group: &Group, client: SocketAddr) -> Header {
    let Some(accept) = group.header() else {
        return Header::Indifferent;
    };
    match accept.from.iter().any(|net| net.contains(&client.ip())) {
        true => Header::Expected(accept.versions),
        false => Header::Refused,
    }
}

fn admit(route: &Route, client: SocketAddr, now: Tick) -> Result<crate::limits::Admitted, Reason> {
    if !route.allows(client.ip()) {
        return Err(Reason::NotAllowed);
    }
    route.limiter.admit_session(client.ip(), now)
}

/// Lets the poller tell of bytes of a side.
pub(crate) fn watch(poller: &Poller, side: &mut Side, token: Token) -> io::Result<()> {
    if side.watched == Watched::No {
        poller.add(side.tcp(), token.pack(), Interest::Read)?;
        side.watched = Watched::Read;
    }
    Ok(())
}

/// A descriptor to give up when there is none left, so that the newest connection can be accepted
/// and closed instead of waiting in the queue.
pub(crate) fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Others have their turn after so many.
const ACCEPT_BATCH_MAX: u8 = 8;
/// Connections that may wait for another thread; it keeps its own then.
const HANDED_MAX: usize = 128;
/// How long a listener is left alone when this host has nothing left to accept with.
const PAUSE: Duration = Duration::from_millis(50);
