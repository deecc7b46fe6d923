//! What is there when a cluster starts: namespaces, roles and bindings ([`table`]), and the
//! `kubernetes` Service.
//!
//! Written straight into the store, where it is missing: a fresh server is ready in milliseconds.
//! Unlike on a real server these objects carry no managedFields.

use crate::clock::{new_uid, rfc3339};
use crate::core::Core;
use crate::kinds::service::pool::first_ip;
use crate::kinds::{Lookup as _, strategy};
use crate::resource::table_name;
use crate::store::{Change, Draft, Key, Write};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

pub(crate) mod table;

pub(crate) use table::shared_rules;

/// Writes what is missing.
pub(crate) async fn install(core: &Core) {
    for name in NAMESPACES {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        put(core, "namespaces", object).await;
    }
    for row in table::rows() {
        put(core, row.resource, row.object.clone()).await;
    }
    if let Some(ip) = first_ip(&core.settings) {
        put(core, "services", service(ip)).await;
    }
    put(core, "endpointslices", slice(None)).await;
    put(core, "configmaps", token_tracking(core)).await;
}

/// Tells clients in the cluster where the server answers: the endpoint of the `kubernetes` Service.
/// A loopback address is told too, though a real server would not have one.
pub(crate) async fn advertise(core: &Core, addr: SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]),
        ip => ip,
    };
    let table = table_name(DISCOVERY, "endpointslices");
    let key = Key::new("default", "kubernetes");
    let Some(stored) = core.store.read(&table, &key) else {
        return;
    };
    let mut object = stored.value(b"{");
    let fresh = slice(Some(SocketAddr::new(ip, addr.port())));
    for part in ["addressType", "endpoints", "ports"] {
        object[part] = fresh[part].clone();
    }
    let change = Change::Put(Draft::new(&object, Vec::new()));
    let write = Write {
        table,
        key,
        expected: Some(stored.revision()),
        change,
    };
    // Another listener of the same server came first: either address is right.
    drop(core.store.commit(write).await);
}

async fn put(core: &Core, resource: &str, mut object: Value) {
    let group = match object["apiVersion"]
        .as_str()
        .and_then(|version| version.split_once('/'))
    {
        Some((group, _)) => group.to_owned(),
        None => String::new(),
    };
    let meta = &object["metadata"];
    let (name, namespace) = (text(meta, "name"), text(meta, "namespace"));
    if core.one(&group, resource, &namespace, &name).is_some() {
        return;
    }
    let strategy = strategy(&group, object["kind"].as_str().unwrap_or_default());
    let meta = &mut object["metadata"];
    meta["uid"] = new_uid(&*core.random).into();
    meta["creationTimestamp"] = rfc3339(core.now()).into();
    let fields = strategy
        .selectable_fields()
        .iter()
        .map(|field| {
            (
                (*field).into(),
                strategy.selectable_value(&object, field).into_boxed_str(),
            )
        })
        .collect();
    let write = Write {
        table: table_name(&group, resource),
        key: Key::new(&namespace, &name),
        expected: None,
        change: Change::Put(Draft::new(&object, fields)),
    };
    drop(core.store.commit(write).await);
}

fn service(ip: IpAddr) -> Value {
    let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443}],
            "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "type": "ClusterIP",
            "sessionAffinity": "None", "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    })
}

/// Since when the use of tokens in Secrets is tracked: a controller of the real manager asks for it.
fn token_tracking(core: &Core) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system",
        },
        "data": {"since": core.now().strftime("%Y-%m-%d").to_string()},
    })
}

/// Without an address while nothing listens.
fn slice(addr: Option<SocketAddr>) -> Value {
    let family = if addr.is_some_and(|addr| addr.is_ipv6()) {
        "IPv6"
    } else {
        "IPv4"
    };
    let endpoints: Vec<Value> = addr
        .iter()
        .map(|addr| json!({"addresses": [addr.ip().to_string()], "conditions": {"ready": true}}))
        .collect();
    let port = addr.map_or(6443, |addr| addr.port());
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "generation": 1,
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const DISCOVERY: &str = "discovery.k8s.io";
