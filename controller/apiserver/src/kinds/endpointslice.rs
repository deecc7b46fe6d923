//! EndpointSlices: address rules, ports, limits.

use super::field::{FieldErrors, Path};
use super::service::address::validate_endpoint_ip;
use super::service::{PROTOCOLS, address};
use super::value::{default, items, list, number, present, remove, set, text};
use super::{Ctx, Generation, Strategy, metadata, names};
use crate::error::{ApiError, Cause};
use serde_json::Value;

pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn defaults(&self, slice: &mut Value) {
        for port in items(slice, "ports") {
            // An empty name is a name, so it isn't left to `default`.
            if let Some(port) = port.as_object_mut()
                && port.get("name").is_none_or(Value::is_null)
            {
                port.insert("name".into(), "".into());
            }
            default(port, "protocol", "TCP");
        }
    }

    fn prepare_create(&self, slice: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        prepare(slice);
        for endpoint in items(slice, "endpoints") {
            remove(endpoint, TOPOLOGY);
        }
        Ok(())
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        prepare(new);
        // v1 has no topology map: one that an older version stored stays, none is added.
        if !list(old, "endpoints")
            .iter()
            .any(|endpoint| present(endpoint, TOPOLOGY))
        {
            for endpoint in items(new, "endpoints") {
                remove(endpoint, TOPOLOGY);
            }
        }
        let labels = |slice: &Value| slice["metadata"].get("labels").cloned().unwrap_or_default();
        if !metadata::semantically_equal(&labels(new), &labels(old)) {
            let generation = number(&old["metadata"], "generation") + 1;
            set(&mut new["metadata"], "generation", generation);
        }
        Ok(())
    }

    fn validate_create(&self, slice: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate(
            slice,
            None,
            ctx.settings.allow_loopback_endpoints,
            &mut errors,
        );
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate(
            new,
            Some(old),
            ctx.settings.allow_loopback_endpoints,
            &mut errors,
        );
        let path = Path::root("addressType");
        if new.get("addressType") != old.get("addressType") {
            errors.invalid(&path, Value::Null, metadata::IMMUTABLE);
        }
        errors.into_causes()
    }

    fn generation(&self) -> Generation {
        Generation::Anything
    }

    fn create_on_update(&self) -> bool {
        false
    }
}

/// Empty required lists are null, as they come back from a store of the real server.
fn prepare(slice: &mut Value) {
    for key in ["endpoints", "ports"] {
        if list(slice, key).is_empty() {
            set(slice, key, Value::Null);
        }
    }
}

fn validate(slice: &Value, old: Option<&Value>, allow_loopback: bool, errors: &mut FieldErrors) {
    let path = Path::root("addressType");
    let kind = text(slice, "addressType");
    match kind {
        None => errors.required(&path, ""),
        Some(kind) if !ADDRESS_TYPES.contains(&kind) => {
            errors.not_supported(&path, kind, ADDRESS_TYPES)
        }
        Some(_) => {}
    }
    validate_ports(list(slice, "ports"), errors);
    if old.is_some_and(|old| list(old, "endpoints") == list(slice, "endpoints")) {
        return;
    }
    let path = Path::root("endpoints");
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.too_many(&path, endpoints.len(), ENDPOINTS_MAX);
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        validate_addresses(
            endpoint,
            kind.unwrap_or_default(),
            allow_loopback,
            &path,
            errors,
        );
        if let Some(node) = endpoint.get("nodeName").and_then(Value::as_str) {
            for fault in names::subdomain(node) {
                errors.invalid(&path.child("nodeName"), node, &fault);
            }
        }
        metadata::validate_labels(
            endpoint.get("deprecatedTopology").unwrap_or(&Value::Null),
            &path.child("deprecatedTopology"),
            errors,
        );
        if let Some(host) = endpoint.get("hostname").and_then(Value::as_str) {
            for fault in names::label(host) {
                errors.invalid(&path.child("hostname"), host, &fault);
            }
        }
        validate_hints(endpoint, &path, errors);
    }
}

fn validate_addresses(
    endpoint: &Value,
    kind: &str,
    allow_loopback: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let path = path.child("addresses");
    let addresses = list(endpoint, "addresses");
    if addresses.is_empty() {
        errors.required(&path, "");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.too_many(&path, addresses.len(), ADDRESSES_MAX);
    }
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let here = path.index(index);
        match kind {
            "IPv4" | "IPv6" => {
                let mut parsing = FieldErrors::default();
                let Some(ip) = address::parse(address, &here, &mut parsing) else {
                    errors.append(parsing);
                    continue;
                };
                if ip.is_ipv6() != (kind == "IPv6") {
                    errors.invalid(&path, address, &format!("must be an {kind} address"));
                } else if kind == "IPv6" && ip.to_string() != address {
                    errors.invalid(
                        &here,
                        address,
                        &format!("must be in canonical form ({:?})", ip.to_string()),
                    );
                    continue;
                }
                validate_endpoint_ip(address, &here, allow_loopback, errors);
            }
            "FQDN" => validate_domain(address, &here, errors),
            _ => {}
        }
    }
}

fn validate_domain(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = name.strip_suffix('.').unwrap_or(name);
    let faults = names::subdomain(name);
    if name.is_empty() {
        errors.required(path, "");
    } else if !faults.is_empty() {
        errors.invalid(path, name, &faults.join(","));
    } else if !name.contains('.') {
        errors.invalid(
            path,
            name,
            "should be a domain with at least two segments separated by dots",
        );
    }
}

fn validate_hints(endpoint: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(hints) = endpoint.get("hints") else {
        return;
    };
    let path = path.child("hints");
    for key in ["forZones", "forNodes"] {
        let path = path.child(key);
        let entries = list(hints, key);
        if entries.len() > HINTS_MAX {
            errors.too_many(&path, entries.len(), HINTS_MAX);
            continue;
        }
        let mut seen = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let name = text(entry, "name").unwrap_or_default();
            let path = path.index(index);
            let path = path.child("name");
            if seen.contains(&name) {
                errors.duplicate(&path, name);
            }
            seen.push(name);
            let faults = if key == "forZones" {
                names::label_value(name)
            } else {
                names::subdomain(name)
            };
            for fault in faults {
                errors.invalid(&path, name, &fault);
            }
        }
    }
}

fn validate_ports(ports: &[Value], errors: &mut FieldErrors) {
    let path = Path::root("ports");
    if ports.len() > PORTS_MAX {
        errors.too_many(&path, ports.len(), PORTS_MAX);
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name").unwrap_or_default();
        if !name.is_empty() {
            for fault in names::label(name) {
                errors.invalid(&path.child("name"), name, &fault);
            }
        }
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let protocol = text(port, "protocol").unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            errors.not_supported(&path.child("protocol"), protocol, PROTOCOLS);
        }
        if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str) {
            for fault in names::qualified_name(protocol) {
                errors.invalid(&path.child("appProtocol"), protocol, &fault);
            }
        }
    }
}

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const TOPOLOGY: &str = "deprecatedTopology";
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
