//! Clients: one request after another, or many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;
use tokio::task::JoinSet;

use crate::load::client::histogram;

/// What came of some load.
pub(crate) struct Outcome {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Seconds(f64),
    Count(u64),
}

// === impl Outcome ===

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Keeps `parallel` requests in flight; `request` is given the number of each.
pub(crate) async fn run<F, R>(parallel: usize, until: Until, request: F) -> anyhow::Result<Outcome>
where
    F: Fn(u64) -> R + Clone + Send + 'static,
    R: Future<Output = kube::Result<()>> + Send + 'static,
{
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let goes_on = move |number: u64| match until {
        Until::Count(count) => number < count,
        Until::Seconds(seconds) => begin.elapsed() < Duration::from_secs_f64(seconds),
    };
    let mut workers = JoinSet::new();
    for _ in 0..parallel {
        let (request, next) = (request.clone(), Arc::clone(&next));
        workers.spawn(async move {
            let mut latency = histogram();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if !goes_on(number) {
                    return Ok(latency);
                }
                let sent = Instant::now();
                request(number).await?;
                record(&mut latency, sent.elapsed());
            }
        });
    }
    let mut latency = histogram();
    while let Some(ended) = workers.join_next().await {
        let own: kube::Result<Histogram<u64>> = ended?;
        latency.add(own?)?;
    }
    Ok(Outcome {
        count: latency.len(),
        seconds: begin.elapsed().as_secs_f64(),
        latency,
    })
}

pub(crate) fn record(latency: &mut Histogram<u64>, taken: Duration) {
    latency.saturating_record(u64::try_from(taken.as_micros()).unwrap_or(u64::MAX));
}

/// A ConfigMap with 1 KiB in it; `note` is what changes from write to write.
pub(crate) fn config_map(name: String, note: String) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name),
            ..ObjectMeta::default()
        },
        data: Some(
            [
                ("note".to_owned(), note),
                ("payload".to_owned(), "x".repeat(1024)),
            ]
            .into(),
        ),
        ..ConfigMap::default()
    }
}
