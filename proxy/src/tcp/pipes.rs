//! The pipes of one data thread.
//!
//! A pipe is lent only while bulk flows and comes back empty, so a thread needs as many as it has
//! streams in motion, not as it has sessions. Creating one for each session would cost 26 µs and
//! four descriptors. At [`LENT_MAX`], or when the kernel grants only a stub, sessions simply stay
//! in copy mode.

use crate::sys::pipe::Pipe;

/// Lends pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    lent: usize,
    /// The most pipes lent at a time since the last trim.
    peak: usize,
    /// Calls to [`Self::borrow`] that are refused before the kernel is asked again.
    refusals: u32,
}

// === impl Pipes ===

impl Pipes {
    pub(crate) fn new() -> Self {
        Self {
            idle: Vec::new(),
            lent: 0,
            peak: 0,
            refusals: 0,
        }
    }

    /// An empty pipe, or none when the limit or the kernel says no.
    pub(crate) fn borrow(&mut self) -> Option<Pipe> {
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None => self.create()?,
        };
        self.lent += 1;
        self.peak = self.peak.max(self.lent);
        Some(pipe)
    }

    /// Takes an empty pipe back.
    pub(crate) fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        self.idle.push(pipe);
    }

    /// A lent pipe is dropped with what is in it.
    pub(crate) fn lose(&mut self, pipe: Pipe) {
        self.lent -= 1;
        drop(pipe);
    }

    /// Closes the idle pipes that nobody needed since the last trim. Call it about once a second.
    pub(crate) fn trim(&mut self) {
        let wanted = self.peak.saturating_sub(self.lent);
        self.idle.truncate(wanted);
        self.peak = self.lent;
    }

    /// Pipes that exist.
    pub(crate) fn count(&self) -> usize {
        self.idle.len() + self.lent
    }

    fn create(&mut self) -> Option<Pipe> {
        if self.lent >= LENT_MAX {
            return None;
        }
        if self.refusals > 0 {
            self.refusals -= 1;
            return None;
        }
        match Pipe::new(PIPE_BYTES) {
            Ok(pipe) if pipe.capacity() >= PIPE_BYTES_MIN => Some(pipe),
            Ok(_) | Err(_) => {
                self.refusals = REFUSALS;
                None
            }
        }
    }
}

/// As much as the kernel grants without asking for privileges: what gathers while other streams have
/// their turn moves in one pass, which costs a tenth less than four.
const PIPE_BYTES: usize = 1024 * 1024;
/// Below this, copying through the shared buffer is as cheap.
const PIPE_BYTES_MIN: usize = 64 * 1024;
/// 256 pipes of 1 MiB are 256 MB in flight on one thread; a pipe is lent between two turns only where
/// a sink is full.
const LENT_MAX: usize = 256;
/// After a refusal by the kernel, so many sessions copy before it is asked again.
const REFUSALS: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_used_again_and_trimmed_to_what_was_needed() {
        let mut pipes = Pipes::new();
        let (one, two) = (pipes.borrow().unwrap(), pipes.borrow().unwrap());
        assert_eq!(pipes.count(), 2);
        pipes.give_back(one);
        pipes.give_back(two);
        pipes.trim();
        assert_eq!(pipes.count(), 2, "both were needed since the last trim");
        let one = pipes.borrow().unwrap();
        pipes.give_back(one);
        pipes.trim();
        assert_eq!(pipes.count(), 1);
        pipes.trim();
        assert_eq!(pipes.count(), 0);
    }

    #[test]
    fn a_lost_pipe_is_gone() {
        let mut pipes = Pipes::new();
        let pipe = pipes.borrow().unwrap();
        pipes.lose(pipe);
        assert_eq!(pipes.count(), 0);
    }
}
