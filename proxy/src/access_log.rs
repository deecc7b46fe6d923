//! What is told of a session or a flow when it ends: one [`Record`], one JSON line.
//!
//! A record is a plain value, built once by whoever owned the session, and used twice: its
//! [`Reason`] goes into the counters, the whole of it into the access log. [`sink`] owns the
//! destinations: bounded buffers per data thread, one writer thread a destination, lines dropped
//! and counted rather than waited for.
//!
//! Schema of a line (keys always in this order; absent ones are left out):
//!
//! | key | meaning |
//! |---|---|
//! | `time` | RFC 3339, UTC, when it ended |
//! | `kind` | `session` (TCP) or `flow` (UDP) |
//! | `service`, `frontend` | their names |
//! | `client`, `local` | both addresses of the client's side, as its PROXY header states them |
//! | `peer` | who really connected, where a PROXY header said otherwise |
//! | `member`, `endpoint`, `tier` | what served it; absent where nothing did |
//! | `sni` | the server name that routed it |
//! | `reason`, `code` | why it ended; the code is HAProxy-like, see [`Reason::code`] |
//! | `durationMs`, `connectMs` | from accept to end; from pick to connected |
//! | `bytesUp`, `bytesDown` | from the client to the endpoint, and back |
//! | `datagramsUp`, `datagramsDown` | flows only |
//! | `attempts`, `hedged` | connects begun; whether a second one raced the first |
//! | `rehomed` | flows only: how often the endpoint was replaced |

use std::{net::SocketAddr, time::Duration};

use fairlead_config::{
    frontend::Protocol,
    name::{FrontendName, MemberName, ServiceName},
};
use fairlead_runtime::clock::{Clock, Tick};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::metrics::label_enum;

pub mod sink;

/// What there is to say of a session or a flow that ended.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it ended.
    pub ended: Timestamp,
    /// TCP: a session; UDP: a flow.
    pub protocol: Protocol,
    /// The service it was for; none where routing never got that far.
    pub service: Option<ServiceName>,
    /// The frontend it came in by.
    pub frontend: Option<FrontendName>,
    /// The client's address.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Who sent the PROXY header, where there was one.
    pub peer: Option<SocketAddr>,
    /// What served it.
    pub served: Option<Served>,
    /// The TLS server name, where it was read.
    pub sni: Option<Box<str>>,
    /// Why it ended.
    pub reason: Reason,
    /// From accept, or the first datagram, to the end.
    pub duration: Duration,
    /// From pick to connected.
    pub connect: Option<Duration>,
    /// What was carried.
    pub traffic: Traffic,
    /// Connects begun.
    pub attempts: u8,
    /// Whether a second connect raced the first.
    pub hedged: bool,
    /// How often a flow changed its endpoint.
    pub rehomed: u32,
}

/// The endpoint that served a session.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its member.
    pub member: MemberName,
    /// Its address.
    pub endpoint: SocketAddr,
    /// From 0.
    pub tier: u8,
}

/// What was carried; `up` is from the client to the endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes to the endpoint.
    pub bytes_up: u64,
    /// Bytes to the client.
    pub bytes_down: u64,
    /// Datagrams to the endpoint.
    pub datagrams_up: u64,
    /// Datagrams to the client.
    pub datagrams_down: u64,
}

label_enum! {
    /// Why a session or a flow ended. Each says who ended it and in which phase.
    pub enum Reason {
        /// Both sides closed in order.
        Finished = "finished",
        /// The client reset it.
        ClientReset = "client-reset",
        /// The endpoint reset it.
        EndpointReset = "endpoint-reset",
        /// The client's host stopped acknowledging (keepalive or TCP_USER_TIMEOUT).
        ClientUnreachable = "client-unreachable",
        /// The endpoint's host stopped acknowledging.
        EndpointUnreachable = "endpoint-unreachable",
        /// No byte in either direction for the idle timeout.
        IdleTimeout = "idle-timeout",
        /// The session reached its longest life.
        LifetimeTimeout = "lifetime-timeout",
        /// One side had finished and the other one went on for too long.
        HalfClosedTimeout = "half-closed-timeout",
        /// Its endpoint or member drained, and the drain's deadline came.
        EndpointDrained = "endpoint-drained",
        /// Its endpoint was removed, and the deadline came.
        EndpointRemoved = "endpoint-removed",
        /// A flow's frontend was removed or leads to another service.
        FrontendRemoved = "frontend-removed",
        /// Its endpoint turned unhealthy and the policy says reset.
        EndpointUnhealthy = "endpoint-unhealthy",
        /// This process stopped and its drain timeout came.
        Shutdown = "shutdown",
        /// The source is on no allow-list.
        NotAllowed = "not-allowed",
        /// The PROXY header was malformed, of a version not accepted, or missing.
        ProxyHeaderInvalid = "proxy-header-invalid",
        /// What should have been a TLS hello wasn't.
        HelloInvalid = "hello-invalid",
        /// PROXY header or TLS hello took too long.
        PreambleTimeout = "preamble-timeout",
        /// No frontend on this address serves that server name.
        NoRoute = "no-route",
        /// The client left before an endpoint had answered.
        ClientGone = "client-gone",
        /// Nothing that may take the session is usable.
        NoEndpoint = "no-endpoint",
        /// Each endpoint tried refused, or was unreachable.
        ConnectRefused = "connect-refused",
        /// No endpoint answered in time.
        ConnectTimeout = "connect-timeout",
        /// The service's limit of live sessions or flows.
        LimitConnections = "limit-connections",
        /// The client's limit of live sessions.
        LimitConnectionsPerClient = "limit-connections-per-client",
        /// The service's limit of new sessions a second.
        LimitRate = "limit-rate",
        /// The client's limit of new sessions a second.
        LimitRatePerClient = "limit-rate-per-client",
        /// Each usable endpoint is at its limit of live sessions.
        LimitEndpoint = "limit-endpoint",
        /// Out of file descriptors.
        FdPressure = "fd-pressure",
        /// Out of memory for sockets or buffers.
        MemoryPressure = "memory-pressure",
        /// A fault of this host, such as no free source port.
        LocalFault = "local-fault",
        /// A flow made room for a newer one.
        Evicted = "evicted",
        /// It goes on in the process that took over, which says more when it ends.
        HandedOver = "handed-over",
        /// The session's owner went away without a word; a defect if it ever shows.
        Abandoned = "abandoned",
    }
}

/// The wall-clock time of a tick.
pub fn time(clock: &Clock, at: Tick) -> Timestamp {
    // Outside of jiff's years is no clock that anybody has.
    Timestamp::try_from(clock.wall(at)).unwrap_or_default()
}

/// Writes one line, without the line feed, for `record` at the end of `out`.
pub fn write_line(record: &Record, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, &Line(record)).expect("writing into memory never fails");
}

struct Line<'a>(&'a Record);

// === impl Reason ===

impl Reason {
    /// Two letters in HAProxy's manner: who ended it, then in which phase.
    ///
    /// Who: `C` the client, `c` a time-out on its side, `S` the endpoint, `s` a time-out on its
    /// side, `P` our policy, `R` our resources, `D` the endpoint left, `K` we were stopped, `I` a
    /// defect, `-` nobody. Phase: `A` admission, `P` preamble, `C` connect, `D` data, `-` all done.
    pub fn code(self) -> &'static str {
        match self {
            Self::Finished => "--",
            Self::ClientReset => "CD",
            Self::EndpointReset => "SD",
            Self::ClientUnreachable | Self::IdleTimeout | Self::HalfClosedTimeout => "cD",
            Self::EndpointUnreachable => "sD",
            Self::LifetimeTimeout | Self::FrontendRemoved => "PD",
            Self::EndpointDrained | Self::EndpointRemoved | Self::EndpointUnhealthy => "DD",
            Self::Shutdown => "KD",
            Self::NotAllowed
            | Self::LimitConnections
            | Self::LimitConnectionsPerClient
            | Self::LimitRate
            | Self::LimitRatePerClient => "PA",
            Self::ProxyHeaderInvalid | Self::HelloInvalid => "CP",
            Self::PreambleTimeout => "cP",
            Self::NoRoute => "PP",
            Self::ClientGone => "CC",
            Self::NoEndpoint | Self::ConnectRefused => "SC",
            Self::ConnectTimeout => "sC",
            Self::LimitEndpoint => "PC",
            Self::FdPressure | Self::MemoryPressure => "RA",
            Self::LocalFault => "RC",
            Self::Evicted => "RD",
            Self::HandedOver => "--",
            Self::Abandoned => "ID",
        }
    }
}

// === impl Line ===

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let flow = record.protocol == Protocol::Udp;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &format_args!("{:.3}", record.ended))?;
        map.serialize_entry("kind", if flow { "flow" } else { "session" })?;
        if let Some(service) = &record.service {
            map.serialize_entry("service", service.as_str())?;
        }
        if let Some(frontend) = &record.frontend {
            map.serialize_entry("frontend", frontend.as_str())?;
        }
        map.serialize_entry("client", &record.client)?;
        map.serialize_entry("local", &record.local)?;
        if let Some(peer) = record.peer {
            map.serialize_entry("peer", &peer)?;
        }
        if let Some(served) = &record.served {
            map.serialize_entry("member", served.member.as_str())?;
            map.serialize_entry("endpoint", &served.endpoint)?;
            map.serialize_entry("tier", &served.tier)?;
        }
        if let Some(sni) = &record.sni {
            map.serialize_entry("sni", sni)?;
        }
        map.serialize_entry("reason", record.reason.as_str())?;
        map.serialize_entry("code", record.reason.code())?;
        map.serialize_entry("durationMs", &millis(record.duration))?;
        if let Some(connect) = record.connect {
            map.serialize_entry("connectMs", &millis(connect))?;
        }
        map.serialize_entry("bytesUp", &record.traffic.bytes_up)?;
        map.serialize_entry("bytesDown", &record.traffic.bytes_down)?;
        if flow {
            map.serialize_entry("datagramsUp", &record.traffic.datagrams_up)?;
            map.serialize_entry("datagramsDown", &record.traffic.datagrams_down)?;
            map.serialize_entry("rehomed", &record.rehomed)?;
        } else {
            map.serialize_entry("attempts", &record.attempts)?;
            map.serialize_entry("hedged", &record.hedged)?;
        }
        map.end()
    }
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_of_a_session_has_every_key_in_the_documented_order() {
        let mut out = Vec::new();
        write_line(&record(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"time":"1970-01-01T00:00:01.500Z","kind":"session","service":"shop/web:http","#,
                r#""frontend":"shop/web:http#0","client":"192.0.2.1:4711","local":"[2001:db8::1]:80","#,
                r#""peer":"10.0.0.1:9","member":"eu-1","endpoint":"10.1.0.1:8080","tier":1,"#,
                r#""sni":"a.example","reason":"endpoint-reset","code":"SD","durationMs":1234.567,"#,
                r#""connectMs":0.25,"bytesUp":1,"bytesDown":2,"attempts":2,"hedged":true}"#
            )
        );
    }

    #[test]
    fn a_line_of_a_flow_that_nothing_served_leaves_out_what_is_not_known() {
        let mut record = record();
        record.protocol = Protocol::Udp;
        record.served = None;
        record.sni = None;
        record.peer = None;
        record.connect = None;
        record.reason = Reason::NoEndpoint;
        let mut out = Vec::new();
        write_line(&record, &mut out);
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        for absent in [
            "member",
            "endpoint",
            "tier",
            "sni",
            "peer",
            "connectMs",
            "attempts",
        ] {
            assert_eq!(line.get(absent), None, "{absent}");
        }
        assert_eq!(line["kind"], "flow");
        assert_eq!(line["datagramsUp"], 3);
        assert_eq!(line["code"], "SC");
    }

    #[test]
    fn text_from_the_network_cannot_break_out_of_its_line() {
        let mut record = record();
        record.sni = Some("a\"\n{\u{0}é".into());
        let mut out = Vec::new();
        write_line(&record, &mut out);
        assert!(!out.contains(&b'\n'));
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["sni"], "a\"\n{\u{0}é");
    }

    #[test]
    fn every_reason_has_its_own_name_and_a_code_of_known_letters() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let code = reason.code().as_bytes();
            assert_eq!(code.len(), 2);
            assert!(b"CcSsPRDKI-".contains(&code[0]) && b"APCD-".contains(&code[1]));
        }
    }

    pub(super) fn record() -> Record {
        Record {
            ended: Timestamp::from_millisecond(1500).unwrap(),
            protocol: Protocol::Tcp,
            service: Some(ServiceName::parse("shop/web:http").unwrap()),
            frontend: Some(FrontendName::parse("shop/web:http#0").unwrap()),
            client: "192.0.2.1:4711".parse().unwrap(),
            local: "[2001:db8::1]:80".parse().unwrap(),
            peer: Some("10.0.0.1:9".parse().unwrap()),
            served: Some(Served {
                member: MemberName::parse("eu-1").unwrap(),
                endpoint: "10.1.0.1:8080".parse().unwrap(),
                tier: 1,
            }),
            sni: Some("a.example".into()),
            reason: Reason::EndpointReset,
            duration: Duration::from_micros(1_234_567),
            connect: Some(Duration::from_micros(250)),
            traffic: Traffic {
                bytes_up: 1,
                bytes_down: 2,
                datagrams_up: 3,
                datagrams_down: 4,
            },
            attempts: 2,
            hedged: true,
            rehomed: 0,
        }
    }
}
