//! Whether the process is ready, as a set of things that it still waits for.
//!
//! Whoever has to be there first takes a [`Token`] at start and drops it when it is: forgetting
//! one is impossible, a panic included. Once leaving began, the process is never ready again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

/// Readiness; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Shared>);

/// Something the process waits for, until dropped.
#[derive(Debug)]
pub struct Token {
    shared: Arc<Shared>,
    name: &'static str,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many tokens of each name there are.
    waiting: Mutex<BTreeMap<&'static str, usize>>,
    leaving: AtomicBool,
}

// === impl Readiness ===

impl Readiness {
    /// Ready, until somebody takes a token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the process not ready until the token is dropped. The name says what is waited for.
    #[must_use = "the process is ready again once the token is dropped"]
    pub fn wait_for(&self, name: &'static str) -> Token {
        *self.0.waiting.lock().entry(name).or_default() += 1;
        Token {
            shared: Arc::clone(&self.0),
            name,
        }
    }

    /// The process leaves: it is not ready any more, for good.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Release);
    }

    /// What stands in the way; empty when ready.
    pub fn obstacles(&self) -> Vec<&'static str> {
        let waiting = self.0.waiting.lock();
        let leaving = self.0.leaving.load(Ordering::Acquire).then_some("leaving");
        leaving.into_iter().chain(waiting.keys().copied()).collect()
    }

    /// Whether nothing stands in the way.
    pub fn is_ready(&self) -> bool {
        self.obstacles().is_empty()
    }
}

// === impl Token ===

impl Drop for Token {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        if let Some(count) = waiting.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_token_is_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let probes = readiness.wait_for("probes");
        let (one, other) = (readiness.wait_for("config"), readiness.wait_for("config"));
        assert_eq!(readiness.obstacles(), ["config", "probes"]);
        drop(one);
        drop(probes);
        assert_eq!(readiness.obstacles(), ["config"]);
        drop(other);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_panic_gives_the_token_back() {
        let readiness = Readiness::new();
        let token = readiness.wait_for("it");
        let task = std::thread::spawn(move || {
            let _held = token;
            panic!("on purpose");
        });
        assert!(task.join().is_err());
        assert!(readiness.is_ready());
    }

    #[test]
    fn leaving_is_for_good() {
        let readiness = Readiness::new();
        readiness.leave();
        drop(readiness.wait_for("it"));
        assert_eq!(readiness.obstacles(), ["leaving"]);
    }
}
