//! One data thread: a loop over what the poller tells.
//!
//! Each round waits once, reads the clock once, and then does for every event what can be done
//! without waiting. Sessions are plain values in a slab, advanced by the events of their two
//! sockets: no task, no future and no waker stand between the kernel and the relay, so a round
//! costs what a bare epoll loop costs. Nothing is shared with other threads but counters, routes
//! and the mailbox.
//!
//! Why no async runtime here: one task a connection costs two removals from epoll, a timer, two
//! reference-counted registrations and a scheduling round a message, about 5 % of a connection and
//! 10 % of a small request.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use fairlead_config::frontend::Protocol;
use fairlead_runtime::clock::Tick;

use super::{
    Command, Fleet, Queues, Start,
    accept::{Listener, spare, watch},
    close::reason_of,
    handoff::{Gauge, WINDOW},
    leg::{Side, Watched},
    relay::{Shared, Turn},
    session::{Phase, Session, Straggler, Token},
    slab::{Key, Slab},
    wheel::Wheel,
};
use crate::{
    access_log::Reason,
    balancer::draw::Draw,
    health::note,
    metrics::{Fault, ThreadMetrics},
    proxy_protocol,
    registry::{EndpointId, Flags, Outcome},
    sys::{
        poll::{Interest, Poller, Ready},
        tcp,
    },
    udp::io::Datagrams,
};

/// A data thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) poller: Poller,
    pub(crate) sessions: Slab<Session>,
    pub(crate) wheel: Wheel,
    pub(crate) stragglers: Slab<Straggler>,
    pub(crate) straggler_wheel: Wheel,
    pub(crate) shared: Shared,
    pub(crate) draw: Draw,
    pub(crate) listeners: Vec<Option<Listener>>,
    pub(crate) gauge: Gauge,
    pub(crate) now: Tick,
    /// See [`spare`].
    pub(crate) spare: Option<OwnedFd>,
    /// Some listener is paused.
    pub(crate) paused: bool,
    pub(crate) last_fault: Option<Fault>,
    /// Sessions with more to do.
    runnable: VecDeque<Key>,
    cutting: VecDeque<Cutting>,
    /// See [`super::datagrams`].
    pub(crate) datagrams: Option<Box<Datagrams>>,
    pub(crate) seed: u64,
    due: Vec<u32>,
    housekeeping: Tick,
    /// The load that the other threads see.
    published: u32,
    state: State,
}

/// A session that is to be reset when the pace allows.
#[derive(Debug)]
struct Cutting {
    key: Key,
    reason: Reason,
    cancelled: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Serving,
    /// Tells when the last session has ended.
    Draining,
    Over,
}

impl Worker {
    pub(crate) fn new(index: usize, fleet: Arc<Fleet>, seed: u64) -> io::Result<Self> {
        let poller = Poller::new(EVENTS_MAX)?;
        let mailbox = Token::Mailbox.pack();
        poller.add(fleet.mailboxes[index].waker(), mailbox, Interest::Level)?;
        let now = fleet.clock.now();
        Ok(Self {
            index,
            fleet,
            poller,
            sessions: Slab::new(),
            wheel: Wheel::new(now),
            stragglers: Slab::new(),
            straggler_wheel: Wheel::new(now),
            shared: Shared::new(),
            draw: Draw::new(seed),
            listeners: Vec::new(),
            gauge: Gauge::new(now),
            now,
            spare: spare(),
            paused: false,
            last_fault: None,
            runnable: VecDeque::new(),
            cutting: VecDeque::new(),
            datagrams: None,
            seed,
            due: Vec::new(),
            housekeeping: now,
            published: 0,
            state: State::Serving,
        })
    }

    /// Runs until it is told to end.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while self.state != State::Over {
            let ready = self.poller.wait(self.patience())?;
            self.now = self.fleet.clock.now();
            for index in 0..ready {
                if let Some((token, ready)) = self.poller.event(index) {
                    self.handle(Token::unpack(token), ready);
                }
            }
            self.run_queued();
            self.publish_load();
            self.fire();
            self.finish_datagrams();
            self.cut();
            if self.paused {
                self.resume_listeners();
            }
            if self.now - self.housekeeping >= HOUSEKEEPING {
                self.keep_house();
            }
        }
        self.reset_all(Reason::Shutdown);
        self.end_flows(Reason::Shutdown);
        self.keep_house();
        Ok(())
    }

    /// This thread's counters.
    pub(crate) fn thread(&self) -> &ThreadMetrics {
        self.fleet.metrics.thread(self.index)
    }

    /// One turn of a served session.
    pub(crate) fn relay_turn(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Phase::Relaying(relay) = &mut session.phase else {
            return;
        };
        if session.marks.guarded {
            match guard(&mut relay.down) {
                Guard::Passed => session.marks.guarded = false,
                Guard::Undecided => relay.down.readable = false,
                Guard::Refused => return self.close(key, Reason::ProxyHeaderInvalid),
            }
        }
        let turn = relay.turn(&mut self.shared);
        if !session.marks.answered && relay.downward.bytes > 0 {
            session.marks.answered = true;
            if let Some(served) = &session.served {
                // The first byte may end an ejection.
                if let Some(report) = note(&served.live, Outcome::Served, self.now) {
                    self.fleet.reports.push(report);
                }
            }
        }
        if let Some(reason) = reason_of(turn) {
            return self.close(key, reason);
        }
        if turn == Turn::More {
            session.marks.queued = true;
            self.runnable.push_back(key);
            return;
        }
        if let Err(error) = watch_sides(&self.poller, session, key) {
            return self.close_for_fault(key, &error);
        }
        if let Phase::Relaying(relay) = &session.phase
            && session.half_since == Tick::MAX
            && relay.is_half_closed()
        {
            session.half_since = self.now;
            if let Some(deadline) = session.next_deadline() {
                self.wheel.arm(key.index, deadline);
            }
        }
    }

    fn handle(&mut self, token: Token, ready: Ready) {
        match token {
            Token::Down(key) => self.side_ready(key, None, ready),
            Token::Up(key, attempt) => self.side_ready(key, Some(attempt), ready),
            Token::Listener(slot) => self.accept_ready(slot),
            Token::Straggler(key) => self.straggler_ready(key, ready),
            Token::Datagrams(slot) => self.datagrams_ready(slot),
            Token::Flow(key) => self.flow_ready(key),
            Token::Mailbox => self.read_mailbox(),
        }
    }

    fn side_ready(&mut self, key: Key, attempt: Option<crate::connect::AttemptId>, ready: Ready) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.active = self.now;
        match (&mut session.phase, attempt) {
            (Phase::Relaying(relay), None) => relay.down.note(ready),
            (Phase::Relaying(relay), Some(attempt)) => {
                let serving = session.served.as_ref().map(|served| served.attempt);
                if serving != Some(attempt) {
                    return;
                }
                relay.up.note(ready);
            }
            (Phase::Dialling(_), Some(attempt)) => {
                return self.attempt_ready(key, attempt, ready);
            }
            (Phase::Dialling(dialling), None) => {
                dialling.down.note(ready);
                if ready.failed() {
                    self.close(key, Reason::ClientGone);
                }
                return;
            }
            (Phase::Preamble(waiting), _) => {
                waiting.down.note(ready);
                return self.read_preamble(key);
            }
            (Phase::Over, _) => return,
        }
        if !session.marks.queued {
            self.relay_turn(key);
        }
    }

    /// Gives each session that had more to do one turn.
    fn run_queued(&mut self) {
        for _ in 0..self.runnable.len() {
            let Some(key) = self.runnable.pop_front() else {
                return;
            };
            if let Some(session) = self.sessions.get_mut(key) {
                session.marks.queued = false;
                self.relay_turn(key);
            }
        }
    }

    fn fire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.fire(self.now, &mut due);
        for index in due.drain(..) {
            if let Some(key) = self.sessions.key_at(index) {
                self.session_due(key);
            }
        }
        self.straggler_wheel.fire(self.now, &mut due);
        for index in due.drain(..) {
            self.straggler_due(index);
        }
        self.due = due;
    }

    /// A deadline of a session may have come.
    fn session_due(&mut self, key: Key) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let guarded_until = session.accepted + fairlead_config::frontend::PREAMBLE_TIMEOUT;
        let relay = match &session.phase {
            Phase::Preamble(_) => {
                if now >= guarded_until {
                    self.close(key, Reason::PreambleTimeout);
                } else {
                    self.wheel.arm(key.index, guarded_until);
                }
                return;
            }
            Phase::Dialling(_) => return self.dialling_due(key),
            Phase::Relaying(relay) => relay,
            Phase::Over => return,
        };
        let Some(route) = &session.route else {
            return;
        };
        // Not at once: a session of milliseconds needs none of these options.
        if !session.marks.live_checked {
            session.marks.live_checked = true;
            let liveness = route.liveness();
            // A socket that refuses is gone, which its next event tells.
            let _gone = tcp::set_liveness(relay.up.tcp(), &liveness);
            if session.marks.own_options {
                let _gone = tcp::set_liveness(relay.down.tcp(), &liveness);
            }
        }
        // What is still undecided after so long is no header.
        if session.marks.guarded {
            if now < guarded_until {
                return self.wheel.arm(key.index, guarded_until);
            }
            session.marks.guarded = false;
            if let Phase::Relaying(relay) = &mut session.phase {
                relay.down.readable = true;
            }
            self.wheel.arm(key.index, now + GUARD_LOOK);
            return self.relay_turn(key);
        }
        let timeouts = &route.service.policy.timeouts;
        let past = |since: Tick, limit: Option<Duration>| {
            limit.is_some_and(|limit| since < Tick::MAX && now >= since + limit)
        };
        if past(session.accepted, timeouts.lifetime) {
            self.close(key, Reason::LifetimeTimeout);
        } else if past(session.half_since, timeouts.half_closed) {
            self.close(key, Reason::HalfClosedTimeout);
        } else if past(session.active, timeouts.idle) {
            self.close(key, Reason::IdleTimeout);
        } else if let Some(deadline) = session.next_deadline() {
            self.wheel.arm(key.index, deadline);
        }
    }

    fn read_mailbox(&mut self) {
        for command in self.fleet.mailboxes[self.index].take() {
            match command {
                Command::Take(handed) => {
                    self.take(handed);
                    self.publish_load();
                    // It was counted here already when it was passed on.
                    self.fleet.loads.adjust(self.index, -1);
                    self.fleet.in_transit.fetch_sub(1, Relaxed);
                }
                Command::Listen {
                    id,
                    socket,
                    bind,
                    start,
                } => match bind.protocol {
                    Protocol::Tcp => self.listen(id, socket, bind.addr),
                    Protocol::Udp => {
                        self.listen_datagrams(id, socket, bind.addr, start == Start::Held);
                    }
                },
                Command::Freeze(reply) => {
                    let frozen = self.freeze_datagrams().into_iter();
                    let frozen = frozen.map(|it| (it.listener, it.row, it.socket));
                    // Whoever asked may be gone; then the flows end here.
                    let _gone = reply.try_send(frozen.collect());
                }
                Command::Adopt { id, flows } => self.adopt_flows(id, flows),
                Command::Release => self.release_datagrams(),
                Command::Unlisten { id } => self.unlisten(id, Queues::Empty),
                Command::Cut {
                    endpoint,
                    reason,
                    cancelled,
                } => self.begin_cut(endpoint, reason, &cancelled),
                Command::Drain(queues) => {
                    self.state = State::Draining;
                    for slot in 0..self.listeners.len() {
                        if let Some(Some(listener)) = self.listeners.get(slot) {
                            self.unlisten(listener.id, queues);
                        }
                    }
                    if queues == Queues::Leave {
                        self.leave_datagrams();
                    }
                    self.fleet.closed.fetch_add(1, Relaxed);
                    self.tell_when_idle();
                }
                Command::End => self.state = State::Over,
            }
        }
    }

    fn listen(&mut self, id: u32, socket: Arc<OwnedFd>, addr: std::net::SocketAddr) {
        let free = self.listeners.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.listeners.push(None);
            self.listeners.len() - 1
        });
        let mut listener = Listener::new(id, socket, addr);
        let token = Token::Listener(slot as u32).pack();
        if self
            .poller
            .add(&listener.socket, token, Interest::Level)
            .is_err()
        {
            listener.paused_until = Some(self.now);
            self.paused = true;
        }
        self.listeners[slot] = Some(listener);
    }

    fn unlisten(&mut self, id: u32, queues: Queues) {
        let is_meant =
            |listener: &Option<Listener>| listener.as_ref().is_some_and(|it| it.id == id);
        let Some(slot) = self.listeners.iter().position(is_meant) else {
            return self.unlisten_datagrams(id);
        };
        if queues == Queues::Empty {
            self.accept_all(slot as u32);
        }
        if let Some(listener) = self.listeners[slot].take() {
            // It may live on in another process, so closing it here doesn't take it out.
            let _paused = self.poller.remove(&listener.socket);
        }
    }

    fn begin_cut(&mut self, endpoint: EndpointId, reason: Reason, cancelled: &Arc<AtomicBool>) {
        self.expel_flows(endpoint);
        for index in 0..self.sessions.bound() {
            let Some(key) = self.sessions.key_at(index) else {
                continue;
            };
            let session = self.sessions.get_mut(key);
            let served = session.and_then(|session| session.served.as_ref());
            if served.is_some_and(|served| served.live.id == endpoint) {
                self.cutting.push_back(Cutting {
                    key,
                    reason,
                    cancelled: cancelled.clone(),
                });
            }
        }
    }

    /// Resets what the pace of its service allows.
    fn cut(&mut self) {
        for _ in 0..self.cutting.len() {
            let Some(cutting) = self.cutting.pop_front() else {
                return;
            };
            let Some(session) = self.sessions.get_mut(cutting.key) else {
                continue;
            };
            let served = session.served.as_ref();
            let back = cutting.reason == Reason::EndpointRemoved
                && served.is_some_and(|served| !served.live.flags().has(Flags::REMOVED));
            if back || cutting.cancelled.load(Relaxed) {
                continue;
            }
            let allowed = session
                .route
                .as_ref()
                .is_none_or(|route| route.pace.take(self.now));
            if allowed {
                self.close(cutting.key, cutting.reason);
            } else {
                self.cutting.push_back(cutting);
            }
        }
    }

    fn reset_all(&mut self, reason: Reason) {
        for index in 0..self.sessions.bound() {
            if let Some(key) = self.sessions.key_at(index) {
                self.close(key, reason);
            }
        }
    }

    /// What needn't happen at every round.
    fn keep_house(&mut self) {
        self.housekeeping = self.now;
        self.shared.pipes.trim();
        let (copied, spliced) = (self.shared.copied, self.shared.spliced);
        self.thread().bytes_copied.add(copied);
        self.thread().bytes_spliced.add(spliced);
        self.thread().pipes.set(self.shared.pipes.count() as i64);
        (self.shared.copied, self.shared.spliced) = (0, 0);
    }

    /// Lets the other threads know how much there is to do here.
    pub(crate) fn publish_load(&mut self) {
        if self.fleet.threads() > 1 {
            let load = self.gauge.load(self.now);
            if load != self.published {
                let more = load.cast_signed() - self.published.cast_signed();
                self.published = load;
                self.fleet.loads.adjust(self.index, more);
            }
        }
    }

    /// Whether connections may be passed to other threads.
    pub(crate) fn may_hand_over(&self) -> bool {
        self.state == State::Serving && self.fleet.threads() > 1
    }

    pub(crate) fn tell_when_idle(&self) {
        if self.state == State::Draining && self.sessions.len() == 0 {
            self.fleet.reports.wake();
        }
    }

    /// How long the poller may wait.
    fn patience(&self) -> Option<Duration> {
        if !self.runnable.is_empty() {
            return Some(Duration::ZERO);
        }
        let wheels = [
            self.wheel.wait(self.now),
            self.straggler_wheel.wait(self.now),
        ];
        let cutting = (!self.cutting.is_empty()).then_some(CUT_ROUND);
        let paused = self.paused.then_some(PAUSED_ROUND);
        let counts = self.shared.copied > 0 || self.shared.spliced > 0;
        let house = (counts || self.shared.pipes.count() > 0)
            .then(|| (self.housekeeping + HOUSEKEEPING) - self.now);
        let shared = self.fleet.threads() > 1 && !self.gauge.is_settled(self.published);
        let unsettled = shared.then_some(2 * WINDOW);
        let datagrams = self.datagrams.as_ref();
        let flows = datagrams.and_then(|datagrams| datagrams.wait(self.now));
        let waits = wheels
            .into_iter()
            .chain([cutting, paused, house, unsettled, flows]);
        waits.flatten().min()
    }
}

impl Drop for Worker {
    /// Nothing is left but after a panic; each session is recorded all the same.
    fn drop(&mut self) {
        self.reset_all(Reason::Abandoned);
        self.end_flows(Reason::Abandoned);
    }
}

/// What the first bytes of a client that must not send a PROXY header show.
enum Guard {
    Passed,
    Undecided,
    Refused,
}

fn guard(down: &mut Side) -> Guard {
    let mut head = [0; 16];
    if !down.readable {
        return Guard::Undecided;
    }
    match tcp::peek(down.tcp(), &mut head) {
        Ok(_) if down.finished => Guard::Passed,
        Ok(len) if !proxy_protocol::looks_like_header(&head[..len]) => Guard::Passed,
        // The shorter signature is "PROXY ", the longer one takes 12 bytes.
        Ok(len) if len >= 12 || (len >= 6 && head[0] == b'P') => Guard::Refused,
        Ok(_) => Guard::Undecided,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Guard::Undecided,
        Err(_) => Guard::Passed,
    }
}

/// Lets the poller tell what a waiting session needs to know: bytes of both sides, and room where
/// a send came back short.
fn watch_sides(poller: &Poller, session: &mut Session, key: Key) -> io::Result<()> {
    let Phase::Relaying(relay) = &mut session.phase else {
        return Ok(());
    };
    watch(poller, &mut relay.down, Token::Down(key))?;
    if !relay.down.writable && relay.down.watched == Watched::Read {
        poller.change(
            relay.down.tcp(),
            Token::Down(key).pack(),
            Interest::ReadWrite,
        )?;
        relay.down.watched = Watched::ReadWrite;
    }
    Ok(())
}

/// Enough for a busy round; 12 bytes each.
const EVENTS_MAX: usize = 256;
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// When the deadlines of a session that was guarded are looked at.
const GUARD_LOOK: Duration = Duration::from_millis(100);
const CUT_ROUND: Duration = Duration::from_millis(10);
const PAUSED_ROUND: Duration = Duration::from_millis(10);
