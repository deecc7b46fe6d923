//! The hub of `up`: its API server and the hub itself, in this process.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use fairlead_api::{proxy::ProxyGroup, service::MultiClusterService};
use fairlead_config::name::MemberName;
use fairlead_controller::{
    agent::invitation::Invitation,
    hub::{self, HubConfig},
    identity,
    join::{
        self,
        io::{make_proxy_token, make_token},
    },
    world::Settings,
};
use fairlead_runtime::clock::Clock;
use kube::{Api, Client};

use super::{
    Options,
    block::Block,
    cluster::Cluster,
    folder::{Folder, Ports, Shape},
    objects::{self, GROUP, ServiceName},
    wait,
};

/// The running hub.
pub(super) struct Hub {
    pub(super) cluster: Cluster,
    config: HubConfig,
    /// Absent only while it restarts, or when that failed.
    handle: Option<hub::Handle>,
    addr: SocketAddr,
}

/// Where clients connect to a service: its first TCP and its first UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tcp: Option<SocketAddr>,
    pub(super) udp: Option<SocketAddr>,
}

impl Hub {
    /// Starts it in the fleet's folder.
    pub(super) async fn start(
        options: &Options,
        folder: &Folder,
        shape: Shape,
        block: &Block,
    ) -> anyhow::Result<Self> {
        let own = folder.path.join("hub");
        let mut ports = Ports::read(&own)?;
        let mut cluster = match &options.hub_kubeconfig {
            Some(real) => Cluster::real(&own, real).await,
            None => {
                let kubeconfig = folder.path.join("hub.kubeconfig");
                Cluster::embedded(&own, kubeconfig, folder.is_kept(), &mut ports).await
            }
        }
        .context("the hub's API server")?;
        objects::install_crds(&cluster.client).await?;
        objects::put_all(&cluster.client, &identity::of_hub()).await?;
        objects::put_hub(&cluster.client, &options.services(), shape.address, block).await?;
        let config = HubConfig {
            client: cluster.client_as(identity::HUB_ACCOUNT).await?,
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            tls: true,
            replica: "up".to_owned(),
            api_server: Some(cluster.reach.clone()),
            settings: Settings {
                allow_loopback: !cluster.is_real(),
                ..Settings::default()
            },
            clock: Clock::system(),
        };
        let (handle, config) = open(config, &mut ports).await?;
        Ok(Self {
            cluster,
            config,
            addr: handle.addr,
            handle: Some(handle),
        })
    }

    /// `host:port` for agents and proxies.
    pub(super) fn address(&self) -> String {
        self.addr.to_string()
    }

    /// What its certificate is checked against.
    pub(super) fn bundle(&self) -> String {
        self.handle
            .as_ref()
            .and_then(hub::Handle::bundle)
            .unwrap_or_default()
    }

    /// An invitation for a member.
    pub(super) async fn invite(&self, member: &MemberName) -> anyhow::Result<Invitation> {
        let token = make_token(self.client(), &self.config.clock, member).await?;
        Ok(Invitation {
            hub: self.address(),
            token,
            bundle: self.bundle(),
        })
    }

    /// A token for the proxy, good for a day.
    pub(super) async fn proxy_token(&self) -> anyhow::Result<join::Token> {
        Ok(make_proxy_token(self.client(), GROUP, PROXY_TOKEN).await?)
    }

    /// Waits until a service has its frontends, and says where.
    pub(super) async fn endpoint(&self, service: &ServiceName) -> anyhow::Result<Endpoint> {
        let groups = Api::<ProxyGroup>::all(self.client().clone());
        let (namespace, name) = (&service.namespace, &service.name);
        let services = Api::<MultiClusterService>::namespaced(self.client().clone(), namespace);
        let prefix = format!("{namespace}/{name}:");
        wait::until(&format!("{service} to get frontends"), async || {
            let group = groups.get(GROUP).await?;
            let frontends = group.status.unwrap_or_default().frontends;
            let find = |protocol: &str| {
                let mut own = frontends.iter().filter(|one| one.protocol == protocol);
                let found = own.find(|one| one.service.starts_with(&prefix))?;
                let ip = group.spec.addresses.first()?.parse().ok()?;
                Some(SocketAddr::new(ip, u16::try_from(found.port).ok()?))
            };
            let endpoint = Endpoint {
                tcp: find("TCP"),
                udp: find("UDP"),
            };
            let object = services.get(name).await?;
            let status = object.status.unwrap_or_default();
            // All ports of a service get their frontends at once.
            if !status.frontends.is_empty() && (endpoint.tcp.or(endpoint.udp)).is_some() {
                return Ok(Ok(endpoint));
            }
            let why = status.conditions.iter().map(|one| one.message.as_str());
            Ok(Err(why.collect::<Vec<_>>().join("; ")))
        })
        .await
    }

    /// Stops the hub and starts it again, on the same port. Its API server goes on.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        let again = HubConfig {
            listen: self.addr,
            ..self.config.clone()
        };
        if let Some(handle) = self.handle.take() {
            handle.stop().await;
        }
        self.handle = Some(hub::run(again).await.context("the hub")?);
        Ok(())
    }

    /// Waits for the end of the hub, which should not come.
    pub(super) async fn exit(&mut self) -> String {
        let Some(handle) = &mut self.handle else {
            return "it could not be restarted".to_owned();
        };
        let exit = handle.exit().await;
        format!("{}: {}", exit.name, exit.failure.unwrap_or_default())
    }

    /// Stops everything.
    pub(super) async fn stop(self) {
        if let Some(handle) = self.handle {
            handle.stop().await;
        }
        self.cluster.stop().await;
    }

    fn client(&self) -> &Client {
        &self.cluster.client
    }
}

/// Runs it at the port of the last time, if that can be had.
async fn open(config: HubConfig, ports: &mut Ports) -> anyhow::Result<(hub::Handle, HubConfig)> {
    let run = async |port| {
        let mut config = config.clone();
        config.listen.set_port(port);
        hub::run(config).await
    };
    let handle = ports
        .open("streams", run, |handle| handle.addr.port())
        .await;
    Ok((handle.context("the hub")?, config))
}

/// A day; the fleet renews it in time.
const PROXY_TOKEN: Duration = Duration::from_secs(24 * 3600);
