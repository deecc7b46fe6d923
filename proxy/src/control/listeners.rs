//! The listening sockets, kept in step with the plan.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use fairlead_config::problem::Problem;

use crate::{
    sockets::{Bind, Planned, Spread, io, plan},
    sys::tcp::{self, Liveness},
    tcp::{
        Fleet,
        route::{Route, liveness},
    },
};

/// What is listened on.
#[derive(Debug)]
pub(super) struct Listeners {
    fleet: Arc<Fleet>,
    fd_budget: usize,
    bound: BTreeMap<Bind, Bound>,
    failed: usize,
    next_id: u32,
}

#[derive(Debug)]
struct Bound {
    spread: Spread,
    liveness: Liveness,
    /// By thread, from the first of the spread.
    sockets: Vec<(u32, Arc<OwnedFd>)>,
}

// === impl Listeners ===

impl Listeners {
    pub(super) fn new(fleet: Arc<Fleet>, fd_budget: usize) -> Self {
        Self {
            fleet,
            fd_budget,
            bound: BTreeMap::new(),
            failed: 0,
            next_id: 0,
        }
    }

    /// Addresses listened on.
    pub(super) fn count(&self) -> usize {
        self.bound.len()
    }

    /// Addresses that couldn't be listened on.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    /// Makes the listeners what `routes` want; says what couldn't be had.
    pub(super) fn put(&mut self, routes: impl Iterator<Item = Arc<Route>>) -> Vec<Problem> {
        let routes: Vec<Arc<Route>> = routes.collect();
        let frontends = routes.iter().map(|route| &*route.frontend);
        let plan = plan(frontends, self.fleet.threads(), self.fd_budget);
        let liveness_of: BTreeMap<_, _> = routes
            .iter()
            .map(|route| (route.frontend.name.clone(), liveness(&route.service)))
            .collect();
        let gone: Vec<Bind> = self
            .bound
            .keys()
            .filter(|bind| !plan.binds.contains_key(bind))
            .copied()
            .collect();
        for bind in gone {
            self.close(bind);
        }
        let mut problems = Vec::new();
        for (bind, planned) in &plan.binds {
            let Some(liveness) = liveness_of.get(&planned.asked_by) else {
                continue;
            };
            if let Err(error) = self.put_one(*bind, planned, liveness) {
                problems.push(problem(planned.asked_by.as_str(), chain(&error)));
            }
        }
        for (bind, asked_by) in &plan.refused {
            let message = format!(
                "{bind} is beyond the budget of {} listening sockets; raise the limit of open \
                 files (ulimit -n) or use fewer ports",
                self.fd_budget
            );
            problems.push(problem(asked_by.as_str(), message));
        }
        self.failed = problems.len();
        problems
    }

    /// Forgets all; the data threads close them.
    pub(super) fn forget(&mut self) {
        self.bound.clear();
    }

    fn put_one(
        &mut self,
        bind: Bind,
        planned: &Planned,
        liveness: &Liveness,
    ) -> Result<(), io::BindError> {
        if let Some(bound) = self.bound.get_mut(&bind) {
            if bound.liveness != *liveness {
                bound.liveness = *liveness;
                for (_, socket) in &bound.sockets {
                    // Sessions to come inherit it; a listener refuses none of these options.
                    let _set = tcp::set_liveness(socket, liveness);
                }
            }
            // A spread that changed keeps its sockets: hand-off evens the sessions out.
            return Ok(());
        }
        let threads = planned.spread.threads(self.fleet.threads());
        let probe = !self.overlaps(bind);
        let sockets = io::bind(bind, threads.len(), liveness, &planned.asked_by, probe)?;
        let mut bound = Bound {
            spread: planned.spread,
            liveness: *liveness,
            sockets: Vec::with_capacity(sockets.len()),
        };
        for (thread, socket) in threads.zip(sockets) {
            let id = self.next_id;
            self.next_id += 1;
            let socket = Arc::new(socket);
            bound.sockets.push((id, socket.clone()));
            self.fleet.listen(thread, id, socket, bind);
        }
        self.bound.insert(bind, bound);
        Ok(())
    }

    fn close(&mut self, bind: Bind) {
        if let Some(bound) = self.bound.remove(&bind) {
            let threads = bound.spread.threads(self.fleet.threads());
            for (thread, (id, socket)) in threads.zip(bound.sockets) {
                drop(socket);
                self.fleet.unlisten(thread, id);
            }
        }
    }

    /// Whether this process listens where `bind` would find itself: on the same port of a wildcard,
    /// or on any address of it.
    fn overlaps(&self, bind: Bind) -> bool {
        self.bound.keys().any(|other| {
            let same_port =
                other.protocol == bind.protocol && other.addr.port() == bind.addr.port();
            let same_family = other.addr.is_ipv4() == bind.addr.is_ipv4();
            let wild = other.addr.ip().is_unspecified() || bind.addr.ip().is_unspecified();
            same_port && same_family && wild
        })
    }
}

fn problem(frontend: &str, message: String) -> Problem {
    Problem::resource("frontend", frontend, "address", message)
}

/// The error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
