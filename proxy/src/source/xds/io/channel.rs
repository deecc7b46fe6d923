//! The connection to a control plane: address, trust and token.

use std::{fs, io, path::PathBuf, time::Duration};

use fairlead_config::xds::proto::core::{Node, UserAgentVersion};
use fairlead_runtime::logging::with_causes;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// Where the control plane is and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `https://host:port`, or `http://host:port` without TLS.
    pub server: String,
    /// PEM certificates to trust, read at each connect.
    pub ca_file: Option<PathBuf>,
    /// The name in the server's certificate, where it isn't the host's.
    pub server_name: Option<String>,
    /// A bearer token, read at each connect, because it is renewed in place.
    pub token_file: Option<PathBuf>,
    /// Our own name, unique in the group; the host's where empty.
    pub node_id: String,
    /// The proxy group that we claim to be of.
    pub group: String,
    /// Where the last good state is kept.
    pub state_file: Option<PathBuf>,
}

impl Options {
    /// Who we say we are.
    pub fn node(&self) -> Node {
        let id = match self.node_id.as_str() {
            "" => fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
            id => id.to_owned(),
        };
        Node {
            id: id.trim().to_owned(),
            cluster: self.group.clone(),
            user_agent_name: "fairlead-proxy".to_owned(),
            user_agent_version: Some(UserAgentVersion::Text(env!("CARGO_PKG_VERSION").to_owned())),
            ..Node::default()
        }
    }
}

/// Why no connection can even be tried.
#[derive(Debug, thiserror::Error)]
pub(in crate::source) enum Unable {
    #[error("the address {server:?} of the control plane is no URL; use https://host:port")]
    Address {
        server: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("{server} needs the certificates to check it against; name them by --xds-ca")]
    Authority { server: String },
    #[error("the {what} {} can't be read: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the token in {} has characters that no header may have", path.display())]
    Token { path: PathBuf },
    #[error("the control plane {server} can't be reached: {reason}")]
    Connect { server: String, reason: String },
}

/// Connects; the certificates are read anew each time.
pub(in crate::source) async fn connect(options: &Options) -> Result<Channel, Unable> {
    let address = |source| Unable::Address {
        server: options.server.clone(),
        source,
    };
    let mut endpoint = Endpoint::from_shared(options.server.clone())
        .map_err(address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if options.server.starts_with("https:") {
        let mut tls = ClientTlsConfig::new();
        let Some(path) = &options.ca_file else {
            let server = options.server.clone();
            return Err(Unable::Authority { server });
        };
        tls = tls.ca_certificate(Certificate::from_pem(read("CA file", path)?));
        if let Some(name) = &options.server_name {
            tls = tls.domain_name(name);
        }
        endpoint = endpoint.tls_config(tls).map_err(address)?;
    }
    endpoint.connect().await.map_err(|error| Unable::Connect {
        server: options.server.clone(),
        reason: with_causes(&error),
    })
}

/// Adds the token to a request, if there is one.
pub(in crate::source) fn authorize<T>(
    options: &Options,
    request: &mut Request<T>,
) -> Result<(), Unable> {
    let Some(path) = &options.token_file else {
        return Ok(());
    };
    let token = read("token file", path)?;
    let token = String::from_utf8_lossy(&token);
    let value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
        .parse()
        .map_err(|_| Unable::Token { path: path.clone() })?;
    request.metadata_mut().insert("authorization", value);
    Ok(())
}

fn read(what: &'static str, path: &PathBuf) -> Result<Vec<u8>, Unable> {
    fs::read(path).map_err(|source| Unable::File {
        what,
        path: path.clone(),
        source,
    })
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A black-holed control plane is noticed within 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A full state of a large fleet should not wait for window updates.
const WINDOW_BYTES: u32 = 1024 * 1024;
