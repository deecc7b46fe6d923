//! Columns of volumes and what provides them.

use serde_json::{Value, json};

use super::{AGE, CREATED_ONLY, Column, GENERIC, NAME, column, joined, list, or, text, wide};

pub(super) fn of(kind: &str) -> &'static [Column] {
    match kind {
        "CSIDriver" => DRIVER,
        "CSINode" => DRIVER_NODE,
        "CSIStorageCapacity" => CREATED_ONLY,
        "StorageClass" => CLASS,
        "VolumeAttachment" => ATTACHMENT,
        "VolumeAttributesClass" => ATTRIBUTES_CLASS,
        _ => GENERIC,
    }
}

pub(super) const VOLUME: &[Column] = &[
    NAME,
    column("Capacity", "string", |o, _| {
        o["spec"]["capacity"]["storage"].clone()
    }),
    column("Access Modes", "string", |o, _| {
        json!(access(&o["spec"]["accessModes"]))
    }),
    column("Reclaim Policy", "string", |o, _| {
        o["spec"]["persistentVolumeReclaimPolicy"].clone()
    }),
    column("Status", "string", |o, _| o["status"]["phase"].clone()),
    column("Claim", "string", |o, _| {
        let claim = &o["spec"]["claimRef"];
        let shown = [text(&claim["namespace"]), text(&claim["name"])].join("/");
        json!(if claim.is_object() {
            shown
        } else {
            String::new()
        })
    }),
    column("StorageClass", "string", |o, _| {
        json!(text(&o["spec"]["storageClassName"]))
    }),
    column("VolumeAttributesClass", "string", |o, _| {
        or(&o["spec"]["volumeAttributesClassName"], "<unset>")
    }),
    column("Reason", "string", |o, _| {
        json!(text(&o["status"]["reason"]))
    }),
    AGE,
    MODE,
];

pub(super) const CLAIM: &[Column] = &[
    NAME,
    column("Status", "string", |o, _| o["status"]["phase"].clone()),
    column("Volume", "string", |o, _| {
        json!(text(&o["spec"]["volumeName"]))
    }),
    column("Capacity", "string", |o, _| {
        json!(text(&o["status"]["capacity"]["storage"]))
    }),
    column("Access Modes", "string", |o, _| {
        json!(access(&o["status"]["accessModes"]))
    }),
    column("StorageClass", "string", |o, _| {
        json!(text(&o["spec"]["storageClassName"]))
    }),
    column("VolumeAttributesClass", "string", |o, _| {
        or(&o["spec"]["volumeAttributesClassName"], "<unset>")
    }),
    AGE,
    MODE,
];

const MODE: Column = wide(column("VolumeMode", "string", |o, _| {
    or(&o["spec"]["volumeMode"], "<unset>")
}));

const DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", "boolean", |o, _| {
        json!(o["spec"]["attachRequired"] != false)
    }),
    column("PodInfoOnMount", "boolean", |o, _| {
        json!(o["spec"]["podInfoOnMount"] == true)
    }),
    column("StorageCapacity", "boolean", |o, _| {
        json!(o["spec"]["storageCapacity"] == true)
    }),
    column("TokenRequests", "string", |o, _| {
        let audiences = list(&o["spec"]["tokenRequests"])
            .iter()
            .map(|r| text(&r["audience"]));
        let audiences: Vec<_> = audiences.collect();
        json!(if audiences.is_empty() {
            "<unset>".to_owned()
        } else {
            audiences.join(",")
        })
    }),
    column("RequiresRepublish", "boolean", |o, _| {
        json!(o["spec"]["requiresRepublish"] == true)
    }),
    column("Modes", "string", |o, _| {
        json!(joined(&o["spec"]["volumeLifecycleModes"], "<none>"))
    }),
    AGE,
];

const DRIVER_NODE: &[Column] = &[
    NAME,
    column("Drivers", "integer", |o, _| {
        json!(list(&o["spec"]["drivers"]).len())
    }),
    AGE,
];

const CLASS: &[Column] = &[
    NAME,
    column("Provisioner", "string", |o, _| o["provisioner"].clone()),
    column("ReclaimPolicy", "string", |o, _| {
        or(&o["reclaimPolicy"], "Delete")
    }),
    column("VolumeBindingMode", "string", |o, _| {
        or(&o["volumeBindingMode"], "Immediate")
    }),
    column("AllowVolumeExpansion", "string", |o, _| {
        json!(o["allowVolumeExpansion"] == true)
    }),
    AGE,
];

const ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        format: "name",
        ..column("Attacher", "string", |o, _| o["spec"]["attacher"].clone())
    },
    column("PV", "string", |o, _| {
        json!(text(&o["spec"]["source"]["persistentVolumeName"]))
    }),
    column("Node", "string", |o, _| o["spec"]["nodeName"].clone()),
    column("Attached", "boolean", |o, _| {
        json!(o["status"]["attached"] == true)
    }),
    AGE,
];

const ATTRIBUTES_CLASS: &[Column] = &[
    NAME,
    column("DriverName", "string", |o, _| o["driverName"].clone()),
    AGE,
];

fn access(modes: &Value) -> String {
    let short = list(modes).iter().map(|mode| match text(mode) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    short.collect::<Vec<_>>().join(",")
}
