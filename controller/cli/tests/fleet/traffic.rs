//! Who answers, and what clients notice.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use fairlead_api::service::MultiClusterService;
use fairlead_tests::{
    clients::{self, Answer, Counts, Load, Loss, Session, failures},
    fleet::{self, Fleet, logs},
    wait,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Stage, program, same,
    start::weigh,
    strict::{Strict, counters},
};

pub(crate) async fn all_members_answer_tcp_and_udp_in_equal_shares(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    calm(&fleet).await?;
    let endpoint = fleet.ready.endpoint;
    let equal = weights(&fleet, 1.0);
    let tcp = clients::count_tcp(endpoint.tcp, REQUESTS).await;
    judge(&fleet, tcp, &equal).await?;
    let udp = clients::count_udp(endpoint.udp, REQUESTS).await;
    judge(&fleet, udp, &equal).await
}

pub(crate) async fn a_weight_shifts_new_connections_and_no_client_notices(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    calm(&fleet).await?;
    let load = Load::tcp(fleet.ready.endpoint.tcp);
    weigh(fleet.member("member-1").await?, 50).await?;
    wait_for_weight(&fleet, "member-1", 50.0).await?;
    let counts = clients::count_tcp(fleet.ready.endpoint.tcp, REQUESTS).await;
    judge(&fleet, counts, &weights(&fleet, 0.5)).await?;
    same!(failures(&load.stop().await), [""; 0]);
    Ok(())
}

pub(crate) async fn the_first_tier_takes_all_in_shares_by_weight(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    calm(&fleet).await?;
    let mut first: Vec<&str> = fleet.ready.members.iter().map(|one| &*one.name).collect();
    let last = first.pop().context("no member")?;
    let services = Api::<MultiClusterService>::namespaced(fleet.hub().await?, "demo");
    let tiers = json!({ "spec": { "tiers": [ { "members": first }, { "members": [last] } ] } });
    let patch = Patch::Merge(&tiers);
    services
        .patch("echo", &PatchParams::default(), &patch)
        .await?;
    weigh(fleet.member("member-1").await?, 50).await?;
    wait_for_weight(&fleet, "member-1", 50.0).await?;
    wait::until("two tiers", async || {
        let page = fleet::page(&fleet.ready.proxy_admin, "/services").await?;
        let page: Value = serde_json::from_str(&page)?;
        let services = page["services"].as_array().cloned().unwrap_or_default();
        let tiers = services.iter().map(|service| service["tiers"].as_array());
        let counts: Vec<_> = tiers.map(|tiers| tiers.map_or(0, Vec::len)).collect();
        Ok((counts == [2; PORTS]).then_some(()).ok_or(counts))
    })
    .await?;
    let mut parts = weights(&fleet, 0.5);
    parts.last_mut().context("no member")?.1 = 0.0;
    let endpoint = fleet.ready.endpoint;
    let tcp = clients::count_tcp(endpoint.tcp, REQUESTS).await;
    judge(&fleet, tcp, &parts).await?;
    let udp = clients::count_udp(endpoint.udp, REQUESTS).await;
    judge(&fleet, udp, &parts).await
}

pub(crate) async fn a_killed_member_gets_no_more_connections_and_no_more_flows(
    stage: Stage,
) -> anyhow::Result<()> {
    let mut fleet = stage.fleet().await?;
    let loads = Loads::start(&fleet).await?;
    let gone = Instant::now();
    fleet.kill("member-1")?;
    loads.ends_at(&fleet, "member-1", gone, "killed").await?;
    fleet.output.wait_for("member member-1 is gone").await?;
    let why = "every endpoint fails its probes";
    let text = status_row(&fleet, "member-1", &["Unhealthy", why]).await?;
    ensure!(text.contains("member-2"), "{text}");
    Ok(())
}

pub(crate) async fn a_silent_member_is_left_out_until_it_is_healed() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(program(), &[]).await?;
    let loads = Loads::start(&fleet).await?;
    let gone = Instant::now();
    let answer = "member-1 answers nothing any more";
    fleet.say("blackhole member-1", answer).await?;
    loads.ends_at(&fleet, "member-1", gone, "silent").await?;

    let load = Load::tcp(fleet.ready.endpoint.tcp);
    fleet.say("heal member-1", "member-1 answers again").await?;
    let back = Instant::now();
    let answers = wait::until("member-1 to answer again", async || {
        let answers = load.answers();
        let found = by(&answers, "member-1").any(|answer| answer.began >= back);
        Ok(found.then_some(answers).ok_or("not yet"))
    });
    answers.await?;
    same!(failures(&load.stop().await), [""; 0]);
    let unknown = fleet.say("heal member-9", "there is no member member-9");
    unknown.await?;
    Ok(())
}

pub(crate) async fn a_drain_waits_for_sessions_and_fails_no_client(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let clients = Strict::start(&fleet).await?;
    let load = &clients.tcp;
    let mut held = session_on(&fleet, "member-1").await?;
    let flow = flow_on(&fleet, "member-1").await?;

    let late = fleet
        .fairlead(&["drain", "member-1", "--timeout", "2s"])
        .await?;
    same!(late.code, Some(3));
    ensure!(late.stdout.contains("1 session left"), "{late:?}");
    ensure!(
        late.stderr.contains("fairlead undrain member-1"),
        "{late:?}"
    );
    // The session lives on, and nobody new comes.
    same!(held.ask().await?, "member-1");
    let since = Instant::now();
    enough(load, since).await?;
    let strangers = by(&load.answers(), "member-1")
        .filter(|answer| answer.began >= since)
        .count();
    same!(strangers, 0);

    let text = fleet.must(&["explain", "service", "demo/echo"]).await?;
    ensure!(text.contains("Draining"), "{text}");
    ensure!(
        text.contains("user keeps it at 0‰: drained by hand"),
        "{text}"
    );
    let again = fleet.command(&["drain", "member-1", "--reason", "upgrade"]);
    let mut again = { again }.spawn()?;
    drop(held);
    let status = tokio::time::timeout(wait::PATIENCE, again.wait()).await??;
    same!(status.code(), Some(0));
    drop(flow);

    let back = Instant::now();
    same!(
        fleet.fairlead(&["undrain", "member-1"]).await?.code,
        Some(0)
    );
    wait::until("member-1 to answer again", async || {
        let answers = load.answers();
        let found = by(&answers, "member-1").any(|answer| answer.began >= back);
        Ok(found.then_some(()).ok_or("not yet"))
    })
    .await?;
    clients.stop(&fleet).await?;
    Ok(())
}

pub(crate) async fn a_drain_of_nobody_is_refused(stage: Stage) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    for command in ["drain", "undrain"] {
        let refused = fleet.fairlead(&[command, "member-9"]).await?;
        same!(refused.code, Some(1));
        let said = "there is no member member-9; `fairlead status` lists them";
        ensure!(refused.stderr.contains(said), "{refused:?}");
    }
    Ok(())
}

pub(crate) async fn a_restart_of_the_hub_fails_no_client(stage: Stage) -> anyhow::Result<()> {
    let mut fleet = stage.fleet().await?;
    let clients = Strict::start(&fleet).await?;
    enough(&clients.tcp, Instant::now()).await?;
    fleet.say("restart hub", "the hub runs again").await?;
    // It leads again: what changes in a member arrives.
    weigh(fleet.member("member-2").await?, 0).await?;
    wait_for_weight(&fleet, "member-2", 0.0).await?;
    let since = Instant::now();
    enough(&clients.tcp, since).await?;
    let [(_, answers), ..] = clients.stop(&fleet).await?;
    let late = by(&answers, "member-2").filter(|answer| answer.began >= since);
    same!(late.count(), 0);
    Ok(())
}

/// Shares are promised while all endpoints are healthy: with the service's own probes, everything is
/// fully up.
async fn calm(fleet: &Fleet) -> anyhow::Result<()> {
    wait::until("probes, and all endpoints up", async || {
        let page = fleet::page(&fleet.ready.proxy_admin, "/snapshot").await?;
        let page: Value = serde_json::from_str(&page)?;
        let probes = page["probes"]["perSecondAskedFor"].as_f64();
        let mut all = Vec::new();
        for member in &fleet.ready.members {
            all.extend(endpoints(fleet, &member.name).await?);
        }
        let up = all
            .iter()
            .all(|endpoint| endpoint["state"] == "usable" && endpoint["ramp"] == 1.0);
        let there = all.len() == fleet.ready.members.len() * PODS * PORTS;
        Ok(if up && there && probes > Some(0.0) {
            Ok(())
        } else {
            Err((probes, all))
        })
    })
    .await
}

/// Fails unless all were answered and each member has its part, with what the proxy and the hub say of
/// every endpoint, and the kernel of datagrams.
async fn judge(
    fleet: &Fleet,
    counts: anyhow::Result<Counts>,
    parts: &[(&str, f64)],
) -> anyhow::Result<()> {
    let outcome = counts.and_then(|counts| shares(&counts, parts));
    let Err(error) = outcome else { return Ok(()) };
    let logs = logs(fleet.folder());
    let mut said = Vec::new();
    for member in &fleet.ready.members {
        for endpoint in endpoints(fleet, &member.name).await? {
            said.push(format!("{}: {endpoint}", member.name));
        }
    }
    let explained = fleet.must(&["explain", "service", "demo/echo"]).await?;
    said.push(counters(fleet).await);
    Err(error.context(format!("{}\n{explained}\n{logs}", said.join("\n"))))
}

/// TCP and UDP clients at once.
struct Loads {
    tcp: Load,
    udp: Load,
}

impl Loads {
    /// Starts them and waits until all members answer both.
    async fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let loads = Self {
            tcp: Load::tcp(fleet.ready.endpoint.tcp),
            // What is under way to a member that dies may be lost with it.
            udp: Load::udp(fleet.ready.endpoint.udp, Loss::SentAgain),
        };
        for load in [&loads.tcp, &loads.udp] {
            wait::until("all members to answer", async || {
                let answers = load.answers();
                let members = answers.iter().flat_map(|answer| answer.by.clone());
                let members: BTreeSet<_> = members.collect();
                let all = members.len() == fleet.ready.members.len();
                Ok(all.then_some(()).ok_or(members))
            })
            .await?;
        }
        Ok(loads)
    }

    /// Waits until the proxy says that it leaves the member out. Of the requests from then on none
    /// reaches it, and none fails. When the last one did is printed.
    async fn ends_at(
        self,
        fleet: &Fleet,
        member: &str,
        gone: Instant,
        how: &str,
    ) -> anyhow::Result<()> {
        wait_for_state(fleet, member, |state| state != "usable").await?;
        let reported = Instant::now();
        enough(&self.tcp, reported).await?;
        enough(&self.udp, reported).await?;
        for (kind, load) in [("connection", self.tcp), ("flow", self.udp)] {
            let answers = load.answers();
            let later = |answer: &&Answer| answer.began >= reported;
            let strangers: Vec<_> = by(&answers, member).filter(later).collect();
            ensure!(strangers.is_empty(), "{kind}: {strangers:?}");
            let failed = answers.iter().filter(|answer| answer.by.is_err());
            let failed: Vec<_> = failed.filter(later).collect();
            ensure!(failed.is_empty(), "{kind}: {failed:?}");
            let lost = answers.iter().filter(|answer| answer.lost > 0);
            let lost: Vec<_> = lost.filter(later).collect();
            ensure!(lost.is_empty(), "{kind}: asked in vain first: {lost:?}");
            let last = by(&answers, member)
                .map(|answer| answer.began.max(gone) - gone)
                .max();
            println!(
                "{member} {how}: last new {kind} after {:?}, reported after {:?}",
                last.unwrap_or_default(),
                reported - gone
            );
        }
        Ok(())
    }
}

/// Waits for a good number of requests that began after `since`.
async fn enough(load: &Load, since: Instant) -> anyhow::Result<()> {
    wait::until("requests", async || {
        let answers = load.answers();
        let later = answers.iter().filter(|answer| answer.began >= since);
        let count = later.count();
        Ok((count >= 300).then_some(()).ok_or(count))
    })
    .await
}

/// The requests that a member answered.
fn by<'a>(answers: &'a [Answer], member: &'a str) -> impl Iterator<Item = &'a Answer> {
    answers
        .iter()
        .filter(move |answer| answer.by.as_deref() == Ok(member))
}

async fn session_on(fleet: &Fleet, member: &str) -> anyhow::Result<Session> {
    for _ in 0..100 {
        let session = Session::open(fleet.ready.endpoint.tcp).await?;
        if session.member == member {
            return Ok(session);
        }
    }
    anyhow::bail!("{member} answers none of 100 connections")
}

/// A flow that goes on: its socket stays open.
async fn flow_on(fleet: &Fleet, member: &str) -> anyhow::Result<tokio::net::UdpSocket> {
    for _ in 0..100 {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(fleet.ready.endpoint.udp).await?;
        socket.send(b"hello").await?;
        let mut answer = [0; 64];
        let count = tokio::time::timeout(wait::PATIENCE, socket.recv(&mut answer)).await??;
        if answer[..count].starts_with(member.as_bytes()) {
            return Ok(socket);
        }
    }
    anyhow::bail!("{member} answers none of 100 flows")
}

/// Every endpoint of a member in every service of the proxy.
async fn endpoints(fleet: &Fleet, member: &str) -> anyhow::Result<Vec<Value>> {
    Ok(members(fleet, member)
        .await?
        .into_iter()
        .flat_map(|member| member["endpoints"].as_array().cloned().unwrap_or_default())
        .collect())
}

async fn members(fleet: &Fleet, member: &str) -> anyhow::Result<Vec<Value>> {
    let page = fleet::page(&fleet.ready.proxy_admin, "/services").await?;
    let page: Value = serde_json::from_str(&page)?;
    let array = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let services = array(&page, "services");
    let tiers = services.iter().flat_map(|service| array(service, "tiers"));
    let members = tiers.flat_map(|tier| array(&tier, "members"));
    Ok(members.filter(|found| found["name"] == member).collect())
}

async fn wait_for_state(
    fleet: &Fleet,
    member: &str,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    wait::until(&format!("the state of {member}"), async || {
        let found = endpoints(fleet, member).await?;
        let all = found
            .iter()
            .all(|endpoint| endpoint["state"].as_str().is_some_and(&wanted));
        Ok(all.then_some(()).ok_or(found))
    })
    .await
}

async fn wait_for_weight(fleet: &Fleet, member: &str, weight: f64) -> anyhow::Result<()> {
    wait::until(&format!("the weight of {member}"), async || {
        let found = members(fleet, member).await?;
        let all = found.iter().all(|member| member["weight"] == weight);
        Ok(all.then_some(()).ok_or(found))
    })
    .await
}

/// Waits until the row of a member in `fairlead status` has all of these; the whole text.
async fn status_row(fleet: &Fleet, member: &str, wanted: &[&str]) -> anyhow::Result<String> {
    wait::until(
        &format!("{wanted:?} in the status of {member}"),
        async || {
            let text = fleet.must(&["status"]).await?;
            let services = text.split_once("SERVICE").context(text.clone())?.1;
            let row = services.lines().find(|line| line.contains(member));
            let row = row.unwrap_or_default();
            let all = wanted.iter().all(|word| row.contains(word));
            Ok(if all { Ok(text) } else { Err(text) })
        },
    )
    .await
}

/// Of all members: `first` of the first one, 1 of each other.
fn weights(fleet: &Fleet, first: f64) -> Vec<(&str, f64)> {
    let names = fleet.ready.members.iter().map(|member| &*member.name);
    let weights = std::iter::once(first).chain(std::iter::repeat(1.0));
    names.zip(weights).collect()
}

/// Fails unless each member has its part of all, to one percentage point.
fn shares(counts: &Counts, weights: &[(&str, f64)]) -> anyhow::Result<()> {
    let all: usize = counts.values().sum();
    let weight: f64 = weights.iter().map(|(_, weight)| weight).sum();
    for (member, part) in weights {
        let count = counts.get(*member).copied().unwrap_or_default();
        let (is, should) = (count as f64 / all as f64, part / weight);
        ensure!(
            (is - should).abs() <= 0.01,
            "{member} has {is:.4}, not {should:.4}, of {all}: {counts:?}"
        );
    }
    ensure!(
        counts.len() <= weights.len(),
        "strangers answer: {counts:?}"
    );
    Ok(())
}

const REQUESTS: usize = 10_000;
/// Of each member.
const PODS: usize = 2;
/// Of the service.
const PORTS: usize = 2;
