//! How a service is balanced, probed, timed, limited and drained.
//!
//! [`Policy::default`] holds the default of each setting; a source only overrides.

use std::{sync::Arc, time::Duration};

/// Everything that can be set for a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How an endpoint is chosen inside the member.
    pub balancer: Balancer,
    /// What keeps a client at one endpoint.
    pub affinity: Affinity,
    /// The seed of the affinity hash; equal on every thread, process and proxy.
    pub affinity_seed: u64,
    /// Active probes; none means passive health only.
    pub health_check: Option<HealthCheck>,
    /// Thousandths: a tier of health `h` takes `min(1, h × factor)` of new sessions. 1400 by
    /// default; 1000 is strict.
    pub spill_factor: u32,
    /// A tier with fewer healthy endpoints takes nothing while another tier can. 0: off.
    pub min_healthy: u32,
    /// Later tiers are never used.
    pub no_fallback: bool,
    /// Percent: a tier less healthy than this, where no later tier can take the share, also uses the
    /// endpoints against which only soft evidence stands: ejected ones, those that answer probes
    /// wrongly, those of a member out of touch. One that this proxy's own probes find dead (refused,
    /// reset, no answer to the connect) stays out as long as anything is healthy; when nothing is, all
    /// are tried. 0: off.
    pub panic_below: u8,
    /// How long a tier stays good before it takes traffic back.
    pub return_after: Duration,
    /// How long an endpoint that came back ramps up to its full weight. Zero: off.
    pub slow_start: Duration,
    /// Passive ejection.
    pub passive: Passive,
    /// Race a second connect when the first is slow.
    pub hedge: bool,
    /// Timeouts of sessions and flows.
    pub timeouts: Timeouts,
    /// TCP keepalive on both sides.
    pub keepalive: Keepalive,
    /// What becomes of sessions whose endpoint leaves.
    pub drain: Drain,
    /// Exact limits; `None` is off.
    pub limits: Limits,
    /// The PROXY header that endpoints get.
    pub proxy_protocol: Option<ProxyVersion>,
    /// One line a session.
    pub access_log: AccessLog,
}

/// The picker inside a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balancer {
    /// The better of two at random: least sessions by weight.
    P2c,
    /// In turn, by weight.
    RoundRobin,
    /// Fewest sessions by weight among all.
    LeastConnections,
    /// By weight alone.
    Random,
    /// By hash, from a Maglev table.
    Maglev,
    /// By hash, highest score by weight.
    Rendezvous,
}

/// What keeps a client at one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Nothing.
    None,
    /// The client's address.
    ClientIp,
    /// Both addresses, both ports and the protocol.
    FiveTuple,
}

/// An active probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From start to start, jittered by a tenth. 100 ms to 1 h.
    pub interval: Duration,
    /// At most the interval.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy; at least 1.
    pub unhealthy_after: u16,
    /// Successes in a row that make it healthy again; at least 1.
    pub healthy_after: u16,
    /// Another port to ask at, instead of the endpoint's own.
    pub port: Option<u16>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection; with `send`, also an answer that starts with `expect`.
    Tcp {
        /// Bytes sent after the connect; may be empty.
        send: Arc<[u8]>,
        /// Bytes that the answer must contain; empty: none needed.
        expect: Arc<[u8]>,
    },
    /// `GET path`, healthy on a status in `statuses`.
    Http {
        /// Starts with `/`.
        path: Arc<str>,
        /// The Host header; the endpoint's address where absent.
        host: Option<Arc<str>>,
        /// First and last good status; 200–299 by default.
        statuses: (u16, u16),
    },
    /// `grpc.health.v1.Health/Check` over h2c, healthy on SERVING.
    Grpc {
        /// The service asked about; may be empty.
        service: Arc<str>,
    },
    /// A datagram and an answer that contains `expect`.
    Udp {
        /// The datagram.
        send: Arc<[u8]>,
        /// Empty: any answer will do.
        expect: Arc<[u8]>,
    },
}

/// Passive ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passive {
    /// Percent of a service's endpoints, rounded up, that may be ejected at a time; the last usable
    /// one never is.
    pub max_ejected: u8,
}

/// Timeouts. `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// All connect attempts of a session together.
    pub connect: Duration,
    /// A session without a byte in either direction.
    pub idle: Option<Duration>,
    /// A flow without a datagram in either direction.
    pub udp_idle: Duration,
    /// A session in all.
    pub lifetime: Option<Duration>,
    /// A session of which one side has finished.
    pub half_closed: Option<Duration>,
    /// Unacknowledged data (TCP_USER_TIMEOUT).
    pub user: Option<Duration>,
}

/// TCP keepalive on both sides of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Before the first probe; zero turns keepalive off.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes that end the session.
    pub probes: u8,
}

/// What becomes of live sessions whose endpoint leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// How long sessions of a draining endpoint (or a member of weight 0) may go on.
    pub draining: Duration,
    /// How long sessions of a removed endpoint may go on.
    pub removed: Duration,
    /// Sessions of an unhealthy endpoint.
    pub unhealthy: OnUnhealthy,
    /// The pace of resets at a deadline.
    pub resets_per_second: u32,
}

/// Sessions of an endpoint that turns unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnUnhealthy {
    /// Go on.
    Keep,
    /// Are reset, paced.
    Reset,
}

/// Exact limits per service; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Live sessions.
    pub connections: Option<u32>,
    /// Live sessions of one client address.
    pub connections_per_client: Option<u32>,
    /// New sessions a second.
    pub new_per_second: Option<u32>,
    /// New sessions a second of one client address.
    pub new_per_second_per_client: Option<u32>,
    /// Live flows.
    pub flows: Option<u32>,
    /// Live sessions of one endpoint.
    pub connections_per_endpoint: Option<u32>,
}

/// The PROXY header that endpoints get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Where the line of each session goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(Arc<str>),
}

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            balancer: Balancer::P2c,
            affinity: Affinity::None,
            affinity_seed: 0,
            health_check: None,
            spill_factor: 1400,
            min_healthy: 0,
            no_fallback: false,
            panic_below: 50,
            return_after: Duration::from_secs(10),
            slow_start: Duration::from_secs(10),
            passive: Passive { max_ejected: 50 },
            hedge: true,
            timeouts: Timeouts::default(),
            keepalive: Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(10),
                probes: 3,
            },
            drain: Drain {
                draining: Duration::from_secs(300),
                removed: Duration::from_secs(60),
                unhealthy: OnUnhealthy::Keep,
                resets_per_second: 500,
            },
            limits: Limits::default(),
            proxy_protocol: None,
            access_log: AccessLog::Off,
        }
    }
}

// === impl Timeouts ===

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Some(Duration::from_secs(3600)),
            udp_idle: Duration::from_secs(60),
            lifetime: None,
            half_closed: Some(Duration::from_secs(300)),
            user: Some(Duration::from_secs(20)),
        }
    }
}

// === impl HealthCheck ===

impl HealthCheck {
    /// The default timing around `probe`: every second, half a second's patience, two in a row.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            unhealthy_after: 2,
            healthy_after: 2,
            port: None,
        }
    }
}
