//! The hub's admin pages.

use std::sync::Arc;

use fairlead_runtime::admin::{Answer, Pages, Request};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Metrics, Phase, Shared};
use crate::{fleet::Fleet, world::ServiceKey};

/// What the pages show.
#[derive(Clone)]
pub struct View {
    pub(super) shared: Shared,
    pub(super) fleet: Arc<Mutex<Fleet>>,
    pub(super) metrics: Metrics,
}

impl View {
    /// The pages.
    pub fn pages(self) -> Pages {
        let (ready, explained, metrics) = (self.clone(), self.clone(), self);
        Pages::new()
            .get("/healthz", "the process answers", async |_| {
                Answer::text("ok\n")
            })
            .get(
                "/readyz",
                "everything was listed and planned once",
                move |_| {
                    let view = ready.clone();
                    async move { view.readiness() }
                },
            )
            .get(
                "/metrics",
                "counters, in Prometheus' text format",
                move |_| {
                    let view = metrics.clone();
                    async move { Answer::text(view.metrics.render()) }
                },
            )
            .get(
                "/explain",
                "what is decided of ?service=NAMESPACE/NAME, and what proxies say of it",
                move |request| {
                    let view = explained.clone();
                    async move { view.answer(&request) }
                },
            )
    }

    /// What is decided of a service, what was not done and why, and what proxies say of it.
    pub fn explain(&self, key: &ServiceKey) -> Value {
        let fleet = self.fleet.lock();
        let verdicts = fleet.verdicts(key).into_iter().map(|verdict| {
            json!({
                "proxy": verdict.proxy.node,
                "proxyGroup": verdict.proxy.group,
                "port": verdict.service.as_str(),
                "member": verdict.member.as_str(),
                "address": verdict.address,
                "verdict": format!("{:?}", verdict.kind),
                "reason": verdict.reason,
            })
        });
        let report = self.shared.report.read();
        let notes = report.notes.get(&key.to_string());
        let board = self.shared.board.read();
        let import = board.imports(true);
        let known = import.get(crate::board::Type::Import, &key.to_string());
        json!({
            "service": key.to_string(),
            "exported": known.is_some(),
            "notes": notes.cloned().unwrap_or_default(),
            "verdicts": verdicts.collect::<Vec<_>>(),
            "refusals": fleet.refusals(key),
        })
    }

    fn readiness(&self) -> Answer {
        let phase = *self.shared.phase.borrow();
        match phase {
            Phase::Serving => Answer::text("ready\n"),
            // It takes what members mirror, and gives tokens.
            Phase::Holding => Answer::text(
                "ready, but nothing is distributed yet: the hub was restored, and members mirror anew\n",
            ),
            Phase::Listing => {
                let waiting = "not ready: the API server's objects are not listed yet";
                Answer::problem(StatusCode::SERVICE_UNAVAILABLE, waiting)
            }
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let service = request
            .parameter("service")
            .and_then(|text| text.split_once('/'));
        match service {
            Some((namespace, name)) => {
                Answer::json(&self.explain(&ServiceKey::new(namespace, name)))
            }
            None => Answer::problem(
                StatusCode::BAD_REQUEST,
                "say which service: /explain?service=NAMESPACE/NAME",
            ),
        }
    }
}
