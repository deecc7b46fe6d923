//! The agent in its member, as Kubernetes objects: a Deployment of one, and the Service by which the
//! member's own proxies find it. The Helm chart's template says the same with values in it; a test
//! holds the two together.
//!
//! Key and certificate outlive the pod in the Secret; what came down from the hub outlives the
//! container in a volume of the pod.

use fairlead_api::labels;
use serde_json::{Value, json};

use super::{AGENT_ACCOUNT, in_system};

/// What differs from member to member.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'w> {
    /// It has `fairlead-controller`.
    pub image: &'w str,
    /// Whether pods are listed; needs the rights of [`super::agent`] with `pods`.
    pub properties_pods: bool,
}

/// The agent's Deployment and Service.
pub fn workload(wanted: &Workload<'_>) -> [Value; 2] {
    let selector = json!({
        "app.kubernetes.io/name": "fairlead", "app.kubernetes.io/component": "agent",
    });
    let mut meta = in_system(AGENT_ACCOUNT);
    meta["labels"] = selector.clone();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": selector },
            // Two agents of one member would write over each other.
            "strategy": { "type": "Recreate" },
            "template": { "metadata": { "labels": selector }, "spec": pod(wanted) },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta,
        "spec": {
            "selector": selector,
            "ports": [ { "name": "xds", "port": PORT, "targetPort": "xds" } ],
        },
    });
    [deployment, service]
}

/// The Secret through which an invitation comes to the agent's pod.
pub fn invitation(line: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": in_system(AGENT_ACCOUNT),
        "stringData": { "invitation": line },
    })
}

/// Where proxies in pods of the member find the agent: the Service of [`workload`].
pub fn xds_url() -> String {
    let namespace = labels::SYSTEM_NAMESPACE;
    format!("https://{AGENT_ACCOUNT}.{namespace}.svc:{PORT}")
}

fn pod(wanted: &Workload<'_>) -> Value {
    let mut arguments = vec![
        "member".to_owned(),
        format!("--data={DATA}"),
        format!("--secret={AGENT_ACCOUNT}"),
        format!("--listen=0.0.0.0:{PORT}"),
        "--publish".to_owned(),
        format!("--admin=0.0.0.0:{ADMIN_PORT}"),
        "--log=info".to_owned(),
    ];
    if wanted.properties_pods {
        arguments.push("--properties-pods".to_owned());
    }
    let container = json!({
        "name": "agent",
        "image": wanted.image,
        "command": ["fairlead-controller"],
        "args": arguments,
        "ports": [
            { "name": "xds", "containerPort": PORT },
            { "name": "admin", "containerPort": ADMIN_PORT },
        ],
        "livenessProbe": {
            "httpGet": { "path": "/healthz", "port": "admin" },
            "periodSeconds": 10, "failureThreshold": 6,
        },
        "readinessProbe": {
            "httpGet": { "path": "/readyz", "port": "admin" }, "periodSeconds": 5,
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "resources": {
            "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "1Gi" },
        },
        "volumeMounts": [ { "name": "data", "mountPath": DATA } ],
    });
    json!({
        "serviceAccountName": AGENT_ACCOUNT,
        "containers": [container],
        "volumes": [ { "name": "data", "emptyDir": {} } ],
    })
}

/// Where the member's own proxies connect.
const PORT: u16 = 15_011;
const ADMIN_PORT: u16 = 9903;
const DATA: &str = "/var/lib/fairlead";
