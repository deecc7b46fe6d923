//! Connecting: the shell around [`crate::connect`], which decides.

use std::{io, os::fd::OwnedFd, sync::Arc};

use fairlead_config::frontend::Protocol;
use smallvec::SmallVec;

use super::{
    accept::watch,
    close::{fault_of, reason_of_give_up},
    leg::Side,
    relay::Relay,
    route::Route,
    session::{Dialling, Phase, Served, Straggler, Token},
    slab::Key,
    worker::Worker,
};
use crate::{
    access_log::Reason,
    balancer::FlowKey,
    connect::{Action, Actions, AttemptId, Connecting, Event, Failure},
    health::note,
    metrics::{ConnectResult, MemberMetrics},
    proxy_protocol,
    registry::{EndpointState, Live, Outcome},
    sys::{
        poll::{Interest, Ready},
        tcp,
    },
};

impl Worker {
    /// Looks for an endpoint; `rest` is what the client said already.
    pub(crate) fn dial(&mut self, key: Key, down: Side, rest: Vec<u8>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(route) = &session.route else {
            return;
        };
        let policy = &route.service.policy;
        let (prefix, header_len) = match policy.proxy_protocol {
            None => (rest, 0),
            Some(version) => {
                let mut header = Vec::with_capacity(rest.len() + 107);
                proxy_protocol::encode(version, session.client, session.local, &mut header);
                let header_len = header.len();
                header.extend_from_slice(&rest);
                (header, header_len)
            }
        };
        session.phase = Phase::Dialling(Box::new(Dialling {
            down,
            policy: Connecting::new(policy, self.now),
            key: FlowKey {
                client: session.client,
                local: session.local,
                protocol: Protocol::Tcp,
            },
            sockets: SmallVec::new(),
            began: self.now,
            prefix,
            header_len,
        }));
        self.step(key, Event::Begin);
    }

    /// A connect was answered, or failed.
    pub(crate) fn attempt_ready(&mut self, key: Key, attempt: AttemptId, ready: Ready) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Phase::Dialling(dialling) = &mut session.phase else {
            return;
        };
        let sockets = &dialling.sockets;
        let Some(place) = sockets.iter().position(|(id, _)| *id == attempt) else {
            return;
        };
        let event = if ready.failed() {
            let (_, socket) = dialling.sockets.remove(place);
            let errno = tcp::take_error(&socket).and_then(|error| error.raw_os_error());
            let errno = errno.unwrap_or(libc::ECONNREFUSED);
            Event::Failed(attempt, self.note_failure(errno))
        } else if ready.writable() {
            Event::Connected(attempt)
        } else {
            return;
        };
        self.step(key, event);
        // Bytes of an endpoint that speaks first came with the same event.
        if ready.readable()
            && let Some(session) = self.sessions.get_mut(key)
            && let Phase::Relaying(relay) = &mut session.phase
        {
            relay.up.note(ready);
            self.relay_turn(key);
        }
    }

    /// Time passed while connecting: maybe a hedge is due.
    pub(crate) fn dialling_due(&mut self, key: Key) {
        // The client isn't watched before: it can't matter within a few milliseconds.
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(down) = session.down()
            && let Err(error) = watch(&self.poller, down, Token::Down(key))
        {
            return self.close_for_fault(key, &error);
        }
        self.step(key, Event::Woken);
    }

    /// Tells the policy what happened and does what it answers, until it waits.
    fn step(&mut self, key: Key, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let Some(actions) = self.ask(key, event) else {
                return;
            };
            for action in actions {
                match action {
                    Action::Dial { attempt, endpoint } => next = self.open(key, attempt, &endpoint),
                    Action::Report { endpoint, outcome } => self.report(key, &endpoint, outcome),
                    Action::Serve {
                        attempt,
                        live,
                        tier,
                    } => return self.serve(key, attempt, live, tier),
                    Action::GiveUp(reason) => {
                        let reason = reason_of_give_up(reason, self.last_fault);
                        return self.close(key, reason);
                    }
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(key)
            && let Phase::Dialling(dialling) = &session.phase
            && let Some(wake) = dialling.policy.next_wake()
        {
            self.wheel.arm(key.index, wake);
        }
    }

    fn ask(&mut self, key: Key, event: Event) -> Option<Actions> {
        let session = self.sessions.get_mut(key)?;
        let route = session.route.as_ref()?;
        let Phase::Dialling(dialling) = &mut session.phase else {
            return None;
        };
        let (flow, draw, now) = (dialling.key, &mut self.draw, self.now);
        let actions = dialling.policy.step(event, now, &mut |tried| {
            route.state.pick(&flow, draw, now, tried)
        });
        session.summary = dialling.policy.summary();
        Some(actions)
    }

    /// Begins a connect; the answer is the event of one that failed at once.
    fn open(&mut self, key: Key, attempt: AttemptId, endpoint: &EndpointState) -> Option<Event> {
        let token = Token::Up(key, attempt).pack();
        let opened = tcp::connect(&endpoint.addr).and_then(|socket| {
            self.poller.add(&socket, token, Interest::ReadWrite)?;
            Ok(socket)
        });
        let session = self.sessions.get_mut(key)?;
        let Phase::Dialling(dialling) = &mut session.phase else {
            return None;
        };
        match opened {
            Ok(socket) => {
                dialling.sockets.push((attempt, socket));
                None
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Some(Event::Failed(attempt, self.note_failure(errno)))
            }
        }
    }

    fn note_failure(&mut self, errno: i32) -> Failure {
        let failure = Failure::from_errno(errno);
        if matches!(failure, Failure::OutOfPorts | Failure::OutOfResources) {
            self.last_fault = fault_of(errno);
            if let Some(fault) = self.last_fault {
                self.fleet.metrics.process.faults.inc(fault);
            }
        }
        failure
    }

    /// An endpoint answered: relays from now on.
    fn serve(&mut self, key: Key, attempt: AttemptId, live: Live, tier: u8) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let phase = std::mem::replace(&mut session.phase, Phase::Over);
        let (Phase::Dialling(dialling), Some(route)) = (phase, &session.route) else {
            return;
        };
        let Dialling {
            down,
            policy,
            mut sockets,
            began,
            prefix,
            header_len,
            ..
        } = *dialling;
        let Some(place) = sockets.iter().position(|(id, _)| *id == attempt) else {
            return;
        };
        let (_, socket) = sockets.remove(place);
        let member = route.member(live.member.identity).cloned();
        if let Some(member) = &member {
            member.sessions_opened.inc();
            member.sessions_active.inc();
        }
        live.counts
            .sessions
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        session.served = Some(Served {
            live,
            member,
            tier,
            attempt,
            connect_micros: u32::try_from((self.now - began).as_micros()).unwrap_or(u32::MAX),
        });
        count_hedges(route, session.summary);
        let mut relay = Relay::new(down, Side::connected(socket));
        if !prefix.is_empty() {
            relay.upward.begin_with(prefix, header_len);
        }
        session.phase = Phase::Relaying(relay);
        session.active = self.now;
        let route = route.clone();
        self.keep_stragglers(policy, sockets, &route);
        self.relay_turn(key);
    }

    fn keep_stragglers(
        &mut self,
        policy: Connecting,
        mut sockets: SmallVec<[(AttemptId, OwnedFd); 2]>,
        route: &Arc<Route>,
    ) {
        for loser in policy.into_losers() {
            let Some(place) = sockets.iter().position(|(id, _)| *id == loser.attempt) else {
                continue;
            };
            let (_, socket) = sockets.remove(place);
            let wake = loser.next_wake();
            let key = self.stragglers.insert_with(|_| Straggler {
                socket,
                loser,
                route: route.clone(),
            });
            let Some(straggler) = self.stragglers.get_mut(key) else {
                continue;
            };
            let token = Token::Straggler(key).pack();
            let changed = self
                .poller
                .change(&straggler.socket, token, Interest::ReadWrite);
            match changed {
                Ok(()) => {
                    self.straggler_wheel.arm(key.index, wake);
                    self.thread().stragglers.inc();
                }
                Err(_) => drop(self.stragglers.remove(key)),
            }
        }
    }

    /// A connect that lost its race was answered, or failed.
    pub(crate) fn straggler_ready(&mut self, key: Key, ready: Ready) {
        let Some(straggler) = self.stragglers.remove(key) else {
            return;
        };
        self.straggler_wheel.disarm(key.index);
        if ready.failed() {
            let errno = tcp::take_error(&straggler.socket).and_then(|error| error.raw_os_error());
            let failure = Failure::from_errno(errno.unwrap_or(libc::ECONNREFUSED));
            let outcome = straggler.loser.failed(failure);
            self.end_straggler(straggler, outcome, result_of(failure.outcome()));
        } else {
            let outcome = straggler.loser.connected(self.now);
            self.end_straggler(straggler, Some(outcome), ConnectResult::Lost);
        }
    }

    /// The time of a connect that lost its race has come.
    pub(crate) fn straggler_due(&mut self, index: u32) {
        let Some(key) = self.stragglers.key_at(index) else {
            return;
        };
        let now = self.now;
        let Some(straggler) = self.stragglers.get_mut(key) else {
            return;
        };
        let (outcome, over) = straggler.loser.woken(now);
        let live = straggler.loser.live.clone();
        if over {
            if let Some(straggler) = self.stragglers.remove(key) {
                self.end_straggler(straggler, outcome, ConnectResult::TimedOut);
            }
        } else {
            self.straggler_wheel.arm(index, straggler.loser.next_wake());
            if let Some(outcome) = outcome {
                self.report_outcome(&live, outcome);
            }
        }
    }

    fn end_straggler(
        &mut self,
        straggler: Straggler,
        outcome: Option<Outcome>,
        result: ConnectResult,
    ) {
        let Straggler {
            socket,
            loser,
            route,
        } = straggler;
        if let Some(member) = route.member(loser.live.member.identity) {
            member.connects.inc(result);
        }
        if let Some(outcome) = outcome {
            self.report_outcome(&loser.live, outcome);
        }
        self.thread().stragglers.dec();
        tcp::reset(socket);
    }

    fn report(&mut self, key: Key, endpoint: &Arc<EndpointState>, outcome: Outcome) {
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(route) = &session.route
            && let Some(member) = route.member(endpoint.member.identity)
        {
            count_connect(member, outcome);
        }
        self.report_outcome(endpoint, outcome);
    }

    /// Tells the endpoint's state, and the health owner when that may change a verdict.
    pub(crate) fn report_outcome(&self, endpoint: &Arc<EndpointState>, outcome: Outcome) {
        if let Some(report) = note(endpoint, outcome, self.now) {
            self.fleet.reports.push(report);
        }
    }

    /// Ends a session because this host can't serve it.
    pub(crate) fn close_for_fault(&mut self, key: Key, error: &io::Error) {
        let fault = fault_of(error.raw_os_error().unwrap_or(0));
        if let Some(fault) = fault {
            self.fleet.metrics.process.faults.inc(fault);
        }
        self.close(
            key,
            match fault {
                Some(crate::metrics::Fault::Fds) => Reason::FdPressure,
                Some(crate::metrics::Fault::Memory) => Reason::MemoryPressure,
                _ => Reason::LocalFault,
            },
        );
    }
}

fn count_hedges(route: &Route, summary: crate::connect::Summary) {
    let metrics = &route.metrics;
    // The common session had one attempt and touches none of these.
    if summary.attempts > 1 {
        metrics.retries.add(summary.retries.into());
        metrics.hedges.add(summary.hedges.into());
        metrics.hedges_won.add(summary.won_by_hedge.into());
    }
    if summary.hedges_refused > 0 {
        metrics
            .hedges_over_budget
            .add(summary.hedges_refused.into());
    }
}

fn count_connect(member: &MemberMetrics, outcome: Outcome) {
    member.connects.inc(result_of(outcome));
    if let Outcome::Connected(took) = outcome {
        member.connect_seconds.observe(took);
    }
}

fn result_of(outcome: Outcome) -> ConnectResult {
    match outcome {
        Outcome::Connected(_) | Outcome::Served => ConnectResult::Connected,
        Outcome::Refused | Outcome::ResetBeforeData => ConnectResult::Refused,
        Outcome::Unreachable => ConnectResult::Unreachable,
        Outcome::TimedOut => ConnectResult::TimedOut,
        Outcome::Ours => ConnectResult::LocalFault,
    }
}
