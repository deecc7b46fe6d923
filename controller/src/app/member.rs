//! A process around a member's agent: settings in, signals and exits out.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use fairlead_runtime::{
    admin,
    clock::Clock,
    signals::{Request, Signals},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

use super::kube_config;
use crate::{
    agent::{self, AgentConfig, AgentHandle, Credentials, Keeper, Port, invitation::Invitation},
    manifests,
    settings::MemberFlags,
};

/// Runs a member's agent until it is asked to stop, or one of its tasks ends.
pub async fn run_member(
    flags: &MemberFlags,
    admin: SocketAddr,
    clock: Clock,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signals cannot be received")?;
    let local = local_client(flags).await?;
    // Before anything is written anywhere: a port that is taken stops here.
    let admin = admin::Server::bind(admin, false)?;
    let keeper = flags
        .secret
        .as_ref()
        .map(|name| Keeper::new(local.clone(), name));
    let standing = standing(flags, &local, keeper.as_ref());
    let credentials = tokio::select! {
        credentials = standing => credentials?,
        () = asked_to_leave(&mut signals) => return Ok(()),
    };
    let member = credentials.member().await?;
    let mut downward = credentials.downward(&flags.data);
    downward.port = flags.listen.map(|addr| Port {
        addr,
        names: flags.names.clone(),
        publish: flags.publish,
    });
    let mut agent = agent::run(AgentConfig {
        member: member.clone(),
        local,
        hub: credentials.client().await?,
        properties_pods: flags.properties_pods,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        clock,
        downward: Some(downward),
    });
    let status = agent.status().context("the agent has its downward half")?;
    tracing::info!(member, hub = credentials.hub(), admin = %admin.addr(), "the agent runs");
    let pages = admin.serve(status.pages());
    let storing = async {
        match keeper {
            Some(keeper) => keeper.keep(credentials.clone()).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        () = pages => Err(anyhow::anyhow!("the admin server ended")),
        ended = credentials.clone().keep() => failed("credentials", ended),
        ended = storing => failed("the Secret", ended),
        exit = agent.ended() => Err(anyhow::anyhow!("a part of the agent ended, so all of it does: {exit}")),
        () = asked_to_leave(&mut signals) => Ok(()),
    };
    stop(agent).await;
    outcome
}

async fn local_client(flags: &MemberFlags) -> anyhow::Result<Client> {
    let mut config = kube_config(flags.kubeconfig.as_deref()).await?;
    if flags.as_agent {
        config.auth_info.impersonate = Some(manifests::user(manifests::AGENT_ACCOUNT));
        config.auth_info.impersonate_groups = Some(vec![
            "system:serviceaccounts".to_owned(),
            "system:authenticated".to_owned(),
        ]);
    }
    Client::try_from(config).context("the member's API server cannot be used")
}

/// The standing with the hub: what an earlier run left, else by invitation.
async fn standing(
    flags: &MemberFlags,
    local: &Client,
    keeper: Option<&Keeper>,
) -> anyhow::Result<Credentials> {
    let mut invitation = flags.invitation.clone();
    if let Some(keeper) = keeper {
        let stored = keeper.restore(&flags.data).await;
        let stored = stored.map_err(|error| anyhow::anyhow!("{error}"))?;
        invitation = stored.or(invitation);
    }
    if let Some(credentials) = Credentials::open(&flags.data).await? {
        match credentials.exchange().await {
            Ok(_) => return Ok(credentials),
            // The hub says no to what is stored, and there is a new way in.
            Err(error) if error.is_refusal() && invitation.is_some() => {
                tracing::warn!(%error, "what is stored is not good any more; joining anew");
            }
            Err(error) if error.is_refusal() => bail!(
                "{error}; this member was taken out or its certificate is void: join anew with \
                 --invitation, which `fairlead join` prints on the hub"
            ),
            Err(error) => {
                tracing::warn!(%error, "going on with what is stored until the hub is back");
                return Ok(credentials);
            }
        }
    }
    let Some(line) = invitation else {
        bail!(
            "{} holds no membership; give the line that `fairlead join NAME` prints on the hub: \
             --invitation LINE",
            flags.data.display()
        );
    };
    join(&flags.data, &line, local, keeper).await
}

async fn join(
    data: &Path,
    line: &str,
    local: &Client,
    keeper: Option<&Keeper>,
) -> anyhow::Result<Credentials> {
    let invitation = Invitation::decode(line)?;
    let namespaces = Api::<Namespace>::all(local.clone());
    let system = namespaces
        .get("kube-system")
        .await
        .context("the member's API server")?;
    let uid = system.metadata.uid.unwrap_or_default();
    ensure!(!uid.is_empty(), "namespace kube-system has no UID");
    let credentials = Credentials::join(data, &invitation, &uid).await?;
    credentials.exchange_first(JOIN_PATIENCE).await?;
    if let Some(keeper) = keeper {
        let stored = keeper.store(&credentials).await;
        stored.map_err(|error| anyhow::anyhow!("the standing cannot be stored: {error}"))?;
    }
    tracing::info!(member = invitation.member(), "joined");
    Ok(credentials)
}

async fn asked_to_leave(signals: &mut Signals) {
    while signals.next().await != Request::Leave {}
}

fn failed(what: &str, ended: Result<(), fairlead_runtime::tasks::TaskError>) -> anyhow::Result<()> {
    match ended {
        Ok(()) => bail!("{what} is kept no longer"),
        Err(error) => bail!("{what}: {error}"),
    }
}

async fn stop(agent: AgentHandle) {
    if tokio::time::timeout(STOP_TIMEOUT, agent.stop())
        .await
        .is_err()
    {
        tracing::warn!("the agent did not stop in time");
    }
}

/// How long the hub may take to prepare a member.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Nothing here takes long.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
