//! The listening sockets, kept in step with the plan.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use fairlead_config::{frontend::Protocol, name::FrontendName, problem::Problem};
use fairlead_runtime::{clock::Tick, logging::with_causes};

use super::closing::Closing;

use crate::{
    sockets::{Bind, Budget, Held, Planned, io, plan, ports::Ports},
    sys::{
        handshake,
        tcp::{self, Liveness},
    },
    tcp::{Fleet, FrozenFlow, Start},
    udp::passing::FlowRow,
    upgrade::{Inheritance, Offer, SocketRow, systemd::Notifier},
};

/// What is listened on.
#[derive(Debug)]
pub(super) struct Listeners {
    fleet: Arc<Fleet>,
    budget: Budget,
    bound: BTreeMap<Bind, Bound>,
    closing: Closing,
    /// Those of the bound and of the closing addresses.
    ports: Ports,
    /// Sockets of the bound addresses.
    sockets: usize,
    /// What is wanted and couldn't be had.
    failed: BTreeMap<Bind, Wanted>,
    next_id: u32,
    inherited: Inheritance,
    /// Where inherited sockets went, by their place in the offer: thread and id.
    places: BTreeMap<u32, (usize, u32)>,
    notifier: Notifier,
}

/// An address that frontends want.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The first of them.
    pub(super) asked_by: FrontendName,
    /// How dead peers of its sessions are noticed.
    pub(super) liveness: Liveness,
}

#[derive(Debug)]
pub(super) struct Bound {
    liveness: Liveness,
    sockets: Vec<Listening>,
}

#[derive(Debug)]
struct Listening {
    thread: usize,
    id: u32,
    socket: Arc<OwnedFd>,
}

// === impl Listeners ===

impl Listeners {
    /// None yet; `inherited` ones are used before new ones are bound.
    pub(super) fn new(fleet: Arc<Fleet>, budget: Budget, inherited: Inheritance) -> Self {
        Self {
            fleet,
            budget,
            bound: BTreeMap::new(),
            closing: Closing::default(),
            ports: Ports::default(),
            sockets: 0,
            failed: BTreeMap::new(),
            next_id: 0,
            inherited,
            places: BTreeMap::new(),
            notifier: Notifier::from_env(),
        }
    }

    /// Addresses listened on.
    pub(super) fn count(&self) -> usize {
        self.bound.len()
    }

    /// Addresses that couldn't be listened on.
    pub(super) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Listens where it is wanted, and no more where it isn't. What failed before is tried again.
    /// Says everything that can't be had. Costs what is touched.
    pub(super) fn put(&mut self, wants: Vec<(Bind, Option<Wanted>)>, now: Tick) -> Vec<Problem> {
        let mut asked = std::mem::take(&mut self.failed);
        for (bind, wanted) in wants {
            asked.remove(&bind);
            match wanted {
                None => self.close(bind, now),
                Some(wanted) => {
                    self.take_back_closing(bind);
                    if let Some(bound) = self.bound.get_mut(&bind) {
                        bound.update(bind, &wanted.liveness);
                    } else {
                        asked.insert(bind, wanted);
                    }
                }
            }
        }
        let held = Held {
            addresses: self.bound.len(),
            sockets: self.sockets,
        };
        let addrs = asked.iter();
        let addrs = addrs.map(|(bind, wanted)| (*bind, wanted.asked_by.clone()));
        let plan = plan(addrs.collect(), held, self.fleet.threads(), self.budget);
        let mut problems = Vec::new();
        for (bind, planned) in &plan.binds {
            if let Err(error) = self.bind(*bind, planned, &asked[bind].liveness) {
                problems.push(problem(planned.asked_by.as_str(), with_causes(&error)));
            } else {
                asked.remove(bind);
            }
        }
        for (bind, asked_by) in &plan.refused {
            let Budget { most, files, .. } = self.budget;
            let message = format!(
                "{bind} is beyond the {most} listening sockets that a limit of {files} open files \
                 has room for beside sessions and flows; raise the hard limit (ulimit -Hn, \
                 LimitNOFILE=) or use fewer ports"
            );
            problems.push(problem(asked_by.as_str(), message));
        }
        self.failed = asked;
        problems
    }

    /// Every socket, for a successor.
    pub(super) fn offer(&self) -> Offer {
        let mut offer = Offer::default();
        for (bind, bound) in &self.bound {
            for listening in &bound.sockets {
                let place = u32::try_from(offer.sockets.len()).unwrap_or(u32::MAX);
                offer.places.insert(listening.id, place);
                offer.sockets.push((row(*bind), listening.socket.clone()));
            }
        }
        offer
    }

    /// Goes on with a predecessor's flows, each on the thread that has its listening socket.
    pub(super) fn adopt_flows(&self, flows: Vec<(FlowRow, OwnedFd)>) {
        let mut by_listener: BTreeMap<(usize, u32), Vec<_>> = BTreeMap::new();
        for (row, socket) in flows {
            if let Some(listener) = self.places.get(&row.socket) {
                by_listener
                    .entry(*listener)
                    .or_default()
                    .push((row, socket));
            }
        }
        for ((thread, id), flows) in by_listener {
            self.fleet.adopt_flows(thread, id, flows);
        }
    }

    /// Takes flows back that a successor did not want after all.
    pub(super) fn take_back(&self, flows: Vec<FrozenFlow>) {
        let threads: BTreeMap<u32, usize> = self
            .bound
            .values()
            .flat_map(|bound| &bound.sockets)
            .map(|listening| (listening.id, listening.thread))
            .collect();
        let mut by_listener: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (id, row, socket) in flows {
            by_listener.entry(id).or_default().push((row, socket));
        }
        for (id, flows) in by_listener {
            if let Some(thread) = threads.get(&id) {
                self.fleet.adopt_flows(*thread, id, flows);
            }
        }
    }

    /// Closes inherited sockets that nothing asked for.
    pub(super) fn drop_inherited(&mut self) {
        for (_, row, _) in std::mem::take(&mut self.inherited.sockets) {
            tracing::info!(addr = %row.addr, "an inherited socket is no longer asked for");
            self.notifier.forget(&row);
        }
    }

    /// Forgets all; the data threads close them.
    pub(super) fn forget(&mut self) {
        self.bound.clear();
        self.sockets = 0;
        self.closing = Closing::default();
        self.ports = Ports::default();
    }

    /// Begins to close every TCP listener; [`Self::advance`] says when that is done. Sockets that a
    /// service manager keeps go on taking connections, for the next process.
    pub(super) fn begin_leaving(&mut self, now: Tick) {
        if self.notifier.stores() {
            return;
        }
        let binds: Vec<Bind> = self.bound.keys().copied().collect();
        for bind in binds {
            if bind.protocol == Protocol::Tcp {
                self.close(bind, now);
            }
        }
    }

    /// Closes what nobody is in the handshake of any more; whether nothing is left to close.
    pub(super) fn advance(&mut self, now: Tick) -> bool {
        for (bind, bound) in self.closing.advance(now, handshake::under_way) {
            self.unlisten(bind, bound);
        }
        self.closing.is_empty()
    }

    /// When [`Self::advance`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        self.closing.next_look()
    }

    fn take_back_closing(&mut self, bind: Bind) {
        if let Some(back) = self.closing.take(bind) {
            for listening in &back.sockets {
                self.notifier.store(&row(bind), listening.socket.as_fd());
            }
            self.sockets += back.sockets.len();
            self.bound.insert(bind, back);
        }
    }

    fn bind(
        &mut self,
        bind: Bind,
        planned: &Planned,
        liveness: &Liveness,
    ) -> Result<(), io::BindError> {
        let threads = planned.spread.threads(self.fleet.threads());
        let inherited = self.inherited.take_bind(bind);
        let mut sockets = Vec::new();
        if inherited.is_empty() {
            // An address of ours that overlaps would be taken for a stranger's.
            let probe = !self.ports.overlaps(bind);
            let fresh = io::bind(bind, threads.len(), liveness, &planned.asked_by, probe)?;
            for (socket, thread) in fresh.into_iter().zip(threads) {
                sockets.push(self.listen(bind, thread, socket, Start::Now));
            }
        } else {
            let follow = self.inherited.flows_follow;
            let start = if follow { Start::Held } else { Start::Now };
            // They may be more or fewer than threads: each has a thread, and hand-off evens the
            // sessions out.
            for ((place, socket), thread) in inherited.into_iter().zip(threads.cycle()) {
                if bind.protocol == Protocol::Tcp {
                    let _set = tcp::replace_liveness(&socket, liveness);
                    // Whoever had it before may have stopped on its way out.
                    let _admitted = handshake::admit(&socket);
                }
                let listening = self.listen(bind, thread, socket, start);
                self.places.insert(place, (thread, listening.id));
                sockets.push(listening);
            }
        }
        let liveness = *liveness;
        self.sockets += sockets.len();
        self.ports.hold(bind);
        self.bound.insert(bind, Bound { liveness, sockets });
        Ok(())
    }

    fn listen(&mut self, bind: Bind, thread: usize, socket: OwnedFd, start: Start) -> Listening {
        let id = self.next_id;
        self.next_id += 1;
        let socket = Arc::new(socket);
        self.notifier.store(&row(bind), socket.as_fd());
        self.fleet.listen(thread, id, socket.clone(), bind, start);
        Listening { thread, id, socket }
    }

    /// Closes an address: TCP listeners once nobody is in their handshake or queue.
    fn close(&mut self, bind: Bind, now: Tick) {
        if let Some(bound) = self.bound.remove(&bind) {
            self.sockets -= bound.sockets.len();
            self.notifier.forget(&row(bind));
            match bind.protocol {
                Protocol::Tcp => self.closing.begin(bind, bound, now),
                Protocol::Udp => self.unlisten(bind, bound),
            }
        }
    }

    fn unlisten(&mut self, bind: Bind, bound: Bound) {
        self.ports.release(bind);
        for listening in bound.sockets {
            drop(listening.socket);
            self.fleet.unlisten(listening.thread, listening.id);
        }
    }
}

// === impl Bound ===

impl Bound {
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sockets.iter().map(|listening| &*listening.socket)
    }

    /// Lets sessions to come notice dead peers in another way.
    fn update(&mut self, bind: Bind, liveness: &Liveness) {
        if bind.protocol == Protocol::Tcp && self.liveness != *liveness {
            self.liveness = *liveness;
            for socket in self.sockets() {
                // A listener refuses none of these options.
                let _set = tcp::replace_liveness(socket, liveness);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn empty() -> Self {
        Self {
            liveness: Liveness {
                keepalive: None,
                user_timeout: None,
            },
            sockets: Vec::new(),
        }
    }
}

fn row(bind: Bind) -> SocketRow {
    SocketRow {
        role: bind.protocol.into(),
        addr: bind.addr,
    }
}

fn problem(frontend: &str, message: String) -> Problem {
    Problem::resource("frontend", frontend, "address", message)
}

#[cfg(test)]
mod tests;
