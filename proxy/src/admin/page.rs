//! The metrics page: what the cells say, and what is read from the views at that moment.
//!
//! It is made in parts, each when its reader has room for it. Between two of them nothing is held but
//! where it stopped and the view that is being written, so that its rows neither fail nor repeat.

use std::sync::{Arc, Weak};

use fairlead_runtime::admin::Parts;

use crate::{
    balancer::tiers::ONE,
    health::verdict::{Cause, Verdict},
    metrics::{
        names::{
            BUILD_INFO, ENDPOINT_SERIES_MAX, ENDPOINT_SESSIONS, ENDPOINT_USABLE, ENDPOINTS,
            ENDPOINTS_OMITTED, FDS_OPEN, Family, MEMBER_SHARE,
        },
        text::{Page, Progress, Section, Sheets},
    },
    registry::{EndpointState, ServiceState},
    view::{MemberView, ServiceView},
};

use super::Context;

/// The services to look at. The page doesn't keep those alive that are removed meanwhile.
pub(super) type States = Arc<[Weak<ServiceState>]>;

/// The page; `endpoints`: also series for up to [`ENDPOINT_SERIES_MAX`] of them.
pub(super) fn parts(context: &Context, states: &States, endpoints: bool) -> Parts {
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
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let tasks = runtime.metrics().num_alive_tasks();
        process.tasks.set(tasks.try_into().unwrap_or(i64::MAX));
    }

    let mut sections: Vec<Section> = vec![Box::new(write_build)];
    sections.extend(context.metrics.sections());
    sections.push(each_view(states, positions, write_states));
    sections.push(each_view(states, shares, write_share));
    if endpoints {
        sections.push(each_endpoint(states, &ENDPOINT_SESSIONS, |endpoint| {
            endpoint.inflight()
        }));
        sections.push(each_endpoint(states, &ENDPOINT_USABLE, |endpoint| {
            u32::from(endpoint.is_usable())
        }));
        sections.push(omitted(states));
    }
    Parts::new(Sheets::new(sections))
}

fn write_build(page: &mut Page) -> Progress {
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    page.sample(&BUILD_INFO, &labels, None, 1);
    if let Some(count) = open_fds() {
        page.sample(&FDS_OPEN, &[], None, count);
    }
    Progress::Done
}

/// Takes the rows of one view after the other and writes them.
fn each_view<R: Send + 'static>(
    states: &States,
    mut rows: impl FnMut(&ServiceView) -> Vec<R> + Send + 'static,
    write: impl Fn(&ServiceView, R, &mut Page) + Send + 'static,
) -> Section {
    let states = states.clone();
    let mut following = 0;
    let mut current: Option<(Arc<ServiceView>, std::vec::IntoIter<R>)> = None;
    Box::new(move |page| {
        loop {
            if let Some((view, rows)) = &mut current {
                for row in rows {
                    write(view, row, page);
                    if page.is_full() {
                        return Progress::Stopped;
                    }
                }
            }
            let Some(state) = states.get(following) else {
                current = None;
                return Progress::Done;
            };
            following += 1;
            let view = state.upgrade().and_then(|state| state.view().clone());
            current = view.map(|view| {
                let rows = rows(&view).into_iter();
                (view, rows)
            });
        }
    })
}

fn labels<'a>(view: &'a ServiceView, member: &'a MemberView) -> [(&'static str, &'a str); 2] {
    [
        ("service", view.service.name.as_str()),
        ("member", member.state.name.as_str()),
    ]
}

fn positions(view: &ServiceView) -> Vec<usize> {
    (0..view.members.len()).collect()
}

fn write_states(view: &ServiceView, position: usize, page: &mut Page) {
    let member = &view.members[position];
    let mut counts = [0_u64; STATES.len()];
    for entry in &*member.endpoints {
        counts[state(Verdict::of(entry.state.flags()))] += 1;
    }
    for (name, count) in STATES.iter().zip(counts) {
        if count > 0 {
            let state = Some(("state", *name));
            page.sample(&ENDPOINTS, &labels(view, member), state, count);
        }
    }
}

fn shares(view: &ServiceView) -> Vec<(usize, u64)> {
    view.shares().into_iter().enumerate().collect()
}

fn write_share(view: &ServiceView, (position, share): (usize, u64), page: &mut Page) {
    let labels = labels(view, &view.members[position]);
    page.sample(&MEMBER_SHARE, &labels, None, share as f64 / ONE as f64);
}

fn each_endpoint(
    states: &States,
    family: &'static Family,
    value: fn(&EndpointState) -> u32,
) -> Section {
    let mut room = ENDPOINT_SERIES_MAX;
    let rows = move |view: &ServiceView| {
        let of_member = |(position, member): (usize, &MemberView)| {
            (0..member.endpoints.len()).map(move |endpoint| (position, endpoint))
        };
        let rows = view.members.iter().enumerate().flat_map(of_member);
        let rows: Vec<_> = rows.take(room).collect();
        room -= rows.len();
        rows
    };
    each_view(states, rows, move |view, (position, endpoint), page| {
        let member = &view.members[position];
        let endpoint = &member.endpoints[endpoint].state;
        let addr = endpoint.addr.to_string();
        let label = Some(("endpoint", addr.as_str()));
        page.sample(family, &labels(view, member), label, value(endpoint));
    })
}

fn omitted(states: &States) -> Section {
    let states = states.clone();
    Box::new(move |page| {
        let views = states
            .iter()
            .filter_map(|state| state.upgrade()?.view().clone());
        let endpoints = views.map(|view| {
            let members = view.members.iter();
            members.map(|member| member.endpoints.len()).sum::<usize>()
        });
        let omitted = endpoints.sum::<usize>().saturating_sub(ENDPOINT_SERIES_MAX);
        page.sample(&ENDPOINTS_OMITTED, &[], None, omitted);
        Progress::Done
    })
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
