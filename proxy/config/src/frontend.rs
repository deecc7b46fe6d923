//! Where clients connect.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;

use crate::name::{FrontendName, ServiceName};

/// One place where clients of a service connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// Unique in a snapshot.
    pub name: FrontendName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The local address. `0.0.0.0` takes every IPv4 address, `[::]` every IPv6 address and no
    /// IPv4 one.
    pub ip: IpAddr,
    /// Never empty, never contains 0 in a file. A range serves each of its ports.
    pub ports: RangeInclusive<u16>,
    /// The service that takes its clients. The frontend binds only once that service exists.
    pub service: ServiceName,
    /// TLS server names that select this frontend among those on the same address. Empty: the
    /// frontend for everything that no other one names. TCP only.
    pub sni: Vec<SniPattern>,
    /// Sources that may connect; empty means all.
    pub allow: Vec<IpNet>,
    /// Whether clients send a PROXY header, and who must.
    pub proxy_protocol: Option<AcceptProxy>,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Sessions.
    Tcp,
    /// Flows.
    Udp,
}

/// PROXY protocol on the client side: mandatory from `from`, refused from everyone else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptProxy {
    /// The versions accepted.
    pub versions: AcceptedVersions,
    /// The sources that must send a header; never empty.
    pub from: Vec<IpNet>,
}

/// PROXY protocol versions accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedVersions {
    /// The text form only.
    V1,
    /// The binary form only.
    V2,
    /// Either.
    Any,
}

/// A TLS server name: exact (`a.example`) or any name under a suffix (`*.example`), lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SniPattern {
    /// This name.
    Exact(String),
    /// Any name with at least one more label; held without the `*.`.
    Suffix(String),
}

// === impl Protocol ===

impl Protocol {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

// === impl SniPattern ===

impl SniPattern {
    /// Whether `host` (lower case, no trailing dot) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Suffix(suffix) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|head| head.len() > 1 && head.ends_with('.')),
        }
    }
}

/// The longest TLS hello that is read for its server name, bytes.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// How long PROXY header and TLS hello together may take.
pub const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);
