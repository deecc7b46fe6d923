//! The About API (KEP-2149): what a cluster says of itself.

/// v1beta1, stored; v1alpha1 is served with the same schema and has no types of its own.
pub mod v1beta1 {
    use kube::{CustomResource, KubeSchema};
    use serde::{Deserialize, Serialize};

    /// One fact about the cluster it lives in.
    #[derive(
        CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq,
    )]
    #[kube(
        group = "about.k8s.io",
        version = "v1beta1",
        kind = "ClusterProperty",
        plural = "clusterproperties",
        derive = "PartialEq",
        derive = "Default",
        annotation(
            "api-approved.kubernetes.io",
            "https://github.com/kubernetes/enhancements/pull/3084"
        ),
        doc = "One fact about the cluster it lives in.",
        printcolumn(name = "Value", type_ = "string", json_path = ".spec.value"),
        printcolumn(
            name = "Age",
            type_ = "date",
            json_path = ".metadata.creationTimestamp"
        )
    )]
    pub struct ClusterPropertySpec {
        /// The fact.
        #[schemars(length(min = 1, max = 128000))]
        pub value: String,
    }
}

pub use v1beta1::{ClusterProperty, ClusterPropertySpec};
