//! Background tasks that always have an owner.
//!
//! A [`Tasks`] owns what it starts: dropping it stops everything. The end of a task is never lost:
//! either [`Tasks::next_exit`] returns it (the controller ends the process with that reason), or
//! the task is restarted with [`Backoff`] (the proxy's control tasks). All states stand on a
//! [`Board`] that `/readyz` and `/metrics` read.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::Future,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::{Id, JoinError, JoinSet};

use crate::clock::{Clock, Tick};

/// Why a task ended with an error.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Owns background tasks of one process or one part of it.
pub struct Tasks {
    set: JoinSet<Result<(), TaskError>>,
    names: HashMap<Id, &'static str>,
    board: Board,
    clock: Clock,
}

/// A task that ended and is not restarted.
#[derive(Debug)]
pub struct Exit {
    /// As given to [`Tasks::spawn`].
    pub name: &'static str,
    /// `None`: it returned `Ok`.
    pub failure: Option<String>,
}

/// The states of all tasks of a [`Tasks`]; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<&'static str, TaskState>>>);

/// What is known of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskState {
    /// Whether it runs now, rather than waiting for its restart or having ended.
    pub running: bool,
    /// Since when that is so.
    pub since: Tick,
    /// How often it was started again.
    pub restarts: u64,
    /// The reason of its last end.
    pub last_failure: Option<String>,
}

/// Delays between restarts: doubling from `first` to `max`; a run of at least `settled` starts
/// over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
    /// A task that ran this long is taken for healthy.
    pub settled: Duration,
}

// === impl Tasks ===

impl Tasks {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            set: JoinSet::new(),
            names: HashMap::new(),
            board: Board::default(),
            clock,
        }
    }

    /// Starts a task whose end [`Self::next_exit`] reports.
    pub fn spawn<F>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        self.board.started(name, self.clock.now());
        let handle = self.set.spawn(future);
        self.names.insert(handle.id(), name);
    }

    /// Starts a task that is made anew whenever it ends, also by `Ok` or by a panic.
    pub fn supervise<M, F>(&mut self, name: &'static str, backoff: Backoff, mut make: M)
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let (board, clock) = (self.board.clone(), self.clock.clone());
        self.spawn(name, async move {
            let mut failures = 0;
            loop {
                let started = clock.now();
                board.started(name, started);
                // A set of one: a panic inside ends the inner task only, and dropping the
                // supervisor drops the set and with it the inner task.
                let mut inner = JoinSet::new();
                inner.spawn(make());
                let outcome = inner.join_next().await.expect("one task was spawned");
                let reason = describe(outcome).unwrap_or_else(|| "it returned".to_owned());
                let ended = clock.now();
                if ended - started >= backoff.settled {
                    failures = 0;
                }
                let delay = backoff.delay(failures);
                failures += 1;
                tracing::warn!(task = name, reason, ?delay, "a task ended and is restarted");
                board.failed(name, ended, reason, true);
                tokio::time::sleep(delay).await;
            }
        });
    }

    /// Waits for the end of any task started by [`Self::spawn`]. Pends forever when there is none.
    pub async fn next_exit(&mut self) -> Exit {
        let Some(joined) = self.set.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, outcome) = match joined {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        let failure = describe(outcome);
        let reason = failure.clone().unwrap_or_else(|| "it returned".to_owned());
        self.board.failed(name, self.clock.now(), reason, false);
        Exit { name, failure }
    }

    /// Where the states of these tasks stand.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Stops all tasks and waits until they are gone.
    pub async fn stop(mut self) {
        self.set.shutdown().await;
    }
}

// === impl Board ===

impl Board {
    /// A copy of all states.
    pub fn states(&self) -> BTreeMap<&'static str, TaskState> {
        self.0.lock().clone()
    }

    /// The tasks that don't run now.
    pub fn stopped(&self) -> Vec<&'static str> {
        let states = self.0.lock();
        let stopped = states.iter().filter(|(_, state)| !state.running);
        stopped.map(|(name, _)| *name).collect()
    }

    fn started(&self, name: &'static str, now: Tick) {
        let mut states = self.0.lock();
        let state = states.entry(name).or_insert(TaskState {
            running: true,
            since: now,
            restarts: 0,
            last_failure: None,
        });
        if !state.running {
            *state = TaskState {
                running: true,
                since: now,
                restarts: state.restarts,
                last_failure: state.last_failure.take(),
            };
        }
    }

    fn failed(&self, name: &'static str, now: Tick, reason: String, restarts: bool) {
        if let Some(state) = self.0.lock().get_mut(name) {
            state.running = false;
            state.since = now;
            state.restarts += u64::from(restarts);
            state.last_failure = Some(reason);
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// The delay after `failures` earlier failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

impl Default for Backoff {
    /// 100 ms to 10 s; a minute is healthy.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(10),
            settled: Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            Some(failure) => write!(out, "{} ended: {failure}", self.name),
            None => write!(out, "{} ended", self.name),
        }
    }
}

fn describe(outcome: Result<Result<(), TaskError>, JoinError>) -> Option<String> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) if error.is_cancelled() => Some("it was cancelled".to_owned()),
        Err(error) => {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Some(format!("it panicked: {}", text.as_deref().unwrap_or("?")))
        }
    }
}

#[cfg(test)]
mod tests;
