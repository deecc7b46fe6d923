//! The datagrams of a data thread: how [`crate::udp`] hangs in its loop.
//!
//! Nothing of it exists before the first UDP listener does.

use std::{
    io,
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use super::{session::Token, slab::Key, worker::Worker};
use crate::{
    access_log::Reason,
    registry::EndpointId,
    sys::poll::{Interest, Poller},
    udp::{
        io::{Datagrams, Frozen, Settings, Watch},
        passing::FlowRow,
    },
};

/// The thread's poller, as flows see it.
struct Watcher<'a>(&'a Poller);

impl Worker {
    pub(crate) fn listen_datagrams(
        &mut self,
        id: u32,
        socket: Arc<OwnedFd>,
        addr: SocketAddr,
        held: bool,
    ) {
        let datagrams = self.datagrams.get_or_insert_with(|| {
            let settings = Settings {
                thread: self.index,
                flows_max: flows_max(self.fleet.threads()),
                seed: self.seed,
                metrics: Arc::clone(&self.fleet.metrics),
                clock: self.fleet.clock.clone(),
            };
            let routes = self.fleet.datagram_routes.load_full();
            Box::new(Datagrams::new(settings, routes))
        });
        if let Err(error) = datagrams.listen(&Watcher(&self.poller), id, socket, addr, held) {
            tracing::error!(%addr, %error, "a UDP socket can't be received from");
        }
    }

    pub(crate) fn unlisten_datagrams(&mut self, id: u32) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.unlisten(&Watcher(&self.poller), id, Reason::FrontendRemoved);
        }
    }

    /// Leaves every socket to another process that has it, too.
    pub(crate) fn leave_datagrams(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            for id in datagrams.listener_ids() {
                datagrams.unlisten(&Watcher(&self.poller), id, Reason::Shutdown);
            }
        }
    }

    /// Gives every flow away, for another process.
    pub(crate) fn freeze_datagrams(&mut self) -> Vec<Frozen> {
        let datagrams = self.datagrams.as_mut();
        datagrams.map_or_else(Vec::new, |datagrams| {
            datagrams.freeze(&Watcher(&self.poller), self.now)
        })
    }

    /// Goes on with flows of another process.
    pub(crate) fn adopt_flows(&mut self, id: u32, flows: Vec<(FlowRow, OwnedFd)>) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.use_routes(&self.fleet.datagram_routes.load());
            datagrams.adopt(&Watcher(&self.poller), id, flows, self.now);
        }
    }

    /// Receives from the sockets that were held back.
    pub(crate) fn release_datagrams(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.release(&Watcher(&self.poller));
        }
    }

    pub(crate) fn datagrams_ready(&mut self, slot: u32) {
        let Some(datagrams) = &mut self.datagrams else {
            return;
        };
        let routes = self.fleet.datagram_routes.load();
        datagrams.use_routes(&routes);
        datagrams.listener_ready(&Watcher(&self.poller), slot, self.now);
    }

    pub(crate) fn flow_ready(&mut self, key: Key) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.flow_ready(key, self.now);
        }
    }

    /// Sends what gathered in this round, ends idle flows, and passes strikes on.
    pub(crate) fn finish_datagrams(&mut self) {
        let Some(datagrams) = &mut self.datagrams else {
            return;
        };
        datagrams.finish_round();
        datagrams.fire(self.now);
        for report in datagrams.take_reports() {
            self.fleet.reports.push(report);
        }
    }

    pub(crate) fn expel_flows(&mut self, endpoint: EndpointId) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.expel(|home| home.live.id == endpoint);
        }
    }

    pub(crate) fn end_flows(&mut self, reason: Reason) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.close_all(reason);
        }
    }
}

impl Watch for Watcher<'_> {
    fn listener(&self, socket: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
        let token = Token::Datagrams(slot).pack();
        self.0.add(socket, token, Interest::Level)
    }

    fn flow(&self, socket: BorrowedFd<'_>, key: Key) -> io::Result<()> {
        self.0.add(socket, Token::Flow(key).pack(), Interest::Level)
    }

    fn forget(&self, socket: BorrowedFd<'_>) {
        // The only failure is that it isn't there.
        let _absent = self.0.remove(socket);
    }
}

/// Flows of one thread: its part of a quarter of the open files that are allowed, so that a flood
/// of datagrams never starves connections.
fn flows_max(threads: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.unwrap_or(u64::MAX).min(FILES_MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    (files / 4 / threads.max(1)).max(1)
}

/// As many files as a process counts with where the limit says none.
const FILES_MAX: u64 = 1 << 20;
