//! What other threads ask of a data thread.
//!
//! A bounded queue and a waker. Its lock is taken for a change of listeners, a cut or a hand-off,
//! never on the path of a connection that stays on its thread.

use std::{collections::VecDeque, io, os::fd::AsFd};

use parking_lot::Mutex;

use crate::sys::wake::Waker;

/// A queue that wakes its thread.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    queue: Mutex<VecDeque<T>>,
    waker: Waker,
}

// === impl Mailbox ===

impl<T> Mailbox<T> {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::new(VecDeque::new()),
            waker: Waker::new()?,
        })
    }

    /// Leaves a message, or returns it when the queue is full.
    pub(crate) fn offer(&self, message: T, limit: usize) -> Result<(), T> {
        let mut queue = self.queue.lock();
        if queue.len() >= limit {
            return Err(message);
        }
        queue.push_back(message);
        let wake = queue.len() == 1;
        drop(queue);
        if wake {
            self.waker.raise();
        }
        Ok(())
    }

    /// Leaves a message that must not be lost; only the control thread, which sends few, may.
    pub(crate) fn post(&self, message: T) {
        let posted = self.offer(message, usize::MAX);
        debug_assert!(posted.is_ok(), "there is no limit");
    }

    /// Takes everything; call it when the waker was raised.
    pub(crate) fn take(&self) -> VecDeque<T> {
        self.waker.lower();
        std::mem::take(&mut *self.queue.lock())
    }

    /// What to poll.
    pub(crate) fn waker(&self) -> impl AsFd + '_ {
        self.waker.as_fd()
    }
}
