//! IP addresses as Kubernetes checks them in Services and EndpointSlices.

use crate::kinds::field::{FieldErrors, Path};
use std::net::IpAddr;

/// An address an endpoint or external IP may have: a unicast address that leaves the node.
/// `allow_loopback` is the documented switch for fleets in one process.
pub(in crate::kinds) fn validate_endpoint_ip(
    text: &str,
    path: &Path<'_>,
    allow_loopback: bool,
    errors: &mut FieldErrors,
) {
    let Some(ip) = parse(text, path, errors) else {
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, &format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() && !allow_loopback {
        errors.invalid(
            path,
            text,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    let (link_local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        // The low nibble of the second byte of a multicast address is its scope; 2 is the link.
        IpAddr::V6(ip) => (
            ip.is_unicast_link_local(),
            ip.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if link_local {
        errors.invalid(
            path,
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if multicast {
        errors.invalid(
            path,
            text,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

/// Parses an address, or reports it.
pub(in crate::kinds) fn parse(
    text: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> Option<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            errors.invalid(path, text, "must not be an IPv4-mapped IPv6 address");
            None
        }
        Ok(ip) => Some(ip),
        Err(_) if has_leading_zeros(text) => {
            errors.invalid(path, text, "must not have leading 0s");
            None
        }
        Err(_) => {
            errors.invalid(
                path,
                text,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
            None
        }
    }
}

fn has_leading_zeros(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 4
        && parts.iter().all(|part| part.parse::<u8>().is_ok())
        && parts
            .iter()
            .any(|part| part.len() > 1 && part.starts_with('0'))
}
