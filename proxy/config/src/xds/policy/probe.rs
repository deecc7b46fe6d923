//! Health checks as messages, and back.

use std::sync::Arc;

use super::{decode_duration, encode_duration};
use crate::{
    policy::{HealthCheck, Probe},
    rule::{self, Broken},
    xds::proto::{
        core::Int64Range,
        health::{
            GrpcHealthCheck, HealthCheck as Message, HealthChecker, HttpHealthCheck, Payload,
            PayloadKind, TcpHealthCheck,
        },
    },
};

/// `None` for a UDP probe, which has no message.
pub(super) fn encode(check: &HealthCheck) -> Option<Message> {
    let checker = match &check.probe {
        Probe::Tcp { send, expect } => HealthChecker::Tcp(TcpHealthCheck {
            send: payload(send),
            receive: payload(expect).into_iter().collect(),
        }),
        Probe::Http {
            path,
            host,
            statuses: (first, last),
        } => HealthChecker::Http(HttpHealthCheck {
            host: host.as_deref().unwrap_or_default().to_owned(),
            path: path.as_ref().to_owned(),
            expected_statuses: vec![Int64Range {
                start: (*first).into(),
                end: i64::from(*last) + 1,
            }],
        }),
        Probe::Grpc { service } => HealthChecker::Grpc(GrpcHealthCheck {
            service_name: service.as_ref().to_owned(),
        }),
        Probe::Udp { .. } => return None,
    };
    Some(Message {
        timeout: encode_duration(check.timeout),
        interval: encode_duration(check.interval),
        interval_jitter_percent: 10,
        unhealthy_threshold: Some(check.unhealthy_after.into()),
        healthy_threshold: Some(check.healthy_after.into()),
        alt_port: check.port.map(u32::from),
        checker: Some(checker),
        // Envoy would probe an idle cluster once a minute only.
        no_traffic_interval: encode_duration(check.interval),
    })
}

pub(super) fn decode(message: &Message) -> Result<HealthCheck, Broken> {
    let mut check = HealthCheck::new(probe(message)?);
    if let Some(interval) = &message.interval {
        let interval = decode_duration(interval).map_err(in_field("interval"))?;
        check.interval =
            rule::duration_in(interval, &rule::PROBE_INTERVAL).map_err(in_field("interval"))?;
    }
    check.timeout = check.timeout.min(check.interval);
    if let Some(timeout) = &message.timeout {
        let timeout = decode_duration(timeout).map_err(in_field("timeout"))?;
        // Envoy takes a timeout beyond the interval and then cuts it.
        let timeout = timeout.min(check.interval);
        check.timeout =
            rule::duration_in(timeout, &rule::PROBE_TIMEOUT).map_err(in_field("timeout"))?;
    }
    let streak = |value: u32, field| {
        let value = u16::try_from(value).unwrap_or(u16::MAX);
        rule::in_range(value, &rule::STREAK).map_err(in_field(field))
    };
    if let Some(threshold) = message.unhealthy_threshold {
        check.unhealthy_after = streak(threshold, "unhealthy_threshold")?;
    }
    if let Some(threshold) = message.healthy_threshold {
        check.healthy_after = streak(threshold, "healthy_threshold")?;
    }
    if let Some(port) = message.alt_port {
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        check.port = Some(port.ok_or("alt_port: is no port")?);
    }
    Ok(check)
}

fn probe(message: &Message) -> Result<Probe, Broken> {
    match &message.checker {
        Some(HealthChecker::Tcp(tcp)) => Ok(Probe::Tcp {
            send: bytes(tcp.send.as_slice())?,
            expect: bytes(&tcp.receive)?,
        }),
        Some(HealthChecker::Http(http)) => {
            let path = rule::http_path(&http.path).map_err(in_field("path"))?;
            let host = match http.host.as_str() {
                "" => None,
                host => Some(rule::http_host(host).map_err(in_field("host"))?),
            };
            Ok(Probe::Http {
                path,
                host,
                statuses: statuses(&http.expected_statuses)?,
            })
        }
        Some(HealthChecker::Grpc(grpc)) => {
            let service = rule::grpc_service(&grpc.service_name);
            Ok(Probe::Grpc {
                service: service.map_err(in_field("service_name"))?,
            })
        }
        Some(HealthChecker::Custom(custom)) => Err(format!(
            "the custom check {:?} is not supported",
            custom.name
        )),
        None => Err("is none of tcp, http and grpc".to_owned()),
    }
}

fn payload(bytes: &Arc<[u8]>) -> Option<Payload> {
    (!bytes.is_empty()).then(|| Payload {
        payload: Some(PayloadKind::Binary(bytes.to_vec())),
    })
}

/// Several payloads mean one after the other; ours is one.
fn bytes(payloads: &[Payload]) -> Result<Arc<[u8]>, Broken> {
    let bytes = match payloads {
        [] => Vec::new(),
        [payload] => match &payload.payload {
            None => Vec::new(),
            Some(PayloadKind::Binary(bytes)) => bytes.clone(),
            Some(PayloadKind::Hex(digits)) => {
                rule::hex(digits).map_err(in_field("payload"))?.to_vec()
            }
        },
        _ => return Err("receive: has several payloads; use one".to_owned()),
    };
    rule::probe_bytes(&bytes).map_err(in_field("payload"))
}

fn statuses(ranges: &[Int64Range]) -> Result<(u16, u16), Broken> {
    let status = |value: i64| u16::try_from(value).unwrap_or(0);
    match ranges {
        // Envoy's default.
        [] => Ok((200, 200)),
        [range] => rule::statuses(status(range.start), status(range.end.saturating_sub(1)))
            .map_err(in_field("expected_statuses")),
        _ => Err("expected_statuses: has several ranges; use one".to_owned()),
    }
}

fn in_field(field: &'static str) -> impl Fn(Broken) -> Broken {
    move |broken| format!("{field}: {broken}")
}
