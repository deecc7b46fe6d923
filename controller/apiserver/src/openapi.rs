//! OpenAPI v3 documents of what is served: `/openapi/v3` and one document for each group and version.
//!
//! Built-in schemas come from the reduced table, so they carry no descriptions; those of CRDs are published as they were
//! written, with the fields that every object has. The documents hold what clients act on: kinds, types, defaults, merge
//! keys, and which parameters a verb takes. Documents are made when asked for; a client keeps them by their hash.

mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::resource::Resource;

/// Where a group and version has its document: `api/v1`, `apis/apps/v1`.
type Place = (String, String);

/// The document at `/openapi/v3`: where every other one is.
pub(crate) fn index(served: &[Arc<Resource>]) -> Value {
    let mut hashes: BTreeMap<Place, Sha256> = BTreeMap::new();
    for resource in served {
        let place = (resource.group.clone(), resource.version.clone());
        let hash = hashes.entry(place).or_default();
        hash.update(resource.resource.as_bytes());
        hash.update(resource.kind.as_bytes());
        hash.update(env!("CARGO_PKG_VERSION").as_bytes());
        if let Some(custom) = &resource.custom {
            hash.update(custom.digest());
        }
    }
    let paths: Map<String, Value> = hashes
        .into_iter()
        .map(|((group, version), hash)| {
            let path = match group.as_str() {
                "" => format!("api/{version}"),
                group => format!("apis/{group}/{version}"),
            };
            let hash: String = hash
                .finalize()
                .iter()
                .take(16)
                .map(|byte| format!("{byte:02X}"))
                .collect();
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// The document of a group and version; `definition` finds a CRD by its name. None where nothing is served there.
pub(crate) fn document(
    group: &str,
    version: &str,
    served: &[Arc<Resource>],
    definition: &dyn Fn(&str) -> Option<Value>,
) -> Option<Value> {
    let here: Vec<_> = served
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if here.is_empty() {
        return None;
    }
    let mut schemas = schemas::Schemas::default();
    let mut paths = Map::new();
    for resource in here {
        schemas.add(resource, definition);
        paths::add(resource, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas.into_map()},
    }))
}

/// The group and version that a path under `/openapi/v3` names.
pub(crate) fn place(path: &str) -> Option<(&str, &str)> {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", version] => Some(("", version)),
        ["apis", group, version] => Some((group, version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
