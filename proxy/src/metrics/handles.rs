//! The cells, grouped by who writes them.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Weak},
};

use fairlead_config::name::MemberName;
use parking_lot::Mutex;

use super::{Counter, CounterBy, Gauge, Histogram, cell::label_enum};
use crate::access_log::Reason;

/// What belongs to no service and no thread.
#[derive(Debug, Default)]
pub struct ProcessMetrics {
    /// When the process started, in seconds since 1970.
    pub start_seconds: Gauge,
    /// 1 while ready.
    pub ready: Gauge,
    /// Configurations offered, by what became of them.
    pub reloads: CounterBy<ReloadResult>,
    /// When the running configuration was applied, in seconds since 1970.
    pub config_applied_seconds: Gauge,
    /// Problems that the last configuration offered had.
    pub config_problems: Gauge,
    /// Frontends that are bound.
    pub frontends_bound: Gauge,
    /// Frontends that could not be bound.
    pub frontends_failed: Gauge,
    /// Sessions that reached no service, by reason.
    pub unrouted: CounterBy<Reason>,
    /// Datagrams that reached no service, by reason.
    pub datagrams_unrouted: CounterBy<DatagramDrop>,
    /// Faults of this host that cost somebody something.
    pub faults: CounterBy<Fault>,
    /// Control tasks started again after they had failed.
    pub task_restarts: Counter,
    /// Access log lines accepted.
    pub access_log_lines: Counter,
    /// Access log lines lost.
    pub access_log_dropped: Counter,
    /// Name look-ups, by result.
    pub dns_lookups: CounterBy<DnsResult>,
    /// Probes that were answered as they should be.
    pub probes_passed: Counter,
    /// Probes that failed.
    pub probes_failed: Counter,
    /// File descriptors that may be open.
    pub fds_max: Gauge,
    /// Tasks of the control thread; brought up to date for each scrape.
    pub tasks: Gauge,
}

/// What is known of the control plane; all 0 where a file configures the proxy.
#[derive(Debug, Default)]
pub struct ControlPlaneMetrics {
    /// 1 where there is one.
    pub configured: Gauge,
    /// 1 while a stream is open.
    pub connected: Gauge,
    /// Since its last answer.
    pub silent_seconds: Gauge,
    /// The highest `asOf` in force.
    pub as_of: Gauge,
    /// Streams that ended.
    pub streams_ended: Gauge,
    /// Resources that took force.
    pub accepted: Gauge,
    /// Resources that were refused.
    pub refused: Gauge,
    /// Of those, the ones that took force once their place was free.
    pub fitted_later: Gauge,
    /// Resources that were in force already.
    pub unchanged: Gauge,
    /// Resources held back because newer ones are in force.
    pub held_back: Gauge,
    /// Of those, the ones that took force all the same.
    pub accepted_stale: Gauge,
    /// Resources removed.
    pub removed: Gauge,
    /// Services that wait for their endpoints.
    pub services_waiting: Gauge,
}

/// What one data thread does. Only that thread writes here, so nothing is contended.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ThreadMetrics {
    /// Live sessions.
    pub sessions_active: Gauge,
    /// Live flows.
    pub flows_active: Gauge,
    /// Sessions accepted here.
    pub accepted: Counter,
    /// Sessions passed to another thread, and how that went.
    pub handoffs: CounterBy<Handoff>,
    /// Bytes relayed through the shared buffer.
    pub bytes_copied: Counter,
    /// Bytes relayed through pipes.
    pub bytes_spliced: Counter,
    /// Pipes in the pool or on loan.
    pub pipes: Gauge,
    /// Connects that lost their race and have no answer yet.
    pub stragglers: Gauge,
    /// Receive calls for datagrams that brought some.
    pub receive_batches: Counter,
    /// Send calls for datagrams.
    pub send_batches: Counter,
}

/// What concerns a service as a whole.
#[derive(Debug, Default)]
pub struct ServiceMetrics {
    /// Sessions that ended before an endpoint served them, by reason.
    pub sessions_unserved: CounterBy<Reason>,
    /// How long sessions that were served lasted.
    pub session_seconds: Histogram,
    /// Connects begun after a refused one.
    pub retries: Counter,
    /// Second connects begun because the first was slow.
    pub hedges: Counter,
    /// Of those, the ones that answered first.
    pub hedges_won: Counter,
    /// Hedges not begun because the budget was used up.
    pub hedges_over_budget: Counter,
    /// Live flows.
    pub flows_active: Gauge,
    /// Flows that changed their endpoint.
    pub flows_rehomed: Counter,
    /// Flows that ended, by reason.
    pub flows_closed: CounterBy<Reason>,
    /// Datagrams that nobody got, by reason.
    pub datagrams_dropped: CounterBy<DatagramDrop>,
    /// Sessions and flows that were admitted without being counted for their client, for the table
    /// of clients was full.
    pub clients_untracked: Counter,
    /// Passive ejections.
    pub ejections: Counter,
    members: Mutex<BTreeMap<MemberName, Weak<MemberMetrics>>>,
}

/// What a member does for a service.
#[derive(Debug, Default)]
pub struct MemberMetrics {
    /// Sessions that one of its endpoints accepted.
    pub sessions_opened: Counter,
    /// Of those, the live ones.
    pub sessions_active: Gauge,
    /// Of those, the ones that ended, by reason.
    pub sessions_closed: CounterBy<Reason>,
    /// Connects that ended, by result.
    pub connects: CounterBy<ConnectResult>,
    /// How long successful connects took.
    pub connect_seconds: Histogram,
    /// Bytes of sessions to its endpoints.
    pub bytes_up: Counter,
    /// Bytes of sessions to clients.
    pub bytes_down: Counter,
    /// Flows homed here.
    pub flows_opened: Counter,
    /// Datagrams to its endpoints.
    pub datagrams_up: Counter,
    /// Datagrams to clients.
    pub datagrams_down: Counter,
    /// Bytes of datagrams to its endpoints.
    pub datagram_bytes_up: Counter,
    /// Bytes of datagrams to clients.
    pub datagram_bytes_down: Counter,
}

label_enum! {
    /// How a connect ended.
    pub enum ConnectResult {
        /// Connected.
        Connected = "connected",
        /// Refused.
        Refused = "refused",
        /// No route, or the host is down.
        Unreachable = "unreachable",
        /// No answer.
        TimedOut = "timed-out",
        /// Answered, after another one had won.
        Lost = "lost",
        /// Given up, for the client had left.
        Abandoned = "abandoned",
        /// This host's own fault; never a strike.
        LocalFault = "local-fault",
    }
}

label_enum! {
    /// Why a datagram went nowhere.
    pub enum DatagramDrop {
        /// No frontend at the address it came to.
        NoFrontend = "no-frontend",
        /// The source is on no allow-list.
        NotAllowed = "not-allowed",
        /// Nothing that may take the flow is usable.
        NoEndpoint = "no-endpoint",
        /// The service's limit of flows.
        LimitFlows = "limit-flows",
        /// The service's or the client's limit of new flows a second.
        LimitRate = "limit-rate",
        /// Every flow in the full table is younger than can be evicted.
        TableFull = "table-full",
        /// Out of file descriptors or memory.
        Pressure = "pressure",
        /// The endpoint's host answered with an ICMP error.
        Unreachable = "unreachable",
        /// Larger than the path takes.
        TooLarge = "too-large",
        /// The socket's send buffer was full.
        SendBufferFull = "send-buffer-full",
        /// Any other error when it was sent.
        SendError = "send-error",
    }
}

label_enum! {
    /// What became of a configuration that was offered.
    pub enum ReloadResult {
        /// It runs.
        Applied = "applied",
        /// It was what runs already.
        Unchanged = "unchanged",
        /// It had problems; the one before it still runs.
        Invalid = "invalid",
        /// It would have removed too much and nobody confirmed that.
        MassRemoval = "mass-removal",
        /// It couldn't be read.
        Unreadable = "unreadable",
    }
}

label_enum! {
    /// How a name look-up ended.
    pub enum DnsResult {
        /// Addresses, or none at all, from an authority.
        Answered = "answered",
        /// No such name.
        NoName = "no-name",
        /// No answer in time.
        TimedOut = "timed-out",
        /// Any other failure.
        Failed = "failed",
    }
}

label_enum! {
    /// A fault of this host.
    pub enum Fault {
        /// EMFILE or ENFILE, or the fd budget.
        Fds = "fds",
        /// ENOMEM or ENOBUFS.
        Memory = "memory",
        /// EADDRNOTAVAIL: no source port left.
        Ports = "ports",
        /// EPERM or EACCES: a firewall of this host.
        Permission = "permission",
        /// Anything else.
        Other = "other",
    }
}

label_enum! {
    /// How an accepted session was passed to a less loaded thread.
    pub enum Handoff {
        /// The other thread took it.
        Passed = "passed",
        /// The other thread's queue was full, so this one kept it.
        QueueFull = "queue-full",
    }
}

// === impl ServiceMetrics ===

impl ServiceMetrics {
    /// The cells of a member: the same ones for as long as somebody holds them. For the control
    /// thread, not for the data path.
    pub fn member(&self, name: &MemberName) -> Arc<MemberMetrics> {
        let mut members = self.members.lock();
        if let Some(live) = members.get(name).and_then(Weak::upgrade) {
            return live;
        }
        let fresh = Arc::new(MemberMetrics::default());
        members.insert(name.clone(), Arc::downgrade(&fresh));
        fresh
    }

    /// The members after `last` that are still counted, by name.
    pub fn members_after(
        &self,
        last: Option<&MemberName>,
    ) -> Vec<(MemberName, Arc<MemberMetrics>)> {
        let mut members = self.members.lock();
        members.retain(|_, member| member.strong_count() > 0);
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        members
            .range::<MemberName, _>((start, Bound::Unbounded))
            .filter_map(|(name, member)| Some((name.clone(), member.upgrade()?)))
            .collect()
    }
}
