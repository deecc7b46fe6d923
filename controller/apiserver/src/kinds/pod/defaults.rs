//! Defaults of a pod spec, in pods and in templates.

use crate::kinds::value::{default, existing, items, object, present, set, text};
use serde_json::{Value, json};

/// Fills in the pod spec of the template at `key`.
pub(in crate::kinds) fn apply_template(value: &mut Value, key: &str) {
    let Some(template) = object(value, key) else {
        return;
    };
    // The server always shows the template's metadata, with a null timestamp as Go prints it.
    if object(template, "metadata").is_some()
        && let Some(spec) = object(template, "spec")
    {
        apply(spec);
    }
}

pub(in crate::kinds) fn apply(spec: &mut Value) {
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(spec, key) {
            apply_container(container);
        }
    }
    for volume in items(spec, "volumes") {
        apply_volume(volume);
    }
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    // Old clients read `serviceAccount`: both names carry the same value.
    if let Some(name) = text(spec, "serviceAccountName").map(str::to_owned) {
        set(spec, "serviceAccount", name);
    } else if let Some(name) = text(spec, "serviceAccount").map(str::to_owned) {
        set(spec, "serviceAccountName", name);
    }
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
}

/// Defaults of pods alone, not of templates.
pub(in crate::kinds) fn apply_pod(spec: &mut Value) {
    if spec["hostNetwork"] == true {
        for container in items(spec, "containers") {
            for port in items(container, "ports") {
                let number = port["containerPort"].clone();
                default(port, "hostPort", number);
            }
        }
    }
    if spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 0)
    {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    default(spec, "enableServiceLinks", true);
}

fn apply_container(container: &mut Value) {
    for port in items(container, "ports") {
        default(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(source) = existing(variable, "valueFrom")
            && let Some(field) = existing(source, "fieldRef")
        {
            default(field, "apiVersion", "v1");
        }
    }
    default(container, "resources", json!({}));
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, key) {
            apply_probe(probe);
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for key in ["postStart", "preStop"] {
            if let Some(hook) = existing(lifecycle, key) {
                apply_http(hook);
            }
        }
    }
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, "image").unwrap_or_default());
    default(container, "imagePullPolicy", policy);
}

fn apply_probe(probe: &mut Value) {
    apply_http(probe);
    if let Some(grpc) = existing(probe, "grpc")
        && !present(grpc, "service")
    {
        set(grpc, "service", "");
    }
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[key] == 0 {
            set(probe, key, value);
        }
        default(probe, key, value);
    }
}

fn apply_http(handler: &mut Value) {
    if let Some(get) = existing(handler, "httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

fn apply_volume(volume: &mut Value) {
    if volume
        .as_object()
        .is_some_and(|map| map.len() == 1 && map.contains_key("name"))
    {
        set(volume, "emptyDir", json!({}));
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        let Some(source) = existing(volume, key) else {
            continue;
        };
        default(source, "defaultMode", 420);
        apply_fields(source);
        for part in items(source, "sources") {
            if let Some(token) = existing(part, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = existing(part, "downwardAPI") {
                apply_fields(downward);
            }
        }
    }
    if let Some(path) = existing(volume, "hostPath")
        && !present(path, "type")
    {
        set(path, "type", "");
    }
}

fn apply_fields(source: &mut Value) {
    for item in items(source, "items") {
        if let Some(field) = existing(item, "fieldRef") {
            default(field, "apiVersion", "v1");
        }
    }
}

/// `Always` for what moves (no tag, or `latest`), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest" | "")) => "Always",
        Some(_) => "IfNotPresent",
    }
}
