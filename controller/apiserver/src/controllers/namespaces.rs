//! What is left of a namespace that is being deleted, as conditions; and what each namespace gets
//! at its start.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What still is in a namespace: objects by resource, and the finalizers that hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    /// `resource.group` to the number of objects.
    pub(crate) objects: BTreeMap<String, usize>,
    pub(crate) finalizers: BTreeMap<String, usize>,
}

// === impl Remains ===

impl Remains {
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The conditions of the namespace, in the words of the namespace controller. A condition that
    /// has not changed keeps its time.
    pub(crate) fn conditions(&self, old: &Value, now: &str) -> Value {
        let known = old.as_array().map(Vec::as_slice).unwrap_or_default();
        let conditions = FINE.iter().map(|&(kind, reason, message)| {
            let (status, reason, message) = match self.problem(kind) {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", reason, message.to_owned()),
            };
            let same = known
                .iter()
                .find(|old| old["type"] == kind && old["status"] == status);
            let since = same
                .and_then(|same| same["lastTransitionTime"].as_str())
                .unwrap_or(now);
            json!({
                "type": kind, "status": status, "lastTransitionTime": since, "reason": reason,
                "message": message,
            })
        });
        conditions.collect()
    }

    fn problem(&self, kind: &str) -> Option<(&'static str, String)> {
        let count = |map: &BTreeMap<String, usize>, verb: &str| -> String {
            let parts = map
                .iter()
                .map(|(key, count)| format!("{key} {verb} {count} resource instances"));
            parts.collect::<Vec<_>>().join(", ")
        };
        match kind {
            "NamespaceContentRemaining" if !self.objects.is_empty() => Some((
                "SomeResourcesRemain",
                format!(
                    "Some resources are remaining: {}",
                    count(&self.objects, "has")
                ),
            )),
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => Some((
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    count(&self.finalizers, "in")
                ),
            )),
            _ => None,
        }
    }
}

/// The account every namespace has.
pub(crate) fn default_account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
}

/// The bundle with which pods check this API server's certificate.
pub(crate) fn root_ca(pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": ROOT_CA_TEXT}},
        "data": {"ca.crt": pem},
    })
}

pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
/// Type, reason and message of each condition while all is well.
const FINE: [(&str, &str, &str); 5] = [
    (
        "NamespaceDeletionDiscoveryFailure",
        "ResourcesDiscovered",
        "All resources successfully discovered",
    ),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    (
        "NamespaceContentRemaining",
        "ContentRemoved",
        "All content successfully removed",
    ),
    (
        "NamespaceFinalizersRemaining",
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_remains_and_keep_their_times() {
        let remains = Remains {
            objects: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/hold".to_owned(), 1)]),
        };
        let first = remains.conditions(&Value::Null, "t1");
        assert_eq!(
            first[3]["message"],
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            first[4]["message"],
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        let second = Remains::default().conditions(&first, "t2");
        assert_eq!(
            (&second[3]["status"], &second[3]["lastTransitionTime"]),
            (&json!("False"), &json!("t2"))
        );
        assert_eq!(second[0]["lastTransitionTime"], "t1");
    }
}
