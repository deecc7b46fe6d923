//! What the hub should be told of a service, and what its ServiceExport should say.
//!
//! [`plan`] looks at one service and returns every write that is missing: the ExportRecord and the
//! slice mirrors on the hub, the ServiceExport that an annotation asks for, the Service that an
//! annotated workload lacks, and the conditions of the ServiceExport. Planned again on its own result
//! it returns nothing. Cost: O(slices of the service + workloads).

use fairlead_api::{
    conditions::{self, Wanted, kind, reason},
    export::{ExportRecord, ExportRecordSpec},
    labels,
    mcs::{
        ServiceImportType, ServicePort,
        v1beta1::{ServiceExport, ServiceExportSpec},
    },
};
use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time},
};

use super::{
    annotations::{self, BadAnnotation},
    local::{Key, Local},
    workloads::{self, Workload},
};

/// One write. Each may be made twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// In the hub namespace.
    PutRecord(Box<ExportRecord>),
    /// In the hub namespace, by name.
    DeleteRecord(String),
    /// In the hub namespace.
    PutMirror(Box<EndpointSlice>),
    /// In the hub namespace, by name.
    DeleteMirror(String),
    /// In the member: an export asked for by annotation.
    PutExport(Box<ServiceExport>),
    /// In the member: an export no longer asked for by annotation.
    DeleteExport(Key),
    /// In the member: the Service of an annotated workload.
    PutService(Box<Service>),
    /// In the member: the conditions of a ServiceExport.
    Status(Key, Vec<Condition>),
}

/// The member, as far as exports go.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The moment of planning, for conditions.
    pub now: Time,
}

/// Every write that is missing for a service.
pub fn plan(local: &Local, member: &Member, key: &Key) -> Vec<Write> {
    let mut writes = Vec::new();
    plan_workload_service(local, key, &mut writes);
    let service = local.services.get(key);
    let mut faults = plan_annotated_export(local, key, service, &mut writes);
    let export = local
        .exports
        .get(key)
        .filter(|export| export.metadata.deletion_timestamp.is_none());
    let verdict = export.map(|_| judge(key, service));
    match (export, &verdict, service) {
        (Some(export), Some(Ok(())), Some(service)) => {
            let weight = weight(
                local,
                (export, service),
                local.records.get(key),
                &mut faults,
            );
            plan_record(local, member, (key, export, service), weight, &mut writes);
            plan_mirrors(local, member, key, &mut writes);
        }
        _ => withdraw(local, key, &mut writes),
    }
    if let (Some(export), Some(verdict)) = (export, verdict) {
        let wanted = conditions_of(local.records.get(key), verdict, &faults);
        let old = export
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice());
        let generation = export.metadata.generation;
        let new = conditions::set(old.unwrap_or_default(), &wanted, generation, &member.now);
        writes.extend(new.map(|new| Write::Status(key.clone(), new)));
    }
    writes
}

/// Whether the service can be exported; else the condition that says why not and what to do.
fn judge(key: &Key, service: Option<&Service>) -> Result<(), Wanted> {
    let no = |reason: &'static str, message: String| Err(Wanted::no(kind::VALID, reason, message));
    if labels::is_reserved_namespace(&key.0) {
        let message = format!(
            "namespace {} belongs to a control plane; export from another",
            key.0
        );
        return no(reason::RESERVED_NAMESPACE, message);
    }
    let Some(service) = service else {
        let message = format!(
            "Service {}/{} does not exist; create it, or delete this export",
            key.0, key.1
        );
        return no(reason::NO_SERVICE, message);
    };
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        let message = "a Service of type ExternalName has no endpoints to export; \
                       export one of type ClusterIP, NodePort or LoadBalancer";
        return no(reason::INVALID_SERVICE_TYPE, message.to_owned());
    }
    Ok(())
}

/// The Service that an annotated workload of this name lacks.
fn plan_workload_service(local: &Local, key: &Key, writes: &mut Vec<Write>) {
    let workloads = local
        .workloads
        .values()
        .filter(|workload| workload.key == *key);
    for workload in workloads {
        let asked = annotations::export(&workload.annotations) == Ok(Some(true));
        let selected = || {
            local
                .services
                .values()
                .any(|service| workload.is_selected_by(service))
        };
        if asked && !local.services.contains_key(key) && !selected() {
            writes.extend(
                workload
                    .own_service()
                    .map(|service| Write::PutService(Box::new(service))),
            );
        }
    }
}

/// The ServiceExport that annotations ask for; the annotations that cannot be read.
fn plan_annotated_export(
    local: &Local,
    key: &Key,
    service: Option<&Service>,
    writes: &mut Vec<Write>,
) -> Vec<BadAnnotation> {
    let mut faults = Vec::new();
    let mut asked = None;
    if let Some(service) = service {
        let own = service.metadata.annotations.clone().unwrap_or_default();
        let workloads = workloads::selecting(local, service).map(|workload| &workload.annotations);
        for annotations in std::iter::once(&own).chain(workloads) {
            match annotations::export(annotations) {
                Ok(answer) => asked = asked.max(answer),
                Err(fault) => faults.push(fault),
            }
        }
    }
    let export = local.exports.get(key);
    let ours = export.is_some_and(is_annotated);
    match (asked, export) {
        (Some(true), None) => {
            writes.extend(
                service.map(|service| Write::PutExport(Box::new(annotated_export(service)))),
            );
        }
        // One that cannot be read keeps the earlier state.
        (None | Some(false), Some(_)) if ours && faults.is_empty() => {
            writes.push(Write::DeleteExport(key.clone()));
        }
        _ => {}
    }
    faults
}

fn annotated_export(service: &Service) -> ServiceExport {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut export = ServiceExport::new(&name, ServiceExportSpec::default());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name,
        uid: service.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    export.metadata.namespace = service.metadata.namespace.clone();
    export.metadata.labels = Some([(ANNOTATED.to_owned(), "true".to_owned())].into());
    export.metadata.owner_references = Some(vec![owner]);
    export
}

fn is_annotated(export: &ServiceExport) -> bool {
    export
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(ANNOTATED))
}

/// The weight that the export states: its own annotation, else the Service's, else a workload's. One
/// that cannot be read keeps the weight that the hub has.
fn weight(
    local: &Local,
    (export, service): (&ServiceExport, &Service),
    record: Option<&ExportRecord>,
    faults: &mut Vec<BadAnnotation>,
) -> Option<i32> {
    let of_meta = |meta: &ObjectMeta| meta.annotations.clone().unwrap_or_default();
    let workloads: Vec<&Workload> = workloads::selecting(local, service).collect();
    let sources = [of_meta(&export.metadata), of_meta(&service.metadata)]
        .into_iter()
        .chain(
            workloads
                .iter()
                .map(|workload| workload.annotations.clone()),
        );
    for annotations in sources {
        match annotations::weight(&annotations) {
            Ok(None) => {}
            Ok(found) => return found,
            Err(fault) => {
                faults.push(fault);
                return record.and_then(|record| record.spec.weight);
            }
        }
    }
    None
}

fn plan_record(
    local: &Local,
    member: &Member,
    (key, export, service): (&Key, &ServiceExport, &Service),
    weight: Option<i32>,
    writes: &mut Vec<Write>,
) {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.iter().flatten().map(|port| ServicePort {
        name: port.name.clone(),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
        port: port.port,
    });
    let wanted = ExportRecordSpec {
        service_namespace: key.0.clone(),
        service_name: key.1.clone(),
        kind: if headless {
            ServiceImportType::Headless
        } else {
            ServiceImportType::ClusterSetIP
        },
        ports: ports.collect(),
        ip_families: spec.ip_families.clone().unwrap_or_default(),
        session_affinity: spec.session_affinity.clone(),
        session_affinity_config: spec.session_affinity_config.clone(),
        internal_traffic_policy: spec.internal_traffic_policy.clone(),
        traffic_distribution: spec.traffic_distribution.clone(),
        exported_labels: export.spec.exported_labels.clone(),
        exported_annotations: export.spec.exported_annotations.clone(),
        exported_at: export.metadata.creation_timestamp.clone(),
        weight,
        observed_generation: export.metadata.generation,
    };
    if local
        .records
        .get(key)
        .is_some_and(|record| record.spec == wanted)
    {
        return;
    }
    let mut record = ExportRecord::new(&labels::export_record_name(&key.0, &key.1), wanted);
    record.metadata.namespace = Some(labels::member_namespace(&member.name));
    record.metadata.labels = Some(origin_labels(key, member));
    writes.push(Write::PutRecord(Box::new(record)));
}

fn plan_mirrors(local: &Local, member: &Member, key: &Key, writes: &mut Vec<Write>) {
    let mirrors = local.mirrors.get(key);
    let mut wanted = Vec::new();
    for slice in local
        .slices
        .get(key)
        .into_iter()
        .flat_map(|slices| slices.values())
    {
        if slice.address_type == "FQDN" {
            continue;
        }
        let mirror = mirror(slice, key, member);
        let name = mirror.metadata.name.clone().unwrap_or_default();
        let old = mirrors.and_then(|mirrors| mirrors.get(&name));
        wanted.push(name);
        if old.is_none_or(|old| !same_slice(old, &mirror)) {
            writes.push(Write::PutMirror(Box::new(mirror)));
        }
    }
    let stale = mirrors.into_iter().flat_map(|mirrors| mirrors.keys());
    let stale = stale.filter(|name| !wanted.contains(*name));
    writes.extend(stale.map(|name| Write::DeleteMirror(name.clone())));
}

/// The hub's copy of a slice: conditions, zones and hostnames kept, the member's own references to
/// pods and nodes left out, and without `kubernetes.io/service-name`, so that nothing else on the hub
/// picks it up.
fn mirror(slice: &EndpointSlice, key: &Key, member: &Member) -> EndpointSlice {
    let source = slice.metadata.name.as_deref().unwrap_or_default();
    let mut labels = origin_labels(key, member);
    labels.insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    let changed = slice
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(CHANGE_TIME));
    let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
        let mut endpoint = endpoint.clone();
        endpoint.target_ref = None;
        endpoint.node_name = None;
        endpoint
    });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(labels::slice_mirror_name(&key.0, &key.1, source)),
            namespace: Some(labels::member_namespace(&member.name)),
            labels: Some(labels),
            annotations: changed
                .map(|changed| [(labels::CHANGED_AT.to_owned(), changed.clone())].into()),
            ..ObjectMeta::default()
        },
        address_type: slice.address_type.clone(),
        endpoints: Some(endpoints.collect()),
        ports: slice.ports.clone(),
    }
}

/// Equal as far as the hub reads them. An annotation of time alone is no change.
fn same_slice(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let endpoints = |slice: &EndpointSlice| slice.endpoints.clone().unwrap_or_default();
    let ports = |slice: &EndpointSlice| slice.ports.clone().unwrap_or_default();
    old.address_type == new.address_type
        && endpoints(old) == endpoints(new)
        && ports(old) == ports(new)
        && old.metadata.labels == new.metadata.labels
}

/// Takes everything of a service back from the hub.
fn withdraw(local: &Local, key: &Key, writes: &mut Vec<Write>) {
    let record = local
        .records
        .get(key)
        .and_then(|record| record.metadata.name.clone());
    writes.extend(record.map(Write::DeleteRecord));
    let mirrors = local
        .mirrors
        .get(key)
        .into_iter()
        .flat_map(|mirrors| mirrors.keys());
    writes.extend(mirrors.map(|name| Write::DeleteMirror(name.clone())));
}

/// What the ServiceExport should say: the hub's words where the hub has spoken.
fn conditions_of(
    record: Option<&ExportRecord>,
    verdict: Result<(), Wanted>,
    faults: &[BadAnnotation],
) -> Vec<Wanted> {
    if let Err(invalid) = verdict {
        let pending = Wanted::no(
            kind::READY,
            reason::PENDING,
            "waits until the export is valid",
        );
        return vec![invalid, pending];
    }
    let heard = record.and_then(|record| record.status.as_ref());
    let mut wanted: Vec<Wanted> = [kind::VALID, kind::READY, kind::CONFLICT]
        .into_iter()
        .filter_map(|kind| {
            let said = conditions::find(&heard?.conditions, kind)?;
            let status = match said.status.as_str() {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            };
            let (reason, message) = (said.reason.clone(), said.message.clone());
            Some(Wanted {
                kind,
                status,
                reason,
                message,
            })
        })
        .collect();
    if wanted.is_empty() {
        let message = "told the hub; waiting for its answer";
        wanted.push(Wanted::unknown(kind::READY, reason::PENDING, message));
    }
    if !faults.is_empty() {
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let message = format!("{}; the earlier state stays", texts.join("; "));
        wanted.retain(|wanted| wanted.kind != kind::VALID);
        wanted.push(Wanted::no(kind::VALID, reason::INVALID_ANNOTATION, message));
    }
    wanted
}

fn origin_labels(key: &Key, member: &Member) -> std::collections::BTreeMap<String, String> {
    [
        (labels::SERVICE_NAMESPACE, &key.0),
        (labels::SERVICE_NAME, &key.1),
        (labels::SOURCE_CLUSTER, &member.name),
    ]
    .map(|(label, value)| (label.to_owned(), value.clone()))
    .into()
}

/// On a ServiceExport that an annotation asked for.
pub const ANNOTATED: &str = "fairlead.dev/annotated";
/// When Kubernetes saw the change that led to a slice.
const CHANGE_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[cfg(test)]
mod tests;
