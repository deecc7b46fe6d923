//! ServiceAccounts, Nodes and Events: kinds with little of their own.

use super::field::{FieldErrors, Path};
use super::value::{default, list, object, replace, set, text};
use super::{Ctx, Generation, Strategy};
use crate::error::{ApiError, Cause};
use serde_json::{Value, json};

pub(super) struct ServiceAccount;
pub(super) struct Node;
pub(super) struct Event;

impl Strategy for ServiceAccount {}

impl Strategy for Node {
    fn defaults(&self, node: &mut Value) {
        let Some(status) = object(node, "status") else {
            return;
        };
        if let Some(capacity) = status.get("capacity").cloned() {
            default(status, "allocatable", capacity);
        }
        default(
            status,
            "daemonEndpoints",
            json!({"kubeletEndpoint": {"Port": 0}}),
        );
        if let Some(info) = object(status, "nodeInfo") {
            for key in NODE_INFO {
                if !info[*key].is_string() {
                    set(info, key, "");
                }
            }
        }
    }

    fn prepare_create(&self, node: &mut Value, _: &Ctx<'_>) -> Result<(), ApiError> {
        let Some(spec) = object(node, "spec") else {
            return Ok(());
        };
        if let Some(range) = text(spec, "podCIDR").map(str::to_owned) {
            default(spec, "podCIDRs", vec![range]);
        }
        // Nothing is scheduled to a node before its conditions are known.
        let key = "node.kubernetes.io/not-ready";
        let mut taints = list(spec, "taints").to_vec();
        if !taints.iter().any(|taint| taint["key"] == key) {
            taints.push(json!({"key": key, "effect": "NoSchedule"}));
            set(spec, "taints", taints);
        }
        Ok(())
    }

    fn status_on_create(&self) -> bool {
        true
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        // The real server keeps a node's status in plain updates too, unlike in creates.
        if ctx.subresource.is_empty() {
            replace(new, "status", old.get("status"));
        }
        Ok(())
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        let path = Path::root("spec");
        let (before, after) = (
            text(&old["spec"], "providerID"),
            text(&new["spec"], "providerID"),
        );
        if before.is_some() && before != after {
            let text = "field cannot be modified once set";
            errors.invalid(&path.child("providerID"), Value::Null, text);
        }
        errors.into_causes()
    }

    fn has_status(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn selectable_value(&self, node: &Value, _: &str) -> String {
        (node["spec"]["unschedulable"] == true).to_string()
    }
}

impl Strategy for Event {
    fn prepare_create(&self, event: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        let times: &[&str] = if ctx.resource.group.is_empty() {
            &["firstTimestamp", "lastTimestamp", "eventTime"]
        } else {
            &[
                "deprecatedFirstTimestamp",
                "deprecatedLastTimestamp",
                "eventTime",
            ]
        };
        if let Some(map) = event.as_object_mut() {
            for key in times {
                map.entry(*key).or_insert(Value::Null);
            }
        }
        Ok(())
    }

    fn validate_create(&self, event: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        // Version v1 of the core group is lenient; what it insists on is the namespace.
        let mut errors = FieldErrors::default();
        let (object, key) = if ctx.resource.group.is_empty() {
            (&event["involvedObject"], "involvedObject")
        } else {
            (&event["regarding"], "regarding")
        };
        let path = Path::root(key);
        let path = path.child("namespace");
        let wanted = text(object, "namespace").unwrap_or_default();
        let own = event["metadata"]["namespace"].as_str().unwrap_or_default();
        if wanted.is_empty() && own != "default" && own != "kube-system"
            || !wanted.is_empty() && wanted != own
        {
            errors.invalid(&path, wanted, "does not match event.namespace");
        }
        errors.into_causes()
    }

    fn generation(&self) -> Generation {
        Generation::None
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn selectable_value(&self, event: &Value, field: &str) -> String {
        let read = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        match field {
            "source" => read("/source/component")
                .or_else(|| read("/reportingComponent"))
                .unwrap_or_default()
                .into(),
            _ => {
                let pointer = format!("/{}", field.replace('.', "/"));
                let other = pointer.replace("involvedObject", "regarding");
                read(&pointer)
                    .or_else(|| read(&other))
                    .unwrap_or_default()
                    .into()
            }
        }
    }
}

/// What a kubelet tells of its node: the API shows each, empty until then.
const NODE_INFO: &[&str] = &[
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];
