//! The admin pages of a proxy.
//!
//! | page | what it says |
//! |---|---|
//! | `/metrics` | every series, in the Prometheus text format; `?endpoints=1` adds some per endpoint |
//! | `/healthz` | 200 while the control thread answers |
//! | `/readyz` | 200 when ready; 503 and what is waited for when not |
//! | `/snapshot` | what is configured: counts, when, the last problems, drains by hand |
//! | `/services` | tiers, members, endpoints with verdict, reason and age; `?service=`, `?after=`, `?limit=` |
//! | `/explain?service=` | why new sessions go where they go, in sentences |
//! | `/drain` | POST `?member=` or `?endpoint=`, optionally `&service=` and `&off=1` |
//!
//! Handlers run beside the control thread's loop and put [`Question`]s to it over a bounded channel.
//! What takes long, the metrics page, is written part by part as it is read, on a thread of its own
//! and from shared cells; the others have a limit of their own.

use std::{fmt, sync::Arc};

use fairlead_config::problem::Problem;
use fairlead_runtime::{
    admin::{Answer, Pages, Request},
    clock::{Clock, Tick},
    ready::Readiness,
    tasks::Board,
};
use http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use crate::{
    control::Control,
    metrics::Metrics,
    source::{Refusal, xds::XdsStatus},
};

mod answers;
mod page;

#[cfg(test)]
mod tests;

/// Puts questions to the control thread.
#[derive(Debug, Clone)]
pub struct Desk(mpsc::Sender<Question>);

/// Something that only the control thread can answer.
pub struct Question {
    asked: Asked,
    reply: oneshot::Sender<Reply>,
}

#[derive(Debug)]
enum Asked {
    Health,
    Snapshot,
    Services(Request),
    Explain(Request),
    Drain(Request),
    States,
}

enum Reply {
    Answer(Answer),
    States(page::States),
}

/// What the pages need besides the control thread.
#[derive(Debug, Clone)]
pub struct Context {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the process waits for.
    pub readiness: Readiness,
    /// How its tasks do.
    pub board: Board,
}

/// What became of the configurations offered so far.
#[derive(Debug, Default)]
pub struct Status {
    /// Where they come from.
    pub origin: String,
    /// How many are in effect by now; the last one's number.
    pub version: u64,
    /// When the last one took effect.
    pub applied: Option<Tick>,
    /// What of it isn't in effect.
    pub problems: Vec<String>,
    /// The last one that was refused, until one is applied.
    pub refused: Option<(Tick, Refusal)>,
    /// The control plane, where there is one.
    pub control_plane: Option<XdsStatus>,
    /// Settings that the file changes and that need a restart.
    pub restart_needed: Vec<&'static str>,
}

/// A place to put questions, and where the control thread finds them.
pub fn desk() -> (Desk, mpsc::Receiver<Question>) {
    let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
    (Desk(sender), receiver)
}

/// The pages.
pub fn pages(desk: &Desk, context: &Context) -> Pages {
    let ask = |asked: fn(Request) -> Asked| {
        let desk = desk.clone();
        move |request| desk.clone().answer(asked(request))
    };
    let (for_metrics, for_ready) = ((desk.clone(), context.clone()), context.clone());
    Pages::new()
        .get(
            "/metrics",
            "everything counted, for Prometheus; ?endpoints=1 adds series per endpoint",
            move |request| {
                let (desk, context) = for_metrics.clone();
                async move { desk.metrics(context, &request).await }
            },
        )
        .get(
            "/healthz",
            "whether the process answers",
            ask(|_| Asked::Health),
        )
        .get(
            "/readyz",
            "whether it is ready, and what it waits for",
            move |_| {
                let answer = answers::ready(&for_ready);
                async move { answer }
            },
        )
        .get(
            "/snapshot",
            "what is configured, and the last problems",
            ask(|_| Asked::Snapshot),
        )
        .get(
            "/services",
            "tiers, members, endpoints and their health; ?service= ?after= ?limit=",
            ask(Asked::Services),
        )
        .get(
            "/explain",
            "?service=NAME: why its sessions go where they go",
            ask(Asked::Explain),
        )
        .post(
            "/drain",
            "?member=NAME or ?endpoint=ADDR, &service=NAME for one only, &off=1 to call it off",
            ask(Asked::Drain),
        )
}

// === impl Desk ===

impl Desk {
    async fn answer(self, asked: Asked) -> Answer {
        match self.put(asked).await {
            Some(Reply::Answer(answer)) => answer,
            _ => leaving(),
        }
    }

    async fn metrics(self, context: Context, request: &Request) -> Answer {
        let Some(Reply::States(states)) = self.put(Asked::States).await else {
            return leaving();
        };
        let endpoints = request
            .parameter("endpoints")
            .is_some_and(|value| value != "0");
        let parts = page::parts(&context, &states, endpoints);
        Answer::parts(crate::metrics::text::CONTENT_TYPE, parts)
    }

    async fn put(&self, asked: Asked) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Question { asked, reply }).await.ok()?;
        answer.await.ok()
    }
}

// === impl Question ===

impl Question {
    /// Answers it; who asked may have left meanwhile.
    pub fn answer(self, control: &mut Control, status: &Status, clock: &Clock) {
        let reply = match self.asked {
            Asked::Health => Reply::Answer(Answer::text("ok\n")),
            Asked::Snapshot => Reply::Answer(answers::snapshot(control, status, clock)),
            Asked::Services(request) => Reply::Answer(answers::services(control, &request, clock)),
            Asked::Explain(request) => Reply::Answer(answers::explain(control, &request, clock)),
            Asked::Drain(request) => Reply::Answer(answers::drain(control, &request)),
            Asked::States => {
                let states = control.directory().services();
                Reply::States(states.map(Arc::downgrade).collect())
            }
        };
        let _left = self.reply.send(reply);
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Question({:?})", self.asked)
    }
}

// === impl Status ===

impl Status {
    /// The first configuration is in effect, but for these problems.
    pub fn first(origin: String, problems: &[Problem], now: Tick) -> Self {
        let mut status = Self {
            origin,
            ..Self::default()
        };
        status.applied(problems, now);
        status
    }

    /// A configuration is in effect, but for these problems.
    pub fn applied(&mut self, problems: &[Problem], now: Tick) {
        self.version += 1;
        self.applied = Some(now);
        self.problems = problems
            .iter()
            .take(PROBLEMS_MAX)
            .map(ToString::to_string)
            .collect();
        self.refused = None;
    }
}

fn leaving() -> Answer {
    Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is leaving")
}

/// Questions that wait; a handler waits for a place.
const QUESTIONS_MAX: usize = 16;
/// Problems shown at a time.
const PROBLEMS_MAX: usize = 100;
