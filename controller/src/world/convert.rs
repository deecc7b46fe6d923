//! Objects to the parts that decisions read.

use std::{net::IpAddr, sync::Arc};

use fairlead_api::{
    conditions::{kind, reason},
    export::ExportRecord,
    labels,
    member::MemberCluster,
    proxy::ProxyGroup,
    service::MultiClusterService,
};
use fairlead_config::endpoint::ObjectState;
use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Export, Heartbeat, Member, ObjectKey, ServiceKey, Slice, SliceEndpoint, SlicePort};

pub(super) fn object_key(metadata: &ObjectMeta) -> Option<ObjectKey> {
    let namespace = metadata.namespace.as_deref()?;
    let name = metadata.name.as_deref()?;
    Some((namespace.into(), name.into()))
}

/// The resourceVersion as a number: Kubernetes 1.35 and later promise that it is one.
/// An object's resourceVersion as a number; 0 where there is none.
pub(crate) fn version(metadata: &ObjectMeta) -> u64 {
    let text = metadata.resource_version.as_deref();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(crate) fn member(object: &MemberCluster) -> Member {
    let spec = &object.spec;
    let cidrs = spec.endpoint_cidrs.as_ref().map(|all| {
        all.iter()
            .map(|text| text.parse().map_err(|_| text.clone()))
            .collect()
    });
    Member {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        cidrs,
        allow_exports: spec.allow_exports.clone(),
        claims: spec.traffic_claims.clone(),
        heartbeat: heartbeat(object),
        leaving: object.is_revoked(),
        version: version(&object.metadata),
    }
}

fn heartbeat(object: &MemberCluster) -> Heartbeat {
    let conditions = object.status.as_ref().map(|status| &status.conditions[..]);
    let healthy = fairlead_api::conditions::find(conditions.unwrap_or_default(), kind::HEALTHY);
    match healthy.map(|condition| condition.reason.as_str()) {
        Some(reason::HEARTBEAT_LOST) => Heartbeat::Lost,
        Some(reason::MASS_LOSS) => Heartbeat::Suspended,
        _ => Heartbeat::Fresh,
    }
}

pub(super) fn export(object: ExportRecord) -> Export {
    Export {
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0),
        generation: object.metadata.generation,
        leaving: object.metadata.deletion_timestamp.is_some(),
        version: version(&object.metadata),
        status: object.status.unwrap_or_default(),
        spec: Arc::new(object.spec),
    }
}

/// The service that a mirror's labels name.
pub(super) fn service_of_slice(object: &EndpointSlice) -> Option<ServiceKey> {
    let all = object.metadata.labels.as_ref()?;
    let namespace = all.get(labels::SERVICE_NAMESPACE)?;
    let name = all.get(labels::SERVICE_NAME)?;
    Some(ServiceKey::new(namespace, name))
}

pub(super) fn slice(object: &EndpointSlice) -> Slice {
    let mut slice = Slice {
        version: version(&object.metadata),
        ..Slice::default()
    };
    for port in object.ports.iter().flatten() {
        let Some(Ok(number)) = port.port.map(u16::try_from) else {
            continue;
        };
        slice.ports.push(SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        });
    }
    for endpoint in object.endpoints.iter().flatten() {
        let Some(address) = endpoint.addresses.first() else {
            continue;
        };
        match address.parse::<IpAddr>() {
            Ok(ip) => slice.endpoints.push(SliceEndpoint {
                ip,
                state: state(endpoint),
                zone: endpoint.zone.as_deref().map(Arc::from),
                hostname: endpoint.hostname.as_deref().map(Arc::from),
                node: endpoint.node_name.as_deref().map(Arc::from),
                conditions: conditions(endpoint),
            }),
            Err(_) => slice.unreadable.push(address.clone()),
        }
    }
    slice
}

/// Absent conditions mean ready and serving; Kubernetes says so.
fn conditions(endpoint: &Endpoint) -> [bool; 3] {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|all| all.ready).unwrap_or(true);
    let serving = conditions.and_then(|all| all.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|all| all.terminating).unwrap_or(false);
    [ready, serving, terminating]
}

fn state(endpoint: &Endpoint) -> ObjectState {
    match conditions(endpoint) {
        [true, _, false] => ObjectState::Ready,
        [_, true, true] => ObjectState::Draining,
        _ => ObjectState::NotReady,
    }
}

pub(super) fn same_member(old: &Member, new: &Member) -> bool {
    let new = Member {
        version: old.version,
        ..new.clone()
    };
    *old == new
}

/// Conditions are what the hub itself writes; they decide nothing.
pub(super) fn same_export(old: &Export, new: &Export) -> bool {
    old.spec == new.spec
        && old.created == new.created
        && old.leaving == new.leaving
        && old.generation == new.generation
        && old.status.first_seen == new.status.first_seen
}

pub(super) fn same_slice(old: &Slice, new: &Slice) -> bool {
    old.ports == new.ports && old.endpoints == new.endpoints && old.unreadable == new.unreadable
}

/// Whether an endpoint that took connections does so no more.
pub(super) fn loses_endpoints(old: &Slice, new: &Slice) -> bool {
    let ready = |endpoint: &&SliceEndpoint| endpoint.state == ObjectState::Ready;
    let still: std::collections::BTreeSet<IpAddr> = new
        .endpoints
        .iter()
        .filter(ready)
        .map(|endpoint| endpoint.ip)
        .collect();
    old.ports != new.ports
        || old
            .endpoints
            .iter()
            .filter(ready)
            .any(|endpoint| !still.contains(&endpoint.ip))
}

/// Of a group's status only the allocated ports are read.
pub(super) fn same_group(old: &ProxyGroup, new: &ProxyGroup) -> bool {
    let ports = |group: &ProxyGroup| group.status.as_ref().map(|status| status.frontends.clone());
    old.spec == new.spec
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && ports(old).unwrap_or_default() == ports(new).unwrap_or_default()
}

pub(super) fn same_service(old: &MultiClusterService, new: &MultiClusterService) -> bool {
    old.spec == new.spec && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
}
