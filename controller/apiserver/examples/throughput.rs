//! How fast and how small: writes a second through `kube::Client`, watch delivery, memory per idle
//! server.
//!
//! `cargo run --profile quick -p fairlead-apiserver --example throughput`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fairlead_apiserver::ApiServer;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};

const SECONDS: u64 = 4;
const WRITERS: usize = 32;
const SERVERS: usize = 1000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        creates().await;
        lists().await;
        delivery().await;
        idle().await;
    });
}

fn config_map(name: String) -> ConfigMap {
    let data = BTreeMap::from([("payload".to_owned(), "x".repeat(1024))]);
    let mut map = ConfigMap {
        data: Some(data),
        ..ConfigMap::default()
    };
    map.metadata.name = Some(name);
    map
}

async fn creates() {
    let server = ApiServer::builder().build().await.expect("a server builds");
    let written = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
        let written = Arc::clone(&written);
        tasks.spawn(async move {
            let mut index = 0_u64;
            while start.elapsed() < Duration::from_secs(SECONDS) {
                let map = config_map(format!("map-{writer}-{index}"));
                api.create(&PostParams::default(), &map)
                    .await
                    .expect("a create succeeds");
                index += 1;
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let total = written.load(Ordering::Relaxed);
    let rate = total / SECONDS;
    println!(
        "create: {rate}/s with {WRITERS} writers, {total} objects, {} MB",
        resident() >> 20
    );
}

async fn lists() {
    let server = ApiServer::builder().build().await.expect("a server builds");
    let before = resident();
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    for index in 0..10_000 {
        api.create(&PostParams::default(), &config_map(format!("map-{index}")))
            .await
            .expect("fits");
    }
    let bytes = (resident().saturating_sub(before)) / 10_000;
    let start = Instant::now();
    let list = api
        .list(&ListParams::default())
        .await
        .expect("a list succeeds");
    println!(
        "list: {} objects in {:?}; {bytes} B of memory an object",
        list.items.len(),
        start.elapsed()
    );
}

async fn delivery() {
    let server = ApiServer::builder().build().await.expect("a server builds");
    let delays = Arc::new(parking_lot::Mutex::new(hdr()));
    let origin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
        let delays = Arc::clone(&delays);
        tasks.spawn(async move {
            let watch = api
                .watch(&WatchParams::default(), "0")
                .await
                .expect("a watch starts");
            let mut watch = watch.boxed();
            while let Some(Ok(event)) = watch.next().await {
                let WatchEvent::Added(map) = event else {
                    continue;
                };
                let Some(sent) = map
                    .metadata
                    .name
                    .and_then(|name| name.strip_prefix("at-")?.parse().ok())
                else {
                    continue;
                };
                let now = u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX);
                delays.lock().push(now.saturating_sub(sent));
            }
        });
    }
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    for _ in 0..1500 {
        tick.tick().await;
        let now = origin.elapsed().as_micros();
        api.create(&PostParams::default(), &config_map(format!("at-{now}")))
            .await
            .expect("fits");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    tasks.abort_all();
    let mut delays = delays.lock().clone();
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!(
        "watch: {} deliveries to 100 watchers at 500 writes/s, p50 {} us, p99 {} us",
        delays.len(),
        at(0.5),
        at(0.99)
    );
}

fn hdr() -> Vec<u64> {
    Vec::new()
}

async fn idle() {
    let first = ApiServer::builder().build().await.expect("a server builds");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = resident();
    let start = Instant::now();
    let mut servers = vec![first];
    for _ in 1..SERVERS {
        servers.push(ApiServer::builder().build().await.expect("a server builds"));
    }
    let each = start.elapsed() / 999;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let bytes = (resident() - before) / (servers.len() as u64 - 1);
    println!("idle: {} kB a server, built in {each:?}", bytes >> 10);
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4096
}
