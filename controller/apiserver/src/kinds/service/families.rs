//! `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` of a Service: rules among the three and over time.

use super::{SPEC, is, is_headless};
use crate::kinds::field::FieldErrors;
use crate::kinds::value::{list, strings, text};
use serde_json::Value;
use std::net::IpAddr;

/// The fields against one another.
pub(super) fn validate(service: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    if is(service, "ExternalName") {
        return;
    }
    let spec = &service["spec"];
    let ips = strings(spec, "clusterIPs");
    let path = SPEC.child("clusterIPs");
    let all = || Value::from(ips.clone());
    match (text(spec, "clusterIP"), ips.first()) {
        (Some(_), None) => errors.required(&path, ""),
        (Some(one), Some(first)) if one != *first => {
            errors.invalid(&path, all(), "first value must match `clusterIP`");
        }
        (None, Some(_)) => errors.invalid(
            &path,
            all(),
            "must be empty when `clusterIP` is not specified",
        ),
        _ => {}
    }
    validate_names(spec, errors);
    if !validate_addresses(&ips, old, errors) {
        return;
    }
    if ips.len() > 1 && ips.iter().filter(|ip| family_of(ip) == "IPv4").count() != 1 {
        errors.invalid(
            &path,
            all(),
            "may specify no more than one IP for each IP family",
        );
    }
    if is_headless(service) {
        return;
    }
    for (index, (ip, family)) in ips.iter().zip(strings(spec, "ipFamilies")).enumerate() {
        if matches!(family, "IPv4" | "IPv6") && family_of(ip) != family {
            let text = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(&path.index(index), *ip, &text);
        }
    }
}

/// What may change over time: the second address and family may come and go, the first stays.
pub(super) fn validate_change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if is(new, "ExternalName") || is(old, "ExternalName") {
        return;
    }
    let headless = (is_headless(old), is_headless(new));
    if headless == (true, true) {
        return;
    }
    validate_released(new, old, "clusterIPs", "secondary clusterIP", errors);
    if headless == (false, false) {
        validate_released(new, old, "ipFamilies", "secondary ipFamily", errors);
    }
}

fn validate_released(new: &Value, old: &Value, key: &str, what: &str, errors: &mut FieldErrors) {
    let (before, after) = (strings(&old["spec"], key), strings(&new["spec"], key));
    let path = SPEC.child(key);
    let whole = || Value::from(list(&new["spec"], key).to_vec());
    if before.len() == after.len() {
        for (index, (a, b)) in before.iter().zip(&after).enumerate() {
            if a != b {
                errors.invalid(&path.index(index), whole(), "may not change once set");
            }
        }
        return;
    }
    match (before.first(), after.first()) {
        (Some(_), None) => {
            let singular = key
                .strip_suffix("ies")
                .map_or("clusterIP".to_owned(), |stem| format!("{stem}y"));
            errors.invalid(
                &path.index(0),
                whole(),
                &format!("primary {singular} can not be unset"),
            );
        }
        (Some(a), Some(b)) if a != b => {
            errors.invalid(&path.index(0), whole(), "may not change once set")
        }
        _ => {}
    }
    if before.len() > after.len()
        && after.len() == 1
        && new["spec"]["ipFamilyPolicy"] != "SingleStack"
    {
        errors.invalid(
            &SPEC.child("ipFamilyPolicy"),
            new["spec"]["ipFamilyPolicy"].clone(),
            &format!("must be set to 'SingleStack' when releasing the {what}"),
        );
    }
}

fn validate_names(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("ipFamilies");
    let families = strings(spec, "ipFamilies");
    for (index, family) in families.iter().enumerate() {
        if !FAMILIES.contains(family) {
            errors.not_supported(&path.index(index), *family, FAMILIES);
        }
        if families[..index].contains(family) {
            errors.duplicate(&path.index(index), *family);
        }
    }
    if let Some(policy) = text(spec, "ipFamilyPolicy").filter(|policy| !POLICIES.contains(policy)) {
        errors.not_supported(&SPEC.child("ipFamilyPolicy"), policy, POLICIES);
    }
}

/// `false` when there are addresses that can't be compared further.
fn validate_addresses(ips: &[&str], old: Option<&Value>, errors: &mut FieldErrors) -> bool {
    let path = SPEC.child("clusterIPs");
    let before = old
        .map(|old| strings(&old["spec"], "clusterIPs"))
        .unwrap_or_default();
    let mut valid = true;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                valid = false;
                errors.invalid(
                    &path,
                    ips.to_vec(),
                    "'None' must be the first and only value",
                );
            }
            continue;
        }
        if !before.contains(ip) && super::address::parse(ip, &path.index(index), errors).is_none() {
            valid = false;
        }
    }
    if ips.len() > 2 {
        errors.invalid(&path, ips.to_vec(), "may only hold up to 2 values");
    }
    valid
}

pub(super) fn family_of(ip: &str) -> &'static str {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "IPv6",
        _ => "IPv4",
    }
}

pub(super) const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
