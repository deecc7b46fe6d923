//! Name, kind, help and labels of every series, beside the cell it is read from.
//!
//! Operators build dashboards and alerts on this table: a rename is a breaking change.

use super::{
    ControlPlaneMetrics, Counter, CounterBy, Gauge, Histogram, LabelValue, MemberMetrics,
    ProcessMetrics, ServiceMetrics, ThreadMetrics,
};

/// What a series is called and means.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Starts with `fairlead_`; a counter's ends with `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// One sentence.
    pub help: &'static str,
}

/// The kind of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process or the labelled thing ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

/// A family and how its value is read from a struct of cells.
pub struct Series<T> {
    /// What it is called and means.
    pub family: Family,
    /// A label with a closed set of values, or one that is always the same.
    pub label: Option<&'static str>,
    /// The cell.
    pub read: for<'a> fn(&'a T) -> Value<'a>,
}

/// What a cell holds.
pub enum Value<'a> {
    /// One number.
    Number(i128),
    /// A number for each value of the label.
    By(&'a dyn Labelled),
    /// A number under one fixed value of the label; several series share a family so.
    Of(&'static str, i128),
    /// A histogram.
    Histogram(&'a Histogram),
}

/// Counters by a label, whatever the label's type.
pub trait Labelled {
    /// Calls `each` for every value that has counted something.
    fn visit(&self, each: &mut dyn FnMut(&'static str, u64));
}

impl<L: LabelValue> Labelled for CounterBy<L> {
    fn visit(&self, each: &mut dyn FnMut(&'static str, u64)) {
        for label in L::VALUES {
            let count = self.value(*label);
            if count > 0 {
                each(label.as_str(), count);
            }
        }
    }
}

impl<'a> From<&'a Counter> for Value<'a> {
    fn from(cell: &'a Counter) -> Self {
        Value::Number(i128::from(cell.value()))
    }
}

impl<'a> From<&'a Gauge> for Value<'a> {
    fn from(cell: &'a Gauge) -> Self {
        Value::Number(i128::from(cell.value()))
    }
}

impl<'a, L: LabelValue> From<&'a CounterBy<L>> for Value<'a> {
    fn from(cell: &'a CounterBy<L>) -> Self {
        Value::By(cell)
    }
}

impl<'a> From<&'a Histogram> for Value<'a> {
    fn from(cell: &'a Histogram) -> Self {
        Value::Histogram(cell)
    }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    let kind = Kind::Counter;
    Family { name, kind, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    let kind = Kind::Gauge;
    Family { name, kind, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    let kind = Kind::Histogram;
    Family { name, kind, help }
}

/// One line of a table: family, optionally its label, and the cell.
macro_rules! table {
    ($($family:expr $(, by $label:literal $(= $value:literal)?)? => |$cells:ident| $cell:expr;)+) => {
        &[$(Series {
            family: $family,
            label: table!(@label $($label)?),
            read: |$cells| table!(@value $cell $(, $($value)?)?),
        },)+]
    };
    (@label) => { None };
    (@label $label:literal) => { Some($label) };
    (@value $cell:expr) => { Value::from($cell) };
    (@value $cell:expr,) => { Value::from($cell) };
    (@value $cell:expr, $value:literal) => { Value::Of($value, i128::from($cell.value())) };
}

/// No labels but the ones named here.
pub const PROCESS: &[Series<ProcessMetrics>] = table! {
    gauge("fairlead_start_time_seconds", "When the process started, in seconds since 1970.")
        => |cells| &cells.start_seconds;
    gauge("fairlead_ready", "1 while the proxy reports itself ready.") => |cells| &cells.ready;
    counter("fairlead_config_reloads_total", "Configurations offered, by what became of them."),
        by "result" => |cells| &cells.reloads;
    gauge("fairlead_config_applied_time_seconds", "When the running configuration was applied, in seconds since 1970.")
        => |cells| &cells.config_applied_seconds;
    gauge("fairlead_config_problems", "Problems that the last configuration offered had.")
        => |cells| &cells.config_problems;
    gauge("fairlead_frontends", "Frontends by whether they are bound."),
        by "state" = "bound" => |cells| cells.frontends_bound;
    gauge("fairlead_frontends", "Frontends by whether they are bound."),
        by "state" = "failed" => |cells| cells.frontends_failed;
    counter("fairlead_sessions_unrouted_total", "Sessions that reached no service, by reason."),
        by "reason" => |cells| &cells.unrouted;
    counter("fairlead_datagrams_unrouted_total", "Datagrams that reached no service, by reason."),
        by "reason" => |cells| &cells.datagrams_unrouted;
    counter("fairlead_faults_total", "Faults of this host that cost a session, a flow or a datagram, by kind."),
        by "kind" => |cells| &cells.faults;
    counter("fairlead_task_restarts_total", "Control tasks started again after they had failed.")
        => |cells| &cells.task_restarts;
    counter("fairlead_access_log_lines_total", "Access log lines by whether they were kept."),
        by "result" = "written" => |cells| cells.access_log_lines;
    counter("fairlead_access_log_lines_total", "Access log lines by whether they were kept."),
        by "result" = "dropped" => |cells| cells.access_log_dropped;
    counter("fairlead_dns_lookups_total", "Name look-ups, by result."), by "result" => |cells| &cells.dns_lookups;
    counter("fairlead_probes_total", "Health probes that ended, by result."),
        by "result" = "passed" => |cells| cells.probes_passed;
    counter("fairlead_probes_total", "Health probes that ended, by result."),
        by "result" = "failed" => |cells| cells.probes_failed;
    gauge("fairlead_control_tasks", "Tasks of the control thread that live, the one that answers this included.")
        => |cells| &cells.tasks;
    gauge("fairlead_fds_limit", "File descriptors that the process may have open.") => |cells| &cells.fds_max;
};

const RESOURCES: Family = counter(
    "fairlead_control_plane_resources_total",
    "Resources that a control plane sent, by what became of them.",
);

/// No labels but the ones named here. The cells are copies, brought up to date for each scrape.
pub const CONTROL_PLANE: &[Series<ControlPlaneMetrics>] = table! {
    gauge("fairlead_control_plane_configured", "1 where a control plane configures the proxy, 0 where a file does.")
        => |cells| &cells.configured;
    gauge("fairlead_control_plane_connected", "1 while a stream to the control plane is open.")
        => |cells| &cells.connected;
    gauge("fairlead_control_plane_silent_seconds", "Time since the control plane's last answer.")
        => |cells| &cells.silent_seconds;
    gauge("fairlead_control_plane_as_of", "The highest resourceVersion that what is in force was decided from.")
        => |cells| &cells.as_of;
    counter("fairlead_control_plane_streams_ended_total", "Streams to the control plane that ended.")
        => |cells| &cells.streams_ended;
    RESOURCES, by "result" = "accepted" => |cells| cells.accepted;
    RESOURCES, by "result" = "refused" => |cells| cells.refused;
    RESOURCES, by "result" = "fitted-later" => |cells| cells.fitted_later;
    RESOURCES, by "result" = "unchanged" => |cells| cells.unchanged;
    RESOURCES, by "result" = "held-back" => |cells| cells.held_back;
    RESOURCES, by "result" = "accepted-stale" => |cells| cells.accepted_stale;
    RESOURCES, by "result" = "removed" => |cells| cells.removed;
    gauge("fairlead_control_plane_services_waiting", "Services that are known but for their endpoints.")
        => |cells| &cells.services_waiting;
};

/// Label `thread`, from 0.
pub const THREAD: &[Series<ThreadMetrics>] = table! {
    gauge("fairlead_thread_sessions", "Live sessions of a data thread.") => |cells| &cells.sessions_active;
    gauge("fairlead_thread_flows", "Live flows of a data thread.") => |cells| &cells.flows_active;
    counter("fairlead_thread_accepted_total", "Sessions that a data thread accepted.") => |cells| &cells.accepted;
    counter("fairlead_thread_handoffs_total", "Sessions offered to a less loaded thread, by result."),
        by "result" => |cells| &cells.handoffs;
    counter("fairlead_relay_bytes_total", "Bytes relayed, by how."),
        by "mode" = "copy" => |cells| cells.bytes_copied;
    counter("fairlead_relay_bytes_total", "Bytes relayed, by how."),
        by "mode" = "splice" => |cells| cells.bytes_spliced;
    gauge("fairlead_thread_pipes", "Pipes that a data thread owns.") => |cells| &cells.pipes;
    gauge("fairlead_thread_stragglers", "Connects of a data thread that lost their race and have no answer yet.")
        => |cells| &cells.stragglers;
    counter("fairlead_datagram_batches_total", "System calls that moved datagrams, by direction."),
        by "direction" = "receive" => |cells| cells.receive_batches;
    counter("fairlead_datagram_batches_total", "System calls that moved datagrams, by direction."),
        by "direction" = "send" => |cells| cells.send_batches;
};

/// Label `service`.
pub const SERVICE: &[Series<ServiceMetrics>] = table! {
    counter("fairlead_sessions_unserved_total", "Sessions that ended before an endpoint served them, by reason."),
        by "reason" => |cells| &cells.sessions_unserved;
    histogram("fairlead_session_seconds", "How long sessions that were served lasted.")
        => |cells| &cells.session_seconds;
    counter("fairlead_connect_retries_total", "Connects begun after a refused one.") => |cells| &cells.retries;
    counter("fairlead_hedges_total", "Second connects begun because the first was slow.") => |cells| &cells.hedges;
    counter("fairlead_hedges_won_total", "Second connects that answered first.") => |cells| &cells.hedges_won;
    counter("fairlead_hedges_over_budget_total", "Second connects not begun because the budget was used up.")
        => |cells| &cells.hedges_over_budget;
    gauge("fairlead_flows_active", "Live flows.") => |cells| &cells.flows_active;
    counter("fairlead_flows_rehomed_total", "Flows whose endpoint was replaced.") => |cells| &cells.flows_rehomed;
    counter("fairlead_flows_closed_total", "Flows that ended, by reason."), by "reason" => |cells| &cells.flows_closed;
    counter("fairlead_datagrams_dropped_total", "Datagrams that nobody got, by reason."),
        by "reason" => |cells| &cells.datagrams_dropped;
    counter("fairlead_clients_untracked_total", "Sessions and flows admitted without a limit per client, for the table of clients was full.")
        => |cells| &cells.clients_untracked;
    counter("fairlead_ejections_total", "Endpoints taken out after failed sessions.") => |cells| &cells.ejections;
};

/// Labels `service` and `member`.
pub const MEMBER: &[Series<MemberMetrics>] = table! {
    counter("fairlead_sessions_opened_total", "Sessions that an endpoint accepted.") => |cells| &cells.sessions_opened;
    gauge("fairlead_sessions_active", "Live sessions.") => |cells| &cells.sessions_active;
    counter("fairlead_sessions_closed_total", "Sessions that ended after an endpoint had accepted them, by reason."),
        by "reason" => |cells| &cells.sessions_closed;
    counter("fairlead_connects_total", "Connects to endpoints that ended, by result; several may belong to one session."),
        by "result" => |cells| &cells.connects;
    histogram("fairlead_connect_seconds", "How long successful connects took.") => |cells| &cells.connect_seconds;
    counter("fairlead_session_bytes_total", "Bytes of sessions; up is to the endpoint."),
        by "direction" = "up" => |cells| cells.bytes_up;
    counter("fairlead_session_bytes_total", "Bytes of sessions; up is to the endpoint."),
        by "direction" = "down" => |cells| cells.bytes_down;
    counter("fairlead_flows_opened_total", "Flows homed in a member.") => |cells| &cells.flows_opened;
    counter("fairlead_datagrams_total", "Datagrams forwarded; up is to the endpoint."),
        by "direction" = "up" => |cells| cells.datagrams_up;
    counter("fairlead_datagrams_total", "Datagrams forwarded; up is to the endpoint."),
        by "direction" = "down" => |cells| cells.datagrams_down;
    counter("fairlead_datagram_bytes_total", "Bytes of datagrams forwarded; up is to the endpoint."),
        by "direction" = "up" => |cells| cells.datagram_bytes_up;
    counter("fairlead_datagram_bytes_total", "Bytes of datagrams forwarded; up is to the endpoint."),
        by "direction" = "down" => |cells| cells.datagram_bytes_down;
};

/// Always 1; label `version`.
pub const BUILD_INFO: Family = gauge(
    "fairlead_build_info",
    "1, labelled with the version that runs.",
);
/// Open file descriptors of this process.
pub const FDS_OPEN: Family = gauge("fairlead_fds_open", "File descriptors that are open.");
/// Labels `service`, `member`, `state`.
pub const ENDPOINTS: Family = gauge("fairlead_endpoints", "Endpoints of a member, by state.");
/// Labels `service`, `member`.
pub const MEMBER_SHARE: Family = gauge(
    "fairlead_member_share",
    "Part of new sessions and flows that a member takes now, 0 to 1.",
);
/// Labels `service`, `member`, `endpoint`.
pub const ENDPOINT_SESSIONS: Family = gauge(
    "fairlead_endpoint_sessions",
    "Live sessions and flows of an endpoint; opt-in and capped.",
);
/// Labels `service`, `member`, `endpoint`.
pub const ENDPOINT_USABLE: Family = gauge(
    "fairlead_endpoint_usable",
    "1 while an endpoint may take new sessions; opt-in and capped.",
);
/// Endpoints beyond the cap.
pub const ENDPOINTS_OMITTED: Family = gauge(
    "fairlead_endpoints_omitted",
    "Endpoints without series of their own, because there are more than the cap.",
);

/// The families that are read from elsewhere at scrape.
pub const COLLECTED: &[Family] = &[
    BUILD_INFO,
    FDS_OPEN,
    ENDPOINTS,
    MEMBER_SHARE,
    ENDPOINT_SESSIONS,
    ENDPOINT_USABLE,
    ENDPOINTS_OMITTED,
];

/// Endpoints that get series of their own where those are asked for.
pub const ENDPOINT_SERIES_MAX: usize = 2_000;
