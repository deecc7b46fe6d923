//! What the memory store is meant to reach in one process, each measured in a fresh process.

use std::process::Command;

use anyhow::{Context, bail, ensure};
use fairlead_apiserver::ApiServer;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{PostParams, WatchParams},
};

use super::{
    Options,
    contestant::Host,
    load::{self, Until, config_map},
    report::{Goal, median},
    watchers,
};
use crate::usage;

/// All of them.
pub(crate) async fn measure(options: &Options) -> anyhow::Result<Vec<Goal>> {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let folder = tempfile::tempdir()?;
        let begin = std::time::Instant::now();
        let (host, _) = Host::start(folder.path(), &["--plain".as_ref()]).await?;
        starts.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(host);
    }
    let mut goals = vec![Goal::below(
        "start to ready, plain HTTP",
        "ms",
        median(&starts),
        50.0,
    )];
    for what in ["idle", "crowd", "writes", "watches"] {
        let mut runs = Vec::new();
        for _ in 0..options.rounds {
            runs.push(in_a_process(what)?);
        }
        for at in 0..runs[0].len() {
            let values: Vec<f64> = runs.iter().map(|run| run[at].value).collect();
            goals.push(runs[0][at].clone().at(median(&values)));
        }
    }
    Ok(goals)
}

/// One of them, in the process that was started for it.
pub(crate) async fn in_this_process(what: &str) -> anyhow::Result<Vec<Goal>> {
    match what {
        "idle" => idle().await,
        "crowd" => crowd().await,
        "writes" => writes().await,
        "watches" => watches().await,
        other => bail!("--measure {other}: idle, crowd, writes and watches are known"),
    }
}

fn in_a_process(what: &str) -> anyhow::Result<Vec<Goal>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["apiserver-host", "--measure", what])
        .output()?;
    ensure!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A thousand servers with their controllers, everything that a fresh cluster has in each.
async fn idle() -> anyhow::Result<Vec<Goal>> {
    let mut servers = vec![furnished().await?];
    let one = memory();
    for _ in 1..SERVERS {
        servers.push(furnished().await?);
    }
    let each = memory().saturating_sub(one) as f64 / 1e6 / (SERVERS - 1) as f64;
    Ok(vec![
        Goal::below("idle server, of 1,000 in one process", "MB", each, 1.0),
        Goal::told("shared by them all, with the first", "MB", one as f64 / 1e6),
    ])
}

/// A thousand watchers of one server.
async fn crowd() -> anyhow::Result<Vec<Goal>> {
    let server = furnished().await?;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let (before, mut watches) = (memory(), Vec::new());
    for _ in 0..WATCHERS {
        let mut watch = Box::pin(api.watch(&WatchParams::default(), "0").await?);
        // The present state, which every watch begins with.
        watch.try_next().await?;
        watches.push(watch);
    }
    let each = memory().saturating_sub(before) as f64 / 1e3 / WATCHERS as f64;
    Ok(vec![Goal::told(
        "a watcher and its client, of 1,000 on one server",
        "kB",
        each,
    )])
}

async fn writes() -> anyhow::Result<Vec<Goal>> {
    let server = ApiServer::builder().build().await?;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let request = move |number: u64| {
        let api = api.clone();
        async move {
            let map = config_map(format!("full-{number}"), String::new());
            api.create(&PostParams::default(), &map).await.map(drop)
        }
    };
    let outcome = load::run(WRITERS, Until::Seconds(SECONDS), request).await?;
    let what = "creates through a client in the process";
    Ok(vec![Goal::above(
        what,
        "/s",
        outcome.per_second(),
        20_000.0,
    )])
}

async fn watches() -> anyhow::Result<Vec<Goal>> {
    let server = ApiServer::builder().build().await?;
    let seen = watchers::deliver(&server.client(), 100, (500, SECONDS)).await?;
    let what = "watch delivery in the process, 100 watchers, 500 writes/s";
    Ok(vec![
        Goal::told(&format!("{what}, p50"), "ms", seen.millis(0.5)),
        Goal::below(&format!("{what}, p99"), "ms", seen.millis(0.99), 5.0),
    ])
}

/// A server whose controllers have given every namespace what it gets.
async fn furnished() -> anyhow::Result<ApiServer> {
    let server = ApiServer::builder().build().await?;
    for namespace in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        let maps: Api<ConfigMap> = Api::namespaced(server.client(), namespace);
        let there = |map: Option<&ConfigMap>| map.is_some();
        kube::runtime::wait::await_condition(maps, "kube-root-ca.crt", there)
            .await
            .context("a namespace gets the root CA")?;
    }
    Ok(server)
}

fn memory() -> u64 {
    usage::of_tree(std::process::id()).memory
}

const STARTS: usize = 11;
const SERVERS: usize = 1000;
const WATCHERS: usize = 1000;
const WRITERS: usize = 32;
const SECONDS: f64 = 3.0;
