//! What the control thread answers: JSON and sentences made from what it knows. Pure but for the
//! drain, which changes it.

use std::time::Duration;

use fairlead_config::name::{MemberName, ServiceName};
use fairlead_runtime::{
    admin::{Answer, Request},
    clock::{Clock, Tick},
};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    control::{
        Control,
        drains::{Drain, Drained},
    },
    directory::{EndpointReport, Explanation, MemberReport, TierReport},
    health::verdict::{Cause, Verdict},
    source::xds::XdsStatus,
};

use super::{Context, Status};

pub(super) fn ready(context: &Context) -> Answer {
    let obstacles = context.readiness.obstacles();
    let mut text = if obstacles.is_empty() {
        "ready\n".to_owned()
    } else {
        format!("not ready: {}\n", obstacles.join(", "))
    };
    for (name, task) in context.board.states() {
        if !task.running || task.restarts > 0 {
            let now = if task.running {
                "runs again"
            } else {
                "waits for its restart"
            };
            let failure = task.last_failure.as_deref().unwrap_or("no reason given");
            let restarts = task.restarts;
            text.push_str(&format!(
                "task {name} {now} after {restarts} failures: {failure}\n"
            ));
        }
    }
    if obstacles.is_empty() {
        Answer::text(text)
    } else {
        Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..Answer::text(text)
        }
    }
}

pub(super) fn snapshot(control: &mut Control, status: &Status, clock: &Clock) -> Answer {
    let now = clock.now();
    let snapshot = control.snapshot();
    let endpoints: usize = snapshot.endpoints.values().map(|row| row.len()).sum();
    let refused = status.refused.as_ref().map(|(at, refusal)| {
        json!({
            "at": wall(clock, *at),
            "origin": refusal.origin,
            "problems": refusal.problems,
            "more": refusal.more,
        })
    });
    let (services, frontends) = (snapshot.services.len(), snapshot.frontends.len());
    let drains: Vec<_> = control.drains().map(ToString::to_string).collect();
    let failed = control.failed_listeners();
    let reach = control.directory().probe_reach();
    Answer::json(&json!({
        "build": env!("CARGO_PKG_VERSION"),
        "now": wall(clock, now),
        "origin": status.origin,
        "version": status.version,
        "appliedAt": status.applied.map(|at| wall(clock, at)),
        "services": services,
        "frontends": frontends,
        "endpoints": endpoints,
        "addressesNotListenedOn": failed,
        "problems": status.problems,
        "refused": refused,
        "restartNeeded": status.restart_needed,
        "controlPlane": status.control_plane.as_ref().map(|it| control_plane(it, clock)),
        "drainedByHand": drains,
        "probes": { "perSecondAskedFor": reach.demand, "intervalsStretchedBy": reach.stretch },
    }))
}

fn control_plane(status: &XdsStatus, clock: &Clock) -> Value {
    let link = &status.link;
    json!({
        "connected": link.connected,
        "since": wall(clock, link.since),
        "lastAnswer": link.heard.map(|at| wall(clock, at)),
        "streamsEnded": link.ends,
        "lastFailure": link.last_failure,
        "epoch": status.epoch,
        "asOf": status.as_of,
        "waitingForEndpoints": status.waiting,
        "resources": {
            "accepted": status.counts.accepted,
            "refused": status.counts.refused,
            "fittedLater": status.counts.fitted_later,
            "unchanged": status.counts.unchanged,
            "heldBack": status.counts.deferred,
            "acceptedStale": status.counts.accepted_stale,
            "removed": status.counts.removed,
        },
    })
}

pub(super) fn services(control: &mut Control, request: &Request, clock: &Clock) -> Answer {
    let now = clock.now();
    if let Some(name) = request.parameter("service") {
        return match find(control, name, now) {
            Ok(explanation) => Answer::json(&json!({ "services": [service(&explanation)] })),
            Err(answer) => answer,
        };
    }
    let limit = match request.parameter("limit").map(str::parse) {
        None => SERVICES_DEFAULT,
        Some(Ok(limit)) if (1..=SERVICES_MAX).contains(&limit) => limit,
        Some(_) => {
            let message = format!("limit is a number from 1 to {SERVICES_MAX}");
            return Answer::problem(StatusCode::BAD_REQUEST, message);
        }
    };
    let after = request.parameter("after").unwrap_or_default();
    let names = control.snapshot().services.keys();
    let following = names.filter(|name| name.as_str() > after).cloned();
    let names: Vec<ServiceName> = following.take(limit + 1).collect();
    let (mut page, mut endpoints, mut last) = (Vec::new(), 0, None);
    for name in names.iter().take(limit) {
        let Some(explanation) = control.directory().explain(name, now) else {
            continue;
        };
        endpoints += count_endpoints(&explanation);
        // One service is shown in any case, however large.
        if endpoints > ENDPOINTS_PER_PAGE && !page.is_empty() {
            break;
        }
        page.push(service(&explanation));
        last = Some(name.as_str());
    }
    let is_last = names.last().map(ServiceName::as_str) == last;
    Answer::json(&json!({
        "services": page,
        "next": if is_last { None } else { last.map(|name| format!("/services?after={name}")) },
    }))
}

pub(super) fn explain(control: &mut Control, request: &Request, clock: &Clock) -> Answer {
    let Some(name) = request.parameter("service") else {
        let message = "which service? write /explain?service=namespace/name:port";
        return Answer::problem(StatusCode::BAD_REQUEST, message);
    };
    match find(control, name, clock.now()) {
        Ok(explanation) => Answer::text(sentences(&explanation)),
        Err(answer) => answer,
    }
}

pub(super) fn drain(control: &mut Control, request: &Request) -> Answer {
    let drain = match drain_of(request) {
        Ok(drain) => drain,
        Err(message) => return Answer::problem(StatusCode::BAD_REQUEST, message),
    };
    let on = request.parameter("off").is_none_or(|value| value == "0");
    let affected = control.drain(&drain, on);
    if affected.is_empty() && on {
        let message = format!("{drain}: no service has it; /services lists what there is");
        return Answer::problem(StatusCode::NOT_FOUND, message);
    }
    tracing::info!(%drain, on, services = affected.len(), "drained by hand");
    let names: Vec<_> = affected.iter().map(ServiceName::as_str).collect();
    Answer::json(&json!({
        "drain": drain.to_string(),
        "on": on,
        "services": names,
        "note": "lasts until it is called off (&off=1) or the process ends",
    }))
}

fn drain_of(request: &Request) -> Result<Drain, String> {
    let service = match request.parameter("service") {
        Some(name) => Some(ServiceName::parse(name).map_err(|error| error.to_string())?),
        None => None,
    };
    let what = match (request.parameter("member"), request.parameter("endpoint")) {
        (Some(name), None) => {
            Drained::Member(MemberName::parse(name).map_err(|error| error.to_string())?)
        }
        (None, Some(addr)) => {
            let addr = addr.parse();
            Drained::Endpoint(addr.map_err(|_| "endpoint is an address with a port".to_owned())?)
        }
        _ => return Err("drain what? write ?member=NAME or ?endpoint=ADDRESS:PORT".to_owned()),
    };
    Ok(Drain { service, what })
}

fn find(control: &mut Control, name: &str, now: Tick) -> Result<Explanation, Answer> {
    let found = ServiceName::parse(name).ok();
    let found = found.and_then(|name| control.directory().explain(&name, now));
    found.ok_or_else(|| {
        let message = format!("no service {name:?}; /services lists them");
        Answer::problem(StatusCode::NOT_FOUND, message)
    })
}

fn count_endpoints(explanation: &Explanation) -> usize {
    let members = explanation.tiers.iter().flat_map(|tier| &tier.members);
    members.map(|member| member.endpoints.len()).sum()
}

fn service(explanation: &Explanation) -> Value {
    json!({
        "name": explanation.service.as_str(),
        "tiers": explanation.tiers.iter().map(tier).collect::<Vec<_>>(),
        "ejectionsPrevented": explanation.ejections_prevented,
    })
}

fn tier(tier: &TierReport) -> Value {
    json!({
        "share": rounded(tier.share),
        "healthy": tier.healthy,
        "all": tier.all,
        "uses": tier.uses,
        "heldForSeconds": tier.held.map(seconds),
        "belowMinHealthy": tier.below_min,
        "members": tier.members.iter().map(member).collect::<Vec<_>>(),
    })
}

fn member(member: &MemberReport) -> Value {
    json!({
        "name": member.name,
        "share": rounded(member.share),
        "weight": rounded(member.weight),
        "effectiveWeight": rounded(member.effective_weight),
        "suspectForSeconds": member.suspect.map(seconds),
        "connectP95Ms": member.connect_p95.map(|time| rounded(time.as_secs_f64() * 1000.0)),
        "endpoints": member.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(endpoint: &EndpointReport) -> Value {
    json!({
        "address": endpoint.addr.to_string(),
        "weight": endpoint.weight,
        "state": verdict(endpoint.verdict),
        "reason": endpoint.reason.to_string(),
        "sinceSeconds": endpoint.since.map(seconds),
        "inflight": endpoint.inflight,
        "ramp": rounded(endpoint.ramp),
    })
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Usable => "usable",
        Verdict::Draining => "draining",
        Verdict::Down(Cause::Removed) => "removed",
        Verdict::Down(Cause::NotReady) => "not-ready",
        Verdict::Down(Cause::Probes) => "probes-fail",
        Verdict::Down(Cause::LinkLost) => "link-lost",
        Verdict::Down(Cause::Ejected) => "ejected",
    }
}

/// The same for people: one paragraph a tier.
fn sentences(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", explanation.service);
    for (number, tier) in explanation.tiers.iter().enumerate() {
        let TierReport { healthy, all, .. } = tier;
        let share = percent(tier.share);
        let why = tier_reason(tier);
        text.push_str(&format!(
            "\ntier {number} takes {share} of new sessions: {healthy} of {all} endpoints healthy{why}\n"
        ));
        for member in &tier.members {
            text.push_str(&format!(
                "  member {} takes {}: {}\n",
                member.name,
                percent(member.share),
                member_reason(member)
            ));
            let out = |endpoint: &&EndpointReport| endpoint.verdict != Verdict::Usable;
            for endpoint in member.endpoints.iter().filter(out).take(OUT_SHOWN) {
                let since = endpoint.since.map_or_else(String::new, |since| {
                    format!(" for {:.1} s", since.as_secs_f64())
                });
                let (addr, state) = (endpoint.addr, verdict(endpoint.verdict));
                text.push_str(&format!("    {addr} {state}{since}: {}\n", endpoint.reason));
            }
        }
    }
    let prevented = explanation.ejections_prevented;
    if prevented > 0 {
        text.push_str(&format!(
            "\n{prevented} ejections prevented: too many are out already, or it was the last usable endpoint\n"
        ));
    }
    text
}

fn tier_reason(tier: &TierReport) -> String {
    let mut why = String::new();
    match tier.uses {
        "all" => {
            why.push_str("; it panics and uses all of them, for no later tier can take its share")
        }
        "draining" => why.push_str("; it uses draining ones, for nothing else is there"),
        _ => {}
    }
    if let Some(held) = tier.held {
        why.push_str(&format!(
            "; it was bad a short while ago and takes traffic back in {:.1} s",
            held.as_secs_f64()
        ));
    }
    if tier.below_min {
        why.push_str("; that is fewer than minHealthy, so it takes nothing while another tier can");
    }
    why
}

fn member_reason(member: &MemberReport) -> String {
    let usable = member.endpoints.iter();
    let usable = usable
        .filter(|endpoint| endpoint.verdict == Verdict::Usable)
        .count();
    let all = member.endpoints.len();
    if all == 0 {
        return "it has no endpoints".to_owned();
    }
    if member.weight == 0.0 {
        return "its weight is 0, so it drains".to_owned();
    }
    let mut why = format!("weight {}", rounded(member.weight));
    if rounded(member.effective_weight) != rounded(member.weight) {
        let effective = rounded(member.effective_weight);
        why.push_str(&format!(
            ", which its health and slow start make {effective}"
        ));
    }
    why.push_str(&format!(", {usable} of {all} endpoints usable"));
    if let Some(suspect) = member.suspect {
        let seconds = suspect.as_secs_f64();
        why.push_str(&format!(
            ", suspect for {seconds:.1} s more: most of its connects failed"
        ));
    }
    why
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64())
}

fn wall(clock: &Clock, at: Tick) -> Option<String> {
    let time = jiff::Timestamp::try_from(clock.wall(at)).ok()?;
    Some(format!("{time:.3}"))
}

/// Services on a page of `/services` where nobody says how many.
const SERVICES_DEFAULT: usize = 100;
const SERVICES_MAX: usize = 1_000;
/// Endpoints on a page: about a megabyte.
const ENDPOINTS_PER_PAGE: usize = 5_000;
/// Endpoints of a member that `/explain` names; `/services` has all.
const OUT_SHOWN: usize = 10;
