//! What the control thread and other data threads ask for.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use fairlead_config::frontend::Protocol;

use super::{
    Command, Queues, Start,
    accept::Listener,
    session::Token,
    worker::{Cutting, State, Worker},
};
use crate::{
    access_log::Reason,
    registry::{EndpointId, Flags},
    sys::poll::Interest,
};

impl Worker {
    pub(crate) fn read_mailbox(&mut self) {
        for command in self.fleet.mailboxes[self.index].take(COMMANDS_MAX) {
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
        let slot = self.free_slots.pop().unwrap_or_else(|| {
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
            self.free_slots.push(slot);
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
    pub(crate) fn cut(&mut self) {
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
}

/// So many are obeyed before sessions have their turn: a tenth of a millisecond's worth of listeners.
const COMMANDS_MAX: usize = 64;
