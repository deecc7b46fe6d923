//! The agent in the member, as Kubernetes objects: a StatefulSet of one, whose volume keeps its key,
//! its certificate and what came down from the hub.

use fairlead_api::labels;
use fairlead_controller::{agent::invitation::Invitation, manifests};
use serde_json::{Value, json};

/// The Secret with the invitation and the agent's workload.
pub(super) fn objects(image: &str, invitation: &Invitation, pods: bool) -> [Value; 2] {
    let name = manifests::AGENT_ACCOUNT;
    let app = json!({ "app.kubernetes.io/name": name });
    let mut arguments = vec!["member", "--data", STATE];
    if pods {
        arguments.push("--properties-pods");
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": SECRET, "namespace": labels::SYSTEM_NAMESPACE },
        "stringData": { "invitation": invitation.encode() },
    });
    let container = json!({
        "name": "agent",
        "image": image,
        "command": ["fairlead-controller"],
        "args": arguments,
        "env": [ { "name": "FAIRLEAD_INVITATION", "valueFrom": { "secretKeyRef": {
            "name": SECRET, "key": "invitation",
        } } } ],
        "volumeMounts": [ { "name": "state", "mountPath": STATE } ],
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "512Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": name, "namespace": labels::SYSTEM_NAMESPACE, "labels": app },
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": { "matchLabels": app },
            "template": {
                "metadata": { "labels": app },
                "spec": {
                    "serviceAccountName": name,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [container],
                },
            },
            "volumeClaimTemplates": [ {
                "metadata": { "name": "state" },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "64Mi" } },
                },
            } ],
        },
    });
    [secret, workload]
}

const SECRET: &str = "fairlead-invitation";
const STATE: &str = "/var/lib/fairlead";
