//! The built-in kinds of Kubernetes 1.37 that this server has, as one table.

use super::{Resource, Subresource, Verbs, table_name};

/// A row: flags are `n` for namespaced, `s` for a status and `x` for a scale subresource.
pub(super) struct Row {
    group: &'static str,
    version: &'static str,
    pub(super) resource: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    flags: &'static str,
    verbs: Verbs,
}

const fn row(
    group_version: (&'static str, &'static str),
    resource: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    flags: &'static str,
) -> Row {
    let (group, version) = group_version;
    Row {
        group,
        version,
        resource,
        kind,
        short_names,
        categories: &[],
        flags,
        verbs: Verbs::All,
    }
}

impl Row {
    const fn in_all(mut self) -> Self {
        self.categories = &["all"];
        self
    }

    const fn in_category(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    const fn only(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }
}

const CORE: (&str, &str) = ("", "v1");
const ADMISSION: (&str, &str) = ("admissionregistration.k8s.io", "v1");
const EXTENSIONS: (&str, &str) = ("apiextensions.k8s.io", "v1");
const REGISTRATION: (&str, &str) = ("apiregistration.k8s.io", "v1");
const APPS: (&str, &str) = ("apps", "v1");
const AUTHENTICATION: (&str, &str) = ("authentication.k8s.io", "v1");
const AUTHORIZATION: (&str, &str) = ("authorization.k8s.io", "v1");
const AUTOSCALING: (&str, &str) = ("autoscaling", "v2");
const BATCH: (&str, &str) = ("batch", "v1");
const CERTIFICATES: (&str, &str) = ("certificates.k8s.io", "v1");
const COORDINATION: (&str, &str) = ("coordination.k8s.io", "v1");
const DISCOVERY: (&str, &str) = ("discovery.k8s.io", "v1");
const EVENTS: (&str, &str) = ("events.k8s.io", "v1");
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");
const NODE: (&str, &str) = ("node.k8s.io", "v1");
const POLICY: (&str, &str) = ("policy", "v1");
const RBAC: (&str, &str) = ("rbac.authorization.k8s.io", "v1");
const RESOURCE: (&str, &str) = ("resource.k8s.io", "v1");
const FLOW: (&str, &str) = ("flowcontrol.apiserver.k8s.io", "v1");
const MIGRATION: (&str, &str) = ("storagemigration.k8s.io", "v1");
const SCHEDULING: (&str, &str) = ("scheduling.k8s.io", "v1");
const STORAGE: (&str, &str) = ("storage.k8s.io", "v1");

pub(super) const ROWS: &[Row] = &[
    row(CORE, "bindings", "Binding", &[], "n").only(Verbs::Create),
    row(CORE, "configmaps", "ConfigMap", &["cm"], "n"),
    row(CORE, "endpoints", "Endpoints", &["ep"], "n"),
    row(CORE, "events", "Event", &["ev"], "n"),
    row(CORE, "limitranges", "LimitRange", &["limits"], "n"),
    row(CORE, "namespaces", "Namespace", &["ns"], "s").only(Verbs::NoCollection),
    row(CORE, "nodes", "Node", &["no"], "s"),
    row(
        CORE,
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        &["pvc"],
        "ns",
    ),
    row(CORE, "persistentvolumes", "PersistentVolume", &["pv"], "s"),
    row(CORE, "pods", "Pod", &["po"], "ns").in_all(),
    row(CORE, "podtemplates", "PodTemplate", &[], "n"),
    row(
        CORE,
        "replicationcontrollers",
        "ReplicationController",
        &["rc"],
        "nsx",
    )
    .in_all(),
    row(CORE, "resourcequotas", "ResourceQuota", &["quota"], "ns"),
    row(CORE, "secrets", "Secret", &[], "n"),
    row(CORE, "serviceaccounts", "ServiceAccount", &["sa"], "n"),
    row(CORE, "services", "Service", &["svc"], "ns").in_all(),
    row(REGISTRATION, "apiservices", "APIService", &[], "s").in_category(&["api-extensions"]),
    row(APPS, "controllerrevisions", "ControllerRevision", &[], "n"),
    row(APPS, "daemonsets", "DaemonSet", &["ds"], "ns").in_all(),
    row(APPS, "deployments", "Deployment", &["deploy"], "nsx").in_all(),
    row(APPS, "replicasets", "ReplicaSet", &["rs"], "nsx").in_all(),
    row(APPS, "statefulsets", "StatefulSet", &["sts"], "nsx").in_all(),
    row(EVENTS, "events", "Event", &["ev"], "n"),
    row(
        AUTHENTICATION,
        "selfsubjectreviews",
        "SelfSubjectReview",
        &[],
        "",
    )
    .only(Verbs::Create),
    row(AUTHENTICATION, "tokenreviews", "TokenReview", &[], "").only(Verbs::Create),
    row(
        AUTHORIZATION,
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        &[],
        "n",
    )
    .only(Verbs::Create),
    row(
        AUTHORIZATION,
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        &[],
        "",
    )
    .only(Verbs::Create),
    row(
        AUTHORIZATION,
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        &[],
        "",
    )
    .only(Verbs::Create),
    row(
        AUTHORIZATION,
        "subjectaccessreviews",
        "SubjectAccessReview",
        &[],
        "",
    )
    .only(Verbs::Create),
    row(
        AUTOSCALING,
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        &["hpa"],
        "ns",
    )
    .in_all(),
    row(BATCH, "cronjobs", "CronJob", &["cj"], "ns").in_all(),
    row(BATCH, "jobs", "Job", &[], "ns").in_all(),
    row(
        CERTIFICATES,
        "certificatesigningrequests",
        "CertificateSigningRequest",
        &["csr"],
        "s",
    ),
    row(
        CERTIFICATES,
        "clustertrustbundles",
        "ClusterTrustBundle",
        &[],
        "",
    ),
    row(
        CERTIFICATES,
        "podcertificaterequests",
        "PodCertificateRequest",
        &[],
        "ns",
    ),
    row(NETWORKING, "ingressclasses", "IngressClass", &[], ""),
    row(NETWORKING, "ingresses", "Ingress", &["ing"], "ns"),
    row(NETWORKING, "ipaddresses", "IPAddress", &["ip"], ""),
    row(
        NETWORKING,
        "networkpolicies",
        "NetworkPolicy",
        &["netpol"],
        "n",
    ),
    row(NETWORKING, "servicecidrs", "ServiceCIDR", &[], "s"),
    row(
        POLICY,
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        &["pdb"],
        "ns",
    ),
    row(RBAC, "clusterrolebindings", "ClusterRoleBinding", &[], ""),
    row(RBAC, "clusterroles", "ClusterRole", &[], ""),
    row(RBAC, "rolebindings", "RoleBinding", &[], "n"),
    row(RBAC, "roles", "Role", &[], "n"),
    row(STORAGE, "csidrivers", "CSIDriver", &[], ""),
    row(STORAGE, "csinodes", "CSINode", &[], "s"),
    row(
        STORAGE,
        "csistoragecapacities",
        "CSIStorageCapacity",
        &[],
        "n",
    ),
    row(STORAGE, "storageclasses", "StorageClass", &["sc"], ""),
    row(STORAGE, "volumeattachments", "VolumeAttachment", &[], "s"),
    row(
        STORAGE,
        "volumeattributesclasses",
        "VolumeAttributesClass",
        &["vac"],
        "",
    ),
    row(
        ADMISSION,
        "mutatingadmissionpolicies",
        "MutatingAdmissionPolicy",
        &[],
        "",
    )
    .in_category(&["api-extensions"]),
    row(
        ADMISSION,
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        &[],
        "",
    )
    .in_category(&["api-extensions"]),
    row(
        ADMISSION,
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        &[],
        "",
    )
    .in_category(&["api-extensions"]),
    row(
        ADMISSION,
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        &[],
        "s",
    )
    .in_category(&["api-extensions"]),
    row(
        ADMISSION,
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        &[],
        "",
    )
    .in_category(&["api-extensions"]),
    row(
        ADMISSION,
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        &[],
        "",
    )
    .in_category(&["api-extensions"]),
    row(
        EXTENSIONS,
        "customresourcedefinitions",
        "CustomResourceDefinition",
        &["crd", "crds"],
        "s",
    )
    .in_category(&["api-extensions"]),
    row(SCHEDULING, "priorityclasses", "PriorityClass", &["pc"], ""),
    row(COORDINATION, "leases", "Lease", &[], "n"),
    row(NODE, "runtimeclasses", "RuntimeClass", &[], ""),
    row(DISCOVERY, "endpointslices", "EndpointSlice", &[], "n"),
    row(RESOURCE, "deviceclasses", "DeviceClass", &[], ""),
    row(RESOURCE, "devicetaintrules", "DeviceTaintRule", &[], "s"),
    row(RESOURCE, "resourceclaims", "ResourceClaim", &[], "ns"),
    row(
        RESOURCE,
        "resourceclaimtemplates",
        "ResourceClaimTemplate",
        &[],
        "n",
    ),
    row(RESOURCE, "resourceslices", "ResourceSlice", &[], ""),
    row(FLOW, "flowschemas", "FlowSchema", &[], "s"),
    row(
        FLOW,
        "prioritylevelconfigurations",
        "PriorityLevelConfiguration",
        &[],
        "s",
    ),
    row(
        MIGRATION,
        "storageversionmigrations",
        "StorageVersionMigration",
        &[],
        "s",
    ),
];

pub(super) fn resources() -> Vec<Resource> {
    ROWS.iter().map(resource).collect()
}

fn resource(row: &Row) -> Resource {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Resource {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        resource: row.resource.to_owned(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        singular: row.kind.to_lowercase(),
        short_names: owned(row.short_names),
        categories: owned(row.categories),
        namespaced: row.flags.contains('n'),
        verbs: row.verbs,
        subresources: subresources(row),
        table: match row.group {
            // Both groups show the same objects.
            "events.k8s.io" => table_name("", "events"),
            group => table_name(group, row.resource),
        },
        custom: None,
    }
}

fn subresources(row: &Row) -> Vec<Subresource> {
    let own = |name: &str, verbs| Subresource {
        name: name.to_owned(),
        group: String::new(),
        version: String::new(),
        kind: row.kind.to_owned(),
        verbs,
    };
    let other = |name: &str, (group, version): (&str, &str), kind: &str, verbs| Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs,
    };
    let mut list = Vec::new();
    match row.resource {
        "pods" => {
            list.push(own("ephemeralcontainers", READ_WRITE));
            list.push(own("resize", READ_WRITE));
            list.push(other("binding", CORE, "Binding", CREATE));
            list.push(other("eviction", POLICY, "Eviction", CREATE));
        }
        "serviceaccounts" => list.push(other("token", AUTHENTICATION, "TokenRequest", CREATE)),
        "namespaces" => list.push(own("finalize", &["update"])),
        "certificatesigningrequests" => list.push(own("approval", READ_WRITE)),
        _ => {}
    }
    if row.flags.contains('x') {
        list.push(other("scale", ("autoscaling", "v1"), "Scale", READ_WRITE));
    }
    if row.flags.contains('s') {
        list.push(own("status", READ_WRITE));
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// What a subresource that shows the object answers, in the order of discovery documents.
pub(crate) const READ_WRITE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
