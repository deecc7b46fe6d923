//! Flags of a control plane.

use std::path::PathBuf;

use clap::Args;

use crate::source::xds::Options;

/// Where the configuration comes from, when not from a file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Control plane")]
pub struct ControlPlane {
    /// Take the configuration from this control plane (xDS v3, incremental ADS) instead of a file,
    /// and report load there: https://HOST:PORT, or http://HOST:PORT without TLS.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub xds: Option<String>,

    /// The PEM certificates that the control plane's certificate is checked against. Read anew at
    /// each connect.
    #[arg(long, value_name = "FILE", requires = "xds")]
    pub xds_ca: Option<PathBuf>,

    /// The name in the control plane's certificate, where it isn't the host of the URL.
    #[arg(long, value_name = "NAME", requires = "xds")]
    pub xds_server_name: Option<String>,

    /// The bearer token that says who we are. Read anew at each connect, so it may be renewed in
    /// place.
    #[arg(long, value_name = "FILE", requires = "xds")]
    pub xds_token: Option<PathBuf>,

    /// Keep the last good state here, so that a restart without the control plane serves at once.
    #[arg(long, value_name = "FILE", requires = "xds")]
    pub xds_state: Option<PathBuf>,

    /// The name of this proxy in its group [default: the host name].
    #[arg(
        long,
        value_name = "NAME",
        requires = "xds",
        env = "FAIRLEAD_NODE_NAME"
    )]
    pub node: Option<String>,

    /// The proxy group; the token decides, this is for people.
    #[arg(long, value_name = "NAME", requires = "xds", default_value = "")]
    pub group: String,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// The options of the client; `None` without `--xds`.
    pub fn options(&self) -> Option<Options> {
        Some(Options {
            server: self.xds.clone()?,
            ca_file: self.xds_ca.clone(),
            server_name: self.xds_server_name.clone(),
            token_file: self.xds_token.clone(),
            node_id: self.node.clone().unwrap_or_default(),
            group: self.group.clone(),
            state_file: self.xds_state.clone(),
        })
    }
}
