//! What is counted and logged of flows and datagrams: each flow once, whatever ended it.

use std::io;

use fairlead_config::frontend::Protocol;

use super::{Datagrams, errors::fault_of, former::end_former};
use crate::{
    access_log::{self, Reason, Record, Served},
    metrics::DatagramDrop,
    udp::{
        flow::{Closed, Ends, Load},
        flows::Key,
        world::{Ground, Service},
    },
};

impl Datagrams {
    /// Closes the sockets of ended flows, counts and logs them.
    pub(super) fn bury(&mut self) {
        let mut closed = std::mem::take(&mut self.closed);
        for closed in closed.drain(..) {
            let index = closed.key.index as usize;
            if let Some(upstream) = self.upstreams.get_mut(index).and_then(Option::take) {
                end_former(upstream.former);
            }
            self.settle(closed);
        }
        self.closed = closed;
    }

    /// The one place where the end of a flow is counted and logged.
    pub(super) fn settle(&self, closed: Closed<Ground>) {
        let Closed {
            mut flow, reason, ..
        } = closed;
        let traffic = flow.take_traffic();
        flow.home.count(traffic);
        let route = flow.service.0.load();
        route.metrics.flows_active.dec();
        route.metrics.flows_closed.inc(reason);
        self.thread().flows_active.dec();
        let Some(log) = &route.log else {
            return;
        };
        let record = Record {
            ended: access_log::time(&self.settings.clock, self.now),
            protocol: Protocol::Udp,
            service: Some(route.service.name.clone()),
            frontend: Some(route.frontend.name.clone()),
            client: flow.ends.client,
            local: flow.ends.local,
            peer: None,
            served: Some(Served {
                member: flow.home.live.member.name.clone(),
                endpoint: flow.home.live.addr,
                tier: flow.home.tier,
            }),
            sni: None,
            reason,
            duration: self.now - flow.opened,
            connect: None,
            traffic: flow.traffic,
            attempts: 0,
            hedged: false,
            rehomed: flow.rehomed,
        };
        log.append(self.settings.thread, &record);
    }

    pub(super) fn count_opened(&mut self, key: Key) {
        self.thread().flows_active.inc();
        if let Some(flow) = self.flows.get_mut(key) {
            flow.home.count_opened();
            flow.service.0.load().metrics.flows_active.inc();
        }
    }

    pub(super) fn count_rehomed(&mut self, key: Key) {
        if let Some(flow) = self.flows.get_mut(key) {
            flow.home.count_opened();
            flow.service.0.load().metrics.flows_rehomed.inc();
        }
    }

    pub(super) fn drop_datagrams(&mut self, key: Key, reason: DatagramDrop, load: Load) {
        match self.flows.get_mut(key) {
            Some(flow) => count_drop(&flow.service, reason, load),
            // The flow went with the datagram.
            None => self.process_drop(reason, load),
        }
    }

    pub(super) fn drop_unrouted(&mut self, ends: &Ends, reason: DatagramDrop, load: Load) {
        match self.ground.service_at(ends) {
            Some(service) => count_drop(&service, reason, load),
            None => self.process_drop(reason, load),
        }
    }

    pub(super) fn process_drop(&self, reason: DatagramDrop, load: Load) {
        let process = &self.settings.metrics.process;
        process.datagrams_unrouted.add(reason, load.datagrams);
    }

    pub(super) fn fault(&self, error: &io::Error) -> Reason {
        let (fault, reason) = fault_of(error);
        self.settings.metrics.process.faults.inc(fault);
        reason
    }
}

fn count_drop(service: &Service, reason: DatagramDrop, load: Load) {
    let route = service.0.load();
    route.metrics.datagrams_dropped.add(reason, load.datagrams);
}
