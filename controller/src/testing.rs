//! Builders of hub objects for tests.

use std::collections::BTreeMap;

use fairlead_api::{
    export::{ExportRecord, ExportRecordSpec},
    labels,
    mcs::ServicePort,
    member::{MemberCluster, MemberClusterSpec},
    proxy::{PortRange, ProxyGroup, ProxyGroupSpec},
    service::{FrontendSpec, MultiClusterService, MultiClusterServiceSpec, ServiceImportReference},
};
use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

/// A moment, in seconds after the first one.
pub(crate) fn time(second: i64) -> Time {
    Time(Timestamp::from_second(1_700_000_000 + second).expect("a small number of seconds"))
}

/// A member.
pub(crate) fn member(name: &str) -> MemberCluster {
    MemberCluster::new(name, MemberClusterSpec::default())
}

/// A port.
pub(crate) fn port(name: &str, protocol: &str, number: i32) -> ServicePort {
    ServicePort {
        name: (!name.is_empty()).then(|| name.to_owned()),
        protocol: Some(protocol.to_owned()),
        app_protocol: None,
        port: number,
    }
}

/// An export of `shop/<service>`, made at `age`.
pub(crate) fn export(
    member: &str,
    service: &str,
    age: i64,
    ports: Vec<ServicePort>,
) -> ExportRecord {
    let name = labels::export_record_name("shop", service);
    let mut record = ExportRecord::new(
        &name,
        ExportRecordSpec {
            service_namespace: "shop".into(),
            service_name: service.into(),
            ports,
            ip_families: vec!["IPv4".into()],
            exported_at: Some(time(age)),
            ..Default::default()
        },
    );
    record.metadata.namespace = Some(labels::member_namespace(member));
    record.metadata.creation_timestamp = Some(time(age + 1));
    record
}

/// A mirrored slice of `shop/<service>` whose endpoints are all ready.
pub(crate) fn slice(
    member: &str,
    service: &str,
    name: &str,
    ports: &[ServicePort],
    ips: &[&str],
) -> EndpointSlice {
    let ready = |ip: &&str| Endpoint {
        addresses: vec![(*ip).to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    };
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name().to_owned()),
        protocol: Some(port.protocol().to_owned()),
        port: Some(port.port + 8000),
        app_protocol: None,
    });
    EndpointSlice {
        address_type: "IPv4".into(),
        endpoints: Some(ips.iter().map(ready).collect()),
        ports: Some(ports.collect()),
        metadata: ObjectMeta {
            name: Some(labels::slice_mirror_name("shop", service, name)),
            namespace: Some(labels::member_namespace(member)),
            labels: Some(BTreeMap::from([
                (labels::SERVICE_NAMESPACE.to_owned(), "shop".to_owned()),
                (labels::SERVICE_NAME.to_owned(), service.to_owned()),
                (labels::SOURCE_CLUSTER.to_owned(), member.to_owned()),
                (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
            ])),
            ..Default::default()
        },
    }
}

/// A standalone proxy group.
pub(crate) fn group(name: &str) -> ProxyGroup {
    ProxyGroup::new(
        name,
        ProxyGroupSpec {
            addresses: vec!["192.0.2.1".into()],
            port_range: PortRange {
                first: 30_000,
                last: 30_099,
            },
            ..Default::default()
        },
    )
}

/// A policy of `shop/<service>` that asks `group` for a frontend per port.
pub(crate) fn service(name: &str, service: &str, group: &str) -> MultiClusterService {
    let mut object = MultiClusterService::new(
        name,
        MultiClusterServiceSpec {
            service_import: ServiceImportReference {
                name: service.into(),
            },
            frontends: vec![FrontendSpec {
                proxy_group: group.into(),
                ..Default::default()
            }],
            ..Default::default()
        },
    );
    object.metadata.namespace = Some("shop".into());
    object
}
