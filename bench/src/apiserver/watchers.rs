//! Watchers, and how long a change takes to reach them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use tokio::{sync::watch, task::JoinSet, time};

use super::load::{self, Outcome, Until, config_map, record};
use crate::load::client::histogram;

/// Watchers of one namespace who count what they see.
struct Crowd {
    tasks: JoinSet<anyhow::Result<Histogram<u64>>>,
    seen: Arc<AtomicU64>,
    began: Instant,
    /// Ends the watches when it goes.
    stop: watch::Sender<()>,
}

/// Writes at a steady rate; the latency is from sending a write to its event at a watcher.
pub(crate) async fn deliver(
    client: &Client,
    watchers: u64,
    (rate, seconds): (u64, f64),
) -> anyhow::Result<Outcome> {
    let crowd = Crowd::gather(client, watchers).await?;
    let writes = (rate as f64 * seconds) as u64;
    let start = time::Instant::now();
    let mut writers = JoinSet::new();
    for number in 0..writes {
        time::sleep_until(start + Duration::from_secs(number) / u32::try_from(rate)?).await;
        writers.spawn(write(client.clone(), number, crowd.began));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let taken = start.elapsed();
    crowd.disperse(writes * watchers, taken).await
}

/// Writes as fast as the server takes them: events a second that arrive.
pub(crate) async fn flood(client: &Client, watchers: u64, seconds: f64) -> anyhow::Result<Outcome> {
    let crowd = Crowd::gather(client, watchers).await?;
    let (start, began) = (Instant::now(), crowd.began);
    let writer = client.clone();
    let write = move |number| write(writer.clone(), number, began);
    let written = load::run(WRITERS, Until::Seconds(seconds), write).await?;
    let wanted = written.count * watchers;
    crowd.arrive(wanted).await?;
    crowd.disperse(wanted, start.elapsed()).await
}

// === impl Crowd ===

impl Crowd {
    async fn gather(client: &Client, watchers: u64) -> anyhow::Result<Self> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        for number in 0..OBJECTS {
            let map = config_map(name(number), String::new());
            api.create(&PostParams::default(), &map)
                .await
                .or_else(there)?;
        }
        let from = api.list(&ListParams::default().limit(1)).await?.metadata;
        let uri = format!(
            "/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&timeoutSeconds=120&resourceVersion={}",
            from.resource_version.unwrap_or_default()
        );
        let (seen, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        for _ in 0..watchers {
            // The stream is open once there is a response.
            let request = http::Request::get(&uri).body(kube::client::Body::empty())?;
            let response = client.send(request).await?;
            ensure!(
                response.status() == 200,
                "a watch is answered {}",
                response.status()
            );
            let (seen, mut stopped) = (Arc::clone(&seen), stopped.clone());
            tasks.spawn(async move {
                let mut latency = histogram();
                tokio::select! {
                    ended = follow(response.into_body(), (began, &seen), &mut latency) => ended?,
                    _ = stopped.changed() => {}
                }
                Ok(latency)
            });
        }
        Ok(Self {
            tasks,
            seen,
            began,
            stop,
        })
    }

    async fn arrive(&self, wanted: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.seen.load(Ordering::Relaxed) < wanted {
            let seen = self.seen.load(Ordering::Relaxed);
            ensure!(
                Instant::now() < deadline,
                "only {seen} of {wanted} events came"
            );
            time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn disperse(mut self, wanted: u64, taken: Duration) -> anyhow::Result<Outcome> {
        self.arrive(wanted).await?;
        drop(self.stop);
        let mut latency = histogram();
        while let Some(ended) = self.tasks.join_next().await {
            latency.add(ended??)?;
        }
        Ok(Outcome {
            count: wanted,
            seconds: taken.as_secs_f64(),
            latency,
        })
    }
}

/// Reads events and notes how old the write is that each tells of. Finds the time in the bytes, so
/// that the client costs little and the same whatever the server.
async fn follow(
    mut body: kube::client::Body,
    (began, seen): (Instant, &AtomicU64),
    latency: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let mut kept: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let now = began.elapsed();
        kept.extend_from_slice(&data);
        let whole = kept
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in kept[..whole].split(|byte| *byte == b'\n') {
            if let Some(sent) = sent_at(line) {
                record(latency, now.saturating_sub(sent));
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
        kept.drain(..whole);
    }
    anyhow::bail!("the server ended a watch")
}

/// When the write was sent that this event tells of.
fn sent_at(line: &[u8]) -> Option<Duration> {
    let at = line.windows(MARK.len()).position(|window| window == MARK)?;
    let digits = &line[at + MARK.len()..];
    let end = digits.iter().position(|byte| *byte == b'"')?;
    let nanos = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

async fn write(client: Client, number: u64, began: Instant) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let name = name(number % OBJECTS);
    let sent = began.elapsed().as_nanos();
    let map = config_map(name.clone(), sent.to_string());
    api.replace(&name, &PostParams::default(), &map)
        .await
        .map(drop)
}

/// An earlier crowd has made it.
fn there(error: kube::Error) -> kube::Result<ConfigMap> {
    match error {
        kube::Error::Api(status) if status.code == 409 => Ok(ConfigMap::default()),
        other => Err(other),
    }
}

fn name(number: u64) -> String {
    format!("watched-{number}")
}

/// Where the watched objects are: one that every server has and nobody writes to.
const NAMESPACE: &str = "kube-public";
const OBJECTS: u64 = 100;
const WRITERS: usize = 16;
const MARK: &[u8] = b"\"note\":\"";
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_when_its_write_was_sent() {
        let line = br#"{"type":"MODIFIED","object":{"data":{"note":"1500","payload":"x"}}}"#;
        assert_eq!(sent_at(line), Some(Duration::from_nanos(1500)));
        assert_eq!(sent_at(br#"{"type":"BOOKMARK"}"#), None);
        assert_eq!(sent_at(br#"{"data":{"note":""}}"#), None);
    }
}
