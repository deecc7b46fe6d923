//! Which Services an annotated workload exports.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    annotations::Annotations,
    local::{Key, Local},
};

/// A Deployment, StatefulSet or DaemonSet as far as exports go.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// `Deployment`, `StatefulSet` or `DaemonSet`.
    pub kind: String,
    /// Its namespace and name.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// Of the workload itself, not of its pods.
    pub annotations: Annotations,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Name, protocol and number of each container port.
    pub ports: Vec<(String, String, i32)>,
}

impl Workload {
    /// Reads one from its parts.
    pub fn read(kind: &str, meta: &ObjectMeta, template: &PodTemplateSpec) -> Self {
        let pod = template.metadata.as_ref();
        let containers = template.spec.iter().flat_map(|spec| &spec.containers);
        let ports = containers
            .flat_map(|container| container.ports.iter().flatten())
            .map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let name = port.name.clone().unwrap_or_else(|| {
                    format!("{}-{}", protocol.to_lowercase(), port.container_port)
                });
                (name, protocol, port.container_port)
            })
            .collect();
        Self {
            kind: kind.to_owned(),
            key: super::local::key(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            labels: pod.and_then(|pod| pod.labels.clone()).unwrap_or_default(),
            ports,
        }
    }

    /// Whether `service` sends traffic to this workload's pods.
    pub fn is_selected_by(&self, service: &Service) -> bool {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        service.metadata.namespace.as_deref() == Some(self.key.0.as_str())
            && selector.is_some_and(|selector| {
                !selector.is_empty()
                    && selector
                        .iter()
                        .all(|(key, value)| self.labels.get(key) == Some(value))
            })
    }

    /// The Service made for it where none selects it; `None` without container ports.
    pub fn own_service(&self) -> Option<Service> {
        if self.ports.is_empty() {
            return None;
        }
        let ports = self.ports.iter().map(|(name, protocol, port)| ServicePort {
            name: Some(name.clone()),
            protocol: Some(protocol.clone()),
            port: *port,
            ..ServicePort::default()
        });
        let owner = OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: self.kind.clone(),
            name: self.key.1.clone(),
            uid: self.uid.clone(),
            ..OwnerReference::default()
        };
        Some(Service {
            metadata: ObjectMeta {
                namespace: Some(self.key.0.clone()),
                name: Some(self.key.1.clone()),
                labels: Some([(MADE_FOR.to_owned(), self.kind.to_lowercase())].into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                selector: Some(self.labels.clone()),
                ports: Some(ports.collect()),
                ..ServiceSpec::default()
            }),
            status: None,
        })
    }
}

/// The annotated workloads that `service` sends traffic to.
pub(super) fn selecting<'l>(
    local: &'l Local,
    service: &'l Service,
) -> impl Iterator<Item = &'l Workload> {
    local
        .workloads
        .values()
        .filter(|workload| workload.is_selected_by(service))
}

/// On a Service made for a workload: the workload's kind.
pub const MADE_FOR: &str = "fairlead.dev/made-for";
