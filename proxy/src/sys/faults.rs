//! System calls that fail on demand, on the threads of one test: what a host says when it runs out of
//! something, which no test can bring about for its own process alone.

use std::{cell::RefCell, collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    /// `accept4`
    Accept,
    /// `socket`, for a connect.
    Socket,
    /// `pipe2`
    Pipe,
    /// `epoll_ctl`, adding.
    Watch,
}

/// What fails next; clones are one plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<BTreeMap<Call, Failing>>>);

#[derive(Debug)]
struct Failing {
    errno: i32,
    after: u32,
    times: u32,
}

impl Faults {
    /// This thread's calls fail as planned from now on.
    pub(crate) fn install(&self) {
        let plan = self.clone();
        PLAN.with_borrow_mut(|installed| *installed = Some(plan));
    }

    /// Lets `after` calls pass and the next `times` fail.
    pub(crate) fn fail(&self, call: Call, errno: i32, after: u32, times: u32) {
        let failing = Failing {
            errno,
            after,
            times,
        };
        self.0.lock().insert(call, failing);
    }

    /// How many of them have not failed yet.
    pub(crate) fn left(&self, call: Call) -> u32 {
        self.0.lock().get(&call).map_or(0, |failing| failing.times)
    }
}

/// Fails when that is planned for this thread.
pub(super) fn check(call: Call) -> io::Result<()> {
    let plan = PLAN.with_borrow(Clone::clone);
    let Some(plan) = plan else { return Ok(()) };
    let mut calls = plan.0.lock();
    let Some(failing) = calls.get_mut(&call) else {
        return Ok(());
    };
    if let Some(after) = failing.after.checked_sub(1) {
        failing.after = after;
        return Ok(());
    }
    let Some(times) = failing.times.checked_sub(1) else {
        return Ok(());
    };
    failing.times = times;
    Err(io::Error::from_raw_os_error(failing.errno))
}

thread_local! {
    static PLAN: RefCell<Option<Faults>> = const { RefCell::new(None) };
}
