//! Services: defaults, what an update carries over, validation. Addresses and node ports are
//! allocated in [`allocate`].

use super::field::{FieldErrors, Path};
use super::value::{default, items, list, number, object, present, remove, set, strings, text};
use super::{Ctx, NameRule, Strategy, metadata, names};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) mod address;
pub(crate) mod allocate;
mod families;
pub(crate) mod pool;

pub(super) struct Service;

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn defaults(&self, object: &mut Value) {
        apply_defaults(object);
    }

    fn prepare_create(&self, service: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        set(service, "status", json!({"loadBalancer": {}}));
        allocate::on_create(service, ctx)
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        if ctx.subresource == "status" {
            return Ok(());
        }
        drop_for_type(new, old);
        allocate::on_update(new, old, ctx)
    }

    fn validate_create(&self, service: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate(service, None, &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        if ctx.subresource != "status" {
            families::validate_change(new, old, &mut errors);
            if is(old, "LoadBalancer") && is(new, "LoadBalancer") {
                let (before, after) = (
                    old["spec"].get("loadBalancerClass"),
                    new["spec"].get("loadBalancerClass"),
                );
                if !metadata::semantically_equal(
                    before.unwrap_or(&Value::Null),
                    after.unwrap_or(&Value::Null),
                ) {
                    errors.invalid(
                        &SPEC.child("loadBalancerClass"),
                        after.cloned().unwrap_or(Value::Null),
                        "may not change once set",
                    );
                }
            }
            validate(new, Some(old), &mut errors);
        }
        errors.into_causes()
    }

    fn deleted(&self, service: &Value, ctx: &Ctx<'_>) {
        ctx.state.services.lock().release(service);
    }

    fn abandoned(&self, service: &Value, old: Option<&Value>, ctx: &Ctx<'_>) {
        if !ctx.dry_run {
            ctx.state.services.lock().restore(service, old);
        }
    }

    fn has_status(&self) -> bool {
        true
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }
}

pub(super) fn apply_defaults(service: &mut Value) {
    let Some(spec) = object(service, "spec") else {
        return;
    };
    default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP"
        && spec
            .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
            .is_none_or(Value::is_null)
    {
        set(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": AFFINITY_TIMEOUT}}),
        );
    }
    default(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        default(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| target.is_null() || *target == 0 || *target == "") {
            let number = port["port"].clone();
            set(port, "targetPort", number);
        }
    }
    if externally_accessible(spec) {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn validate(service: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let spec = &service["spec"];
    let headless = is_headless(service);
    let kind = text(spec, "type").unwrap_or_default();
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(&SPEC.child("ports"), "");
    }
    validate_by_type(service, kind, errors);
    let mut seen = BTreeSet::new();
    let ports = SPEC.child("ports");
    let count = list(spec, "ports").len();
    for (index, port) in list(spec, "ports").iter().enumerate() {
        validate_port(port, count > 1, &mut seen, &ports.index(index), errors);
    }
    metadata::validate_labels(&spec["selector"], &SPEC.child("selector"), errors);
    validate_affinity(spec, errors);
    families::validate(service, old, errors);
    let path = SPEC.child("externalIPs");
    for (index, ip) in strings(spec, "externalIPs").into_iter().enumerate() {
        address::validate_endpoint_ip(ip, &path.index(index), false, errors);
    }
    if !TYPES.contains(&kind) {
        errors.not_supported(&SPEC.child("type"), kind, TYPES);
    }
    validate_port_numbers(spec, kind, errors);
    validate_load_balancer(spec, kind, errors);
    validate_policies(spec, kind, errors);
}

fn validate_by_type(service: &Value, kind: &str, errors: &mut FieldErrors) {
    let spec = &service["spec"];
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let path = SPEC.child("clusterIPs");
            errors.invalid(
                &path.index(0),
                "None",
                &format!("may not be set to 'None' for {kind} services"),
            );
        }
        "ExternalName" => {
            for key in ["clusterIPs", "ipFamilies"] {
                if !list(spec, key).is_empty() {
                    errors.forbidden(&SPEC.child(key), "may not be set for ExternalName services");
                }
            }
            if present(spec, "ipFamilyPolicy") {
                errors.forbidden(
                    &SPEC.child("ipFamilyPolicy"),
                    "may not be set for ExternalName services",
                );
            }
            let path = SPEC.child("externalName");
            let name = text(spec, "externalName").unwrap_or_default();
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.required(&path, "");
            } else {
                for fault in names::subdomain(name) {
                    errors.invalid(&path, name, &fault);
                }
            }
        }
        _ => {}
    }
}

fn validate_port<'a>(
    port: &'a Value,
    name_required: bool,
    seen: &mut BTreeSet<&'a str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match text(port, "name") {
        None if name_required => errors.required(&path.child("name"), ""),
        None => {}
        Some(name) => {
            for fault in names::label(name) {
                errors.invalid(&path.child("name"), name, &fault);
            }
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
    }
    let number = number(port, "port");
    if let Some(fault) = names::port_number(number) {
        errors.invalid(&path.child("port"), number, fault);
    }
    let protocol = text(port, "protocol").unwrap_or_default();
    if !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&path.child("protocol"), protocol, PROTOCOLS);
    }
    validate_target(&port["targetPort"], &path.child("targetPort"), errors);
    if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str) {
        for fault in names::qualified_name(protocol) {
            errors.invalid(&path.child("appProtocol"), protocol, &fault);
        }
    }
}

/// A port given by number or by name.
pub(super) fn validate_target(target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match target {
        Value::String(name) => {
            for fault in names::port_name(name) {
                errors.invalid(path, name.as_str(), &fault);
            }
        }
        other => {
            let number = other.as_i64().unwrap_or_default();
            if let Some(fault) = names::port_number(number) {
                errors.invalid(path, number, fault);
            }
        }
    }
}

fn validate_affinity(spec: &Value, errors: &mut FieldErrors) {
    let affinity = text(spec, "sessionAffinity").unwrap_or_default();
    if !AFFINITIES.contains(&affinity) {
        errors.not_supported(&SPEC.child("sessionAffinity"), affinity, AFFINITIES);
    }
    let path = SPEC.child("sessionAffinityConfig");
    if affinity == "ClientIP" {
        let path = path.child("clientIP");
        let seconds = spec
            .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
            .and_then(Value::as_i64);
        let seconds = seconds.unwrap_or_default();
        if !(1..=AFFINITY_TIMEOUT_MAX).contains(&seconds) {
            errors.invalid(
                &path.child("timeoutSeconds"),
                seconds,
                &format!("must be greater than 0 and less than {AFFINITY_TIMEOUT_MAX}"),
            );
        }
    } else if affinity == "None" && present(spec, "sessionAffinityConfig") {
        errors.forbidden(&path, "must not be set when session affinity is None");
    }
}

fn validate_port_numbers(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("ports");
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    let listed = list(spec, "ports");
    if kind == "ClusterIP" {
        for (index, port) in listed.iter().enumerate() {
            if number(port, "nodePort") != 0 {
                let path = path.index(index);
                errors.forbidden(
                    &path.child("nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                );
            }
        }
    }
    let protocol = |port: &Value| text(port, "protocol").unwrap_or_default().to_owned();
    for (index, port) in listed.iter().enumerate() {
        let node_port = number(port, "nodePort");
        if node_port != 0 && !node_ports.insert((protocol(port), node_port)) {
            let path = path.index(index);
            errors.duplicate(&path.child("nodePort"), node_port);
        }
    }
    for (index, port) in listed.iter().enumerate() {
        if !ports.insert((protocol(port), number(port, "port"))) {
            // The whole key is printed in the form of the internal type.
            let key = json!({
                "Name": "", "Protocol": protocol(port), "AppProtocol": null, "Port": number(port, "port"),
                "TargetPort": 0, "NodePort": 0,
            });
            errors.duplicate(&path.index(index), key);
        }
    }
}

fn validate_load_balancer(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let balancer = kind == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    let path = SPEC.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balancer {
        errors.forbidden(&path, only);
    }
    for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            errors.invalid(
                &path.index(index),
                range.trim(),
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
    }
    if present(spec, "allocateLoadBalancerNodePorts") && !balancer {
        errors.forbidden(&SPEC.child("allocateLoadBalancerNodePorts"), only);
    }
    if let Some(class) = spec.get("loadBalancerClass").and_then(Value::as_str) {
        let path = SPEC.child("loadBalancerClass");
        if balancer {
            for fault in names::qualified_name(class) {
                errors.invalid(&path, class, &fault);
            }
        } else {
            errors.forbidden(&path, only);
        }
    }
}

fn validate_policies(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("externalTrafficPolicy");
    let external = text(spec, "externalTrafficPolicy");
    match (externally_accessible(spec), external) {
        (false, Some(policy)) => {
            errors.invalid(
                &path,
                policy,
                "may only be set for externally-accessible services",
            );
        }
        (true, None) => errors.required(&path, ""),
        (true, Some(policy)) if !POLICIES.contains(&policy) => {
            errors.not_supported(&path, policy, POLICIES);
        }
        _ => {}
    }
    let check = number(spec, "healthCheckNodePort");
    if check != 0 && !(kind == "LoadBalancer" && external == Some("Local")) {
        errors.invalid(
            &SPEC.child("healthCheckNodePort"),
            check,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    if let Some(policy) =
        text(spec, "internalTrafficPolicy").filter(|policy| !POLICIES.contains(policy))
    {
        errors.not_supported(&SPEC.child("internalTrafficPolicy"), policy, POLICIES);
    }
    if let Some(wish) =
        text(spec, "trafficDistribution").filter(|wish| !DISTRIBUTIONS.contains(wish))
    {
        errors.not_supported(&SPEC.child("trafficDistribution"), wish, DISTRIBUTIONS);
    }
}

/// Clears what the old type had and the new one can't have, unless the user changed it too (then
/// validation says so).
fn drop_for_type(new: &mut Value, old: &Value) {
    let same = |new: &Value, key: &str| {
        let (a, b) = (new["spec"].get(key), old["spec"].get(key));
        metadata::semantically_equal(a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null))
    };
    if !is(old, "ExternalName") && is(new, "ExternalName") {
        if same(new, "clusterIP") && same(new, "clusterIPs") {
            remove(&mut new["spec"], "clusterIP");
            remove(&mut new["spec"], "clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if same(new, key) {
                remove(&mut new["spec"], key);
            }
        }
    }
    if needs_node_ports(&old["spec"]) && !needs_node_ports(&new["spec"]) {
        let ports = |service: &Value| -> Vec<i64> {
            list(&service["spec"], "ports")
                .iter()
                .map(|port| number(port, "nodePort"))
                .collect()
        };
        if ports(new) == ports(old) {
            for port in items(&mut new["spec"], "ports") {
                remove(port, "nodePort");
            }
        }
    }
    if is(old, "LoadBalancer") && !is(new, "LoadBalancer") {
        for key in [
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "healthCheckNodePort",
        ] {
            if same(new, key) {
                remove(&mut new["spec"], key);
            }
        }
        set(new, "status", json!({"loadBalancer": {}}));
    }
    if externally_accessible(&old["spec"])
        && !externally_accessible(&new["spec"])
        && same(new, "externalTrafficPolicy")
    {
        remove(&mut new["spec"], "externalTrafficPolicy");
    }
}

pub(super) fn is(service: &Value, kind: &str) -> bool {
    service["spec"]["type"] == kind
}

pub(super) fn is_headless(service: &Value) -> bool {
    list(&service["spec"], "clusterIPs")
        .first()
        .is_some_and(|ip| ip == "None")
        || service["spec"]["clusterIP"] == "None"
}

pub(super) fn needs_node_ports(spec: &Value) -> bool {
    spec["type"] == "NodePort"
        || (spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}

fn externally_accessible(spec: &Value) -> bool {
    matches!(text(spec, "type"), Some("NodePort" | "LoadBalancer"))
        || (spec["type"] == "ClusterIP" && !list(spec, "externalIPs").is_empty())
}

const SPEC: Path<'static> = Path::root("spec");
const AFFINITY_TIMEOUT: i64 = 10_800;
const AFFINITY_TIMEOUT_MAX: i64 = 86_400;
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

#[cfg(test)]
mod tests;
