//! Columns of networking kinds.

use serde_json::{Value, json};

use super::{AGE, Column, GENERIC, NAME, column, list, or, selector, shortened, text};

pub(super) fn of(kind: &str) -> &'static [Column] {
    match kind {
        "Ingress" => INGRESS,
        "IngressClass" => INGRESS_CLASS,
        "IPAddress" => IP_ADDRESS,
        "NetworkPolicy" => NETWORK_POLICY,
        "ServiceCIDR" => SERVICE_CIDR,
        _ => GENERIC,
    }
}

const INGRESS: &[Column] = &[
    NAME,
    column("Class", "string", |o, _| {
        or(&o["spec"]["ingressClassName"], "<none>")
    }),
    column("Hosts", "string", |o, _| {
        let hosts: Vec<_> = list(&o["spec"]["rules"])
            .iter()
            .map(|rule| text(&rule["host"]).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        json!(shortened(hosts, "*"))
    }),
    column("Address", "string", |o, _| {
        json!(addresses(&o["status"]["loadBalancer"]["ingress"]))
    }),
    column("Ports", "string", |o, _| {
        json!(if list(&o["spec"]["tls"]).is_empty() {
            "80"
        } else {
            "80, 443"
        })
    }),
    AGE,
];

const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", "string", |o, _| {
        o["spec"]["controller"].clone()
    }),
    column("Parameters", "string", |o, _| {
        let parameters = &o["spec"]["parameters"];
        if !parameters.is_object() {
            return json!("<none>");
        }
        let group = text(&parameters["apiGroup"]);
        let kind = text(&parameters["kind"]);
        let dot = if group.is_empty() { "" } else { "." };
        json!(format!("{kind}{dot}{group}/{}", text(&parameters["name"])))
    }),
    AGE,
];

const IP_ADDRESS: &[Column] = &[
    NAME,
    column("ParentRef", "string", |o, _| {
        let parent = &o["spec"]["parentRef"];
        let parts = ["group", "resource", "namespace", "name"].map(|key| text(&parent[key]));
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        json!(parts.join("/"))
    }),
];

const NETWORK_POLICY: &[Column] = &[
    NAME,
    column("Pod-Selector", "string", |o, _| {
        json!(selector(&o["spec"]["podSelector"]))
    }),
    AGE,
];

const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", "string", |o, _| {
        json!(super::joined(&o["spec"]["cidrs"], ""))
    }),
    AGE,
];

fn addresses(ingress: &Value) -> String {
    let addresses = list(ingress).iter().map(|entry| {
        let ip = text(&entry["ip"]);
        if ip.is_empty() {
            text(&entry["hostname"])
        } else {
            ip
        }
    });
    addresses.collect::<Vec<_>>().join(",")
}
