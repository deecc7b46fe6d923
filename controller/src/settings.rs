//! What the process is told by flags and environment.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// The control plane of a Fairlead fleet.
#[derive(Debug, Parser)]
#[command(name = "fairlead-controller", version)]
pub struct Flags {
    /// What to run.
    #[command(subcommand)]
    pub role: Role,
    /// What to log, as `RUST_LOG` has it.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// Where health and metrics are served.
    #[arg(long, global = true, default_value = "127.0.0.1:9903")]
    pub admin: SocketAddr,
}

/// The parts of the control plane.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// The hub: aggregates the exports of members, drives proxies, admits members.
    Hub(HubFlags),
}

/// Flags of the hub.
#[derive(Debug, Args)]
pub struct HubFlags {
    /// Where agents and standalone proxies connect.
    #[arg(long, default_value = "0.0.0.0:15010")]
    pub listen: SocketAddr,
    /// A name or address that clients know the hub by, for its certificate; may be repeated.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// The kubeconfig of the hub's API server; inside a cluster the pod's own where absent.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// This replica's name in the leader's Lease.
    #[arg(long, env = "HOSTNAME", default_value = "hub")]
    pub replica: String,
    /// Where members reach the hub's Kubernetes API: `https://host:port`. Where absent, the
    /// address of the kubeconfig.
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// The PEM file that members check the hub's Kubernetes API against.
    #[arg(long, value_name = "FILE")]
    pub api_server_ca: Option<PathBuf>,
    /// Takes loopback addresses as endpoints: for a fleet on one machine only.
    #[arg(long)]
    pub allow_loopback_endpoints: bool,
    /// The age of an export counts from when the hub saw it first, so that nobody takes a service
    /// over by claiming age.
    #[arg(long)]
    pub pin_first_seen: bool,
    /// Serves without TLS, and takes streams without a token for what they claim to be. Nobody can
    /// join. Loopback addresses only.
    #[arg(long)]
    pub plain: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_make_sense() {
        Flags::command().debug_assert();
        let flags = Flags::parse_from(["fairlead-controller", "hub", "--name", "hub.example"]);
        let Role::Hub(hub) = flags.role;
        assert_eq!(hub.names, ["hub.example"]);
        assert!(!hub.plain);
    }
}
