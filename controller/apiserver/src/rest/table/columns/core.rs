//! Columns of the core kinds, slices and leases.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, column, len, list, or, pairs, shortened, text, wide};

pub(super) const NAMESPACE: &[Column] = &[
    NAME,
    column("Status", "string", |o, _| o["status"]["phase"].clone()),
    AGE,
];

pub(super) const CONFIG_MAP: &[Column] = &[
    NAME,
    column("Data", "string", |o, _| {
        json!(len(&o["data"]) + len(&o["binaryData"]))
    }),
    AGE,
];

pub(super) const SECRET: &[Column] = &[
    NAME,
    column("Type", "string", |o, _| o["type"].clone()),
    column("Data", "string", |o, _| json!(len(&o["data"]))),
    AGE,
];

pub(super) const SERVICE: &[Column] = &[
    NAME,
    column("Type", "string", |o, _| o["spec"]["type"].clone()),
    column("Cluster-IP", "string", |o, _| {
        or(&o["spec"]["clusterIP"], "<none>")
    }),
    column("External-IP", "string", |o, _| json!(external_ip(o))),
    column("Port(s)", "string", |o, _| json!(service_ports(o))),
    AGE,
    wide(column("Selector", "string", |o, _| {
        json!(pairs(&o["spec"]["selector"]))
    })),
];

pub(super) const NODE: &[Column] = &[
    NAME,
    column("Status", "string", |o, _| json!(node_status(o))),
    column("Roles", "string", |o, _| json!(node_roles(o))),
    AGE,
    column("Version", "string", |o, _| {
        o["status"]["nodeInfo"]["kubeletVersion"].clone()
    }),
    wide(column("Internal-IP", "string", |o, _| {
        json!(node_address(o, "InternalIP"))
    })),
    wide(column("External-IP", "string", |o, _| {
        json!(node_address(o, "ExternalIP"))
    })),
    wide(column("OS-Image", "string", |o, _| {
        or(&o["status"]["nodeInfo"]["osImage"], "<unknown>")
    })),
    wide(column("Kernel-Version", "string", |o, _| {
        or(&o["status"]["nodeInfo"]["kernelVersion"], "<unknown>")
    })),
    wide(column("Container-Runtime", "string", |o, _| {
        or(
            &o["status"]["nodeInfo"]["containerRuntimeVersion"],
            "<unknown>",
        )
    })),
];

pub(super) const ENDPOINTS: &[Column] = &[
    NAME,
    column("Endpoints", "string", |o, _| {
        let subsets = list(&o["subsets"]);
        let addresses = subsets.iter().flat_map(|subset| {
            let ports: Vec<_> = list(&subset["ports"])
                .iter()
                .filter_map(|port| port["port"].as_i64())
                .collect();
            list(&subset["addresses"]).iter().flat_map(move |address| {
                let ip = text(&address["ip"]).to_owned();
                ports
                    .clone()
                    .into_iter()
                    .map(move |port| format!("{ip}:{port}"))
            })
        });
        json!(shortened(addresses.collect(), "<none>"))
    }),
    AGE,
];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "string", |o, _| o["addressType"].clone()),
    column("Ports", "string", |o, _| {
        let ports = list(&o["ports"]).iter().map(|port| {
            port["port"]
                .as_i64()
                .map_or_else(|| "*".to_owned(), |port| port.to_string())
        });
        json!(shortened(ports.collect(), "<unset>"))
    }),
    column("Endpoints", "string", |o, _| {
        let addresses = list(&o["endpoints"])
            .iter()
            .flat_map(|endpoint| list(&endpoint["addresses"]))
            .map(|address| text(address).to_owned());
        json!(shortened(addresses.collect(), "<unset>"))
    }),
    AGE,
];

pub(super) const LEASE: &[Column] = &[
    NAME,
    column("Holder", "string", |o, _| {
        or(&o["spec"]["holderIdentity"], "")
    }),
    AGE,
];

pub(super) const EVENT: &[Column] = &[
    column("Last Seen", "string", |o, now| {
        let seen = [
            &o["series"]["lastObservedTime"],
            &o["lastTimestamp"],
            &o["eventTime"],
        ];
        let seen = seen
            .into_iter()
            .find(|time| time.is_string())
            .unwrap_or(&Value::Null);
        json!(age(seen, now))
    }),
    column("Type", "string", |o, _| o["type"].clone()),
    column("Reason", "string", |o, _| o["reason"].clone()),
    column("Object", "string", |o, _| {
        let about = if o["regarding"].is_object() {
            &o["regarding"]
        } else {
            &o["involvedObject"]
        };
        json!(format!(
            "{}/{}",
            text(&about["kind"]).to_lowercase(),
            text(&about["name"])
        ))
    }),
    wide(column("Subobject", "string", |o, _| {
        let about = if o["regarding"].is_object() {
            &o["regarding"]
        } else {
            &o["involvedObject"]
        };
        json!(text(&about["fieldPath"]))
    })),
    wide(column("Source", "string", |o, _| {
        let source = if o["regarding"].is_object() {
            "deprecatedSource"
        } else {
            "source"
        };
        let mut parts = [&o[source]["component"], &o[source]["host"]].map(text);
        if parts[0].is_empty() {
            let reporting = ["reportingComponent", "reportingController"].map(|key| text(&o[key]));
            parts = [
                reporting
                    .into_iter()
                    .find(|text| !text.is_empty())
                    .unwrap_or_default(),
                { text(&o["reportingInstance"]) },
            ];
        }
        json!(
            parts
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(", ")
        )
    })),
    column("Message", "string", |o, _| {
        json!([text(&o["message"]), text(&o["note"])].concat().trim())
    }),
    wide(column("First Seen", "string", |o, now| {
        let seen = [&o["firstTimestamp"], &o["eventTime"]];
        let seen = seen
            .into_iter()
            .find(|time| time.is_string())
            .unwrap_or(&Value::Null);
        json!(age(seen, now))
    })),
    wide(column("Count", "string", |o, _| {
        let count = o["series"]["count"]
            .as_i64()
            .or_else(|| o["count"].as_i64());
        json!(count.unwrap_or(1).max(1))
    })),
    wide(NAME),
];

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses: Vec<_> = list(&spec["externalIPs"]).iter().map(text).collect();
    if spec["type"] == "LoadBalancer" {
        let ingress = list(&service["status"]["loadBalancer"]["ingress"]);
        addresses.splice(
            0..0,
            ingress.iter().map(|i| {
                let ip = text(&i["ip"]);
                if ip.is_empty() {
                    text(&i["hostname"])
                } else {
                    ip
                }
            }),
        );
        if addresses.is_empty() {
            return "<pending>".to_owned();
        }
    }
    if spec["type"] == "ExternalName" {
        return text(&spec["externalName"]).to_owned();
    }
    if addresses.is_empty() {
        "<none>".to_owned()
    } else {
        addresses.join(",")
    }
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<_> = list(&service["spec"]["ports"])
        .iter()
        .map(|port| {
            let number = port["port"].as_i64().unwrap_or_default();
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_i64() {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    }
}

fn node_status(node: &Value) -> String {
    let ready = list(&node["status"]["conditions"])
        .iter()
        .find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|condition| text(&condition["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let roles: Vec<_> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = list(&node["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == kind);
    found
        .map_or("<none>", |address| text(&address["address"]))
        .to_owned()
}
