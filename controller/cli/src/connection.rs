//! The hub that a command talks to.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use fairlead_api::member::MemberCluster;
use kube::{
    Api, Client, Config,
    api::ListParams,
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
    /// A client of the hub's API server, which has been found to be one.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let (client, url) = connect(self.kubeconfig.as_ref())
            .await
            .context("the hub cannot be used")?;
        let one = ListParams::default().limit(1);
        match Api::<MemberCluster>::all(client.clone()).list(&one).await {
            Ok(_) => Ok(client),
            // Who may not list members may do other things.
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(client),
            Err(kube::Error::Api(status)) if status.code == 404 => bail!(
                "{url} is no hub: it does not know the kind MemberCluster. Name the hub's kubeconfig with --kubeconfig FILE, or make it one: fairlead crds | kubectl apply --server-side -f -"
            ),
            Err(kube::Error::Api(status)) if status.code == 401 => bail!(
                "the hub at {url} does not take these credentials ({}); name another kubeconfig with --kubeconfig FILE",
                status.message
            ),
            Err(error) => Err(error).with_context(|| format!("the hub at {url} does not answer")),
        }
    }
}

/// A client by a kubeconfig file, or by the usual places.
pub(crate) async fn client(file: Option<&PathBuf>) -> anyhow::Result<Client> {
    Ok(connect(file).await?.0)
}

async fn connect(file: Option<&PathBuf>) -> anyhow::Result<(Client, String)> {
    let options = KubeConfigOptions::default();
    let config = match file {
        Some(path) => {
            let bad = || format!("{} is no kubeconfig", path.display());
            // What the parser says of it repeats itself.
            std::fs::metadata(path).with_context(bad)?;
            let read = Kubeconfig::read_from(path);
            let read = read.map_err(|error| anyhow!("{}: {error}", bad()))?;
            let config = Config::from_custom_kubeconfig(read, &options).await;
            config.map_err(|error| anyhow!("{}: {error}", bad()))?
        }
        None => match Config::infer().await {
            Ok(config) => config,
            Err(error) => match std::env::var("KUBECONFIG") {
                Ok(path) if !path.is_empty() => {
                    let why = error.to_string();
                    let why = why.rsplit("kubeconfig: ").next().unwrap_or(&why);
                    bail!("$KUBECONFIG names {path}: {why}")
                }
                _ => bail!(
                    "there is no kubeconfig at ~/.kube/config, and $KUBECONFIG names none; name one with --kubeconfig FILE"
                ),
            },
        },
    };
    let url = config.cluster_url.to_string();
    let url = url.trim_end_matches('/').to_owned();
    Ok((Client::try_from(config)?, url))
}

/// Runs a command's future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}
