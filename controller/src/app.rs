//! A process around the hub, or around a member's agent: settings in, signals and exits out.

mod member;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, bail};
use fairlead_runtime::{
    admin,
    clock::Clock,
    signals::{Request, Signals},
};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

pub use member::run_member;

use crate::{
    hub::{self, HubConfig},
    join::ApiServer,
    settings::HubFlags,
    world::Settings,
};

/// Runs a hub until it is asked to stop, or one of its tasks ends.
pub async fn run_hub(flags: &HubFlags, admin: SocketAddr, clock: Clock) -> anyhow::Result<()> {
    if flags.plain && !flags.listen.ip().is_loopback() {
        bail!(
            "--plain trusts whoever connects, so it listens on loopback addresses only; {} is none",
            flags.listen
        );
    }
    check_advertised(flags)?;
    let mut signals = Signals::listen().context("signals cannot be received")?;
    let config = kube_config(flags.kubeconfig.as_deref()).await?;
    let url = config.cluster_url.to_string();
    let api_server = api_server(flags, &config)?;
    let client = Client::try_from(config).context("the hub's API server cannot be used")?;
    // Before anything is written anywhere: a port that is taken stops here.
    let admin = admin::Server::bind(admin, false)?;
    let mut hub = hub::run(HubConfig {
        client,
        listen: flags.listen,
        advertise: flags.advertise.clone(),
        names: flags.names.clone(),
        tls: !flags.plain,
        replica: flags.replica.clone().unwrap_or_else(replica),
        api_server: Some(api_server),
        settings: Settings {
            allow_loopback: flags.allow_loopback_endpoints,
            pin_first_seen: flags.pin_first_seen,
            ..Settings::default()
        },
        clock,
    })
    .await
    .with_context(|| format!("the hub cannot start on the API server {url}"))?;
    tracing::info!(addr = %hub.addr, admin = %admin.addr(), tls = !flags.plain, "the hub listens");
    let pages = admin.serve(hub.view().pages());
    let mut pages = std::pin::pin!(pages);
    let exit = loop {
        tokio::select! {
            () = &mut pages => bail!("the admin server ended"),
            exit = hub.exit() => break Some(exit),
            request = signals.next() => {
                if request == Request::Leave {
                    break None;
                }
            }
        }
    };
    if tokio::time::timeout(STOP_TIMEOUT, hub.stop())
        .await
        .is_err()
    {
        tracing::warn!("the hub did not stop in time");
    }
    match exit {
        Some(exit) => bail!("a part of the hub ended, so all of it does: {exit}"),
        None => Ok(()),
    }
}

fn check_advertised(flags: &HubFlags) -> anyhow::Result<()> {
    let Some(advertised) = &flags.advertise else {
        return Ok(());
    };
    let port = advertised.rsplit_once(':').map(|(_, port)| port.parse());
    match port {
        Some(Ok(1_u16..)) => Ok(()),
        _ => bail!("--advertise takes HOST:PORT, such as 10.0.0.7:15010; {advertised:?} is none"),
    }
}

/// A name that no other replica has. In a pod it is the same after a crash of the container, so
/// that the lead needn't be waited for.
fn replica() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

/// The API server of a kubeconfig, or of the cluster this runs in.
pub async fn kube_config(path: Option<&Path>) -> anyhow::Result<Config> {
    let options = KubeConfigOptions::default();
    match path {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).context("--kubeconfig")?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .with_context(|| format!("kubeconfig {}", path.display()))
        }
        None => Config::infer()
            .await
            .context("no kubeconfig was found, and this is no pod; pass --kubeconfig FILE"),
    }
}

fn api_server(flags: &HubFlags, config: &Config) -> anyhow::Result<ApiServer> {
    let url = match &flags.api_server {
        Some(url) => url.clone(),
        None => config
            .cluster_url
            .to_string()
            .trim_end_matches('/')
            .to_owned(),
    };
    let bundle = match &flags.api_server_ca {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("--api-server-ca {}", path.display()))?,
        ),
        None => config.root_cert.as_ref().map(|all| pem(all)),
    };
    Ok(ApiServer { url, bundle })
}

/// Certificates of a kubeconfig as PEM.
pub fn pem(certificates: &[Vec<u8>]) -> String {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = engine.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// The Lease is given up and streams are closed; nothing here takes long.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
