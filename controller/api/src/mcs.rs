//! The MCS API (KEP-1645): ServiceExport and ServiceImport.
//!
//! v1beta1 is stored, v1alpha1 served with the same schema, so no conversion is needed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether an import has a virtual IP.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum ServiceImportType {
    #[default]
    #[allow(missing_docs, reason = "the API's own words")]
    ClusterSetIP,
    #[allow(missing_docs, reason = "the API's own words")]
    Headless,
}

/// A port of an import or of an export.
#[derive(
    KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Unique in the service; may be empty when it is the only port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// TCP (the default), UDP or SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub protocol: Option<String>,
    /// The application's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub app_protocol: Option<String>,
    /// The service's port.
    #[schemars(schema_with = "crate::schema::port")]
    pub port: i32,
}

/// A cluster that exports the service.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: String,
}

/// v1beta1, stored; v1alpha1 is served with the same schema and has no types of its own.
pub mod v1beta1 {
    use k8s_openapi::api::core::v1::SessionAffinityConfig;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use kube::{CustomResource, KubeSchema};
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;

    use super::{ClusterStatus, ServiceImportType, ServicePort};

    /// Exports the Service of the same name and namespace to the clusterset.
    #[derive(
        CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq,
    )]
    #[kube(
        group = "multicluster.x-k8s.io",
        version = "v1beta1",
        kind = "ServiceExport",
        namespaced,
        status = "ServiceExportStatus",
        shortname = "svcex",
        shortname = "svcexport",
        derive = "PartialEq",
        derive = "Default",
        label("multicluster.x-k8s.io/release-version", "v0.5.0"),
        annotation(
            "api-approved.kubernetes.io",
            "https://github.com/kubernetes/enhancements/tree/master/keps/sig-multicluster/1645-multi-cluster-services-api"
        ),
        doc = "Exports the Service of the same name and namespace to the clusterset.",
        printcolumn(
            name = "Valid",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Valid\")].status"
        ),
        printcolumn(
            name = "Ready",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Ready\")].status"
        ),
        printcolumn(
            name = "Conflict",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Conflict\")].status"
        ),
        printcolumn(
            name = "Age",
            type_ = "date",
            json_path = ".metadata.creationTimestamp"
        )
    )]
    #[serde(rename_all = "camelCase")]
    pub struct ServiceExportSpec {
        /// Labels for the import.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        pub exported_labels: BTreeMap<String, String>,
        /// Annotations for the import.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        pub exported_annotations: BTreeMap<String, String>,
    }

    /// What became of an export.
    #[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
    #[serde(rename_all = "camelCase")]
    pub struct ServiceExportStatus {
        /// Valid, Ready, Conflict.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(schema_with = "crate::schema::conditions")]
        pub conditions: Vec<Condition>,
    }

    /// A service of the clusterset, as seen from the cluster the object lives in.
    #[derive(
        CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq,
    )]
    #[kube(
        group = "multicluster.x-k8s.io",
        version = "v1beta1",
        kind = "ServiceImport",
        namespaced,
        status = "ServiceImportStatus",
        shortname = "svcim",
        shortname = "svcimport",
        derive = "PartialEq",
        derive = "Default",
        label("multicluster.x-k8s.io/release-version", "v0.5.0"),
        annotation(
            "api-approved.kubernetes.io",
            "https://github.com/kubernetes/enhancements/tree/master/keps/sig-multicluster/1645-multi-cluster-services-api"
        ),
        doc = "A service of the clusterset.",
        printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
        printcolumn(name = "IP", type_ = "string", json_path = ".spec.ips"),
        printcolumn(
            name = "Clusters",
            type_ = "string",
            json_path = ".status.clusters[*].cluster"
        ),
        printcolumn(
            name = "Ready",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Ready\")].status"
        ),
        printcolumn(
            name = "Age",
            type_ = "date",
            json_path = ".metadata.creationTimestamp"
        )
    )]
    #[serde(rename_all = "camelCase")]
    pub struct ServiceImportSpec {
        /// The ports; their union over all exports.
        #[x_kube(merge_strategy = ListMerge::Atomic)]
        pub ports: Vec<ServicePort>,
        /// The clusterset IPs in this cluster.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 2))]
        pub ips: Vec<String>,
        /// ClusterSetIP, or Headless.
        #[serde(rename = "type")]
        pub kind: ServiceImportType,
        /// The families, in the order of the IPs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 2))]
        pub ip_families: Vec<String>,
        /// `None` or `ClientIP`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub session_affinity: Option<String>,
        /// And its settings.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub session_affinity_config: Option<SessionAffinityConfig>,
        /// `Cluster` or `Local`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub internal_traffic_policy: Option<String>,
        /// As in core Services.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub traffic_distribution: Option<String>,
    }

    /// Who exports it, and whether it is served.
    #[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
    #[serde(rename_all = "camelCase")]
    pub struct ServiceImportStatus {
        /// The exporting clusters.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[x_kube(merge_strategy = ListMerge::Map(vec!["cluster".into()]))]
        pub clusters: Vec<ClusterStatus>,
        /// Ready.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(schema_with = "crate::schema::conditions")]
        pub conditions: Vec<Condition>,
        /// `Present` or `Absent`: whether EndpointSlices of it can be read in this cluster.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub endpoint_slice_objects: Option<String>,
    }
}

pub use v1beta1::{
    ServiceExport, ServiceExportSpec, ServiceExportStatus, ServiceImport, ServiceImportSpec,
    ServiceImportStatus,
};

impl ServicePort {
    /// Its protocol, TCP where none is given.
    pub fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or("TCP")
    }

    /// Its name, empty where none is given.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// What it is called in `namespace/name:port`: its name, else its number.
    pub fn label(&self) -> String {
        match self.name() {
            "" => self.port.to_string(),
            name => name.to_owned(),
        }
    }
}
