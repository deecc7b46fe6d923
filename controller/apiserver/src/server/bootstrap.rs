//! What a fresh server holds before its first request.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::{new_uid, rfc3339};
use crate::core::Core;
use crate::store::{Change, Draft, Key, Write};

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// Writes the namespaces that every cluster has, where they are missing.
pub(super) async fn run(core: &Arc<Core>) {
    for name in NAMESPACES {
        let table = Arc::from("namespaces");
        let fields = vec![
            ("status.phase".into(), "Active".into()),
            ("name".into(), (*name).into()),
        ];
        let draft = Draft::new(&namespace(core, name), fields);
        let key = Key::new("", name);
        let write = Write {
            table,
            key,
            expected: None,
            change: Change::Put(draft),
        };
        // After a restart it is there already.
        drop(core.store.commit(write).await);
    }
}

fn namespace(core: &Core, name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "uid": new_uid(&*core.random),
            "creationTimestamp": rfc3339(core.now()),
            "labels": {"kubernetes.io/metadata.name": name},
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}
