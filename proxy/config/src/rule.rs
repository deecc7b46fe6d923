//! The rules that single values keep, whichever source they come from.
//!
//! Each function parses one value or says in a clause which rule it breaks; the source adds where.
//! Ranges stand here once, so that a file and a control plane refuse the same things.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{endpoint::Target, frontend::SniPattern, policy::AccessLog};

/// Which rule a value breaks, phrased to follow the value.
pub type Broken = String;

/// `value`, when it lies in `range`.
pub fn in_range<T: PartialOrd + std::fmt::Display>(
    value: T,
    range: &RangeInclusive<T>,
) -> Result<T, Broken> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!(
            "is out of range; use {} to {}",
            range.start(),
            range.end()
        ))
    }
}

/// `value`, when it lies in `range`; the message writes durations as a file does.
pub fn duration_in(value: Duration, range: &RangeInclusive<Duration>) -> Result<Duration, Broken> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!(
            "is out of range; use {} to {}",
            write_duration(*range.start()),
            write_duration(*range.end())
        ))
    }
}

/// A keepalive time: zero (off) or whole seconds, because the kernel counts in seconds.
pub fn keepalive(value: Duration) -> Result<Duration, Broken> {
    if value.is_zero() {
        return Ok(value);
    }
    if value.subsec_nanos() != 0 {
        return Err("is no whole number of seconds, as keepalive needs".to_owned());
    }
    duration_in(value, &KEEPALIVE)
}

/// A duration as a file writes it: a number with its unit, or several such, largest first
/// (`1m30s`). Units: `h`, `m`, `s`, `ms`, `us`, `ns`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, nanos) = *UNITS.iter().find(|(name, _)| *name == unit)?;
        if nanos >= smallest {
            return None;
        }
        smallest = nanos;
        let nanos = number.parse::<u64>().ok()?.checked_mul(nanos)?;
        sum = sum.checked_add(Duration::from_nanos(nanos))?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

/// The shortest text that [`parse_duration`] reads back, in one unit.
pub fn write_duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = UNITS
        .iter()
        .find(|(_, size)| nanos.is_multiple_of(u128::from(*size)))
        .expect("every number of nanoseconds is a multiple of one");
    format!("{}{unit}", nanos / u128::from(*size))
}

/// A server name: exact, or `*.` and a suffix. Made lower case.
pub fn sni(text: &str) -> Result<SniPattern, Broken> {
    let lower = text.to_ascii_lowercase();
    let (host, suffix) = match lower.strip_prefix("*.") {
        Some(host) => (host, true),
        None => (lower.as_str(), false),
    };
    if !is_host(host) {
        return Err("is no server name; write a host name or *.suffix".to_owned());
    }
    let host = host.to_owned();
    Ok(if suffix {
        SniPattern::Suffix(host)
    } else {
        SniPattern::Exact(host)
    })
}

/// `IP:PORT`; port not 0.
pub fn addr_target(text: &str) -> Result<Target, Broken> {
    let addr: SocketAddr = text.parse().map_err(|_| {
        if text.rsplit_once(':').is_some_and(|(host, _)| is_host(host)) {
            "is no IP address with a port; for a name write dns instead of address".to_owned()
        } else {
            "is no IP address with a port, such as 10.0.0.1:8443 or [fd00::1]:8443".to_owned()
        }
    })?;
    endpoint_addr(addr)
}

/// An endpoint's address: port not 0, not unspecified and not multicast.
pub fn endpoint_addr(addr: SocketAddr) -> Result<Target, Broken> {
    if addr.port() == 0 {
        return Err("has port 0; an endpoint needs a real port".to_owned());
    }
    if addr.ip().is_unspecified() || addr.ip().is_multicast() {
        return Err("cannot be connected to; name the endpoint's own address".to_owned());
    }
    if let SocketAddr::V6(v6) = addr
        && (v6.scope_id() != 0 || v6.flowinfo() != 0)
    {
        return Err("has a scope; link-local addresses are not supported".to_owned());
    }
    Ok(Target::Addr(addr))
}

/// `host:port`; port not 0. Made lower case, without a trailing dot.
pub fn dns_target(text: &str) -> Result<Target, Broken> {
    let wrong = || "is no host name with a port, such as checkout.internal:8443".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    if port == 0 || !is_host(&host) {
        return Err(wrong());
    }
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is an address; write address instead of dns".to_owned());
    }
    Ok(Target::Dns {
        host: host.into(),
        port,
    })
}

/// A failure domain's name: 1 to 253 characters, none of them a control character.
pub fn zone(text: &str) -> Result<Arc<str>, Broken> {
    if (1..=TEXT_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.into())
    } else {
        Err("is no zone; use 1 to 253 printable characters".to_owned())
    }
}

/// An HTTP request path: starts with `/`, printable ASCII without spaces, at most 1,024 bytes.
pub fn http_path(text: &str) -> Result<Arc<str>, Broken> {
    let good = text.starts_with('/')
        && text.len() <= PROBE_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.into()).ok_or_else(|| {
        "is no path; it starts with / and has printable characters without spaces".to_owned()
    })
}

/// A Host header: printable ASCII without spaces, 1 to 253 bytes.
pub fn http_host(text: &str) -> Result<Arc<str>, Broken> {
    let good =
        (1..=TEXT_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.into())
        .ok_or_else(|| "is no host; use 1 to 253 printable characters without spaces".to_owned())
}

/// A gRPC service name, may be empty: printable ASCII without spaces, at most 253 bytes.
pub fn grpc_service(text: &str) -> Result<Arc<str>, Broken> {
    if text.is_empty() {
        Ok(text.into())
    } else {
        http_host(text).map_err(|_| "is no gRPC service name".to_owned())
    }
}

/// First and last good HTTP status, each 100 to 599.
pub fn statuses(first: u16, last: u16) -> Result<(u16, u16), Broken> {
    if first <= last && first >= 100 && last <= 599 {
        Ok((first, last))
    } else {
        Err("is no range of HTTP statuses, such as 200-299".to_owned())
    }
}

/// What a probe sends or expects: at most [`PROBE_BYTES_MAX`].
pub fn probe_bytes(bytes: &[u8]) -> Result<Arc<[u8]>, Broken> {
    if bytes.len() <= PROBE_BYTES_MAX {
        Ok(bytes.into())
    } else {
        Err(format!("is longer than {PROBE_BYTES_MAX} bytes"))
    }
}

/// [`probe_bytes`] from pairs of hexadecimal digits.
pub fn hex(text: &str) -> Result<Arc<[u8]>, Broken> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    match bytes {
        Some(bytes) => probe_bytes(&bytes),
        None => Err("is not made of pairs of hexadecimal digits".to_owned()),
    }
}

/// `off`, `stdout`, or a file's path.
pub fn access_log(text: &str) -> Result<AccessLog, Broken> {
    match text {
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        path if path.contains('/') && path.len() <= 4095 && !path.chars().any(char::is_control) => {
            Ok(AccessLog::File(path.into()))
        }
        _ => Err("is not off, stdout or the path of a file (with a /)".to_owned()),
    }
}

/// Whether `host` is a host name: labels of letters, digits, `-` and `_`, at most 253 characters.
fn is_host(host: &str) -> bool {
    (1..=TEXT_MAX).contains(&host.len())
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// Names of hosts, zones and services.
const TEXT_MAX: usize = 253;
/// What a probe sends or expects, and its path: one small packet.
pub const PROBE_BYTES_MAX: usize = 1024;

/// Thousandths; below 1.0 a healthy tier would refuse traffic.
pub const SPILL_FACTOR: RangeInclusive<u32> = 1000..=10_000;
/// Whole percents.
pub const PERCENT: RangeInclusive<u8> = 0..=100;
/// Results in a row.
pub const STREAK: RangeInclusive<u16> = 1..=1000;
/// Between probes of one endpoint.
pub const PROBE_INTERVAL: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// Of one probe; the interval bounds it too.
pub const PROBE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3600);
/// Everything that ends a session or a flow.
pub const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(365 * 24 * 3600);
/// TCP_USER_TIMEOUT is 31 bits of milliseconds.
pub const USER_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);
/// Waits that may be zero.
pub const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * 24 * 3600);
/// The kernel's own limit on TCP_KEEPIDLE and TCP_KEEPINTVL.
pub const KEEPALIVE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(32_767);
/// The kernel's own limit on TCP_KEEPCNT.
pub const KEEPALIVE_PROBES: RangeInclusive<u8> = 1..=127;
/// A limit of zero would be a service that is off.
pub const LIMIT: RangeInclusive<u32> = 1..=u32::MAX;

/// Largest first.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("ns", 1),
];
