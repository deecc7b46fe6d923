//! NetworkPolicies and Ingresses (the latter lightly).

use super::field::{FieldErrors, Path};
use super::service::{PROTOCOLS, validate_target};
use super::value::{default, items, list, number, object, present, set, text};
use super::{Ctx, Generation, Strategy, metadata, names};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};

pub(super) struct NetworkPolicy;
pub(super) struct Ingress;

impl Strategy for NetworkPolicy {
    fn defaults(&self, policy: &mut Value) {
        let Some(spec) = object(policy, "spec") else {
            return;
        };
        if list(spec, "policyTypes").is_empty() {
            let egress = !list(spec, "egress").is_empty();
            let types = if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            set(spec, "policyTypes", types);
        }
        for direction in ["ingress", "egress"] {
            for rule in items(spec, direction) {
                for port in items(rule, "ports") {
                    default(port, "protocol", "TCP");
                }
            }
        }
    }

    fn validate_create(&self, policy: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate_policy(policy)
    }

    fn validate_update(&self, new: &Value, _: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate_policy(new)
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }
}

impl Strategy for Ingress {
    fn prepare_create(&self, ingress: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        set(ingress, "status", json!({"loadBalancer": {}}));
        Ok(())
    }

    fn validate_create(&self, ingress: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        validate_ingress(ingress)
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        if ctx.subresource == "status" {
            Vec::new()
        } else {
            validate_ingress(new)
        }
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }
}

fn validate_policy(policy: &Value) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    let spec = &policy["spec"];
    let selector = spec.get("podSelector").unwrap_or(&Value::Null);
    metadata::validate_selector(selector, &SPEC.child("podSelector"), &mut errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = SPEC.child(direction);
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let path = path.index(index);
            let ports = path.child("ports");
            for (index, port) in list(rule, "ports").iter().enumerate() {
                validate_policy_port(port, &ports.index(index), &mut errors);
            }
            let peers_path = path.child(peers);
            for (index, peer) in list(rule, peers).iter().enumerate() {
                validate_peer(peer, &peers_path.index(index), &mut errors);
            }
        }
    }
    let path = SPEC.child("policyTypes");
    for (index, kind) in list(spec, "policyTypes").iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(&path.index(index), kind, &["Ingress", "Egress"]);
        }
    }
    errors.into_causes()
}

fn validate_policy_port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let protocol = text(port, "protocol").unwrap_or("TCP");
    if !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end = number(port, "endPort");
    let at = path.child("endPort");
    if !present(port, "port") {
        if end != 0 {
            errors.invalid(
                &at,
                end,
                "may not be specified when `port` is not specified",
            );
        }
        return;
    }
    validate_target(&port["port"], &path.child("port"), errors);
    if end != 0 && port["port"].is_string() {
        errors.invalid(&at, end, "may not be specified when `port` is non-numeric");
    } else if end != 0 {
        if end < number(port, "port") {
            errors.invalid(&at, end, "must be greater than or equal to `port`");
        }
        if let Some(fault) = names::port_number(end) {
            errors.invalid(&at, end, fault);
        }
    }
}

fn validate_peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let selectors = ["podSelector", "namespaceSelector"];
    for key in selectors {
        metadata::validate_selector(
            peer.get(key).unwrap_or(&Value::Null),
            &path.child(key),
            errors,
        );
    }
    let any_selector = selectors.iter().any(|key| present(peer, key));
    if !any_selector && !present(peer, "ipBlock") {
        errors.required(path, "must specify a peer");
    } else if any_selector && present(peer, "ipBlock") {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
    if let Some(block) = peer.get("ipBlock").filter(|block| block.is_object()) {
        let path = path.child("ipBlock");
        match text(block, "cidr") {
            None => errors.required(&path.child("cidr"), ""),
            Some(cidr) if cidr.parse::<ipnet::IpNet>().is_err() => errors.invalid(
                &path.child("cidr"),
                cidr,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            Some(_) => {}
        }
    }
}

fn validate_ingress(ingress: &Value) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    let spec = &ingress["spec"];
    let rules = list(spec, "rules");
    if rules.is_empty() && !present(spec, "defaultBackend") {
        let text = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&SPEC, Value::Null, text);
    }
    if let Some(backend) = spec
        .get("defaultBackend")
        .filter(|backend| backend.is_object())
    {
        validate_backend(backend, &SPEC.child("defaultBackend"), &mut errors);
    }
    let path = SPEC.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if let Some(host) = text(rule, "host") {
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(
                    &path.child("host"),
                    host,
                    "must be a DNS name, not an IP address",
                );
            }
            let plain = host.strip_prefix("*.").unwrap_or(host);
            for fault in names::subdomain(plain) {
                errors.invalid(&path.child("host"), host, &fault);
            }
        }
        let http = path.child("http");
        let paths = http.child("paths");
        if rule
            .get("http")
            .is_some_and(|http| list(http, "paths").is_empty())
        {
            errors.required(&paths, "");
        }
        for (index, entry) in list(&rule["http"], "paths").iter().enumerate() {
            validate_path(entry, &paths.index(index), &mut errors);
        }
    }
    errors.into_causes()
}

fn validate_path(entry: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = text(entry, "path").unwrap_or_default();
    match text(entry, "pathType") {
        None => {
            errors.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") if !at.starts_with('/') => {
            errors.invalid(&path.child("path"), at, "must be an absolute path");
        }
        Some("ImplementationSpecific") if !at.is_empty() && !at.starts_with('/') => {
            errors.invalid(&path.child("path"), at, "must be an absolute path");
        }
        Some("Exact" | "Prefix" | "ImplementationSpecific") => {}
        Some(other) => errors.not_supported(
            &path.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
    validate_backend(&entry["backend"], &path.child("backend"), errors);
}

fn validate_backend(backend: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (
        present(backend, "resource"),
        backend.get("service").filter(|service| service.is_object()),
    ) {
        (true, Some(_)) => {
            errors.invalid(path, "", "cannot set both resource and service backends")
        }
        (true, None) => {}
        (false, None) => errors.invalid(path, "", "resource or service backend is required"),
        (false, Some(service)) => {
            let at = path.child("service");
            if text(service, "name").is_none() {
                errors.required(&at.child("name"), "");
            }
            let port = &service["port"];
            match (text(port, "name"), number(port, "number")) {
                (None, 0) => errors.required(path, "port name or number is required"),
                (Some(_), number) if number != 0 => {
                    errors.invalid(path, "", "cannot set both port name & port number");
                }
                (None, number) => {
                    if let Some(fault) = names::port_number(number) {
                        let path = at.child("port");
                        errors.invalid(&path.child("number"), number, fault);
                    }
                }
                _ => {}
            }
        }
    }
}

const SPEC: Path<'static> = Path::root("spec");
