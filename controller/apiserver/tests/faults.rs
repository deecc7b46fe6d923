//! Faults on purpose, under paused time: what clients see, and that it is the same each time.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

use std::time::Duration;

use fairlead_apiserver::audit::Audit;
use fairlead_apiserver::faults::{Effect, Faults, Rule};
use fairlead_apiserver::{ApiServer, Controllers};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Error};
use serde_json::json;
use tokio::time::Instant;

async fn server(faults: &Faults, audit: &Audit) -> ApiServer {
    let builder = ApiServer::builder()
        .controllers(Controllers::NONE)
        .faults(faults)
        .audit(audit);
    builder
        .build()
        .await
        .expect("a server without a data folder starts")
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

async fn create(client: &Client, name: &str) -> Result<ConfigMap, Error> {
    maps(client)
        .create(&PostParams::default(), &map(name))
        .await
}

/// The kinds and names of the next `count` events of a watch from the start of time.
async fn events(client: &Client, count: usize) -> Vec<String> {
    let params = WatchParams::default();
    let stream = maps(client).watch(&params, "0").await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let mut seen = Vec::new();
    while seen.len() < count
        && let Some(event) = stream.try_next().await.unwrap()
    {
        seen.push(match event {
            WatchEvent::Added(map) => format!("+{}", map.metadata.name.unwrap()),
            WatchEvent::Deleted(map) => format!("-{}", map.metadata.name.unwrap()),
            WatchEvent::Modified(map) => format!("~{}", map.metadata.name.unwrap()),
            other => format!("{other:?}"),
        });
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_waited_for_on_the_paused_clock() {
    let (faults, audit) = (Faults::default(), Audit::new(100));
    let server = server(&faults, &audit).await;
    let slow = faults.inject(Rule::new(Effect::Delay(Duration::from_secs(7))).verb("create"));
    let start = Instant::now();
    create(&server.client(), "a").await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 7);
    drop(slow);
    create(&server.client(), "b").await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn failures_come_where_and_as_often_as_asked() {
    let (faults, audit) = (Faults::default(), Audit::new(100));
    let server = server(&faults, &audit).await;
    let client = server.client_as("bob", ["system:masters"]);
    let broken = faults.inject(
        Rule::new(Effect::Fail(500))
            .user("bob")
            .resource("configmaps")
            .after(1)
            .every(2)
            .times(2),
    );
    let mut codes = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        codes.push(match create(&client, name).await {
            Ok(_) => 201,
            Err(Error::Api(status)) => status.code,
            Err(other) => panic!("{other}"),
        });
    }
    assert_eq!(codes, [201, 500, 201, 500, 201, 201]);
    assert_eq!(broken.hits(), 2);
    create(&server.client(), "g")
        .await
        .expect("another user is spared");
    let busy = faults.inject(Rule::new(Effect::Fail(409)).verb("list"));
    let Err(Error::Api(status)) = maps(&client).list(&ListParams::default()).await else {
        panic!("refused")
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_a_write_that_took_place() {
    let (faults, audit) = (Faults::default(), Audit::new(100));
    let server = server(&faults, &audit).await;
    let client = server.client();
    let lost = faults.inject(Rule::new(Effect::LoseAnswer).verb("create").times(1));
    assert!(matches!(create(&client, "a").await, Err(Error::Service(_))));
    assert!(maps(&client).get("a").await.is_ok());
    let closed = faults.inject(Rule::new(Effect::Close).verb("create").times(1));
    assert!(matches!(create(&client, "b").await, Err(Error::Service(_))));
    let Err(Error::Api(status)) = maps(&client).get("b").await else {
        panic!("nothing was written")
    };
    assert_eq!(status.code, 404);
    assert_eq!((lost.hits(), closed.hits()), (1, 1));
    let codes: Vec<u16> = audit
        .entries()
        .iter()
        .filter(|entry| entry.verb == "create")
        .map(|entry| entry.code)
        .collect();
    assert_eq!(codes, [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_holds_one_user_until_it_heals() {
    let (faults, audit) = (Faults::default(), Audit::new(100));
    let server = server(&faults, &audit).await;
    let member = server.client_as("member", ["system:masters"]);
    let partition = faults.inject(Rule::new(Effect::Hang).user("member"));
    let cut_off = {
        let member = member.clone();
        tokio::spawn(async move { create(&member, "a").await })
    };
    // The others go on, for hours.
    create(&server.client(), "b").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!cut_off.is_finished());
    drop(partition);
    assert!(matches!(cut_off.await.unwrap(), Err(Error::Service(_))));
    create(&member, "a")
        .await
        .expect("the next try gets through");
}

#[tokio::test(start_paused = true)]
async fn events_are_lost_repeated_delayed_and_cut_off() {
    let (faults, audit) = (Faults::default(), Audit::new(100));
    let server = server(&faults, &audit).await;
    let client = server.client();
    for name in ["a", "b", "c"] {
        create(&client, name).await.unwrap();
    }
    let rule = |effect| Rule::new(effect).resource("configmaps").after(1).times(1);
    let lost = faults.inject(rule(Effect::DropEvent));
    assert_eq!(events(&client, 2).await, ["+a", "+c"]);
    drop(lost);
    let repeated = faults.inject(rule(Effect::RepeatEvent));
    assert_eq!(events(&client, 4).await, ["+a", "+b", "+b", "+c"]);
    drop(repeated);
    let delayed = faults.inject(rule(Effect::DelayEvent(Duration::from_secs(30))));
    let start = Instant::now();
    assert_eq!(events(&client, 3).await, ["+a", "+b", "+c"]);
    assert_eq!(start.elapsed().as_secs(), 30);
    drop(delayed);
    let ended = faults.inject(rule(Effect::EndWatch));
    assert_eq!(events(&client, 9).await, ["+a"]);
    drop(ended);
}

#[tokio::test(start_paused = true)]
async fn the_audit_log_tells_who_asked_for_what() {
    let (faults, audit) = (Faults::default(), Audit::new(3));
    let server = server(&faults, &audit).await;
    let bob = server.client_as("bob", ["staff"]);
    assert!(create(&bob, "a").await.is_err());
    let entry = audit.first(|entry| entry.user == "bob").await;
    assert_eq!(
        (entry.verb, entry.resource.as_str(), entry.code),
        ("create", "configmaps", 403)
    );
    assert_eq!(entry.groups, ["staff", "system:authenticated"]);
    let waiting = {
        let audit = audit.clone();
        tokio::spawn(async move { audit.first(|entry| entry.name == "later").await })
    };
    for _ in 0..4 {
        create(&server.client(), "b").await.ok();
    }
    assert!(maps(&server.client()).get("later").await.is_err());
    assert_eq!(waiting.await.unwrap().code, 404);
    assert_eq!((audit.entries().len(), audit.dropped()), (3, 3));
}
