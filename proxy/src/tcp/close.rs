//! The end of a session: how its sockets are closed, and its one record.

use std::time::Duration;

use fairlead_config::{frontend::Protocol, policy::AccessLog};
use fairlead_runtime::clock::Tick;

use super::{
    relay::{Failure, Relay, Turn, Which},
    session::{Phase, Session},
    slab::Key,
    worker::Worker,
};
use crate::{
    access_log::{self, Reason, Record, Served, Traffic},
    balancer::NoEndpoint,
    connect::{self, GiveUp},
    metrics::{Fault, Metrics},
    registry::Outcome,
};

impl Worker {
    /// Ends a session: takes it out, closes its sockets, counts and logs it. Does nothing when it
    /// has ended already.
    pub(crate) fn close(&mut self, key: Key, reason: Reason) {
        let Some(mut session) = self.sessions.remove(key) else {
            return;
        };
        self.wheel.disarm(key.index);
        self.gauge.end(session.accepted);
        self.thread().sessions_active.dec();
        let mut traffic = Traffic::default();
        match std::mem::replace(&mut session.phase, Phase::Over) {
            Phase::Relaying(mut relay) => {
                traffic.bytes_up = relay.upward.bytes;
                traffic.bytes_down = relay.downward.bytes;
                relay.release(&mut self.shared);
                shut(relay, reason);
            }
            Phase::Preamble(waiting) => waiting.down.reset(),
            Phase::Dialling(dialling) => dialling.down.reset(),
            Phase::Over => {}
        }
        self.judge(&session, reason, traffic);
        let settlement = Settlement {
            reason,
            traffic,
            now: self.now,
            thread: self.index,
        };
        settlement.settle(&mut session, &self.fleet.metrics, &self.fleet.clock);
        self.tell_when_idle();
    }

    /// What the end says about the endpoint.
    fn judge(&self, session: &Session, reason: Reason, traffic: Traffic) {
        let Some(served) = &session.served else {
            return;
        };
        let outcome = match reason {
            Reason::EndpointReset if traffic.bytes_down == 0 => Outcome::ResetBeforeData,
            Reason::Finished if !session.marks.answered => Outcome::Served,
            _ => return,
        };
        self.report_outcome(&served.live, outcome);
    }
}

/// How a session ended.
pub(crate) struct Settlement {
    pub(crate) reason: Reason,
    pub(crate) traffic: Traffic,
    pub(crate) now: Tick,
    pub(crate) thread: usize,
}

impl Settlement {
    /// Counts and logs a session; a second time does nothing.
    fn settle(
        &self,
        session: &mut Session,
        metrics: &Metrics,
        clock: &fairlead_runtime::clock::Clock,
    ) {
        if std::mem::replace(&mut session.marks.settled, true) {
            return;
        }
        let Some(route) = &session.route else {
            metrics.process.unrouted.inc(self.reason);
            return;
        };
        match &session.served {
            Some(served) => {
                if let Some(member) = &served.member {
                    member.sessions_active.dec();
                    member.sessions_closed.inc(self.reason);
                    member.bytes_up.add(self.traffic.bytes_up);
                    member.bytes_down.add(self.traffic.bytes_down);
                }
                let lasted = self.now - session.accepted;
                route.metrics.session_seconds.observe(lasted);
            }
            None => route.metrics.sessions_unserved.inc(self.reason),
        }
        if route.service.policy.access_log != AccessLog::Off
            && let Some(log) = &route.log
        {
            log.append(self.thread, &self.record(session, clock));
        }
    }

    fn record(&self, session: &Session, clock: &fairlead_runtime::clock::Clock) -> Record {
        let served = session.served.as_ref();
        let extra = session.extra.as_deref();
        let route = session.route.as_ref();
        Record {
            ended: access_log::time(clock, self.now),
            protocol: Protocol::Tcp,
            service: route.map(|route| route.service.name.clone()),
            frontend: route.map(|route| route.frontend.name.clone()),
            client: session.client,
            local: session.local,
            peer: extra.and_then(|extra| extra.peer),
            served: served.map(|served| Served {
                member: served.live.member.name.clone(),
                endpoint: served.live.addr,
                tier: served.tier,
            }),
            sni: extra.and_then(|extra| extra.host.clone()),
            reason: self.reason,
            duration: self.now - session.accepted,
            connect: served.map(|served| Duration::from_micros(served.connect_micros.into())),
            traffic: self.traffic,
            attempts: session.summary.attempts,
            hedged: session.summary.hedges > 0,
            rehomed: 0,
        }
    }
}

/// Why a session ended, from what the relay says; none while it goes on.
pub(crate) fn reason_of(turn: Turn) -> Option<Reason> {
    Some(match turn {
        Turn::Waits | Turn::More => return None,
        Turn::Finished => Reason::Finished,
        Turn::Failed(Which::Down, Failure::Reset) => Reason::ClientReset,
        Turn::Failed(Which::Up, Failure::Reset) => Reason::EndpointReset,
        Turn::Failed(Which::Down, Failure::Unreachable) => Reason::ClientUnreachable,
        Turn::Failed(Which::Up, Failure::Unreachable) => Reason::EndpointUnreachable,
        Turn::Failed(_, Failure::Local) => Reason::LocalFault,
    })
}

/// Why a session got no endpoint. `fault` is this host's last one.
pub(crate) fn reason_of_give_up(give_up: GiveUp, fault: Option<Fault>) -> Reason {
    match give_up {
        GiveUp::NoEndpoint(NoEndpoint::Full) => Reason::LimitEndpoint,
        GiveUp::NoEndpoint(_) => Reason::NoEndpoint,
        GiveUp::Refused | GiveUp::Unreachable => Reason::ConnectRefused,
        GiveUp::TimedOut => Reason::ConnectTimeout,
        GiveUp::Ours(connect::Failure::OutOfResources) => match fault {
            Some(Fault::Fds) => Reason::FdPressure,
            Some(Fault::Memory) => Reason::MemoryPressure,
            _ => Reason::LocalFault,
        },
        GiveUp::Ours(_) => Reason::LocalFault,
    }
}

/// This host's fault behind an error number, if it is one.
pub(crate) fn fault_of(errno: i32) -> Option<Fault> {
    match errno {
        libc::EMFILE | libc::ENFILE => Some(Fault::Fds),
        libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC => Some(Fault::Memory),
        libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EAGAIN => Some(Fault::Ports),
        libc::EPERM | libc::EACCES => Some(Fault::Permission),
        _ => None,
    }
}

/// Closes both sides: in order after an orderly end, and with a RST where the other side did so or
/// where we cut. A side that is gone already is just closed.
fn shut(relay: Relay, reason: Reason) {
    let Relay { down, up, .. } = relay;
    match reason {
        Reason::Finished => {}
        Reason::ClientReset => up.reset(),
        Reason::EndpointReset => down.reset(),
        _ => {
            up.reset();
            down.reset();
        }
    }
}
