//! What is measured of one server, row by row.

use std::{path::Path, time::Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};

use super::{
    Options,
    contestant::{Contestant, Running},
    load::{self, Outcome, Until, config_map},
    report::Sample,
    watchers,
};

/// Starts a contestant, takes all its figures, stops it.
pub(crate) async fn measure(
    options: &Options,
    contestant: Contestant,
    folder: &Path,
) -> anyhow::Result<Vec<Sample>> {
    let running = contestant.start(options, folder).await?;
    let mut out = vec![Sample::of(
        "start to ready",
        "ms",
        running.started.as_secs_f64() * 1e3,
    )];
    fill(options, &running, &mut out).await?;
    let api: Api<ConfigMap> = Api::namespaced(running.client.clone(), NAMESPACE);
    let count = options.objects;
    // Elsewhere: a list is of exactly so many objects.
    let creator: Api<ConfigMap> = Api::namespaced(running.client.clone(), OTHER_NAMESPACE);
    let create = move |number: u64| {
        let (api, prefix) = (creator.clone(), "alone");
        async move { create(&api, prefix, number).await }
    };
    let alone = load::run(1, Until::Seconds(options.seconds), create).await?;
    out.extend(latencies("create, one at a time", &alone));
    let getter = api.clone();
    let get = move |number: u64| {
        let api = getter.clone();
        async move {
            api.get(&name("full", number * STRIDE % count))
                .await
                .map(drop)
        }
    };
    both(options, &running, "get", get, &mut out).await?;
    let update = move |number: u64| {
        let api = api.clone();
        async move {
            let name = name("full", number * STRIDE % count);
            let map = config_map(name.clone(), number.to_string());
            api.replace(&name, &PostParams::default(), &map)
                .await
                .map(drop)
        }
    };
    both(options, &running, "update", update, &mut out).await?;
    list(options, &running.client, &mut out).await?;
    watch(options, &running.client, &mut out).await?;
    Ok(out)
}

/// Fills the store, and sees what an object takes.
async fn fill(options: &Options, running: &Running, out: &mut Vec<Sample>) -> anyhow::Result<()> {
    let before = running.usage();
    out.push(Sample::of(
        "memory of the idle server",
        "MB",
        before.memory as f64 / 1e6,
    ));
    let api: Api<ConfigMap> = Api::namespaced(running.client.clone(), NAMESPACE);
    let request = move |number: u64| {
        let api = api.clone();
        async move { create(&api, "full", number).await }
    };
    let outcome = load::run(PARALLEL, Until::Count(options.objects), request).await?;
    let after = running.usage();
    out.extend(rates(
        "create",
        &outcome,
        after.cpu_nanos - before.cpu_nanos,
    ));
    let grown = after.memory.saturating_sub(before.memory) as f64;
    let each = grown / 1e3 / options.objects as f64;
    out.push(Sample::of("memory of an object of 1 KiB", "kB", each));
    Ok(())
}

async fn both<F, R>(
    options: &Options,
    running: &Running,
    what: &str,
    request: F,
    out: &mut Vec<Sample>,
) -> anyhow::Result<()>
where
    F: Fn(u64) -> R + Clone + Send + 'static,
    R: Future<Output = kube::Result<()>> + Send + 'static,
{
    let until = Until::Seconds(options.seconds);
    let alone = load::run(1, until, request.clone()).await?;
    out.extend(latencies(&format!("{what}, one at a time"), &alone));
    let before = running.usage().cpu_nanos;
    let many = load::run(PARALLEL, until, request).await?;
    out.extend(rates(what, &many, running.usage().cpu_nanos - before));
    Ok(())
}

async fn list(options: &Options, client: &Client, out: &mut Vec<Sample>) -> anyhow::Result<()> {
    let client = client.clone();
    // The text alone: reading ten thousand objects would measure the client.
    let request = move |_| {
        let client = client.clone();
        async move {
            let uri = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
            let request = http::Request::get(uri)
                .body(Vec::new())
                .map_err(kube::Error::HttpError)?;
            client.request_text(request).await.map(drop)
        }
    };
    let alone = load::run(1, Until::Count(LISTS), request.clone()).await?;
    let what = format!("list of {}", options.objects);
    out.push(Sample::of(
        &format!("{what}, one at a time, p50"),
        "ms",
        alone.millis(0.5),
    ));
    let many = load::run(LISTERS, Until::Seconds(options.seconds), request).await?;
    out.push(Sample::of(
        &format!("{what}, {LISTERS} in flight"),
        "/s",
        many.per_second(),
    ));
    Ok(())
}

async fn watch(options: &Options, client: &Client, out: &mut Vec<Sample>) -> anyhow::Result<()> {
    let begin = Instant::now();
    let seen = watchers::deliver(client, WATCHERS, (RATE, options.seconds)).await?;
    let what = format!("watch delivery, {WATCHERS} watchers, {RATE} writes/s");
    out.extend(latencies(&what, &seen));
    let seen = watchers::flood(client, WATCHERS, options.seconds).await?;
    let what = format!("events to {WATCHERS} watchers, as fast as it goes");
    out.push(Sample::of(&what, "/s", seen.per_second()));
    eprintln!("  watches took {:.1?}", begin.elapsed());
    Ok(())
}

fn latencies(what: &str, outcome: &Outcome) -> [Sample; 2] {
    [0.5, 0.99].map(|at| {
        let name = format!("{what}, p{:.0}", at * 100.0);
        Sample::of(&name, "ms", outcome.millis(at))
    })
}

fn rates(what: &str, outcome: &Outcome, cpu_nanos: u64) -> [Sample; 3] {
    let what = format!("{what}, {PARALLEL} in flight");
    let cpu = cpu_nanos as f64 / 1e3 / outcome.count as f64;
    [
        Sample::of(&what, "/s", outcome.per_second()),
        Sample::of(&format!("{what}, p99"), "ms", outcome.millis(0.99)),
        Sample::of(&format!("{what}, CPU of the server"), "µs each", cpu),
    ]
}

async fn create(api: &Api<ConfigMap>, prefix: &str, number: u64) -> kube::Result<()> {
    let map = config_map(name(prefix, number), String::new());
    api.create(&PostParams::default(), &map).await.map(drop)
}

fn name(prefix: &str, number: u64) -> String {
    format!("{prefix}-{number}")
}

const NAMESPACE: &str = "default";
const OTHER_NAMESPACE: &str = "kube-system";
const PARALLEL: usize = 64;
const LISTS: u64 = 8;
const LISTERS: usize = 4;
const WATCHERS: u64 = 100;
const RATE: u64 = 500;
/// Coprime to the number of objects, so that requests jump about.
const STRIDE: u64 = 7919;
