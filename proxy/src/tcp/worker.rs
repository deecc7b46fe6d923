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
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use fairlead_runtime::clock::Tick;

use super::{
    Fleet,
    accept::{Listener, spare, watch},
    close::reason_of,
    handoff::{Gauge, WINDOW},
    leg::{Side, Watched},
    relay::{Shared, TURN_BYTES, Turn},
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
    registry::Outcome,
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
    /// The empty ones of them.
    pub(crate) free_slots: Vec<usize>,
    pub(crate) gauge: Gauge,
    pub(crate) now: Tick,
    /// See [`spare`].
    pub(crate) spare: Option<OwnedFd>,
    /// Some listener is paused.
    pub(crate) paused: bool,
    pub(crate) last_fault: Option<Fault>,
    /// Sessions with more to do.
    runnable: VecDeque<Key>,
    pub(crate) cutting: VecDeque<Cutting>,
    /// See [`super::datagrams`].
    pub(crate) datagrams: Option<Box<Datagrams>>,
    pub(crate) seed: u64,
    pub(crate) due: Vec<u32>,
    housekeeping: Tick,
    /// The load that the other threads see.
    published: u32,
    pub(crate) state: State,
}

/// A session that is to be reset when the pace allows.
#[derive(Debug)]
pub(crate) struct Cutting {
    pub(crate) key: Key,
    pub(crate) reason: Reason,
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// How far a thread is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
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
            free_slots: Vec::new(),
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
        if session.marks.queued {
            return;
        }
        // Bulk lets the small messages of this round go first.
        if matches!(&session.phase, Phase::Relaying(relay) if relay.is_bulk()) {
            session.marks.queued = true;
            return self.runnable.push_back(key);
        }
        self.relay_turn(key);
    }

    /// Gives sessions that move much, or had more to do, one turn each, until so much has moved that
    /// the poller should be asked again: a small message waits for two turns of bulk at most, however
    /// many streams there are.
    fn run_queued(&mut self) {
        let enough = self.shared.moved() + TURN_BYTES as u64;
        for _ in 0..self.runnable.len() {
            if self.shared.moved() >= enough {
                return;
            }
            let Some(key) = self.runnable.pop_front() else {
                return;
            };
            if let Some(session) = self.sessions.get_mut(key) {
                session.marks.queued = false;
                self.relay_turn(key);
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
const CUT_ROUND: Duration = Duration::from_millis(10);
const PAUSED_ROUND: Duration = Duration::from_millis(10);
