//! The metrics page: what the cells say, and what is read from the views at that moment.

use std::sync::Arc;

use crate::{
    balancer::tiers::ONE,
    health::verdict::{Cause, Verdict},
    metrics::{
        names::{
            BUILD_INFO, ENDPOINT_SERIES_MAX, ENDPOINT_SESSIONS, ENDPOINT_USABLE, ENDPOINTS,
            ENDPOINTS_OMITTED, FDS_OPEN, MEMBER_SHARE,
        },
        text::Page,
    },
    registry::ServiceState,
    view::ServiceView,
};

use super::Context;

/// Writes the page; `endpoints`: also series for up to [`ENDPOINT_SERIES_MAX`] of them.
pub(super) fn write(context: &Context, states: &[Arc<ServiceState>], endpoints: bool) -> String {
    let ready = context.readiness.is_ready();
    let process = &context.metrics.process;
    process.ready.set(i64::from(ready));
    let restarts = context
        .board
        .states()
        .values()
        .map(|task| task.restarts)
        .sum::<u64>();
    process
        .task_restarts
        .add(restarts.saturating_sub(process.task_restarts.value()));

    let mut page = Page::default();
    page.sample(
        &BUILD_INFO,
        &[("version", env!("CARGO_PKG_VERSION"))],
        None,
        1,
    );
    if let Some(count) = open_fds() {
        page.sample(&FDS_OPEN, &[], None, count);
    }
    context.metrics.write(&mut page);
    let views = states.iter().filter_map(|state| state.view().clone());
    let views: Vec<Arc<ServiceView>> = views.collect();
    write_members(&views, &mut page);
    if endpoints {
        write_endpoints(&views, &mut page);
    }
    page.finish()
}

fn write_members(views: &[Arc<ServiceView>], page: &mut Page) {
    for view in views {
        for member in &view.members {
            let mut counts = [0_u64; STATES.len()];
            for entry in &*member.endpoints {
                counts[state(Verdict::of(entry.state.flags()))] += 1;
            }
            let labels = [
                ("service", view.service.name.as_str()),
                ("member", member.state.name.as_str()),
            ];
            for (name, count) in STATES.iter().zip(counts) {
                if count > 0 {
                    page.sample(&ENDPOINTS, &labels, Some(("state", name)), count);
                }
            }
        }
    }
    for view in views {
        for (member, share) in view.members.iter().zip(view.shares()) {
            let labels = [
                ("service", view.service.name.as_str()),
                ("member", member.state.name.as_str()),
            ];
            page.sample(&MEMBER_SHARE, &labels, None, share as f64 / ONE as f64);
        }
    }
}

fn write_endpoints(views: &[Arc<ServiceView>], page: &mut Page) {
    let rows = || {
        views.iter().flat_map(|view| {
            let endpoints = view.endpoints();
            endpoints.map(move |(member, entry)| (view, member, &entry.state))
        })
    };
    for (family, is_usable) in [(&ENDPOINT_SESSIONS, false), (&ENDPOINT_USABLE, true)] {
        for (view, member, endpoint) in rows().take(ENDPOINT_SERIES_MAX) {
            let addr = endpoint.addr.to_string();
            let labels = [
                ("service", view.service.name.as_str()),
                ("member", member.state.name.as_str()),
                ("endpoint", addr.as_str()),
            ];
            let value = if is_usable {
                u32::from(endpoint.is_usable())
            } else {
                endpoint.inflight()
            };
            page.sample(family, &labels, None, value);
        }
    }
    let omitted = rows().count().saturating_sub(ENDPOINT_SERIES_MAX);
    page.sample(&ENDPOINTS_OMITTED, &[], None, omitted);
}

fn state(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Usable => 0,
        Verdict::Draining => 1,
        Verdict::Down(Cause::NotReady) => 2,
        Verdict::Down(Cause::Probes) => 3,
        Verdict::Down(Cause::LinkLost) => 4,
        Verdict::Down(Cause::Ejected) => 5,
        Verdict::Down(Cause::Removed) => 6,
    }
}

/// None where /proc isn't there.
fn open_fds() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

const STATES: [&str; 7] = [
    "usable",
    "draining",
    "not-ready",
    "probes-fail",
    "link-lost",
    "ejected",
    "removed",
];
