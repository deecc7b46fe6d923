//! Faults on purpose, for tests: slow, refused, lost and hanging requests, and watches that lose,
//! repeat, delay or hold their events.
//!
//! A test makes a [`Faults`], gives it to the builder and injects [`Rule`]s; each is in force until
//! its [`Injection`] is dropped. Rules count what they touch instead of drawing lots, and wait on
//! tokio's clock, so a run under paused time is the same each time. The server's own controllers are
//! spared. A server without a `Faults` pays nothing.
//!
//! ```
//! # use fairlead_apiserver::{ApiServer, faults::{Effect, Faults, Rule}};
//! # async fn example() -> Result<(), fairlead_apiserver::ServerError> {
//! let faults = Faults::default();
//! let server = ApiServer::builder().faults(&faults).build().await?;
//! let busy = faults.inject(Rule::new(Effect::Fail(503)).verb("update").resource("leases").times(3));
//! let member = faults.inject(Rule::new(Effect::Hang).user("member-a"));
//! // …
//! drop(member); // the partition heals: what hung is cut off, and may be tried again
//! assert_eq!(busy.hits(), 3);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

mod events;
mod requests;

pub use requests::Disconnected;
pub(crate) use requests::{Fate, Subject, disconnect};

/// The faults of one server, or of several that share them. Clones are handles to the same set.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<RwLock<Vec<Arc<Active>>>>);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The request is handled later.
    Delay(Duration),
    /// The request is not handled; the answer has this status code (429, 500, 503, 504…).
    Fail(u16),
    /// The request is not handled, and the connection closes without an answer.
    Close,
    /// The request is handled, and the connection closes before the answer: the client can't know.
    LoseAnswer,
    /// Nothing happens until the rule ends; then the connection closes. On watches that are
    /// established, events wait.
    Hang,
    /// An event of a watch is left out.
    DropEvent,
    /// An event of a watch comes twice.
    RepeatEvent,
    /// An event of a watch, and with it all later ones, comes later.
    DelayEvent(Duration),
    /// A watch ends at its next event, before it is sent.
    EndWatch,
}

/// When a fault happens: all that is named must fit.
#[derive(Debug, Clone)]
pub struct Rule {
    effect: Effect,
    verb: Option<String>,
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    user: Option<String>,
    /// The first so many are left alone.
    skip: u64,
    times: u64,
    every: u64,
}

/// A rule in force. It ends when this is dropped.
#[derive(Debug)]
#[must_use = "the rule ends when this is dropped"]
pub struct Injection {
    faults: Faults,
    active: Arc<Active>,
}

#[derive(Debug)]
struct Active {
    rule: Rule,
    fitting: AtomicU64,
    hits: AtomicU64,
    over: std::sync::atomic::AtomicBool,
    ended: Notify,
}

// === impl Rule ===

impl Rule {
    /// On every request (or every event, for effects on watches) until the rule ends.
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            verb: None,
            resource: None,
            namespace: None,
            name: None,
            user: None,
            skip: 0,
            times: u64::MAX,
            every: 1,
        }
    }

    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// The plural, as in paths.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// The object that the path names (for watches: that the request names).
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Who asks: with [`Effect::Hang`] this is that user's partition from the server.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Leaves the first `count` alone.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Happens at most `count` times.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Happens to each `nth` only; zero counts as one.
    #[must_use]
    pub fn every(mut self, nth: u64) -> Self {
        self.every = nth.max(1);
        self
    }

    fn fits(&self, subject: &Subject) -> bool {
        let same = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        same(&self.verb, subject.verb)
            && same(&self.resource, &subject.resource)
            && same(&self.namespace, &subject.namespace)
            && same(&self.name, &subject.name)
            && same(&self.user, &subject.user)
    }
}

// === impl Faults ===

impl Faults {
    /// Puts a rule in force. Several may apply to one request, in the order they were injected.
    pub fn inject(&self, rule: Rule) -> Injection {
        let active = Arc::new(Active {
            rule,
            fitting: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            over: std::sync::atomic::AtomicBool::new(false),
            ended: Notify::new(),
        });
        self.0.write().push(Arc::clone(&active));
        Injection {
            faults: self.clone(),
            active,
        }
    }

    /// The rules that strike `subject` now, each counted.
    fn strike(&self, subject: &Subject, wanted: impl Fn(Effect) -> bool) -> Vec<Arc<Active>> {
        let rules = self.0.read();
        let fitting = rules
            .iter()
            .filter(|active| wanted(active.rule.effect) && active.rule.fits(subject));
        fitting.filter(|active| active.strike()).cloned().collect()
    }
}

// === impl Injection ===

impl Injection {
    /// How often the fault has happened.
    pub fn hits(&self) -> u64 {
        self.active.hits.load(Ordering::SeqCst)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        self.faults
            .0
            .write()
            .retain(|active| !Arc::ptr_eq(active, &self.active));
        self.active.over.store(true, Ordering::SeqCst);
        self.active.ended.notify_waiters();
    }
}

// === impl Active ===

impl Active {
    /// Whether it happens this time.
    fn strike(&self) -> bool {
        let rule = &self.rule;
        let count = self.fitting.fetch_add(1, Ordering::SeqCst);
        if count < rule.skip || !(count - rule.skip).is_multiple_of(rule.every) {
            return false;
        }
        let hit = (count - rule.skip) / rule.every < rule.times;
        if hit {
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
        hit
    }

    /// Waits until the rule is no longer in force.
    async fn end(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if !self.over.load(Ordering::SeqCst) {
            ended.await;
        }
    }
}
