//! The hub that a command talks to.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where the hub is.
#[derive(Args, Clone)]
pub(crate) struct HubFlags {
    /// The hub's kubeconfig [default: $KUBECONFIG, then ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl HubFlags {
    /// A client of the hub's API server.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        client(self.kubeconfig.as_ref())
            .await
            .context("the hub cannot be used")
    }
}

/// A client by a kubeconfig file, or by the usual places.
pub(crate) async fn client(file: Option<&PathBuf>) -> anyhow::Result<Client> {
    let options = KubeConfigOptions::default();
    let config = match file {
        Some(path) => {
            let read = Kubeconfig::read_from(path)
                .with_context(|| format!("{} is no kubeconfig", path.display()))?;
            Config::from_custom_kubeconfig(read, &options).await?
        }
        None => Config::infer()
            .await
            .context("name a kubeconfig with --kubeconfig FILE")?,
    };
    Ok(Client::try_from(config)?)
}

/// Runs a command's future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}
