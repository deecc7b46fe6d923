//! A member's standing with its hub: a key and a certificate on disk, exchanged for tokens.
//!
//! The folder holds `identity.pem` (key and certificate), `bundle.pem` (what the hub is checked
//! against), `hub` (where it is), `member` (the name), `api-server` (its Kubernetes API), and the tokens `kubernetes.token` and
//! `xds.token`, which are renewed long before they run out. An agent that was away for days has a
//! certificate still, and so comes back by itself.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_runtime::{clock::Clock, tasks::TaskError};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use kube::{Client, Config, config::AuthInfo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    fs,
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{Downward, Uplink, disk, jittered};
use crate::{
    agent::invitation::{CertificateRequest, Invitation},
    join::{Admission, ApiServer, JoinRequest, RenewRequest, Tokens},
    time,
};

/// A member's standing with its hub.
#[derive(Clone, Debug)]
pub struct Credentials {
    folder: PathBuf,
    hub: String,
}

/// Why the hub could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file of the folder.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The hub does not answer.
    #[error("hub {hub} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        hub: String,
        /// Why.
        reason: String,
    },
    /// The hub said no.
    #[error("hub {hub} refused: {reason}")]
    Refused {
        /// Where it is.
        hub: String,
        /// Its words.
        reason: String,
    },
    /// Keys and certificates that make no sense.
    #[error("{0}")]
    Keys(String),
    /// No client can be made from what the hub said.
    #[error("the hub's API server cannot be used: {0}")]
    Client(String),
}

impl CredentialsError {
    /// Whether the hub was heard, and said no.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl Credentials {
    /// Joins with an invitation; what the hub gave is in `folder` afterwards.
    pub async fn join(
        folder: &Path,
        invitation: &Invitation,
        cluster_uid: &str,
    ) -> Result<Self, CredentialsError> {
        let made =
            CertificateRequest::new().map_err(|error| CredentialsError::Keys(error.to_string()))?;
        let credentials = Self {
            folder: folder.to_owned(),
            hub: invitation.hub.clone(),
        };
        let request = JoinRequest {
            token: invitation.token.clone(),
            request: made.request,
            cluster_uid: cluster_uid.to_owned(),
        };
        let tls = trusting(&invitation.bundle)?.with_no_client_auth();
        let admission: Admission = credentials.post("/join", &request, tls).await?;
        fs::create_dir_all(folder)
            .await
            .map_err(|source| credentials.fault("", source))?;
        credentials.take(&made.key, &admission).await?;
        credentials.write("member", &admission.member).await?;
        credentials.write("hub", &invitation.hub).await?;
        Ok(credentials)
    }

    /// Those that a folder holds; `None` before the first join.
    pub async fn open(folder: &Path) -> Result<Option<Self>, CredentialsError> {
        let path = folder.join("hub");
        match fs::read_to_string(&path).await {
            Ok(hub) => Ok(Some(Self {
                folder: folder.to_owned(),
                hub: hub.trim().to_owned(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialsError::File { path, source }),
        }
    }

    /// The same standing, with a hub that is found elsewhere now.
    pub async fn moved_to(mut self, hub: &str) -> Result<Self, CredentialsError> {
        if self.hub != hub {
            hub.clone_into(&mut self.hub);
            self.write("hub", hub).await?;
        }
        Ok(self)
    }

    /// Where the hub serves streams.
    pub fn hub(&self) -> &str {
        &self.hub
    }

    /// The file with the token for streams; it is replaced before the token runs out.
    pub fn xds_token(&self) -> PathBuf {
        self.folder.join("xds.token")
    }

    /// The file with what the hub is checked against.
    pub fn bundle(&self) -> PathBuf {
        self.folder.join("bundle.pem")
    }

    /// Streams with these credentials, what comes down kept in `data`, and no port for proxies.
    pub fn downward(&self, data: &Path) -> Downward {
        Downward {
            uplink: Uplink {
                server: format!("https://{}", self.hub),
                bundle: Some(self.bundle()),
                token: Some(self.xds_token()),
            },
            data: data.to_owned(),
            port: None,
        }
    }

    /// Exchanges the certificate for fresh tokens.
    pub async fn exchange(&self) -> Result<Tokens, CredentialsError> {
        let tokens: Tokens = self.post("/token", &(), self.identified().await?).await?;
        self.write("bundle.pem", &tokens.bundle).await?;
        self.write("xds.token", &tokens.xds.token).await?;
        self.write("kubernetes.token", &tokens.kubernetes.token)
            .await?;
        if let Some(server) = &tokens.api_server {
            self.write(
                "api-server",
                &serde_json::to_string(server).unwrap_or_default(),
            )
            .await?;
        }
        Ok(tokens)
    }

    /// Exchanges for the first time: the hub may still be preparing the member's namespace and
    /// identity, so a refusal is final only after `patience`.
    pub async fn exchange_first(&self, patience: Duration) -> Result<Tokens, CredentialsError> {
        let attempts = async {
            loop {
                match self.exchange().await {
                    Ok(tokens) => return tokens,
                    Err(error) => tracing::debug!(%error, "no tokens yet"),
                }
                sleep(FIRST_AGAIN).await;
            }
        };
        match timeout(patience, attempts).await {
            Ok(tokens) => Ok(tokens),
            Err(_) => self.exchange().await,
        }
    }

    /// A client of the hub's Kubernetes API. It reads the token from its file, again and again.
    pub async fn client(&self) -> Result<Client, CredentialsError> {
        let text = self.read("api-server").await?;
        let fault = |error: &dyn std::fmt::Display| CredentialsError::Client(error.to_string());
        let server: ApiServer = serde_json::from_str(&text).map_err(|error| fault(&error))?;
        let mut config = Config::new(server.url.parse().map_err(|error| fault(&error))?);
        if let Some(bundle) = &server.bundle {
            let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes());
            let certificates = certificates.collect::<Result<Vec<_>, _>>();
            let certificates = certificates.map_err(|error| fault(&error))?;
            config.root_cert = Some(certificates.iter().map(|one| one.to_vec()).collect());
        }
        let token = self.folder.join("kubernetes.token").display().to_string();
        config.auth_info = AuthInfo {
            token_file: Some(token),
            ..AuthInfo::default()
        };
        Client::try_from(config).map_err(|error| fault(&error))
    }

    /// Keeps tokens and certificate fresh for ever. While the hub is away it tries again.
    pub async fn keep(self) -> Result<(), TaskError> {
        loop {
            let age = self.age().await?;
            if age >= RENEWAL {
                match self.renew().await {
                    Ok(()) => tracing::info!("the certificate was renewed"),
                    Err(error) if age >= 1000 => tracing::error!(
                        %error,
                        "the certificate has run out, because the hub was away for too long; \
                         join anew with a fresh invitation of `fairlead join`"
                    ),
                    Err(error) => tracing::warn!(%error, "certificate not renewed; trying again"),
                }
            }
            let pause = match self.exchange().await {
                Ok(_) => EXCHANGE,
                Err(error) => {
                    tracing::warn!(%error, "no fresh tokens; trying again");
                    AGAIN
                }
            };
            sleep(jittered(pause)).await;
        }
    }

    /// The member's name, as it was admitted.
    pub async fn member(&self) -> Result<String, CredentialsError> {
        Ok(self.read("member").await?.trim().to_owned())
    }

    /// Everything that makes up the standing, by file name: what has to outlive the folder.
    pub async fn files(&self) -> Result<BTreeMap<String, String>, CredentialsError> {
        let mut files = BTreeMap::new();
        for name in FILES {
            files.insert(name.to_owned(), self.read(name).await?);
        }
        Ok(files)
    }

    /// Fills a folder with what [`Self::files`] gave. Says whether it was whole.
    pub async fn restore(
        folder: &Path,
        files: &BTreeMap<String, String>,
    ) -> Result<bool, CredentialsError> {
        if !FILES.iter().all(|name| files.contains_key(*name)) {
            return Ok(false);
        }
        let credentials = Self {
            folder: folder.to_owned(),
            hub: String::new(),
        };
        fs::create_dir_all(folder)
            .await
            .map_err(|source| credentials.fault("", source))?;
        // `hub` last: a folder without it holds no standing.
        for name in FILES.iter().rev() {
            credentials.write(name, &files[*name]).await?;
        }
        Ok(true)
    }

    /// Replaces key and certificate.
    pub async fn renew(&self) -> Result<(), CredentialsError> {
        let made =
            CertificateRequest::new().map_err(|error| CredentialsError::Keys(error.to_string()))?;
        let request = RenewRequest {
            request: made.request,
        };
        let admission = self
            .post("/renew", &request, self.identified().await?)
            .await?;
        self.take(&made.key, &admission).await
    }

    async fn take(&self, key: &str, admission: &Admission) -> Result<(), CredentialsError> {
        self.write("bundle.pem", &admission.bundle).await?;
        // One file: a crash between two could part a key from its certificate.
        self.write("identity.pem", &format!("{key}\n{}", admission.certificate))
            .await
    }

    /// How much of the certificate's life is over, in thousandths: more than 1000 when it has run
    /// out. The certificate says so itself: its file may have been copied.
    async fn age(&self) -> Result<i64, CredentialsError> {
        let identity = self.read("identity.pem").await?;
        let fault = |error: &dyn std::fmt::Display| CredentialsError::Keys(error.to_string());
        let certificate = CertificateDer::from_pem_slice(identity.as_bytes());
        let certificate = certificate.map_err(|error| fault(&error))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|error| fault(&error))?;
        let validity = parsed.validity();
        let (first, last) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let now = time::timestamp(&Clock::system()).as_second();
        Ok((now - first).saturating_mul(1000) / (last - first).max(1))
    }

    /// TLS with the member's certificate.
    async fn identified(&self) -> Result<ClientConfig, CredentialsError> {
        let bundle = self.read("bundle.pem").await?;
        let identity = self.read("identity.pem").await?;
        let fault = |error: &dyn std::fmt::Display| CredentialsError::Keys(error.to_string());
        let key =
            PrivateKeyDer::from_pem_slice(identity.as_bytes()).map_err(|error| fault(&error))?;
        let chain = CertificateDer::pem_slice_iter(identity.as_bytes()).collect::<Result<_, _>>();
        let chain = chain.map_err(|error| fault(&error))?;
        trusting(&bundle)?
            .with_client_auth_cert(chain, key)
            .map_err(|error| fault(&error))
    }

    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        tls: ClientConfig,
    ) -> Result<A, CredentialsError> {
        let body =
            serde_json::to_vec(body).map_err(|error| CredentialsError::Keys(error.to_string()))?;
        let sent = timeout(PATIENCE, send(&self.hub, path, body, tls)).await;
        let unreachable = |reason: String| CredentialsError::Unreachable {
            hub: self.hub.clone(),
            reason,
        };
        let (code, answer) = sent
            .map_err(|_| unreachable(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?;
        if code != 200 {
            let reason = String::from_utf8_lossy(&answer).trim().to_owned();
            return Err(CredentialsError::Refused {
                hub: self.hub.clone(),
                reason,
            });
        }
        serde_json::from_slice(&answer).map_err(|error| unreachable(format!("its answer: {error}")))
    }

    async fn read(&self, name: &str) -> Result<String, CredentialsError> {
        fs::read_to_string(self.folder.join(name))
            .await
            .map_err(|source| self.fault(name, source))
    }

    async fn write(&self, name: &str, text: &str) -> Result<(), CredentialsError> {
        let path = self.folder.join(name);
        let written = disk::write(&path, text.as_bytes().to_vec());
        written.await.map_err(|source| self.fault(name, source))
    }

    fn fault(&self, name: &str, source: io::Error) -> CredentialsError {
        CredentialsError::File {
            path: self.folder.join(name),
            source,
        }
    }
}

fn trusting(
    bundle: &str,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, CredentialsError>
{
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        let certificate = certificate.map_err(|error| CredentialsError::Keys(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| CredentialsError::Keys(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| CredentialsError::Keys(error.to_string()))?;
    Ok(builder.with_root_certificates(roots))
}

async fn send(
    hub: &str,
    path: &str,
    body: Vec<u8>,
    tls: ClientConfig,
) -> Result<(u16, Bytes), TaskError> {
    let stream = TcpStream::connect(hub).await?;
    let host = hub
        .rsplit_once(':')
        .map_or(hub, |(host, _)| host)
        .trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(path)
        .header("host", hub)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        Ok((code, body.to_bytes()))
    };
    tokio::select! {
        answer = answered => answer,
        ended = connection => Err(ended.err().map_or("the hub closed the connection".into(), Into::into)),
    }
}

/// Tokens live an hour.
const EXCHANGE: Duration = Duration::from_secs(20 * 60);
/// While the hub prepares.
const FIRST_AGAIN: Duration = Duration::from_millis(20);
/// A hub that is away.
const AGAIN: Duration = Duration::from_secs(5);
/// Two thirds of a certificate's life, in thousandths of it.
const RENEWAL: i64 = 667;
/// What a standing is made of, in the order of [`Credentials::files`].
const FILES: [&str; 5] = ["hub", "member", "identity.pem", "bundle.pem", "api-server"];
const PATIENCE: Duration = Duration::from_secs(10);
/// Certificates and tokens are a few kilobytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
