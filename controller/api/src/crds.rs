//! All CRDs, as they are applied.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSON,
};
use kube::CustomResourceExt;

use crate::{about, export, mcs, member, proxy, service};

/// Every CRD that Fairlead uses, by name.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = hub_crds();
    all.extend(member_crds());
    all
}

/// The CRDs that only the hub needs.
pub fn hub_crds() -> Vec<CustomResourceDefinition> {
    vec![
        export::ExportRecord::crd(),
        member::MemberCluster::crd(),
        member::MemberReport::crd(),
        service::MultiClusterService::crd(),
        proxy::ProxyGroup::crd(),
    ]
}

/// The CRDs of the standards, which hub and members need. A cluster may have newer ones of its own.
pub fn member_crds() -> Vec<CustomResourceDefinition> {
    vec![
        also_alpha(about::v1beta1::ClusterProperty::crd()),
        also_alpha(with_optional_spec(mcs::v1beta1::ServiceExport::crd())),
        also_alpha(mcs::v1beta1::ServiceImport::crd()),
    ]
}

/// Serves v1alpha1 too, with the schema of the version that is stored.
fn also_alpha(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let served = crd
        .spec
        .versions
        .iter()
        .map(|stored| CustomResourceDefinitionVersion {
            name: "v1alpha1".into(),
            storage: false,
            ..stored.clone()
        });
    let served: Vec<_> = served.collect();
    crd.spec.versions.extend(served);
    crd
}

/// Most exports have nothing to say beyond their name, and the MCS API lets them leave the spec out;
/// it is defaulted to an empty one, so that whoever reads it finds one.
fn with_optional_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schemas = crd.spec.versions.iter_mut();
    let schemas =
        schemas.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    for schema in schemas {
        if let Some(required) = &mut schema.required {
            required.retain(|field| field != "spec");
        }
        if let Some(spec) = schema
            .properties
            .as_mut()
            .and_then(|all| all.get_mut("spec"))
        {
            spec.default = Some(JSON(serde_json::json!({})));
        }
    }
    crd
}

#[cfg(test)]
mod tests;
