//! What the hub counts.

use prometheus::{
    Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// Handles to every series of the hub; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    writes: IntCounterVec,
    plan_seconds: Histogram,
    planned_services: IntGauge,
    leads: IntGauge,
    holds: IntGauge,
    streams: IntGaugeVec,
    answers: IntCounterVec,
    sent: IntCounterVec,
    requests: IntCounterVec,
    members: IntGaugeVec,
    held_resets: IntCounterVec,
}

impl Metrics {
    /// Registered anew; one per hub.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let plan_seconds = register(&registry, plan_seconds());
        Self {
            writes: counter(
                "fairlead_hub_writes_total",
                "Writes by outcome",
                &["outcome"],
            ),
            planned_services: gauge("fairlead_hub_planned_services", "Services in the last plan"),
            leads: gauge("fairlead_hub_leads", "1 while this replica may write"),
            holds: gauge(
                "fairlead_hub_holds",
                "1 while nothing is distributed: the store was restored and members mirror anew",
            ),
            streams: gauges(
                "fairlead_hub_streams",
                "Open streams by who opened them",
                &["peer"],
            ),
            answers: counter(
                "fairlead_hub_answers_total",
                "Acknowledged and refused updates",
                &["outcome"],
            ),
            sent: counter(
                "fairlead_hub_sent_bytes_total",
                "Bytes of answers on configuration streams, by who opened them",
                &["peer"],
            ),
            requests: counter(
                "fairlead_hub_identity_requests_total",
                "Joins, renewals and token exchanges by outcome",
                &["request", "outcome"],
            ),
            members: gauges("fairlead_hub_members", "Members by verdict", &["verdict"]),
            held_resets: counter(
                "fairlead_hub_held_resets_total",
                "Lists that lacked most members' objects and were held back",
                &["kind"],
            ),
            plan_seconds,
            registry,
        }
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        let encoder = prometheus::TextEncoder::new();
        encoder
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }

    pub(super) fn written(&self, outcome: &str) {
        self.writes.with_label_values(&[outcome]).inc();
    }

    pub(super) fn planned(&self, took: std::time::Duration, services: usize) {
        self.plan_seconds.observe(took.as_secs_f64());
        self.planned_services
            .set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    pub(super) fn holds(&self, holds: bool) {
        self.holds.set(i64::from(holds));
    }

    pub(super) fn stream_opened(&self, peer: &str) {
        self.streams.with_label_values(&[peer]).inc();
    }

    pub(super) fn stream_closed(&self, peer: &str) {
        self.streams.with_label_values(&[peer]).dec();
    }

    pub(super) fn answered(&self, outcome: &str) {
        self.answers.with_label_values(&[outcome]).inc();
    }

    pub(super) fn sent(&self, peer: &str, bytes: usize) {
        self.sent.with_label_values(&[peer]).inc_by(bytes as u64);
    }

    pub(super) fn requested(&self, request: &str, outcome: &str) {
        self.requests.with_label_values(&[request, outcome]).inc();
    }

    pub(super) fn members(&self, verdict: &str, count: usize) {
        self.members
            .with_label_values(&[verdict])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn held_reset(&self, kind: &str) {
        self.held_resets.with_label_values(&[kind]).inc();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let made = made.expect("names and labels are constants");
    registry
        .register(Box::new(made.clone()))
        .expect("each name once");
    made
}

fn plan_seconds() -> prometheus::Result<Histogram> {
    Histogram::with_opts(
        HistogramOpts::new("fairlead_hub_plan_seconds", "Time a plan took").buckets(vec![
            0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
        ]),
    )
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
