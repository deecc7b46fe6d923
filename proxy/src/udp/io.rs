//! The shell around the flows of one thread: sockets, batches, counters, records.
//!
//! Its owner is a loop around a poller: it calls [`Datagrams::listener_ready`] and
//! [`Datagrams::flow_ready`] for what the poller tells, [`Datagrams::flush`] at the end of each
//! round, and [`Datagrams::fire`] when time has passed. Nothing blocks.
//!
//! Up: one receive call takes a batch from a listener, and each message is sent through its flow's
//! connected socket; a train that GRO put together leaves as a train. Down: answers of all flows
//! gather in one inbox and leave in batches, one send call a listener. No payload is copied.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use fairlead_config::frontend::Protocol;
use fairlead_runtime::clock::{Clock, Tick};

use crate::{
    access_log::{Reason, Record, Served},
    health::Report,
    metrics::{DatagramDrop, Fault, Metrics},
    registry::Outcome,
    sys::datagram::{
        self, INBOX_SLOTS, Inbox, LocalIp, OUTBOX_SLOTS, Outbox, Outgoing, Received, Tell,
    },
    tcp::route::RouteTable,
};

use super::{
    flow::{Closed, Ends, Load},
    flows::{Flows, Key, Verdict},
    world::{Ground, Home, Service},
};

mod passing;

#[cfg(test)]
mod tests;

pub(crate) use passing::Frozen;

/// Tells the poller to watch a socket.
pub(crate) trait Watch {
    /// Level-triggered: as long as something is there.
    fn listener(&self, socket: BorrowedFd<'_>, slot: u32) -> io::Result<()>;
    /// Edge-triggered: once for each arrival.
    fn flow(&self, socket: BorrowedFd<'_>, key: Key) -> io::Result<()>;
    /// The socket stays open, here or in another process.
    fn forget(&self, socket: BorrowedFd<'_>);
}

/// What a thread's datagrams need to know of the process.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The thread's number.
    pub(crate) thread: usize,
    /// Live flows of this thread.
    pub(crate) flows_max: usize,
    /// Keys the table and the draws; each thread needs its own.
    pub(crate) seed: u64,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
}

/// The datagrams of one thread.
#[derive(Debug)]
pub(crate) struct Datagrams {
    settings: Settings,
    flows: Flows<Ground>,
    ground: Ground,
    listeners: Vec<Option<Listener>>,
    /// By the index of the flow's key.
    upstreams: Vec<Option<Upstream>>,
    inbox: Inbox,
    outbox: Outbox,
    answers: Vec<Answer>,
    closed: Vec<Closed<Ground>>,
    /// Flows whose sockets may hold more; the poller tells only once.
    backlog: VecDeque<Key>,
    now: Tick,
}

/// A socket that clients send to.
#[derive(Debug)]
struct Listener {
    id: u32,
    socket: Arc<OwnedFd>,
    addr: SocketAddr,
    /// The address is a wildcard, so each datagram tells where it came to.
    any: bool,
    /// Not received from: another process still does.
    held: bool,
    /// How many messages the last call brought, and some more.
    batch: usize,
}

/// A flow's socket.
#[derive(Debug)]
struct Upstream {
    key: Key,
    socket: OwnedFd,
    /// The listener that its answers leave from.
    listener: u32,
    /// The path takes trains.
    trains: bool,
}

/// An answer that waits in the inbox.
#[derive(Debug, Clone, Copy)]
struct Answer {
    key: Key,
    slot: usize,
    listener: u32,
    ends: Ends,
}

/// Why a datagram didn't leave.
enum Unsent {
    /// The endpoint's host answered an earlier one with an ICMP error, or there is no way to it.
    Refused(Outcome),
    Dropped(DatagramDrop),
    /// This host can't open a socket for the flow, so it ends.
    Fault(DatagramDrop, Reason),
}

// === impl Datagrams ===

impl Datagrams {
    pub(crate) fn new(settings: Settings, routes: Arc<RouteTable>) -> Self {
        let now = settings.clock.now();
        Self {
            flows: Flows::new(settings.flows_max, settings.seed, now),
            ground: Ground::new(routes, settings.seed),
            settings,
            listeners: Vec::new(),
            upstreams: Vec::new(),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            answers: Vec::new(),
            closed: Vec::new(),
            backlog: VecDeque::new(),
            now,
        }
    }

    /// Live flows.
    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Uses these routes from now on; where they differ, each flow is looked at anew at its next
    /// datagram.
    pub(crate) fn use_routes(&mut self, routes: &Arc<RouteTable>) {
        if self.ground.set_routes(routes) {
            self.flows.routes_changed();
        }
    }

    /// Receives from a socket that is bound to `addr`; a held one from [`Self::release`] on.
    pub(crate) fn listen(
        &mut self,
        watch: &impl Watch,
        id: u32,
        socket: Arc<OwnedFd>,
        addr: SocketAddr,
        held: bool,
    ) -> io::Result<()> {
        let any = addr.ip().is_unspecified();
        let tell = if any { Tell::LocalIp } else { Tell::Nothing };
        datagram::prepare(socket.as_fd(), addr.is_ipv6(), tell)?;
        let free = self.listeners.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.listeners.len());
        if !held {
            watch.listener(socket.as_fd(), slot as u32)?;
        }
        let listener = Listener {
            id,
            socket,
            addr,
            any,
            held,
            batch: BATCH_MIN,
        };
        if slot == self.listeners.len() {
            self.listeners.push(None);
        }
        self.listeners[slot] = Some(listener);
        Ok(())
    }

    /// Stops receiving from a socket and ends its flows.
    pub(crate) fn unlisten(&mut self, watch: &impl Watch, id: u32, reason: Reason) {
        let is_meant = |it: &Option<Listener>| it.as_ref().is_some_and(|it| it.id == id);
        let Some(slot) = self.listeners.iter().position(is_meant) else {
            return;
        };
        self.flush();
        if let Some(listener) = self.listeners[slot].take() {
            watch.forget(listener.socket.as_fd());
        }
        for upstream in self.upstreams.iter().flatten() {
            if upstream.listener == slot as u32 {
                self.flows.abort(upstream.key, reason, &mut self.closed);
            }
        }
        self.bury();
    }

    /// The sockets that are received from.
    pub(crate) fn listener_ids(&self) -> Vec<u32> {
        let listeners = self.listeners.iter().flatten();
        listeners.map(|listener| listener.id).collect()
    }

    /// The flows of some endpoints must go elsewhere.
    pub(crate) fn expel(&mut self, is_meant: impl Fn(&Home) -> bool) {
        self.flows.expel(is_meant);
    }

    /// Ends every flow.
    pub(crate) fn close_all(&mut self, reason: Reason) {
        self.flush();
        self.flows.close_all(reason, &mut self.closed);
        self.bury();
    }

    /// What the health owner should hear since the last call.
    pub(crate) fn take_reports(&mut self) -> std::vec::Drain<'_, Report> {
        self.ground.take_reports()
    }

    /// Clients sent something to a listener.
    pub(crate) fn listener_ready(&mut self, watch: &impl Watch, slot: u32, now: Tick) {
        self.now = now;
        // The inbox is one: answers that wait leave first.
        self.flush();
        let Some(Some(listener)) = self.listeners.get_mut(slot as usize) else {
            return;
        };
        let received = self.inbox.receive(&listener.socket, listener.batch, true);
        let Ok(count) = received else {
            // Nothing came, or an error that belongs to an earlier answer.
            return;
        };
        listener.batch = (count * 2).clamp(BATCH_MIN, INBOX_SLOTS);
        let (addr, any) = (listener.addr, listener.any);
        self.thread().receive_batches.inc();
        for index in 0..count {
            let message = self.inbox.message(index);
            let Some(client) = message.source else {
                continue;
            };
            let mut ends = Ends {
                client,
                local: addr,
            };
            if any && let Some(told) = message.local {
                ends.local = local_addr(told, addr.port());
            }
            self.forward(watch, slot, ends, index);
        }
        self.inbox.clear();
    }

    /// An endpoint answered, or its host did with an ICMP error.
    pub(crate) fn flow_ready(&mut self, key: Key, now: Tick) {
        self.now = now;
        for _ in 0..ANSWER_ROUNDS {
            match self.receive_answers(key) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.upstream_failed(key, &error),
            }
        }
        self.backlog.push_back(key);
    }

    /// Sends what the flows have answered so far.
    fn flush(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        for batch in answers.chunk_by(|one, other| one.listener == other.listener) {
            self.send_answers(batch);
        }
        answers.clear();
        self.answers = answers;
        self.inbox.clear();
    }

    /// Ends the round: sends all answers, and looks at the flows that had more.
    pub(crate) fn finish_round(&mut self, now: Tick) {
        self.flush();
        for _ in 0..self.backlog.len() {
            if let Some(key) = self.backlog.pop_front() {
                self.flow_ready(key, now);
            }
        }
        self.flush();
    }

    /// Ends idle flows and hands over what the others carried.
    pub(crate) fn fire(&mut self, now: Tick) {
        self.now = now;
        let Self {
            flows,
            ground,
            closed,
            ..
        } = self;
        flows.fire(ground, now, closed, |flow, traffic| {
            flow.home.count(traffic)
        });
        self.bury();
    }

    /// How long the poller may wait; zero while some flow has more.
    pub(crate) fn wait(&self, now: Tick) -> Option<Duration> {
        if self.backlog.is_empty() {
            self.flows.wait(now)
        } else {
            Some(Duration::ZERO)
        }
    }

    /// Sends the message in a slot of the inbox where it belongs.
    fn forward(&mut self, watch: &impl Watch, listener: u32, ends: Ends, slot: usize) {
        let message = self.inbox.message(slot);
        let load = load_of(&message);
        // Each refusal makes the flow choose anew, so this ends.
        for _ in 0..ATTEMPTS_MAX {
            let Self {
                flows,
                ground,
                closed,
                ..
            } = self;
            let verdict = flows.datagram(ground, &ends, load, self.now, closed);
            self.bury();
            let (key, has_socket) = match verdict {
                Verdict::Drop(reason) => return self.drop_unrouted(&ends, reason, load),
                Verdict::Forward(key) => (key, self.upstream(key).is_some()),
                Verdict::Open(key) => {
                    self.count_opened(key);
                    (key, false)
                }
                Verdict::Rehome(key) => {
                    self.count_rehomed(key);
                    (key, false)
                }
            };
            let opened = if has_socket {
                Ok(())
            } else {
                self.open(watch, key, listener)
            };
            let Err(unsent) = opened.and_then(|()| self.send(key, slot)) else {
                return;
            };
            self.flows.unsent(key, load);
            match unsent {
                Unsent::Refused(outcome) => self.refused(key, outcome),
                Unsent::Dropped(reason) => return self.drop_datagrams(key, reason, load),
                Unsent::Fault(reason, end) => {
                    self.drop_datagrams(key, reason, load);
                    self.flows.abort(key, end, &mut self.closed);
                    return self.bury();
                }
            }
        }
        if let Some(key) = self.flows.find(&ends) {
            self.drop_datagrams(key, DatagramDrop::Unreachable, load);
        }
    }

    /// Opens a flow's socket, in place of the one it had.
    fn open(&mut self, watch: &impl Watch, key: Key, listener: u32) -> Result<(), Unsent> {
        let Some(flow) = self.flows.get_mut(key) else {
            return Err(Unsent::Dropped(DatagramDrop::Pressure));
        };
        let endpoint = flow.home.live.addr;
        let index = key.index as usize;
        if index >= self.upstreams.len() {
            self.upstreams.resize_with(index + 1, || None);
        }
        self.upstreams[index] = None;
        let opened = datagram::connect(endpoint).and_then(|socket| {
            watch.flow(socket.as_fd(), key)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                self.upstreams[index] = Some(Upstream {
                    key,
                    socket,
                    listener,
                    trains: true,
                });
                Ok(())
            }
            Err(error) => Err(match unsent_of(&error) {
                Unsent::Dropped(reason) => Unsent::Fault(reason, self.fault(&error)),
                refused => refused,
            }),
        }
    }

    /// Sends the message in a slot of the inbox through a flow's socket.
    fn send(&mut self, key: Key, slot: usize) -> Result<(), Unsent> {
        let message = self.inbox.message(slot);
        let upstream = self.upstreams.get_mut(key.index as usize);
        let Some(Some(upstream)) = upstream else {
            return Err(Unsent::Dropped(DatagramDrop::SendError));
        };
        if message.datagrams() == 1 {
            let sent = datagram::send(&upstream.socket, message.bytes);
            return sent.map_err(|error| unsent_of(&error));
        }
        if upstream.trains {
            let train = Outgoing {
                to: None,
                from: None,
                segment: message.segment,
                bytes: message.bytes,
            };
            let sent = self.outbox.send(&upstream.socket, std::iter::once(train));
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if is_no_train(&error) => upstream.trains = false,
                Err(error) => return Err(unsent_of(&error)),
            }
        }
        for bytes in message.bytes.chunks(message.segment) {
            let sent = datagram::send(&upstream.socket, bytes);
            sent.map_err(|error| unsent_of(&error))?;
        }
        Ok(())
    }

    /// Takes answers of one flow into the inbox. True: there may be more.
    fn receive_answers(&mut self, key: Key) -> io::Result<bool> {
        if self.inbox.free() < ANSWER_BATCH {
            self.flush();
        }
        let first = self.inbox.len();
        let Some(upstream) = self.upstreams.get(key.index as usize) else {
            return Ok(false);
        };
        let Some(upstream) = upstream.as_ref().filter(|upstream| upstream.key == key) else {
            return Ok(false);
        };
        let listener = upstream.listener;
        let received = self.inbox.receive(&upstream.socket, ANSWER_BATCH, false);
        let count = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        };
        self.thread().receive_batches.inc();
        for slot in first..first + count {
            let load = load_of(&self.inbox.message(slot));
            let Some((ends, is_first)) = self.flows.answer(key, load, self.now) else {
                return Ok(false);
            };
            if is_first && let Some(flow) = self.flows.get_mut(key) {
                let took = self.now - flow.asked;
                self.ground
                    .observe(&flow.home, Outcome::Connected(took), self.now);
                self.ground.observe(&flow.home, Outcome::Served, self.now);
            }
            self.answers.push(Answer {
                key,
                slot,
                listener,
                ends,
            });
        }
        Ok(count == ANSWER_BATCH)
    }

    /// Sends answers that leave by one listener.
    fn send_answers(&mut self, mut batch: &[Answer]) {
        let Some(Some(first)) = batch
            .first()
            .map(|first| &self.listeners[first.listener as usize])
        else {
            return;
        };
        let (inbox, any) = (&self.inbox, first.any);
        let mut lost = Vec::new();
        while !batch.is_empty() {
            let messages = batch.iter().map(|answer| outgoing(answer, inbox, any));
            self.settings
                .metrics
                .thread(self.settings.thread)
                .send_batches
                .inc();
            match self.outbox.send(&first.socket, messages.take(OUTBOX_SLOTS)) {
                Ok(sent) => batch = &batch[sent.max(1)..],
                Err(error) => {
                    let answer = &batch[0];
                    let message = inbox.message(answer.slot);
                    let alone = message.datagrams() > 1 && is_no_train(&error);
                    if !alone || !send_apart(&first.socket, answer, inbox, any) {
                        lost.push((*answer, drop_of(&error)));
                    }
                    batch = &batch[1..];
                }
            }
        }
        for (answer, reason) in lost {
            let load = load_of(&self.inbox.message(answer.slot));
            self.flows.unanswered(answer.key, load);
            self.drop_datagrams(answer.key, reason, load);
        }
    }

    /// A flow's socket told an error, of the endpoint's host or of a router on the way.
    fn upstream_failed(&mut self, key: Key, error: &io::Error) {
        if let Unsent::Refused(outcome) = unsent_of(error) {
            self.refused(key, outcome);
        }
    }

    fn refused(&mut self, key: Key, outcome: Outcome) {
        if let Some(upstream) = self.upstream(key) {
            datagram::drain_errors(upstream.socket.as_fd());
        }
        self.flows.refused(key);
        if let Some(flow) = self.flows.get_mut(key) {
            self.ground.observe(&flow.home, outcome, self.now);
        }
    }

    fn upstream(&self, key: Key) -> Option<&Upstream> {
        let upstream = self.upstreams.get(key.index as usize)?.as_ref();
        upstream.filter(|upstream| upstream.key == key)
    }

    /// Closes the sockets of ended flows, counts and logs them.
    fn bury(&mut self) {
        let mut closed = std::mem::take(&mut self.closed);
        for closed in closed.drain(..) {
            let index = closed.key.index as usize;
            if let Some(upstream) = self.upstreams.get_mut(index) {
                *upstream = None;
            }
            self.settle(closed);
        }
        self.closed = closed;
    }

    /// The one place where the end of a flow is counted and logged.
    fn settle(&self, closed: Closed<Ground>) {
        let Closed {
            mut flow, reason, ..
        } = closed;
        let traffic = flow.take_traffic();
        flow.home.count(traffic);
        let route = flow.service.0.load();
        route.metrics.flows_active.dec();
        route.metrics.flows_closed.inc(reason);
        self.thread().flows_active.dec();
        let Some(log) = &route.log else {
            return;
        };
        let record = Record {
            ended: self.settings.clock.wall(self.now),
            protocol: Protocol::Udp,
            service: Some(route.service.name.clone()),
            frontend: Some(route.frontend.name.clone()),
            client: flow.ends.client,
            local: flow.ends.local,
            peer: None,
            served: Some(Served {
                member: flow.home.live.member.name.clone(),
                endpoint: flow.home.live.addr,
                tier: flow.home.tier,
            }),
            sni: None,
            reason,
            duration: self.now - flow.opened,
            connect: None,
            traffic: flow.traffic,
            attempts: 0,
            hedged: false,
            rehomed: flow.rehomed,
        };
        log.append(self.settings.thread, &record);
    }

    fn count_opened(&mut self, key: Key) {
        self.thread().flows_active.inc();
        if let Some(flow) = self.flows.get_mut(key) {
            flow.home.count_opened();
            flow.service.0.load().metrics.flows_active.inc();
        }
    }

    fn count_rehomed(&mut self, key: Key) {
        if let Some((home, traffic)) = self.flows.take_left() {
            home.count(traffic);
        }
        if let Some(flow) = self.flows.get_mut(key) {
            flow.home.count_opened();
            flow.service.0.load().metrics.flows_rehomed.inc();
        }
    }

    fn drop_datagrams(&mut self, key: Key, reason: DatagramDrop, load: Load) {
        match self.flows.get_mut(key) {
            Some(flow) => count_drop(&flow.service, reason, load),
            // The flow went with the datagram.
            None => self.process_drop(reason, load),
        }
    }

    fn drop_unrouted(&mut self, ends: &Ends, reason: DatagramDrop, load: Load) {
        match self.ground.service_at(ends) {
            Some(service) => count_drop(&service, reason, load),
            None => self.process_drop(reason, load),
        }
    }

    fn process_drop(&self, reason: DatagramDrop, load: Load) {
        let process = &self.settings.metrics.process;
        process.datagrams_unrouted.add(reason, load.datagrams);
    }

    fn fault(&self, error: &io::Error) -> Reason {
        let (fault, reason) = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => (Fault::Fds, Reason::FdPressure),
            Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
                (Fault::Memory, Reason::MemoryPressure)
            }
            Some(libc::EADDRNOTAVAIL | libc::EAGAIN) => (Fault::Ports, Reason::LocalFault),
            Some(libc::EPERM | libc::EACCES) => (Fault::Permission, Reason::LocalFault),
            _ => (Fault::Other, Reason::LocalFault),
        };
        self.settings.metrics.process.faults.inc(fault);
        reason
    }

    fn thread(&self) -> &crate::metrics::ThreadMetrics {
        self.settings.metrics.thread(self.settings.thread)
    }
}

fn count_drop(service: &Service, reason: DatagramDrop, load: Load) {
    let route = service.0.load();
    route.metrics.datagrams_dropped.add(reason, load.datagrams);
}

fn outgoing<'a>(answer: &Answer, inbox: &'a Inbox, any: bool) -> Outgoing<'a> {
    let message = inbox.message(answer.slot);
    Outgoing {
        to: Some(answer.ends.client),
        from: any.then(|| local_ip(answer.ends.local)),
        segment: message.segment,
        bytes: message.bytes,
    }
}

/// Sends the datagrams of a train one by one; whether all left.
fn send_apart(socket: &OwnedFd, answer: &Answer, inbox: &Inbox, any: bool) -> bool {
    let whole = outgoing(answer, inbox, any);
    let mut outbox = Outbox::new();
    let parts = whole.bytes.chunks(whole.segment).map(|bytes| Outgoing {
        segment: bytes.len(),
        bytes,
        ..whole
    });
    let count = parts.len();
    outbox.send(socket, parts).is_ok_and(|sent| sent == count)
}

fn load_of(message: &Received<'_>) -> Load {
    Load {
        bytes: message.bytes.len() as u64,
        datagrams: message.datagrams() as u64,
    }
}

fn local_addr(told: LocalIp, port: u16) -> SocketAddr {
    let mut addr = SocketAddr::new(told.ip, port);
    if let SocketAddr::V6(addr) = &mut addr {
        addr.set_scope_id(told.interface);
    }
    addr
}

fn local_ip(addr: SocketAddr) -> LocalIp {
    LocalIp {
        ip: addr.ip(),
        interface: match addr {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(addr) => addr.scope_id(),
        },
    }
}

fn unsent_of(error: &io::Error) -> Unsent {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Unsent::Refused(Outcome::Refused),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
            Unsent::Refused(Outcome::Unreachable)
        }
        _ => Unsent::Dropped(drop_of(error)),
    }
}

fn drop_of(error: &io::Error) -> DatagramDrop {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => DatagramDrop::SendBufferFull,
        Some(libc::EMSGSIZE) => DatagramDrop::TooLarge,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
            DatagramDrop::Pressure
        }
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
            DatagramDrop::Unreachable
        }
        _ => DatagramDrop::SendError,
    }
}

/// The path or its device takes no trains, or none of such datagrams.
fn is_no_train(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP)
    )
}

/// Messages of a listener at a time: few when few come, so that the call prepares few.
const BATCH_MIN: usize = 4;
/// Messages of one flow at a time.
const ANSWER_BATCH: usize = 4;
/// Batches of one flow in a round, so that one flow can't keep the others waiting.
const ANSWER_ROUNDS: usize = 8;
/// Endpoints that one datagram is offered to.
const ATTEMPTS_MAX: usize = 3;
