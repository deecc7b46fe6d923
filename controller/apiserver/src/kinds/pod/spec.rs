//! Validation of a pod spec, in pods and in templates.

use crate::kinds::field::{FieldErrors, Path};
use crate::kinds::value::{list, number, present, text};
use crate::kinds::{metadata, names};
use serde_json::Value;
use std::collections::BTreeSet;

/// Checks that a selector selects the pods of its own template. A missing one selects none.
pub(in crate::kinds) fn validate_selected(
    template: &Value,
    selector: &Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let labels = template.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let empty = metadata::selector_is_empty(selector) && !selector.is_null();
    if !empty && (selector.is_null() || !metadata::selector_matches(selector, labels)) {
        let path = path.child("metadata");
        errors.invalid(
            &path.child("labels"),
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
}

/// Checks the template of a workload: labels and spec.
pub(in crate::kinds) fn validate_template(
    template: &Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let labels = template.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let meta = path.child("metadata");
    metadata::validate_labels(labels, &meta.child("labels"), errors);
    validate(&template["spec"], &path.child("spec"), errors);
}

/// What only pods themselves must keep to.
pub(in crate::kinds) fn validate_pod(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["containers", "initContainers"] {
        let path = path.child(key);
        for (index, container) in list(spec, key).iter().enumerate() {
            if let Some(image) = text(container, "image").filter(|image| image.trim() != *image) {
                let path = path.index(index);
                errors.invalid(
                    &path.child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                );
            }
        }
    }
    validate(spec, path, errors);
}

pub(in crate::kinds) fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let volumes = validate_volumes(spec, &path.child("volumes"), errors);
    let mut seen = BTreeSet::new();
    if list(spec, "containers").is_empty() {
        errors.required(&path.child("containers"), "");
    }
    for key in ["containers", "initContainers"] {
        let path = path.child(key);
        for (index, container) in list(spec, key).iter().enumerate() {
            let path = path.index(index);
            if let Some(name) = text(container, "name")
                && !seen.insert(name)
            {
                errors.duplicate(&path.child("name"), name);
            }
            validate_container(container, &volumes, &path, errors);
        }
    }
    one_of(spec, "restartPolicy", RESTART_POLICIES, path, errors);
    one_of(spec, "dnsPolicy", DNS_POLICIES, path, errors);
    metadata::validate_labels(
        spec.get("nodeSelector").unwrap_or(&Value::Null),
        &path.child("nodeSelector"),
        errors,
    );
    for key in ["serviceAccountName", "nodeName", "priorityClassName"] {
        if let Some(name) = text(spec, key) {
            for fault in names::subdomain(name) {
                errors.invalid(&path.child(key), name, &fault);
            }
        }
    }
    for key in ["hostname", "subdomain"] {
        if let Some(name) = text(spec, key) {
            for fault in names::label(name) {
                errors.invalid(&path.child(key), name, &fault);
            }
        }
    }
    if present(spec, "activeDeadlineSeconds") {
        let seconds = number(spec, "activeDeadlineSeconds");
        if !(1..=i64::from(i32::MAX)).contains(&seconds) {
            errors.invalid(
                &path.child("activeDeadlineSeconds"),
                seconds,
                "must be between 1 and 2147483647, inclusive",
            );
        }
    }
}

fn validate_volumes<'a>(
    spec: &'a Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.index(index);
        let Some(name) = text(volume, "name") else {
            errors.required(&path.child("name"), "");
            continue;
        };
        for fault in names::label(name) {
            errors.invalid(&path.child("name"), name, &fault);
        }
        let before = errors.len();
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .filter(|key| *key != "name")
            .collect();
        for key in sources.iter().skip(1) {
            errors.forbidden(&path.child(key), "may not specify more than 1 volume type");
        }
        // A faulty volume is told of once, and not as a duplicate of another.
        if errors.len() == before && !known.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
    known
}

fn validate_container(
    container: &Value,
    volumes: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match text(container, "name") {
        None => errors.required(&path.child("name"), ""),
        Some(name) => {
            for fault in names::label(name) {
                errors.invalid(&path.child("name"), name, &fault);
            }
        }
    }
    if text(container, "image").is_none() {
        errors.required(&path.child("image"), "");
    }
    validate_resources(container, &path.child("resources"), errors);
    validate_ports(container, &path.child("ports"), errors);
    let env = path.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = env.index(index);
        match text(variable, "name") {
            None => errors.required(&path.child("name"), ""),
            Some(name) => {
                for fault in names::environment_name(name) {
                    errors.invalid(&path.child("name"), name, &fault);
                }
            }
        }
        if text(variable, "value").is_some() && present(variable, "valueFrom") {
            errors.invalid(
                &path.child("valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            );
        }
    }
    let mounts = path.child("volumeMounts");
    let mut paths = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = mounts.index(index);
        let name = text(mount, "name").unwrap_or_default();
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !volumes.contains(name) {
            errors.not_found(&path.child("name"), name);
        }
        match text(mount, "mountPath") {
            None => errors.required(&path.child("mountPath"), ""),
            Some(at) if !paths.insert(at) => {
                errors.invalid(&path.child("mountPath"), at, "must be unique")
            }
            Some(_) => {}
        }
    }
    one_of(container, "imagePullPolicy", PULL_POLICIES, path, errors);
    one_of(
        container,
        "terminationMessagePolicy",
        MESSAGE_POLICIES,
        path,
        errors,
    );
}

fn validate_ports(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = text(port, "name") {
            let faults = names::port_name(name);
            if faults.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            for fault in faults {
                errors.invalid(&path.child("name"), name, &fault);
            }
        }
        match number(port, "containerPort") {
            0 => errors.required(&path.child("containerPort"), ""),
            number => {
                if let Some(fault) = names::port_number(number) {
                    errors.invalid(&path.child("containerPort"), number, fault);
                }
            }
        }
        let host = number(port, "hostPort");
        if host != 0
            && let Some(fault) = names::port_number(host)
        {
            errors.invalid(&path.child("hostPort"), host, fault);
        }
        one_of(
            port,
            "protocol",
            crate::kinds::service::PROTOCOLS,
            &path,
            errors,
        );
    }
}

fn validate_resources(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (limits, requests) = (
        &container["resources"]["limits"],
        &container["resources"]["requests"],
    );
    for (resource, request) in requests.as_object().into_iter().flatten() {
        let (Some(wanted), Some(limit)) = (request.as_str(), limits[resource].as_str()) else {
            continue;
        };
        if quantity(wanted) > quantity(limit) {
            let text = format!("must be less than or equal to {resource} limit of {limit}");
            errors.invalid(&path.child("requests"), wanted, &text);
        }
    }
}

/// A canonical quantity as a number, good enough to compare two of them.
fn quantity(text: &str) -> Option<f64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        exponent => {
            return text
                .parse()
                .ok()
                .filter(|_| exponent.starts_with(['e', 'E']));
        }
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Reports a set value that isn't in `allowed`, and an unset one as missing.
pub(in crate::kinds) fn one_of(
    value: &Value,
    key: &str,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match text(value, key) {
        None => errors.required(&path.child(key), ""),
        Some(set) if !allowed.contains(&set) => {
            errors.not_supported(&path.child(key), set, allowed)
        }
        Some(_) => {}
    }
}

/// Whether a template keeps to `allowed` restart policies, as workloads demand.
pub(in crate::kinds) fn validate_restart_policy(
    template: &Value,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let policy = text(&template["spec"], "restartPolicy").unwrap_or_default();
    if !allowed.contains(&policy) {
        let spec = path.child("spec");
        errors.not_supported(&spec.child("restartPolicy"), policy, allowed);
    }
}

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
