//! The serving certificate of the port for proxies, and what proxies check it against.
//!
//! The agent has an authority of its own, in its folder, which rotates as the hub's does: what signs
//! tomorrow is trusted today. The bundle is in the folder, and for pods in a ConfigMap.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_api::labels;
use fairlead_runtime::{clock::Clock, tasks::TaskError};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::RwLock;
use rustls::ServerConfig;
use serde_json::json;
use tokio::fs;

use super::{REQUEST_TIMEOUT, disk, port::Port};
use crate::{
    authority::{self, Authority},
    manifests,
    stream::io::port::{Tls, tls_config},
    time,
};

/// The certificate of the port.
pub(super) struct Certificate {
    folder: PathBuf,
    names: Vec<String>,
    clock: Clock,
    tls: Tls,
    bundle: String,
}

impl Certificate {
    /// From the folder; made where there is none.
    pub(super) async fn load(
        folder: PathBuf,
        port: &Port,
        addr: SocketAddr,
        clock: Clock,
    ) -> Result<Self, TaskError> {
        let service = manifests::AGENT_ACCOUNT;
        let namespace = labels::SYSTEM_NAMESPACE;
        let mut names = vec![
            "localhost".to_owned(),
            service.to_owned(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
        ];
        if !addr.ip().is_unspecified() {
            names.push(addr.ip().to_string());
        }
        names.extend(port.names.iter().cloned());
        names.sort();
        names.dedup();
        let (tls, bundle) = serving(&folder, &names, &clock).await?;
        Ok(Self {
            folder,
            names,
            clock,
            tls: Arc::new(RwLock::new(tls)),
            bundle,
        })
    }

    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Renews it long before its end, and publishes the bundle with `client`, for ever.
    pub(super) async fn keep(mut self, client: Option<Client>) {
        loop {
            let pause = match &client {
                Some(client) => match publish(client, &self.bundle).await {
                    Ok(()) => RENEWAL,
                    Err(error) => {
                        tracing::warn!(%error, "proxies are not told what to check this port against; trying again");
                        AGAIN
                    }
                },
                None => RENEWAL,
            };
            tokio::time::sleep(pause).await;
            match serving(&self.folder, &self.names, &self.clock).await {
                Ok((tls, bundle)) => {
                    *self.tls.write() = tls;
                    self.bundle = bundle;
                }
                Err(error) => tracing::warn!(%error, "the certificate for proxies is not renewed"),
            }
        }
    }
}

async fn serving(
    folder: &Path,
    names: &[String],
    clock: &Clock,
) -> Result<(Arc<ServerConfig>, String), TaskError> {
    let now = time::timestamp(clock);
    let path = folder.join(AUTHORITY);
    let stored = match fs::read(&path).await {
        Ok(bytes) => Some(serde_json::from_slice::<Secret>(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{}: {error}", path.display()).into()),
    };
    let (authority, changed) = match stored {
        Some(secret) => {
            let mut authority = authority::io::parse(&secret)?;
            let changed = authority::io::rotate(&mut authority, now)?;
            (authority, changed)
        }
        None => {
            let current = authority::new_signer(&authority::io::key()?, now)?;
            let (next, old) = (None, None);
            (Authority { current, next, old }, true)
        }
    };
    let bundle = authority.bundle();
    if changed {
        let text = serde_json::to_vec(&authority::io::to_secret(&authority))?;
        disk::write(&path, text).await?;
    }
    disk::write(&folder.join(BUNDLE), bundle.clone().into_bytes()).await?;
    let key = authority::io::key()?;
    let certificate = authority.sign_server(names, &key, now)?;
    let tls = tls_config(&certificate, &key.serialize_pem(), &bundle)?;
    Ok((tls, bundle))
}

async fn publish(client: &Client, bundle: &str) -> Result<(), TaskError> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": manifests::AGENT_ACCOUNT },
        "data": { manifests::BUNDLE_KEY: bundle },
    });
    let params = PatchParams::apply(labels::AGENT_MANAGER).force();
    let patch = Patch::Apply(&map);
    let patched = api.patch(manifests::AGENT_ACCOUNT, &params, &patch);
    tokio::time::timeout(REQUEST_TIMEOUT, patched).await??;
    Ok(())
}

/// In the agent's folder: the authority with its keys, and what proxies check it against.
const AUTHORITY: &str = "proxies-authority.json";
pub(super) const BUNDLE: &str = "proxies-ca.pem";
/// A certificate lives 30 days; a rotation of the authority overlaps far longer.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);
const AGAIN: Duration = Duration::from_secs(10);
