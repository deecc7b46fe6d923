//! The API server as a program.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use fairlead_apiserver::{ApiServer, Controllers, Security};

/// An embedded Kubernetes API server on a socket.
#[derive(Debug, Parser)]
#[command(version)]
struct Settings {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Where to write a kubeconfig for the administrator.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where objects, keys and tokens live across restarts; without it they last as long as the
    /// process.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Keep the objects in memory all the same: only keys and tokens outlive a restart.
    #[arg(long, requires = "data")]
    memory: bool,
    /// Plain HTTP instead of HTTPS.
    #[arg(long)]
    plain: bool,
    /// Run none of the cluster's own controllers: for a real controller manager beside this.
    #[arg(long)]
    no_controllers: bool,
    /// Accept loopback addresses in EndpointSlices, which a real server refuses.
    #[arg(long)]
    allow_loopback_endpoints: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut builder =
        ApiServer::builder().allow_loopback_endpoints(settings.allow_loopback_endpoints);
    if settings.no_controllers {
        builder = builder.controllers(Controllers::NONE);
    }
    if let Some(data) = settings.data {
        builder = builder.data_dir(data).durable(!settings.memory);
    }
    let server = builder.build().await?;
    let security = if settings.plain {
        Security::Plain
    } else {
        Security::Tls
    };
    let handle = server.serve(settings.listen, security).await?;
    write_secret(&settings.kubeconfig, handle.kubeconfig())
        .with_context(|| format!("cannot write {}", settings.kubeconfig.display()))?;
    println!("listening on {}", handle.addr());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        ended = tokio::signal::ctrl_c() => ended?,
    }
    server.shutdown().await;
    Ok(())
}

/// A kubeconfig holds the administrator's token: only its owner may read it.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
