//! The imports on the hub: object and status.

use std::collections::BTreeMap;

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    mcs::{ClusterStatus, ServiceImport, ServiceImportSpec, ServiceImportStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    services::Import,
    world::{self, ServiceKey, World},
};

use super::Write;

/// The import of a service, on the hub.
pub fn import(
    world: &World,
    key: &ServiceKey,
    import: Option<&Import>,
    now: &Time,
) -> Option<Write> {
    let have = world.imports.get(key);
    let Some(import) = import else {
        return have.map(|have| Write::DeleteImport {
            key: key.clone(),
            version: world::version(&have.metadata),
        });
    };
    let object = import_object(key, import);
    match have {
        Some(have) if same_import(have, &object) => {
            let old = have.status.clone().unwrap_or_default();
            let status = import_status(import, &old, now);
            (status != old).then(|| Write::ImportStatus {
                key: key.clone(),
                version: world::version(&have.metadata),
                status,
            })
        }
        have => Some(Write::Import {
            key: key.clone(),
            version: have.map_or(0, |have| world::version(&have.metadata)),
            object: Box::new(object),
        }),
    }
}

/// The import as an object, without what differs from cluster to cluster (IPs).
pub fn import_object(key: &ServiceKey, import: &Import) -> ServiceImport {
    let ports = import
        .ports
        .iter()
        .map(|union| union.port.clone())
        .collect();
    let spec = ServiceImportSpec {
        ports,
        ip_families: import.ip_families.clone(),
        ..import.fields.clone()
    };
    let mut object = ServiceImport::new(&key.name, spec);
    object.metadata.namespace = Some(key.namespace.to_string());
    object.metadata.labels = (!import.labels.is_empty()).then(|| import.labels.clone());
    object.metadata.annotations =
        (!import.annotations.is_empty()).then(|| import.annotations.clone());
    object
}

/// Foreign labels and annotations may stand beside ours.
fn same_import(have: &ServiceImport, want: &ServiceImport) -> bool {
    let holds = |have: &Option<BTreeMap<String, String>>, want: &Option<BTreeMap<_, _>>| {
        let want = want.iter().flatten();
        let have = have.as_ref();
        want.into_iter()
            .all(|(key, value)| have.and_then(|have| have.get(key)) == Some(value))
    };
    have.spec == want.spec
        && holds(&have.metadata.labels, &want.metadata.labels)
        && holds(&have.metadata.annotations, &want.metadata.annotations)
}

fn import_status(import: &Import, old: &ServiceImportStatus, now: &Time) -> ServiceImportStatus {
    let clusters = import.members.keys().map(|member| ClusterStatus {
        cluster: member.to_string(),
    });
    let wanted = [Wanted::yes(kind::READY, reason::READY, "exported")];
    let conditions = conditions::set(&old.conditions, &wanted, None, now);
    ServiceImportStatus {
        clusters: clusters.collect(),
        conditions: conditions.unwrap_or_else(|| old.conditions.clone()),
        endpoint_slice_objects: Some("Absent".to_owned()),
    }
}
