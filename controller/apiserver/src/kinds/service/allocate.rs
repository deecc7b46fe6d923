//! Allocation of ClusterIPs and node ports, and the family fields that follow from it.
//!
//! What a refused write had reserved is given back by [`Pool::restore`].

use super::families::family_of;
use super::pool::{Pool, owner};
use super::{SPEC, is, needs_node_ports};
use crate::error::{ApiError, Cause};
use crate::kinds::field::FieldErrors;
use crate::kinds::value::{items, list, number, remove, set, strings, text};
use crate::kinds::{Ctx, Settings};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::HashMap;

pub(super) fn on_create(service: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
    if text(&service["spec"], "clusterIP").is_some()
        && list(&service["spec"], "clusterIPs").is_empty()
    {
        let only = service["spec"]["clusterIP"].clone();
        set(&mut service["spec"], "clusterIPs", vec![only]);
    }
    allocate(service, None, ctx)
}

pub(super) fn on_update(new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
    carry_over(new, old);
    normalize(new, old);
    allocate(new, Some(old), ctx)
}

fn allocate(service: &mut Value, old: Option<&Value>, ctx: &Ctx<'_>) -> Result<(), ApiError> {
    let refused = |service: &Value, causes: Vec<Cause>| {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        ApiError::invalid("", "Service", name, causes)
    };
    resolve_families(service, old, ctx.settings).map_err(|causes| refused(service, causes))?;
    let mut pool = ctx.state.services.lock();
    pool.load(ctx);
    let result = allocate_ips(service, &mut pool, ctx.settings)
        .and_then(|()| allocate_ports(service, &mut pool, ctx.settings));
    match result {
        Ok(()) if !ctx.dry_run => {
            // What the update no longer uses goes back only now that nothing can fail here.
            pool.release(service);
            pool.record(service);
            Ok(())
        }
        result => {
            pool.restore(service, old);
            result.map_err(|failure| match failure {
                Failure::Causes(causes) => refused(service, causes),
                Failure::Full(what) => ApiError::internal(what),
            })
        }
    }
}

enum Failure {
    Causes(Vec<Cause>),
    Full(String),
}

fn allocate_ips(service: &mut Value, pool: &mut Pool, settings: &Settings) -> Result<(), Failure> {
    if is(service, "ExternalName") || super::is_headless(service) {
        return Ok(());
    }
    let owner = owner(service);
    let mut ips: Vec<String> = strings(&service["spec"], "clusterIPs")
        .into_iter()
        .map(str::to_owned)
        .collect();
    let families: Vec<String> = strings(&service["spec"], "ipFamilies")
        .into_iter()
        .map(str::to_owned)
        .collect();
    for (index, family) in families.iter().enumerate() {
        let Some(range) = range(settings, family) else {
            continue;
        };
        match ips.get(index).and_then(|ip| ip.parse().ok()) {
            Some(wanted) => pool.take_ip(wanted, &owner, range).map_err(|why| {
                let mut errors = FieldErrors::default();
                let text = format!("failed to allocate IP {wanted}: {why}");
                errors.invalid(&SPEC.child("clusterIPs"), ips.clone(), &text);
                Failure::Causes(errors.into_causes())
            })?,
            None => {
                let ip = pool.next_ip(&owner, range).ok_or_else(|| {
                    let name = service["metadata"]["name"].as_str().unwrap_or_default();
                    Failure::Full(format!(
                        "failed to allocate a serviceIP for Service {name:?}: range is full"
                    ))
                })?;
                ips.truncate(index);
                ips.push(ip.to_string());
            }
        }
    }
    if let Some(first) = ips.first() {
        set(&mut service["spec"], "clusterIP", first.clone());
    }
    set(&mut service["spec"], "clusterIPs", ips);
    Ok(())
}

fn allocate_ports(
    service: &mut Value,
    pool: &mut Pool,
    settings: &Settings,
) -> Result<(), Failure> {
    let owner = owner(service);
    let full = |what: &str| Failure::Full(format!("failed to allocate a {what}: range is full"));
    if needs_node_ports(&service["spec"]) {
        // TCP and UDP on the same port number share one node port.
        let mut by_port: HashMap<i64, u16> = HashMap::new();
        for (index, port) in items(&mut service["spec"], "ports").iter_mut().enumerate() {
            let (wanted, own) = (number(port, "nodePort"), number(port, "port"));
            let shared = by_port.get(&own).copied();
            if wanted != 0 && shared.map(i64::from) != Some(wanted) {
                let elsewhere = by_port.values().any(|taken| i64::from(*taken) == wanted);
                let taken = take_wanted(pool, wanted, &owner, elsewhere, settings.node_ports);
                let taken = taken.map_err(|why| {
                    let mut errors = FieldErrors::default();
                    let path = SPEC.child("ports");
                    let path = path.index(index);
                    errors.invalid(&path.child("nodePort"), wanted, &why);
                    Failure::Causes(errors.into_causes())
                })?;
                by_port.entry(own).or_insert(taken);
                continue;
            }
            let chosen = match shared {
                Some(shared) => shared,
                None => pool
                    .next_port(&owner, settings.node_ports)
                    .ok_or_else(|| full("nodePort"))?,
            };
            by_port.insert(own, chosen);
            set(port, "nodePort", chosen);
        }
    }
    let spec = &mut service["spec"];
    if spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local" {
        let wanted = number(spec, "healthCheckNodePort");
        if wanted == 0 {
            let port = pool.next_port(&owner, settings.node_ports);
            set(
                spec,
                "healthCheckNodePort",
                port.ok_or_else(|| full("HealthCheck NodePort"))?,
            );
        } else {
            take_wanted(pool, wanted, &owner, false, settings.node_ports).map_err(|why| {
                Failure::Full(format!(
                    "failed to allocate requested HealthCheck NodePort {wanted}: {why}"
                ))
            })?;
        }
    }
    Ok(())
}

fn take_wanted(
    pool: &mut Pool,
    wanted: i64,
    owner: &str,
    elsewhere: bool,
    (low, high): (u16, u16),
) -> Result<u16, String> {
    let port = u16::try_from(wanted)
        .ok()
        .filter(|port| (low..=high).contains(port));
    let port = port.ok_or_else(|| {
        format!("provided port is not in the valid range. The range of valid ports is {low}-{high}")
    })?;
    if elsewhere {
        return Err("provided port is already allocated".to_owned());
    }
    pool.take_port(port, owner).map(|()| port)
}

/// Fills `ipFamilyPolicy` and `ipFamilies` in, or says why they can't be.
fn resolve_families(
    service: &mut Value,
    old: Option<&Value>,
    settings: &Settings,
) -> Result<(), Vec<Cause>> {
    if is(service, "ExternalName") {
        return Ok(());
    }
    let selectorless = service["spec"]["selector"]
        .as_object()
        .is_none_or(serde_json::Map::is_empty);
    let free = super::is_headless(service) && selectorless;
    if text(&service["spec"], "ipFamilyPolicy").is_none() {
        let before = old.and_then(|old| text(&old["spec"], "ipFamilyPolicy"));
        let policy = before.unwrap_or(if free {
            "RequireDualStack"
        } else {
            "SingleStack"
        });
        set(&mut service["spec"], "ipFamilyPolicy", policy);
    }
    let mut errors = FieldErrors::default();
    super::families::validate(service, old, &mut errors);
    if !errors.is_empty() {
        return Err(errors.into_causes());
    }
    let single = service["spec"]["ipFamilyPolicy"] == "SingleStack";
    reduce(service, old, single, &mut errors);
    let mut families: Vec<String> = strings(&service["spec"], "ipFamilies")
        .into_iter()
        .map(str::to_owned)
        .collect();
    infer(service, &mut families, settings, &mut errors);
    if errors.is_empty() && !free {
        check_configured(service, &families, settings, &mut errors);
    }
    if !errors.is_empty() {
        return Err(errors.into_causes());
    }
    if families.is_empty() {
        families.push(default_family(settings).to_owned());
    }
    if !single && families.len() == 1 && (free || settings.service_cidrs.len() > 1) {
        families.push(
            if families[0] == "IPv4" {
                "IPv6"
            } else {
                "IPv4"
            }
            .to_owned(),
        );
    }
    set(&mut service["spec"], "ipFamilies", families);
    Ok(())
}

fn reduce(service: &mut Value, old: Option<&Value>, single: bool, errors: &mut FieldErrors) {
    let policy = SPEC.child("ipFamilyPolicy");
    let wording = [
        ("clusterIPs", "cluster IP", "cluster IPs"),
        ("ipFamilies", "IP family", "IP families"),
    ];
    for (key, one, many) in wording {
        let now = list(&service["spec"], key).to_vec();
        if let Some(old) = old {
            let before = list(&old["spec"], key);
            if single && now == before && now.len() > 1 {
                set(&mut service["spec"], key, now[..1].to_vec());
            } else if !single && !now.is_empty() && now.len() < before.len() {
                let text = format!("must be 'SingleStack' to release the secondary {one}");
                errors.invalid(&policy, service["spec"]["ipFamilyPolicy"].clone(), &text);
            }
        }
        if single && list(&service["spec"], key).len() == 2 {
            let text = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified"
            );
            errors.invalid(&policy, "SingleStack", &text);
        }
    }
}

/// Takes missing families from the addresses given.
fn infer(
    service: &Value,
    families: &mut Vec<String>,
    settings: &Settings,
    errors: &mut FieldErrors,
) {
    let ips = strings(&service["spec"], "clusterIPs");
    let path = SPEC.child("clusterIPs");
    for (index, ip) in ips.iter().enumerate() {
        if *ip == "None" {
            break;
        }
        if index < families.len() {
            continue;
        }
        let family = family_of(ip);
        if range(settings, family).is_none() {
            let text = format!("{family} is not configured on this cluster");
            errors.invalid(&path.index(index), ips.clone(), &text);
        } else {
            families.push(family.to_owned());
        }
    }
}

fn check_configured(
    service: &Value,
    families: &[String],
    settings: &Settings,
    errors: &mut FieldErrors,
) {
    if service["spec"]["ipFamilyPolicy"] == "RequireDualStack" && settings.service_cidrs.len() < 2 {
        errors.invalid(
            &SPEC.child("ipFamilyPolicy"),
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        );
    }
    let path = SPEC.child("ipFamilies");
    for (index, family) in families.iter().enumerate() {
        if range(settings, family).is_none() {
            errors.invalid(
                &path.index(index),
                family.as_str(),
                "not configured on this cluster",
            );
        }
    }
}

/// Puts back what the server had allocated and an update left out.
fn carry_over(new: &mut Value, old: &Value) {
    if !is(new, "ExternalName") && !is(old, "ExternalName") {
        if text(&new["spec"], "clusterIP").is_none() && text(&old["spec"], "clusterIP").is_some() {
            let ip = old["spec"]["clusterIP"].clone();
            set(&mut new["spec"], "clusterIP", ip);
        }
        if list(&new["spec"], "clusterIPs").is_empty()
            && !list(&old["spec"], "clusterIPs").is_empty()
        {
            let ips = old["spec"]["clusterIPs"].clone();
            set(&mut new["spec"], "clusterIPs", ips);
        }
    }
    let checked = |service: &Value| {
        is(service, "LoadBalancer") && service["spec"]["externalTrafficPolicy"] == "Local"
    };
    if checked(new) && checked(old) && number(&new["spec"], "healthCheckNodePort") == 0 {
        let port = old["spec"]["healthCheckNodePort"].clone();
        set(&mut new["spec"], "healthCheckNodePort", port);
    }
    if !needs_node_ports(&old["spec"]) || !needs_node_ports(&new["spec"]) {
        return;
    }
    let now: Vec<i64> = list(&new["spec"], "ports")
        .iter()
        .map(|port| number(port, "nodePort"))
        .collect();
    let before: HashMap<String, i64> = list(&old["spec"], "ports")
        .iter()
        .map(|port| {
            (
                text(port, "name").unwrap_or_default().to_owned(),
                number(port, "nodePort"),
            )
        })
        .collect();
    for port in items(&mut new["spec"], "ports") {
        let name = text(port, "name").unwrap_or_default();
        if let Some(&known) = before.get(name)
            && number(port, "nodePort") == 0
            && known != 0
            && !now.contains(&known)
        {
            set(port, "nodePort", known);
        }
    }
}

/// Keeps `clusterIP` and `clusterIPs` in step for clients that write only one of them.
fn normalize(new: &mut Value, old: &Value) {
    let (before, after) = (
        text(&old["spec"], "clusterIP"),
        text(&new["spec"], "clusterIP"),
    );
    let same = list(&new["spec"], "clusterIPs") == list(&old["spec"], "clusterIPs");
    if before == after || !same {
        return;
    }
    match after.map(str::to_owned) {
        None => remove(&mut new["spec"], "clusterIPs"),
        Some(ip) => set(&mut new["spec"], "clusterIPs", vec![ip]),
    }
}

fn range<'a>(settings: &'a Settings, family: &str) -> Option<&'a IpNet> {
    settings
        .service_cidrs
        .iter()
        .find(|range| matches!(range, IpNet::V6(_)) == (family == "IPv6"))
}

fn default_family(settings: &Settings) -> &'static str {
    match settings.service_cidrs.first() {
        Some(IpNet::V6(_)) => "IPv6",
        _ => "IPv4",
    }
}
