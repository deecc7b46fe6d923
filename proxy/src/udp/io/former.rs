//! Sockets to endpoints that flows have left: answers may be under way when a flow is re-homed, and the
//! client asks only once.
//!
//! A flow has one at most. The poller tells of it under the flow's key, like of its present socket.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use fairlead_runtime::clock::Tick;

use super::{
    ANSWER_BATCH, Answer, Datagrams, Upstream,
    errors::{Unsent, unsent_of},
    load_of,
};
use crate::{
    access_log::Traffic,
    metrics::DatagramDrop,
    sys::datagram,
    udp::{flow::Load, flows::Key, world::Home},
};

/// How long answers of an endpoint that a flow has left are taken: as long as resolvers wait for one.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// What a flow has left.
#[derive(Debug)]
pub(super) struct Former {
    socket: OwnedFd,
    /// The flow counts there, too, until this ends.
    home: Home,
    /// What came late.
    traffic: Traffic,
    since: Tick,
}

/// Counts what came late.
pub(super) fn end_former(former: Option<Box<Former>>) {
    if let Some(former) = former {
        former.home.count(former.traffic);
    }
}

impl Datagrams {
    /// Counts what a re-homed flow carried where it was, and closes its socket, or keeps it for the
    /// answers that are awaited, where there is room.
    pub(super) fn leave(&mut self, key: Key) -> Option<Box<Former>> {
        let left = self.flows.take_left()?;
        left.home.count(left.traffic);
        let upstream = self.upstreams.get_mut(key.index as usize)?.take()?;
        end_former(upstream.former);
        if !left.awaited || self.flows.len() + self.formers.len() >= self.settings.flows_max {
            return None;
        }
        self.formers.push_back((key, self.now));
        Some(Box::new(Former {
            socket: upstream.socket,
            home: left.home,
            traffic: Traffic::default(),
            since: self.now,
        }))
    }

    /// Flows that are opened come before sockets that flows have left.
    pub(super) fn make_room(&mut self) {
        while self.flows.len() + self.formers.len() > self.settings.flows_max {
            let Some((key, since)) = self.formers.pop_front() else {
                return;
            };
            self.end_former_of(key, since);
        }
    }

    /// Closes those whose time is over.
    pub(super) fn expire_formers(&mut self) {
        while let Some((key, since)) = self.formers.front().copied()
            && since + LINGER <= self.now
        {
            self.formers.pop_front();
            self.end_former_of(key, since);
        }
    }

    /// Closes all.
    pub(super) fn drop_formers(&mut self) {
        while let Some((key, since)) = self.formers.pop_front() {
            self.end_former_of(key, since);
        }
    }

    /// Takes what an endpoint that the flow has left still answers.
    pub(super) fn receive_late(&mut self, key: Key) {
        if self.upstream(key).is_none_or(|it| it.former.is_none()) {
            return;
        }
        if self.inbox.free() < ANSWER_BATCH {
            self.flush();
        }
        let first = self.inbox.len();
        let upstream = self.upstreams.get_mut(key.index as usize);
        let Some(Some(Upstream {
            listener,
            former: Some(former),
            ..
        })) = upstream
        else {
            return;
        };
        let received = self.inbox.receive(&former.socket, ANSWER_BATCH, false);
        let count = match received {
            Ok(count) => count,
            Err(error) => return self.former_failed(key, &error),
        };
        let listener = *listener;
        for slot in first..first + count {
            let load = load_of(&self.inbox.message(slot));
            let Some(ends) = self.flows.late_answer(key, load, self.now) else {
                return;
            };
            former.traffic.bytes_down += load.bytes;
            former.traffic.datagrams_down += load.datagrams;
            self.answers.push(Answer {
                key,
                slot,
                listener,
                ends,
                late: true,
            });
        }
        self.thread().receive_batches.inc();
    }

    /// Late answers that were to be sent were not, after all.
    pub(super) fn unanswered_late(&mut self, key: Key, load: Load) {
        self.flows.unanswered_late(key, load);
        let upstream = self.upstreams.get_mut(key.index as usize);
        if let Some(Some(upstream)) = upstream
            && upstream.key == key
            && let Some(former) = &mut upstream.former
        {
            let traffic = &mut former.traffic;
            traffic.bytes_down = traffic.bytes_down.saturating_sub(load.bytes);
            traffic.datagrams_down = traffic.datagrams_down.saturating_sub(load.datagrams);
        }
    }

    /// Its host answers nothing any more, or nothing came.
    fn former_failed(&mut self, key: Key, error: &io::Error) {
        let Some(Some(upstream)) = self.upstreams.get_mut(key.index as usize) else {
            return;
        };
        if let Unsent::Refused(outcome) = unsent_of(error) {
            let Some(former) = upstream.former.take() else {
                return;
            };
            self.ground.observe(&former.home, outcome, self.now);
            end_former(Some(former));
            let lost = Load {
                bytes: 0,
                datagrams: 1,
            };
            self.drop_datagrams(key, DatagramDrop::Unreachable, lost);
        } else if let Some(former) = &upstream.former {
            datagram::drain_errors(former.socket.as_fd());
        }
    }

    fn end_former_of(&mut self, key: Key, since: Tick) {
        if let Some(Some(upstream)) = self.upstreams.get_mut(key.index as usize)
            && upstream.key == key
            && upstream.former.as_ref().is_some_and(|it| it.since == since)
        {
            end_former(upstream.former.take());
        }
    }
}
