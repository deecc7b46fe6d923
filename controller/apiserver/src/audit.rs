//! A log of requests that tests can read.
//!
//! Keeps the last so many entries in memory, the oldest first out (counted). Each is written when
//! the answer is ready; for a watch that is its start.

use std::collections::VecDeque;
use std::sync::Arc;

use http::request::Parts;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::auth::User;
use crate::faults::Subject;

/// A handle to a server's log. Clones share it.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Log>);

#[derive(Debug)]
struct Log {
    entries: Mutex<Entries>,
    capacity: usize,
    written: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<Entry>,
    dropped: u64,
}

/// One request and its answer's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub time: Timestamp,
    pub user: String,
    pub groups: Vec<String>,
    /// On whose behalf, where the request asked for another user.
    pub impersonated: Option<String>,
    pub verb: &'static str,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// Path and query, as they came.
    pub uri: String,
    pub user_agent: String,
    /// The HTTP status; zero when the connection closed without an answer.
    pub code: u16,
}

// === impl Audit ===

impl Audit {
    /// A log of at most `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Log {
            entries: Mutex::default(),
            capacity,
            written: Notify::new(),
        }))
    }

    /// What is in the log, the oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.entries.lock().kept.iter().cloned().collect()
    }

    /// How many entries were dropped for want of room.
    pub fn dropped(&self) -> u64 {
        self.0.entries.lock().dropped
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        self.0.entries.lock().kept.clear();
    }

    /// The first entry that `wanted` accepts, waiting for it when it isn't there yet.
    pub async fn first(&self, wanted: impl Fn(&Entry) -> bool) -> Entry {
        loop {
            let written = self.0.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some(entry) = self
                .0
                .entries
                .lock()
                .kept
                .iter()
                .find(|entry| wanted(entry))
            {
                return entry.clone();
            }
            written.await;
        }
    }

    pub(crate) fn write(&self, time: Timestamp, user: &User, head: &Parts, code: u16) {
        let subject = Subject::new(user, head);
        let header = |name: &str| {
            head.headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let entry = Entry {
            time,
            user: user.name.clone(),
            groups: user.groups.clone(),
            impersonated: header("impersonate-user"),
            verb: subject.verb,
            resource: subject.resource,
            namespace: subject.namespace,
            name: subject.name,
            uri: head.uri.to_string(),
            user_agent: header("user-agent").unwrap_or_default(),
            code,
        };
        let mut entries = self.0.entries.lock();
        if entries.kept.len() >= self.0.capacity {
            entries.kept.pop_front();
            entries.dropped += 1;
        }
        entries.kept.push_back(entry);
        drop(entries);
        self.0.written.notify_waiters();
    }
}
