//! The API server of the hub or of a member: an embedded one, or a real one by its kubeconfig.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use fairlead_api::labels;
use fairlead_apiserver::{ApiServer, Security};
use fairlead_controller::{app, join::ApiServer as Reach, manifests};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, Config, api::PostParams, config::AuthInfo};
use tokio::{task::JoinSet, time::sleep};

use super::folder::Ports;

/// An API server, and the ways into it.
pub(super) struct Cluster {
    /// Of the administrator.
    pub(super) client: Client,
    /// Of the administrator.
    pub(super) kubeconfig: PathBuf,
    /// How others reach it.
    pub(super) reach: Reach,
    kind: Kind,
    /// Where tokens are kept.
    folder: PathBuf,
    keepers: JoinSet<()>,
}

enum Kind {
    Embedded {
        server: ApiServer,
        _listener: fairlead_apiserver::Handle,
    },
    Real(Box<Config>),
}

impl Cluster {
    /// An embedded one in `folder`; its kubeconfig becomes `kubeconfig`.
    pub(super) async fn embedded(
        folder: &Path,
        kubeconfig: PathBuf,
        durable: bool,
        ports: &mut Ports,
    ) -> anyhow::Result<Self> {
        let server = ApiServer::builder()
            .allow_loopback_endpoints(true)
            .data_dir(folder)
            .durable(durable)
            .build()
            .await?;
        let listen = async |port| {
            let addr = ([127, 0, 0, 1], port).into();
            server.serve(addr, Security::Tls).await
        };
        let listener = ports
            .open("api", listen, |listener| listener.addr().port())
            .await?;
        write_secret(&kubeconfig, listener.kubeconfig())?;
        let reach = Reach {
            url: format!("https://{}", listener.addr()),
            bundle: Some(server.ca_pem().to_owned()),
        };
        Ok(Self {
            client: server.client(),
            kubeconfig,
            reach,
            kind: Kind::Embedded {
                server,
                _listener: listener,
            },
            folder: folder.to_owned(),
            keepers: JoinSet::new(),
        })
    }

    /// A real one; tokens are kept in `folder`.
    pub(super) async fn real(folder: &Path, kubeconfig: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let bad = || format!("kubeconfig {}", kubeconfig.display());
        let config = app::kube_config(Some(kubeconfig)).await?;
        let client = Client::try_from(config.clone()).with_context(bad)?;
        client.apiserver_version().await.with_context(|| {
            format!(
                "the API server of kubeconfig {} at {} does not answer",
                kubeconfig.display(),
                config.cluster_url
            )
        })?;
        let url = config.cluster_url.to_string();
        let reach = Reach {
            url: url.trim_end_matches('/').to_owned(),
            bundle: config.root_cert.as_deref().map(app::pem),
        };
        Ok(Self {
            client,
            kubeconfig: kubeconfig.to_owned(),
            reach,
            kind: Kind::Real(Box::new(config)),
            folder: folder.to_owned(),
            keepers: JoinSet::new(),
        })
    }

    /// A client with the rights of a ServiceAccount of `fairlead-system` and no others.
    pub(super) async fn client_as(&mut self, account: &str) -> anyhow::Result<Client> {
        let config = match &self.kind {
            Kind::Embedded { server, .. } => {
                let groups = ["system:serviceaccounts"];
                return Ok(server.client_as(&manifests::user(account), groups));
            }
            Kind::Real(config) => Config::clone(config),
        };
        let path = self.folder.join(format!("{account}.token"));
        write_secret(&path, &token(&self.client, account).await?)?;
        let mut own = config;
        own.auth_info = AuthInfo {
            token_file: Some(path.display().to_string()),
            ..AuthInfo::default()
        };
        let (client, account) = (self.client.clone(), account.to_owned());
        self.keepers.spawn(async move {
            loop {
                sleep(RENEWAL).await;
                let renewed = async { write_secret(&path, &token(&client, &account).await?) };
                if let Err(error) = renewed.await {
                    tracing::warn!(%error, account, "the token is not renewed");
                }
            }
        });
        Ok(Client::try_from(own)?)
    }

    /// Whether it is a real one.
    pub(super) fn is_real(&self) -> bool {
        matches!(self.kind, Kind::Real(_))
    }

    /// Ends an embedded one; a real one goes on.
    pub(super) async fn stop(mut self) {
        self.keepers.shutdown().await;
        if let Kind::Embedded { server, .. } = self.kind {
            server.shutdown().await;
        }
    }
}

/// For this user's eyes only.
pub(super) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&part)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&part, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

async fn token(client: &Client, account: &str) -> anyhow::Result<String> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("a token of ServiceAccount {account}"))?;
    let token = answer.status.and_then(|status| status.token);
    token.context("the API server made no token")
}

/// An hour, renewed three times in it.
const TOKEN_SECONDS: i64 = 3600;
const RENEWAL: Duration = Duration::from_secs(20 * 60);
