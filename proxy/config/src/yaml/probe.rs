//! The `healthCheck` of a policy.

use std::sync::Arc;

use super::{
    field::{At, Fields},
    report::Report,
    scalar::{duration, number},
};
use crate::{
    policy::{HealthCheck, Probe},
    rule::{self, Broken},
};

type Bytes = Arc<[u8]>;

/// `off`, or a map with one of `tcp`, `http`, `grpc`, `udp`.
pub(super) fn health_check(at: At<'_>, report: &mut Report) -> Option<Option<HealthCheck>> {
    if at.raw() == Some("off") {
        return Some(None);
    }
    let known = [
        "tcp",
        "http",
        "grpc",
        "udp",
        "interval",
        "timeout",
        "unhealthyAfter",
        "healthyAfter",
        "port",
    ];
    let fields = Fields::open(at, report, &known)?;
    let kinds = known[..4].iter().filter(|key| fields.has(key)).count();
    if kinds != 1 {
        at.fault(report, "needs exactly one of tcp, http, grpc, udp");
    }
    let probe = fields.optional("tcp", report, tcp);
    let probe = probe.or_else(|| fields.optional("http", report, http));
    let probe = probe.or_else(|| fields.optional("grpc", report, grpc));
    let probe = probe.or_else(|| fields.optional("udp", report, udp));

    let placeholder = Probe::Udp {
        send: Arc::default(),
        expect: Arc::default(),
    };
    let mut check = HealthCheck::new(probe.unwrap_or(placeholder));
    let interval = duration(rule::PROBE_INTERVAL);
    fields.set("interval", &mut check.interval, report, interval);
    check.timeout = check.timeout.min(check.interval);
    let range = *rule::PROBE_TIMEOUT.start()..=check.interval;
    fields.set("timeout", &mut check.timeout, report, duration(range));
    let streak = number(rule::STREAK);
    fields.set(
        "unhealthyAfter",
        &mut check.unhealthy_after,
        report,
        &streak,
    );
    fields.set("healthyAfter", &mut check.healthy_after, report, &streak);
    check.port = fields.optional("port", report, number(1..=u16::MAX));
    Some(Some(check))
}

fn tcp(at: At<'_>, report: &mut Report) -> Option<Probe> {
    let (send, expect) = exchange(at, report)?;
    Some(Probe::Tcp { send, expect })
}

fn udp(at: At<'_>, report: &mut Report) -> Option<Probe> {
    let (send, expect) = exchange(at, report)?;
    Some(Probe::Udp { send, expect })
}

fn exchange(at: At<'_>, report: &mut Report) -> Option<(Bytes, Bytes)> {
    let fields = Fields::open(at, report, &["send", "expect"])?;
    let send = fields.optional("send", report, bytes).unwrap_or_default();
    let expect = fields.optional("expect", report, bytes).unwrap_or_default();
    Some((send, expect))
}

fn http(at: At<'_>, report: &mut Report) -> Option<Probe> {
    let fields = Fields::open(at, report, &["path", "host", "statuses"])?;
    let path = fields.optional("path", report, |at, report| {
        parsed(at, report, "a path", rule::http_path)
    });
    let host = fields.optional("host", report, |at, report| {
        parsed(at, report, "a host", rule::http_host)
    });
    let statuses = fields.optional("statuses", report, |at, report| {
        parsed(at, report, "statuses such as 200-299", statuses)
    });
    Some(Probe::Http {
        path: path.unwrap_or_else(|| "/".into()),
        host,
        statuses: statuses.unwrap_or((200, 299)),
    })
}

fn grpc(at: At<'_>, report: &mut Report) -> Option<Probe> {
    let fields = Fields::open(at, report, &["service"])?;
    let service = fields.optional("service", report, |at, report| {
        parsed(at, report, "a service name", rule::grpc_service)
    });
    Some(Probe::Grpc {
        service: service.unwrap_or_default(),
    })
}

/// `200` or `200-299`.
fn statuses(text: &str) -> Result<(u16, u16), Broken> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse().unwrap_or(0);
    rule::statuses(status(first), status(last))
}

/// Text, or `{ hex: "00ff" }`.
fn bytes(at: At<'_>, report: &mut Report) -> Option<Bytes> {
    if !at.is_map() {
        return parsed(at, report, "text, or { hex: ... }", |text| {
            rule::probe_bytes(text.as_bytes())
        });
    }
    let fields = Fields::open(at, report, &["hex"])?;
    fields.required("hex", report, |at, report| {
        parsed(at, report, "pairs of hexadecimal digits", rule::hex)
    })
}

fn parsed<T>(
    at: At<'_>,
    report: &mut Report,
    wanted: &str,
    parse: impl FnOnce(&str) -> Result<T, Broken>,
) -> Option<T> {
    let text = at.text(report, wanted)?;
    at.check(report, parse(text))
}
