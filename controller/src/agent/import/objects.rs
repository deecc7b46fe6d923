//! The ServiceImport and the derived Service of an import.

use std::collections::BTreeMap;

use fairlead_api::{
    labels,
    mcs::{
        ClusterStatus, ServiceImportType, ServicePort,
        v1beta1::{ServiceImport, ServiceImportSpec},
    },
};
use fairlead_config::xds::proto::fairlead::{Import, ImportPort, ImportType, SessionAffinity};
use k8s_openapi::{
    api::core::v1::{
        ClientIPConfig, Service, ServicePort as CorePort, ServiceSpec, SessionAffinityConfig,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{MANAGED_BY, derived_name, uid};

/// The ServiceImport; its IPs are those of the derived Service, once there is one.
pub fn import(
    told: &Import,
    service: Option<&Service>,
    have: Option<&ServiceImport>,
) -> ServiceImport {
    let spec = service.and_then(|service| service.spec.as_ref());
    let ips = spec.and_then(|spec| spec.cluster_ips.clone());
    let ips: Vec<String> = ips.unwrap_or_default();
    let ips: Vec<String> = ips.into_iter().filter(|ip| ip != "None").collect();
    // In the order of the IPs, where there are some.
    let families = spec.and_then(|spec| spec.ip_families.clone());
    let families = families.filter(|_| !ips.is_empty());
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let ports = told.ports.iter().map(|port| ServicePort {
        name: text(&port.name),
        protocol: text(&port.protocol),
        app_protocol: text(&port.app_protocol),
        port: i32::try_from(port.port).unwrap_or_default(),
    });
    let spec = ServiceImportSpec {
        ports: ports.collect(),
        ips,
        kind: match told.r#type() {
            ImportType::ClusterSetIp => ServiceImportType::ClusterSetIP,
            ImportType::Headless => ServiceImportType::Headless,
        },
        ip_families: families.unwrap_or_else(|| told.ip_families.iter().take(2).cloned().collect()),
        session_affinity: Some(affinity(told).to_owned()),
        session_affinity_config: affinity_config(told),
        internal_traffic_policy: text(&told.internal_traffic_policy),
        traffic_distribution: text(&told.traffic_distribution),
    };
    let mut import = ServiceImport::new(&told.name, spec);
    let mut all = told.labels.clone();
    all.insert(MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    import.metadata = ObjectMeta {
        name: Some(told.name.clone()),
        namespace: Some(told.namespace.clone()),
        uid: have.and_then(|have| have.metadata.uid.clone()),
        labels: Some(all),
        annotations: (!told.annotations.is_empty()).then(|| told.annotations.clone()),
        ..ObjectMeta::default()
    };
    let content = fingerprint(&import);
    annotate(&mut import.metadata, content);
    import
}

/// The derived Service: no selector, so that its slices are ours to write.
pub fn service(told: &Import, import: &ServiceImport, have: Option<&Service>) -> Service {
    let key = (told.namespace.clone(), told.name.clone());
    let headless = told.r#type() == ImportType::Headless;
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let ports = told.ports.iter().map(|port| CorePort {
        name: Some(port_name(told, port)).filter(|name| !name.is_empty()),
        protocol: text(&port.protocol),
        app_protocol: text(&port.app_protocol),
        port: i32::try_from(port.port).unwrap_or_default(),
        ..CorePort::default()
    });
    let (policy, families) = families(told, have);
    let mut service = Service {
        metadata: ObjectMeta {
            name: Some(derived_name(&key)),
            namespace: Some(key.0.clone()),
            uid: have.and_then(|have| have.metadata.uid.clone()),
            labels: Some(derived_labels(told)),
            owner_references: Some(vec![owner(import)]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: headless.then(|| "None".to_owned()),
            ports: Some(ports.collect()),
            session_affinity: Some(affinity(told).to_owned()),
            session_affinity_config: affinity_config(told),
            internal_traffic_policy: text(&told.internal_traffic_policy),
            traffic_distribution: text(&told.traffic_distribution),
            ip_family_policy: policy,
            ip_families: families,
            ..ServiceSpec::default()
        }),
        status: None,
    };
    let content = fingerprint(&service);
    annotate(&mut service.metadata, content);
    service
}

/// Whether the derived Service can be changed into what is wanted now. A Service keeps its first
/// family, and either has an address or has none, for life.
pub fn can_become(have: &Service, told: &Import) -> bool {
    let Some(spec) = &have.spec else {
        return true;
    };
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let primary = spec.ip_families.as_ref().and_then(|all| all.first());
    let families = &told.ip_families;
    headless == (told.r#type() == ImportType::Headless)
        && primary.is_none_or(|primary| families.is_empty() || families.contains(primary))
}

/// The name of a port in the derived Service, where each of several needs one.
pub fn port_name(told: &Import, port: &ImportPort) -> String {
    if !port.name.is_empty() || told.ports.len() == 1 {
        return port.name.clone();
    }
    format!("{}-{}", port.protocol.to_lowercase(), port.port)
}

/// The exporting members.
pub fn clusters(told: &Import) -> Vec<ClusterStatus> {
    let members = told.members.iter().map(|member| ClusterStatus {
        cluster: member.clone(),
    });
    members.collect()
}

/// Who owns the derived objects: the ServiceImport.
pub fn owner(import: &ServiceImport) -> OwnerReference {
    OwnerReference {
        api_version: "multicluster.x-k8s.io/v1beta1".to_owned(),
        kind: "ServiceImport".to_owned(),
        name: import.metadata.name.clone().unwrap_or_default(),
        uid: uid(&import.metadata),
        ..OwnerReference::default()
    }
}

/// Labels of the derived Service and its slices.
pub fn derived_labels(told: &Import) -> BTreeMap<String, String> {
    [
        (MANAGED_BY, labels::MANAGER),
        (labels::SERVICE_NAME, &told.name),
    ]
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .into()
}

/// Whether everything that is wanted is there. What others added is left alone; what we no longer
/// want shows by [`CONTENT`].
pub fn covers<T: Serialize>(have: &T, wanted: &T) -> bool {
    match (serde_json::to_value(have), serde_json::to_value(wanted)) {
        (Ok(have), Ok(wanted)) => contains(&have, &wanted),
        _ => false,
    }
}

fn contains(have: &Value, wanted: &Value) -> bool {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| have.get(key).is_some_and(|have| contains(have, wanted))),
        (Value::Array(have), Value::Array(wanted)) => {
            have.len() == wanted.len()
                && have
                    .iter()
                    .zip(wanted)
                    .all(|(have, wanted)| contains(have, wanted))
        }
        _ => have == wanted,
    }
}

/// What is asked for, as a short hash: an apply that no longer names a field differs in it.
pub(super) fn fingerprint(object: &impl Serialize) -> String {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(meta) = value["metadata"].as_object_mut() {
        meta.remove("uid");
    }
    let digest = Sha256::digest(value.to_string());
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(super) fn annotate(meta: &mut ObjectMeta, content: String) {
    let all = meta.annotations.get_or_insert_default();
    all.insert(CONTENT.to_owned(), content);
}

/// Families at first: the preferred one, and a second if the cluster has it. Later: as they are,
/// one more or one less.
fn families(told: &Import, have: Option<&Service>) -> (Option<String>, Option<Vec<String>>) {
    let wanted = &told.ip_families;
    let policy = match wanted.len() {
        0 => return (None, None),
        1 => "SingleStack",
        _ => "PreferDualStack",
    };
    let spec = have.and_then(|have| have.spec.as_ref());
    let there = spec.and_then(|spec| spec.ip_families.clone());
    let families = match there.filter(|there| !there.is_empty()) {
        Some(mut there) => {
            there.truncate(wanted.len());
            there
        }
        None => vec![wanted[0].clone()],
    };
    (Some(policy.to_owned()), Some(families))
}

fn affinity(told: &Import) -> &'static str {
    match told.session_affinity() {
        SessionAffinity::None => "None",
        SessionAffinity::ClientIp => "ClientIP",
    }
}

fn affinity_config(told: &Import) -> Option<SessionAffinityConfig> {
    let seconds = told.session_affinity_timeout_seconds?;
    (told.session_affinity() == SessionAffinity::ClientIp).then(|| SessionAffinityConfig {
        client_ip: Some(ClientIPConfig {
            timeout_seconds: i32::try_from(seconds).ok(),
        }),
    })
}

/// On what the agent writes: a hash of what was asked for.
pub const CONTENT: &str = "fairlead.dev/content";
