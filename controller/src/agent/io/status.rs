//! An agent's admin pages.

use std::{net::SocketAddr, sync::Arc};

use fairlead_config::xds::proto::{fairlead::Import, unpack};
use fairlead_runtime::{
    admin::{Answer, Pages},
    tasks::Board,
};
use http::StatusCode;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge, Registry, TextEncoder};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::uplink::Shared;
use crate::{board::Type, fleet::Fleet};

/// What the pages show; clones share it.
#[derive(Clone)]
pub struct Status {
    pub(super) member: String,
    pub(super) shared: Shared,
    /// `None` where there is no port for proxies.
    pub(super) port: Option<watch::Receiver<Option<SocketAddr>>>,
    pub(super) tasks: Board,
    pub(super) proxies: Arc<Mutex<Fleet>>,
}

impl Status {
    /// The pages.
    pub fn pages(self) -> Pages {
        let (ready, imports, proxies, metrics) = (self.clone(), self.clone(), self.clone(), self);
        let ready_help = "what came down is known, from the hub or from disk, and the port is open";
        Pages::new()
            .get("/healthz", "the process answers", async |_| {
                Answer::text("ok\n")
            })
            .get("/readyz", ready_help, move |_| {
                let answer = ready.readiness();
                async move { answer }
            })
            .get(
                "/metrics",
                "counters, in Prometheus' text format",
                move |_| {
                    let text = metrics.metrics();
                    async move { Answer::text(text) }
                },
            )
            .get("/imports", "what the hub told of each import", move |_| {
                let answer = Answer::json(&imports.imports());
                async move { answer }
            })
            .get(
                "/proxies",
                "the member's own proxies, and what they run on",
                move |_| {
                    let answer = Answer::json(&proxies.own_proxies());
                    async move { answer }
                },
            )
    }

    /// What the agent still waits for; empty when it is ready.
    pub fn obstacles(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.shared.received.lock().imports_known() {
            let failure = self.shared.link.lock().last_failure.clone();
            let why = failure.map_or_else(String::new, |failure| format!(": {failure}"));
            all.push(format!("the hub has not told its imports yet{why}"));
        }
        let bound = self.port.as_ref().map(|port| port.borrow().is_some());
        if bound == Some(false) {
            all.push("the port for proxies is not open yet".to_owned());
        }
        all
    }

    fn readiness(&self) -> Answer {
        let obstacles = self.obstacles();
        if obstacles.is_empty() {
            return Answer::text("ready\n");
        }
        let text = format!("not ready: {}", obstacles.join("; "));
        Answer::problem(StatusCode::SERVICE_UNAVAILABLE, &text)
    }

    fn imports(&self) -> Value {
        let received = self.shared.received.lock();
        let link = self.shared.link.lock();
        let imports = received.imports().all(Type::Import);
        let imports = imports.filter_map(|(name, resource)| {
            let import = unpack::<Import>(resource.resource.as_ref()?).ok()?;
            Some(json!({
                "service": name,
                "members": import.members,
                "ports": import.ports.iter().map(|port| port.port).collect::<Vec<_>>(),
                "endpoints": import.endpoints.len(),
                "hash": resource.version,
            }))
        });
        json!({
            "member": self.member,
            "connected": link.connected,
            "lastFailure": link.last_failure,
            "proxyGroup": received.group(),
            "asOf": received.stamp().as_of.to_string(),
            "epoch": received.stamp().epoch,
            "known": received.imports_known(),
            "imports": imports.collect::<Vec<_>>(),
        })
    }

    fn own_proxies(&self) -> Value {
        let received = self.shared.received.lock();
        let group = received.group().unwrap_or_default().to_owned();
        let hash = received.proxies().hash();
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        let fleet = self.proxies.lock();
        let status = fleet.status(&group, Some(&hash), &Default::default(), &now);
        json!({ "group": group, "hash": hash, "proxies": status.proxies })
    }

    fn metrics(&self) -> String {
        let registry = Registry::new();
        for (name, help, value) in self.levels() {
            let gauge = IntGauge::new(name, help).expect("names are constants");
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(Box::new(gauge)).expect("each name once");
        }
        for (name, help, value) in self.totals() {
            let counter = IntCounter::new(name, help).expect("names are constants");
            counter.inc_by(value);
            registry
                .register(Box::new(counter))
                .expect("each name once");
        }
        let mut text = String::new();
        TextEncoder::new()
            .encode_utf8(&registry.gather(), &mut text)
            .expect("a string grows");
        text
    }

    fn levels(&self) -> [Row; 5] {
        let received = self.shared.received.lock();
        let connected = u64::from(self.shared.link.lock().connected);
        let imports = received.imports().all(Type::Import).count() as u64;
        let bytes = received.bytes() as u64;
        let as_of = received.stamp().as_of;
        let stopped = self.tasks.stopped().len() as u64;
        [
            row(
                "connected",
                "1 while the stream from the hub is open",
                connected,
            ),
            row("imports", "Imports that the hub told of", imports),
            row("received_bytes", "What came down and is kept", bytes),
            row(
                "as_of",
                "The highest resourceVersion it was decided from",
                as_of,
            ),
            row("tasks_stopped", "Background tasks that do not run", stopped),
        ]
    }

    fn totals(&self) -> [Row; 9] {
        let counts = self.shared.received.lock().counts();
        let ends = self.shared.link.lock().ends;
        let stale = "Resources that took force although something newer had been seen";
        let fitted = "Refused resources that took force once their place was free";
        let deferred = "Resources of a replica that is behind, held back";
        [
            row("stream_ends_total", "Streams from the hub that ended", ends),
            row("answers_total", "Answers of the hub", counts.responses),
            row(
                "accepted_total",
                "Resources that took force",
                counts.accepted,
            ),
            row(
                "refused_total",
                "Resources that were refused",
                counts.refused,
            ),
            row("fitted_later_total", fitted, counts.fitted_later),
            row(
                "unchanged_total",
                "Resources with the content in force",
                counts.unchanged,
            ),
            row("deferred_total", deferred, counts.deferred),
            row("accepted_stale_total", stale, counts.accepted_stale),
            row("removed_total", "Resources removed", counts.removed),
        ]
    }
}

/// Name, help and value of a series.
type Row = (String, &'static str, u64);

fn row(name: &str, help: &'static str, value: u64) -> Row {
    (format!("fairlead_agent_{name}"), help, value)
}
