//! Pods and pod templates. The spec's checks are those a client meets often; what no fleet test
//! touches (volume sources' own fields, probes' handlers, scheduling terms) is taken as it comes.

use super::field::{FieldErrors, Path};
use super::value::{items, list, number, object, present, remove, replace, set, text};
use super::{Ctx, Generation, Strategy, metadata};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};

pub(super) mod defaults;
pub(super) mod spec;

pub(super) struct Pod;
pub(super) struct PodTemplate;

impl Strategy for Pod {
    fn defaults(&self, pod: &mut Value) {
        let Some(spec) = object(pod, "spec") else {
            return;
        };
        defaults::apply(spec);
        defaults::apply_pod(spec);
        for key in ["containers", "initContainers"] {
            for container in items(spec, key) {
                requests_from_limits(container);
            }
        }
        if let Some(status) = object(pod, "status") {
            super::value::default(status, "phase", "Pending");
        }
    }

    fn prepare_create(&self, pod: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        admit_account(pod, ctx)?;
        let name = pod["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let Some(spec) = object(pod, "spec") else {
            return Ok(());
        };
        tolerate_node_faults(spec);
        let wanted = number(spec, "priority");
        if wanted != 0 && text(spec, "priorityClassName").is_none() {
            let why = format!(
                "the integer value of priority ({wanted}) must not be provided in pod spec; priority \
                 admission controller computed 0 from the given PriorityClass name"
            );
            return Err(ApiError::forbidden("", "pods", &name, &why));
        }
        super::value::default(spec, "priority", 0);
        super::value::default(spec, "preemptionPolicy", "PreemptLowerPriority");
        let class = quality(spec);
        set(
            pod,
            "status",
            json!({"phase": "Pending", "qosClass": class}),
        );
        Ok(())
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        if ctx.subresource.is_empty() {
            replace(new, "status", old.get("status"));
            if let Some(spec) = object(new, "spec") {
                tolerate_node_faults(spec);
            }
        } else if let Some(class) = old["status"].get("qosClass")
            && let Some(status) = object(new, "status")
        {
            set(status, "qosClass", class.clone());
        }
        Ok(())
    }

    fn validate_create(&self, pod: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        spec::validate_pod(&pod["spec"], &Path::root("spec"), &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        if ctx.subresource.is_empty() {
            spec::validate(&new["spec"], &Path::root("spec"), &mut errors);
            if !metadata::semantically_equal(&frozen(&new["spec"]), &frozen(&old["spec"])) {
                errors.forbidden(&Path::root("spec"), FROZEN);
            }
        }
        errors.into_causes()
    }

    fn has_status(&self) -> bool {
        true
    }

    fn generation(&self) -> Generation {
        Generation::Desired
    }

    fn default_grace_seconds(&self, pod: &Value) -> i64 {
        // A pod that no node runs yet, or that has ended, goes at once.
        let phase = text(&pod["status"], "phase").unwrap_or_default();
        if text(&pod["spec"], "nodeName").is_none() || matches!(phase, "Succeeded" | "Failed") {
            return 0;
        }
        if present(&pod["spec"], "terminationGracePeriodSeconds") {
            number(&pod["spec"], "terminationGracePeriodSeconds").max(1)
        } else {
            30
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn selectable_value(&self, pod: &Value, field: &str) -> String {
        match field {
            "spec.hostNetwork" => (pod["spec"]["hostNetwork"] == true).to_string(),
            "status.podIPs" => String::new(),
            _ => {
                let pointer = format!("/{}", field.replace('.', "/"));
                pod.pointer(&pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            }
        }
    }
}

impl Strategy for PodTemplate {
    fn defaults(&self, object: &mut Value) {
        defaults::apply_template(object, "template");
    }

    fn generation(&self) -> Generation {
        Generation::Anything
    }
}

/// Sets the account and mounts its token, as the ServiceAccount admission plugin does.
fn admit_account(pod: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
    let pod_name = pod["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let Some(spec) = object(pod, "spec") else {
        return Ok(());
    };
    let named = text(spec, "serviceAccountName").or_else(|| text(spec, "serviceAccount"));
    let name = named.unwrap_or("default").to_owned();
    set(spec, "serviceAccountName", name.as_str());
    set(spec, "serviceAccount", name.as_str());
    let Some(account) = ctx.lookup.one("", "serviceaccounts", ctx.namespace, &name) else {
        let why = format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            ctx.namespace
        );
        return Err(ApiError::forbidden("", "pods", &pod_name, &why));
    };
    let own = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool);
    let wanted = own
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if wanted {
        mount_token(spec, ctx);
    }
    Ok(())
}

fn mount_token(spec: &mut Value, ctx: &Ctx<'_>) {
    let mounted = |container: &Value| {
        list(container, "volumeMounts")
            .iter()
            .any(|mount| mount["mountPath"] == TOKEN_PATH)
    };
    let needed = ["containers", "initContainers"]
        .iter()
        .any(|key| list(spec, key).iter().any(|container| !mounted(container)));
    if !needed {
        return;
    }
    let name = format!("kube-api-access-{}", crate::clock::name_suffix(ctx.random));
    for key in ["containers", "initContainers"] {
        for container in items(spec, key) {
            if mounted(container) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
            push(container, "volumeMounts", mount);
        }
    }
    let volume = json!({"name": name, "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ], "defaultMode": 420}});
    push(spec, "volumes", volume);
}

/// A pod stays five minutes on a node that is gone, as the DefaultTolerationSeconds plugin has it.
fn tolerate_node_faults(spec: &mut Value) {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let known = list(spec, "tolerations").iter().any(|toleration| {
            let own = text(toleration, "key").unwrap_or_default();
            let effect = text(toleration, "effect").unwrap_or_default();
            (own == key || own.is_empty()) && matches!(effect, "NoExecute" | "")
        });
        if !known {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(spec, "tolerations", toleration);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else {
        return;
    };
    let Some(requests) = container
        .get_mut("resources")
        .and_then(|resources| object(resources, "requests"))
    else {
        return;
    };
    for (resource, limit) in limits {
        super::value::default(requests, &resource, limit);
    }
}

/// The quality-of-service class: all limits equal to requests, none at all, or in between.
fn quality(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in list(spec, "containers")
        .iter()
        .chain(list(spec, "initContainers"))
    {
        let (limits, requests) = (
            &container["resources"]["limits"],
            &container["resources"]["requests"],
        );
        for resource in ["cpu", "memory"] {
            let (limit, request) = (limits.get(resource), requests.get(resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The spec without what an update may change.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for key in ["containers", "initContainers"] {
        for container in items(&mut spec, key) {
            remove(container, "image");
        }
    }
    for key in [
        "activeDeadlineSeconds",
        "tolerations",
        "terminationGracePeriodSeconds",
        "schedulingGates",
    ] {
        remove(&mut spec, key);
    }
    spec
}

fn push(value: &mut Value, key: &str, item: Value) {
    match value.get_mut(key) {
        Some(Value::Array(items)) => items.push(item),
        _ => set(value, key, vec![item]),
    }
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const FROZEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
