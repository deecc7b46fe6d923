//! Which writes put an edit of somebody else right.

use fairlead_api::labels::AGENT_MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Serialize;

use super::{Key, Observed, Write, objects::CONTENT};
use crate::edits;

/// What is told of the edit that a write puts right; `None` where it brings something new.
pub fn undone(observed: &Observed, key: &Key, write: &Write) -> Option<String> {
    match write {
        Write::PutImport(wanted) => note("ServiceImport", observed.imports.get(key)?, wanted),
        Write::PutService(wanted) => note("Service", observed.service(key)?, wanted),
        Write::PutSlice(wanted) => {
            let name = &wanted.metadata.name;
            let have = observed
                .slices(key)
                .find(|have| have.metadata.name == *name);
            note("EndpointSlice", have?, wanted)
        }
        _ => None,
    }
}

/// Who wants the same as when it was written last did not come to want it: somebody has changed it.
fn note<T>(kind: &str, have: &T, wanted: &T) -> Option<String>
where
    T: Resource<DynamicType = ()> + Serialize,
{
    let asked = |meta: &ObjectMeta| meta.annotations.as_ref()?.get(CONTENT).cloned();
    if asked(have.meta()) != asked(wanted.meta()) || have.meta().uid != wanted.meta().uid {
        return None;
    }
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let (space, object) = (name(&have.meta().namespace), name(&have.meta().name));
    let what = format!("{kind} {space}/{object}");
    edits::note(&what, (have, wanted), have.meta(), AGENT_MANAGER)
}
