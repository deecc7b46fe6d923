//! Giving the flows of a thread away, and taking them.

use std::os::fd::{AsFd as _, OwnedFd};

use fairlead_runtime::clock::Tick;

use super::{Datagrams, Watch};
use crate::{
    access_log::Reason,
    metrics::DatagramDrop,
    udp::{
        flow::{Closed, Flow},
        flows::World as _,
        passing::{FlowRow, before, millis},
        world::Ground,
    },
};

/// A flow that this thread no longer serves, and the listener that it came by.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) listener: u32,
    /// Its `socket` is still to be filled in.
    pub(crate) row: FlowRow,
    pub(crate) socket: OwnedFd,
}

impl Datagrams {
    /// Stops receiving, and gives every flow away with its socket. What arrives meanwhile waits in
    /// the sockets for whoever goes on. Sockets of endpoints that flows have left stay behind.
    pub(crate) fn freeze(&mut self, watch: &impl Watch, now: Tick) -> Vec<Frozen> {
        self.now = now;
        self.flush();
        for listener in self.listeners.iter_mut().flatten() {
            if !std::mem::replace(&mut listener.held, true) {
                watch.forget(listener.socket.as_fd());
            }
        }
        self.drop_formers();
        let mut frozen = Vec::with_capacity(self.flows.len());
        for (key, flow) in self.flows.take_all() {
            let upstream = self.upstreams.get_mut(key.index as usize);
            let upstream = upstream.and_then(Option::take);
            let row = row_of(&flow, now);
            self.settle(Closed {
                key,
                flow,
                reason: Reason::HandedOver,
            });
            let Some(upstream) = upstream else { continue };
            watch.forget(upstream.socket.as_fd());
            let listener = self.listeners.get(upstream.listener as usize);
            if let Some(Some(listener)) = listener {
                frozen.push(Frozen {
                    listener: listener.id,
                    row,
                    socket: upstream.socket,
                });
            }
        }
        frozen
    }

    /// Goes on with flows that came by listener `id` elsewhere, or here before they were frozen.
    /// Those whose service or endpoint isn't there any more end.
    pub(crate) fn adopt(
        &mut self,
        watch: &impl Watch,
        id: u32,
        flows: Vec<(FlowRow, OwnedFd)>,
        now: Tick,
    ) {
        self.now = now;
        let is_meant = |it: &Option<super::Listener>| it.as_ref().is_some_and(|it| it.id == id);
        let Some(slot) = self.listeners.iter().position(is_meant) else {
            return;
        };
        for (row, socket) in flows {
            if let Ok(flow) = self.revive(&row) {
                self.adopt_one(watch, slot as u32, flow, socket);
            }
        }
    }

    /// Receives from the listeners that were held back.
    pub(crate) fn release(&mut self, watch: &impl Watch) {
        for (slot, listener) in (0..).zip(&mut self.listeners) {
            let Some(listener) = listener else { continue };
            if std::mem::replace(&mut listener.held, false)
                && let Err(error) = watch.listener(listener.socket.as_fd(), slot)
            {
                tracing::error!(addr = %listener.addr, %error, "a UDP socket can't be watched");
            }
        }
    }

    fn revive(&mut self, row: &FlowRow) -> Result<Flow<Ground>, DatagramDrop> {
        let (ends, now) = (row.ends(), self.now);
        let service = self.ground.route(&ends)?;
        let permit = self.ground.readmit(&service)?;
        let home = self.ground.home_at(&service, row, now);
        let home = home.ok_or(DatagramDrop::NoEndpoint)?;
        Ok(Flow {
            ends,
            service,
            home,
            traffic: row.traffic(),
            rehomed: row.rehomed,
            opened: before(now, row.age_millis),
            active: before(now, row.idle_millis),
            answered: false,
            heard: row.answered,
            asked: now,
            open_questions: 0,
            refused: false,
            expelled: false,
            draining: None,
            routes: self.flows.routes(),
            // The giver counted what was carried until now.
            counted: row.traffic(),
            _permit: permit,
        })
    }

    fn adopt_one(
        &mut self,
        watch: &impl Watch,
        listener: u32,
        flow: Flow<Ground>,
        socket: OwnedFd,
    ) {
        let proven = flow.heard;
        let Some(key) = self.flows.adopt(flow, proven, &self.ground, self.now) else {
            return;
        };
        self.count_opened(key);
        if let Err(error) = watch.flow(socket.as_fd(), key) {
            let end = self.fault(&error);
            self.flows.abort(key, end, &mut self.closed);
            return self.bury();
        }
        self.attach(key, socket, listener, None);
    }
}

fn row_of(flow: &Flow<Ground>, now: Tick) -> FlowRow {
    let traffic = flow.traffic;
    FlowRow {
        socket: 0,
        client: flow.ends.client,
        local: flow.ends.local,
        member: flow.home.live.member.name.to_string(),
        endpoint: flow.home.live.addr,
        tier: flow.home.tier,
        age_millis: millis(now, flow.opened),
        idle_millis: millis(now, flow.active),
        answered: flow.answered,
        rehomed: flow.rehomed,
        carried: [
            traffic.bytes_up,
            traffic.datagrams_up,
            traffic.bytes_down,
            traffic.datagrams_down,
        ],
    }
}
