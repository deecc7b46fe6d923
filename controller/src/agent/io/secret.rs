//! The agent's own Secret, `fairlead-system/fairlead-agent`: how an invitation comes to a pod, and how a
//! standing outlives it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use fairlead_api::labels;
use fairlead_runtime::tasks::TaskError;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{Credentials, REQUEST_TIMEOUT};

/// A Secret of `fairlead-system`.
#[derive(Clone)]
pub struct Keeper {
    api: Api<Secret>,
    name: String,
}

impl Keeper {
    /// The Secret of this name.
    pub fn new(client: Client, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, labels::SYSTEM_NAMESPACE),
            name: name.to_owned(),
        }
    }

    /// What the Secret holds: into the folder, unless that has a standing already; and the
    /// invitation, if there is one.
    pub async fn restore(&self, folder: &Path) -> Result<Option<String>, TaskError> {
        let what = || format!("Secret {}/{}", labels::SYSTEM_NAMESPACE, self.name);
        let found = timeout(REQUEST_TIMEOUT, self.api.get_opt(&self.name)).await;
        let found = found
            .map_err(|_| format!("{} cannot be read: no answer", what()))?
            .map_err(|error| format!("{} cannot be read: {error}", what()))?;
        let data = found.and_then(|secret| secret.data).unwrap_or_default();
        let texts = data
            .into_iter()
            .filter_map(|(name, bytes)| Some((name, String::from_utf8(bytes.0).ok()?)));
        let mut files: BTreeMap<String, String> = texts.collect();
        let invitation = files.remove(INVITATION);
        if Credentials::open(folder).await?.is_none() {
            Credentials::restore(folder, &files).await?;
        }
        Ok(invitation)
    }

    /// Stores a standing, and takes out the invitation, which is used up.
    pub async fn store(&self, credentials: &Credentials) -> Result<(), TaskError> {
        let files = credentials.files().await?;
        self.patch(&json!({
            "stringData": files,
            "data": { INVITATION: Value::Null },
        }))
        .await
    }

    /// Stores the standing whenever it was renewed, for ever.
    pub async fn keep(self, credentials: Credentials) -> Result<(), TaskError> {
        let mut stored = BTreeMap::new();
        loop {
            let pause = match credentials.files().await {
                Ok(files) if files == stored => LOOK,
                Ok(files) => match self.store(&credentials).await {
                    Ok(()) => {
                        stored = files;
                        LOOK
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the standing is not stored; trying again");
                        AGAIN
                    }
                },
                // Before the first exchange a file is missing.
                Err(_) => AGAIN,
            };
            sleep(pause).await;
        }
    }

    async fn patch(&self, body: &Value) -> Result<(), TaskError> {
        let params = PatchParams {
            field_manager: Some(labels::AGENT_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(body);
        let patched = self.api.patch(&self.name, &params, &patch);
        timeout(REQUEST_TIMEOUT, patched).await??;
        Ok(())
    }
}

/// The key of an invitation.
pub const INVITATION: &str = "invitation";
/// Between looks at the files, which change every 20 days.
const LOOK: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(5);
