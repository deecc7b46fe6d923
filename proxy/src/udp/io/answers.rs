//! From the flows' sockets to the clients: answers gather in the inbox and leave in batches.

use std::{io, os::fd::OwnedFd};

use super::{
    ANSWER_BATCH, Answer, Datagrams,
    errors::{drop_of, is_no_train},
    load_of, local_ip,
};
use crate::{
    registry::Outcome,
    sys::datagram::{Inbox, OUTBOX_SLOTS, Outbox, Outgoing},
    udp::flows::Key,
};

impl Datagrams {
    /// Takes a batch of one flow's answers into the inbox. Mostly one waits, so one is asked for;
    /// twice as many when the poller tells again in the very next round.
    pub(super) fn receive_answers(&mut self, key: Key) -> io::Result<()> {
        if self.inbox.free() < ANSWER_BATCH {
            self.flush();
        }
        let first = self.inbox.len();
        let Some(Some(upstream)) = self.upstreams.get_mut(key.index as usize) else {
            return Ok(());
        };
        if upstream.key != key {
            return Ok(());
        }
        let listener = upstream.listener;
        let had_more = upstream.round.wrapping_add(1) == self.round;
        upstream.round = self.round;
        upstream.batch = if had_more {
            (upstream.batch * 2).min(ANSWER_BATCH)
        } else {
            1
        };
        let count = self
            .inbox
            .receive(&upstream.socket, upstream.batch, false)?;
        self.thread().receive_batches.inc();
        for slot in first..first + count {
            let load = load_of(&self.inbox.message(slot));
            let Some((ends, is_first)) = self.flows.answer(key, load, self.now) else {
                return Ok(());
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
                late: false,
            });
        }
        Ok(())
    }

    /// Sends answers that leave by one listener.
    pub(super) fn send_answers(&mut self, mut batch: &[Answer]) {
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
            if answer.late {
                self.unanswered_late(answer.key, load);
            } else {
                self.flows.unanswered(answer.key, load);
            }
            self.drop_datagrams(answer.key, reason, load);
        }
    }
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
