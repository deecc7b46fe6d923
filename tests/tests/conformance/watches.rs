//! Watches: order, resumption, selectors, streaming lists.

use std::pin::pin;

use anyhow::{Context, bail, ensure};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

use crate::{Case, same, support::config_map};

type Event = WatchEvent<ConfigMap>;

pub(crate) async fn a_watch_sees_changes_in_order(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let start = version(&api).await?;
    write(&api, "one").await?;
    let mut stream = pin!(api.watch(&selected(), &start).await?.boxed());
    same!(next(&mut stream).await?, "ADDED one 1");
    same!(next(&mut stream).await?, "MODIFIED one 2");
    same!(next(&mut stream).await?, "DELETED one 2");
    Ok(())
}

pub(crate) async fn a_deletion_has_a_version_of_its_own(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let start = version(&api).await?;
    write(&api, "one").await?;
    let mut stream = pin!(api.watch(&selected(), &start).await?.boxed());
    let mut versions = Vec::new();
    let gone = loop {
        match stream.try_next().await?.context("the watch ended")? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => versions.push(object),
            WatchEvent::Deleted(object) => break object,
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => bail!("{status:?}"),
        }
    };
    let number = |object: &ConfigMap| {
        let version = object.resource_version().context("a version")?;
        version.parse::<u64>().context("a number")
    };
    let last = number(versions.last().context("a change")?)?;
    ensure!(number(&gone)? > last, "{} after {last}", number(&gone)?);
    // Who resumes from it hears nothing twice.
    write(&api, "two").await?;
    let from = gone.resource_version().context("a version")?;
    let mut stream = pin!(api.watch(&selected(), &from).await?.boxed());
    same!(next(&mut stream).await?, "ADDED two 1");
    Ok(())
}

pub(crate) async fn a_watch_from_now_tells_nothing_of_before(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    api.create(&PostParams::default(), &config_map("old", "1"))
        .await?;
    let query =
        "watch=1&timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let uri = format!("/api/v1/namespaces/{}/configmaps?{query}", case.namespace);
    let told = case.text(http::Request::get(uri).body(Vec::new())?).await?;
    ensure!(!told.contains("\"old\""), "{told}");
    Ok(())
}

pub(crate) async fn a_watch_of_tables_defines_its_columns_once(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    for name in ["one", "two"] {
        api.create(&PostParams::default(), &config_map(name, "1"))
            .await?;
    }
    let uri = format!(
        "/api/v1/namespaces/{}/configmaps?watch=1&timeoutSeconds=1",
        case.namespace
    );
    let request = http::Request::get(uri)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let told = case.text(request).await?;
    let mut tables = told.lines().map(serde_json::from_str::<serde_json::Value>);
    let first = tables.next().context("a table")??;
    ensure!(first["object"]["columnDefinitions"].is_array(), "{first}");
    let second = tables.next().context("another")??;
    same!(
        second["object"]["columnDefinitions"],
        serde_json::Value::Null
    );
    Ok(())
}

pub(crate) async fn a_watch_resumes_without_loss(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let start = version(&api).await?;
    write(&api, "one").await?;
    let seen = {
        let mut stream = pin!(api.watch(&selected(), &start).await?.boxed());
        match stream.try_next().await?.context("an event")? {
            WatchEvent::Added(object) => object.resource_version().context("a version")?,
            other => bail!("{other:?}"),
        }
    };
    let mut stream = pin!(api.watch(&selected(), &seen).await?.boxed());
    same!(next(&mut stream).await?, "MODIFIED one 2");
    same!(next(&mut stream).await?, "DELETED one 2");
    Ok(())
}

pub(crate) async fn a_watch_translates_selector_changes(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let start = version(&api).await?;
    let mut made = config_map("one", "1");
    made.labels_mut().insert("watched".into(), "no".into());
    api.create(&PostParams::default(), &made).await?;
    for value in ["yes", "no"] {
        let patch = json!({ "metadata": { "labels": { "watched": value } } });
        api.patch("one", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
    }
    let mut stream = pin!(api.watch(&selected(), &start).await?.boxed());
    same!(next(&mut stream).await?, "ADDED one 1");
    same!(next(&mut stream).await?, "DELETED one 1");
    Ok(())
}

pub(crate) async fn a_streaming_list_ends_with_a_bookmark(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let mut made = config_map("one", "1");
    made.labels_mut().insert("watched".into(), "yes".into());
    api.create(&PostParams::default(), &made).await?;
    let params = selected().initial_events();
    let mut stream = pin!(api.watch(&params, "").await?.boxed());
    same!(next(&mut stream).await?, "ADDED one 1");
    match stream.try_next().await?.context("a bookmark")? {
        WatchEvent::Bookmark(mark) => {
            let ended = mark.metadata.annotations.get("k8s.io/initial-events-end");
            same!(ended.map(String::as_str), Some("true"));
            ensure!(mark.metadata.resource_version.parse::<u64>().is_ok());
        }
        other => bail!("expected a bookmark, got {other:?}"),
    }
    Ok(())
}

pub(crate) async fn a_watch_ends_at_its_timeout(case: Case) -> anyhow::Result<()> {
    let api = case.api::<ConfigMap>();
    let start = version(&api).await?;
    let params = selected().timeout(1);
    let events: Vec<Event> = api.watch(&params, &start).await?.try_collect().await?;
    let real_events = events
        .iter()
        .filter(|event| !matches!(event, WatchEvent::Bookmark(_)));
    same!(real_events.count(), 0);
    Ok(())
}

pub(crate) async fn a_version_from_the_future_is_refused(case: Case) -> anyhow::Result<()> {
    let far = u64::MAX / 4;
    let uri = format!(
        "/api/v1/namespaces/{}/configmaps?resourceVersion={far}&timeoutSeconds=1",
        case.namespace
    );
    let (_, headers) = case
        .head(http::Request::get(&uri).body(Vec::new())?)
        .await?;
    same!(
        headers.get("retry-after").map(http::HeaderValue::as_bytes),
        Some(&b"1"[..])
    );
    let (code, status) = case.get(&uri).await?;
    same!((code, status["reason"].as_str()), (504, Some("Timeout")));
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.contains("Too large resource version"), "{message}");
    Ok(())
}

/// Creates, changes and deletes a watched object.
async fn write(api: &Api<ConfigMap>, name: &str) -> anyhow::Result<()> {
    let mut made = config_map(name, "1");
    made.labels_mut().insert("watched".into(), "yes".into());
    api.create(&PostParams::default(), &made).await?;
    let patch = json!({ "data": { "key": "2" } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

async fn version(api: &Api<ConfigMap>) -> anyhow::Result<String> {
    let list = api.list(&kube::api::ListParams::default()).await?;
    list.metadata
        .resource_version
        .context("a list has a version")
}

fn selected() -> WatchParams {
    WatchParams::default().labels("watched=yes").timeout(20)
}

/// The next event that is no bookmark: its type, the object's name and its value.
async fn next<S>(stream: &mut S) -> anyhow::Result<String>
where
    S: Stream<Item = kube::Result<Event>> + Unpin,
{
    loop {
        let (kind, object) = match stream.try_next().await?.context("the watch ended")? {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("{status:?}"),
        };
        let value = object
            .data
            .as_ref()
            .and_then(|data| data.get("key"))
            .cloned();
        return Ok(format!(
            "{kind} {} {}",
            object.name_any(),
            value.unwrap_or_default()
        ));
    }
}
