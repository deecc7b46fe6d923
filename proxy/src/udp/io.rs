//! The shell around the flows of one thread: sockets, batches, counters, records.
//!
//! Its owner is a loop around a poller: it calls [`Datagrams::listener_ready`] and
//! [`Datagrams::flow_ready`] for what the poller tells, [`Datagrams::flush`] at the end of each
//! round, and [`Datagrams::fire`] when time has passed. Nothing blocks.
//!
//! Up: one receive call takes a batch from a listener, and each message is sent through its flow's
//! connected socket; a train that GRO put together leaves as a train. Down: answers of all flows
//! gather in one inbox and leave in batches, one send call a listener. No payload is copied.
//!
//! The socket to an endpoint that a flow has left stays for [`LINGER`] where answers are awaited, inside
//! the budget of the flows: newcomers come first.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use fairlead_runtime::clock::{Clock, Tick};

use crate::{
    access_log::Reason,
    health::Report,
    metrics::{DatagramDrop, Metrics},
    registry::Outcome,
    sys::datagram::{self, INBOX_SLOTS, Inbox, LocalIp, Outbox, Outgoing, Received, Tell},
    tcp::route::RouteTable,
};

use super::{
    flow::{Closed, Ends, Load},
    flows::{Flows, Key, Verdict},
    world::{Ground, Home},
};

mod account;
mod answers;
mod errors;
mod former;
mod passing;

#[cfg(test)]
mod tests;

use errors::{Unsent, is_no_train, unsent_of};
use former::{Former, LINGER};
pub(crate) use passing::Frozen;

/// Tells the poller to watch a socket.
pub(crate) trait Watch {
    /// Level-triggered: as long as something is there.
    fn listener(&self, socket: BorrowedFd<'_>, slot: u32) -> io::Result<()>;
    /// Level-triggered as well: one receive call an answer, and none to learn that there is no more.
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
    /// Flows that were re-homed while answers were awaited, and when; some may have ended.
    formers: VecDeque<(Key, Tick)>,
    inbox: Inbox,
    outbox: Outbox,
    answers: Vec<Answer>,
    closed: Vec<Closed<Ground>>,
    /// Counts the rounds of the poller.
    round: u32,
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
    /// How many messages the last call asked for, and in which round.
    batch: usize,
    round: u32,
    /// To the endpoint before; under the same key.
    former: Option<Box<Former>>,
}

/// An answer that waits in the inbox.
#[derive(Debug, Clone, Copy)]
struct Answer {
    key: Key,
    slot: usize,
    listener: u32,
    ends: Ends,
    /// Of an endpoint that the flow has left.
    late: bool,
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
            formers: VecDeque::new(),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            answers: Vec::new(),
            closed: Vec::new(),
            round: 0,
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
        // The poller may have told before it was frozen, in the same round.
        if listener.held {
            return;
        }
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
                if is_for_many(told.ip) {
                    // No answer could leave from there.
                    let load = load_of(&message);
                    self.process_drop(DatagramDrop::NoFrontend, load);
                    continue;
                }
            }
            self.forward(watch, slot, ends, index);
        }
        self.inbox.clear();
    }

    /// An endpoint answered, or its host did with an ICMP error. Takes one batch: as long as there
    /// is more, the poller tells again, and the other flows have their turn in between.
    pub(crate) fn flow_ready(&mut self, key: Key, now: Tick) {
        self.now = now;
        if let Err(error) = self.receive_answers(key) {
            self.upstream_failed(key, &error);
        }
        self.receive_late(key);
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

    /// Ends the round: sends all answers.
    pub(crate) fn finish_round(&mut self) {
        self.round = self.round.wrapping_add(1);
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
        self.expire_formers();
    }

    /// How long the poller may wait.
    pub(crate) fn wait(&self, now: Tick) -> Option<Duration> {
        let former = self
            .formers
            .front()
            .map(|(_, since)| (*since + LINGER) - now);
        self.flows.wait(now).into_iter().chain(former).min()
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
            let mut former = None;
            let (key, has_socket) = match verdict {
                Verdict::Drop(reason) => return self.drop_unrouted(&ends, reason, load),
                Verdict::Forward(key) => (key, self.upstream(key).is_some()),
                Verdict::Open(key) => {
                    self.make_room();
                    self.count_opened(key);
                    (key, false)
                }
                Verdict::Rehome(key) => {
                    former = self.leave(key);
                    self.count_rehomed(key);
                    (key, false)
                }
            };
            let opened = if has_socket {
                Ok(())
            } else {
                self.open(watch, key, listener, former)
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
    fn open(
        &mut self,
        watch: &impl Watch,
        key: Key,
        listener: u32,
        former: Option<Box<Former>>,
    ) -> Result<(), Unsent> {
        let Some(flow) = self.flows.get_mut(key) else {
            return Err(Unsent::Dropped(DatagramDrop::Pressure));
        };
        let endpoint = flow.home.live.addr;
        if let Some(earlier) = self.upstreams.get_mut(key.index as usize) {
            *earlier = None;
        }
        let opened = datagram::connect(endpoint).and_then(|socket| {
            watch.flow(socket.as_fd(), key)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                self.attach(key, socket, listener, former);
                Ok(())
            }
            Err(error) => Err(match unsent_of(&error) {
                Unsent::Dropped(reason) => Unsent::Fault(reason, self.fault(&error)),
                refused => refused,
            }),
        }
    }

    /// Gives a flow its socket.
    fn attach(&mut self, key: Key, socket: OwnedFd, listener: u32, former: Option<Box<Former>>) {
        let index = key.index as usize;
        if index >= self.upstreams.len() {
            self.upstreams.resize_with(index + 1, || None);
        }
        self.upstreams[index] = Some(Upstream {
            key,
            socket,
            listener,
            trains: true,
            batch: 1,
            round: self.round,
            former,
        });
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

    /// A flow's socket told an error, of the endpoint's host or of a router on the way. Or none, but
    /// its queue still holds one that a send told: the poller would tell of it for ever.
    fn upstream_failed(&mut self, key: Key, error: &io::Error) {
        if let Unsent::Refused(outcome) = unsent_of(error) {
            self.refused(key, outcome);
        } else if let Some(upstream) = self.upstream(key) {
            datagram::drain_errors(upstream.socket.as_fd());
        }
    }

    fn refused(&mut self, key: Key, outcome: Outcome) {
        if let Some(upstream) = self.upstream(key) {
            datagram::drain_errors(upstream.socket.as_fd());
            // The error is an earlier datagram's, which is lost; its size nobody tells.
            let lost = Load {
                bytes: 0,
                datagrams: 1,
            };
            self.drop_datagrams(key, DatagramDrop::Unreachable, lost);
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

    fn thread(&self) -> &crate::metrics::ThreadMetrics {
        self.settings.metrics.thread(self.settings.thread)
    }
}

/// Multicast, or the broadcast address of every network.
fn is_for_many(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
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

/// Messages of a listener at a time: few when few come, so that the call prepares few.
const BATCH_MIN: usize = 4;
/// Messages of one flow at a time, so that it can't keep the others waiting.
const ANSWER_BATCH: usize = 16;
/// Endpoints that one datagram is offered to.
const ATTEMPTS_MAX: usize = 3;
