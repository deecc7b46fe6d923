//! The agent in the member, as Kubernetes objects.

use fairlead_controller::{
    agent::invitation::Invitation,
    manifests::{self, Workload},
};
use serde_json::Value;

/// The Secret with the invitation, and the agent's workload.
pub(super) fn objects(image: &str, invitation: &Invitation, pods: bool) -> Vec<Value> {
    let workload = Workload {
        image,
        properties_pods: pods,
    };
    let mut objects = vec![manifests::invitation(&invitation.encode())];
    objects.extend(manifests::workload(&workload));
    objects
}
