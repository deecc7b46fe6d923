//! The API server as a program.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    std::fs::write(&settings.kubeconfig, handle.kubeconfig())
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
