//! What is due by time alone: preambles, connects, idle sessions, connects that lost their race.

use std::time::Duration;

use fairlead_config::frontend::PREAMBLE_TIMEOUT;
use fairlead_runtime::clock::Tick;

use super::{session::Phase, slab::Key, worker::Worker};
use crate::{access_log::Reason, sys::tcp};

impl Worker {
    pub(crate) fn fire(&mut self) {
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
        let guarded_until = session.accepted + PREAMBLE_TIMEOUT;
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
}

/// When the deadlines of a session that was guarded are looked at.
const GUARD_LOOK: Duration = Duration::from_millis(100);
