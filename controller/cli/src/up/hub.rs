//! The hub of `up`: its API server and the hub itself, in this process.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, ensure};
use fairlead_api::{proxy::ProxyGroup, service::MultiClusterService};
use fairlead_apiserver::{ApiServer, Security};
use fairlead_config::name::MemberName;
use fairlead_controller::{
    agent::invitation::Invitation,
    hub::{self, HubConfig},
    identity,
    join::{
        self, ApiServer as HubApi,
        io::{make_proxy_token, make_token},
    },
    manifests,
    world::Settings,
};
use fairlead_runtime::clock::Clock;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use super::{
    Options, START_PATIENCE,
    objects::{self, GROUP, NAMESPACE, POLL, SERVICE},
};

/// The running hub.
pub(super) struct Hub {
    server: ApiServer,
    _listener: fairlead_apiserver::Handle,
    handle: hub::Handle,
    clock: Clock,
    /// The administrator's kubeconfig.
    pub(super) kubeconfig: std::path::PathBuf,
}

/// Where clients connect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint {
    pub(super) tcp: SocketAddr,
    pub(super) udp: SocketAddr,
}

impl Hub {
    /// Starts it in `folder`.
    pub(super) async fn start(options: &Options, folder: &Path) -> anyhow::Result<Self> {
        let data = folder.join("hub");
        let server = ApiServer::builder()
            .allow_loopback_endpoints(true)
            .data_dir(&data)
            .durable(options.data.is_some())
            .build()
            .await
            .context("the hub's API server")?;
        let listener = server
            .serve(([127, 0, 0, 1], 0).into(), Security::Tls)
            .await?;
        let kubeconfig = folder.join("hub.kubeconfig");
        std::fs::write(&kubeconfig, listener.kubeconfig())?;
        objects::install_crds(&server.client()).await?;
        objects::put_all(&server.client(), &identity::of_hub()).await?;
        objects::put_all(
            &server.client(),
            &objects::of_hub(options.address, options.port),
        )
        .await?;
        let clock = Clock::system();
        let account = manifests::user(identity::HUB_ACCOUNT);
        let config = HubConfig {
            client: server.client_as(&account, ["system:serviceaccounts"]),
            listen: ([127, 0, 0, 1], 0).into(),
            names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            tls: true,
            replica: "up".to_owned(),
            api_server: Some(HubApi {
                url: format!("https://{}", listener.addr()),
                bundle: Some(server.ca_pem().to_owned()),
            }),
            settings: Settings {
                allow_loopback: true,
                ..Settings::default()
            },
            clock: clock.clone(),
        };
        let handle = hub::run(config).await.context("the hub")?;
        Ok(Self {
            server,
            _listener: listener,
            handle,
            clock,
            kubeconfig,
        })
    }

    /// The administrator's client.
    pub(super) fn client(&self) -> Client {
        self.server.client()
    }

    /// `host:port` for agents and proxies.
    pub(super) fn address(&self) -> String {
        self.handle.addr.to_string()
    }

    /// What its certificate is checked against.
    pub(super) fn bundle(&self) -> String {
        self.handle.bundle().unwrap_or_default()
    }

    /// An invitation for a member.
    pub(super) async fn invite(&self, member: &MemberName) -> anyhow::Result<Invitation> {
        let token = make_token(&self.client(), &self.clock, member).await?;
        Ok(Invitation {
            hub: self.address(),
            token,
            bundle: self.bundle(),
        })
    }

    /// A token for the proxy, good for a day; the process renews it long before.
    pub(super) async fn proxy_token(&self) -> anyhow::Result<join::Token> {
        Ok(make_proxy_token(&self.client(), GROUP, PROXY_TOKEN).await?)
    }

    /// Waits until the sample service has its frontends, and says where.
    pub(super) async fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let groups = Api::<ProxyGroup>::all(self.client());
        let services = Api::<MultiClusterService>::namespaced(self.client(), NAMESPACE);
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let group = groups.get(GROUP).await?;
            let frontends = group
                .status
                .map(|status| status.frontends)
                .unwrap_or_default();
            let find = |protocol: &str| {
                let found = frontends.iter().find(|one| one.protocol == protocol)?;
                let ip = group.spec.addresses.first()?.parse().ok()?;
                Some(SocketAddr::new(ip, u16::try_from(found.port).ok()?))
            };
            if let (Some(tcp), Some(udp)) = (find("TCP"), find("UDP")) {
                return Ok(Endpoint { tcp, udp });
            }
            if Instant::now() > deadline {
                let seen = services.get(SERVICE).await?.status;
                ensure!(
                    false,
                    "the sample service got no frontend; its status: {seen:?}"
                );
            }
            sleep(POLL).await;
        }
    }

    /// Waits for the end of the hub, which should not come.
    pub(super) async fn exit(&mut self) -> String {
        let exit = self.handle.exit().await;
        format!("{}: {}", exit.name, exit.failure.unwrap_or_default())
    }

    /// Stops everything.
    pub(super) async fn stop(self) {
        self.handle.stop().await;
        self.server.shutdown().await;
    }
}

/// A day; renewed at half.
const PROXY_TOKEN: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
