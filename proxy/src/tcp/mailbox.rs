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

    /// Takes what came first, `most` at a time; call it when the waker was raised, which it is again as
    /// long as there is more. So thousands of new listeners hold no session up.
    pub(crate) fn take(&self, most: usize) -> VecDeque<T> {
        self.waker.lower();
        let mut queue = self.queue.lock();
        if queue.len() <= most {
            return std::mem::take(&mut *queue);
        }
        let first = queue.drain(..most).collect();
        drop(queue);
        self.waker.raise();
        first
    }

    /// What to poll.
    pub(crate) fn waker(&self) -> impl AsFd + '_ {
        self.waker.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::poll::{Interest, Poller};

    #[test]
    fn a_long_queue_is_taken_in_order_and_in_parts_that_tell_of_each_other() {
        let mailbox = Mailbox::new().unwrap();
        let mut poller = Poller::new(1).unwrap();
        poller.add(mailbox.waker(), 0, Interest::Level).unwrap();
        (0..5).for_each(|message| mailbox.post(message));
        let mut taken = Vec::new();
        while poller.wait(Some(Duration::ZERO)).unwrap() > 0 {
            let part = mailbox.take(2);
            assert!(part.len() <= 2, "{part:?}");
            taken.extend(part);
        }
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        mailbox.post(5);
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), 1);
        assert_eq!(mailbox.take(2), [5]);
    }
}
